"""What was seen of the recordings of a manifest: some eighty bytes for each."""

from __future__ import annotations

from array import array

from audio_batch.asset import Asset
from audio_batch.manifest_index import Texts


class Sightings:
    """By its number in the manifest each recording's identity, as it was when it was looked at."""

    def __init__(self) -> None:
        self._places = array("L")
        self._hashes = array("q")
        self._texts = Texts()

    def keep(self, asset: Asset, seen: str) -> None:
        """Take down what was seen of one of which nothing is known."""
        missing = asset.position + 1 - len(self._places)
        if missing > 0:
            self._places.frombytes(bytes(self._places.itemsize * missing))
        self._texts.append(seen)
        self._hashes.append(hash(asset.id))
        self._places[asset.position] = len(self._texts)

    def of(self, asset: Asset) -> str | None:
        """What was seen of it; None where it was not looked at."""
        if asset.position >= len(self._places) or not (place := self._places[asset.position]):
            return None
        return self._texts[place - 1] if self._hashes[place - 1] == hash(asset.id) else None
