"""What a parent and the child process of a device say to each other. Plain values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from audio_batch.errors import AudioBatchError, DeviceError, SetupError, UsageError
from audio_batch.events import AssetProgress
from audio_batch.loading import Place
from audio_batch.outcome import Outcome, Published, Stage, StageRecord
from audio_batch.pipeline import Job
from audio_batch.storage import PublishedFile
from audio_batch.workplace import Recipe

# -- from the parent -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """What a child on another machine is told besides; see `courier`.

    `scratch` is a folder there that outlives no child. `model_dir` and `offline` are how the models
    were found here. With `outputs_come_back` what it publishes is for the parent to publish. Unless
    `cache_named`, its cache of remote recordings is where that machine has one.
    """

    node: str
    scratch: Path
    model_dir: Path | None
    offline: bool
    outputs_come_back: bool
    cache_named: bool
    cores: int


@dataclass(frozen=True, slots=True)
class ChildSetup:
    """What a child is begun with.

    `stderr` is where its own stderr and its crash report go. `place.slots` threads work in it,
    named by numbers from `first_worker` on. `secrets` are for `text.keep_secret`; none of them goes
    to another machine.
    """

    parent_pid: int
    recipe: Recipe
    place: Place
    needed: tuple[Stage, ...]
    stderr: Path
    first_worker: int
    secrets: tuple[str, ...] = field(repr=False)
    elsewhere: Elsewhere | None = None


Shelf = Literal["state", "outputs"]
"""Where a file belongs that travels: among the kept results of stages, or the outputs."""


@dataclass(frozen=True, slots=True)
class Bring:
    """A file that the next jobs need, to another machine."""

    shelf: Shelf
    path: str
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Do:
    """Work at this; answered by `Begun` and, however it goes, `Ended`."""

    job: Job


@dataclass(frozen=True, slots=True)
class Abandon:
    """The outcome of the job with this serial is of no use any more: publish nothing, end soon."""

    serial: int


@dataclass(frozen=True, slots=True)
class Leave:
    """Let what runs end, then go."""


# -- from the child ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Loaded:
    """The models are loaded: the first message, unless it is `Refused`."""

    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Refused:
    """The models cannot be loaded: an `AudioBatchError` as plain values."""

    kind: Literal["DeviceError", "SetupError", "UsageError"]
    message: str
    remedy: str
    lacks_memory: bool = False

    @classmethod
    def of(cls, error: AudioBatchError) -> Refused:
        """As values; a kind that is none of the three is a SetupError."""
        if isinstance(error, DeviceError):
            return cls("DeviceError", error.message, error.remedy, error.lacks_memory)
        kind: Literal["SetupError", "UsageError"] = "SetupError"
        if isinstance(error, UsageError):
            kind = "UsageError"
        return cls(kind, error.message, error.remedy)

    def error(self) -> AudioBatchError:
        """As the exception that it was."""
        if self.kind == "DeviceError":
            return DeviceError(self.message, remedy=self.remedy, lacks_memory=self.lacks_memory)
        kind = UsageError if self.kind == "UsageError" else SetupError
        return kind(self.message, remedy=self.remedy)


@dataclass(frozen=True, slots=True)
class Begun:
    """A thread of the child has taken up a job."""

    key: str
    worker: str


@dataclass(frozen=True, slots=True)
class Told:
    """One of `runner.Tell`'s records."""

    record: AssetProgress | StageRecord | Published


@dataclass(frozen=True, slots=True)
class Brought:
    """A file that a job has made on another machine; before the message that speaks of it."""

    key: str
    shelf: Shelf
    file: PublishedFile
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Ended:
    """A job has ended."""

    key: str
    outcome: Outcome
    worker: str


@dataclass(frozen=True, slots=True)
class Logged:
    """A line of the child's log; `logging.LogRecord.__dict__` with its text made up."""

    record: Mapping[str, Any]


FromParent = Bring | Do | Abandon | Leave
FromChild = Loaded | Refused | Begun | Told | Brought | Ended | Logged
