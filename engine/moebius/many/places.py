"""Where pictures lie: paths, and URLs of any file system that fsspec knows (s3://, gs://, …), which is imported when there is one."""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any

from moebius.errors import MoebiusError, UsageError
from moebius.files import open_regular, replacing
from moebius.pictures.source import LARGEST_FILE

START = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")  # two letters at least: C:/ is none
WEB = ("http", "https", "ftp", "data")  # which are never fetched


@dataclass(frozen=True, order=True)
class Url:
    """Like a Path, as far as that is needed here."""

    scheme: str
    path: PurePosixPath

    def __str__(self) -> str:
        """As it is shown: without a password."""
        shown = f"{self.scheme}://{'' if self.path == PurePosixPath() else self.path}"
        return hidden(shown) if re.match(r"[^/@]*:[^/]*@", str(self.path)) else shown

    def __truediv__(self, name: str | PurePosixPath) -> Url:
        return Url(self.scheme, self.path / name)

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def stem(self) -> str:
        return self.path.stem

    @property
    def suffix(self) -> str:
        return self.path.suffix

    @property
    def parent(self) -> Url:
        return Url(self.scheme, self.path.parent)

    def with_name(self, name: str) -> Url:
        return Url(self.scheme, self.path.with_name(name))

    def with_suffix(self, suffix: str) -> Url:
        return Url(self.scheme, self.path.with_suffix(suffix))

    def is_file(self) -> bool:
        return bool(call(self, "isfile"))

    def is_dir(self) -> bool:
        return bool(call(self, "isdir"))

    def exists(self) -> bool:
        return bool(call(self, "exists"))

    def samefile(self, other: Place) -> bool:
        return self == other


Place = Path | Url


def hidden(text: str) -> str:
    """Without the passwords of the URLs in it."""
    return re.sub(r"(\b[A-Za-z][\w+.-]+:/{1,2})[^\s/@]+@", r"\1…@", text)


def place(text: str | os.PathLike[str] | Url) -> Place:
    """A URL where it begins like one, else a path. Nothing is looked at yet."""
    if isinstance(text, Url):
        return text
    start = START.match(os.fspath(text))
    return Url(start[1].lower(), PurePosixPath(os.fspath(text)[start.end() :])) if start else Path(text)


def within(folder: Place, name: str) -> Place:
    """What `name` means in a folder: a place in it, or another place where it is a URL or an absolute path."""
    there = place(name)
    return there if isinstance(there, Url) or there.is_absolute() else folder / name


def relative(inner: Place, folder: Place) -> PurePosixPath:
    """The path of a place below a folder."""
    if isinstance(inner, Url) and isinstance(folder, Url):
        return inner.path.relative_to(folder.path)
    return PurePosixPath(Path(str(inner)).relative_to(str(folder)).as_posix())


# URLs --------------------------------------------------------------------------------------------------------------------
def file_system(url: Url) -> Any:
    """fsspec's, which keeps one of a kind."""
    if url.scheme in WEB:
        raise UsageError(f"{url.scheme}://… is a URL of the web, from which nothing is fetched; download it, and give the file.")
    try:
        return import_module("fsspec").filesystem(url.scheme)
    except ImportError as error:
        missing = "fsspec" if (error.name or "").startswith("fsspec") else str(error).rstrip(".")
        raise UsageError(f"{url.scheme}://… is read and written by fsspec, and that cannot be imported ({missing}); install it.") from error
    except ValueError as error:
        raise UsageError(f"{url.scheme}://… is no URL that fsspec knows; give a path, or one of s3://, gs:// and its like.") from error
    except Exception as error:  # no account, no such bucket: in the words of whoever answers
        raise unreachable(url, error) from error


def call(url: Url, method: str, *args: Any, **options: Any) -> Any:
    """A method of its file system, for its path."""
    system = file_system(url)
    try:
        return getattr(system, method)(str(url.path), *args, **options)
    except FileNotFoundError as error:
        raise UsageError(f"{url} is not there.") from error
    except Exception as error:
        raise unreachable(url, error) from error


def unreachable(url: Url, error: Exception) -> MoebiusError:
    words = hidden(" ".join(str(error).split()))[:200].rstrip(".")
    return MoebiusError(f"{url} cannot be reached: {words or type(error).__name__}.")


# what is done at either ----------------------------------------------------------------------------------------------
def source(of: Place) -> Path | bytes:
    """What a picture can be loaded from: the path, or what a URL holds."""
    if isinstance(of, Path):
        return of
    size = call(of, "size")
    if size is not None and size > LARGEST_FILE:
        raise UsageError(f"{of} has more than {LARGEST_FILE >> 30} GiB; give a smaller one.")
    return bytes(call(of, "cat_file"))


def text_lines(of: Place) -> Iterator[str]:
    """The lines of a text in UTF-8, one after the other."""
    try:
        if isinstance(of, Path):
            with open(of, encoding="utf-8-sig", newline="") as file:
                yield from file
        else:
            with call(of, "open", "rt", encoding="utf-8-sig", newline="") as file:
                yield from file
    except FileNotFoundError as error:
        raise UsageError(f"{of} is not there.") from error
    except OSError as error:
        raise MoebiusError(f"{of} cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{of} is no text in UTF-8; save it as that.") from error


def write(to: Place, data: bytes) -> None:
    """Whole or not at all: beside it, and renamed."""
    if isinstance(to, Path):
        try:
            with replacing(to) as file:
                file.write(data)
        except OSError as error:
            raise MoebiusError(f"{to} cannot be written: {error.strerror or error}.") from error
        return
    beside = to.with_name(f".{to.name[-100:]}.{secrets.token_hex(6)}.part")
    try:
        call(beside, "pipe_file", data)
        call(beside, "mv", str(to.path))
    except MoebiusError:
        with suppress(MoebiusError):
            call(beside, "rm_file")
        raise


def make_folder(folder: Place) -> None:
    """And those around it. Where a file system has no folders there is nothing to do."""
    if isinstance(folder, Url):
        call(folder, "makedirs", exist_ok=True)
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        file = next((p for p in (folder, *folder.parents) if os.path.lexists(p) and not p.is_dir()), folder)
        raise UsageError(f"{file} is a file; name a folder.") from error
    except OSError as error:
        raise MoebiusError(f"{folder} cannot be made: {error.strerror}.") from error


def walk(folder: Place) -> Iterator[tuple[Place, list[str], list[str]]]:
    """As os.walk: a folder, the names of the folders in it, which the caller may cut down, and of what else is in it."""

    def unreadable(error: OSError) -> None:
        raise MoebiusError(f"{error.filename} cannot be read: {error.strerror}.")

    if isinstance(folder, Url):
        for here, folders, files in call(folder, "walk"):
            below = PurePosixPath(here.lstrip("/")).relative_to(str(folder.path).lstrip("/"))  # some begin with /, where the URL did not
            yield folder / below, folders, list(files)
    else:
        for here, folders, files in os.walk(folder, onerror=unreadable):
            yield Path(here), folders, files


def copy(start: Place, to: Place) -> None:
    """Byte by byte."""
    if isinstance(start, Path) and isinstance(to, Path):
        try:
            with open_regular(start) as file, replacing(to) as target:
                shutil.copyfileobj(file, target)
        except OSError as error:
            raise MoebiusError(f"{to} cannot be written: {error.strerror or error}.") from error
        return
    data = source(start)
    write(to, data if isinstance(data, bytes) else data.read_bytes())
