"""`python -m moebius` is the `moebius` command."""

import signal
import sys
from types import FrameType


def main() -> int:
    try:
        for name in ("SIGTERM", "SIGHUP"):  # a service that is stopped, a terminal that is closed
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is signal.SIG_DFL:  # nohup's stays
                signal.signal(number, stop)
        from moebius.cli.main import run

        return run(sys.argv[1:])
    except KeyboardInterrupt:  # also while importing
        print("moebius: stopped", file=sys.stderr)
        return 130


def stop(number: int, frame: FrameType | None) -> None:
    """Ends the program as Ctrl-C does, so that no half-written file is left; the second time at once."""
    signal.signal(number, signal.SIG_DFL)
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
