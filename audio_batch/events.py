"""What happens during a run, as records. The runner emits them, reporters listen."""

from __future__ import annotations

from dataclasses import dataclass

from audio_batch.outcome import Outcome

WAITING = "waiting"
"""The step of an asset that waits at a stage until the device has room for it."""


def job_key(asset_id: str, share: str) -> str:
    """Tells apart what is at work on one asset: all of it (""), its copy, its parts."""
    return f"{asset_id}\0{share}" if share else asset_id


def asset_of(key: str) -> str:
    """The asset that a `job_key` is of."""
    return key.partition("\0")[0]


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
    share: str = ""

    @property
    def key(self) -> str:
        """See `job_key`."""
        return job_key(self.asset_id, self.share)


@dataclass(frozen=True, slots=True)
class AssetProgress:
    """How far a stage has come, and its asset over all stages, as shares from 0 to 1."""

    asset_id: str
    device: str
    stage: str
    share: float
    asset_share: float
    duration_s: float
    part: str = ""

    @property
    def key(self) -> str:
        """See `job_key`."""
        return job_key(self.asset_id, self.part)


@dataclass(frozen=True, slots=True)
class AssetFinished:
    """An outcome has been committed. `will_retry_in_s` is None when it stands.

    `waits_for`: the store that is away, until the asset is tried again.
    """

    name: str
    position: int
    total: int
    worker: str
    outcome: Outcome
    wall_s: float
    will_retry_in_s: float | None = None
    share: str = ""
    waits_for: str = ""


@dataclass(frozen=True, slots=True)
class AssetDropped:
    """What was at work on a device is of no use any more: another has done the same."""

    asset_id: str
    share: str
    device: str


@dataclass(frozen=True, slots=True)
class DeviceJoined:
    """A device takes part in a run that has begun; it is loading its models. `name` is its kind,
    `slots` how many assets it takes at a time."""

    device: str
    name: str
    slots: int


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
    RunStarted
    | AssetStarted
    | AssetProgress
    | AssetFinished
    | AssetDropped
    | DeviceJoined
    | DeviceOut
    | Notice
    | StopRequested
)
