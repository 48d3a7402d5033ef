"""How good nano is: PSNR in the hole against the mean of the border and OpenCV's Telea, and of its VAE; and the strip of pictures.

    python benchmarks/bench_nano.py [--model FILE] [--device NAME] [--pictures N] [--seed N] [--keep] [--whole]

Held-out pictures alone: made ones from a seed that training does not use, and fixed squares of photographs it never saw (both in
tools/nano_data.py, with their masks of 5 to 30 % of the area). The hole is painted mid-grey before the model gets the picture, so that
nothing of the truth is in it, and the run starts from noise alone (`strength=1`), so that nothing of the grey is. "nano" is what a user
gets, joined at the seam (`blend="match"`), but for the grain, which PSNR counts as noise; "unmatched" is what its decoder made; "film" is
the smooth continuation of the surroundings alone (engine/moebius/pictures/seam.py), with no model.

With --whole the second table instead: photographs whole, with wires, text, scratches and objects to take out (whole_photos.py), against the
film, OpenCV's two methods and its contrib's FSR; nano as it comes, grain and all, but for --detail 0. Needs the extra `train`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from common import ROOT, write_json
from PIL import Image, ImageDraw
from readme import PHOTOS, nano_table, whole_table
from scipy import ndimage

sys.path.insert(0, str(ROOT / "tools"))
import nano_data as data
import whole_photos

from moebius import Inpainter
from moebius.pictures.seam import harmonic

RESULTS = ROOT / "benchmarks/results/nano.json"
WHOLE = ROOT / "benchmarks/results/nano_whole.json"
STRIP = ROOT / "benchmarks/results/nano.png"
STEPS = 20
CROSSING = 20  # grey levels: how much the truth in the hole of a structured picture varies, at least


@dataclass(frozen=True)
class Case:
    kind: str  # of nano_data.PICTURES, or PHOTOS
    picture: np.ndarray  # (H, W, 3) uint8
    hole: np.ndarray  # (H, W) bool


def cases(each: int, seed: int = data.HELD_OUT_SEED) -> Iterator[Case]:
    """`each` made pictures of every kind, then the photographs. The seed is that of the made pictures and of all masks."""
    for k, kind in enumerate(data.PICTURES):
        for i in range(each):
            rng = np.random.default_rng([seed, k, i])
            picture, hole = data.picture(rng, kind), data.mask(rng)
            while kind in data.STRUCTURED and not crosses(picture, hole):
                picture, hole = data.picture(rng, kind), data.mask(rng)
            yield Case(kind, picture, hole)
    for i, (_, crop) in enumerate(data.held_out_crops()):
        yield Case(PHOTOS, crop, data.mask(np.random.default_rng([seed, len(data.PICTURES), i])))


def crosses(picture: np.ndarray, hole: np.ndarray) -> bool:
    """Whether a structure lies in the hole, rather than one flat area."""
    return bool(picture[hole].std(axis=0).max() > CROSSING)


def border_mean(picture: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Every connected hole in the mean colour of the pixels that touch it."""
    out = picture.copy()
    islands, count = ndimage.label(hole)
    for i in range(1, count + 1):
        island = islands == i
        ring = ndimage.binary_dilation(island, iterations=2) & ~hole
        out[island] = picture[ring].mean(axis=0)
    return out


def telea(picture: np.ndarray, hole: np.ndarray) -> np.ndarray:
    return cv2.inpaint(picture, hole.astype(np.uint8), 3, cv2.INPAINT_TELEA)


def blinded(case: Case) -> np.ndarray:
    return np.where(case.hole[..., None], np.uint8(127), case.picture)


def reconstruction(inpaint: Inpainter, picture: np.ndarray) -> float:
    """What the VAE alone keeps of a picture."""
    x = np.moveaxis(picture / 127.5 - 1, 2, 0)[None].astype(np.float32)
    mean, _ = inpaint.moments(x)
    y = np.clip((inpaint.vae.decode(mean.astype(np.float32))[0] + 1) * 127.5, 0, 255)
    return whole_photos.psnr(np.moveaxis(y, 0, 2), picture)


