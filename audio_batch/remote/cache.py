"""A folder of fetched recordings that all processes and runs of a user share, and never outgrow.

An index in SQLite says what is there, how much of the bound it takes, and who is at it. A file is
`KEY.part` while it grows and `KEY` once it is whole. Whoever is at work holds a lock file that the
kernel lets go of with the process, so that nothing has to be cleared away by hand: what a dead
process had pinned is free, and what it was fetching is gone on with.

What is pinned stays. Else what was used longest ago goes first; what was fetched ahead and not used
yet goes last.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import filelock

from audio_batch.errors import SetupError
from audio_batch.remote.cache_index import for_reading, opened
from audio_batch.remote.cache_room import (
    PART,
    is_held,
    lacking_bytes,
    removable,
    size_of,
    spare_bytes,
)
from audio_batch.remote.cache_users import Users

_log = logging.getLogger("audio_batch.inputs")


@dataclass(frozen=True, slots=True)
class Whole:
    """A recording that is there, pinned until `Cache.release(pin)`; `identity` is the object's."""

    path: Path
    pin: int
    identity: str


@dataclass(frozen=True, slots=True)
class Mine:
    """A recording that the caller has to fetch into `path`, which may hold a beginning.

    `part_of` is the identity of which; "" for none. End it by `finish` or `leave`.
    """

    key: str
    path: Path
    part_of: str


@dataclass(frozen=True, slots=True)
class Busy:
    """Somebody else is fetching it; so many bytes are there."""

    have_bytes: int


