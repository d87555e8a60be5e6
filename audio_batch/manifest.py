"""Manifests: JSON or JSON Lines in, `Asset`s out, every problem reported at once.

An entry is a recording: an id and a path, under the names of `manifest_entry.ALIASES` or under
those that the caller maps. What is not understood travels in `Asset.metadata`, untouched.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ValidationError

from audio_batch import manifest_entry, manifest_sources, manifest_text
from audio_batch.errors import UsageError
from audio_batch.garbage import uncollected
from audio_batch.manifest_entry import ALIASES, SPEAKER_FIELDS, options_of, speaker_conflicts
from audio_batch.manifest_text import JsonDocument, JsonLines, Keys, Raw, pointer, shown
from audio_batch.text import for_terminal

_Model = TypeVar("_Model", bound=BaseModel)

FIELDS = frozenset({"id", "name", "uri", "duration_s", *manifest_entry.OPTION_FIELDS})
"""What is understood of an entry, by our names; `fields` of `load` maps these."""


_LOOKED_FOR_AT_ONCE = 4096
"""Entries whose files are looked for together: what they say is not held longer than that."""

_OUR_NAMES = {
    **{alias: ours for ours, aliases in ALIASES.items() for alias in aliases},
    **{name: name for name in (*FIELDS, "position")},
}


def is_own_field(name: str) -> bool:
    """Whether every asset has this field, be it empty, whatever the manifest says."""
    return name in _OUR_NAMES


@dataclass(frozen=True, slots=True)
class Asset:
    """One recording of a manifest and what is asked for it; None means "not said".

    `uri` is the manifest's own text, `path` the local file that it means, absolute, or None for
    an entry that was not wanted: nobody looked for its file. `position` counts from 0. A higher
    `priority` goes first. `metadata` holds every field of the entry that was not understood.
    `seen` is the file's identity (`manifest_sources.identity`) when the manifest was read, None
    where there was no file.
    """

    id: str
    uri: str
    path: Path | None
    name: str
    position: int
    language: str | None = None
    task: Literal["transcribe", "translate"] | None = None
    prompt: str | None = None
    hotwords: str | None = None
    min_speakers: int | None = None
    max_speakers: int | None = None
    num_speakers: int | None = None
    priority: int = 0
    formats: tuple[str, ...] | None = None
    duration_s: float | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    seen: str | None = field(default=None, compare=False)

    def field(self, name: str) -> Any:
        """The value of a field by the manifest's name for it, else by ours; None if there is none.

        The manifest's own unknown fields come first, then ours (and `position`), then other names
        of ours (`file_name` for `uri`).
        """
        if name in self.metadata:
            return self.metadata[name]
        ours = _OUR_NAMES.get(name)
        return None if ours is None else getattr(self, ours)


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest without problems: all its entries in order, wanted or not."""

    path: Path
    assets: tuple[Asset, ...]
    defaults: dict[str, Any]


def load(
    path: Path,
    *,
    root: Path | None = None,
    fields: Mapping[str, str] | None = None,
    allow_missing: bool = False,
    known_formats: frozenset[str],
    wanted: Callable[[Asset], bool] | None = None,
) -> Manifest:
    """Read a manifest and check all of it.

    Args:
        path: a JSON document or JSON Lines; see `manifest_text.opened`.
        root: where relative paths begin, instead of the manifest's folder.
        fields: our name of a field (of `FIELDS`) to the manifest's name for it.
        allow_missing: do not mind files that are not there; the asset will fail by itself.
        known_formats: names of the output formats that an entry may ask for.
        wanted: which assets the run is about: only their files have to be there and local. All
            else is checked of every entry.

    Raises:
        ManifestError: with every problem there is, each with its line or JSON pointer.
        UsageError: `fields` maps what is no field of ours, or `root` is no folder.
    """
    mapping = dict(fields or {})
    if unknown := sorted(mapping.keys() - FIELDS):
        raise UsageError(
            f"There is no field {shown(unknown[0])} to map.",
            remedy=f"Known: {', '.join(sorted(FIELDS))}.",
        )
    if root is not None and not root.is_dir():
        raise UsageError(f"The root {for_terminal(str(root))} is no folder.")
    with manifest_text.opened(path) as source, uncollected():
        reader = _Reader(source, str((root or path.parent).absolute()), mapping, known_formats)
        assets = reader.read(wanted, allow_missing)
        if problems := reader.problems():
            raise manifest_text.refused(path, problems)
    return Manifest(path, tuple(assets), reader.defaults)


