"""The model of --like: which one made a picture, by the record in its file, and whether what was loaded is the same."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, get_args

from moebius.errors import UsageError
from moebius.weights.published import FOLDERS, NANO, UNET_REPO

if TYPE_CHECKING:
    from moebius.inpaint.inpainter import Inpainter

NETS = {"unet": "UNet", "vae": "VAE"}


def take_same_model(args: argparse.Namespace, record: Mapping[str, Any]) -> None:
    """Sets the options of the model to the one that made a picture, where it can be had again and the options name none.

    The record came with a file: nothing in it is more than a name to look up. `load_model` compares what is then loaded.
    """
    args.like_record = record
    args.like_chosen = args.model is None and args.synthetic is None
    if not args.like_chosen:
        return
    unet, vae = source_of(record, "unet"), source_of(record, "vae")
    model = record.get("model")
    if unet.get("synthetic") in ("tiny", "full"):
        args.synthetic = unet["synthetic"]
    elif unet.get("packaged") == NANO:
        args.model = NANO
    elif unet.get("repo") == UNET_REPO and isinstance(model, str) and model in FOLDERS:
        args.model = model
        if args.revision is None and re.fullmatch("[0-9a-f]{40}", str(unet.get("commit"))):
            args.revision = unet["commit"]
        if "path" in vae and args.vae is None:
            raise UsageError(
                f"{args.like} was made with a VAE of a file, {words(vae['path'])}{digest_of(record, 'vae')}; say where with --vae."
            )
    else:
        file = words(unet["path"]) if "path" in unet else words(model) if model else "an unnamed model"
        raise UsageError(f"{args.like} was made with {file}{digest_of(record, 'unet')}; say where that is with --model.")


def take_same_precision(args: argparse.Namespace, record: Mapping[str, Any]) -> None:
    """Sets the precision to the one that made a picture, where the options name none."""
    from moebius.model.contract import Precision

    if args.precision is None and record.get("precision") in get_args(Precision):
        args.precision = record["precision"]


def compare_model(args: argparse.Namespace, model: Inpainter, say: Callable[..., None]) -> None:
    """Whether the model at hand is the one that --like wants, by the digests of its networks (of made weights, by their seeds): if not, an
    error, or where the options themselves name the model, a word."""
    record = args.like_record
    wanted, had = facts(record), facts(model.identity)
    if not wanted:
        say(f"{args.like} does not say which weights made it, so whether these are the same cannot be told.")
        return
    differ = [net for net in NETS if wanted.get(net) != had.get(net)]
    if not differ:
        return
    which = " and ".join(f"{NETS[net]}{digest_of(record, net)}" for net in differ)
    now = ", ".join(model.digests[net][:12] for net in differ if net in model.digests) or model.model
    if args.like_chosen:
        raise UsageError(
            f"{args.like} cannot be made again with the model of its name: it was made with another {which}; there is {now}. "
            "Give the weights that made it with --model (and --vae), or name this model with --model to go on with it."
        )
    say(f"{args.like} was made with another {which}; this model has {now}. The settings alone are the same.")


def facts(record: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the values of each network's weights: a digest, or how they were made."""
    weights = record.get("weights")
    if isinstance(weights, Mapping) and weights:
        return {net: weights.get(net) for net in NETS}
    made = {net: source_of(record, net) for net in NETS}
    return made if all("synthetic" in source for source in made.values()) else {}


def source_of(record: Mapping[str, Any], net: str) -> Mapping[str, Any]:
    sources = record.get("source")
    source = sources.get(net) if isinstance(sources, Mapping) else None
    return source if isinstance(source, Mapping) else {}


def digest_of(record: Mapping[str, Any], net: str) -> str:
    weights = record.get("weights")
    digest = weights.get(net) if isinstance(weights, Mapping) else None
    return f" (digest {words(digest)[:14]}…)" if isinstance(digest, str) else ""


def words(text: Any) -> str:
    """What a file says, fit for a terminal."""
    return ascii(str(text)[:100]).strip("'")
