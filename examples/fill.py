"""Fill the hole in one picture.

python examples/fill.py                          the packaged sample, to filled.png
python examples/fill.py photo.jpg mask.png out.png
"""

import sys

from moebius import Inpainter, sample

photo, mask, out = sys.argv[1:] or (sample.photo(), sample.mask(), "filled.png")

inpaint = Inpainter.from_pretrained("nano")  # or pretrained, places2, celebahq, ffhq; a folder; a .bin or .safetensors file
result = inpaint(photo, mask, steps=20, guidance=2.5, seed=0)
result.save(out)

print(f"{out}: {result.image.width}×{result.image.height}, filled on {inpaint.device} in {sum(result.timings.values()):.1f} s")
for note in result.notes:
    print(note)
