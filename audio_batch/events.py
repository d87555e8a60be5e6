"""What happens during a run, as records. The runner emits them, reporters listen."""

from __future__ import annotations

from dataclasses import dataclass

from audio_batch.outcome import Outcome


@dataclass(frozen=True, slots=True)
class RunStarted:
    """Before the first asset: what there is to do and on what."""

    todo: int
    todo_audio_s: float | None
    already_done: int
    failed_before: int
    slots: int
    devices: tuple[str, ...]
    output_folder: str


@dataclass(frozen=True, slots=True)
class AssetStarted:
    """A worker has begun an asset. `position` counts from 1 to `total` in this run."""

    asset_id: str
    name: str
    position: int
    total: int
    attempt: int
    device: str
    worker: str
    balancer_status: str
    duration_s: float | None


@dataclass(frozen=True, slots=True)
class AssetProgress:
    """How far a stage has come, and its asset over all stages, as shares from 0 to 1."""

    asset_id: str
    device: str
    stage: str
    share: float
    asset_share: float
    duration_s: float


@dataclass(frozen=True, slots=True)
class AssetFinished:
    """An outcome has been committed. `will_retry_in_s` is None when it stands."""

    name: str
    position: int
    total: int
    worker: str
    outcome: Outcome
    wall_s: float
    will_retry_in_s: float | None = None


@dataclass(frozen=True, slots=True)
class DeviceOut:
    """A device has been taken out of the run."""

    device: str
    reason: str


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that the person should know; `warning` raises its level."""

    text: str
    warning: bool = False


@dataclass(frozen=True, slots=True)
class StopRequested:
    """A signal came: what runs is finished, nothing new begins."""

    signal_name: str
    running: int


Event = (
    RunStarted | AssetStarted | AssetProgress | AssetFinished | DeviceOut | Notice | StopRequested
)
