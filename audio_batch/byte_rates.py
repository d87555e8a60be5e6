"""How many bytes a second of audio usually takes, by the suffix of its file."""

from __future__ import annotations

BYTES_PER_S = {
    ".wav": 64_000.0,
    ".aiff": 64_000.0,
    ".flac": 40_000.0,
    ".mp3": 16_000.0,
    ".m4a": 16_000.0,
    ".ogg": 12_000.0,
    ".opus": 6_000.0,
    ".mp4": 200_000.0,
    ".mkv": 200_000.0,
    ".webm": 120_000.0,
}

OTHER_BYTES_PER_S = 32_000.0

RATES_BYTES_PER_S = (OTHER_BYTES_PER_S, *BYTES_PER_S.values())
"""By the number of a kind."""

_KINDS = {suffix: number for number, suffix in enumerate(BYTES_PER_S, 1)}


def suffix_of(uri: str) -> str:
    """The suffix of a path or URL in small letters, with its dot; "" where there is none."""
    if "://" in uri:  # what follows a question mark is no name
        uri = uri.partition("?")[0]
    _, dot, suffix = uri.rpartition(".")
    return f".{suffix.lower()}" if dot and "/" not in suffix and "\\" not in suffix else ""


def kind_of(uri: str) -> int:
    """The number of a recording's kind, below 256: where its rate stands in the table."""
    return _KINDS.get(suffix_of(uri), 0)
