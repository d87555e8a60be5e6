"""Recordings in which one thing was broken, by number: the same number gives the same file."""

from __future__ import annotations

import random

from originals import original

DECLARED = (
    *("wav", "mp3 44k", "m4a", "m4a index first", "opus", "ogg flac", "flac", "mp4 film"),
    *("mkv film", "webm", "wma"),
)
"""Recordings that say how long they are."""

UNDECLARED = (
    *("mp3 uncounted", "aac", "ac3", "ts", "vob", "webm live", "mp4 in fragments", "wmv film"),
)
"""Recordings that do not: what is missing at their end is told from how they end."""

BREAKS = ("header", "scatter", "burst", "cut", "insert", "delete")


def mutant(name: str, seed: int) -> tuple[bytes, str]:
    """The recording `name` with one thing broken, and what was done to it (one of `BREAKS`)."""
    draw = random.Random(f"{name} {seed}")
    data = bytearray(original(name))
    place = draw.randrange(len(data))
    what = BREAKS[seed % len(BREAKS)]
    match what:
        case "header":
            for _ in range(8):
                data[draw.randrange(400)] = draw.randrange(256)
        case "scatter":
            for _ in range(200):
                data[draw.randrange(len(data))] = draw.randrange(256)
        case "burst":
            data[place : place + 2048] = draw.randbytes(len(data[place : place + 2048]))
        case "cut":
            del data[place:]
        case "insert":
            data[place:place] = draw.randbytes(3000)
        case "delete":
            del data[place : place + 20_000]
    return bytes(data), what