def measure(inpaint: Inpainter, each: int, seed: int, settings: dict[str, Any]) -> tuple[dict[str, Any], dict[str, list[np.ndarray]]]:
    scores: dict[str, list[dict[str, float]]] = {}
    strip: dict[str, list[np.ndarray]] = {}
    for case in cases(each, seed):
        given, mask = blinded(case), case.hole.astype(np.uint8) * 255
        result = inpaint(given, mask, steps=STEPS, strength=1.0, blend="match", detail=0, **settings)
        filled = {
            "nano": np.asarray(result.image),
            "border mean": border_mean(given, case.hole),
            "Telea": telea(given, case.hole),
            "unmatched": np.asarray(result.raw),
            "film": harmonic(given.astype(np.float64), case.hole),
        }
        row = {name: whole_photos.psnr(picture[case.hole], case.picture[case.hole]) for name, picture in filled.items()}
        scores.setdefault(case.kind, []).append(row | {"VAE": reconstruction(inpaint, case.picture)})
        if len(scores[case.kind]) == 1 or (case.kind == PHOTOS and len(scores[PHOTOS]) in (13, 25)):  # one of every kind and photograph
            panel = [given, np.repeat(mask[..., None], 3, 2), filled["nano"], filled["Telea"], case.picture]
            strip[f"{case.kind} {len(scores[case.kind])}"] = panel
    table = {
        kind: {name: float(np.mean([r[name] for r in rows])) for name in rows[0]} | {"pictures": len(rows)} for kind, rows in scores.items()
    }
    return table, strip


def draw(strip: dict[str, list[np.ndarray]], path: Path) -> None:
    """A column a picture; rows: input, mask, nano, Telea, truth."""
    names, label, side = ("input", "mask", "nano", "Telea", "truth"), 60, data.SIZE
    sheet = Image.new("RGB", (label + side * len(strip), side * len(names)), "white")
    pen = ImageDraw.Draw(sheet)
    for r, name in enumerate(names):
        pen.text((6, r * side + side // 2 - 6), name, fill="black")
        for c, panels in enumerate(strip.values()):
            sheet.paste(Image.fromarray(panels[r]), (label + c * side, r * side))
    sheet.save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="nano", help="default: the one in the package")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--pictures", type=int, default=6, help="of every kind (6)")
    parser.add_argument("--seed", type=int, default=data.HELD_OUT_SEED, help="of the made pictures and the masks; training has 20000")
    parser.add_argument("--guidance", type=float, default=2.5)
    parser.add_argument("--keep", action="store_true", help="keep the results and the strip; then run benchmarks/readme.py")
    parser.add_argument("--strip", type=Path, help="where to draw the strip (with --keep: benchmarks/results/nano.png)")
    parser.add_argument("--whole", action="store_true", help="the table of whole photographs")
    parser.add_argument("--folder", type=Path, help="with --whole: a folder that is there, for the pictures")
    parser.add_argument("--detail", type=float, help="with --whole: the grain (as nano comes)")
    parser.add_argument("--refine", type=float, default=0, help="with --whole: how strongly native windows draw over scaled ones (0)")
    parser.add_argument("--steps", type=int, default=STEPS, help="with --whole (20)")
    args = parser.parse_args()
    if args.folder and not (args.whole and args.folder.is_dir()):
        parser.error("--folder is for --whole, and names a folder that is there.")
    inpaint = Inpainter.from_pretrained(args.model, device=args.device)
    if args.whole:
        chosen = {"steps": args.steps, "guidance": args.guidance, "detail": args.detail, "refine": args.refine}
        table = whole_photos.measure(inpaint, args.seed, args.folder, **chosen)
        print("\n".join(whole_table(table)))
        if args.keep:
            about = {"strength": 1.0, "seed": args.seed, **chosen, "device": inpaint.device}
            write_json(WHOLE, {"settings": about, "means": table})
        return
    table, strip = measure(inpaint, args.pictures, args.seed, {"guidance": args.guidance})
    print("\n".join(nano_table(table)))
    if args.keep:
        settings = {
            "steps": STEPS,
            "strength": 1.0,
            "guidance": args.guidance,
            "seed": args.seed,
            "device": inpaint.device,
            "pictures of each kind": args.pictures,
        }
        write_json(RESULTS, {"settings": settings, "PSNR in dB": table})
        draw(strip, STRIP)
    if args.strip:
        draw(strip, args.strip)


if __name__ == "__main__":
    main()
