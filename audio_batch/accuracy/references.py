"""What a manifest's entries give as the truth.

An entry may have these fields; files are named relative to the manifest's folder:

    reference_text      what is said; or, in one line that ends in .txt, a file of it
    reference_rttm      who speaks when: RTTM
    reference_uem       the part of the recording that the turns are good for: UEM
    reference_seglst    who says what when: SegLST as in meeteval, JSON or JSON Lines
    reference_words     when each word is said: a list of [word, start, end] in seconds, or a CTM

SegLST serves for text, speakers' words and turns at once; timed words serve for the text. A field
of its own goes before them. `ALIASES` has what other tools' manifests call these fields.

A file may be about many recordings: the one that counts is named as the asset's id or as its
audio file without the suffix. A file with one recording that one asset alone names is that
asset's, whatever its name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from audio_batch import manifest_sources
from audio_batch.accuracy import reference_files
from audio_batch.accuracy.reference_files import ReferenceFileError, Stretch
from audio_batch.accuracy.words import TimedWord
from audio_batch.manifest import Asset
from audio_batch.text import for_terminal
from audio_batch.transcript import Turn

_T = TypeVar("_T")

ALIASES: Mapping[str, tuple[str, ...]] = {
    "reference_text": ("reference_text", "text", "transcription"),
    "reference_rttm": ("reference_rttm", "rttm_filepath"),
    "reference_uem": ("reference_uem", "uem_filepath"),
    "reference_seglst": ("reference_seglst",),
    "reference_words": ("reference_words", "ctm_filepath"),
}
"""Our fields and what NeMo and Hugging Face call them; the first that is there counts.

What is null, empty or NeMo's "-" is not there; but an empty `reference_text` says that the
recording is silent.
"""


@dataclass(frozen=True, slots=True)
class Reference:
    """What is known of one recording; None is unknown, an empty value is nothing to be heard.

    `speakers` has all that each speaker says, in order of time. `region` is what the turns are good
    for, None all of the recording. `problems` are the fields that could not be used, a sentence
    each.
    """

    text: str | None = None
    speakers: Mapping[str, str] | None = None
    turns: tuple[Turn, ...] | None = None
    region: tuple[Stretch, ...] | None = None
    words: tuple[TimedWord, ...] | None = None
    problems: tuple[str, ...] = ()


class References:
    """The references of a manifest's assets. Files that many of them share are read once."""

    def __init__(self, assets: Iterable[Asset], folder: Path) -> None:
        self._folder = str(folder.absolute())
        self._read = dict[tuple[str, Path], dict[str, Any] | ReferenceFileError]()
        named = (given for asset in assets for _, given in _given(asset).values())
        self._named = Counter(value for value in named if isinstance(value, str))

    def has(self, asset: Asset) -> bool:
        """Whether an asset's entry has such a field, be it usable or not."""
        return bool(_given(asset))

    def of(self, asset: Asset) -> Reference | None:
        """An asset's reference; None where its entry has no such field."""
        given = _given(asset)
        if not given:
            return None
        reference, problems = Reference(), []
        # What says less of a thing before what says more of it.
        for ours, read in (
            ("reference_words", self._words),
            ("reference_seglst", self._seglst),
            ("reference_rttm", self._rttm),
            ("reference_uem", self._uem),
            ("reference_text", self._text),
        ):
            if ours in given:
                name, value = given[ours]
                try:
                    reference = replace(reference, **read(asset, name, value))
                except (ReferenceFileError, manifest_sources.SourceError) as error:
                    problems.append(for_terminal(f"{name} {error}"))
                    if ours == "reference_uem":  # the turns are good for nobody knows what
                        reference = replace(reference, turns=None)
        return replace(reference, problems=tuple(problems))

    def _text(self, _: Asset, name: str, value: Any) -> dict[str, Any]:
        text = _checked_text(value)
        is_file = text.lower().endswith(".txt") and "\n" not in text and name == "reference_text"
        return {"text": reference_files.read_text(self._path(text)) if is_file else text}

    def _words(self, asset: Asset, _: str, value: Any) -> dict[str, Any]:
        if isinstance(value, list):
            given = reference_files.timed_words(value)
        else:
            given = self._of_recording(asset, value, reference_files.read_ctm)
        words = tuple(sorted(given, key=lambda word: word.start_s))
        return {"words": words, "text": " ".join(word.text for word in words)}

    def _seglst(self, asset: Asset, _: str, value: Any) -> dict[str, Any]:
        said = self._of_recording(asset, value, reference_files.read_seglst)
        found: dict[str, Any] = {
            "text": " ".join(one.words for one in said),
            "speakers": {
                speaker: " ".join(one.words for one in said if one.speaker == speaker)
                for speaker in dict.fromkeys(one.speaker for one in said)
            },
        }
        if all(one.times_s for one in said):
            found["turns"] = tuple(Turn(one.speaker, *one.times_s) for one in said if one.times_s)
        return found

    def _rttm(self, asset: Asset, _: str, value: Any) -> dict[str, Any]:
        return {"turns": self._of_recording(asset, value, reference_files.read_rttm)}

    def _uem(self, asset: Asset, _: str, value: Any) -> dict[str, Any]:
        return {"region": self._of_recording(asset, value, reference_files.read_uem)}

    def _of_recording(
        self, asset: Asset, value: Any, reader: Callable[[Path], dict[str, _T]]
    ) -> _T:
        """What the file that `value` names has of an asset."""
        path = self._path(_checked_text(value))
        key = (reader.__name__, path)
        if key not in self._read:
            try:
                self._read[key] = reader(path)
            except ReferenceFileError as error:
                self._read[key] = ReferenceFileError(f"({path.name}) {error}")
        found = self._read[key]
        if isinstance(found, ReferenceFileError):
            raise found
        names = _names(asset)
        if len(found) == 1 and self._named[value] == 1:
            names = (*names, *found)
        for name in names:
            if name in found:
                recording: _T = found[name]
                return recording
        raise ReferenceFileError(f"({path.name}) says nothing of {' or '.join(names)}")

    def _path(self, text: str) -> Path:
        local = manifest_sources.local_text(text)
        found = manifest_sources.look(manifest_sources.candidates(local, self._folder, None))
        if found.problem:
            raise ReferenceFileError(f"cannot be used: {found.problem}")
        return found.path


def files_of(asset: Asset) -> Iterator[str]:
    """What of an asset's fields may name a file, as it stands there."""
    for ours, (name, value) in _given(asset).items():
        may_be = ours != "reference_text" or name == ours
        if may_be and isinstance(value, str) and "\n" not in value:
            yield value


def _given(asset: Asset) -> dict[str, tuple[str, Any]]:
    """By our name of a field: the manifest's name for it, and its value."""
    given = {}
    for ours, names in ALIASES.items():
        for name in names:
            value = asset.metadata.get(name)
            silent = name == "reference_text" and value == ""
            if silent or value not in (None, "", "-"):
                given[ours] = (name, value)
                break
    return given


def _checked_text(value: Any) -> str:
    if not isinstance(value, str):
        raise ReferenceFileError("must be text")
    return value


def _names(asset: Asset) -> tuple[str, ...]:
    """What a file of references may call an asset; names in most of them have no blanks."""
    names = (asset.id, manifest_sources.stem(asset.uri))
    return tuple(dict.fromkeys((*names, *("_".join(name.split()) for name in names))))
