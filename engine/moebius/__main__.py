"""`python -m moebius` is the `moebius` command."""

import sys


def main() -> int:
    try:
        from moebius.cli.main import run

        return run(sys.argv[1:])
    except KeyboardInterrupt:  # also while importing
        print("moebius: stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
