"""`speakers.json`: the one file in which a person names the voices of an output folder.

    {
      "schema_version": 1,
      "voices": {
        "VOICE_0001": {"name": "Alice", "recordings": 12, "talk_s": 345.6, "heard_in": ["call-07"]},
        "VOICE_0002": {"name": null, "recordings": 1, "talk_s": 8.1, "heard_in": ["call-12"]}
      }
    }

`name` is the person's to write, the rest of it the program's. `heard_in` are up to five recordings
in which the voice talks most. What a person added stays; two voices may bear one name, which is
how to say that they are one person's.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from audio_batch.errors import UsageError
from audio_batch.storage import write_atomic
from audio_batch.text import for_document, for_terminal
from audio_batch.transcript import Speaker, Transcript

FILE_NAME = "speakers.json"
SCHEMA_VERSION = 1

_MAX_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class VoiceSummary:
    """What the program knows of a voice over all recordings of a folder."""

    recordings: int
    talk_s: float
    heard_in: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NamedVoice:
    """A voice as the file has it. `name` is clean enough to be shown; None where it has none."""

    voice: str
    name: str | None
    recordings: int
    talk_s: float
    heard_in: tuple[str, ...]


def load(root: Path) -> dict[str, str]:
    """The names that voices have been given, by voice id; {} where there is no file.

    Raises:
        UsageError: the file is no longer what it was meant to be; names the place.
    """
    return {voice.voice: voice.name for voice in listed(root) if voice.name}


def listed(root: Path) -> list[NamedVoice]:
    """All voices of the file, by id.

    Raises:
        UsageError: as `load`.
    """
    voices = read(root)["voices"]
    return [
        NamedVoice(
            voice=voice,
            name=for_document(entry.get("name") or "") or None,
            recordings=_number(entry.get("recordings"), int),
            talk_s=_number(entry.get("talk_s"), float),
            heard_in=tuple(text for text in entry.get("heard_in", ()) if isinstance(text, str)),
        )
        for voice, entry in sorted(voices.items())
    ]


def named(speaker: Speaker, names: Mapping[str, str]) -> Speaker:
    """The speaker with the name that its voice was given.

    A name with a score was recognised from an enrolled voice, and stands before that.
    """
    if speaker.score is not None:
        return speaker
    name = names.get(speaker.voice) if speaker.voice else None
    return speaker if name == speaker.name else dataclasses.replace(speaker, name=name)


def applied(transcript: Transcript, names: Mapping[str, str]) -> Transcript:
    """The transcript with `names` (of `load`) given to its speakers."""
    speakers = tuple(named(speaker, names) for speaker in transcript.speakers)
    return dataclasses.replace(transcript, speakers=speakers)


def rename(root: Path, voice: str, name: str) -> str | None:
    """Name a voice in the file, or take its name away ("" does that); return the name as shown.

    Raises:
        UsageError: there is no such voice, or the file cannot be read.
        SetupError: the file cannot be written.
    """
    document = read(root)
    if voice not in document["voices"]:
        raise UsageError(
            f"{root / FILE_NAME} holds no voice {for_terminal(voice)!r}.",
            remedy="`audio-batch speakers list` shows those there are.",
        )
    shown = for_document(name) or None
    document["voices"][voice]["name"] = shown
    _write(root, document)
    return shown


def update(root: Path, voices: Mapping[str, VoiceSummary]) -> bool:
    """Bring the file up to date with the voices there are; return whether that changed it.

    Names and whatever else a person wrote stay. A voice that is no longer heard goes, unless it
    has a name or something else of a person's.

    Raises:
        UsageError: the file cannot be read.
        SetupError: it cannot be written.
    """
    document = read(root)
    before = json.dumps(document)
    entries: dict[str, dict[str, Any]] = document["voices"]
    silent = VoiceSummary(recordings=0, talk_s=0.0, heard_in=())
    ours = {"name", *(field.name for field in dataclasses.fields(VoiceSummary))}
    kept = {
        voice
        for voice, entry in entries.items()
        if voice in voices or entry.get("name") or set(entry) - ours
    }
    document["voices"] = {
        voice: {
            "name": None,
            **entries.get(voice, {}),
            **dataclasses.asdict(voices.get(voice, silent)),
        }
        for voice in sorted(kept | set(voices))
    }
    document = {"schema_version": SCHEMA_VERSION, **document}
    if json.dumps(document) == before and (root / FILE_NAME).is_file():
        return False
    _write(root, document)
    return True


def read(root: Path) -> dict[str, Any]:
    """The file's checked content, without voices where there is no file.

    Raises:
        UsageError: as `load`.
    """
    path = root / FILE_NAME
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise _unusable(path, "it is too large to be a list of voices")
        data = path.read_bytes()
    except FileNotFoundError:
        return {"schema_version": SCHEMA_VERSION, "voices": {}}
    except OSError as error:
        raise _unusable(path, error.strerror or type(error).__name__) from error
    try:
        document = json.loads(
            data.decode("utf-8-sig"),
            object_pairs_hook=_once,
            parse_float=_real,
            parse_constant=_real,
        )
    except UnicodeDecodeError as error:
        raise _unusable(path, f"byte {error.start + 1} is not UTF-8") from error
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise _unusable(path, f"{place}: {error.msg}") from error
    except (ValueError, RecursionError) as error:
        raise _unusable(path, str(error)) from error
    fault = _fault(document)
    if fault:
        raise _unusable(path, fault)
    return dict(document)


def _fault(document: Any) -> str | None:
    """What keeps a parsed document from being a list of voices, with its place."""
    if not isinstance(document, dict):
        return "it is no JSON object"
    if "segments" in document:
        return "it is a transcript; no recording may be called speakers here"
    version = document.get("schema_version", SCHEMA_VERSION)
    if not isinstance(version, int) or isinstance(version, bool) or version != SCHEMA_VERSION:
        return f"schema_version {version!r} is not the one this program reads ({SCHEMA_VERSION})"
    voices = document.get("voices")
    if not isinstance(voices, dict):
        return 'it has no object "voices"'
    for voice, entry in voices.items():
        if not isinstance(entry, dict):
            return f'voices.{voice}: an object such as {{"name": "Alice"}} is wanted'
        name = entry.get("name")
        if name is not None and not isinstance(name, str):
            return f"voices.{voice}.name: a text in quotes or null is wanted, not {name!r}"
        if not isinstance(entry.get("heard_in", []), list):
            return f"voices.{voice}.heard_in: a list of recordings is wanted"
    return None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"{twice!r} stands in it twice")
    return found


def _real(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is no number that JSON has")
    return number


def _unusable(path: Path, reason: str) -> UsageError:
    return UsageError(
        for_terminal(f"{path} cannot be used: {reason[:300]}."),
        remedy="Mend it, or move it away: the names in it are then gone, the voices are not.",
    )


def _number(value: Any, kind: type[int] | type[float]) -> Any:
    """The program's own figure; whatever else stands there counts as none."""
    good = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15
    return kind(value) if good else kind(0)


def _write(root: Path, document: dict[str, Any]) -> None:
    """One voice a line: a person looks for an id and writes a name behind it."""
    lines = [f"    {_json(voice)}: {_json(entry)}" for voice, entry in document["voices"].items()]
    voices = "{\n" + ",\n".join(lines) + "\n  }" if lines else "{}"
    parts = [
        f"  {_json(key)}: {voices if key == 'voices' else _json(value)}"
        for key, value in document.items()
    ]
    text = "{\n" + ",\n".join(parts) + "\n}\n"
    # Halves of surrogate pairs, which UTF-8 does not have, become JSON's own escapes.
    write_atomic(root / FILE_NAME, text.encode("utf-8", "backslashreplace"))


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
