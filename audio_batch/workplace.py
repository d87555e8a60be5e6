"""What every worker of a run needs, wherever it works, and how it becomes the work of a pool."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from audio_batch.cpu_gate import CpuGate
from audio_batch.engines.base import Diarizer
from audio_batch.gates import Gates
from audio_batch.lineup import Lineup
from audio_batch.media import MediaLimits, decode
from audio_batch.options import RunOptions
from audio_batch.outcome import Outcome
from audio_batch.outputs import OutputPlace
from audio_batch.pipeline import Context, Job, Models, process
from audio_batch.pools.base import Work
from audio_batch.remote.inputs import InputPlace
from audio_batch.tell import Tell
from audio_batch.voices.known import KnownVoices, know
from audio_batch.voices.memory import Memory

if TYPE_CHECKING:
    from audio_batch.voices.enrolment import Enrolment


@dataclass(frozen=True, slots=True)
class Recipe:
    """A run as plain values, ready to cross a process border.

    Recordings come from `inputs`, outputs go to `place`, the results of stages into the local
    folder `state`.

    `remembered`, `given`, `people` and `threshold` are what is known of voices; see `know`.
    """

    place: OutputPlace
    state: Path
    options: RunOptions
    lineup: Lineup
    remembered: Memory
    given: Mapping[str, str]
    people: Enrolment | None
    threshold: float | None
    inputs: InputPlace = field(default_factory=InputPlace)

    @property
    def limits(self) -> MediaLimits:
        """What a recording may be."""
        return MediaLimits(max_duration_s=self.options.max_duration_s)

    def known_voices(self, diarizer: Callable[[], Diarizer]) -> KnownVoices:
        """What is known of voices; enrolled clips are listened to here.

        Raises:
            UsageError, SetupError, DeviceError: see `know`.
        """
        return know(
            self.remembered,
            self.given,
            self.people,
            self.threshold,
            diarizer,
            lambda clip: decode(clip, self.limits).samples,
        )

    def work(
        self, models: Models, known: KnownVoices, tell: Tell, gates: Gates, cpu: CpuGate
    ) -> Work:
        """The pipeline with everything bound to it."""
        context = Context(
            inputs=self.inputs.opened(),
            outputs=self.place.open(),
            state=self.state,
            options=self.options,
            model_name=self.lineup.model.name,
            model_identity=self.lineup.model.identity,
            models=models,
            limits=self.limits,
            progress=tell.progress,
            stage_done=tell.stage_done,
            published=tell.published,
            given_up=tell.given_up,
            gates=gates,
            cpu=cpu,
            named=known.named,
        )

        def work(job: Job) -> Outcome:
            return process(job, context)

        return work
