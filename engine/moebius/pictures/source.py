"""What a picture may be given as, besides an array and a picture of Pillow's: a path, bytes, an open file, a data URL."""

from __future__ import annotations

import base64
import binascii
import io
import os
import re
from pathlib import Path
from typing import Protocol, runtime_checkable
from urllib.parse import unquote_to_bytes

from moebius.errors import UsageError

MAX_PIXELS = 100_000_000  # of a picture, where the caller names no other number
LARGEST_FILE = 1 << 30  # bytes that are read from an open file
LONGEST_NAME = 300  # characters of a path that is not there and is still shown in a message; beyond it is no path but a picture's bytes
ACCEPTED = "give a path, bytes, an open file, a data URL, a PIL image or an array"


@runtime_checkable
class Readable(Protocol):
    """An open file."""

    def read(self, size: int = ..., /) -> bytes: ...


FileSource = str | os.PathLike[str] | bytes | bytearray | memoryview | Readable


def file_of(source: object, what: str = "The image") -> tuple[Path | io.BytesIO, str]:
    """The path or the bytes, and how a message names them. A string that is not shown may be a picture, or hold a password."""
    if isinstance(source, bytes | bytearray | memoryview):
        return io.BytesIO(source), what
    if isinstance(source, str | os.PathLike):
        text = os.fspath(source)
        if not isinstance(text, str):
            raise UsageError(f"{what} is a path of bytes; give it as a string, or the bytes of the picture itself.")
        if isinstance(source, str) and text[:5].lower() == "data:":
            return io.BytesIO(of_data_url(text, what)), what
        return path_of(text, what), text
    if isinstance(source, Readable) and not isinstance(source, type):
        return io.BytesIO(read(source, what)), what
    raise UsageError(f"{what} is a {type(source).__name__}; {ACCEPTED}.")


def path_of(text: str, what: str) -> Path:
    """A path, which may lead nowhere; but no URL, and nothing that is only a long string."""
    is_url = re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", text)  # pathlib makes http:/x of http://x
    is_long = not text or "\0" in text or len(text) > LONGEST_NAME or len(text.splitlines()) > 1
    if (is_url or is_long) and not os.path.lexists(text):
        if is_url:
            raise UsageError(f"{what} is a URL, and none is fetched from the network; download it, and give the file or its bytes.")
        raise UsageError(f"{what} is a string of {len(text)} characters and no path of a file; {ACCEPTED}.")
    return Path(text)


def of_data_url(text: str, what: str) -> bytes:
    """data:[type][;base64],… (RFC 2397)"""
    head, comma, body = text.partition(",")
    if not comma:
        raise UsageError(f"{what} is a data URL without a comma, and so without data; write data:image/png;base64,…")
    data = unquote_to_bytes(body)
    if head.lower().endswith(";base64"):
        try:
            data = b"".join(data.split())
            data = base64.b64decode(data + b"=" * (-len(data) % 4), altchars=b"-_" if b"-" in data or b"_" in data else None, validate=True)
        except (binascii.Error, ValueError):
            raise UsageError(f"{what} is a data URL whose data is not base64; encode the file's bytes anew.") from None
    return data


def read(file: Readable, what: str) -> bytes:
    """The rest of an open file, which stays open."""
    try:
        data = file.read(LARGEST_FILE + 1)
    except (OSError, ValueError) as error:  # closed, or opened for writing
        raise UsageError(f"{what} is an open file that cannot be read ({error}); open it anew for reading in binary mode.") from error
    if isinstance(data, str):
        raise UsageError(f"{what} is a file opened as text; open it in binary mode, with 'rb'.")
    if not isinstance(data, bytes | bytearray):
        raise UsageError(f"{what} is a {type(file).__name__} whose read() gives a {type(data).__name__}; {ACCEPTED}.")
    if not data:
        raise UsageError(f"{what} is an open file with nothing left to read; go back to its beginning first, with seek(0).")
    if len(data) > LARGEST_FILE:
        raise UsageError(f"{what} is a file of more than {LARGEST_FILE >> 30} GiB; give a smaller one.")
    return bytes(data)
