"""The contract: what every backend computes, one documented signature an op.

The model (`unet.py`, `vae.py`) is written once against these ops, and `denoise.py` against the edges round them. `Reference` keeps the
contract by definition in NumPy, `CPU` in NumPy for speed, `WebGPU` with WGSL kernels. Nothing else may differ between them.

Tensors are the backend's own type T. Their logical layout is channels-last, (B, H, W, C); the tokens of a transformer are the
pixels in row-major order. `p` is a `Params` view: the checkpoint's own parameters below one path, by their own names.
Weights keep the checkpoint's layout: a convolution is (out, in, kh, kw), a linear layer (out, in).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol, TypeVar

import numpy as np

from moebius.model.params import Checkpoint, Params

T = TypeVar("T")  # a backend's tensor: np.ndarray in NumPy, webgpu.Tensor on the GPU
T_contra = TypeVar("T_contra", contravariant=True)

# Of weights and of activations in memory, and of the operands of products; sums are float32 with both.
Precision = Literal["f32", "f16"]
Tap = Callable[[str, np.ndarray], None]
Step = Callable[..., tuple[T, T]]  # (y, *fixed, rows) → (next y, x0)

BATCH_NORM_EPS = 1e-5
MAX_STEPS = 1000  # the longest run: a step for every timestep the model was trained with
TEMB_MAX_PERIOD = 10000.0
POSITION_WINDOW = 15  # the receptive field r of the self lambda's positional part


class Timesteps(tuple[int, ...]):
    """The timesteps of a run. A GPU plan is recorded for their number and reads their values from a table."""


@dataclass(frozen=True)
class StepState:
    """After one step. The arrays, NCHW, are fetched when asked for; the first time waits for the step."""

    index: int
    t: int
    latents: Callable[[], np.ndarray]
    estimate: Callable[[], np.ndarray]  # x0, the clean latents as predicted now


class Condition:
    """The condition tokens, (B, m, D) = encoder_hid_proj(embedding_layer[ids]). They are on the host on every backend, for what depends
    on them alone is made once and becomes constants."""

    def __init__(self, ids: np.ndarray, tokens: Callable[[], np.ndarray]) -> None:
        self.ids, self._make = ids, tokens

    @cached_property
    def tokens(self) -> np.ndarray:
        return self._make()

    @property
    def key(self) -> tuple[tuple[int, ...], bytes]:
        """The same for equal ids."""
        return self.ids.shape, self.ids.astype(np.int64).tobytes()


class Edges(Protocol[T_contra]):
    """What surrounds the ops: who computes, and how arrays of the host become a run of a network and come back.

    All of it may be called from any thread. A `run`, or one step of a `loop`, is a turn: turns of one backend are taken in the order
    they were asked for, and none is held while the caller of a loop does something else between two steps.
    """

    largest_batch: int  # windows and seeds worth sampling at once, where limits allow

    @property
    def name(self) -> str:
        """What computes, in one line for people."""

    @property
    def precision(self) -> Precision:
        """What it computes in."""

    def in_f32(self) -> Ops[Any]:
        """The same device in f32 and nothing narrower: this one, where that is what it computes in."""

    def run(self, forward: Callable[..., T_contra], arrays: Sequence[np.ndarray], *args: Any, tap: Tap | None) -> np.ndarray:
        """forward(*tensors, *args) on NCHW arrays, back to an NCHW array. `tap` receives module outputs."""

    def run_each(self, forward: Callable[..., T_contra], calls: Iterable[Sequence[np.ndarray]]) -> Iterator[np.ndarray]:
        """forward(*tensors) on the arrays of each call, in order; where a device works by itself, those behind are begun before the result
        of one is waited for."""

    def loop(self, step: Step[T_contra], arrays: Sequence[np.ndarray], timesteps: Timesteps) -> Iterator[StepState]:
        """y, x0 = step(y, *fixed, rows) once for every timestep, from NCHW `arrays` = (y, *fixed).

        `rows` are the rows of the schedule a call stands for: one where steps are taken one by one, all of them where the
        step is recorded once and picks its row while it is replayed. Going on is up to the caller: a loop that is not
        iterated further has stopped, but for the one step behind that a GPU may have begun.
        """

    def rehearse(self, step: Step[T_contra], shapes: Sequence[tuple[int, ...]]) -> None:
        """Raises LimitError where `loop` would, for NCHW arrays of these shapes, and takes no memory."""

    def forget(self, net: object, weights: Checkpoint) -> None:
        """Gives back the memory that this backend took for a network: what it recorded, and what it made of the parameters."""

    def tap(self, path: str, x: T_contra, layout: str = "image") -> None:
        """Hands x to the tap of the running call: "image" as (B, C, H, W), "tokens" as (B, H·W, C)."""


class Ops(Edges[T], Protocol[T]):
    """One backend. σ(x) = 1/(1+e⁻ˣ), SiLU(x) = x·σ(x), BN uses running statistics, eps 1e-5."""

    # time and condition ------------------------------------------------------------------------------------------
    def time_embedding(self, t: Timesteps, p: Params) -> T:
        """(timesteps, 4·C0) = SiLU(linear_2(SiLU(linear_1([cos(t·f), sin(t·f)])))), f_i = exp(-ln(10000)·i/half).

        The last SiLU is the one every resnet begins with; nothing else reads the embedding."""

    def time_shift(self, temb: T, p: Params) -> T:
        """(timesteps, Cout) = Linear(temb): what a resnet adds to each channel at each timestep."""

    def condition(self, ids: np.ndarray, p: Params) -> Condition:
        """The tokens of these ids; `p` is the root of the checkpoint."""

    # convolutions ------------------------------------------------------------------------------------------------
    def linear(self, x: T, p: Params, residual: T | None = None) -> T:
        """x·Wᵀ + b + residual, per position: a Linear or a 1×1 convolution."""

    def conv3x3(self, x: T, p: Params, stride: int = 1, pad: int = 1, residual: T | None = None, inner: bool = False) -> T:
        """Dense 3×3 with bias. `pad` zeros at the top and left, as many at the bottom and right as H/stride outputs need.
        `inner` promises that linear layers alone take the result, and norms whose groups are whole fours of channels, and that it is no
        residual: it may be kept in fewer bits, those of four neighbouring channels together."""

    def upsample_conv3x3(self, x: T, p: Params, inner: bool = False) -> T:
        """conv3x3 of x enlarged twice by nearest neighbour."""

    def dwconv(self, x: T, p: Params, shift: T | None = None, residual: T | None = None) -> T:
        """DWConv: BN2(pw(ReLU(BN1(dw(x))))) (+ x when Cin = Cout) (+ shift per channel) (+ residual)."""

    def feed_forward(self, x: T, p: Params, residual: T) -> T:
        """[a, g] = depthwise 3×3 with bias of SiLU(inverted_conv x); point_conv(a·SiLU(g)) + residual."""

    # norms -------------------------------------------------------------------------------------------------------
    def group_norm(self, x: T, p: Params, groups: int, eps: float, silu: bool = False) -> T:
        """(x - mean)/sqrt(var + eps)·w + b over (H, W, C/groups); then SiLU when asked."""

    def layer_norm(self, x: T, p: Params, eps: float = 1e-5) -> T:
        """The same over C, at every position."""

    # attention ---------------------------------------------------------------------------------------------------
    def self_lambda(self, x: T, p: Params, heads: int, residual: T) -> T:
        """Q = BN(to_q x), V = BN(to_v x), K = softmax of to_k x over positions;
        λc[k,v] = Σ_m K[m,k]·V[m,v], λp[n,k,v] = b[k] + Σ_d W[k,d]·V[n+d,v] over a zero-padded 15×15 window;
        y[n,h,v] = Σ_k Q[n,h,k]·(λc[k,v] + λp[n,k,v]); + residual."""

    def cross_lambda(self, x: T, cond: Condition, p: Params, heads: int, residual: T) -> T:
        """Q = BN(to_q x), V = BN(to_v cond), K = softmax of to_k cond over the m tokens;
        λ[n,k,v] = Σ_m (K[m,k] + rel_pos_emb[n,m,k])·V[m,v]; y[n,h,v] = Σ_k Q[n,h,k]·λ[n,k,v]; + residual.
        One y for every row of cond, of which there are as many as images, or a multiple: y[i] is of x[i mod B]."""

    def attention(self, x: T, p: Params, residual: T) -> T:
        """to_out(softmax(q·kᵀ/√C)·v) + residual over all positions, one head; q, k, v linear with bias."""

    # assembling --------------------------------------------------------------------------------------------------
    def concat(self, a: T, b: T) -> T:
        """[a, b] on channels."""

    def repeat(self, x: T, copies: int) -> T:
        """x, `copies` times on the batch axis."""

    def unet_input(self, y: T, mask: T, masked: T) -> T:
        """[y, mask, masked] on channels."""

    def guided_ddim(self, eps: T, y: T, coefficients: np.ndarray, guidance: float) -> tuple[T, T]:
        """ε = u + guidance·(c - u) where eps = [u, c] on the batch axis (ε = eps when it has y's own batch);
        with this step's row (√ā_t, √(1-ā_t), √ā_p, √(1-ā_p)) of `coefficients`: x0 = (y - √(1-ā_t)·ε)/√ā_t and
        y' = √ā_p·x0 + √(1-ā_p)·ε. Returns y', x0."""


class OpByOp(Ops[T], Protocol[T]):
    """A backend whose ops can also be called by themselves, as checks do."""

    def eager(self) -> AbstractContextManager[Any]:
        """Within, single ops may be called; a result is there when it is read."""

    def tensor(self, array: np.ndarray) -> T:
        """An NCHW array as a tensor."""

    def read(self, tensor: T) -> np.ndarray:
        """A tensor's values, channels last."""
