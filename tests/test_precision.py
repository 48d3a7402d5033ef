"""Which precision a picture is made in, and what happens where f16 does not hold its numbers."""

from __future__ import annotations

import gc
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from batch_cases import SMALL_UNET, SMALL_VAE, mask, picture

from moebius.backends.cpu import CPU
from moebius.backends.webgpu import WebGPU
from moebius.errors import NonFiniteError
from moebius.inpaint.inpainter import Inpainter
from moebius.inpaint.loaded import OVERFLOWED
from moebius.inpaint.preview import Preview
from moebius.inpaint.record import differing
from moebius.inpaint.run import Run
from moebius.inpaint.together import sampled
from moebius.many.jobs import Job
from moebius.many.worker import Options, Worker
from moebius.model.contract import Precision
from moebius.model.params import Checkpoint
from moebius.model.synthetic import synthetic
from moebius.model.unet import UNet
from moebius.model.unet import shapes as unet_shapes
from moebius.model.vae import VAE
from moebius.model.vae import shapes as vae_shapes
from moebius.pictures.metadata import read_metadata
from moebius.serve.batching import Batching
from moebius.serve.service import Service

PHOTO = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
BOX = [(5, 5, 12, 12)]
NUMBERS: dict[str, Any] = {"steps": 3, "guidance": 1.0}  # of which strength leaves two
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, on its way through a NaN
ENCODING, SAMPLING, DECODING = 3, 9, 4  # channels of what enters each network; so a stub knows which one it is in


class Half(CPU):
    """A device in f16 as far as its callers see: what enters `overflows` in this network is beyond 65504, where a picture is bright."""

    precision = "f16"

    def __init__(self, overflows: int | None = None) -> None:
        super().__init__(threads=1)
        self.overflows, self.forgotten, self.others = overflows, [], []

    def in_f32(self) -> Any:
        self.others.append(Noted())
        return self.others[-1]

    def forget(self, net: object, weights: Checkpoint) -> None:
        self.forgotten.append(net)
        super().forget(net, weights)

    def dwconv(self, x: np.ndarray, p: Any, **more: Any) -> np.ndarray:
        return self._stored(x, super().dwconv(x, p, **more))

    def conv3x3(self, x: np.ndarray, p: Any, *args: Any, **more: Any) -> np.ndarray:
        return self._stored(x, super().conv3x3(x, p, *args, **more))

    def linear(self, x: np.ndarray, p: Any, residual: np.ndarray | None = None) -> np.ndarray:
        return self._stored(x, super().linear(x, p, residual))

    def _stored(self, x: np.ndarray, made: np.ndarray) -> np.ndarray:
        made = made.copy()
        for b in range(len(x)):
            if x.shape[3] == self.overflows and self.is_too_much(x[b]):
                made[b] *= 1e9
        with np.errstate(over="ignore"):
            return made.astype(np.float16).astype(np.float32)

    def is_too_much(self, x: np.ndarray) -> bool:
        return True


class Noted(CPU):
    """The same device in f32; counts how often it is asked for its memory."""

    def __init__(self) -> None:
        super().__init__(threads=1)
        self.forgotten = 0

    def forget(self, net: object, weights: Checkpoint) -> None:
        self.forgotten += 1
        super().forget(net, weights)


class Bright(Half):
    """Overflows for some pictures: those whose masked latents have a mean above a threshold."""

    threshold = 0.0

    def is_too_much(self, x: np.ndarray) -> bool:
        return float(x[..., 5:].mean()) > self.threshold


WEIGHTS = synthetic(unet_shapes(SMALL_UNET), 0), synthetic(vae_shapes(SMALL_VAE), 0)


def model(ops: CPU | None = None) -> Inpainter:
    ops = ops or CPU(threads=1)
    return Inpainter(UNet(SMALL_UNET, WEIGHTS[0], ops), VAE(SMALL_VAE, WEIGHTS[1], ops), model="small")


@pytest.fixture(scope="module")
def wanted() -> Any:
    """The picture in f32."""
    return model()(PHOTO, BOX, **NUMBERS)


# In the order they overflow ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("where", [ENCODING, SAMPLING, DECODING], ids=["encoding", "sampling", "decoding"])
def test_a_picture_that_overflows_is_made_in_f32(wanted: Any, where: int) -> None:
    ops = Half(where)
    made = model(ops)
    with pytest.warns(UserWarning, match="overflowed f16"):
        result = made(PHOTO, BOX, **NUMBERS)
    np.testing.assert_array_equal(result.arrays[0], wanted.arrays[0])  # to the bit
    assert result.metadata["precision"] == "f32"
    assert result.notes.count(OVERFLOWED) == 1
    assert len(ops.others) == 1
    assert ops.others[0].forgotten >= 2  # what both networks took there is given back
    assert not ops.forgotten  # and what f16 took is kept for the next one


def test_where_units_overflow_it_is_made_without_them(wanted: Any) -> None:
    ops = Half(SAMPLING)
    ops.precision = "f32"
    with pytest.warns(UserWarning, match="overflowed the halves of matrix units"):
        result = model(ops)(PHOTO, BOX, **NUMBERS)
    np.testing.assert_array_equal(result.arrays[0], wanted.arrays[0])
    assert result.metadata["precision"] == "f32"


