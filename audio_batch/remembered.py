"""What devices were found to work with after running out of memory: `devices.json` in the cache.

It lies in the user's cache folder (`AUDIO_BATCH_CACHE_DIR` names another), serves all runs of the
user, and is never needed: whatever is wrong with it costs a line in the log and what it knew.
`audio-batch doctor` shows what it holds, `doctor --forget` removes it.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import filelock
import platformdirs
from pydantic import TypeAdapter, ValidationError

from audio_batch import __version__
from audio_batch.engines.cuda import COMPUTE_TYPES
from audio_batch.errors import SetupError
from audio_batch.ladder import Rung
from audio_batch.storage import write_atomic

VARIABLE = "AUDIO_BATCH_CACHE_DIR"
SCHEMA_VERSION = 1
MAX_AGE_S = 180 * 86400.0
"""Older entries are dropped: drivers, libraries and what else uses a GPU change."""
MAX_ENTRIES = 200

_ROOMIER = 1.25
"""So many times the free memory of then: what was learnt says nothing about such a device."""
_LOCK_S = 2.0
_REMEDY = f"Free some space, mend its permissions, or name another folder by {VARIABLE}."

_log = logging.getLogger("audio_batch.setup")


@dataclass(frozen=True, slots=True)
class Key:
    """What an experience is about.

    Attributes:
        device_uuid: the GPU's, or "cpu".
        model_identity: `ModelReference.identity`.
        compute_type: as asked for, "auto" too; not as resolved.
        diarize: whether the diarization model shares the device.
    """

    device_uuid: str
    model_identity: str
    compute_type: str
    diarize: bool


@dataclass(frozen=True, slots=True)
class Experience:
    """What worked, and what it was learnt on.

    Attributes:
        model_name: for people; two names may mean one model.
        learnt_at: seconds since the epoch.
        version: audio-batch's.
        total_bytes, free_bytes: the device's memory, and what of it was free before the models
            were loaded; None where nobody said.
    """

    key: Key
    rung: Rung
    model_name: str
    learnt_at: float
    version: str
    total_bytes: int | None
    free_bytes: int | None

    def holds(self, total_bytes: int | None, free_bytes: int | None) -> bool:
        """Whether it still says something, with the memory as it is now.

        Not on another machine's CPU (a home folder may be shared), and not where another program
        has given back a good part of the memory since.
        """
        if None not in (self.total_bytes, total_bytes) and self.total_bytes != total_bytes:
            return False
        if self.free_bytes is None or free_bytes is None:
            return True
        return free_bytes <= _ROOMIER * self.free_bytes


@dataclass(frozen=True, slots=True)
class _Document:
    schema_version: int
    experiences: list[Experience]


def cache_folder() -> Path:
    """Where the file lies: `AUDIO_BATCH_CACHE_DIR`, else the platform's folder for caches."""
    named = os.environ.get(VARIABLE)
    if named:
        return Path(named).absolute()
    return Path(platformdirs.user_cache_dir("audio-batch", appauthor=False))


