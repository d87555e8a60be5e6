"""What linking remembers of an output folder between times: `voices.json` beside the journal.

It is written before any transcript is changed, so that a linking that is killed goes on as it had
decided. It also brings back a voice's id when its recording is diarized or written anew, and keeps
ids from ever being given twice. Without it, the ids in the transcripts still count.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audio_batch.errors import SetupError
from audio_batch.storage import write_atomic
from audio_batch.transcript import Speaker, Transcript

if TYPE_CHECKING:
    from audio_batch.voices.linking import KnownVoice

SCHEMA_VERSION = 1


@dataclass(slots=True)
class Memory:
    """The voices of each embedding space, and what was decided about every voice of a recording.

    `decided` holds, by asset id and label, the voice's id (None: too little to tell) and the
    digest of the embedding that it was decided on: a label may come to mean another voice.
    """

    last_number: int = 0
    known: dict[str, dict[str, KnownVoice]] = field(default_factory=dict)
    decided: dict[str, dict[str, tuple[str | None, str]]] = field(default_factory=dict)

    def voice_of(self, asset_id: str, speaker: Speaker) -> str | None:
        """The id that was decided on for this very voice, else the one that it bears itself."""
        decision = self.decided.get(asset_id, {}).get(speaker.label)
        if decision is not None and decision[1] == embedding_digest(speaker):
            return decision[0]
        return speaker.voice

    def applied(self, transcript: Transcript) -> Transcript:
        """The transcript with the ids of its voices: for one that was put together anew."""
        speakers = tuple(
            dataclasses.replace(speaker, voice=self.voice_of(transcript.asset_id, speaker))
            for speaker in transcript.speakers
        )
        return dataclasses.replace(transcript, speakers=speakers)


def embedding_digest(speaker: Speaker) -> str:
    """A name for the speaker's vector as it is published, of six decimals; "" without one."""
    if speaker.embedding is None:
        return ""
    text = ",".join(f"{round(value, 6):.6f}" for value in speaker.embedding)
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:16]


def memory_path(state: Path) -> Path:
    """Where the memory lies, of the output folder with this state folder."""
    return state / "voices.json"


def recall(state: Path) -> Memory:
    """The memory of an output folder; empty where there is none yet.

    Raises:
        SetupError: it cannot be read, or is of a newer version.
    """
    path = memory_path(state)
    try:
        document = json.loads(path.read_bytes())
        version = document["schema_version"]
        if version != SCHEMA_VERSION:
            raise SetupError(
                f"{path} was written by a newer audio-batch (schema {version}).",
                remedy="Upgrade audio-batch.",
            )
        return Memory(
            last_number=int(document["last_number"]),
            known={
                space: {voice: _unpacked(entry) for voice, entry in voices.items()}
                for space, voices in document["known"].items()
            },
            decided={
                asset_id: {label: _decision(*entry) for label, entry in labels.items()}
                for asset_id, labels in document["decided"].items()
            },
        )
    except FileNotFoundError:
        return Memory()
    except OSError as error:
        raise SetupError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise SetupError(
            f"{path} is damaged.",
            remedy="Remove it and link again: the ids in the transcripts are kept.",
        ) from error


def keep(state: Path, memory: Memory) -> None:
    """Write the memory, durably.

    Raises:
        SetupError: it cannot be written.
    """
    document = {
        "schema_version": SCHEMA_VERSION,
        "last_number": memory.last_number,
        "known": {
            space: {voice: _packed(known) for voice, known in voices.items()}
            for space, voices in memory.known.items()
        },
        "decided": memory.decided,
    }
    write_atomic(memory_path(state), json.dumps(document).encode("ascii"))


def _decision(voice: str | None, digest: str) -> tuple[str | None, str]:
    if not (voice is None or isinstance(voice, str)) or not isinstance(digest, str):
        raise ValueError("no decision")
    return voice, digest


def _packed(known: KnownVoice) -> dict[str, Any]:
    data = known.mean.astype("<f4").tobytes()
    return {"mean": base64.b64encode(data).decode("ascii"), "weight_s": known.weight_s}


def _unpacked(entry: Mapping[str, Any]) -> KnownVoice:
    import numpy as np

    from audio_batch.voices.linking import KnownVoice

    try:
        data = base64.b64decode(entry["mean"], validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from error
    mean = np.frombuffer(data, dtype="<f4").astype(np.float32)
    weight_s = float(entry["weight_s"])
    if not (mean.size and np.isfinite(mean).all() and 0 < weight_s < float("inf")):
        raise ValueError("no vector")
    return KnownVoice(mean, weight_s)
