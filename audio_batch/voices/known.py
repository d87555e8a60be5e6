"""What is known of a folder's voices, given to every transcript before it is written."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from audio_batch.transcript import Speaker, Transcript
from audio_batch.voices import memory, names

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from audio_batch.engines.base import Diarizer
    from audio_batch.voices.enrolment import Enrolled, Enrolment


@dataclass(frozen=True, slots=True)
class KnownVoices:
    """The ids that linking gave, the names of `speakers.json`, and the enrolled people.

    `enrolled` are vectors of the embedding `space`; a transcript of another space keeps its labels.
    """

    remembered: memory.Memory
    given: Mapping[str, str]
    enrolled: Enrolled | None = None
    space: str | None = None
    threshold: float = 1.0

    def named(self, transcript: Transcript) -> Transcript:
        """The transcript with everything that is known of its speakers; in any thread."""
        if not transcript.speakers:
            return transcript
        transcript = self.remembered.applied(transcript)
        speakers = tuple(_unrecognised(speaker) for speaker in transcript.speakers)
        transcript = names.applied(dataclasses.replace(transcript, speakers=speakers), self.given)
        about = transcript.provenance.get("diarization")
        space = about.get("embedding_identity") if isinstance(about, dict) else None
        if self.enrolled is None or space != self.space:
            return transcript
        from audio_batch.voices.enrolment import identify

        found = identify(transcript.speakers, self.enrolled, self.threshold)
        return dataclasses.replace(transcript, speakers=found)


def _unrecognised(speaker: Speaker) -> Speaker:
    """Without the name that an enrolment gave, which may no longer be asked for."""
    if speaker.score is None:
        return speaker
    return dataclasses.replace(speaker, name=None, score=None)


def naming_key(given: Mapping[str, str], people: Enrolment | None, threshold: float | None) -> str:
    """Name of all that decides what voices are called: part of the rendering; "" for nothing."""
    if not given and people is None:
        return ""
    parts = [sorted(given.items()), people.digest if people else None, threshold]
    return hashlib.sha256(json.dumps(parts).encode("ascii")).hexdigest()[:16]


def know(
    remembered: memory.Memory,
    given: Mapping[str, str],
    people: Enrolment | None,
    threshold: float | None,
    diarizer: Callable[[], Diarizer],
    decode: Callable[[Path], NDArray[np.float32]],
) -> KnownVoices:
    """Gather what is known of the folder's voices; enrolled clips are listened to here.

    Args:
        threshold: cosine for enrolled voices; None for the model's own.
        diarizer: asked only where there are enrolled people.
        decode: samples (float32, mono, 16 kHz) of a clip.

    Raises:
        UsageError: an enrolled clip cannot be used, or no threshold is known.
        SetupError, DeviceError: the model cannot be loaded or run.
    """
    if people is None:
        return KnownVoices(remembered, given)
    from audio_batch.voices.enrolment import embed_references

    model = diarizer()
    if threshold is None:
        threshold = model.enrol_threshold
    assert threshold is not None  # asked for at the start of the run
    enrolled = embed_references(people, model.embed, decode)
    return KnownVoices(remembered, given, enrolled, model.embedding_identity, threshold)
