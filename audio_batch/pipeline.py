"""One asset's life, in a worker: decode, transcribe, align, diarize, assign, render, publish.

`process` never raises: whatever happens becomes an `Outcome`. Where it runs (a thread, a process,
another machine) is the pool's business.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol

from audio_batch.attempts import Failure, StageClock
from audio_batch.claims import claim
from audio_batch.cpu_gate import CpuGate
from audio_batch.engines.base import Aligner, Diarizer, Recognizer
from audio_batch.errors import AssetError, ErrorKind
from audio_batch.events import AssetProgress, job_key
from audio_batch.formats import FormatOptions, render
from audio_batch.gates import Gates
from audio_batch.manifest import Asset
from audio_batch.manifest_sources import identity
from audio_batch.options import DecodingOptions, RunOptions, SpeakerLimits
from audio_batch.outcome import Outcome, Published, Stage, StageRecord, State
from audio_batch.outputs import Outputs
from audio_batch.parts import Part
from audio_batch.publishing import Publisher
from audio_batch.remote.downloads import UNKNOWN
from audio_batch.remote.inputs import InputPlace, Inputs, Recording
from audio_batch.seal import seal
from audio_batch.stages import Aligned, Transcribed
from audio_batch.stagework import StageWork
from audio_batch.storage import PublishedFile
from audio_batch.transcript import Transcript
from audio_batch.transcript_assembly import assemble

if TYPE_CHECKING:
    from audio_batch.media import Audio, MediaLimits


@dataclass(frozen=True, slots=True)
class Job:
    """One attempt at one asset: plain values, ready to cross a process border.

    `stages` names what each stage's result must be made of; those of `kept` are there.
    """

    asset: Asset
    decoding: DecodingOptions
    formats: tuple[str, ...]
    output_name: str
    source: str
    fingerprint: str
    rendering: str
    device: str
    attempt: int
    position: int
    total: int
    stages: Mapping[Stage, str]
    limits: SpeakerLimits
    kept: Mapping[Stage, StageRecord]
    suspect: bool = False
    """It ran when the program crashed: its words are published before anything else is tried."""
    redo: bool = False
    """A whole transcript stands already: nothing that is less takes its place."""
    published: PublishedFile | None = None
    """Where the transcript already is: this attempt only writes it in other formats."""
    part: Part | None = None
    """Only this part is heard, and its words are kept; nothing is published."""
    parts: Mapping[Part, StageRecord] = field(default_factory=dict)
    """What was heard of its parts; where there are any, the words are put together of them."""
    replaces: tuple[str, ...] = ()
    """Formats whose names may be written over; any other must be free, or hold its own."""
    claim: str = ""
    """Under which name the right to publish is claimed; "": nobody else is at work on it."""
    serial: int = 0
    """Which of the run's attempts it is, over all assets."""
    copy: bool = False
    """Another device is at work on the same: the first one to claim it publishes it."""

    @property
    def key(self) -> str:
        """Tells the jobs apart that are at work at the same time."""
        return job_key(self.asset.id, self.share)

    @property
    def share(self) -> str:
        """What of the asset it is: "" for all of it, "copy", or the label of a part."""
        return "copy" if self.copy else self.part.label if self.part else ""


class Models(Protocol):
    """The models of a run. Each method loads at its first call for a device; in any thread."""

    def recognizer(self, device: str) -> Recognizer:
        """What hears words on the device. Raises DeviceError, SetupError."""
        ...

    def aligner(self, device: str, language: str) -> Aligner | None:
        """What times words of the language; None where nothing does. Raises as `recognizer`."""
        ...

    def diarizer(self, device: str) -> Diarizer:
        """What tells voices apart on the device. Raises as `recognizer`."""
        ...


