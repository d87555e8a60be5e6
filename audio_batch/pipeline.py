"""One asset's life, in a worker: fetch, decode, transcribe, render, publish.

`process` never raises: whatever happens becomes an `Outcome`. Where it runs (a thread, a process,
another machine) is the pool's business.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from audio_batch import __version__
from audio_batch.engines.base import Recognition, Recognizer
from audio_batch.errors import AssetError, DeviceError, ErrorKind, SetupError
from audio_batch.formats import FORMATS, FormatOptions, render
from audio_batch.manifest import Asset
from audio_batch.options import DecodingOptions, RunOptions
from audio_batch.outcome import Outcome, State
from audio_batch.storage import PublishedFile, contained, publish
from audio_batch.text import for_terminal, redact
from audio_batch.transcript import Transcript

if TYPE_CHECKING:
    from audio_batch.media import Audio, MediaLimits

_log = logging.getLogger("audio_batch.pipeline")


@dataclass(frozen=True, slots=True)
class Job:
    """One attempt at one asset: plain values, ready to cross a process border."""

    asset: Asset
    decoding: DecodingOptions
    formats: tuple[str, ...]
    output_name: str
    source: str
    fingerprint: str
    device: str
    attempt: int
    position: int
    total: int
    published: PublishedFile | None = None
    """Where the words already are: this attempt only writes them in other formats."""


@dataclass(frozen=True, slots=True)
class Context:
    """What all jobs of a run share. `recognizer` gives the device's model, loading it once."""

    root: Path
    options: RunOptions
    model_name: str
    model_identity: str
    recognizer: Callable[[str], Recognizer]
    limits: MediaLimits
    progress: Callable[[Job, str, float, float], None]


@dataclass(slots=True)
class StageClock:
    """Seconds spent in each stage of one asset."""

    timings_s: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage; one that fails is timed too."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.timings_s[name] = round(time.perf_counter() - begun, 4)


def process(job: Job, context: Context) -> Outcome:
    """Do one attempt at one asset and say what became of it. Runs in a worker thread."""
    clock = StageClock()
    outcome = Outcome(job.asset.id, State.FAILED, job.fingerprint, job.device)
    try:
        transcript = read_published(context.root, job)
        outcome = dataclasses.replace(outcome, rendered_only=transcript is not None)
        if transcript is None:
            context.recognizer(job.device).check(job.decoding)
            with clock.stage("fetch"):
                path = fetch(job)
            with clock.stage("decode"):
                audio = _decode(job, path, context)
            with clock.stage("transcribe"):
                recognition, about = _transcribe(job, audio, context)
            transcript = _assemble(job, audio, recognition, about, clock, context)
            outcome = dataclasses.replace(
                outcome,
                speech_s=recognition.speech_s,
                notes=(*audio.notes, *recognition.notes),
            )
        with clock.stage("publish"):
            outputs = publish_all(transcript, job, context)
    except DeviceError as error:
        return _failed(outcome, clock, ErrorKind.DEVICE, str(error), device_failed=True)
    except SetupError as error:
        # The model folder broke under the run: nothing of it is this asset's fault.
        return _failed(outcome, clock, ErrorKind.MODEL, str(error), device_failed=True)
    except AssetError as error:
        return _failed(outcome, clock, error.kind, str(error), transient=error.transient)
    except MemoryError:
        text = "There was not enough memory for this asset. Run fewer at a time (--threads)."
        return _failed(outcome, clock, ErrorKind.OUT_OF_MEMORY, text, transient=True)
    except Exception as error:
        _log.exception("unexpected failure of %s", job.asset.id)
        text = f"Unexpected {type(error).__name__}: {error}. Please report it; see the log file."
        return _failed(outcome, clock, ErrorKind.INTERNAL, text)
    return dataclasses.replace(
        outcome,
        state=State.DONE,
        outputs=outputs,
        duration_s=transcript.duration_s,
        language=transcript.language,
        timings_s=clock.timings_s,
    )


