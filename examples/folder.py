"""Fill every picture of a folder with one model, loaded once; a picture that fails is named and the rest goes on.

    python examples/folder.py photos/ masks/ filled/     a mask goes by its picture's name

`moebius batch` does the same with more options.
"""

import sys
from pathlib import Path

from moebius import Inpainter
from moebius.errors import MoebiusError

photos, masks, out = map(Path, sys.argv[1:])
out.mkdir(exist_ok=True)
by_name = {mask.stem: mask for mask in masks.iterdir()}

inpaint = Inpainter.from_pretrained("nano")
failed = 0
for photo in sorted(photos.iterdir()):
    try:
        if photo.stem not in by_name:
            raise MoebiusError("there is no mask of that name")
        result = inpaint(photo, by_name[photo.stem], steps=8)
        result.save(out / photo.name)
        print(f"{photo.name}: {len(result.windows)} windows, {sum(result.timings.values()):.1f} s")
    except MoebiusError as error:  # every error that is foreseen: no picture, no room, no mask, …
        failed += 1
        print(f"{photo.name}: {error}")
sys.exit(failed > 0)
