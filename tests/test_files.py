"""Files: only regular ones are opened, none is half-written, and what a killed writer left is removed by the next save beside it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from moebius import files
from moebius.check.compare.files import load as load_fingerprint
from moebius.errors import MoebiusError, UsageError, WeightError
from moebius.files import PART, REPLACED, folder_beside, open_regular, replacing
from moebius.pictures import mask, photo
from moebius.pictures.metadata import read_metadata
from moebius.pictures.save import save
from moebius.weights import store
from moebius.weights.formats import safetensors

posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such files, and removes none that is open")
LEFT = f".old.png.{files.HOST}0123456789ab.part"


# only regular files are opened ---------------------------------------------------------------------------------------


@pytest.fixture(params=["pipe", "device", "endless device", "socket"])
def special(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A link to what is no file: a name with any ending."""
    target, link = tmp_path / "special", tmp_path / "special.png"
    with contextlib.ExitStack() as stack:
        if request.param == "pipe":
            os.mkfifo(target)
        elif request.param == "socket":
            stack.enter_context(socket.socket(socket.AF_UNIX)).bind(os.path.relpath(target))  # whose whole path may be too long
        else:
            target = Path("/dev/tty" if request.param == "device" else "/dev/zero")
        link.symlink_to(target)
        yield link


@pytest.fixture
def at_once() -> Iterator[None]:
    """A read that waits is interrupted, and fails."""

    def late(*_: object) -> None:
        raise AssertionError("still waiting")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@posix
def test_what_is_no_regular_file_is_refused_at_once(special: Path, at_once: None) -> None:
    with pytest.raises(OSError, match="not a regular file"):
        open_regular(special)
    for read in (photo.load, read_metadata, lambda path: mask.load(path, photo.load(Image.new("RGB", (8, 8)))), load_fingerprint):
        with pytest.raises(UsageError, match="not a regular file"):
            read(special)


@posix
def test_weights_and_config_that_are_no_regular_file_are_refused_at_once(special: Path, tmp_path: Path, at_once: None) -> None:
    weights = special.rename(tmp_path / "special.safetensors")
    with pytest.raises(UsageError, match="neither a regular file"):
        store.load(weights)
    with pytest.raises(UsageError, match="neither a regular file"):
        store.weights_file(weights, weights, "vae")
    with pytest.raises(WeightError, match="not a regular file"):  # exchanged after it was looked at
        safetensors.read(weights)
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet/diffusion_pytorch_model.bin").write_bytes(b"PK")
    weights.rename(tmp_path / "unet/config.json")
    with pytest.raises(WeightError, match=r"^\S*config\.json cannot be read"):
        store.load(tmp_path)


@posix
def test_a_file_that_becomes_a_pipe_between_two_looks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: None) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_bytes(b"1")
    before = os.open

    def exchanged(path: object, *rest: int) -> int:
        return before(tmp_path / "pipe", *rest)

    monkeypatch.setattr(os, "open", exchanged)
    with pytest.raises(OSError, match="a pipe"):
        open_regular(tmp_path / "file")


def test_regular_files_and_links_to_them_are_opened_and_folders_are_not(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12\r\n\x1a3")
    with open_regular(tmp_path / "a") as file:
        assert file.read() == b"12\r\n\x1a3"
        assert not os.get_inheritable(file.fileno())
    with pytest.raises((IsADirectoryError, PermissionError)):  # the second is what Windows says
        open_regular(tmp_path)
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "b")


@posix
def test_a_batch_goes_on_after_a_pipe(tmp_path: Path, at_once: None, capsys: pytest.CaptureFixture[str]) -> None:
    from moebius.cli.main import run

    (tmp_path / "in").mkdir()
    os.mkfifo(tmp_path / "in/a.png")
    Image.new("RGB", (32, 32)).save(tmp_path / "in/b.png")
    Image.new("L", (32, 32), 255).save(tmp_path / "mask.png")
    words = ["batch", tmp_path / "in", tmp_path / "mask.png", tmp_path / "out", "--synthetic", "tiny", "--device", "cpu", "--steps", "2"]
    assert run([str(word) for word in words]) == 0
    said = capsys.readouterr().err
    assert "1 done, 0 skipped, 0 failed" in said
    assert re.search(r"Ignored, .*a\.png", said)
    assert os.listdir(tmp_path / "out") == ["b.png"]


