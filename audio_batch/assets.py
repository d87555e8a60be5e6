"""The assets of a manifest, or some of them in some order: held, or read again when needed."""

from __future__ import annotations

import itertools
import math
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

from audio_batch import locations
from audio_batch.asset import Asset
from audio_batch.manifest_index import OWN_WISHES, Index
from audio_batch.manifest_reading import CHUNK, Reading


@dataclass(frozen=True, slots=True)
class Amount:
    """How much there is: recordings, how many of them the manifest gives a length of, and that."""

    count: int
    known: int
    known_s: float


class Assets(Sequence[Asset]):
    """Some entries of a manifest, by their numbers in it. One that is read again is a new object.

    Raises (wherever assets are asked for):
        SetupError: the manifest was changed meanwhile.
    """

    def __init__(self, reading: Reading, numbers: Sequence[int] | None = None) -> None:
        self._reading = reading
        self.entries: Index = reading.index
        self.numbers: Sequence[int] = range(len(self.entries)) if numbers is None else numbers

    @property
    def is_whole(self) -> bool:
        """Whether they are all of the manifest, in its order."""
        return self.numbers == range(len(self.entries))

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, at: int) -> Asset: ...
    @overload
    def __getitem__(self, at: slice) -> Assets: ...
    def __getitem__(self, at: int | slice) -> Asset | Assets:
        if isinstance(at, slice):
            return Assets(self._reading, self.numbers[at])
        return self._reading.again([self.numbers[at]])[0]

    def __iter__(self) -> Iterator[Asset]:
        for first in range(0, len(self.numbers), CHUNK):
            yield from self._reading.again(self.numbers[first : first + CHUNK])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Assets) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def pick(self, places: Sequence[int]) -> Assets:
        """Those at some places of this sequence."""
        numbers = self.numbers
        if self.is_whole:
            return Assets(self._reading, places)
        return Assets(self._reading, array("L", map(numbers.__getitem__, places)))

    def selected(self) -> Assets:
        """Those for which the conditions hold that the manifest was read with."""
        return self._where(self.entries.selected)

    def mine(self) -> Assets:
        """Those that are of the part of the manifest that it was read for."""
        return self._where(self.entries.is_mine)

    def _where(self, flags: bytearray) -> Assets:
        if 0 not in flags:
            return self
        return Assets(self._reading, array("L", filter(flags.__getitem__, self.numbers)))

    def ids(self) -> Iterator[str]:
        """Their ids, without a look at the manifest."""
        ids, numbers = self.entries.ids, self.numbers
        if self.is_whole:
            return iter(ids)
        chunks = (numbers[n : n + CHUNK] for n in range(0, len(numbers), CHUNK))
        return itertools.chain.from_iterable(map(ids.some, chunks))

    def remote(self, places: Sequence[int]) -> list[int]:
        """Those of some places whose recordings do not lie on this machine."""
        is_remote, numbers = self.entries.is_remote, self.numbers
        return [place for place in places if is_remote[numbers[place]]] if 1 in is_remote else []

    def languages(self) -> set[str]:
        """All that they name."""
        index = self.entries
        wishes = set(map(index.wishes.__getitem__, self.numbers))
        named = index.languages if OWN_WISHES in wishes else set()
        return named | {
            language
            for wish in wishes - {OWN_WISHES}
            if (language := index.wishers[wish].language) is not None
        }


def pick(assets: Sequence[Asset], places: Sequence[int]) -> Sequence[Asset]:
    """The assets at some places of a sequence, in that order."""
    if isinstance(assets, Assets):
        return assets.pick(places)
    return [assets[place] for place in places]


def amount_of(assets: Sequence[Asset]) -> Amount:
    """How much audio some assets are, as far as the manifest says."""
    known = [seconds for seconds in durations_of(assets) if not math.isnan(seconds)]
    return Amount(len(assets), len(known), sum(known))


def durations_of(assets: Sequence[Asset]) -> Iterator[float]:
    """Seconds as the manifest gives them, else NaN."""
    if isinstance(assets, Assets):
        return map(assets.entries.durations_s.__getitem__, assets.numbers)
    return (math.nan if asset.duration_s is None else asset.duration_s for asset in assets)


def priorities_of(assets: Sequence[Asset]) -> Iterator[int]:
    """The priority of each."""
    if isinstance(assets, Assets):
        return map(assets.entries.priorities.__getitem__, assets.numbers)
    return (asset.priority for asset in assets)


def stores_of(assets: Sequence[Asset]) -> set[str]:
    """Where remote ones lie, as URLs without a path; there may be more of such than are needed."""
    if not isinstance(assets, Assets):
        return {asset.uri for asset in assets if locations.is_remote(asset.uri)}
    entries = assets.entries
    return entries.stores if any(map(entries.is_remote.__getitem__, assets.numbers)) else set()


def languages_of(assets: Sequence[Asset]) -> set[str]:
    """All languages that some assets name."""
    if isinstance(assets, Assets):
        return assets.languages()
    return {asset.language for asset in assets if asset.language}
