"""How long a recording probably is, before anybody has opened it."""

from __future__ import annotations

from collections import defaultdict

from audio_batch.byte_rates import BYTES_PER_S, OTHER_BYTES_PER_S, suffix_of
from audio_batch.plan import Planned

UNKNOWN_S = 600.0
"""Of what not even a size is known."""

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
        size = size_of(planned.source)
        kind = suffix_of(planned.asset.uri)
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
        size = size_of(planned.source)
        if size is None:
            return UNKNOWN_S
        kind = suffix_of(planned.asset.uri)
        seen_bytes, seen_s = self._seen.get(kind, (0.0, 0.0))
        rate = seen_bytes / seen_s if seen_s else BYTES_PER_S.get(kind, OTHER_BYTES_PER_S)
        return size / rate


def size_of(identity: str) -> int | None:
    """Bytes, as a recording's identity begins with them; None where the file is missing."""
    size, _, _ = identity.partition(":")
    return int(size) if size.isdigit() else None
