"""How fast devices were found to be: `speeds.json` in the cache; see `audio_batch.kept_file`.

A run begins with what earlier runs learnt here and keeps what it has learnt itself at its end.
`audio-batch gpus` shows what the file holds, `gpus --forget` removes it.
"""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from audio_batch import __version__
from audio_batch.gpu.devices import Device
from audio_batch.kept_file import Content, KeptFile
from audio_batch.outcome import Stage

if TYPE_CHECKING:
    from audio_batch.schedule.speeds import DeviceSpeed

_STAGES = frozenset(stage.value for stage in Stage)


def device_key(device: Device) -> str:
    """What a device is called in the file: a GPU's UUID, or "cpu@host".

    A home folder may be shared by machines: a UUID is one board's, "cpu" is every machine's.
    """
    return device.uuid or f"cpu@{platform.node()}"


@dataclass(frozen=True, slots=True)
class SpeedKey:
    """What a speed is of: a device at one kind of work.

    Attributes:
        device_uuid: by `device_key`.
        model_identity: `ModelReference.identity`.
        compute_type: as asked for, "auto" too; not as resolved.
        batch_size: windows of 30 s, as asked for; None: by memory.
        stages: values of `Stage`, in its order.
        slots: assets that may be at work side by side there.
    """

    device_uuid: str
    model_identity: str
    compute_type: str
    batch_size: int | None
    stages: tuple[str, ...]
    slots: int


@dataclass(frozen=True, slots=True)
class Learnt:
    """How fast a device was at one kind of work, and when that was.

    Attributes:
        fixed_s: seconds that an asset takes whatever its length.
        per_audio_s: seconds of work per second of audio for one asset, by how many were at work
            there side by side.
        jobs: assets it was learnt from.
        stage_per_audio_s: of it, by stage (values of `Stage`); what a run did not measure is
            missing.
        device_name, model_name: for people.
        learnt_at: seconds since the epoch.
        version: audio-batch's.
    """

    key: SpeedKey
    fixed_s: float
    per_audio_s: Mapping[int, float]
    jobs: int
    stage_per_audio_s: Mapping[str, float]
    device_name: str
    model_name: str
    learnt_at: float
    version: str

    @classmethod
    def of(
        cls,
        key: SpeedKey,
        speed: DeviceSpeed,
        *,
        stage_per_audio_s: Mapping[str, float],
        device_name: str,
        model_name: str,
    ) -> Learnt:
        """What a run has learnt just now."""
        return cls(
            key=key,
            fixed_s=speed.fixed_s,
            per_audio_s=dict(speed.per_audio_s),
            jobs=speed.jobs,
            stage_per_audio_s=dict(stage_per_audio_s),
            device_name=device_name,
            model_name=model_name,
            learnt_at=time.time(),
            version=__version__,
        )

    @property
    def speed(self) -> DeviceSpeed:
        """For the schedule."""
        from audio_batch.schedule.speeds import DeviceSpeed

        return DeviceSpeed(fixed_s=self.fixed_s, per_audio_s=self.per_audio_s, jobs=self.jobs)

    def rtfx(self, active: int) -> float:
        """Audio seconds per second of the whole device with `active` assets at work side by side.

        Without the fixed seconds of an asset, so that it is of long recordings.

        Raises:
            KeyError: nothing is known with so many at work.
        """
        return active / self.per_audio_s[active]


def _check(learnt: Learnt) -> None:
    """Keep a schedule from what it cannot reckon with.

    Raises:
        ValueError: no device is like this.
    """
    speeds = learnt.per_audio_s.values()
    stages = learnt.stage_per_audio_s
    if not (
        0 <= learnt.fixed_s < math.inf
        and speeds
        and all(0 < seconds < math.inf for seconds in speeds)
        and all(1 <= active <= 999 for active in learnt.per_audio_s)
        and learnt.jobs >= 1
        and 1 <= learnt.key.slots <= 999
        and _STAGES.issuperset(learnt.key.stages)
        and _STAGES.issuperset(stages)
        and all(0 <= seconds < math.inf for seconds in stages.values())
    ):
        raise ValueError(f"no such speed: {learnt}")


class LearntSpeeds(KeptFile[SpeedKey, Learnt]):
    """The speeds of this user's devices. One thread; other processes may write meanwhile."""

    __slots__ = ()

    content: ClassVar[Content[SpeedKey, Learnt]] = Content(
        file_name="speeds.json",
        list_name="speeds",
        entry=Learnt,
        key=lambda learnt: learnt.key,
        check=_check,
        lost="how fast devices were found to be",
    )

    def keep(self, *learnt: Learnt) -> None:
        """Keep speeds; one that no schedule could use (of no job at all) is left out.

        Never raises: where it cannot be written, the log says so, once.
        """
        sound = [one for one in learnt if _is_sound(one)]
        if sound:
            super().keep(*sound)

    def lookup(self, key: SpeedKey) -> Learnt | None:
        """What is known of exactly this."""
        return self.entries.get(key)

    def nearest(self, key: SpeedKey) -> Learnt | None:
        """What is known of this with whatever number of slots: the nearest, then the latest."""
        alike = (
            known
            for known in self.entries.values()
            if _without_slots(known.key) == _without_slots(key)
        )
        return min(
            alike,
            key=lambda known: (abs(known.key.slots - key.slots), -known.learnt_at),
            default=None,
        )

    def all(self) -> Sequence[Learnt]:
        """Everything that is known, the latest first."""
        return sorted(self.entries.values(), key=lambda known: known.learnt_at, reverse=True)


def _is_sound(learnt: Learnt) -> bool:
    try:
        _check(learnt)
    except ValueError:
        return False
    return True


def _without_slots(key: SpeedKey) -> tuple[object, ...]:
    return (key.device_uuid, key.model_identity, key.compute_type, key.batch_size, key.stages)
