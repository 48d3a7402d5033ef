"""Every intermediate tensor of the UNet against PyTorch: where do two implementations part, and by how much?

    python examples/tensors.py [ADAPTER]             a WebGPU adapter's name (the best one); cpu is NumPy in float32

Needs PyTorch, and a checkout: the network in PyTorch is benchmarks/peers/torch_moebius.py. Both get the same weights, made from a seed.
"""

import sys
from pathlib import Path

import numpy as np

try:
    import torch
except ImportError:
    sys.exit("This example needs PyTorch: pip install torch")

from moebius import CPU, UNet, UNetConfig, WebGPU, synthetic, unet

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
from peers import torch_moebius

config = UNetConfig.tiny()
weights = synthetic(unet.shapes(config), seed=0)
x = np.random.default_rng(0).standard_normal((2, config.in_channels, config.sample_size, config.sample_size), dtype=np.float32)
ids = np.array([range(10, 20), range(10)])

ours: dict[str, np.ndarray] = {}  # by the module's path in the checkpoint
backend = CPU() if sys.argv[1:] == ["cpu"] else WebGPU(*sys.argv[1:])
UNet(config, weights, backend)(x, t=500, ids=ids, tap=ours.__setitem__)

theirs: dict[str, np.ndarray] = {}
inside = {"bn1": torch.relu, "inverted_conv": torch.nn.functional.silu}  # our tap sees these modules with their activation, as published


def keep(path: str, out: torch.Tensor) -> None:
    theirs[path] = inside.get(path.rpartition(".")[2], torch.clone)(out).numpy()


net = torch_moebius.TorchUNet(config)
torch_moebius.load(net, weights)
for path, module in net.named_modules():
    module.register_forward_hook(lambda _, args, out, path=path: keep(path, out))
with torch.inference_mode():
    net(torch.from_numpy(x), 500, torch.from_numpy(ids))

print(f"{'relative L2':>11}  {'largest':>9}  module, on {backend}")
errors: dict[str, float] = {}
for path in ours.keys() & theirs.keys():
    a, b = ours[path], theirs[path]
    if a.shape == b.shape:
        errors[path] = np.linalg.norm(a - b) / np.linalg.norm(b)
for path in (path for path in ours if path in errors):  # in the order they are computed
    print(f"{errors[path]:11.1e}  {np.abs(ours[path] - theirs[path]).max():9.1e}  {path}")
worst = max(errors, key=lambda path: errors[path])
print(f"{len(errors)} modules; the furthest apart is {worst}, by {errors[worst]:.1e}")
