"""The records that cross the border between the parent and the workers. Plain values only."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from audio_batch.errors import Away, ErrorKind
from audio_batch.storage import PublishedFile


class State(StrEnum):
    """What the journal says of an asset."""

    RUNNING = "running"
    DONE = "done"
    INCOMPLETE = "incomplete"
    """Its transcript is published, but a stage that was asked for has failed."""
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    QUARANTINED = "quarantined"


class Stage(StrEnum):
    """A step whose result is kept, in the order in which they are done."""

    TRANSCRIBE = "transcribe"
    ALIGN = "align"
    DIARIZE = "diarize"


@dataclass(frozen=True, slots=True)
class StageRecord:
    """A stage that was done: what the journal keeps. `fingerprint` names what decided its result.

    `source` is the identity of the recording that it was made of. `part` is the label of the part
    whose words these are (`parts.Part`), "" where they are of the whole.
    """

    asset_id: str
    stage: Stage
    source: str
    fingerprint: str
    file: PublishedFile
    device: str
    seconds: float
    finished_at: float = field(default_factory=time.time)
    part: str = ""


@dataclass(frozen=True, slots=True)
class Published:
    """An incomplete transcript that was written while its asset is still at work."""

    asset_id: str
    outputs: tuple[PublishedFile, ...]
    missing: tuple[str, ...]
    duration_s: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one attempt at one asset: a record, never an exception.

    `device_failed` marks a failure of the device rather than of the asset: the attempt does not
    count against the asset, and the device is taken out of the run. `notes` are what a person
    should know of a finished asset ("damaged: 599.7 s of 600.0 s decoded"). `stages` are those
    that this attempt did, `missing` those that failed though their asset's words were published.
    `suspicions` say why a finished transcript may not be the whole truth (see `suspicion`).
    `compute_type` is the recognizer's at the attempt's end, `batch_size` too, where lack of memory
    has lowered it. `died` counts the attempt among those that ended their process. `part` labels
    the part of the asset that was heard: it publishes nothing, and `duration_s` is its own length.
    `source` is the recording's identity, where that was not known before it was fetched.
    `reached`: the recording's store has answered this attempt, with the recording or without.
    `superseded`: another device has published the asset meanwhile. `rehearsed`: done without
    keeping or publishing anything. `away`: it failed because its store, or that of the outputs, is
    away. `left`: outputs that an attempt had published before it failed, which vouch for nothing.
    """

    asset_id: str
    state: State
    fingerprint: str
    device: str
    outputs: tuple[PublishedFile, ...] = ()
    duration_s: float | None = None
    speech_s: float | None = None
    language: str | None = None
    notes: tuple[str, ...] = ()
    error_kind: ErrorKind | None = None
    error_text: str | None = None
    transient: bool = False
    device_failed: bool = False
    timings_s: dict[str, float] = field(default_factory=dict)
    rendered_only: bool = False
    stages: tuple[StageRecord, ...] = ()
    missing: tuple[Stage, ...] = ()
    suspicions: tuple[str, ...] = ()
    batch_size: int | None = None
    compute_type: str | None = None
    died: bool = False
    part: str = ""
    superseded: bool = False
    rehearsed: bool = False
    source: str | None = None
    reached: bool = False
    away: Away | None = None
    left: tuple[PublishedFile, ...] = ()


@dataclass(slots=True)
class DeviceShare:
    """What one device did in this run.

    `busy_s` are the seconds in which at least one asset was at work there: side by side they count
    once, and the loading of models does not count.
    """

    assets: int = 0
    audio_s: float = 0.0
    busy_s: float = 0.0


@dataclass(frozen=True, slots=True)
class StoreAway:
    """A store that could not be used when a run ended.

    Attributes:
        store: its name, as "https://host" or "s3://bucket"; of a sign-in, "s3://".
        reason: a phrase.
        assets: that many are left to be done for it.
        remedy: what to do, a sentence.
    """

    store: str
    reason: str
    assets: int
    remedy: str


@dataclass(slots=True)
class RunResult:
    """How a run ended; the journal holds what became of each asset.

    `failed` counts incomplete assets too.

    `dropped` says that work was left behind in native code, which no thread can be made to stop.
    `out_of_time`: assets are left because they would not have been done before the time limit.
    `stores_away`: what other assets are left for.
    """

    done: int = 0
    rendered: int = 0
    failed: int = 0
    not_begun: int = 0
    interrupted: bool = False
    stopped_by_failure: bool = False
    dropped: bool = False
    out_of_time: bool = False
    wall_s: float = 0.0
    stores_away: tuple[StoreAway, ...] = ()
    devices_out: dict[str, str] = field(default_factory=dict)
    shares: dict[str, DeviceShare] = field(default_factory=dict)

    def count(self, outcome: Outcome) -> None:
        """Add an outcome that stands."""
        if outcome.state is State.DONE:
            self.done += 1
        else:
            self.failed += 1
        if outcome.rendered_only and outcome.state is State.DONE:
            self.rendered += 1
            return
        if outcome.state is not State.DONE and not (outcome.stages or outcome.rehearsed):
            return
        share = self.shares.setdefault(outcome.device, DeviceShare())
        share.assets += 1
        share.audio_s += outcome.duration_s or 0.0

    def was_busy(self, busy_s: Mapping[str, float]) -> None:
        """Enter how long each device had something at work."""
        for device, share in self.shares.items():
            share.busy_s = busy_s.get(device, 0.0)
