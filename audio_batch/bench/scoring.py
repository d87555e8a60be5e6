"""What peers wrote, against what is said."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from audio_batch.accuracy import cpwer, pooled, score_words
from audio_batch.accuracy.references import Reference
from audio_batch.transcript import Transcript


@dataclass(frozen=True, slots=True)
class Heard:
    """What a program heard in a recording: its words, and each speaker's."""

    text: str
    speakers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Score:
    """Rates over all recordings with a reference; None where none has one."""

    wer: float | None
    cpwer: float | None


def read(path: Path) -> Heard | None:
    """A JSON as whisper's programs write it; None where there is none."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        segments = [(str(s["text"]), s.get("speaker")) for s in data["segments"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return _heard(segments)


def of_transcript(transcript: Transcript) -> Heard:
    """The same of one of our transcripts."""
    return _heard([(segment.text, segment.speaker) for segment in transcript.segments])


def _heard(segments: Sequence[tuple[str, str | None]]) -> Heard:
    speakers = dict[str, str]()
    for text, speaker in segments:
        name = speaker or ""
        speakers[name] = f"{speakers.get(name, '')} {text.strip()}".strip()
    return Heard(" ".join(text.strip() for text, _ in segments), speakers)


def score(pairs: Iterable[tuple[Reference | None, Heard | None]], *, with_speakers: bool) -> Score:
    """Score recordings; one that was not transcribed counts as nothing heard."""
    words, attributed = [], []
    for reference, heard in pairs:
        if reference is None or reference.text is None:
            continue
        words.append(score_words(reference.text, heard.text if heard else ""))
        if with_speakers and reference.speakers is not None:
            attributed.append(cpwer(reference.speakers, heard.speakers if heard else {}))
    return Score(
        wer=round(pooled(words).rate, 5) if words else None,
        cpwer=round(pooled(attributed).rate, 5) if attributed else None,
    )
