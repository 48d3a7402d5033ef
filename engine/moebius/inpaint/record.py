"""The record of what made a picture: the settings and the model, from which the same can be made again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import moebius
from moebius.inpaint.settings import Settings
from moebius.pictures.metadata import as_json

if TYPE_CHECKING:
    from moebius.inpaint.loaded import LoadedModel

CIRCUMSTANCES = ("device", "timings", "source")  # of a run; all else in its record says which picture it makes


def resolved(settings: Settings, model: LoadedModel) -> Settings:
    """With the model's own blend and detail, where they name none."""
    blend = settings.blend or ("paste" if settings.crop == "upstream" else model.blend)
    detail = 0.0 if blend != "match" else model.detail if settings.detail is None else settings.detail
    return replace(settings, blend=blend, detail=detail)


def record(model: LoadedModel, settings: Settings, noise: Iterable[str] = ()) -> dict[str, Any]:
    """What is known before a run with these settings, `resolved`; `noise` are the names of the draws that the seed does not decide."""
    return {
        "version": moebius.__version__,
        **model.identity,
        "device": model.device,
        "precision": model.precision,
        **asdict(settings),
        **({"noise": sorted(noise)} if noise else {}),
    }


def of_image(record: dict[str, Any], index: int) -> dict[str, Any]:
    """The record of one picture of a run: it can be made alone."""
    return record | {"seed": record["seed"] + index, "num_images": 1}


def differing(made: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Of two records, one read from a file, what they differ in besides the circumstances: none for the same picture, or for one that was
    made in f32 where f16 is wanted, as it is where f16 overflows."""
    wanted = json.loads(as_json(wanted))  # as a file would have it
    keys = [key for key in {**wanted, **made} if key not in CIRCUMSTANCES]
    found = [key for key in keys if key not in made or key not in wanted or made[key] != wanted[key]]
    return [key for key in found if (key, made.get(key)) != ("precision", "f32")]
