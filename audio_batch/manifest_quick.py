"""A short way through what almost every entry of a large manifest is.

An object of plain values, an ordinary id, one path or URL: whatever can be told at once to be
right. It never judges: what it does not understand goes the long way (`manifest_reading`), which
alone knows what is wrong. What it lets pass comes out as it would there.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any

from audio_batch import languages, manifest_sources
from audio_batch.asset import FIELDS
from audio_batch.manifest_entry import (
    ALIASES,
    MAX_NAME,
    MAX_PATH,
    MAX_PRIORITY,
    MAX_SECONDS,
    ORDINARY_ID,
)

_SURROGATE = re.compile(rb"\\u[dD][89A-Fa-f]")

MOST = 2**63
"""Greater whole numbers than below this are left to the long way."""

LONGEST_ID = 1000


def _refuse(name: str) -> Any:
    raise ValueError(name)


SCAN: Callable[[str, int], tuple[Any, int]] = json.JSONDecoder(parse_constant=_refuse).scan_once  # type: ignore[attr-defined]
"""The value that begins at a place of a text, and where it ends. ValueError and StopIteration are
what it raises where none does."""


def plain_object(data: bytes, *, alone: bool = True) -> dict[str, Any] | None:
    """What a text in JSON says, if it is an object of plain values in which nothing is odd.

    Python's parser takes the last of repeated keys; the number of quotes gives them away, where
    nothing is nested.

    Args:
        alone: nothing but blanks may follow.
    """
    if data[:1] != b"{" or not is_plainly_escaped(data):
        return None
    try:
        text = data.decode()
        value, end = SCAN(text, 0)
    except (ValueError, StopIteration, RecursionError):
        return None
    if type(value) is not dict or (alone and text[end:] != "\n" and text[end:].strip(" \t\r\n")):
        return None
    quotes = text.count('"', 0, end) - text.count('\\"', 0, end)
    return value if quotes == 2 * (len(value) + _texts(value)) else None


def is_plainly_escaped(data: bytes) -> bool:
    """Whether each backslash escapes what follows it, and no half of a character is escaped."""
    return b"\\" not in data or not (b"\\\\" in data or _SURROGATE.search(data))


def _texts(value: dict[str, Any]) -> int:
    """How many values are texts; an impossible number if one is nested, huge or infinite."""
    texts = 0
    for item in value.values():
        kind = type(item)
        if kind is str:
            texts += 1
        elif kind is float:
            if item - item != 0.0:
                return -1_000_000
        elif kind is int:
            if not -MOST < item < MOST:
                return -1_000_000
        elif item is not None and kind is not bool:
            return -1_000_000
    return texts


@dataclass(slots=True)
class Sketch:
    """What a plan needs to know of an entry; None is what it does not say.

    `place` is where its file lies, None for a URL.
    """

    id: str
    uri: str
    place: str | None
    duration_s: float | None
    language: str | None
    priority: int | None


@dataclass(frozen=True, slots=True)
class Shape:
    """Which of an entry's keys mean what, the same for all entries with these keys."""

    id: str | None
    uri: str
    name: str | None
    duration: str | None
    language: str | None
    priority: str | None
    unknown: tuple[str, ...]