class Cache:
    """One process's way into the folder. Any thread.

    Args:
        bound_bytes: what all of it may take. Processes with different bounds each keep to theirs.

    Raises:
        SetupError: the folder cannot be made or written to.
    """

    def __init__(self, folder: Path, bound_bytes: int) -> None:
        self.folder = folder
        self.bound_bytes = bound_bytes
        self._files = folder / "files"
        self._guard = threading.Lock()
        self._reading = threading.Lock()
        # Who is at work within this process: a row that could not be written holds nobody up.
        self._mine: set[str] = set()
        # What could not be written when it ended, to be made good by the next change.
        self._owed_pins: list[int] = []
        self._owed_keys: set[str] = set()
        try:
            for place in (folder, self._files):
                place.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._users = Users(folder / "users")
            self._me = self._users.me
            self._index = opened(folder)
            self._for_reading = for_reading(folder)
        except (OSError, NotImplementedError, filelock.Timeout, sqlite3.Error) as error:
            raise SetupError(
                f"The cache {folder} cannot be used: {getattr(error, 'strerror', None) or error}.",
                remedy="Name another folder by --cache-dir.",
            ) from error
        self._sweep()

    def close(self) -> None:
        """Let go of everything; what this process has pinned is free."""
        with self._guard:
            self._bury(self._me)
            self._index.close()
        with self._reading:
            self._for_reading.close()
        self._users.close()

    # -- taking -----------------------------------------------------------------------------------

    def take(self, key: str, *, pin: bool = True) -> Whole | Mine | Busy | None:
        """Have a recording, or the task to fetch it.

        Args:
            pin: False asks for the task alone: None where there is nothing to do.
        """
        task: Mine | None = None
        try:
            with self._change() as index:
                found = self._found(index, key, pin)
                if found is not None or self._is_done(index, key):
                    return found
                if self._is_busy(index, key):
                    return Busy(size_of(self._part(key))) if pin else None
                task = self._begun(index, key)
                self._mine.add(key)
        except BaseException:
            if task is not None:  # it could not be written down
                self._mine.discard(key)
            raise
        return task

    def has(self, key: str) -> bool:
        """Whether a recording is there; it may be removed a moment later. Waits for no change."""
        with self._reading:
            row = self._for_reading.execute(
                "SELECT size_bytes FROM entry WHERE key = ? AND whole", (key,)
            ).fetchone()
        return row is not None and size_of(self._files / key) == row[0]

    def _found(self, index: sqlite3.Connection, key: str, pin: bool) -> Whole | None:
        """A recording that is there; an entry whose file is not, is forgotten."""
        row = index.execute(
            "SELECT size_bytes FROM entry WHERE key = ? AND whole", (key,)
        ).fetchone()
        if row is None:
            return None
        if size_of(self._files / key) != row[0]:
            self._remove(index, key)  # somebody has been tidying up
            return None
        return self._pinned(index, key) if pin else None

    def _is_done(self, index: sqlite3.Connection, key: str) -> bool:
        return (
            index.execute("SELECT 1 FROM entry WHERE key = ? AND whole", (key,)).fetchone()
            is not None
        )

    def _is_busy(self, index: sqlite3.Connection, key: str) -> bool:
        row = index.execute("SELECT owner FROM entry WHERE key = ?", (key,)).fetchone()
        if row is None or row[0] is None:
            return False
        return key in self._mine if row[0] == self._me else self._users.is_alive(row[0])

    def _begun(self, index: sqlite3.Connection, key: str) -> Mine:
        part = self._part(key)
        (identity,) = index.execute(
            "INSERT INTO entry (key, size_bytes, used_at, owner) VALUES (?, ?, ?, ?) "
            "ON CONFLICT (key) DO UPDATE SET size_bytes = excluded.size_bytes, "
            "owner = excluded.owner, whole = 0 RETURNING identity",
            (key, size_of(part), time.time(), self._me),
        ).fetchone()
        return Mine(key, part, identity)

    def _pinned(self, index: sqlite3.Connection, key: str) -> Whole:
        (identity,) = index.execute(
            "UPDATE entry SET used_at = ?, ahead = NULL WHERE key = ? RETURNING identity",
            (time.time(), key),
        ).fetchone()
        added = index.execute("INSERT INTO pin (key, holder) VALUES (?, ?)", (key, self._me))
        assert added.lastrowid is not None
        return Whole(self._files / key, added.lastrowid, identity)

    def release(self, pin: int) -> None:
        """Let go of what `take` or `finish` gave; it may be removed from now on."""
        try:
            with self._change() as index:
                self._unpin(index, pin)
        except sqlite3.Error as error:
            _log.info("The cache lets go of a recording later: %s", error)
            self._owed_pins.append(pin)

    def _unpin(self, index: sqlite3.Connection, pin: int) -> None:
        row = index.execute("DELETE FROM pin WHERE id = ? RETURNING key", (pin,)).fetchone()
        if row is not None:
            index.execute("UPDATE entry SET used_at = ? WHERE key = ?", (time.time(), row[0]))

    # -- fetching ---------------------------------------------------------------------------------

    def began(self, mine: Mine, identity: str) -> None:
        """What is in the file from now on are bytes of the object with this identity."""
        with self._change() as index:
            index.execute("UPDATE entry SET identity = ? WHERE key = ?", (identity, mine.key))

    def reserve(self, mine: Mine, size_bytes: int, *, ahead: bool = False) -> bool:
        """Make room for so many bytes in all, of the bound and on the disk.

        What the disk lacks when nobody in the cache holds anything is not waited for: whoever
        writes will be told.

        Returns:
            False where what is there is all in use.

        Args:
            ahead: nobody waits for it: then 80 % of the bound is the most, and what others fetched
                ahead is not removed.
        """
        bound = self.bound_bytes * 4 // 5 if ahead else self.bound_bytes
        with self._change() as index:
            used = index.execute(
                "SELECT coalesce(sum(size_bytes), 0) FROM entry WHERE key <> ?", (mine.key,)
            ).fetchone()[0]
            missing = used + size_bytes - bound
            lacking = lacking_bytes(index, self._files, mine.key, size_bytes)
            if max(missing, lacking) > 0:
                self._bury_the_dead(index)
            if not self._evicted(index, missing, mine.key, spare_ahead=ahead):
                return False
            lacking = lacking_bytes(index, self._files, mine.key, size_bytes)
            if not self._evicted(index, lacking, mine.key, spare_ahead=ahead):
                if ahead:
                    return False
                self._evicted(index, lacking, mine.key, spare_ahead=False, some=True)
                spare = spare_bytes(self._files)
                if lacking > spare and is_held(index, mine.key):
                    return False
            index.execute("UPDATE entry SET size_bytes = ? WHERE key = ?", (size_bytes, mine.key))
            return True

    def make_room(self, size_bytes: int) -> bool:
        """Remove what nobody uses, so many bytes of it at least or all; whether anything went.

        To be called where the disk is full. Files go before the index is written to.
        """
        with self._change() as index:
            before = removable(index)
            self._evicted(index, size_bytes, "", spare_ahead=False, some=True)
            return len(removable(index)) < len(before)

    def _evicted(
        self,
        index: sqlite3.Connection,
        missing: int,
        but: str,
        *,
        spare_ahead: bool,
        some: bool = False,
    ) -> bool:
        """Whether so many bytes could be made free; if not, nothing is removed, or with `some` all
        that may be."""
        if missing <= 0:
            return True
        unused = removable(index, but, spare_ahead=spare_ahead)
        if not some and sum(size for _, size in unused) < missing:
            return False
        for key, size in unused:
            if missing <= 0:
                break
            if self._remove(index, key):
                missing -= size
        return missing <= 0

    def finish(self, mine: Mine, *, pin: bool = True) -> Whole | None:
        """The file is whole and synced: it gets its name. Pinned, unless it was fetched ahead.

        Raises:
            OSError: it cannot be renamed.
        """
        try:
            size = mine.path.stat().st_size
            with self._change() as index:
                mine.path.replace(self._files / mine.key)
                index.execute(
                    "UPDATE entry SET whole = 1, size_bytes = ?, used_at = ?, owner = NULL, "
                    "ahead = ? WHERE key = ?",
                    (size, time.time(), None if pin else self._me, mine.key),
                )
                return self._pinned(index, mine.key) if pin else None
        except BaseException:
            self._owed_keys.add(mine.key)
            raise
        finally:
            self._mine.discard(mine.key)

    def leave(self, mine: Mine, *, keep: bool = True) -> None:
        """Give the task up; what is there of it is kept for whoever comes next, if it is good."""
        try:
            if not keep:
                mine.path.unlink(missing_ok=True)
            with self._change() as index:
                self._leave(index, mine.key)
        except (sqlite3.Error, OSError) as error:
            _log.info("The cache gives up a download later: %s", error)
            self._owed_keys.add(mine.key)
        finally:
            self._mine.discard(mine.key)

    def _leave(self, index: sqlite3.Connection, key: str) -> None:
        size = size_of(self._part(key))
        if (
            index.execute(
                "UPDATE entry SET owner = NULL, size_bytes = ?, used_at = ? "
                "WHERE key = ? AND owner = ? RETURNING 1",
                (size, time.time(), key, self._me),
            ).fetchall()
            and not size
        ):
            self._remove(index, key)

    # -- the index --------------------------------------------------------------------------------

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        """A transaction that no other thread or process changes anything beside."""
        with self._guard:
            self._index.execute("BEGIN IMMEDIATE")
            pins, keys = list(self._owed_pins), self._owed_keys - self._mine
            try:
                for pin in pins:
                    self._unpin(self._index, pin)
                for key in keys:
                    self._leave(self._index, key)
                yield self._index
                self._index.execute("COMMIT")
            except BaseException:
                if self._index.in_transaction:  # SQLite itself goes back where the disk is full
                    self._index.execute("ROLLBACK")
                raise
            del self._owed_pins[: len(pins)]
            self._owed_keys -= keys

    def _part(self, key: str) -> Path:
        return self._files / f"{key}{PART}"

    def _remove(self, index: sqlite3.Connection, key: str) -> bool:
        """Take an entry's files away, then its row; False where the system does not let us."""
        try:
            for path in (self._files / key, self._part(key)):
                path.unlink(missing_ok=True)
        except OSError:  # on Windows: somebody has it open
            return False
        index.execute("DELETE FROM entry WHERE key = ?", (key,))
        index.execute("DELETE FROM pin WHERE key = ?", (key,))
        return True

    # -- the dead ---------------------------------------------------------------------------------

    def _bury_the_dead(self, index: sqlite3.Connection) -> None:
        """Free what dead processes hold."""
        users = index.execute(
            "SELECT owner FROM entry UNION SELECT ahead FROM entry UNION SELECT holder FROM pin"
        ).fetchall()
        for (user,) in users:
            if user is not None and not self._users.is_alive(user):
                self._let_go(index, user)
                self._users.forget(user)

    def _let_go(self, index: sqlite3.Connection, user: str) -> None:
        index.execute("DELETE FROM pin WHERE holder = ?", (user,))
        index.execute("UPDATE entry SET ahead = NULL WHERE ahead = ?", (user,))
        for (key,) in index.execute("SELECT key FROM entry WHERE owner = ?", (user,)).fetchall():
            size = size_of(self._part(key))
            index.execute(
                "UPDATE entry SET owner = NULL, size_bytes = ? WHERE key = ?", (size, key)
            )

    def _bury(self, user: str) -> None:
        with contextlib.suppress(sqlite3.Error):
            self._index.execute("BEGIN IMMEDIATE")
            self._let_go(self._index, user)
            self._index.execute("COMMIT")

    def _sweep(self) -> None:
        """What dead processes hold, and files that no entry knows."""
        files = list(self._files.iterdir())
        with self._change() as index:
            self._bury_the_dead(index)
            known = {key for (key,) in index.execute("SELECT key FROM entry")}
            for path in files:
                if path.name.removesuffix(PART) not in known:
                    with contextlib.suppress(OSError):
                        path.unlink()
            index.execute("DELETE FROM entry WHERE size_bytes = 0 AND whole = 0 AND owner IS NULL")
        self._users.sweep()