def test_one_that_does_not_is_made_in_f16(wanted: Any, recwarn: pytest.WarningsRecorder) -> None:
    ops = Half()
    result = model(ops)(PHOTO, BOX, **NUMBERS)
    assert not recwarn
    assert result.metadata["precision"] == "f16"
    assert OVERFLOWED not in result.notes
    assert not ops.others
    assert not np.array_equal(result.arrays[0], wanted.arrays[0])


def test_the_steps_begin_again(wanted: Any) -> None:
    """Whoever counts them sees each of the second try; the preview is of that model."""
    run = model(Half(SAMPLING)).steps(PHOTO, BOX, **NUMBERS)
    indexes = []
    for step in run:
        indexes.append(step.index)
        assert step.total == 2
        assert step.preview.size == (40, 40)
    assert indexes == [0, 1, 0, 1]
    assert run.notes[-1] == OVERFLOWED
    np.testing.assert_array_equal(run.result.arrays[0], wanted.arrays[0])
    assert len(run.result.raws) == 1


def test_the_preview_does_without_f16() -> None:
    """From strength 1 on nothing but the preview encodes the picture as it is."""
    ops = Half()
    run = model(ops).steps(PHOTO, BOX, strength=1, **NUMBERS)
    for step in run:
        ops.overflows = ENCODING
        assert step.preview.size == (40, 40)
        ops.overflows = None
    assert run.overflow is None
    assert [other.forgotten for other in ops.others] == [2]  # both networks' memory was given back


def test_several_seeds_and_finer_windows_too() -> None:
    photo, boxes = np.tile(PHOTO, (3, 3, 1)), [(2, 2, 100, 100)]
    settings = {**NUMBERS, "num_images": 2, "max_windows": 6, "refine": 0.5}
    with pytest.warns(UserWarning, match="overflowed"):
        got = model(Half(DECODING))(photo, boxes, **settings)
    with pytest.warns(UserWarning, match="marks"):
        want = model()(photo, boxes, **settings)
    for one, other in zip(got.arrays, want.arrays, strict=True):
        np.testing.assert_array_equal(one, other)


def test_runs_that_overflow_at_once_share_what_f32_takes() -> None:
    """What the first one has taken it gives back when nobody needs it any more; a preview beside them takes nothing from them."""
    ops = Half(ENCODING)
    made = model(ops)
    one, other = (iter(made.steps(PHOTO, BOX, **NUMBERS)) for _ in range(2))
    next(one), next(other)
    (whole,) = ops.others
    preview = Preview(made, PHOTO, np.ones(PHOTO.shape[:2], bool))
    preview._moments(np.zeros((1, 3, made.size, made.size), np.float32))
    list(one)
    assert not whole.forgotten
    list(other)
    assert whole.forgotten == 2  # by the last: of both networks
    abandoned = iter(made.steps(PHOTO, BOX, **NUMBERS))
    next(abandoned)
    del abandoned
    assert whole.forgotten == 4
    circle: Any = made.steps(PHOTO, BOX, **NUMBERS)
    circle.own = iter(circle)
    next(circle.own)
    del circle
    gc.collect()
    assert whole.forgotten == 6


def test_a_run_may_end_in_any_thread_while_another_makes_a_step() -> None:
    """As one does that is collected: its thread may have the turn that the other one waits for, with the lock in its hand."""
    ops = Half(ENCODING)
    made = model(ops)
    steps = iter(made.steps(PHOTO, BOX, **NUMBERS))
    next(steps)
    with ThreadPoolExecutor(1) as threads, made._lock:
        threads.submit(steps.close).result(timeout=60)
    assert ops.others[0].forgotten == 2
    made.close()


