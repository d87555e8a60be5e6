"""The shortest way through a manifest: of thousands of entries at once a column of each field.

What `manifest_quick` tells of one entry is told here of all of a block, or not at all: an entry in
it that is odd in any way sends the block the way of one entry after the other.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Any

from audio_batch import manifest_sources
from audio_batch.manifest_entry import (
    MAX_NAME,
    MAX_PATH,
    MAX_PRIORITY,
    MAX_SECONDS,
    ORDINARY_ID,
)
from audio_batch.manifest_quick import LONGEST_ID, MOST, SCAN, Quick, is_plainly_escaped

_MOST_SHAPES = 64
_SPARSEST = 4
"""Columns of which so few cells are filled are more work than the entries one by one."""

_Table = dict[str, list[Any]]


class _Absent:
    """What stands in a column where an entry has no such key."""


_ABSENT = _Absent()
_NOTHING = frozenset({type(None), _Absent})
_NUMBERS = frozenset({int, float})
_PLAIN = frozenset({str, bool, *_NOTHING, *_NUMBERS})


@dataclass(frozen=True, slots=True)
class Columns:
    """What a plan needs to know of the entries of a block; see `manifest_quick.Sketch`.

    `places` is None where all are URLs; the last three where no entry says anything of the kind.
    NaN is a duration that an entry does not say.
    """

    ids: list[str]
    uris: list[str]
    places: list[str] | None
    durations_s: list[float] | None
    languages: list[str | None] | None
    priorities: list[int | None] | None


def columns_of(quick: Quick, texts: Sequence[bytes], *, are_lines: bool) -> Columns | None:
    """The columns of a block of entries; None where they have to be read one by one.

    Args:
        quick: of this manifest.
        texts: the entries as they lie one behind the other in the file.
        are_lines: each has a line to itself; else they are elements of a list, known to be sound.
    """
    table = _table_of(texts, are_lines=are_lines)
    shape = None if table is None else quick.shape(tuple(table))
    if table is None or shape is None:
        return None
    uris = table[shape.uri]
    if set(map(type, uris)) != {str} or not all(uris) or max(map(len, uris)) > MAX_PATH:
        return None
    together = "".join(uris)
    places = None
    if not any(odd in together for odd in (":", "\\", "\0")):
        places = quick.joined_all(uris)
    elif not all(map(quick.is_good_url, uris)):
        return None
    ids = list(map(manifest_sources.derived_id, uris)) if shape.id is None else None
    if shape.id is not None and (ids := _ids_of(table[shape.id], uris)) is None:
        return None
    if shape.name is not None and not _are_names(table[shape.name]):
        return None
    durations_s = languages = priorities = None
    if shape.duration is not None:
        if not _are_numbers(table[shape.duration], _NUMBERS, 0, MAX_SECONDS):
            return None
        durations_s = [math.nan if s is _ABSENT else s for s in table[shape.duration]]
    if shape.priority is not None:
        if not _are_numbers(table[shape.priority], {int}, -MAX_PRIORITY, MAX_PRIORITY):
            return None
        priorities = [None if one is _ABSENT else one for one in table[shape.priority]]
    if shape.language is not None and (
        (languages := _languages_of(table[shape.language], quick)) is None
    ):
        return None
    assert ids is not None
    return Columns(ids, uris, places, durations_s, languages, priorities)


def _table_of(texts: Sequence[bytes], *, are_lines: bool) -> _Table | None:
    """A column for each key, of plain values; None where not all are plain objects."""
    block = b"".join(texts)
    ends = b"\n"
    if are_lines:
        ends = b"\r\n" if block.endswith(b"\r\n") else b"\n"
        if not block.endswith(ends):
            block += ends
        # Then each line begins and ends an object, for no text in JSON goes over a line's end and
        # nothing below is nested. A return within a line would end it, too.
        if not (block.startswith(b"{") and block.endswith(b"}" + ends)):
            return None
        if block.count(b"}" + ends + b"{") != len(texts) - 1:
            return None
        if block.count(b"\r") != (len(texts) if ends == b"\r\n" else 0):
            return None
        block = block.replace(b"}" + ends + b"{", b"},\n{")
    return _parsed(b"[" + block.rstrip(b", \t\r\n") + b"]", len(texts), to_the_end=are_lines)


def _parsed(block: bytes, count: int, *, to_the_end: bool) -> _Table | None:
    if not is_plainly_escaped(block):
        return None
    try:
        text = block.decode()
        values, end = SCAN(text, 0)
    except (ValueError, StopIteration, RecursionError):
        return None
    if len(values) != count or set(map(type, values)) != {dict}:
        return None
    if to_the_end and end < len(text):
        return None
    shapes = set(map(tuple, values))
    cells = sum(map(len, values))
    keys = list(dict.fromkeys(itertools.chain.from_iterable(shapes)))
    if len(shapes) > _MOST_SHAPES or len(keys) * count > _SPARSEST * cells:
        return None
    if len(shapes) == 1:
        table = {key: [value[key] for value in values] for key in keys}
    else:
        table = {key: [value.get(key, _ABSENT) for value in values] for key in keys}
    texts = 0
    for column in table.values():
        kinds = set(map(type, column))
        if not kinds <= _PLAIN:
            return None
        if kinds & _NUMBERS and not _are_numbers(column, kinds, 1 - MOST, MOST - 1):
            return None
        if str in kinds:
            texts += count if len(kinds) == 1 else sum(type(one) is str for one in column)
    # Python's parser takes the last of repeated keys: each of them has more quotes than are told.
    quotes = text.count('"', 0, end) - text.count('\\"', 0, end)
    return table if quotes == 2 * (cells + texts) else None


def _are_numbers(column: list[Any], kinds: Set[type], least: float, most: float) -> bool:
    """Whether all are of these kinds or absent, and what is a number lies within these limits."""
    if not set(map(type, column)) <= {*kinds, _Absent}:
        return False
    numbers = [one for one in column if type(one) in _NUMBERS]
    return not numbers or (least <= min(numbers) and max(numbers) <= most)


def _ids_of(column: list[Any], uris: list[str]) -> list[str] | None:
    kinds = set(map(type, column))
    if kinds == {str}:
        ordinary = max(map(len, column)) <= LONGEST_ID and all(map(ORDINARY_ID.fullmatch, column))
        return column if ordinary else None
    if kinds == {int}:
        return list(map(str, column)) if min(column) >= 0 else None
    return list(map(manifest_sources.derived_id, uris)) if kinds <= _NOTHING else None


def _are_names(column: list[Any]) -> bool:
    if not set(map(type, column)) <= {str, *_NOTHING}:
        return False
    return all(len(one) <= MAX_NAME for one in column if type(one) is str)


def _languages_of(column: list[Any], quick: Quick) -> list[str | None] | None:
    if not set(map(type, column)) <= {str, *_NOTHING}:
        return None
    codes: dict[Any, str | None] = {one: None for one in set(column) if type(one) is not str}
    codes[""] = None
    for text in set(column) - codes.keys():
        if (code := quick.code_of(text)) is None:
            return None
        codes[text] = code
    return [codes[one] for one in column]
