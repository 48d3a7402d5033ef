"""Hostile files against the command line: other ones for every seed, the same for the same seed.

    python tools/fuzz.py [--minutes M] [--seed N] [--only KIND …]     ten minutes of all kinds
    python tools/fuzz.py --cases N                                    so many of each kind instead
    python tools/fuzz.py --replay KIND:SEED:NUMBER [--keep FOLDER]    one of them again, and what it said; its files stay in FOLDER

Every case runs the command in a process of its own, with a limit on its time and on its memory. A finding is a traceback, a crash, a wait
without end, too much memory, an error without a sentence, characters that steer a terminal, a file lost, changed or left, a result that
is not whole, a pixel changed that was not to be, or a damaged cache that makes another picture. Exits with 1 where there is one. For
systems with fork.
"""

from __future__ import annotations

import os

os.environ |= {"OPENBLAS_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}  # a process with threads cannot be forked

import argparse
import contextlib
import faulthandler
import hashlib
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from random import Random

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))
from fuzz_cases import KINDS, Case, prepare  # noqa: E402

import moebius.__main__  # noqa: E402
import moebius.backends.cpu  # noqa: E402
import moebius.cli.main  # noqa: E402
import moebius.inpaint.run  # noqa: E402
import moebius.weights.store  # noqa: E402 (here, so that a case need not)
from moebius.cli.endings import SEE  # noqa: E402

CPU_SECONDS, WALL_SECONDS = 30, 120  # of a case; the second is for a busy machine
MEMORY = 3 << 30
CRASHED = 70
ENDS = {0, 1, 2}
UNFORESEEN = ("Traceback (most recent call last)", SEE)
STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\x80-\x9f]")


@dataclass(frozen=True)
class Ended:
    """How a process ended, and what it said."""

    code: int  # -N: by signal N
    seconds: float
    memory: int
    out: str
    err: str
    stack: str  # where it was when it had taken too long


# one process ---------------------------------------------------------------------------------------------------------


def in_child(work: Callable[[], int], said: Path, kill: tuple[int, float] | None = None) -> Ended:
    """Runs `work` in a child with limits; `kill` is a signal, and how long after the file `ready` is there it is sent."""
    said.mkdir(exist_ok=True)
    out, err, stack = said / "out", said / "err", said / "stack"
    ready, start, begun = said / "ready", time.monotonic(), None
    ready.unlink(missing_ok=True)
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        code = CRASHED
        try:
            limit(out, err, stack)
            code = work()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(Exception):
                    stream.flush()
            os._exit(code)
    status, usage = 0, None
    while usage is None:
        done, status, seen = os.wait4(child, os.WNOHANG)
        passed = time.monotonic() - start
        if done:
            usage = seen
        elif passed > WALL_SECONDS:
            os.kill(child, signal.SIGKILL)
        elif kill is not None and (ready.exists() if begun is None else time.monotonic() - begun > kill[1]):
            if begun is None:
                begun = time.monotonic()
            else:
                os.kill(child, kill[0])
                kill = None
        time.sleep(0.001 if passed < 0.1 else 0.01)
    words = [path.read_text("utf-8", "replace") if path.exists() else "" for path in (out, err, stack)]
    scale = 1 if sys.platform == "darwin" else 1024
    return Ended(os.waitstatus_to_exitcode(status), time.monotonic() - start, usage.ru_maxrss * scale, *words)


