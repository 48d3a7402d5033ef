"""How a model is loaded, in words that can be sent to another machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from moebius.weights.published import NANO

if TYPE_CHECKING:
    from moebius.inpaint.inpainter import Inpainter
    from moebius.model.contract import Ops


@dataclass(frozen=True)
class Recipe:
    """The arguments of `Inpainter.from_pretrained`, or the size of a model of made weights ("tiny", "full")."""

    model: Any = NANO
    vae: Any = None
    revision: str | None = None
    synthetic: str | None = None
    device: dict[str, Any] = field(default_factory=dict)  # the arguments of `open_device`
    low_memory: bool = False

    def on(self, **device: Any) -> Recipe:
        """The same on another device."""
        return replace(self, device={**self.device, **device})

    def load(self, progress: Callable[[str, int, int | None], None] | None = None) -> Inpainter:
        from moebius.inpaint.device import open_device, unmet
        from moebius.inpaint.inpainter import Inpainter

        if self.synthetic:
            model = made(self.synthetic, open_device(**self.device))
            model.notes += unmet(self.device.get("precision", "auto"), model.unet.ops)
            model.low_memory = self.low_memory
            return model
        on: dict[str, Any] = {**self.device, "low_memory": self.low_memory}
        return Inpainter.from_pretrained(self.model, vae=self.vae, revision=self.revision, progress=progress, **on)


def made(size: str, ops: Ops) -> Inpainter:
    """Weights from a seed, in the shapes of the tiny or the full model."""
    from moebius.inpaint.inpainter import Inpainter
    from moebius.model.synthetic import synthetic
    from moebius.model.unet import UNet, UNetConfig
    from moebius.model.unet import shapes as unet_shapes
    from moebius.model.vae import VAE, VAEConfig
    from moebius.model.vae import shapes as vae_shapes

    small = size == "tiny"
    unet_config = UNetConfig.tiny() if small else UNetConfig.full()
    vae_config = VAEConfig.tiny() if small else VAEConfig.full()
    unet = UNet(unet_config, synthetic(unet_shapes(unet_config), 0), ops)
    vae = VAE(vae_config, synthetic(vae_shapes(vae_config), 0), ops)
    source = {"synthetic": size, "seed": "0"}
    return Inpainter(unet, vae, model=f"synthetic {size}", sources={"unet": source, "vae": source})
