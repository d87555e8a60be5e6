"""A small JSON file in the user's cache into which runs learn: locked, bounded, never in the way.

It lies in the user's cache folder (`AUDIO_BATCH_CACHE_DIR` names another), serves all runs of the
user, and is never needed: whatever is wrong with it costs a line in the log and what it knew.
`audio_batch.remembered` and `audio_batch.learnt` say what is in theirs.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Hashable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

import filelock
import platformdirs
from pydantic import TypeAdapter, ValidationError

from audio_batch.errors import SetupError
from audio_batch.storage import write_atomic

VARIABLE = "AUDIO_BATCH_CACHE_DIR"
MAX_AGE_S = 180 * 86400.0
"""Older entries are dropped: drivers, libraries and what else uses a GPU change."""
MAX_ENTRIES = 200

_LOCK_S = 2.0
_REMEDY = f"Free some space, mend its permissions, or name another folder by {VARIABLE}."

_log = logging.getLogger("audio_batch.setup")


def cache_folder() -> Path:
    """Where the files lie: `AUDIO_BATCH_CACHE_DIR`, else the platform's folder for caches."""
    named = os.environ.get(VARIABLE)
    if named:
        return Path(named).absolute()
    return Path(platformdirs.user_cache_dir("audio-batch", appauthor=False))


class Entry(Protocol):
    """What a file holds: something that was learnt, in seconds since the epoch."""

    @property
    def learnt_at(self) -> float: ...


K = TypeVar("K", bound=Hashable)
E = TypeVar("E", bound=Entry)


@dataclass(frozen=True, slots=True)
class Content(Generic[K, E]):
    """What a file is about.

    Attributes:
        file_name: in the cache folder; ends in ".json".
        list_name: of the entries, in the file.
        entry: their type, a dataclass of plain values.
        key: what an entry is about; the file holds one of each.
        check: raises ValueError for an entry that no run could use.
        lost: what a damaged file loses, for a sentence: "… is damaged: {lost} is lost."
        schema_version: of the file.
        what: it is, for a sentence: "{what} cannot be kept …".
        is_private: whether nobody but the user may read it (where files have such a mode).
    """

    file_name: str
    list_name: str
    entry: type[E]
    key: Callable[[E], K]
    check: Callable[[E], None]
    lost: str
    schema_version: int = 1
    what: str = "What was learnt of devices"
    is_private: bool = False


@dataclass(slots=True)
class KeptFile(Generic[K, E]):
    """The file and what it held when it was read. One thread; other processes may write meanwhile.

    Attributes:
        content: what it is about; a subclass says so.
        entries: what it holds, by key; without what is too old.
        problem: a sentence on why it could not be read, or "".
    """

    content: ClassVar[Content[Any, Any]]

    path: Path
    entries: dict[K, E] = field(default_factory=dict)
    problem: str = ""
    _told: bool = False

    @classmethod
    def look(cls) -> Self:
        """Read the file and change nothing, whatever state it is in. Never raises."""
        found = cls(cache_folder() / cls.content.file_name)
        with suppress(_Damaged):
            found._read()
        return found

    @classmethod
    def load(cls) -> Self:
        """Read the file for a run; a damaged one is moved aside, with a warning. Never raises."""
        found = cls.look()
        if found.problem:
            found._tell(found.problem)
            # Not what a newer version wrote: it is in good order.
            with suppress(OSError, NotImplementedError), found._locked():
                found._move_aside_if_damaged()
        return found

    def keep(self, *learnt: E) -> None:
        """Add entries to what the file holds now; of two about one thing the latest stays.

        Never raises: where it cannot be written, the log says so, once.
        """
        known = self.entries
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self._locked():
                self._move_aside_if_damaged()
                if self.problem:
                    self._tell(self.problem)
                else:
                    self._take(learnt)
                    self._write()
        except filelock.Timeout:
            self._tell(f"{self.path} is held by another program: nothing is kept there.")
        except (OSError, NotImplementedError) as error:
            reason = getattr(error, "strerror", None) or error
            self._tell(f"{self.content.what} cannot be kept in {self.path.parent}: {reason}.")
        except SetupError as error:
            self._tell(f"{self.content.what} cannot be kept: {error.message}")
        # This run knows it all the same.
        self.entries = {**known, **self.entries}
        self._take(learnt)

    def forget(self) -> int:
        """Remove the file; how many entries it held.

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
        count = len(self.entries)
        self.entries, self.problem = {}, ""
        return count

    def _locked(self) -> filelock.BaseFileLock:
        return filelock.FileLock(
            self.path.with_suffix(".lock"), timeout=_LOCK_S, fallback_to_soft=False
        )

    def _take(self, learnt: Iterable[E]) -> None:
        now = time.time()
        for entry in learnt:
            key = self.content.key(entry)
            known = self.entries.get(key)
            # A clock that was set back must not leave what is of "the future" in the way.
            if known is None or known.learnt_at <= entry.learnt_at or known.learnt_at > now:
                self.entries[key] = entry

    def _read(self) -> None:
        """Take over what the file holds now.

        Raises:
            _Damaged: `problem` says so.
        """
        self.entries, self.problem = {}, ""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return
        except OSError as error:
            self.problem = f"{self.path} cannot be read: {error.strerror or error}."
            return
        try:
            document = json.loads(data)
            version = document["schema_version"]
            if isinstance(version, int) and version > self.content.schema_version:
                self.problem = f"{self.path} was written by a newer audio-batch and is not used."
                return
            adapter = TypeAdapter(self.content.entry)
            found = [
                adapter.validate_json(json.dumps(one), strict=True)
                for one in document[self.content.list_name]
            ]
            for entry in found:
                self.content.check(entry)
        except (ValidationError, ValueError, TypeError, KeyError, RecursionError) as error:
            self.problem = f"{self.path} is damaged: {self.content.lost} is lost."
            raise _Damaged from error
        self.entries = {self.content.key(entry): entry for entry in _kept(found)}

    def _move_aside_if_damaged(self) -> None:
        """Read again, with the lock held: another run may have mended it."""
        try:
            self._read()
        except _Damaged:
            self.path.replace(self.path.with_suffix(".damaged.json"))
            self.problem = ""

    def _write(self) -> None:
        adapter = TypeAdapter(self.content.entry)
        kept = _kept(self.entries.values())
        document = {
            "schema_version": self.content.schema_version,
            self.content.list_name: [adapter.dump_python(one, mode="json") for one in kept],
        }
        write_atomic(self.path, json.dumps(document, indent=1).encode("ascii"))
        if self.content.is_private:
            self.path.chmod(0o600)

    def _tell(self, text: str) -> None:
        if not self._told:
            _log.warning("%s", text)
        self._told = True


class _Damaged(Exception):
    """The file holds something else than we write."""


def _kept(entries: Iterable[E]) -> list[E]:
    """The latest, without what is too old (or of another time altogether: clocks are set)."""
    now = time.time()
    young = [known for known in entries if abs(now - known.learnt_at) <= MAX_AGE_S]
    return sorted(young, key=lambda known: known.learnt_at, reverse=True)[:MAX_ENTRIES]
