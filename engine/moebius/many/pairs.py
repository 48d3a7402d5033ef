"""Which pictures of a folder are filled in, with which masks, into which files; and what is ignored."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from moebius.errors import UsageError
from moebius.many.jobs import Job
from moebius.many.places import Place, relative, walk
from moebius.pictures.formats import ENDINGS, HEIC_ENDINGS

PICTURES = (*ENDINGS, *HEIC_ENDINGS)
MASK = "_mask"  # behind the picture's stem, in the stem of its mask


@dataclass
class Found:
    jobs: list[Job] = field(default_factory=list)
    ignored: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))  # why: which


def find(images: Place, masks: Place, out: Place, recursive: bool) -> Found:
    """The mask of a.jpg is a.* or a_mask.* in MASKS, which may be IMAGES, or MASKS itself where that is a file.

    The same in subfolders with `recursive`: the mask of x/a.jpg is in MASKS/x, its result in OUT/x.
    """
    check(images, masks, out)
    found = Found()
    one = masks.is_file()
    together = not one and same(masks, images)
    listed = list_pictures(images, recursive, [out] if together else [out, masks], found)
    stems = {(p.parent, p.stem) for p in listed}
    beside = {p for p in listed if p.stem.endswith(MASK) and (together or (p.parent, p.stem.removesuffix(MASK)) in stems)}
    pictures = [p for p in listed if p not in beside and not (one and same(images / p, masks))]
    if not pictures:
        raise UsageError(f"{images} holds no picture ({', '.join(PICTURES)}){'' if recursive else '; --recursive looks into subfolders'}.")
    refuse_twins(images, pictures)
    candidates, root = sorted(beside), images
    if not together:
        found.ignored["masks beside a picture, where MASKS is another place"] += map(str, candidates)
        candidates, root = [] if one else list_pictures(masks, recursive, [out, images], found), masks
    by_stem: dict[PurePosixPath, list[PurePosixPath]] = defaultdict(list)  # by the path in its folder, without ending
    for p in candidates:
        by_stem[p.with_suffix("")].append(p)
    used: set[PurePosixPath] = set()
    for index, picture in enumerate(pictures):
        named = [] if one else of_picture(picture, by_stem)
        used.update(named)
        own = [masks] if one else [root / p for p in named]
        ending = picture.suffix if picture.suffix.lower() in ENDINGS else ".png"
        target = (out / picture).with_suffix(ending)
        found.jobs.append(Job(images / picture, own[0] if len(own) == 1 else None, target, str(picture), problem(own, masks), index=index))
    found.ignored["masks without a picture"] += [str(p) for p in candidates if p not in used]
    return found


def check(images: Place, masks: Place, out: Place) -> None:
    if not images.is_dir():
        raise UsageError(f"{images} is not a folder; `moebius inpaint` takes single pictures, and a manifest ends in .csv or .jsonl.")
    if not masks.is_file() and not masks.is_dir():
        raise UsageError(f"{masks} is neither a folder of masks nor a mask.")
    if any(same(out, p) for p in (images, masks)):
        raise UsageError(f"{out} is one of the inputs itself; give another folder for the results.")


def same(a: Place, b: Place) -> bool:
    """Whether two places are there and are one."""
    return type(a) is type(b) and a.exists() and a.samefile(b)  # type: ignore[arg-type]


def list_pictures(folder: Place, recursive: bool, others: Iterable[Place], found: Found) -> list[PurePosixPath]:
    """The pictures of a folder in order; what else is in it goes into `found.ignored`. `others` are folders that are not gone into."""
    passed = [p for p in others if p.is_dir()]
    pictures = []
    for here, folders, names in walk(folder):
        below = [f for f in sorted(folders) if not any(same(here / f, p) for p in passed)]
        folders[:] = [f for f in below if recursive and not f.startswith(".")]
        at = relative(here, folder)
        if not recursive:
            found.ignored["subfolders, without --recursive"] += [str(at / f) for f in below]
        for name in sorted(names):
            path = at / name
            if path.suffix.lower() not in PICTURES:
                found.ignored["not pictures"].append(str(path))
            elif name.startswith("."):
                found.ignored["hidden"].append(str(path))
            elif isinstance(here, Path) and not (here / name).is_file():
                found.ignored["not files"].append(str(path))
            else:
                pictures.append(path)
    return pictures


def refuse_twins(images: Place, pictures: list[PurePosixPath]) -> None:
    """Masks and results go by the stem."""
    by_stem: dict[PurePosixPath, int] = defaultdict(int)
    for p in pictures:
        by_stem[p.with_suffix("")] += 1
    twins = [str(stem) for stem, count in sorted(by_stem.items()) if count > 1]
    if twins:
        raise UsageError(f"{images} holds several pictures named {', '.join(twins[:3])}; masks go by that name. Rename or move them.")


def of_picture(picture: PurePosixPath, by_stem: Mapping[PurePosixPath, list[PurePosixPath]]) -> list[PurePosixPath]:
    """The masks that are named like a picture at this place in its folder."""
    stem = picture.with_suffix("")
    return [*by_stem.get(stem.with_name(stem.name + MASK), []), *by_stem.get(stem, [])]


def problem(masks: list[Place], folder: Place) -> str:
    if not masks:
        return f"there is no mask of that stem in {folder}, with or without {MASK}."
    return f"it has several masks, {', '.join(p.name for p in masks)}; leave one." if len(masks) > 1 else ""