@dataclass(slots=True)
class Remembered:
    """What is known of this user's devices. One thread; other processes may write meanwhile.

    Attributes:
        path: the file.
        experiences: what it held when it was read, by key; without what is too old.
        problem: a sentence on why it could not be read, or "".
    """

    path: Path
    experiences: dict[Key, Experience] = field(default_factory=dict)
    problem: str = ""
    _told: bool = False

    @classmethod
    def look(cls) -> Remembered:
        """Read the file and change nothing, whatever state it is in. Never raises."""
        found = cls(cache_folder() / "devices.json")
        with suppress(_Damaged):
            found._read()
        return found

    @classmethod
    def load(cls) -> Remembered:
        """Read the file for a run; a damaged one is moved aside, with a warning. Never raises."""
        found = cls.look()
        if found.problem:
            found._tell(found.problem)
            # Not what a newer version wrote: it is in good order.
            with suppress(OSError, NotImplementedError), found._locked():
                found._move_aside_if_damaged()
        return found

    def lookup(
        self, key: Key, *, total_bytes: int | None = None, free_bytes: int | None = None
    ) -> Rung | None:
        """What worked, if anything is known that still holds; see `Experience.holds`."""
        known = self.experiences.get(key)
        return known.rung if known is not None and known.holds(total_bytes, free_bytes) else None

    def remember(
        self,
        key: Key,
        rung: Rung,
        *,
        model_name: str = "",
        total_bytes: int | None = None,
        free_bytes: int | None = None,
    ) -> None:
        """Keep what worked after the device ran out of memory; nothing is written that is known.

        Never raises: where it cannot be written, the log says so, once.
        """
        if self.lookup(key, total_bytes=total_bytes, free_bytes=free_bytes) == rung:
            return
        learnt = Experience(
            key, rung, model_name, time.time(), __version__, total_bytes, free_bytes
        )
        known = self.experiences
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self._locked():
                self._move_aside_if_damaged()
                if self.problem:
                    self._tell(self.problem)
                else:
                    self.experiences[key] = learnt
                    self._write()
        except filelock.Timeout:
            self._tell(f"{self.path} is held by another program: what was learnt is not kept.")
        except (OSError, NotImplementedError) as error:
            reason = getattr(error, "strerror", None) or error
            self._tell(
                f"What was learnt of devices cannot be kept in {self.path.parent}: {reason}."
            )
        except SetupError as error:
            self._tell(f"What was learnt of devices cannot be kept: {error.message}")
        # This run knows it all the same.
        self.experiences = {**known, **self.experiences, key: learnt}

    def forget(self) -> int:
        """Remove the file; how many experiences it held.

        Raises:
            SetupError: it cannot be removed.
        """
        try:
            if not self.path.exists():
                return 0
            with self._locked():
                with suppress(_Damaged):
                    self._read()
                self.path.unlink(missing_ok=True)
        except (OSError, NotImplementedError) as error:  # filelock.Timeout is an OSError
            reason = getattr(error, "strerror", None) or error
            raise SetupError(f"{self.path} cannot be removed: {reason}.", remedy=_REMEDY) from error
        count = len(self.experiences)
        self.experiences, self.problem = {}, ""
        return count

    def _locked(self) -> filelock.BaseFileLock:
        return filelock.FileLock(
            self.path.with_suffix(".lock"), timeout=_LOCK_S, fallback_to_soft=False
        )

    def _read(self) -> None:
        """Take over what the file holds now.

        Raises:
            _Damaged: `problem` says so.
        """
        self.experiences, self.problem = {}, ""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return
        except OSError as error:
            self.problem = f"{self.path} cannot be read: {error.strerror or error}."
            return
        try:
            version = json.loads(data)["schema_version"]
            if isinstance(version, int) and version > SCHEMA_VERSION:
                self.problem = f"{self.path} was written by a newer audio-batch and is not used."
                return
            document = TypeAdapter(_Document).validate_json(data, strict=True)
            for experience in document.experiences:
                _check(experience.rung)
        except (ValidationError, ValueError, TypeError, KeyError, RecursionError) as error:
            self.problem = f"{self.path} is damaged: what devices were found to work with is lost."
            raise _Damaged from error
        self.experiences = {known.key: known for known in _kept(document.experiences)}

    def _move_aside_if_damaged(self) -> None:
        """Read again, with the lock held: another run may have mended it."""
        try:
            self._read()
        except _Damaged:
            self.path.replace(self.path.with_suffix(".damaged.json"))
            self.problem = ""

    def _write(self) -> None:
        kept = _kept(self.experiences.values())
        document = dataclasses.asdict(_Document(SCHEMA_VERSION, kept))
        write_atomic(self.path, json.dumps(document, indent=1).encode("ascii"))

    def _tell(self, text: str) -> None:
        if not self._told:
            _log.warning("%s", text)
        self._told = True


class _Damaged(Exception):
    """The file holds something else than we write."""


def _check(rung: Rung) -> None:
    """Keep a run from what it would not take from its user.

    Raises:
        ValueError: no run works with this.
    """
    if not (
        1 <= rung.slots <= 999
        and (rung.batch_size is None or 1 <= rung.batch_size <= 1024)
        and rung.compute_type in COMPUTE_TYPES
    ):
        raise ValueError(f"no such rung: {rung}")


def _kept(experiences: Iterable[Experience]) -> list[Experience]:
    """The latest, without what is too old (or of another time altogether: clocks are set)."""
    now = time.time()
    young = [known for known in experiences if abs(now - known.learnt_at) <= MAX_AGE_S]
    return sorted(young, key=lambda known: known.learnt_at, reverse=True)[:MAX_ENTRIES]
