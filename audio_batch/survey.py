"""How much audio there is to do, found out beside the work: for the progress display's estimate."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

from audio_batch.errors import AssetError
from audio_batch.manifest import Asset


def declared_duration_s(asset: Asset) -> float | None:
    """What the container declares, in seconds; None where it does not, or cannot be read."""
    return None if asset.path is None else _declared_by(asset.path)


def _declared_by(path: Path) -> float | None:
    from audio_batch.media import probe

    try:
        return probe(path).duration_s
    except AssetError:
        return None


_SPARSEST_BYTES_PER_S = 500
"""Speech takes more in every usual codec (AMR at its lowest: 600). Silence may take less."""


def most_s(asset: Asset) -> float | None:
    """Seconds that a file has at most, told by its size alone; None where that is not known."""
    if asset.path is None or asset.seen is None:
        return None
    return int(asset.seen.partition(":")[0]) / _SPARSEST_BYTES_PER_S


MOST = 1000
"""Headers that are read at most: of many a sample tells their mean well enough, and leaves the disk
to the work."""


class Survey:
    """Reads the headers of recordings whose manifest gives no length, in one daemon thread.

    `total_s` may be asked from any thread at any time. It never delays the first asset.
    """

    def __init__(self, count: int, known_s: float, known: int, unknown: Sequence[Path]) -> None:
        """Take down what the manifest says.

        Args:
            count: recordings in all.
            known_s: seconds of the `known` ones of them together.
            unknown: the files of a sample of the others, at most `MOST`. No assets: the thread
                would read the manifest beside the one that hands out the work.
        """
        self._unknown = unknown
        self._count = count
        self._found = (known_s, known)  # replaced whole, so that readers need no lock
        self._stopping = threading.Event()

    def start(self) -> None:
        """Begin to read headers; does nothing when the manifest says it all."""
        if self._unknown:
            threading.Thread(target=self._run, name="survey", daemon=True).start()

    def stop(self) -> None:
        """Stop after the header that is being read."""
        self._stopping.set()

    def total_s(self) -> float | None:
        """Seconds of audio in all, unread recordings taken for average ones; None before any."""
        found_s, count = self._found
        return found_s * self._count / count if count else None

    def _run(self) -> None:
        for path in self._unknown:
            if self._stopping.is_set():
                return
            duration_s = _declared_by(path)
            if duration_s is not None:
                found_s, count = self._found
                self._found = (found_s + duration_s, count + 1)
