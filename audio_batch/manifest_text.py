"""The text of a manifest: its encoding, its JSON, and the place of everything in it.

A manifest is one JSON document (an object with `assets`, or a list) or JSON Lines. Python's parser
lets through what JSON does not have (NaN, repeated keys, halves of surrogate pairs); here these
are faults with a place, so that one bad entry hides no other.
"""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from audio_batch.errors import ManifestError
from audio_batch.text import for_terminal

Keys = tuple[str | int, ...]
"""Where a value stands in a document: the keys and indexes of a JSON pointer."""

MAX_DEPTH = 100
"""Levels of lists and objects in an entry: what writes them again recurses."""

MAX_DIGITS = 1000
"""Of a whole number; Python itself converts no more than 4300."""

BLANKS = " \t\r\n\ufeff"  # the last: files joined by `copy a+b` have it in their middle


@dataclass(frozen=True, slots=True)
class Raw:
    """One entry as it was parsed, or the fault (with its column) that kept it from being so."""

    index: int
    value: Any
    line: int | None = None
    fault: str | None = None


@dataclass(frozen=True, slots=True)
class _NotJson:
    """Stands in a parsed value for what JSON does not have."""

    fault: str


class Repeating(dict[str, Any]):
    """An object in which keys stand more than once; the last of each counts."""

    repeated: tuple[str, ...] = ()


class ParseError(Exception):
    """A text that is no JSON: why, and where."""

    def __init__(self, message: str, line: int = 1, column: int = 1) -> None:
        super().__init__(message)
        self.line = line
        self.column = column


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    plain = dict(pairs)
    if len(plain) == len(pairs):
        return plain
    result = Repeating(plain)
    counts = Counter(key for key, _ in pairs)
    result.repeated = tuple(key for key, count in counts.items() if count > 1)
    return result


def _int(digits: str) -> int | _NotJson:
    if len(digits) > MAX_DIGITS:
        return _NotJson(f"a number of {len(digits):,} digits is too long")
    return int(digits)


def _float(digits: str) -> float | _NotJson:
    number = float(digits)
    return number if math.isfinite(number) else _NotJson("the number is too large")


DECODER = json.JSONDecoder(
    object_pairs_hook=_object,
    parse_int=_int,
    parse_float=_float,
    parse_constant=lambda name: _NotJson(f"{name} is no JSON value"),
)


def parsed(text: str) -> Any:
    """The value of a JSON text, with `_NotJson` and `Repeating` in it where it is faulty."""
    text = text.removeprefix("\ufeff")
    try:
        if not text.isascii():
            text.encode("utf-8")
        return DECODER.decode(text)
    except UnicodeEncodeError as error:
        byte = ord(text[error.start]) & 0xFF
        line = text.count("\n", 0, error.start) + 1
        column = error.start - text.rfind("\n", 0, error.start)
        raise ParseError(f"the byte 0x{byte:02X} is no valid UTF-8", line, column) from None
    except json.JSONDecodeError as error:
        message = f"not JSON: {error.msg[:1].lower()}{error.msg[1:]}"
        raise ParseError(message, error.lineno, error.colno) from None
    except RecursionError:
        raise ParseError("it is nested too deeply") from None


def pointer(keys: Keys) -> str:
    """The JSON pointer (RFC 6901) of a place, safe to print; "" is the whole document."""
    return for_terminal(
        "".join("/" + str(key).replace("~", "~0").replace("/", "~1") for key in keys)
    )


def shown(value: object) -> str:
    """A value of a manifest as a message quotes it: JSON in one line of at most 80 characters."""
    try:
        text = for_terminal(json.dumps(value, ensure_ascii=False, default=lambda _: "…"))
    except RecursionError:
        return "…"
    return text if len(text) <= 80 else text[:79] + "…"


def faults(value: Any) -> Iterator[tuple[Keys, str]]:
    """What is no JSON in a parsed value, or could not be written again: its place, a sentence.

    These are repeated keys, NaN and infinities, numbers of absurd length, halves of surrogate
    pairs, and nesting beyond `MAX_DEPTH`.
    """
    stack: list[tuple[Keys, Any]] = [((), value)]
    while stack:
        keys, item = stack.pop()
        if isinstance(item, str):
            if not _encodable(item):
                yield keys, "half of a surrogate pair is no character"
        elif isinstance(item, _NotJson):
            yield keys, item.fault
        elif isinstance(item, dict | list):
            if len(keys) > MAX_DEPTH:
                yield keys[:1], f"it is nested more than {MAX_DEPTH} levels deep"
                continue
            if isinstance(item, Repeating):
                yield from (
                    ((*keys, key), "the key stands more than once") for key in item.repeated
                )
            for key, child in item.items() if isinstance(item, dict) else enumerate(item):
                if isinstance(key, str) and not _encodable(key):
                    yield keys, "half of a surrogate pair in a key is no character"
                stack.append(((*keys, key), child))


