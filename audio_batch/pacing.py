"""How a run's devices will probably work, from its options and from earlier runs; and what it has
learnt itself, for the next one."""

from __future__ import annotations

from dataclasses import dataclass

from audio_batch.ahead import Ahead
from audio_batch.assembly import Fleet
from audio_batch.dispatch import Pace
from audio_batch.engines import DEFAULT_ENGINE
from audio_batch.gpu.devices import Device
from audio_batch.learnt import Learnt, LearntSpeeds, SpeedKey, device_key
from audio_batch.lineup import Lineup
from audio_batch.options import RunOptions
from audio_batch.outcome import Stage
from audio_batch.places import Places
from audio_batch.schedule.speeds import Speeds

USUAL_BATCH = {"cpu": 4, "cuda": 32}
"""Windows in a batch, where the engine is left to choose: for what is read ahead, and memory."""


@dataclass(slots=True)
class Pacing:
    """See the module's docstring."""

    options: RunOptions
    lineup: Lineup
    fleet: Fleet
    places: Places
    file: LearntSpeeds

    def pace(self) -> Pace:
        """What is read ahead, and the speeds that are known."""
        known = {}
        for device in self._devices:
            found = self.file.nearest(self._key(device))
            if found is not None:
                known[device.id] = found.speed
        return Pace(ahead=self.ahead(), speeds=Speeds(known, self._priors()))

    def ahead(self) -> Ahead:
        """How many assets are read ahead on a device."""
        asked = self.options.prefetch
        if asked is None and self.options.threads is not None:
            # Whoever says how many assets there are to be at a time means all of them.
            asked = max(0, self.options.threads - self.fleet.workers)
        shared = self.options.engine == DEFAULT_ENGINE and not self.options.decoding.sequential
        return Ahead(
            asked=asked,
            shared=shared,
            batch_size=lambda device: (
                self.places.rung(device).batch_size or USUAL_BATCH[self._kind(device)]
            ),
            eased=lambda device: self.places.steps(device) > 0,
        )

    def add(self, pace: Pace, device: Device) -> None:
        """A device has joined: what earlier runs have learnt of it."""
        found = self.file.nearest(self._key(device))
        if found is not None:
            pace.speeds.know(device.id, found.speed)

    def _kind(self, device_id: str) -> str:
        return next(device.kind for device in self._devices if device.id == device_id)

    def keep(self, pace: Pace) -> None:
        """Keep what this run has learnt."""
        found = []
        for device in self._devices:
            speed = pace.speeds.learnt(device.id)
            if speed is not None and device.id in pace.stages:
                stages = pace.stages[device.id].items()
                learnt = Learnt.of(
                    self._key(device),
                    speed,
                    stage_per_audio_s={stage: s / audio for stage, (s, audio) in stages if audio},
                    device_name=device.name,
                    model_name=self._model_name,
                )
                found.append(learnt)
        if found:
            self.file.keep(*found)

    @property
    def _model_name(self) -> str:
        """What is heard with, for people; another engine does without the model."""
        engine = self.options.engine
        return self.lineup.model.name if engine == DEFAULT_ENGINE else engine

    @property
    def _devices(self) -> tuple[Device, ...]:
        reserve = self.fleet.reserve
        return self.fleet.devices if reserve is None else (*self.fleet.devices, reserve)

    def _priors(self) -> dict[str, float]:
        """Guessed seconds per audio second, right in their ratios only."""
        rates = {
            device.id: snapshot.peak_core_hz
            for snapshot in self.fleet.sampler.latest()
            for device in self._devices
            if device.uuid == snapshot.uuid and snapshot.peak_core_hz
        }
        return {device: 1e12 / rate for device, rate in rates.items()}

    def _key(self, device: Device) -> SpeedKey:
        wanted = self.lineup.wanted
        stages = [Stage.TRANSCRIBE.value]
        if wanted.aligner is not None:
            stages.append(Stage.ALIGN.value)
        if wanted.diarizer is not None:
            stages.append(Stage.DIARIZE.value)
        identity = self.lineup.model.identity
        if self.options.engine != DEFAULT_ENGINE:  # its name may say how fast it is to be
            identity = f"{self.options.engine}:{self.lineup.model.name}"
        return SpeedKey(
            device_uuid=device_key(device),
            model_identity=identity,
            compute_type=self.options.compute_type,
            batch_size=self.options.batch_size,
            stages=tuple(stages),
            slots=self.places.rung(device.id).slots,
        )
