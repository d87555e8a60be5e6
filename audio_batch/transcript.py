"""What a recording's speech became: words in segments, turns of speakers, and where it came from.

All types are frozen and hold plain values, so that they can cross a process border, be compared in
tests and be written as JSON. Times are seconds from the start of the recording.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

SCHEMA_VERSION = 1
"""Version of the canonical JSON; raised when a reader of the old form would misread the new."""


@dataclass(frozen=True, slots=True)
class Word:
    """One word as the engine wrote it, with its leading space removed."""

    text: str
    start_s: float
    end_s: float
    probability: float | None = None
    speaker: str | None = None


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of speech that the engine put in one piece; `words` is empty without word times."""

    text: str
    start_s: float
    end_s: float
    words: tuple[Word, ...] = ()
    speaker: str | None = None
    avg_logprob: float | None = None
    no_speech_prob: float | None = None
    compression_ratio: float | None = None
    temperature: float | None = None


@dataclass(frozen=True, slots=True)
class Turn:
    """One speaker's uninterrupted stretch of speech, as diarization found it."""

    speaker: str
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Speaker:
    """One voice of a recording. `label` is what words, segments and turns call it.

    `talk_s` is the sum of its turns, those that overlap others included. `embedding` is the voice
    as a vector, comparable only with vectors of the same embedding model (its identity stands in
    the provenance). `voice` is the id that `--link-speakers` gave this voice over all recordings;
    `name` is the enrolled name that it was recognised as, with the cosine `score` of that.
    """

    label: str
    talk_s: float
    embedding: tuple[float, ...] | None = None
    voice: str | None = None
    name: str | None = None
    score: float | None = None

    @property
    def shown(self) -> str:
        """What people read: the name, else the id over all recordings, else the label."""
        return self.name or self.voice or self.label


@dataclass(frozen=True, slots=True)
class Transcript:
    """Everything that is published for an asset; the canonical JSON is this, field by field.

    Words and segments carry speakers' labels; `speakers` says who they are. `turns` may overlap;
    in `exclusive_turns` one speaker at most talks at a time. `missing` names the stages that were
    asked for and failed: such a transcript is incomplete, and a later run mends it. `suspicions`
    say why it may not be the whole truth; see `audio_batch.suspicion`.

    `metadata` is the manifest entry's unknown fields, untouched. `provenance` says what made it:
    program and library versions, model, options, device, timings. `media` describes the input as
    it was decoded (container, codec, declared and decoded length, notes of damage).
    """

    asset_id: str
    source: str
    name: str
    language: str | None
    duration_s: float
    segments: tuple[Segment, ...]
    language_probability: float | None = None
    speakers: tuple[Speaker, ...] = ()
    turns: tuple[Turn, ...] = ()
    exclusive_turns: tuple[Turn, ...] = ()
    missing: tuple[str, ...] = ()
    suspicions: tuple[str, ...] = ()
    media: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The words of all segments, separated by single blanks."""
        return " ".join(s.text.strip() for s in self.segments if s.text.strip())

    def to_json(self) -> dict[str, Any]:
        """The canonical JSON object (`schema_version` first), ready for `json.dumps`."""
        body = dataclasses.asdict(self)
        return {"schema_version": SCHEMA_VERSION, **body, "text": self.text}

    @classmethod
    def from_json(cls, data: Any) -> Transcript:
        """Read what `to_json` wrote.

        Raises:
            ValueError: the object is of a newer schema, or is no transcript.
        """
        if not isinstance(data, dict):
            raise ValueError("not a transcript: no JSON object")
        version = data.get("schema_version")
        if not isinstance(version, int) or version > SCHEMA_VERSION or version < 1:
            raise ValueError(
                f"schema_version {version!r} is not one this program reads (1..{SCHEMA_VERSION})"
            )
        names = {f.name for f in dataclasses.fields(cls)}
        values = {key: value for key, value in data.items() if key in names}
        try:
            values["segments"] = tuple(
                Segment(**{**s, "words": tuple(Word(**w) for w in s.get("words", ()))})
                for s in data["segments"]
            )
            for name in ("turns", "exclusive_turns"):
                values[name] = tuple(Turn(**t) for t in data.get(name, ()))
            values["speakers"] = tuple(
                Speaker(**{**s, "embedding": _vector(s.get("embedding"))})
                for s in data.get("speakers", ())
            )
            for name in ("missing", "suspicions"):
                values[name] = tuple(data.get(name, ()))
            return cls(**values)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a transcript: {error}") from error


def _vector(values: Any) -> tuple[float, ...] | None:
    return None if values is None else tuple(float(value) for value in values)
