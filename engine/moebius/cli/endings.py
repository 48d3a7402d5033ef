"""How a command ends that does not end well: the one place where an exception becomes a sentence and an exit code."""

from __future__ import annotations

import argparse
import errno
import json
import os
import re
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from moebius.cli.output import nowhere, say, say_error
from moebius.errors import MoebiusError

DONE, FAILED, MISUSED, STOPPED = 0, 1, 2, 130
DEBUG = "MOEBIUS_DEBUG"
SEE = f"{DEBUG}=1 shows where; if it is a fault of moebius, please report it with that"
WRONG_NAMES = (errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR)  # what was typed, and not what the machine has
ADVICE = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EACCES: "check its permissions, or choose another place",
    errno.EPERM: "check its permissions, or choose another place",
    errno.EROFS: "choose a place that can be written to",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EMFILE: "close other files, or raise ulimit -n",
}


def ending(work: Callable[[], int], args: Callable[[], argparse.Namespace]) -> int:
    """The exit code of `work`, whatever it raises. `args` says the command's arguments, as far as they are known by then."""
    code: int | None = None
    try:
        code = work()
        sys.stdout.flush()
        return code
    except SystemExit as stop:  # of --help and --version
        return flushed(stop.code if isinstance(stop.code, int) else FAILED if stop.code else DONE)
    except BrokenPipeError:  # the reader went away
        drop_output()
        if code is None and is_unfinished(args()):
            say_error("Standard output was closed; the rest was not done.")
            return FAILED
        return code or DONE
    except BaseException as error:
        if os.environ.get(DEBUG, "0") not in ("", "0"):
            traceback.print_exception(error, file=sys.stderr)
        sentence, code = told(error)
        sentence = tidied(sentence)
        say_error(sentence)
        report(args(), sentence, type(error).__name__, code)
        return flushed(code)


def is_unfinished(args: argparse.Namespace) -> bool:
    """Whether a command that was cut off as it printed had more to do than to print: not --help, and no table (`prints`)."""
    return getattr(args, "command", None) is not None and not getattr(args, "prints", False)


def flushed(code: int) -> int:
    """`code`; that of a failure where standard output does not take what was printed, which would else be noticed after the end."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        drop_output()
    except OSError as error:
        drop_output()
        say(f"moebius: Standard output cannot be written: {error.strerror}.")
        return code or FAILED
    return code


def drop_output() -> None:
    """What still waits to be printed goes nowhere: else Python tries again when it ends, and says so."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.stdout = nowhere()


def told(error: BaseException) -> tuple[str, int]:
    """The sentence and the exit code."""
    match error:
        case MoebiusError():
            return str(error), error.exit_code
        case KeyboardInterrupt():
            return "stopped", STOPPED
        case MemoryError():
            return "There is not enough memory; use a smaller picture, or fewer images at once.", FAILED
        case RecursionError():
            return f"Something is nested too deep to be read. {SEE}.", FAILED
        case ImportError():
            return f"{error.name or 'A package'} cannot be imported ({error}); install moebius-webgpu again.", FAILED
        case OSError():
            return of_system(error), MISUSED if error.errno in WRONG_NAMES else FAILED
        case RuntimeError() if "home directory" in str(error):
            return "There is no such home directory; set HOME, give a path without ~, or set MOEBIUS_CACHE for the cache.", FAILED
        case _:
            text = " ".join(str(error).split())[:500]
            return f"{type(error).__name__}{': ' if text else ''}{text.rstrip('.')}. {SEE}.", FAILED


def tidied(sentence: str) -> str:
    """Without the whole of a name that fills the screen, and without the password of a URL."""
    from moebius.many.places import hidden

    return re.sub(r"\S{300,}", lambda word: f"{word[0][:60]}… ({len(word[0])} characters)", hidden(sentence))


def of_system(error: OSError) -> str:
    """What the system refuses: the file, its own words, and what to do."""
    why, advice = error.strerror or str(error) or type(error).__name__, ADVICE.get(error.errno or 0)
    if error.errno == errno.ENOENT and error.filename is None:
        try:
            os.getcwd()
        except OSError:
            return "The folder that the command was started in is gone; change to another one."
    name = "" if error.filename is None else os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else str(error.filename)
    if not name and error.errno == errno.ENOSPC:
        name = "The disk, or what standard output goes to"
    return f"{name}{': ' if name else ''}{why.rstrip('.')}{'; ' if advice else ''}{advice or ''}."


def report(args: argparse.Namespace, sentence: str, kind: str, code: int) -> None:
    """With --json the failure is a line of data, too."""
    if getattr(args, "json", False):
        with suppress(OSError, ValueError):
            print(json.dumps({**inputs(args), **failure(sentence, kind, code)}))


def failure(sentence: str, kind: str, code: int) -> dict[str, Any]:
    """As it stands in a line of --json."""
    return {"error": {"kind": kind, "message": sentence}, "exit_code": code}


def inputs(args: argparse.Namespace) -> dict[str, Any]:
    """The files of a command that fills a picture, as they were typed."""
    named = {name: getattr(args, name) for name in ("image", "mask", "box") if hasattr(args, name)}
    return {name: str(value) if isinstance(value, os.PathLike) else value for name, value in named.items() if value not in (None, [])}
