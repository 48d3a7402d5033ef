"""Which pictures of a folder are filled in, with which masks, into which files; and what is ignored."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from moebius.errors import MoebiusError, UsageError
from moebius.pictures.formats import ENDINGS, HEIC_ENDINGS

PICTURES = (*ENDINGS, *HEIC_ENDINGS)
MASK = "_mask"  # behind the picture's stem, in the stem of its mask


@dataclass(frozen=True)
class Pair:
    image: Path
    mask: Path | None
    out: Path  # of the result
    problem: str = ""  # why there is no mask


@dataclass
class Found:
    pairs: list[Pair] = field(default_factory=list)
    ignored: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))  # why: which


def find(images: Path, masks: Path, out: Path, recursive: bool) -> Found:
    """The mask of a.jpg is a.* or a_mask.* in MASKS, which may be IMAGES, or MASKS itself where that is a file.

    The same in subfolders with `recursive`: the mask of x/a.jpg is in MASKS/x, its result in OUT/x.
    """
    check(images, masks, out)
    found = Found()
    together = masks.is_dir() and masks.samefile(images)
    listed = list_pictures(images, recursive, [out] if together else [out, masks], found)
    stems = {(p.parent, p.stem) for p in listed}
    beside = {p for p in listed if p.stem.endswith(MASK) and (together or (p.parent, p.stem.removesuffix(MASK)) in stems)}
    pictures = [p for p in listed if p not in beside and not (masks.is_file() and p.samefile(masks))]
    if not pictures:
        raise UsageError(f"{images} holds no picture ({', '.join(PICTURES)}){'' if recursive else '; --recursive looks into subfolders'}.")
    refuse_twins(images, pictures)
    candidates, root = sorted(beside), images
    if not together:
        found.ignored["masks beside a picture, where MASKS is another place"] += [relative(p, images) for p in candidates]
        candidates, root = [] if masks.is_file() else list_pictures(masks, recursive, [out, images], found), masks
    by_stem: dict[Path, list[Path]] = defaultdict(list)  # by the path in its folder, without ending
    for p in candidates:
        by_stem[p.relative_to(root).with_suffix("")].append(p)
    used: set[Path] = set()
    for picture in pictures:
        place = picture.relative_to(images)
        own = [masks] if masks.is_file() else of_picture(place, by_stem)
        used.update(own)
        ending = picture.suffix if picture.suffix.lower() in ENDINGS else ".png"
        found.pairs.append(Pair(picture, own[0] if len(own) == 1 else None, (out / place).with_suffix(ending), problem(own, masks)))
    found.ignored["masks without a picture"] += [relative(p, root) for p in candidates if p not in used]
    return found


def check(images: Path, masks: Path, out: Path) -> None:
    if not images.is_dir():
        raise UsageError(f"{images} is not a folder; `moebius inpaint` takes single pictures.")
    if not masks.is_file() and not masks.is_dir():
        raise UsageError(f"{masks} is neither a folder of masks nor a mask.")
    if out.exists() and any(out.samefile(p) for p in (images, masks)):
        raise UsageError(f"{out} is one of the inputs itself; give another folder for the results.")


def list_pictures(folder: Path, recursive: bool, others: Iterable[Path], found: Found) -> list[Path]:
    """The pictures of a folder in order; what else is in it goes into `found.ignored`. `others` are folders that are not gone into."""

    def unreadable(error: OSError) -> None:
        raise MoebiusError(f"{error.filename} cannot be read: {error.strerror}.")

    passed = [p for p in others if p.is_dir()]
    pictures = []
    for place, folders, names in os.walk(folder, onerror=unreadable):
        here = Path(place)
        below = [f for f in sorted(folders) if not any((here / f).samefile(p) for p in passed)]
        folders[:] = [f for f in below if recursive and not f.startswith(".")]
        if not recursive:
            found.ignored["subfolders, without --recursive"] += [relative(here / f, folder) for f in below]
        for path in sorted(here / n for n in names):
            if path.suffix.lower() not in PICTURES:
                found.ignored["not pictures"].append(relative(path, folder))
            elif path.name.startswith("."):
                found.ignored["hidden"].append(relative(path, folder))
            elif not path.is_file():
                found.ignored["not files"].append(relative(path, folder))
            else:
                pictures.append(path)
    return pictures


def refuse_twins(images: Path, pictures: list[Path]) -> None:
    """Masks and results go by the stem."""
    by_stem: dict[Path, list[Path]] = defaultdict(list)
    for p in pictures:
        by_stem[p.with_suffix("")].append(p)
    twins = [relative(stem, images) for stem, named in sorted(by_stem.items()) if len(named) > 1]
    if twins:
        raise UsageError(f"{images} holds several pictures named {', '.join(twins[:3])}; masks go by that name. Rename or move them.")


def of_picture(place: Path, by_stem: Mapping[Path, list[Path]]) -> list[Path]:
    """The masks that are named like a picture at this place in its folder."""
    stem = place.with_suffix("")
    return [*by_stem.get(stem.with_name(stem.name + MASK), []), *by_stem.get(stem, [])]


def problem(masks: list[Path], folder: Path) -> str:
    if not masks:
        return f"there is no mask of that stem in {folder}, with or without {MASK}."
    return f"it has several masks, {', '.join(p.name for p in masks)}; leave one." if len(masks) > 1 else ""


def relative(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()
