"""How long a recording probably is, before anybody has opened it."""

from __future__ import annotations

import os
from collections import defaultdict

from audio_batch.plan import Planned

_BYTES_PER_S = {
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
"""Usual rates, until recordings of that kind have told theirs."""
_OTHER_BYTES_PER_S = 32_000.0
_UNKNOWN_S = 600.0
_KINDS = 100
"""So many are told apart: of names such as `clip.000001` every one has a suffix of its own."""


class Lengths:
    """Lengths from the manifest, from what was decoded meanwhile, or guessed from sizes.

    For the order of work and for estimates alone: a guess costs time, never a result. The rate of
    bytes is that of the recordings of the same kind (suffix) which have told their length.
    """

    def __init__(self) -> None:
        self._seen: defaultdict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])

    def told(self, planned: Planned, duration_s: float) -> None:
        """A recording's length is known now."""
        size = _size_bytes(planned)
        kind = _kind(planned)
        if size and duration_s > 0 and (kind in self._seen or len(self._seen) < _KINDS):
            seen = self._seen[kind]
            seen[0] += size
            seen[1] += duration_s

    def of(self, planned: Planned) -> float:
        """Seconds of audio, of a part its own."""
        return self.of_asset(planned) if planned.part is None else planned.part.length_s

    def of_asset(self, planned: Planned) -> float:
        """Seconds of audio of the whole recording."""
        if planned.asset.duration_s is not None:
            return planned.asset.duration_s
        size = _size_bytes(planned)
        if size is None:
            return _UNKNOWN_S
        kind = _kind(planned)
        seen_bytes, seen_s = self._seen.get(kind, (0.0, 0.0))
        rate = seen_bytes / seen_s if seen_s else _BYTES_PER_S.get(kind, _OTHER_BYTES_PER_S)
        return size / rate


def _kind(planned: Planned) -> str:
    uri = planned.asset.uri
    if "://" in uri:  # what follows a question mark is no name
        uri = uri.partition("?")[0]
    return os.path.splitext(uri)[1].lower()  # noqa: PTH122 - for each of a manifest


def _size_bytes(planned: Planned) -> int | None:
    """From the recording's identity, which begins with it; None where the file is missing."""
    size, _, _ = planned.source.partition(":")
    return int(size) if size.isdigit() else None