class Quick:
    """Sketches of entries, for one manifest. See the module's docstring.

    Args:
        root: where relative paths begin, absolute.
        mapping: our name of a field to the manifest's.
        modelled: the names that the entry's model reads.
        allow_http: URLs of the web are understood too.
    """

    def __init__(
        self, root: str, mapping: Mapping[str, str], modelled: Set[str], *, allow_http: bool
    ) -> None:
        self._beginning = os.path.join(root, "")  # noqa: PTH118 - text, as in manifest_sources
        self._root = root
        self._mapping = mapping
        self._modelled = modelled
        self._allow_http = allow_http
        self._shapes: dict[tuple[str, ...], Shape | None] = {}
        self._codes: dict[str, str | None] = {}
        self._last: tuple[str, ...] = ()
        self._last_shape: Shape | None = None

    def sketch(self, entry: dict[str, Any]) -> Sketch | None:
        """What a plain object says; None where the long way has to be gone."""
        keys = tuple(entry)
        if keys != self._last:
            self._last, self._last_shape = keys, self.shape(keys)
        shape = self._last_shape
        if shape is None:
            return None

        uri = entry[shape.uri]
        if type(uri) is not str or not 0 < len(uri) <= MAX_PATH:
            return None
        place: str | None
        if ":" not in uri and "\\" not in uri and "\0" not in uri:
            (place,) = self.joined_all((uri,))
        elif self.is_good_url(uri):
            place = None
        else:
            return None

        asset_id = entry[shape.id] if shape.id is not None else None
        if type(asset_id) is str:
            if len(asset_id) > LONGEST_ID or not ORDINARY_ID.fullmatch(asset_id):
                return None
        elif type(asset_id) is int and 0 <= asset_id < MOST:
            asset_id = str(asset_id)
        elif asset_id is None:
            asset_id = manifest_sources.derived_id(uri)
        else:
            return None

        if shape.name is not None:
            name = entry[shape.name]
            if name is not None and (type(name) is not str or len(name) > MAX_NAME):
                return None
        duration_s = None
        if shape.duration is not None:
            duration_s = entry[shape.duration]
            kind = type(duration_s)
            if (kind is not float and kind is not int) or not 0 <= duration_s <= MAX_SECONDS:
                return None
            duration_s = float(duration_s)
        language = None
        if shape.language is not None and (text := entry[shape.language]) is not None:
            if type(text) is not str:
                return None
            if text and (language := self.code_of(text)) is None:
                return None
        priority = None
        if shape.priority is not None:
            priority = entry[shape.priority]
            if type(priority) is not int or abs(priority) > MAX_PRIORITY:
                return None
        return Sketch(asset_id, uri, place, duration_s, language, priority)

    def source_key(self, entry: dict[str, Any]) -> str:
        """Under which key an entry that was sketched names its recording."""
        return self._shape_of(entry).uri

    def fields(self, entry: dict[str, Any], sketch: Sketch) -> dict[str, Any]:
        """The fields of the asset that a sketch does not hold: its name, what is unknown."""
        shape = self._shape_of(entry)
        name = entry[shape.name] if shape.name is not None else None
        if not (name and name.strip()):
            name = manifest_sources.stem(sketch.uri)
        return {"name": name, "metadata": {key: entry[key] for key in shape.unknown}}

    def _shape_of(self, entry: dict[str, Any]) -> Shape:
        shape = self._shapes[tuple(entry)]
        assert shape is not None
        return shape

    def code_of(self, language: str) -> str | None:
        """The code of a language as a manifest may name it; None if there is no such."""
        if language not in self._codes:
            self._codes[language] = languages.code_of(language)
        return self._codes[language]

    def is_good_url(self, uri: str) -> bool:
        """Whether it is a URL from which a recording may be fetched."""
        remote = manifest_sources.is_remote_uri(uri) and "\0" not in uri
        return remote and manifest_sources.remote_problem(uri, allow_http=self._allow_http) is None

    def joined_all(self, paths: Iterable[str]) -> list[str]:
        """Where the files of some paths lie."""
        if os.name == "nt":
            return [os.path.join(self._root, path) for path in paths]  # noqa: PTH118
        begins = self._beginning
        return [path if path[0] == "/" else begins + path for path in paths]

    def shape(self, keys: tuple[str, ...]) -> Shape | None:
        """What the keys of an entry mean; None where the long way has to be gone.

        What is true of some keys is true of any of them that name a recording.
        """
        if keys not in self._shapes:
            self._shapes[keys] = self._new_shape(keys)
        return self._shapes[keys]

    def _new_shape(self, keys: tuple[str, ...]) -> Shape | None:
        meant: dict[str, str] = {}
        theirs = {name: ours for ours, name in self._mapping.items()}
        if len(theirs) < len(self._mapping):
            return None
        aliases = {alias: ours for ours, names in ALIASES.items() for alias in names}
        unknown = []
        for key in keys:
            if key in theirs and key in self._modelled:
                return None  # it is read twice, as what it is mapped to and by its own name
            ours = theirs.get(key) or (aliases.get(key, key) if key in self._modelled else None)
            if ours is None or (ours not in FIELDS):
                if key in FIELDS:
                    return None  # its name is mapped away
                unknown.append(key)
            elif ours in meant or ours not in _UNDERSTOOD:
                return None
            else:
                meant[ours] = key
        if "uri" not in meant or (meant["uri"] == "file_name" and "folder_path" in keys):
            return None
        return Shape(
            id=meant.get("id"),
            uri=meant["uri"],
            name=meant.get("name"),
            duration=meant.get("duration_s"),
            language=meant.get("language"),
            priority=meant.get("priority"),
            unknown=tuple(unknown),
        )


_UNDERSTOOD = frozenset({"id", "uri", "name", "duration_s", "language", "priority"})