_PLAIN_TYPES = frozenset({int, float, bool, type(None)})


def is_surely_sound(value: Any) -> bool:
    """Whether a parsed value has no `faults`, told quickly of what almost every entry is: an object
    of texts in ASCII, numbers and the like."""
    if type(value) is not dict:
        return False
    for key, item in value.items():
        if not key.isascii():
            return False
        kind = type(item)
        if not (item.isascii() if kind is str else kind in _PLAIN_TYPES):
            return False
    return True


def _encodable(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def no_list_of_recordings(*, missing: bool) -> str:
    """What is wrong with a document that is no manifest."""
    return (
        f"the list of recordings {'is missing' if missing else 'must be a list'}: a "
        'manifest is an object with a list "assets", a list, or JSON Lines'
    )


class JsonDocument:
    """A manifest that is one JSON value, held whole."""

    def __init__(self, text: str, top: Any) -> None:
        self._text = text
        self._top = top
        self.base: Keys = ("assets",) if isinstance(top, dict) else ()

    @property
    def defaults(self) -> Any:
        """What stands at the top under this name, not checked."""
        return self._top.get("defaults") if isinstance(self._top, dict) else None

    def faults(self) -> Iterator[tuple[Keys, str]]:
        """Like the function, but of what is neither an entry nor `defaults`; or that none is."""
        if isinstance(self._top, Repeating):
            yield from (((key,), "the key stands more than once") for key in self._top.repeated)
        if isinstance(self._top, dict):
            others = {k: v for k, v in self._top.items() if k not in ("assets", "defaults")}
            yield from faults(others)
        if not isinstance(self._entries, list):
            missing = isinstance(self._top, dict) and "assets" not in self._top
            yield self.base, no_list_of_recordings(missing=missing)

    @property
    def _entries(self) -> Any:
        return self._top.get("assets") if isinstance(self._top, dict) else self._top

    def entries(self) -> Iterator[Raw]:
        """All entries in order; none where there is no list of them."""
        if isinstance(self._entries, list):
            yield from (Raw(index, value) for index, value in enumerate(self._entries))

    def line(self, keys: Keys) -> int | None:
        """The line on which the entry that holds `keys` begins, or the field at the top."""
        return self._lines.get(keys[:2]) or self._lines.get(keys[:1])

    @cached_property
    def _lines(self) -> dict[Keys, int]:
        """Found by a second pass, which only a manifest with problems pays for."""
        lines: dict[Keys, int] = {}
        line, counted_to = 1, 0
        for keys, at in self._starts():
            line += self._text.count("\n", counted_to, at)
            counted_to = at
            lines[keys] = line
        return lines

    def _starts(self) -> Iterator[tuple[Keys, int]]:
        for key, at in _children(self._text, _after_blanks(self._text, 0)):
            yield (key,), at
            if key == "assets" and self._text[at] == "[":
                for index, below in _children(self._text, at):
                    yield (key, index), below


def _after_blanks(text: str, at: int) -> int:
    while text[at] in BLANKS:
        at += 1
    return at


def _children(text: str, at: int) -> Iterator[tuple[str | int, int]]:
    """Key (or index) and place of each child of the object or list at `at`, in valid JSON."""
    is_object = text[at] == "{"
    if text[at] not in "{[":
        return
    at = _after_blanks(text, at + 1)
    for index in itertools.count():
        if text[at] in "}]":
            return
        key: str | int = index
        if is_object:
            key, at = DECODER.raw_decode(text, at)
            at = _after_blanks(text, _after_blanks(text, at) + 1)  # past the colon
        yield key, at
        at = _after_blanks(text, DECODER.raw_decode(text, at)[1])
        if text[at] == ",":
            at = _after_blanks(text, at + 1)


def refused(path: Path, problems: list[str]) -> ManifestError:
    """The error of a manifest that has these problems."""
    count = "a problem" if len(problems) == 1 else f"{len(problems):,} problems"
    return ManifestError(f"The manifest {for_terminal(str(path))} has {count}.", problems=problems)


def unreadable(path: Path, error: Exception) -> ManifestError:
    """The error of a manifest that cannot be opened or read."""
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return ManifestError(
        f"The manifest {for_terminal(str(path))} cannot be read: {reason}.",
        remedy="Name a file of JSON or JSON Lines.",
    )
