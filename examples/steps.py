"""Watch a run step by step, and stop it early: every preview is a file, and Ctrl-C or a time limit ends the run.

python examples/steps.py [SECONDS]               at most so many seconds (60)
"""

import sys
import time

from moebius import Inpainter, sample

limit = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0

inpaint = Inpainter.from_pretrained("nano")
begin = time.perf_counter()
run = inpaint.steps(sample.photo(), sample.mask(), steps=12)
try:
    for step in run:
        step.preview.save(f"step-{step.index:02}.png")  # the photo, small, with the current estimate in the hole
        print(f"step {step.index + 1} of {step.total}, timestep {step.t}")
        if time.perf_counter() - begin > limit:
            sys.exit("cancelled: the time is up")  # a run that is not iterated further has stopped; nothing has to be closed
except KeyboardInterrupt:
    sys.exit("cancelled")
run.result.save("steps.png")