# written whole, with the rights that were there ----------------------------------------------------------------------


@pytest.mark.parametrize("rights", [0o600, 0o640, 0o644, 0o666, 0o400])
@posix
def test_a_file_that_is_replaced_keeps_its_rights(tmp_path: Path, rights: int) -> None:
    path = tmp_path / "out.png"
    path.touch()
    path.chmod(rights)
    with replacing(path) as file:
        (part,) = [p for p in tmp_path.iterdir() if p != path]
        assert stat.S_IMODE(part.stat().st_mode) == rights, "nobody else may read it while it is written, either"
        file.write(b"new")
    assert stat.S_IMODE(path.stat().st_mode) == rights
    assert path.read_bytes() == b"new"


@posix
def test_rights_that_act_are_not_kept_and_a_group_that_cannot_be_is_given_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.png"
    path.touch()
    path.chmod(0o6771)
    with replacing(path):
        pass
    assert stat.S_IMODE(path.stat().st_mode) == 0o771
    monkeypatch.setattr(os, "fchown", lambda *_: (_ for _ in ()).throw(PermissionError()))
    before = os.stat_result([path.stat().st_mode, 0, 0, 1, os.getuid(), os.getgid() + 1, 0, 0, 0, 0])
    with open(tmp_path / "other", "wb") as file:
        files.keep_rights(file.fileno(), before)
    assert stat.S_IMODE((tmp_path / "other").stat().st_mode) == 0o711


@posix
def test_owner_and_group_are_kept_where_this_user_may(tmp_path: Path) -> None:
    path = tmp_path / "out.png"
    path.touch()
    try:
        os.chown(path, 12345, 23456)
    except PermissionError:
        pytest.skip("only root gives files away")
    save(Image.new("RGB", (4, 4)), path)
    assert (path.stat().st_uid, path.stat().st_gid) == (12345, 23456)


@posix
def test_what_is_no_file_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "out.png")
    with pytest.raises(MoebiusError, match="not a regular file"):
        save(Image.new("RGB", (4, 4)), tmp_path / "out.png")
    assert stat.S_ISFIFO((tmp_path / "out.png").stat().st_mode)
    assert os.listdir(tmp_path) == ["out.png"]


def test_bytes_are_on_the_disk_before_the_name_is_theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order = []
    fsync, rename = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: order.append(("sync", os.fstat(handle).st_size)) or fsync(handle))
    monkeypatch.setattr(os, "replace", lambda a, b: order.append(("rename", os.path.getsize(a))) or rename(a, b))
    with replacing(tmp_path / "out") as file:
        file.write(b"12345")
    assert order[:2] == [("sync", 5), ("rename", 5)]
    assert [what for what, _ in order[2:]] == ["sync"] * (sys.platform != "win32"), "the rename itself, by its folder"


@posix
def test_a_folder_that_may_be_written_and_not_read_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.open

    def refused(path: object, flags: int, *rest: int) -> int:
        if flags & os.O_DIRECTORY:
            raise PermissionError
        return before(path, flags, *rest)

    monkeypatch.setattr(os, "open", refused)
    monkeypatch.setattr(os, "scandir", lambda path: (_ for _ in ()).throw(PermissionError()))
    with replacing(tmp_path / "out") as file:
        file.write(b"1")
    assert (tmp_path / "out").read_bytes() == b"1"


# what a killed writer leaves -----------------------------------------------------------------------------------------

WRITER = """
import sys, time
from pathlib import Path
import moebius.cli.main
from moebius.files import replacing

def run(argv):
    with replacing(Path(sys.argv[1])) as file:
        file.write(b"half")
        file.flush()
        print("writing", flush=True)
        time.sleep(600)

moebius.cli.main.run = run
from moebius.__main__ import main
sys.exit(main())
"""