def _failed(
    outcome: Outcome,
    clock: StageClock,
    kind: ErrorKind,
    text: str,
    *,
    transient: bool = False,
    device_failed: bool = False,
) -> Outcome:
    return dataclasses.replace(
        outcome,
        error_kind=kind,
        error_text=redact(text),
        transient=transient,
        device_failed=device_failed,
        timings_s=clock.timings_s,
    )


def source_identity(path: Path | None) -> str:
    """Size and time of change of an input: part of the resume key. "missing" if it is not there."""
    if path is None:
        return "missing"
    try:
        status = path.stat()
    except (OSError, ValueError):
        return "missing"
    return f"{status.st_size}:{status.st_mtime_ns}"


def fetch(job: Job) -> Path:
    """The local path of the asset's recording.

    Raises:
        AssetError: it is not there.
    """
    path = job.asset.path
    if path is None:
        raise AssetError(
            ErrorKind.INPUT_MISSING, f"{for_terminal(job.asset.uri)} is not a local file."
        )
    return path


def _decode(job: Job, path: Path, context: Context) -> Audio:
    from audio_batch.media import decode

    audio = decode(path, context.limits, audio_stream=context.options.audio_stream)
    if source_identity(path) != job.source:
        raise AssetError(
            ErrorKind.INPUT_CHANGED,
            f"{for_terminal(path.name)} changed while it was read, or since the run began.",
            remedy="Run it again when the file is complete.",
            transient=True,
        )
    if audio.state != "complete" and context.options.damaged == "fail":
        raise AssetError(ErrorKind.MEDIA_DAMAGED, "; ".join(audio.notes) or audio.state)
    return audio


def _transcribe(job: Job, audio: Audio, context: Context) -> tuple[Recognition, dict[str, Any]]:
    recognizer = context.recognizer(job.device)

    def progress(position_s: float) -> None:
        context.progress(job, "transcribe", position_s, audio.duration_s)

    recognition = recognizer.transcribe(audio.samples, job.decoding, progress)
    return recognition, recognizer.description


def _assemble(
    job: Job,
    audio: Audio,
    recognition: Recognition,
    about: dict[str, Any],
    clock: StageClock,
    context: Context,
) -> Transcript:
    return Transcript(
        asset_id=job.asset.id,
        source=job.asset.uri,
        name=job.asset.name,
        language=recognition.language,
        language_probability=recognition.language_probability,
        duration_s=audio.duration_s,
        segments=recognition.segments,
        media={
            **dataclasses.asdict(audio.info),
            "decoded_s": audio.duration_s,
            "state": audio.state,
            "notes": [*audio.notes, *recognition.notes],
        },
        metadata=job.asset.metadata,
        provenance={
            "program": f"audio-batch {__version__}",
            "engine": context.options.engine,
            "model": context.model_name,
            "model_identity": context.model_identity,
            "device": job.device,
            **about,
            "speech_s": recognition.speech_s,
            "options": dataclasses.asdict(job.decoding),
            "fingerprint": job.fingerprint,
            "timings_s": dict(clock.timings_s),
        },
    )


def read_published(root: Path, job: Job) -> Transcript | None:
    """The transcript that the job is to be rendered from; None where it has to be made.

    The file must be the very one that was journalled, of this asset: another run, or an asset
    that has taken over the name, may have written there since.
    """
    if job.published is None:
        return None
    try:
        data = contained(root, PurePosixPath(job.published.path)).read_bytes()
        transcript = Transcript.from_json(json.loads(data))
    except (OSError, ValueError, AssetError):
        return None
    same = hashlib.sha256(data).hexdigest() == job.published.sha256
    return transcript if same and transcript.asset_id == job.asset.id else None


def publish_all(transcript: Transcript, job: Job, context: Context) -> tuple[PublishedFile, ...]:
    """Write every format, the canonical JSON last: it vouches for the others."""
    options = FormatOptions(
        max_line_width=context.options.max_line_width,
        max_line_count=context.options.max_line_count,
        highlight_words=context.options.highlight_words,
    )
    ordered = sorted(set(job.formats) | {"json"}, key=lambda name: (name == "json", name))
    return tuple(
        publish(
            context.root,
            PurePosixPath(f"{job.output_name}{FORMATS[name].suffix}"),
            render(name, transcript, options),
            format_name=name,
        )
        for name in ordered
    )
