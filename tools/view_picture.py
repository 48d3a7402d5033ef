"""docs/view.png: the window on a virtual display, as its tests drive it; painted on the left, in the middle of its run on the right.

python tools/view_picture.py [options of `moebius view`]
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from view_harness import Screen, Session  # noqa: E402

SIZE = (620, 600)
PART = 0.7  # of the steps


def main() -> None:
    screen = Screen()
    session = Session(screen, *sys.argv[1:], cwd=ROOT)
    try:
        session.wait("state", lambda state: state["device"])
        session.resize(*SIZE)
        x, y = session.ask("button brush")
        session.point(round(x), round(y))  # its words
        time.sleep(1.0)
        session.settle()
        painted = window(screen)
        session.point(SIZE[0] * 2 // 3, SIZE[1] // 3)
        session.screen.xdotool("key", "Return")
        session.wait("running", lambda run: run is not None and run["total"] and run["done"] >= PART * run["total"])
        time.sleep(0.1)  # a driver shows a frame some time after it was given it
        running = window(screen)
    finally:
        session.kill()
        screen.close()
    Image.fromarray(np.hstack([painted, running])).save(ROOT / "docs/view.png", optimize=True)


def window(screen: Screen) -> np.ndarray:
    return screen.grab()[: SIZE[1], : SIZE[0]]


if __name__ == "__main__":
    main()
