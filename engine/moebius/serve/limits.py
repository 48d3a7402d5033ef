"""How much a server takes on, of everything that a client decides."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What a request may ask for; how much of it there may be at once; how long each may take."""

    bytes: int = 128 << 20  # of one body
    pixels: int = 50_000_000  # of a picture, with what `extend` adds
    steps: int = 200
    windows: int = 128
    seconds: float = 600.0  # of one picture, from its decoding on, without its waiting
    preparing: float = 60.0  # of these, until its windows are found; others wait behind it meanwhile

    waiting: int = 32  # requests in the queue
    waiting_pixels: int = 200_000_000  # of all their pictures, each some eight bytes
    reading: int = 512 << 20  # bytes of all bodies that are being read
    connections: int = 256
    kept: int = 256 << 20  # bytes of results that wait to be fetched
    kept_jobs: int = 1000  # that have ended

    head: float = 20.0  # seconds for the head of a request
    silence: float = 20.0  # seconds without a byte of its body, or in which none of the answer is taken
    body: float = 300.0  # seconds for the whole body
    unwatched: float = 60.0  # seconds without a question about a job, after which its client has gone away
    broken: float = 5.0  # the same where its events were listened to, and the line broke
    kept_seconds: float = 600.0
    beat: float = 10.0  # seconds between signs of life on a line
    preview: float = 0.1  # seconds between two previews