@pytest.mark.parametrize("stage", ["encode", "decode"])
def test_what_is_not_finite_in_f32_either_is_an_error(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ops = Half()
    shape = (1, 8, 4, 4) if stage == "encode" else (1, 3, 32, 32)
    monkeypatch.setattr(VAE, f"{stage}_each", lambda self, arrays: (np.full(shape, np.nan) for _ in arrays))
    with pytest.raises(NonFiniteError, match="moments" if stage == "encode" else "decoded picture"):
        model(ops)(PHOTO, BOX, **NUMBERS)
    assert len(ops.others) == 1


def test_of_several_at_once_the_one_at_fault_alone() -> None:
    """On threads, and sampled as one batch."""
    bright, dark = np.full_like(PHOTO, 250), np.full_like(PHOTO, 5)
    ops = Bright(SAMPLING)
    made = model(ops)

    def latents(photo: np.ndarray) -> float:
        run = made.steps(photo, BOX, **NUMBERS)
        run.begin()
        return float(run.items[0].masked.mean())

    means = latents(bright), latents(dark)
    ops.threshold = sum(means) / 2
    photos = [bright, dark] if means[0] > means[1] else [dark, bright]  # the first one overflows
    with ThreadPoolExecutor(4) as threads:
        runs = [made.steps(photo, BOX, **NUMBERS) for photo in photos * 2]
        list(threads.map(lambda run: list(run), runs))
    assert [run.result.metadata["precision"] for run in runs] == ["f32", "f16"] * 2

    together = [made.steps(photo, BOX, **NUMBERS) for photo in photos]
    for run in together:
        run.begin()
    seen = [[run is together[0] for run, _ in pairs] for pairs in sampled(together)]
    assert seen == [[True, False]] * 2 + [[True]] * 2
    assert all(run.finish() for run in together)
    for run, alone in zip(together, runs[:2], strict=True):
        np.testing.assert_array_equal(run.result.arrays[0], alone.result.arrays[0])
        assert run.result.metadata["precision"] == alone.result.metadata["precision"]


def test_of_several_at_once_what_is_not_finite_in_f32_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    made = model()
    good, bad = (made.steps(PHOTO, BOX, **NUMBERS) for _ in range(2))
    for run in (good, bad):
        run.begin()
    whole = Run.loop

    def loop(self: Run, items: Any, timesteps: Any) -> Any:
        for state in whole(self, items, timesteps):
            for item in items:
                if item in bad.items and hasattr(item, "latents"):
                    item.latents = item.latents * np.nan
            yield state
        if any(item in bad.items for item in items):
            raise NonFiniteError("a test")

    monkeypatch.setattr(Run, "loop", loop)
    failed = []
    for _ in sampled([good, bad], failed=lambda run, error: failed.append(run)):
        pass
    assert failed == [bad]
    assert good.finish()
    with pytest.raises(NonFiniteError):  # and where nobody wants to know
        for _ in sampled([good, bad]):
            pass


def test_the_server_says_it(wanted: Any) -> None:
    service = Service(model(Half(DECODING)), batch=Batching(1, "a test"))
    job = served(service)
    assert job.result is not None
    record = json.loads(job.result.headers["X-Moebius-Settings"])
    assert record["precision"] == "f32"
    assert OVERFLOWED in json.loads(job.result.headers["X-Moebius-Notes"])
    assert OVERFLOWED in service.job_facts(job)["notes"]
    assert service.model_facts()["precision"] == "f16"
    service.close()


def served(service: Service) -> Any:
    from moebius.serve.jobs import Job as Asked

    ended = threading.Event()
    job = Asked("a")
    job.run, job.format = service.model.steps(PHOTO, BOX, **NUMBERS), "png"
    job.listen(0, lambda: ended.set() if job.over else None)
    service.worker._work([job])
    assert ended.wait(240)
    return job


def test_a_batch_says_it_and_takes_it_as_made(tmp_path: Path) -> None:
    job = Job(picture(tmp_path / "a.png"), mask(tmp_path / "m.png"), tmp_path / "out.png", "a.png")
    made = model(Half(SAMPLING))
    outcome = Worker(made, Options(NUMBERS)).one(job)
    assert outcome.how == "done", outcome.error
    assert OVERFLOWED in outcome.notes
    assert read_metadata(job.out)["precision"] == "f32"
    assert Worker(made, Options(NUMBERS, resume=True)).one(job).how == "skipped"
    assert differing({"precision": "f16"}, {"precision": "f32"}) == ["precision"]


def test_a_closed_model_gives_both_back() -> None:
    ops = Half(SAMPLING)
    made = model(ops)
    for step in made.steps(PHOTO, BOX, **NUMBERS):
        if step.index == 1:
            made.close()
    assert len(ops.forgotten) >= 2
    before = ops.others[0].forgotten
    made.close()
    assert ops.others[0].forgotten > before


def test_what_a_closed_model_took_before_it_overflowed_is_given_back() -> None:
    ops = Half(DECODING)
    made = model(ops)
    for step in made.steps(PHOTO, BOX, **NUMBERS):
        if step.index == 0 and not ops.others:
            made.close()
    assert len(ops.forgotten) == 4  # by close, and at the end, of what decoding took
    assert ops.others[0].forgotten == 2


# On a GPU ---------------------------------------------------------------------------------------------------------------
def test_an_activation_beyond_65504_on_a_gpu(swiftshader: WebGPU) -> None:
    """Within a block, where halves are stored; in f32 there is room for it. SwiftShader compiles the two models' kernels soonest."""
    weights = dict(WEIGHTS[0])
    name = next(name for name in weights if name.endswith("ff.inverted_conv.conv.weight"))
    weights[name] = weights[name] * np.float32(3e3)

    def on(precision: Precision) -> Inpainter:
        ops = WebGPU(swiftshader.gpu, precision=precision)
        return Inpainter(UNet(SMALL_UNET, weights, ops), VAE(SMALL_VAE, WEIGHTS[1], ops))

    with on("f16") as half, pytest.warns(UserWarning, match="overflowed f16"):
        got = half(PHOTO, BOX, **NUMBERS)
    with on("f32") as whole:
        want = whole(PHOTO, BOX, **NUMBERS)
    assert (got.metadata["precision"], want.metadata["precision"]) == ("f32", "f32")
    np.testing.assert_array_equal(got.latents, want.latents)
    np.testing.assert_array_equal(got.arrays[0], want.arrays[0])
