"""The names of all outputs of a manifest, no two the same, without holding them all.

Of each name a hash is kept, of the few that had to be changed the name.
"""

from __future__ import annotations

import unicodedata
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

Parts = tuple[str, ...]
"""A name's folders and, last, its file."""

RUNS_OWN: tuple[Parts, ...] = (("summary",), ("speakers",))  # summary.json and speakers.json

_SHORT_HASH, _LONG_HASH = 12, 64
_MANY = 50_000
"""Hashes from which on numpy is worth its loading."""


class OutputNames:
    """Each asset's output name: relative to the output folder, with slashes, without a suffix.

    Args:
        wanted: the name that an asset's number and id give, or what else is known of it.
        with_hash: appends so many digits of an id's hash to a file's name.
        keys: by number the hash of `file_system_key` of each wanted name.
        taken: names that the output folder holds for assets of other manifests.
    """

    def __init__(
        self,
        wanted: Callable[[int, str], str],
        with_hash: Callable[[str, str, int], str],
        ids: Sequence[str],
        keys: array[int],
        taken: Iterable[str] = (),
    ) -> None:
        self._wanted = wanted
        self._ids = ids
        self._changed: dict[int, str] = {}
        self._digits: dict[int, int] = {}
        others = array("q", map(hash, RUNS_OWN))
        others.extend(hash(_key(name)) for name in taken)
        others = in_order_of(others)
        while rising := [n for n in self._clashing(keys, others) if not self._is_longest(n)]:
            for number in rising:
                digits = _LONG_HASH if number in self._digits else _SHORT_HASH
                self._digits[number] = digits
                folders, slash, file = wanted(number, ids[number]).rpartition("/")
                name = f"{folders}{slash}{with_hash(file, ids[number], digits)}"
                self._changed[number] = name
                keys[number] = hash(_key(name))

    def at(self, number: int, asset_id: str) -> str:
        """The name of the asset with this number in the manifest."""
        if number in self._changed:
            return self._changed[number]
        return self._wanted(number, asset_id)

    def some(self, numbers: Sequence[int], ids: Sequence[str]) -> list[str]:
        """The names of many."""
        wanted, changed = self._wanted, self._changed
        names = list(map(wanted, numbers, ids))
        if changed:
            names = [changed.get(number, name) for number, name in zip(numbers, names, strict=True)]
        return names

    def told_apart(self) -> list[str]:
        """Those that have a hash only because another asset would share the name."""
        return [
            name
            for number, name in sorted(self._changed.items())
            if _key(self._wanted(number, self._ids[number])) not in RUNS_OWN
        ]

    def _is_longest(self, number: int) -> bool:
        return self._digits.get(number) == _LONG_HASH

    def _clashing(self, keys: array[int], others: array[int]) -> list[int]:
        """Numbers of names that some file system would take for another's, or the run's own."""
        suspicious = _repeated(keys, others)
        if not suspicious:
            return []
        found = [number for number, key in enumerate(keys) if key in suspicious]
        # Two names may have one hash, though hardly ever.
        exact = {number: _key(self.at(number, self._ids[number])) for number in found}
        counts = Counter(exact.values())
        return [n for n, key in exact.items() if counts[key] > 1 or has_hash(others, hash(key))]


def in_order_of(keys: array[int]) -> array[int]:
    """Hashes from the least to the greatest."""
    if len(keys) < _MANY:
        return array(keys.typecode, sorted(keys))
    import numpy as np

    return array(keys.typecode, np.sort(np.frombuffer(keys, keys.typecode)).tobytes())


def has_hash(in_order: array[int], key: int) -> bool:
    """Whether one is among hashes that are in order."""
    at = bisect_left(in_order, key)
    return at < len(in_order) and in_order[at] == key


def _repeated(keys: array[int], others: array[int]) -> set[int]:
    if len(keys) < _MANY:
        counts = Counter(keys)
        return {key for key, count in counts.items() if count > 1 or has_hash(others, key)}
    import numpy as np

    in_order = np.sort(np.frombuffer(keys, keys.typecode))
    repeated = set(in_order[1:][in_order[1:] == in_order[:-1]].tolist())
    wanted = np.frombuffer(others, others.typecode)
    at = np.minimum(np.searchsorted(in_order, wanted), len(in_order) - 1)
    return repeated | set(wanted[in_order[at] == wanted].tolist())


def _key(name: str) -> Parts:
    return file_system_key(tuple(name.split("/")))


def file_system_key(parts: Parts) -> Parts:
    """Equal for names that are one name without case or with accents composed otherwise."""
    return tuple(
        part.lower()
        if part.isascii()
        else unicodedata.normalize("NFD", unicodedata.normalize("NFD", part).upper().casefold())
        for part in parts
    )