def parse_fields(texts: Sequence[str]) -> dict[str, str]:
    """Read what stands after `--field`: our name of a field, `=`, the manifest's.

    Raises:
        UsageError: a text is not of this form, or maps a field twice.
    """
    mapping: dict[str, str] = {}
    for text in texts:
        ours, equals, theirs = text.partition("=")
        if not (equals and ours and theirs) or ours in mapping:
            reason = "maps a field that is mapped already" if ours in mapping else "cannot be read"
            raise UsageError(
                f"--field '{for_terminal(text)}' {reason}.",
                remedy="Write it as ours=theirs, for example uri=file_name.",
            )
        mapping[ours] = theirs
    return mapping


class _Reader:
    """One pass over one manifest, collecting its problems."""

    def __init__(
        self,
        source: JsonDocument | JsonLines,
        root: str,
        mapping: dict[str, str],
        known_formats: frozenset[str],
    ) -> None:
        self.defaults: dict[str, Any] = {}
        self._problems: list[tuple[int, str]] = []
        self._source = source
        self._root = root
        self._mapping = mapping
        self._entry_model, self._defaults_model = manifest_entry.models(known_formats)
        replaced = {name for ours in mapping for name in ALIASES.get(ours, (ours,))}
        self._read_as_named = self._entry_model.model_fields.keys() - replaced
        self._understood = (FIELDS - mapping.keys()) | set(mapping.values())
        self._id_name = mapping.get("id", "id")
        self._first_with_id: dict[str, tuple[int, int | None]] = {}

    def read(self, wanted: Callable[[Asset], bool] | None, allow_missing: bool) -> list[Asset]:
        """All entries as assets; worth nothing where there are `problems`."""
        for keys, text in self._source.faults():
            self._report(None, keys, text)
        self._read_defaults()
        assets: list[Asset] = []
        located = filter(None, map(self._located, self._source.entries()))
        while some := list(itertools.islice(located, _LOOKED_FOR_AT_ONCE)):
            assets += self._looked_for(some, wanted, allow_missing)
        if not assets and not self._problems:
            self._report(None, self._source.base, "the manifest names no recordings")
        return assets

    def _looked_for(
        self,
        entries: Sequence[_Located],
        wanted: Callable[[Asset], bool] | None,
        allow_missing: bool,
    ) -> Iterator[Asset]:
        """These entries as assets, each with its file if it is wanted."""
        sought = [wanted is None or wanted(entry.asset(None)) for entry in entries]
        places = [
            entry.places
            for entry, is_sought in zip(entries, sought, strict=True)
            if is_sought and entry.places
        ]
        files = iter(manifest_sources.look_for_all(places))
        for entry, is_sought in zip(entries, sought, strict=True):
            if not is_sought:
                yield entry.asset(None)
                continue
            found = next(files) if entry.places else None
            if entry.problem:
                self._report(entry.raw, (entry.key,), entry.problem)
            elif found and found.problem and not allow_missing:
                self._report(entry.raw, (entry.key,), found.problem)
            yield entry.asset(found)

    def problems(self) -> list[str]:
        """What was found, in the order of the manifest."""
        return [text for _, text in sorted(self._problems, key=lambda problem: problem[0])]

    def _report(self, raw: Raw | None, keys: Keys, text: str) -> None:
        self._problems.append((-1 if raw is None else raw.index, f"{self._at(raw, keys)}: {text}"))

    def _at(self, raw: Raw | None, keys: Keys = ()) -> str:
        """The place of a value as people find it: line and JSON pointer."""
        if raw is None or raw.line is None:
            keys = keys if raw is None else (*self._source.base, raw.index, *keys)
            line = self._source.line(keys)
        else:
            line = raw.line
        parts = (f"line {line}" if line else "", pointer(keys))
        return ", ".join(part for part in parts if part) or "the document"

    def _read_defaults(self) -> None:
        value = self._source.defaults
        if value is None:
            return
        base = ("defaults",)
        sound = self._without_faults(None, value, base)
        model = self._validated(self._defaults_model, sound, None, base)
        self.defaults = options_of(model)
        for text in speaker_conflicts(self.defaults):
            self._report(None, base, text)

    def _without_faults(self, raw: Raw | None, value: Any, base: Keys = ()) -> Any:
        if manifest_text.is_surely_sound(value):
            return value
        bad = set[str | int]()
        for keys, text in manifest_text.faults(value):
            self._report(raw, (*base, *keys), text)
            bad.update(keys[:1])
        if not bad or not isinstance(value, dict):
            return value
        return {key: item for key, item in value.items() if key not in bad}

    def _validated(
        self,
        model: type[_Model],
        value: Any,
        raw: Raw | None,
        base: Keys = (),
        names: Mapping[str, str] = MappingProxyType({}),
    ) -> _Model:
        """What is sound of `value`; what is not is reported, under the manifest's names for it."""
        try:
            return model.model_validate(value)
        except ValidationError as error:
            bad = set[str]()
            for field_name, text in manifest_entry.problems(error):
                keys = (*base, names.get(field_name, field_name)) if field_name else base
                self._report(raw, keys, text)
                bad.add(field_name)
            sound = value if isinstance(value, dict) else {}
            return model.model_validate({k: v for k, v in sound.items() if k not in bad})

    def _understood_of(self, raw: Raw) -> manifest_entry.Entry | None:
        """The fields of an entry that are understood; None if it is no object."""
        if raw.fault is not None:
            self._problems.append((raw.index, f"{self._at(raw)}, {raw.fault}"))
            return None
        if not isinstance(raw.value, dict):
            self._report(raw, (), f"an entry must be an object, not {shown(raw.value)}")
            return None
        sound = self._without_faults(raw, raw.value)
        known = {name: value for name, value in sound.items() if name in self._read_as_named}
        if self._mapping:
            known |= {ours: sound[name] for ours, name in self._mapping.items() if name in sound}
        return self._validated(self._entry_model, known, raw, names=self._mapping)

    def _located(self, raw: Raw) -> _Located | None:
        """An entry whose file has not been looked for; None if it is none or names none."""
        if (model := self._understood_of(raw)) is None:
            return None
        key, uri = self._chosen(model, "uri")
        if uri is None:
            self._check_source_is_named(raw)
            self._check_id(raw, model.id)
            return None
        folder = raw.value.get("folder_path") if key == "file_name" else None
        folder = folder if isinstance(folder, str) else None
        places: tuple[str, ...] = ()
        text, problem = uri, None
        try:
            text = manifest_sources.local_text(uri)
            places = manifest_sources.candidates(text, self._root, folder)
        except manifest_sources.SourceError as error:
            problem = str(error)
        asset_id = model.id or manifest_sources.derived_id(f"{folder}/{text}" if folder else text)
        self._check_id(raw, asset_id if raw.value.get(self._id_name) is None else model.id)
        fields = {
            "id": asset_id,
            "uri": uri,
            "name": model.name
            if model.name and model.name.strip()
            else manifest_sources.stem(text),
            "position": raw.index,
            "duration_s": self._chosen(model, "duration_s")[1],
            "metadata": self._unknown_fields(raw.value, model, key),
            **self._merged_options(raw, model),
        }
        return _Located(fields, raw, key, places, problem)

    def _chosen(self, model: BaseModel, ours: str) -> tuple[str, Any]:
        """The manifest's name of a field of ours, and its value; ("", None) if it has none."""
        for alias in ALIASES[ours]:
            if (value := getattr(model, alias)) is not None:
                return self._mapping.get(ours, alias), value
        return "", None

    def _check_source_is_named(self, raw: Raw) -> None:
        names = (self._mapping["uri"],) if "uri" in self._mapping else ALIASES["uri"]
        if all(raw.value.get(name) is None for name in names):
            self._report(raw, (), f"the entry names no recording: it has no {' or '.join(names)}")

    def _check_id(self, raw: Raw, asset_id: str | None) -> None:
        if asset_id is None:
            return
        index, line = self._first_with_id.setdefault(asset_id, (raw.index, raw.line))
        if index != raw.index:
            place = self._at(Raw(index, None, line))
            if raw.value.get(self._id_name) is None:
                text = f"the same recording is already at {place}; to have it twice, give both ids"
                self._report(raw, (), text)
            else:
                text = f"the id {shown(asset_id)} is already that of {place}"
                self._report(raw, (self._id_name,), text)

    def _unknown_fields(
        self, entry: dict[str, Any], model: BaseModel, source_key: str
    ) -> dict[str, Any]:
        others = {
            name: value
            for name, value in entry.items()
            if name not in self._understood and name != source_key
        }
        if others:
            for ours in ALIASES:
                others.pop(self._chosen(model, ours)[0], None)
        return others

    def _merged_options(self, raw: Raw, model: BaseModel) -> dict[str, Any]:
        own = options_of(model)
        if not own:
            return self.defaults
        merged = dict(self.defaults)
        # What an entry says of its speakers replaces what the defaults say otherwise.
        if "num_speakers" in own:
            merged.pop("min_speakers", None)
            merged.pop("max_speakers", None)
        elif not own.keys().isdisjoint(SPEAKER_FIELDS):
            merged.pop("num_speakers", None)
        merged |= own
        if not own.keys().isdisjoint(SPEAKER_FIELDS):
            for text in speaker_conflicts(merged):
                self._report(raw, (), text)
        return merged


@dataclass(frozen=True, slots=True)
class _Located:
    """What an entry says, where it stands, and where its file may lie, or why it cannot be local.

    `fields` are those of its asset but for what is known once its file has been looked for.
    """

    fields: dict[str, Any]
    raw: Raw
    key: str
    places: tuple[str, ...]
    problem: str | None

    def asset(self, found: manifest_sources.Found | None) -> Asset:
        """The asset; None if nobody has looked for its file."""
        if found is None:
            return Asset(path=None, **self.fields)
        return Asset(path=found.path, seen=found.identity, **self.fields)
