"""The stages of one asset, in a worker: those that are kept are read, the others done and kept.

Without words there is no transcript, so a failure of the first stage is the asset's. Alignment and
diarization come after it: what fails there is recorded, and the rest is published without it.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from audio_batch import parts, stages
from audio_batch.attempts import Failure, StageClock
from audio_batch.engines.base import Recognition
from audio_batch.engines.failures import is_sticky
from audio_batch.errors import AssetError, DeviceError, ErrorKind
from audio_batch.outcome import Stage, StageRecord
from audio_batch.parts import Part
from audio_batch.remote import urls
from audio_batch.stage_progress import StageProgress
from audio_batch.stages import Aligned, Diarized, Transcribed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from audio_batch.engines.base import Recognizer
    from audio_batch.media import Audio
    from audio_batch.options import DecodingOptions
    from audio_batch.pipeline import Context, Job
    from audio_batch.remote.inputs import Recording
    from audio_batch.storage import PublishedFile

_log = logging.getLogger("audio_batch.pipeline")

_Result = TypeVar("_Result", Transcribed, Aligned, Diarized)


@dataclass(slots=True)
class StageWork:
    """One attempt's stages. `records` are those done, `failures` the later stages that failed.

    `recognizer` is what heard the words, None where they were kept. `published` are the outputs
    that were written, by path.
    """

    job: Job
    context: Context
    clock: StageClock
    recording: Recording
    records: list[StageRecord] = field(default_factory=list)
    failures: dict[Stage, Failure] = field(default_factory=dict)
    recognizer: Recognizer | None = None
    published: dict[str, PublishedFile] = field(default_factory=dict)
    _path: Path | None = None
    _audio: Audio | None = None
    _elsewhere_s: float = 0.0
    _progress: StageProgress = field(init=False)

    def __post_init__(self) -> None:
        self._progress = StageProgress(self.job, self.context)

    def words(self) -> Transcribed:
        """What is said.

        Raises:
            AudioBatchError, MemoryError: the asset fails.
        """
        heard = self._kept(Stage.TRANSCRIBE, Transcribed)
        if heard is None:
            work = self._put_together if self.job.parts else self._transcribe
            heard = self._do(Stage.TRANSCRIBE, work)
        if heard.media["state"] != "complete" and self.context.options.damaged == "fail":
            notes = heard.media["notes"]
            raise AssetError(ErrorKind.MEDIA_DAMAGED, "; ".join(notes) or heard.media["state"])
        return heard

    def rehearse(self) -> float | None:
        """Hear the words and keep nothing of them; the recording's length, where it was looked at.

        Raises:
            AudioBatchError, MemoryError: the asset fails.
        """
        recognizer = self._recognizer(self.job.decoding)
        if getattr(recognizer, "is_free", False):
            return None
        audio = self.audio()
        with self.clock.stage(Stage.TRANSCRIBE.value):
            self._recognize(recognizer, audio.samples, self.job.decoding, lambda _position_s: None)
        return audio.duration_s

    def part(self, part: Part) -> Transcribed:
        """What is said in one part of the recording.

        Raises:
            AudioBatchError, MemoryError: it cannot be heard.
        """
        return self._do(Stage.TRANSCRIBE, lambda: self._hear(part, self.job.decoding))

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
        self._progress.tell(stage, "", 0.0)
        with self.clock.stage(stage.value):
            result = work()
        self.clock.timings_s[stage.value] += self._elsewhere_s
        self._elsewhere_s = 0.0
        self.context.go_on(self.job)
        part, fingerprint = self.job.part, self.job.stages[stage]
        if part is not None:
            fingerprint = part.fingerprint(fingerprint, self.job.decoding)
        record = stages.keep(
            self.context.state,
            result,
            asset_id=self.job.asset.id,
            stage=stage,
            source=self.job.source,
            fingerprint=fingerprint,
            device=self.job.device,
            seconds=self.clock.timings_s[stage.value],
            part=part.label if part is not None else "",
            copy=self.job.copy,
        )
        self.records.append(record)
        if not self.job.share and stage is not max(self.job.stages, key=list(Stage).index):
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
            if isinstance(error, AssetError) and self._is_no_stages_fault(error):
                raise
            failure = Failure.of(error, f"{self.job.asset.id} ({stage})")
            # Where only a new process helps, this stage is tried again in it. Else the words can
            # still be had on this device; if not, the next recording tells.
            lost = isinstance(error, DeviceError) and is_sticky(error.message)
            self.failures[stage] = dataclasses.replace(failure, device_failed=lost)
            return None

    def _is_no_stages_fault(self, error: AssetError) -> bool:
        """Whether all of the asset fails: what is missing will be there, or never can be."""
        held = error.away is not None and self.context.options.outage_wait_s > 0
        return held or error.kind in _NO_STAGES_FAULT

    # -- doing ------------------------------------------------------------------------------------

    def audio(self) -> Audio:
        """The decoded recording; decoded at the first call."""
        if self._audio is None:
            path = self._fetched()
            with self.clock.stage("decode"):
                self._audio = self._decoded(path)
            self._progress.length_s = self._audio.duration_s
        return self._audio

    def _fetched(self) -> Path:
        """The recording's file; one that is remote is fetched at the first call."""
        if self._path is None:
            remote = urls.is_remote(self.job.asset.uri)
            with self.clock.stage("fetch") if remote else nullcontext():
                self._path = self.recording.path(
                    self._progress.fetch, lambda: self.context.go_on(self.job)
                )
            self.job = dataclasses.replace(self.job, source=self.recording.source)
        return self._path

    def _decoded(self, path: Path, span: tuple[int, int] | None = None) -> Audio:
        from audio_batch.media.source import shown

        try:
            return self.context.decode(path, self.recording, span)
        except AssetError as error:
            uri = self.job.asset.uri
            if urls.is_remote(uri):  # its file in the cache tells nobody anything
                error.rename(shown(path), urls.shown(uri))
            raise

    def _transcribe(self) -> Transcribed:
        recognizer = self._recognizer(self.job.decoding)
        audio = self.audio()
        length_s = audio.duration_s
        heard = self._recognize(
            recognizer,
            audio.samples,
            self.job.decoding,
            lambda position_s: self._progress.tell(Stage.TRANSCRIBE, "", position_s / length_s),
        )
        return self._transcribed(recognizer, audio, heard)

    def _hear(self, part: Part, decoding: DecodingOptions) -> Transcribed:
        """The words of a part, at their times in the recording."""
        from audio_batch.engines.silero import probabilities

        recognizer = self._recognizer(decoding)
        path = self._fetched()
        with self.clock.stage("decode"):
            audio = self._decoded(path, part.span)
        rate_hz, first = audio.sample_rate_hz, audio.first_sample
        total = round(audio.duration_s * rate_hz)
        with self.context.cpu:
            start, end = span = part.cut(audio.samples, first, total, probabilities)
        length_s = (end - start) / rate_hz
        if self.job.part is not None:
            self._progress.length_s = length_s

        def tell(position_s: float) -> None:
            share = position_s / length_s
            if self.job.part is None:
                share = (part.index + share) / part.count
            self._progress.tell(Stage.TRANSCRIBE, "", share)

        if start == end:  # the recording is shorter than it was said to be
            heard = Recognition((), decoding.language, speech_s=0.0, last_speech_s=0.0)
        else:
            samples = audio.samples[start - first : end - first]
            heard = self._recognize(recognizer, samples, decoding, tell)
        last_s = heard.last_speech_s
        if last_s is not None and heard.speech_s:
            last_s = round(last_s + start / rate_hz, 3)
        placed = dataclasses.replace(
            heard, segments=parts.placed(heard.segments, span), last_speech_s=last_s
        )
        return dataclasses.replace(self._transcribed(recognizer, audio, placed), span=span)

    def _put_together(self) -> Transcribed:
        """The recording's words of those of its parts; what is not there is heard here and now."""
        a_part = next(iter(self.job.parts))
        grid = parts.split(a_part.duration_s, a_part.count)
        decoding = self.job.decoding
        heard = [self._heard(part) or self._hear(part, decoding) for part in grid]
        agreed = dataclasses.replace(decoding, language=parts.language_of(heard))
        for index in parts.misheard(heard):
            heard[index] = self._hear(grid[index], agreed)
        try:
            return parts.join(heard)
        except ValueError as error:
            _log.warning("%s is heard again in one piece: %s.", self.job.asset.id, error)
            return self._transcribe()

    def _heard(self, part: Part) -> Transcribed | None:
        record = self.job.parts.get(part)
        if record is None:
            return None
        found = stages.load(self.context.state, self.job.asset.id, Stage.TRANSCRIBE, record.file)
        if not isinstance(found, Transcribed):
            return None
        self._elsewhere_s += record.seconds
        return found

    def _recognizer(self, decoding: DecodingOptions) -> Recognizer:
        self.recognizer = self.context.models.recognizer(self.job.device)
        self.recognizer.check(decoding)
        return self.recognizer

    def _recognize(
        self,
        recognizer: Recognizer,
        samples: NDArray[np.float32],
        decoding: DecodingOptions,
        progress: Callable[[float], None],
    ) -> Recognition:
        # What shares its batches takes windows of any number of assets.
        shared = getattr(recognizer, "shares_batches", None)
        gate = self._progress.gate(Stage.TRANSCRIBE)
        with nullcontext() if shared and shared(decoding) else gate:
            return recognizer.transcribe(samples, decoding, progress)

    def _transcribed(self, recognizer: Recognizer, audio: Audio, heard: Recognition) -> Transcribed:
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
        with self._progress.gate(Stage.ALIGN):
            found = aligner.align(
                audio.samples,
                heard.segments,
                language,
                lambda position_s: self._progress.tell(
                    Stage.ALIGN, "", position_s / audio.duration_s
                ),
            )
        return Aligned(found.segments, found.notes, dict(aligner.description))

    def _diarize(self) -> Diarized:
        diarizer = self.context.models.diarizer(self.job.device)
        samples = self.audio().samples
        with self._progress.gate(Stage.DIARIZE):
            found = diarizer.diarize(
                samples,
                self.job.limits,
                lambda step, share: self._progress.tell(Stage.DIARIZE, step, share),
            )
        about: dict[str, Any] = {
            **diarizer.description,
            "embedding_identity": diarizer.embedding_identity,
            "link_threshold": diarizer.link_threshold,
            "limits": dataclasses.asdict(self.job.limits),
        }
        return Diarized(found, about)


_NO_STAGES_FAULT = (ErrorKind.DISK_FULL, ErrorKind.OUTPUT, ErrorKind.TIMEOUT)
