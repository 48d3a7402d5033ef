"""`python -m moebius` is the `moebius` command."""

import sys


def main() -> int:
    from moebius.cli import run

    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
