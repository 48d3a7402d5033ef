"""In the process that `bench_start.py --window` measures: `moebius view` until it has drawn a frame. It imports next to nothing of its own.

python benchmarks/first_frame.py [PHOTO]
"""

from __future__ import annotations

import os
import sys
import time


def first_frame(photo: str) -> None:
    """Prints when the frame was drawn, by the monotonic clock, and ends."""
    from moebius.__main__ import main as command
    from moebius.view.early import Search

    ended = Search.__exit__

    def opened(search: Search, *raised: object) -> None:
        ended(search, *raised)
        window = sys.modules["moebius.view.window"].Window  # type: ignore[attr-defined]
        draw = window._draw

        def drawn(one: object) -> None:
            draw(one)
            print(time.monotonic(), flush=True)
            os._exit(0)

        window._draw = drawn

    Search.__exit__ = opened  # type: ignore[method-assign]
    sys.argv = ["moebius", "view", "--quiet", *([photo] if photo else [])]
    sys.exit(command())


if __name__ == "__main__":
    first_frame(sys.argv[1] if len(sys.argv) > 1 else "")
