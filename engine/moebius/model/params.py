"""A checkpoint's parameters: views below a path, the strict check against a model's shapes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Self
from weakref import WeakKeyDictionary

import numpy as np

from moebius.errors import WeightError
from moebius.model import checks

Shapes = dict[str, tuple[int, ...]]


class Checkpoint(Mapping[str, np.ndarray]):
    """A model's parameters by name, and beside them what each backend made of them: it goes when they go."""

    def __init__(self, weights: Mapping[str, np.ndarray]) -> None:
        self._weights = weights
        self._finite: set[str] = set()
        self.derived: WeakKeyDictionary[Any, dict[Any, Any]] = WeakKeyDictionary()

    def __getitem__(self, name: str) -> np.ndarray:
        return self._weights[name]

    def finite(self, name: str) -> np.ndarray:
        """A parameter that was tested for NaN and infinities when it was first taken: files are tested as they are loaded, but what a
        caller hands in is not."""
        array = self._weights[name]
        if name not in self._finite:
            checks.check_parameter(array, name)
            self._finite.add(name)
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)

    __eq__ = object.__eq__
    __hash__ = object.__hash__


class Params:
    """The parameters below one path of a checkpoint: `p["conv1.weight"]`, `p.at("conv1")["weight"]`."""

    __slots__ = ("path", "root")

    def __init__(self, root: Checkpoint, path: str = "") -> None:
        self.root, self.path = root, path

    def at(self, path: str) -> Self:
        return type(self)(self.root, self._join(path))

    def __getitem__(self, name: str) -> np.ndarray:
        return self.root[self._join(name)]

    def get(self, name: str) -> np.ndarray | None:
        return self.root.get(self._join(name))

    def finite(self, name: str) -> np.ndarray:
        """`self[name]`, as `Checkpoint.finite` gives it."""
        return self.root.finite(self._join(name))

    def _join(self, name: str) -> str:
        return f"{self.path}.{name}" if self.path else name


class Finite(Params):
    """The same parameters, each known to be finite, and none narrower than float32: sums of what a file holds in f16 are none of f16."""

    __slots__ = ()

    def __getitem__(self, name: str) -> np.ndarray:
        array = self.finite(name)
        return array.astype(np.float32) if array.dtype == np.float16 else array


class ShapeOnly(Mapping[str, np.ndarray]):
    """Stands in for weights where only shapes matter (`moebius plan`): zero-stride arrays that take no memory."""

    def __init__(self, shapes: Shapes) -> None:
        self._shapes = shapes

    def __getitem__(self, name: str) -> np.ndarray:
        return np.broadcast_to(np.float32(0), self._shapes[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


def check(weights: Mapping[str, np.ndarray], shapes: Shapes, model: str) -> Checkpoint:
    """Refuses weights that are not exactly `shapes`; entries ending in num_batches_tracked carry nothing and may be absent."""
    present = {k for k in weights if not k.endswith("num_batches_tracked")}
    missing, unexpected, both = sorted(shapes.keys() - present), sorted(present - shapes.keys()), sorted(present & shapes.keys())
    wrong = [f"{k} is {tuple(weights[k].shape)}, not {shapes[k]}" for k in both if tuple(weights[k].shape) != shapes[k]]
    types = [f"{k} is {weights[k].dtype}" for k in both if weights[k].dtype.kind != "f"]
    problems = [
        f"{len(names)} {what}: {', '.join(names[:3])}{', …' if len(names) > 3 else ''}"
        for what, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of the wrong shape", wrong),
            ("not floating point", types),
        )
        if names
    ]
    if problems:
        raise WeightError(f"These weights do not fit the {model}: {'; '.join(problems)}. Check that checkpoint and config belong together.")
    return Checkpoint(weights)
