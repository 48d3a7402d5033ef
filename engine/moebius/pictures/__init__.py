"""A user's pixels, with NumPy and Pillow alone. Read in the order a photo goes:

`photo` reads a picture (`formats` its file, `metadata` what else is in the file, `modes` and `palette` its pixels); `mask` says what to
fill; `windows` where to work (`islands`: what of the mask lies together); `cut` what a model sees; `blend` puts its result back (`seam`:
joined to the picture's colours); `save` writes the file. `published` is the arithmetic of the published program, `pixels` what they share.
"""
