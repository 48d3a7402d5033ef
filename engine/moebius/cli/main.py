"""The command line: arguments in, messages out; no logic of its own. Exit codes: 0 done, 1 failed, 2 misused, 130 stopped.

A file beside this one holds a family of commands: their options, and a function a command.
"""

from __future__ import annotations

import argparse

import moebius
from moebius.cli import batch, compare, doctor, gpu, inpaint, serve, tune, view, web, weights
from moebius.cli.arguments import Parser
from moebius.cli.endings import DEBUG, DONE, ending
from moebius.cli.output import write_plainly


def run(argv: list[str]) -> int:
    """The exit code of the command."""
    write_plainly()
    args = argparse.Namespace(json="--json" in argv)  # until they are parsed

    def work() -> int:
        nonlocal args
        top = parser()
        args = top.parse_args(argv)
        if args.command is None:
            top.print_help()
            return DONE
        return int(args.command(args))

    return ending(work, lambda: args)


def parser() -> Parser:
    epilog = f"`moebius COMMAND --help` has the options of a command. {DEBUG}=1 shows where an error came from."
    top = Parser(prog="moebius", description="Moebius image inpainting on WebGPU.", epilog=epilog)
    top.add_argument("-V", "--version", action="version", version=f"moebius {moebius.__version__}")
    top.set_defaults(command=None)
    commands = top.add_subparsers(metavar="COMMAND")
    inpaint.add_parsers(commands)
    batch.add_parser(commands)
    inpaint.add_info_parser(commands)
    weights.add_parsers(commands)
    view.add_parser(commands)
    serve.add_parser(commands)
    doctor.add_parser(commands)
    compare.add_parser(commands)
    web.add_parser(commands)
    gpu.add_parsers(commands)
    tune.add_parser(commands)
    return top