@contextlib.contextmanager
def writing(path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that is in the middle of writing `path`."""
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "writing\n"
            yield child
        finally:
            child.kill()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
@posix
def test_a_signal_leaves_nothing(tmp_path: Path, name: str) -> None:
    number = getattr(signal, name)
    (tmp_path / "out.png").write_bytes(b"before")
    with writing(tmp_path / "out.png") as child:
        assert len(os.listdir(tmp_path)) == 2
        child.send_signal(number)
        assert child.wait(120) == 128 + number
    assert os.listdir(tmp_path) == ["out.png"]
    assert (tmp_path / "out.png").read_bytes() == b"before"


@posix
def test_the_next_save_removes_what_a_kill_left_and_nothing_of_a_living_process(tmp_path: Path) -> None:
    with writing(tmp_path / "dead.png") as dead, writing(tmp_path / "alive.png") as alive:
        dead.kill()
        dead.wait()
        assert len(os.listdir(tmp_path)) == 2
        save(Image.new("RGB", (4, 4)), tmp_path / "out.png")
        left = sorted(os.listdir(tmp_path))
        assert [name[:11] for name in left] == [".alive.png.", "out.png"]
        alive.kill()
    save(Image.new("RGB", (4, 4)), tmp_path / "out.png")
    assert os.listdir(tmp_path) == ["out.png"]


@posix
def test_a_folder_that_a_kill_left_is_removed_and_none_of_a_living_process(tmp_path: Path) -> None:
    (tmp_path / LEFT / "new").mkdir(parents=True)
    (tmp_path / LEFT / "new/weights").write_bytes(b"half")
    with folder_beside(tmp_path / "page") as beside:
        (beside / "new").mkdir()
        with folder_beside(tmp_path / "page") as other:
            assert sorted(tmp_path.iterdir()) == sorted([beside, other])
        save(Image.new("RGB", (4, 4)), tmp_path / "out.png")
        assert (beside / "new").is_dir()
    assert os.listdir(tmp_path) == ["out.png"]


@posix
def test_of_other_files_none_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = "000000" if files.HOST != "000000" else "111111"
    others = [
        "abc.part",
        ".abc.part",
        ".a.png.0123456789abcdef.part",
        LEFT[1:],
        f"{LEFT}.png",
        LEFT.replace("ab.part", "AB.part"),
        LEFT.replace(files.HOST, host),  # another machine's, which may be writing it
    ]
    for name in others:
        (tmp_path / name).write_bytes(b"precious")
    (tmp_path / LEFT.replace("old", "folder") / REPLACED).mkdir(parents=True)  # the page that was being replaced
    (tmp_path / LEFT.replace("old", "link")).symlink_to(tmp_path / "abc.part")
    os.mkfifo(tmp_path / LEFT.replace("old", "pipe"))
    before = sorted(os.listdir(tmp_path))
    (tmp_path / LEFT).touch()
    with replacing(tmp_path / "out"):
        pass
    assert sorted(os.listdir(tmp_path)) == sorted([*before, "out"])
    foreign = tmp_path / LEFT.replace(files.HOST, host)
    os.utime(foreign, (0, time.time() - files.STALE - 100))
    with monkeypatch.context() as patched:
        patched.setattr(os, "geteuid", lambda: os.getuid() + 1)
        with replacing(tmp_path / "out"):
            pass
        assert foreign.exists(), "another user's"
    with replacing(tmp_path / "out"):
        pass
    assert not foreign.exists()


@posix
def test_a_part_is_not_swept_before_its_writer_has_locked_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between making the file and locking it another process may come by."""
    before, swept = files.lock, []

    def late(handle: int, wait: bool) -> bool | None:
        if wait and not swept:
            swept.extend(os.listdir(tmp_path))
            files.sweep(tmp_path)
        return before(handle, wait)

    monkeypatch.setattr(files, "lock", late)
    with replacing(tmp_path / "out") as file:
        file.write(b"whole")
        (part,) = os.listdir(tmp_path)
    assert [part] != swept
    assert PART.fullmatch(part)
    assert (tmp_path / "out").read_bytes() == b"whole"
    assert os.listdir(tmp_path) == ["out"]


def test_many_writers_in_one_folder_do_not_disturb_one_another(tmp_path: Path) -> None:
    wrong: list[BaseException] = []

    def many(number: int) -> None:
        try:
            for i in range(20):
                with replacing(tmp_path / f"{i % 3}") as file:
                    file.write(np.full(1000, number, np.uint8).tobytes())
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=many, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert sorted(os.listdir(tmp_path)) == ["0", "1", "2"]
    assert all(len(set((tmp_path / name).read_bytes())) == 1 and (tmp_path / name).stat().st_size == 1000 for name in "012")
