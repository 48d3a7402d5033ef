"""The parser of the command line: argparse that knows what was probably meant."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from typing import Any

from moebius.errors import UsageError, did_you_mean, shown

LONGEST = 600  # characters of a message: an argument may have any length


class Parser(argparse.ArgumentParser):
    """Names the nearest option, command or choice; `--box -5,3,10,10` needs no =."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.words: list[str] = []  # its options
        super().__init__(*args, **kwargs)

    def add_argument(self, *args: Any, **kwargs: Any) -> Any:
        self.words += [a for a in args if isinstance(a, str) and a.startswith("--")]
        return super().add_argument(*args, **kwargs)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Here, and not at the end: the command that an unknown option was given to knows its options."""
        for word in args or ():
            if re.fullmatch("--[a-z-]+=--", word):  # of which some versions of argparse make an empty list
                self.error(f"argument {word[:-3]}: expected one argument")
        known, unknown = super().parse_known_args(None if args is None else joined(args), namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return known, unknown

    def print_help(self, file: Any = None) -> None:
        """argparse's own passes over a full disk, and ends with 0."""
        print(self.format_help(), end="", file=file)

    def error(self, message: str) -> Any:
        """Raised, and not printed with an exit: `endings` tells every failure alike."""
        near = ""
        if wrong := re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message, re.S):
            near = did_you_mean(wrong[1], re.findall(r"[\w.-]+", wrong[2]))
        elif wrong := re.search(r"unrecognized arguments: .*?(--[^\s=]+)", message, re.S):
            near = did_you_mean(wrong[1], self.words)
        message = shown(message)
        self.print_usage(sys.stderr)
        raise UsageError((message if len(message) <= LONGEST else message[:LONGEST] + "…") + ("." + near if near else ""))


def joined(words: Sequence[str]) -> list[str]:
    """`--box -5,3,10,10` as `--box=-5,3,10,10`: argparse would take the numbers for an option."""
    out: list[str] = []
    for word in words:
        if out and out[-1] in ("--box", "--extend") and re.match(r"-\d", word):
            out[-1] = f"{out[-1]}={word}"
        else:
            out.append(word)
    return out
