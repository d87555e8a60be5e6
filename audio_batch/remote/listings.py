"""Many objects looked at by listing the prefix that they are below, where that is worth it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeAlias

from audio_batch.remote.stores import Seen

_WORTH_A_LISTING = 20
"""A page of a listing costs about as much as so many looks."""

Page: TypeAlias = tuple[Mapping[str, Seen], bool]
"""What is there by its key, and whether it is the last."""

Pages: TypeAlias = Callable[[str, str, str], Iterator[Page]]
"""Of the URI of one of them, the prefix (with its `/`, or "") and the first key that is wanted:
the pages of the listing, each asked for when it is needed. They may begin with keys before it."""


def look_together(
    uris: Iterable[str], key_of: Callable[[str], str], pages: Pages
) -> dict[str, Seen | None]:
    """Those of whom a listing tells many at once: what is there, None where nothing is."""
    below: dict[str, dict[str, list[str]]] = {}
    for uri in uris:
        key = key_of(uri)
        folder = key.rpartition("/")[0]
        where = uri[: len(uri) - len(key)] + folder
        below.setdefault(where, {}).setdefault(key, []).append(uri)
    found: dict[str, Seen | None] = {}
    for wanted in below.values():
        if len(wanted) >= _WORTH_A_LISTING:
            keys = sorted(wanted, key=order)
            folder, slash, _ = keys[0].rpartition("/")
            listing = pages(wanted[keys[0]][0], folder + slash, keys[0])
            for key, seen in _listed(listing, keys):
                found.update((uri, seen) for uri in wanted[key])
    return found


def _listed(pages: Iterator[Page], keys: list[str]) -> Iterator[tuple[str, Seen | None]]:
    """Of the keys, in the store's order, those that it is worth listing the prefix for.

    A page in which hardly any of them is says that the prefix holds far more than is asked.
    """
    position = 0
    for there, is_last in pages:
        last = "" if is_last else max(there, key=order, default="")
        begun, hits = position, 0
        while position < len(keys) and (is_last or order(keys[position]) <= order(last)):
            seen = there.get(keys[position])
            hits += seen is not None
            yield keys[position], seen
            position += 1
        few = hits < _WORTH_A_LISTING and position - begun < _WORTH_A_LISTING
        if is_last or few or position == len(keys):
            return


def order(key: str) -> bytes:
    """Stores list keys by their bytes in UTF-8."""
    return key.encode("utf-8", "surrogatepass")