@dataclass(frozen=True, slots=True)
class Context:
    """What all jobs of a run share.

    `inputs` is where recordings come from, `outputs` where it publishes, `state` the local folder
    where the results of stages are kept.
    `stage_done` is told of each stage whose result is kept while others are still to come,
    `published` of an incomplete transcript that was written meanwhile.
    `given_up` says whether the run has stopped waiting for an attempt.
    `gates` keep those that are read ahead out of the stages that a device has no room for; `cpu`
    keeps so many from decoding at once that the cores are no use to anybody.
    `named` gives the voices of a transcript the names that are known.
    """

    outputs: Outputs
    state: Path
    options: RunOptions
    model_name: str
    model_identity: str
    models: Models
    limits: MediaLimits
    progress: Callable[[AssetProgress], None]
    stage_done: Callable[[StageRecord], None]
    published: Callable[[Published], None]
    named: Callable[[Transcript], Transcript]
    given_up: Callable[[Job], bool] = lambda _job: False
    gates: Gates = field(default_factory=Gates)
    cpu: CpuGate = field(default_factory=CpuGate)
    inputs: Inputs = field(default_factory=lambda: InputPlace().opened())

    def go_on(self, job: Job) -> None:
        """Keep an attempt that nobody waits for any more from working and writing on.

        Raises:
            AssetError: TIMEOUT. Nobody will read it.
        """
        if self.given_up(job):
            raise AssetError(ErrorKind.TIMEOUT, "It was given up meanwhile.")

    def decode(
        self, path: Path, recording: Recording, span: tuple[int, int] | None = None
    ) -> Audio:
        """The samples of a recording, or those of a span of it (see `media.decode`).

        Args:
            path: from `recording`.

        Raises:
            AssetError: it cannot be decoded, or is not the file any more that was planned for.
        """
        from audio_batch.media import decode

        with self.cpu:
            audio = decode(path, self.limits, audio_stream=self.options.audio_stream, span=span)
        recording.check()
        if audio.state != "complete" and self.options.damaged == "fail":
            raise AssetError(ErrorKind.MEDIA_DAMAGED, "; ".join(audio.notes) or audio.state)
        return audio


def process(job: Job, context: Context) -> Outcome:
    """Do one attempt at one asset and say what became of it. Runs in a worker thread."""
    with context.inputs.recording(job.asset, job.source) as recording:
        work = StageWork(job, context, StageClock(), recording)
        outcome = _attempt(work)
    found = None if work.job.source == job.source else work.job.source
    return dataclasses.replace(outcome, source=found, reached=recording.reached)


def _attempt(work: StageWork) -> Outcome:
    job, context, clock = work.job, work.context, work.clock
    outcome = Outcome(job.asset.id, State.FAILED, job.fingerprint, job.device)
    if job.part is not None:
        return _hear(job.part, work, outcome)
    if not context.options.publishes:
        return _rehearse(work, outcome)
    try:
        transcript = read_published(context.outputs, job)
        outcome = dataclasses.replace(outcome, rendered_only=transcript is not None)
        if transcript is None:
            transcript = make(work)
        if job.redo and work.failures:
            return _failed(outcome, work, next(iter(work.failures.values())))
        if job.claim and not claim(context.state, job.claim):
            return dataclasses.replace(outcome, superseded=True)
        with clock.stage("publish"):
            outputs = publish_all(context.named(transcript), work)
    except Exception as error:
        return _failed(outcome, work, Failure.of(error, job.asset.id))
    outcome = dataclasses.replace(
        outcome,
        **_as_loaded(work),
        state=State.DONE,
        outputs=outputs,
        duration_s=transcript.duration_s,
        speech_s=transcript.provenance.get("speech_s"),
        language=transcript.language,
        notes=tuple(transcript.media.get("notes", ())),
        suspicions=transcript.suspicions,
    )
    if work.failures:
        # What may pass decides whether there is another attempt today.
        stage = max(work.failures, key=lambda stage: work.failures[stage].transient)
        failure = work.failures[stage]
        text = f"{_WITHOUT[stage]}: {failure.text}"
        failed = _failed(outcome, work, dataclasses.replace(failure, text=text))
        missing = tuple(work.failures)
        return dataclasses.replace(failed, state=State.INCOMPLETE, missing=missing, left=())
    return dataclasses.replace(outcome, timings_s=clock.timings_s, stages=tuple(work.records))


def _hear(part: Part, work: StageWork, outcome: Outcome) -> Outcome:
    """Hear one part and keep its words."""
    outcome = dataclasses.replace(outcome, part=part.label)
    try:
        heard = work.part(part)
    except Exception as error:
        return _failed(outcome, work, Failure.of(error, f"{work.job.asset.id} ({part.label})"))
    return dataclasses.replace(
        outcome,
        **_as_loaded(work),
        state=State.DONE,
        duration_s=heard.length_s,
        speech_s=heard.speech_s,
        language=heard.language,
        timings_s=work.clock.timings_s,
        stages=tuple(work.records),
    )


def _rehearse(work: StageWork, outcome: Outcome) -> Outcome:
    """Do all but what would be left of it: nothing is kept, nothing published."""
    try:
        duration_s = work.rehearse()
    except Exception as error:
        return _failed(outcome, work, Failure.of(error, work.job.asset.id))
    timings_s = work.clock.timings_s
    return dataclasses.replace(
        outcome, state=State.DONE, duration_s=duration_s, timings_s=timings_s, rehearsed=True
    )


