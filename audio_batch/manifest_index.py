"""What is kept of each of a million entries: about a hundred bytes."""

from __future__ import annotations

import itertools
import math
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import overload

from audio_batch.asset import Asset

_MOST_WISHES = 5000
"""Of more different ones the others are read again with their entries: each may have its prompt."""

_MOST_FOLDERS = 10_000

_AT_ONCE = 4096

OWN_WISHES = 0xFFFF
"""Stands for the wishes of an entry that has to be read again for them."""


class Texts(Sequence[str]):
    """Many short texts, appended one by one and found by their number, with little around them."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._ends = array("Q")

    def __len__(self) -> int:
        return len(self._ends)

    def append(self, text: str) -> None:
        """Add a text."""
        self._data += text.encode("utf-8", "surrogatepass")
        self._ends.append(len(self._data))

    def extend(self, texts: Sequence[str]) -> None:
        """Add many."""
        together = "".join(texts)
        if together.isascii():
            lengths = itertools.accumulate(map(len, texts), initial=len(self._data))
            self._ends.extend(itertools.islice(lengths, 1, None))
            self._data += together.encode("ascii")
        else:
            for text in texts:
                self.append(text)

    @overload
    def __getitem__(self, number: int) -> str: ...
    @overload
    def __getitem__(self, number: slice) -> list[str]: ...
    def __getitem__(self, number: int | slice) -> str | list[str]:
        if isinstance(number, slice):
            return self.some(range(*number.indices(len(self))))
        return self.some((number,))[0]

    def __iter__(self) -> Iterator[str]:
        begin = 0
        for first in range(0, len(self), _AT_ONCE):
            ends = self._ends[first : first + _AT_ONCE]
            data = self._data[begin : ends[-1]]
            if data.isascii():  # a piece of a text costs less than that of its bytes, decoded
                text = data.decode("ascii")
                at = begin
                for end in ends:
                    yield text[at - begin : end - begin]
                    at = end
            else:
                yield from self.some(range(first, first + len(ends)))
            begin = ends[-1]

    def some(self, numbers: Iterable[int]) -> list[str]:
        """Those with these numbers, which must not be negative."""
        data, ends = self._data, self._ends
        return [
            data[(ends[number - 1] if number else 0) : ends[number]].decode(
                "utf-8", "surrogatepass"
            )
            for number in numbers
        ]


def folder_of(place: str) -> str:
    """The folder of a file, quickly."""
    if os.name == "nt":
        return os.path.dirname(place)  # noqa: PTH120 - of each of a million
    return place.rpartition("/")[0] or "/"


class UniqueIds:
    """Finds out which ids stand twice, by their hashes; a second look is only had on a match."""

    def __init__(self) -> None:
        self._hashes: set[int] = set()
        self._first: dict[str, int] | None = None

    def add_new(self, ids: Sequence[str]) -> bool:
        """Take down many ids, or none of them where one of them may stand twice."""
        hashes = set(map(hash, ids))
        if self._first is not None or len(hashes) < len(ids):
            return False
        if not hashes.isdisjoint(self._hashes):
            return False
        self._hashes |= hashes
        return True

    def add(self, asset_id: str, number: int, earlier: Texts) -> int | None:
        """Take down an id; the number of an earlier entry that has it, else None.

        Args:
            earlier: the ids of all entries before this one, by number.
        """
        known = len(self._hashes)
        self._hashes.add(hash(asset_id))
        if self._first is None and len(self._hashes) > known:
            return None
        if self._first is None:
            self._first = {}
            for n, one in enumerate(earlier):
                self._first.setdefault(one, n)
        first = self._first.setdefault(asset_id, number)
        return None if first == number else first


@dataclass(slots=True)
class Index:
    """The entries of a manifest by number, in its order.

    Attributes:
        offsets: where each begins in the file; empty where the assets are held anyway.
        lines: the lines on which they begin, where that is known.
        sizes, times_ns: the identity of the local file; a size of -1 where nobody looked, or there
            is none.
        kinds: what `byte_rates` takes them for.
        durations_s: NaN where the manifest does not say.
        selected: 1 where the conditions of the run hold, else 0.
        is_mine: 1 where this part of the manifest holds the entry, else 0.
        wishes: the number of what it asks for itself among `wishers`, or `OWN_WISHES`.
        wishers: for each of these, an asset that asks for it, whichever it is.
        folders: those in which the files lie; None where there are too many to be listed.
        stores: the schemes and hosts, or buckets, of remote entries; the first of very many.
        languages: all that those entries name whose wishes are their own.
    """

    offsets: Sequence[int] = field(default_factory=lambda: array("Q"))
    lines: array[int] = field(default_factory=lambda: array("L"))
    ids: Texts = field(default_factory=Texts)
    sizes: array[int] = field(default_factory=lambda: array("q"))
    times_ns: array[int] = field(default_factory=lambda: array("q"))
    kinds: bytearray = field(default_factory=bytearray)
    durations_s: array[float] = field(default_factory=lambda: array("d"))
    priorities: array[int] = field(default_factory=lambda: array("l"))
    selected: bytearray = field(default_factory=bytearray)
    is_mine: bytearray = field(default_factory=bytearray)
    is_remote: bytearray = field(default_factory=bytearray)
    wishes: array[int] = field(default_factory=lambda: array("H"))
    wishers: list[Asset] = field(default_factory=list)
    folders: set[str] | None = field(default_factory=set)
    stores: set[str] = field(default_factory=set)
    languages: set[str] = field(default_factory=set)
    _wish_numbers: dict[object, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.sizes)

    def wish_number(self, wishes: object) -> int | None:
        """The number of wishes that an earlier entry had."""
        return self._wish_numbers.get(wishes)

    def new_wish(self, wishes: object, asset: Asset) -> int:
        """A number for wishes that no entry had before; `OWN_WISHES` if there are too many."""
        if len(self.wishers) >= _MOST_WISHES:
            if asset.language:
                self.languages.add(asset.language)
            return OWN_WISHES
        number = self._wish_numbers[wishes] = len(self.wishers)
        self.wishers.append(asset)
        return number

    def add_folder(self, folder: str) -> None:
        """Take down a folder that holds files."""
        if self.folders is not None:
            self.folders.add(folder)
            if len(self.folders) > _MOST_FOLDERS:
                self.folders = None

    def add_store(self, uri: str) -> None:
        """Take down the store that a remote entry lies in."""
        if len(self.stores) < _MOST_FOLDERS:
            self.stores.add("/".join([*uri.split("/", 3)[:3], ""]))

    def seen(self, number: int) -> str | None:
        """The identity of an entry's file when the manifest was read."""
        size = self.sizes[number]
        return None if size < 0 else f"{size}:{self.times_ns[number]}"

    def duration_s(self, number: int) -> float | None:
        """What the manifest says."""
        duration_s = self.durations_s[number]
        return None if math.isnan(duration_s) else duration_s
