"""The exception tree and the exit codes: documented, tested and stable.

Whatever a user can cause is an `AudioBatchError`: one clear sentence, a remedy, an exit code. What
a library raises is translated into one of these at one seam per library (`media`, `engines`,
`gpu`).
An asset's failure is an `AssetError`; it never leaves the worker as an exception but becomes a
record (`audio_batch.pipeline.Outcome`) that carries its kind and its text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum


class ExitCode(IntEnum):
    """What the process answers to the shell. Documented in the README; never renumbered."""

    OK = 0
    INTERNAL = 1
    USAGE = 2
    SOME_FAILED = 3
    MANIFEST = 4
    ENVIRONMENT = 5
    LOCKED = 11
    INTERRUPTED = 130


class ErrorKind(StrEnum):
    """Why an asset failed: the value stands in the journal, `summary.json` and `status --json`."""

    INPUT_MISSING = "input_missing"
    INPUT_NOT_A_FILE = "input_not_a_file"
    INPUT_UNREADABLE = "input_unreadable"
    INPUT_CHANGED = "input_changed"
    INPUT_FORBIDDEN = "input_forbidden"
    NETWORK = "network"
    NOT_MEDIA = "not_media"
    NO_AUDIO_STREAM = "no_audio_stream"
    EMPTY_AUDIO = "empty_audio"
    MEDIA_LIMIT = "media_limit"
    MEDIA_DAMAGED = "media_damaged"
    LANGUAGE = "language"
    OPTION = "option"
    MODEL = "model"
    ALIGNMENT = "alignment"
    DIARIZATION = "diarization"
    DEVICE = "device"
    OUT_OF_MEMORY = "out_of_memory"
    TIMEOUT = "timeout"
    DISK_FULL = "disk_full"
    OUTPUT = "output"
    OUTPUT_EXISTS = "output_exists"
    WORKER_DIED = "worker_died"
    INTERNAL = "internal"


class AudioBatchError(Exception):
    """Base of every error that a user can cause or mend.

    Args:
        message: one sentence that names what is wrong.
        remedy: what to do about it, or "" when the message says it all.
    """

    exit_code: ExitCode = ExitCode.INTERNAL

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}".rstrip()


class UsageError(AudioBatchError):
    """A flag, a configuration value or a combination of them that cannot be honoured (exit 2)."""

    exit_code = ExitCode.USAGE


class ManifestError(AudioBatchError):
    """One or more problems of a manifest, all of them at once (exit 4).

    `problems` holds one sentence each, beginning with its place (line or JSON pointer).
    """

    exit_code = ExitCode.MANIFEST

    def __init__(self, message: str, *, problems: Sequence[str] = (), remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.problems = tuple(problems)


class SetupError(AudioBatchError):
    """The machine lacks something the run needs: a model, a device, a driver, space (exit 5)."""

    exit_code = ExitCode.ENVIRONMENT


class DeviceError(AudioBatchError):
    """A device, not an asset, has failed: it is taken out of the run, its work goes elsewhere.

    Args:
        lacks_memory: whether there was too little memory to load a model; less may do.
    """

    exit_code = ExitCode.ENVIRONMENT

    def __init__(self, message: str, *, remedy: str = "", lacks_memory: bool = False) -> None:
        super().__init__(message, remedy=remedy)
        self.lacks_memory = lacks_memory


class WorkerDied(DeviceError):
    """A device's process has ended by itself before its models were loaded: another may not."""


class LockedError(AudioBatchError):
    """Another run holds the output folder (exit 11)."""

    exit_code = ExitCode.LOCKED

    @classmethod
    def at(cls, where: str) -> LockedError:
        """The error for outputs that go to `where`."""
        return cls(
            f"Another run is at work in {where}.",
            remedy="Wait for it, or choose another --output-dir; nothing needs unlocking.",
        )


@dataclass(frozen=True, slots=True)
class Away:
    """A store that cannot be used by anybody for now: no fault of the recording's.

    Attributes:
        store: what cannot be reached, as "https://host" or "s3://bucket"; no secret is in it.
        signed_out: the sign-in is missing or over; else the store does not answer at all.
        reason: what is wrong, a phrase.
        remedy: what to do, sentences; "" where nothing is known.
        nameless: nobody knows the name of its host, or no name at all can be looked up.
    """

    store: str
    signed_out: bool
    reason: str
    remedy: str = ""
    nameless: bool = False


class AssetError(AudioBatchError):
    """One asset cannot be done; the others go on.

    Args:
        kind: the class of the failure, journalled.
        transient: whether another attempt may succeed without anybody mending anything.
        away: it is the store's fault, and all that lies there has it in common.
    """

    exit_code = ExitCode.SOME_FAILED

    def __init__(
        self,
        kind: ErrorKind,
        message: str,
        *,
        remedy: str = "",
        transient: bool = False,
        away: Away | None = None,
    ) -> None:
        super().__init__(message, remedy=remedy)
        self.kind = kind
        self.transient = transient
        self.away = away

    def rename(self, name: str, better: str) -> None:
        """Call what it speaks of by another name."""
        self.message = self.message.replace(name, better)
