"""The stages of an asset whose results are kept, so that a failure or a wish redoes one of them.

A result is a compressed JSON file below the state folder, one per asset and stage, published like
an output before it is journalled. It is trusted only with the hash that the journal has. Nothing
here runs a stage; see `audio_batch.pipeline`.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import TypeAdapter, ValidationError

from audio_batch.engines.base import Diarization
from audio_batch.errors import AssetError
from audio_batch.outcome import Stage, StageRecord
from audio_batch.storage import PublishedFile, contained, publish
from audio_batch.transcript import Segment

SCHEMA_VERSION = 1

_log = logging.getLogger("audio_batch.stages")


@dataclass(frozen=True, slots=True)
class Transcribed:
    """The words of a recording, and what its decoding told about it.

    `span` is set for a part that was heard by itself: its first sample in the recording and the one
    after its last, at 16 kHz. Times and everything else count from the recording's start.
    """

    segments: tuple[Segment, ...]
    language: str | None
    language_probability: float | None
    speech_s: float | None
    duration_s: float
    media: dict[str, Any]
    notes: tuple[str, ...]
    about: dict[str, Any]
    last_speech_s: float | None = None
    span: tuple[int, int] | None = None

    @property
    def length_s(self) -> float:
        """How much of the recording this is."""
        return (self.span[1] - self.span[0]) / 16_000 if self.span else self.duration_s


@dataclass(frozen=True, slots=True)
class Aligned:
    """The same words with better times. `about` says by what, {} where there was no aligner."""

    segments: tuple[Segment, ...]
    notes: tuple[str, ...]
    about: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Diarized:
    """Who spoke when, and by what that was found."""

    diarization: Diarization
    about: dict[str, Any]


Result = Transcribed | Aligned | Diarized

_READERS: Mapping[Stage, TypeAdapter[Any]] = {
    Stage.TRANSCRIBE: TypeAdapter(Transcribed),
    Stage.ALIGN: TypeAdapter(Aligned),
    Stage.DIARIZE: TypeAdapter(Diarized),
}


def keep(
    state: Path,
    result: Result,
    *,
    asset_id: str,
    stage: Stage,
    source: str,
    fingerprint: str,
    device: str,
    seconds: float,
    part: str = "",
    copy: bool = False,
) -> StageRecord:
    """Write a stage's result, or that of a part, below the state folder; in a worker.

    Args:
        copy: another worker may be writing the same: each has a file of its own.

    Raises:
        AssetError: DISK_FULL or OUTPUT.
    """
    body = {
        "schema_version": SCHEMA_VERSION,
        "asset_id": asset_id,
        "stage": stage.value,
        "result": asdict(result),
    }
    text = json.dumps(body, ensure_ascii=True, separators=(",", ":")).encode("ascii")
    # Without a time in its header, so that equal results are equal files.
    data = gzip.compress(text, compresslevel=6, mtime=0)
    try:
        path = path_of(asset_id, stage, "copy" if copy else part)
        file = publish(state, path, data, format_name=stage.value)
    except AssetError as error:
        told = f"What the {stage} stage found cannot be kept in {state}: {error.message}"
        raise AssetError(
            error.kind, told, remedy=error.remedy, transient=error.transient
        ) from error
    return StageRecord(
        asset_id, stage, source, fingerprint, file, device, round(seconds, 4), part=part
    )


def path_of(asset_id: str, stage: Stage, part: str = "") -> PurePosixPath:
    """Where in the state folder a result lies: by a hash of the asset's id, which is any text."""
    name = hashlib.sha256(asset_id.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    what = f"{stage.value}.{part}" if part else stage.value
    return PurePosixPath("stages", name[:2], f"{name}.{what}.json.gz")


def load(state: Path, asset_id: str, stage: Stage, file: PublishedFile) -> Result | None:
    """A kept result; None (and a line in the log) where the file is not what was journalled."""
    try:
        data = contained(state, PurePosixPath(file.path)).read_bytes()
        if hashlib.sha256(data).hexdigest() != file.sha256:
            raise ValueError("it has been changed")
        body = json.loads(gzip.decompress(data))
        if (body["schema_version"], body["asset_id"]) != (SCHEMA_VERSION, asset_id):
            raise ValueError("it is of another version or asset")
        result: Result = _READERS[stage].validate_python(body["result"])
        return result
    except (OSError, EOFError, ValueError, KeyError, AssetError, ValidationError) as error:
        _log.warning("The kept %s of %s cannot be used and is redone: %s", stage, asset_id, error)
        return None
