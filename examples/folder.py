"""Fill every picture of a folder with one model, loaded once; a picture that fails is named and the rest goes on.

    python examples/folder.py photos/ masks/ filled/     a mask goes by its picture's name

While one picture has the device the next is read and the last one written. `moebius batch` is the same as a command.
"""

import sys

from moebius import batch


def tell(outcome):
    print(f"{outcome.job.name}: {outcome.error or f'{outcome.windows} windows, {outcome.seconds:.1f} s'}")


photos, masks, out = sys.argv[1:]
summary = batch(photos, masks, out, steps=8, on_outcome=tell)
sys.exit(summary.failed > 0)