def limit(out: Path, err: Path, stack: Path) -> None:
    """Of this process: its memory, its time, the size of its files; and its streams led into files."""
    handles = [os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644) for path in (out, err)]
    stacks = open(stack, "w", encoding="utf-8")  # noqa: SIM115 (as long as the process)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, handle in enumerate(handles, 1):
        os.dup2(handle, number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", encoding="utf-8", closefd=False) for number in (1, 2))
    faulthandler.dump_traceback_later(WALL_SECONDS * 0.8, file=stacks)
    for what, most in ((resource.RLIMIT_CPU, CPU_SECONDS), (resource.RLIMIT_AS, MEMORY), (resource.RLIMIT_FSIZE, 256 << 20)):
        resource.setrlimit(what, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)


def command(case: Case, said: Path) -> int:
    """The command of a case, in this process; in a new one where its streams or variables are what is tried."""
    os.chdir(case.folder)
    os.environ.clear()
    os.environ.update(case.variables)
    if case.kill:
        fsync = os.fsync

        def slowly(handle: int) -> None:
            time.sleep(0.2)  # so that the signal finds a file half-written
            fsync(handle)

        os.fsync = slowly
    if case.before is not None:
        case.before()
    if case.afresh:
        os.execve(sys.executable, [sys.executable, "-m", "moebius", *case.words], dict(os.environ))
    sys.argv = ["moebius", *case.words]
    (said / "ready").touch()
    return moebius.__main__.main()


# what is wrong -------------------------------------------------------------------------------------------------------


def seen(folder: Path) -> dict[str, str]:
    """What is in a folder, to see what has changed."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            kind = f"link to {os.readlink(path)}"
        elif path.is_dir():
            kind = "folder"
        elif path.is_file():
            kind = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            kind = f"special {path.lstat().st_mode:o}"
        found[str(path.relative_to(folder))] = kind
    return found


def findings(case: Case, said: Path) -> tuple[Ended, list[str]]:
    """Runs a case; what it did that it must not."""
    before = seen(case.folder)
    ended = in_child(lambda: command(case, said), said, case.kill)
    wrong = wrong_end(case, ended)
    if case.kill and ended.code == -signal.SIGKILL:  # the next save removes what that left
        in_child(lambda: command(Case(**{**vars(case), "kill": None}), said), said)
    if case.folder.is_dir():
        wrong += wrong_files(case, ended, before, seen(case.folder))
    if ended.code == 0 and case.check is not None and not case.kill:
        looked = in_child(case.check, said / "check")
        if looked.code != 0:
            wrong.append(f"the result is wrong: {(looked.err.strip() or str(looked.code)).splitlines()[-1]}")
    return ended, wrong


def wrong_end(case: Case, ended: Ended) -> list[str]:
    wrong = []
    words = ended.out + ended.err
    ends = ENDS | ({-case.kill[0], 128 + case.kill[0]} if case.kill else set())
    if ended.seconds > WALL_SECONDS or ended.code in {-signal.SIGXCPU, -signal.SIGKILL} - ends:
        wrong.append(f"it took too long: {' '.join(ended.stack.split()[-12:])}")
    elif any(text in words for text in UNFORESEEN) or ended.code == CRASHED:
        last = [line for line in words.splitlines() if line.strip()]
        wrong.append(f"a traceback: {last[-1] if last else ''}")
    elif ended.code not in ends:
        wrong.append(f"it ended with {ended.code}")
    elif ended.code in (1, 2) and not ended.err.strip() and not case.silent:
        wrong.append(f"it ended with {ended.code} and said nothing")
    if "not enough memory" in words or ended.memory > MEMORY // 2:
        wrong.append(f"it took {ended.memory >> 20} MiB of memory")
    if steering := STEERING.search(ended.err if case.streamed else words):
        wrong.append(f"it prints the control character {steering[0]!r}")
    return wrong


def wrong_files(case: Case, ended: Ended, before: dict[str, str], after: dict[str, str]) -> list[str]:
    wrong = []
    for name in sorted(before.keys() | after.keys()):
        if case.free is None or name.split("/")[0] in case.free:
            if name not in before and name.endswith(".part"):
                wrong.append(f"{name} was left")
        elif name not in after:
            wrong.append(f"{name} is lost")
        elif name not in before and name not in case.writes:
            wrong.append(f"{name} was left")
        elif before.get(name) != after[name] and name not in case.writes:
            wrong.append(f"{name} was changed")
        elif before.get(name) != after[name] and ended.code in (1, 2):
            wrong.append(f"{name} was written, and the command failed")
    if ended.code == 0 and not case.kill:
        wrong += [f"{name} was not written" for name in case.writes if name not in after]
    return wrong


# all of it -----------------------------------------------------------------------------------------------------------


def plan(kinds: Iterable[str], seed: int, cases: int | None, until: float) -> Iterable[tuple[str, int, int]]:
    """(kind, seed, number), the kinds in turn."""
    number = 0
    while (number < cases) if cases is not None else (time.monotonic() < until):
        yield from ((kind, seed, number) for kind in kinds)
        number += 1


def one(base: Path, kind: str, seed: int, number: int, folder: Path) -> tuple[Case, Ended, list[str]]:
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "case").mkdir(parents=True)
    case = KINDS[kind](Random(f"{kind}:{seed}:{number}"), base, folder / "case")
    ended, wrong = findings(case, folder / "said")
    return case, ended, wrong


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--cases", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--replay", metavar="KIND:SEED:NUMBER")
    parser.add_argument("--keep", type=Path)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as made:
        base, folder = Path(made) / "base", args.keep or Path(made) / "now"
        base.mkdir()
        if in_child(lambda: prepare(base), Path(made) / "said").code != 0:
            print((Path(made) / "said/err").read_text(encoding="utf-8"))
            return 2
        if args.replay:
            kind, seed, number = args.replay.split(":")
            case, ended, wrong = one(base, kind, int(seed), int(number), folder.absolute())
            print(f"moebius {' '.join(map(repr, case.words))}\n{ended.out}{ended.err}exit code {ended.code}, {ended.seconds:.1f} s")
            print(f"{ended.memory >> 20} MiB\n{ended.stack}", *wrong, sep="\n")
            return 1 if wrong else 0
        return all_of_them(base, folder.absolute(), plan(args.only, args.seed, args.cases, time.monotonic() + 60 * args.minutes))


def all_of_them(base: Path, folder: Path, cases: Iterable[tuple[str, int, int]]) -> int:
    codes: dict[str, Counter[int]] = {}
    found: Counter[tuple[str, str]] = Counter()
    for kind, seed, number in cases:
        _, ended, wrong = one(base, kind, seed, number, folder)
        codes.setdefault(kind, Counter())[ended.code] += 1
        for what in wrong:
            key = (kind, re.sub(r"\d+|'[^']*'|/\S+", "…", what))
            found[key] += 1
            if found[key] == 1:
                print(f"{kind}: {what[:300]!a}\n    python tools/fuzz.py --replay {kind}:{seed}:{number}", flush=True)
    for kind, counted in codes.items():
        ends = ", ".join(f"{n} with {code}" for code, n in sorted(counted.items()))
        print(f"{kind:12} {counted.total():6} cases; ended: {ends}")
    for (kind, what), n in found.items():
        print(f"FOUND {n} times, {kind}: {what[:200]!a}")
    print(f"{len(found)} findings")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