_WITHOUT = {
    Stage.ALIGN: "The words are there, but could not be aligned",
    Stage.DIARIZE: "The words are there, but the speakers could not be told apart",
}


def _failed(outcome: Outcome, work: StageWork, failure: Failure) -> Outcome:
    return dataclasses.replace(
        outcome,
        **_as_loaded(work),
        error_kind=failure.kind,
        error_text=failure.text,
        transient=failure.transient,
        device_failed=failure.device_failed,
        away=failure.away,
        timings_s=work.clock.timings_s,
        stages=tuple(work.records),
        left=tuple(work.published.values()),
    )


def _as_loaded(work: StageWork) -> dict[str, Any]:
    """What the recognizer works with now: plain values, whatever an engine has put there."""
    about = work.recognizer.description if work.recognizer is not None else {}
    lowered, compute_type = about.get("batch_size_lowered_to"), about.get("compute_type")
    return {
        "batch_size": lowered if isinstance(lowered, int) else None,
        "compute_type": compute_type if isinstance(compute_type, str) else None,
    }


def make(work: StageWork) -> Transcript:
    """The asset's transcript: every stage in its turn, then who said what.

    Raises:
        AudioBatchError, MemoryError: there are no words to publish.
    """
    heard = work.words()
    early = work.job.suspect and not work.job.redo
    if early and not work.at_hand(Stage.ALIGN):
        publish_words(work, heard, None)
    aligned = work.times(heard)
    if early and not work.at_hand(Stage.DIARIZE):
        publish_words(work, heard, aligned)
    voices = work.voices()
    return assemble(work, heard, aligned, voices, tuple(work.failures))


def publish_words(work: StageWork, heard: Transcribed, aligned: Aligned | None) -> None:
    """Publish what there is before a stage that may end the program, and have it journalled.

    Raises:
        AssetError: it cannot be written.
    """
    job, context = work.job, work.context
    missing = [Stage.DIARIZE] if aligned else [s for s in job.stages if s is not Stage.TRANSCRIBE]
    words = assemble(work, heard, aligned, None, tuple(s for s in missing if s in job.stages))
    outputs = publish_all(context.named(words), work)
    context.published(Published(job.asset.id, outputs, words.missing, words.duration_s))


def source_identity(path: Path | None) -> str:
    """Size and time of change of an input: part of the resume key.

    "missing" if it is not there, "unknown" if it is remote: then whatever is fetched will do.
    """
    if path is None:
        return UNKNOWN
    try:
        status = path.stat()
    except (OSError, ValueError):
        return "missing"
    return identity(status)


def read_published(outputs: Outputs, job: Job) -> Transcript | None:
    """The transcript that the job is to be rendered from; None where it has to be made.

    The file must be the very one that was journalled, of this asset: another run, or an asset
    that has taken over the name, may have written there since.

    Raises:
        AssetError: the store does not answer; it is no reason to do all of it again.
    """
    if job.published is None:
        return None
    try:
        data = outputs.read(PurePosixPath(job.published.path))
        transcript = Transcript.from_json(json.loads(data))
    except AssetError as error:
        if error.transient:
            raise
        return None
    except (OSError, ValueError):
        return None
    same = hashlib.sha256(data).hexdigest() == job.published.sha256
    ours = same and transcript.asset_id == job.asset.id and not transcript.missing
    return transcript if ours else None


def publish_all(transcript: Transcript, work: StageWork) -> tuple[PublishedFile, ...]:
    """Write every format, the canonical JSON last: it vouches for the others.

    `work.published` tells what was written, also where this fails.

    Raises:
        AssetError: as `Outputs.publish`; nothing is written where a name is seen to be another's.
    """
    job, context = work.job, work.context
    options = FormatOptions(
        max_line_width=context.options.max_line_width,
        max_line_count=context.options.max_line_count,
        highlight_words=context.options.highlight_words,
    )
    context.go_on(job)
    names = sorted(set(job.formats) - {"json"})
    texts = {name: render(name, transcript, options) for name in names}
    publisher = Publisher(context.outputs, job.asset.id, job.output_name, job.replaces)
    for name in names:
        publisher.see(name, texts[name])
    publisher.see("json")
    published = []
    for name in names:
        file = publisher.publish(name, texts[name])
        work.published[file.path] = file
        published.append(file)
    sealed = seal(transcript, published, source=job.source, rendering=job.rendering)
    return (*published, publisher.publish("json", sealed))
