"""The long way through an entry of a manifest: all that is wrong about it, each with its place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from audio_batch import manifest_entry, manifest_sources, manifest_text
from audio_batch.asset import FIELDS, Asset
from audio_batch.manifest_entry import ALIASES, SPEAKER_FIELDS, options_of, speaker_conflicts
from audio_batch.manifest_file import Source
from audio_batch.manifest_text import Keys, Raw, pointer, shown

_Model = TypeVar("_Model", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Located:
    """What an entry says, where it stands, and where its file may lie, or why it cannot be had.

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


class Checker:
    """Checks the entries of one manifest and collects its problems.

    Args:
        root: where relative paths begin, absolute.
        mapping: our name of a field to the manifest's.
        check_id: is told the id of each entry, if it has one that could be right.
    """

    def __init__(
        self,
        source: Source,
        root: str,
        mapping: Mapping[str, str],
        known_formats: frozenset[str],
        *,
        allow_http: bool,
        check_id: Callable[[Raw, str], None],
    ) -> None:
        self.defaults: dict[str, Any] = {}
        self._problems: list[tuple[int, str]] = []
        self._source = source
        self._root = root
        self._mapping = mapping
        self._allow_http = allow_http
        self._tell_id = check_id
        self._entry_model, self._defaults_model = manifest_entry.models(known_formats)
        replaced = {name for ours in mapping for name in ALIASES.get(ours, (ours,))}
        self.read_as_named = self._entry_model.model_fields.keys() - replaced
        self._understood = (FIELDS - mapping.keys()) | set(mapping.values())
        self.id_name = mapping.get("id", "id")

    def check_document(self) -> None:
        """Check what is not an entry, and read the defaults."""
        for keys, text in self._source.faults():
            self.report(None, keys, text)
        self._read_defaults()

    def forget_problems(self) -> None:
        """Entries that are read again were checked before."""
        self._problems.clear()

    def problems(self) -> list[str]:
        """What was found, in the order of the manifest."""
        return [text for _, text in sorted(self._problems, key=lambda problem: problem[0])]

    def report(self, raw: Raw | None, keys: Keys, text: str) -> None:
        """Take down what is wrong with a value of an entry, or of the document."""
        self._problems.append((-1 if raw is None else raw.index, f"{self.at(raw, keys)}: {text}"))

    def at(self, raw: Raw | None, keys: Keys = ()) -> str:
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
            self.report(None, base, text)

    def _without_faults(self, raw: Raw | None, value: Any, base: Keys = ()) -> Any:
        if manifest_text.is_surely_sound(value):
            return value
        bad = set[str | int]()
        for keys, text in manifest_text.faults(value):
            self.report(raw, (*base, *keys), text)
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
                self.report(raw, keys, text)
                bad.add(field_name)
            sound = value if isinstance(value, dict) else {}
            return model.model_validate({k: v for k, v in sound.items() if k not in bad})

    def _understood_of(self, raw: Raw) -> manifest_entry.Entry | None:
        """The fields of an entry that are understood; None if it is no object."""
        if raw.fault is not None:
            self._problems.append((raw.index, f"{self.at(raw)}, {raw.fault}"))
            return None
        if not isinstance(raw.value, dict):
            self.report(raw, (), f"an entry must be an object, not {shown(raw.value)}")
            return None
        sound = self._without_faults(raw, raw.value)
        known = {name: value for name, value in sound.items() if name in self.read_as_named}
        if self._mapping:
            known |= {ours: sound[name] for ours, name in self._mapping.items() if name in sound}
        return self._validated(self._entry_model, known, raw, names=self._mapping)

    def located(self, raw: Raw) -> Located | None:
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
            if manifest_sources.is_remote_uri(uri):
                problem = manifest_sources.remote_problem(uri, allow_http=self._allow_http)
            else:
                text = manifest_sources.local_text(uri)
                places = manifest_sources.candidates(text, self._root, folder)
        except manifest_sources.SourceError as error:
            problem = str(error)
        asset_id = model.id or manifest_sources.derived_id(f"{folder}/{text}" if folder else text)
        self._check_id(raw, asset_id if raw.value.get(self.id_name) is None else model.id)
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
        return Located(fields, raw, key, places, problem)

    def _chosen(self, model: BaseModel, ours: str) -> tuple[str, Any]:
        """The manifest's name of a field of ours, and its value; ("", None) if it has none."""
        for alias in ALIASES[ours]:
            if (value := getattr(model, alias)) is not None:
                return self._mapping.get(ours, alias), value
        return "", None

    def _check_source_is_named(self, raw: Raw) -> None:
        names = (self._mapping["uri"],) if "uri" in self._mapping else ALIASES["uri"]
        if all(raw.value.get(name) is None for name in names):
            self.report(raw, (), f"the entry names no recording: it has no {' or '.join(names)}")

    def _check_id(self, raw: Raw, asset_id: str | None) -> None:
        if asset_id is not None:
            self._tell_id(raw, asset_id)

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
                self.report(raw, (), text)
        return merged
