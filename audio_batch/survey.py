"""How much audio there is to do, found out beside the work: for the progress display's estimate."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from audio_batch.errors import AssetError
from audio_batch.manifest import Asset


def declared_duration_s(asset: Asset) -> float | None:
    """What the container declares, in seconds; None where it does not, or cannot be read."""
    from audio_batch.media import probe

    try:
        return probe(asset.path).duration_s if asset.path is not None else None
    except AssetError:
        return None


MOST = 1000
"""Headers that are read at most: of many a sample tells their mean well enough, and leaves the disk
to the work."""


class Survey:
    """Reads the headers of recordings whose manifest gives no length, in one daemon thread.

    `total_s` may be asked from any thread at any time. It never delays the first asset.
    """

    def __init__(self, count: int, known_s: float, known: int, unknown: Sequence[Asset]) -> None:
        """Take down what the manifest says.

        Args:
            count: recordings in all.
            known_s: seconds of the `known` ones of them together.
            unknown: a sample of the others, at most `MOST`.
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
        for asset in self._unknown:
            if self._stopping.is_set():
                return
            duration_s = declared_duration_s(asset)
            if duration_s is not None:
                found_s, count = self._found
                self._found = (found_s + duration_s, count + 1)
