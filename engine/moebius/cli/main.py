"""The command line: arguments in, messages out; no logic of its own. Exit codes: 0 done, 1 failed, 2 misused, 130 stopped.

A file beside this one holds a family of commands: their options, and a function a command.
"""

from __future__ import annotations

import argparse
import os
import sys

import moebius
from moebius.cli import batch, compare, doctor, gpu, inpaint, view, web, weights
from moebius.cli.output import say_error, write_plainly
from moebius.errors import MoebiusError


def run(argv: list[str]) -> int:
    """The exit code of the command; misuse that argparse sees exits by itself."""
    write_plainly()
    args = parser().parse_args(argv)
    try:
        return int(args.command(args))
    except MoebiusError as error:
        say_error(error)
        return error.exit_code
    except MemoryError:
        say_error("there is not enough memory; use a smaller picture, or fewer images at once.")
        return 1
    except BrokenPipeError:  # the reader of a table went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="moebius", description="Moebius image inpainting on WebGPU.")
    top.add_argument("--version", action="version", version=f"moebius {moebius.__version__}")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    inpaint.add_parsers(commands)
    batch.add_parser(commands)
    inpaint.add_info_parser(commands)
    weights.add_parsers(commands)
    view.add_parser(commands)
    doctor.add_parser(commands)
    compare.add_parser(commands)
    web.add_parser(commands)
    gpu.add_parsers(commands)
    return top
