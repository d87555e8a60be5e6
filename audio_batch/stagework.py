"""The stages of one asset, in a worker: those that are kept are read, the others done and kept.

Without words there is no transcript, so a failure of the first stage is the asset's. Alignment and
diarization come after it: what fails there is recorded, and the rest is published without it.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from audio_batch import stages
from audio_batch.engines.failures import is_sticky
from audio_batch.errors import AssetError, DeviceError, ErrorKind, SetupError, UsageError
from audio_batch.events import AssetProgress
from audio_batch.outcome import Stage, StageRecord
from audio_batch.stages import Aligned, Diarized, Transcribed
from audio_batch.text import redact

if TYPE_CHECKING:
    from audio_batch.engines.base import Recognizer
    from audio_batch.media import Audio
    from audio_batch.pipeline import Context, Job

_log = logging.getLogger("audio_batch.pipeline")

_Result = TypeVar("_Result", Transcribed, Aligned, Diarized)


@dataclass(slots=True)
class StageClock:
    """Seconds spent in each stage of one asset; what one stage does within another is its own."""

    timings_s: dict[str, float] = field(default_factory=dict)
    _within_s: float = 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage; one that fails is timed too."""
        begun = time.perf_counter()
        outer_s, self._within_s = self._within_s, 0.0
        try:
            yield
        finally:
            took_s = time.perf_counter() - begun
            self.timings_s[name] = round(took_s - self._within_s, 4)
            self._within_s = outer_s + took_s


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a stage failed, as plain values. `device_failed`: the device's fault, not the asset's."""

    kind: ErrorKind
    text: str
    transient: bool = False
    device_failed: bool = False

    @classmethod
    def of(cls, error: Exception, what: str) -> Failure:
        """Any exception as a record; what nobody foresaw goes to the log in full."""
        if isinstance(error, DeviceError):
            return cls(ErrorKind.DEVICE, redact(str(error)), device_failed=True)
        if isinstance(error, SetupError | UsageError):
            # The model folder broke under the run: nothing of it is this asset's fault.
            return cls(ErrorKind.MODEL, redact(str(error)), device_failed=True)
        if isinstance(error, AssetError):
            return cls(error.kind, redact(str(error)), transient=error.transient)
        if isinstance(error, MemoryError):
            text = "There was not enough memory for this asset. Run fewer at a time (--threads)."
            return cls(ErrorKind.OUT_OF_MEMORY, text, transient=True)
        _log.error("unexpected failure of %s", what, exc_info=error)
        text = f"Unexpected {type(error).__name__}: {error}. Please report it; see the log file."
        return cls(ErrorKind.INTERNAL, redact(text))


@dataclass(slots=True)
class StageWork:
    """One attempt's stages. `records` are those done, `failures` the later stages that failed.

    `recognizer` is what heard the words, None where they were kept.
    """

    job: Job
    context: Context
    clock: StageClock
    records: list[StageRecord] = field(default_factory=list)
    failures: dict[Stage, Failure] = field(default_factory=dict)
    recognizer: Recognizer | None = None
    _audio: Audio | None = None

    def words(self) -> Transcribed:
        """What is said.

        Raises:
            AudioBatchError, MemoryError: the asset fails.
        """
        heard = self._kept(Stage.TRANSCRIBE, Transcribed)
        if heard is None:
            heard = self._do(Stage.TRANSCRIBE, self._transcribe)
        if heard.media["state"] != "complete" and self.context.options.damaged == "fail":
            notes = heard.media["notes"]
            raise AssetError(ErrorKind.MEDIA_DAMAGED, "; ".join(notes) or heard.media["state"])
        return heard

    def times(self, heard: Transcribed) -> Aligned | None:
        """When each word is said, by forced alignment; None where that is not asked for or fails.

        Raises:
            AssetError: the result cannot be kept (DISK_FULL, OUTPUT).
        """
        # Times of other words, should these have been heard anew, are of no use.
        heard_now = any(record.stage is Stage.TRANSCRIBE for record in self.records)
        return self._later(Stage.ALIGN, Aligned, lambda: self._align(heard), anew=heard_now)

    def voices(self) -> Diarized | None:
        """Who speaks when; None where that is not asked for or fails.

        Raises:
            AssetError: the result cannot be kept (DISK_FULL, OUTPUT).
        """
        return self._later(Stage.DIARIZE, Diarized, self._diarize)

    # -- keeping ----------------------------------------------------------------------------------

    def at_hand(self, stage: Stage) -> bool:
        """Whether a stage needs no work: it is not asked for, or its result was kept."""
        return stage not in self.job.stages or stage in self.job.kept

    def _kept(self, stage: Stage, kind: type[_Result]) -> _Result | None:
        record = self.job.kept.get(stage)
        if record is None:
            return None
        result = stages.load(self.context.state, self.job.asset.id, stage, record.file)
        if not isinstance(result, kind):
            return None
        self.clock.timings_s[stage.value] = record.seconds
        return result

    def _do(self, stage: Stage, work: Callable[[], _Result]) -> _Result:
        self._tell(stage, "", 0.0)
        with self.clock.stage(stage.value):
            result = work()
        self.context.go_on(self.job)
        record = stages.keep(
            self.context.state,
            result,
            asset_id=self.job.asset.id,
            stage=stage,
            source=self.job.source,
            fingerprint=self.job.stages[stage],
            device=self.job.device,
            seconds=self.clock.timings_s[stage.value],
        )
        self.records.append(record)
        if stage is not max(self.job.stages, key=list(Stage).index):
            # The last one is journalled with the outcome, in the same transaction.
            self.context.stage_done(record)
        return result

    def _later(
        self, stage: Stage, kind: type[_Result], work: Callable[[], _Result], *, anew: bool = False
    ) -> _Result | None:
        if stage not in self.job.stages:
            return None
        kept = None if anew else self._kept(stage, kind)
        if kept is not None:
            return kept
        try:
            return self._do(stage, work)
        except Exception as error:
            if isinstance(error, AssetError) and error.kind in _NO_STAGES_FAULT:
                raise
            failure = Failure.of(error, f"{self.job.asset.id} ({stage})")
            # Where only a new process helps, this stage is tried again in it. Else the words can
            # still be had on this device; if not, the next recording tells.
            lost = isinstance(error, DeviceError) and is_sticky(error.message)
            self.failures[stage] = dataclasses.replace(failure, device_failed=lost)
            return None

    # -- doing ------------------------------------------------------------------------------------

    def audio(self) -> Audio:
        """The decoded recording; decoded at the first call."""
        if self._audio is None:
            with self.clock.stage("decode"):
                self._audio = self.context.decode(self.job)
        return self._audio

    def _transcribe(self) -> Transcribed:
        recognizer = self.recognizer = self.context.models.recognizer(self.job.device)
        recognizer.check(self.job.decoding)
        audio = self.audio()
        heard = recognizer.transcribe(
            audio.samples,
            self.job.decoding,
            lambda position_s: self._tell(Stage.TRANSCRIBE, "", position_s / audio.duration_s),
        )
        return Transcribed(
            segments=heard.segments,
            language=heard.language,
            language_probability=heard.language_probability,
            speech_s=heard.speech_s,
            last_speech_s=heard.last_speech_s,
            duration_s=audio.duration_s,
            media={
                **dataclasses.asdict(audio.info),
                "decoded_s": audio.duration_s,
                "state": audio.state,
                "notes": list(audio.notes),
            },
            notes=(*audio.notes, *heard.notes),
            about={"device": self.job.device, **recognizer.description},
        )

    def _align(self, heard: Transcribed) -> Aligned:
        language = heard.language or ""
        if not heard.segments:
            return Aligned((), (), {})
        if self.job.decoding.task == "translate":
            note = "a translation is not aligned: word times are the recognizer's own"
            return Aligned(heard.segments, (note,), {})
        aligner = self.context.models.aligner(self.job.device, language)
        if aligner is None:
            which = f"language {language!r}" if language else "a language that is not known"
            note = f"no aligner for {which}: word times are the recognizer's own"
            return Aligned(heard.segments, (note,), {})
        audio = self.audio()
        found = aligner.align(
            audio.samples,
            heard.segments,
            language,
            lambda position_s: self._tell(Stage.ALIGN, "", position_s / audio.duration_s),
        )
        return Aligned(found.segments, found.notes, dict(aligner.description))

    def _diarize(self) -> Diarized:
        diarizer = self.context.models.diarizer(self.job.device)
        found = diarizer.diarize(
            self.audio().samples,
            self.job.limits,
            lambda step, share: self._tell(Stage.DIARIZE, step, share),
        )
        about: dict[str, Any] = {
            **diarizer.description,
            "embedding_identity": diarizer.embedding_identity,
            "link_threshold": diarizer.link_threshold,
            "limits": dataclasses.asdict(self.job.limits),
        }
        return Diarized(found, about)

    def _tell(self, stage: Stage, step: str, share: float) -> None:
        """Tell how far the stage has come, and how far the asset, each stage counting alike."""
        self.context.go_on(self.job)
        # Those before this one have been read or done, those after it may still be read.
        todo = [s for s in Stage if s in self.job.stages and s not in self.job.kept]
        before = todo.index(stage) if stage in todo else 0
        self.context.progress(
            AssetProgress(
                asset_id=self.job.asset.id,
                device=self.job.device,
                stage=f"{stage}: {step}" if step else stage.value,
                share=min(1.0, max(0.0, share)),
                asset_share=min(1.0, max(0.0, (before + share) / max(1, len(todo)))),
                duration_s=self._audio.duration_s if self._audio else 0.0,
            )
        )


_NO_STAGES_FAULT = (ErrorKind.DISK_FULL, ErrorKind.OUTPUT, ErrorKind.TIMEOUT)
