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
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import filelock

from audio_batch.errors import SetupError

_log = logging.getLogger("audio_batch.inputs")

PART = ".part"
"""What the name of a file that grows ends in, and no key does."""

_INDEX = "index.sqlite3"
_VERSION = 1
_SCHEMA = f"""
CREATE TABLE entry (
    key TEXT PRIMARY KEY,
    whole INTEGER NOT NULL DEFAULT 0,      -- whether the file is complete
    identity TEXT NOT NULL DEFAULT '',     -- of the object that the bytes are of
    size_bytes INTEGER NOT NULL DEFAULT 0, -- what it takes of the bound
    used_at REAL NOT NULL,                 -- seconds since the epoch
    owner TEXT,                            -- the process that is fetching it
    ahead TEXT                             -- the process that fetched it ahead, NULL once used
) WITHOUT ROWID;
CREATE TABLE pin (id INTEGER PRIMARY KEY, key TEXT NOT NULL, holder TEXT NOT NULL);
CREATE INDEX pin_key ON pin (key);
PRAGMA user_version = {_VERSION};
"""
_BUSY_S = 60.0
_NEW_S = 3600.0


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
        self._users = folder / "users"
        self._guard = threading.Lock()
        self._me = f"{os.getpid()}-{secrets.token_hex(8)}"
        try:
            for place in (folder, self._files, self._users):
                place.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = self._user_lock(self._me)
            self._lock.acquire()
            self._index = self._opened()
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
        self._lock.release()
        with contextlib.suppress(OSError):
            self._place_of(self._me).unlink()

    # -- taking -----------------------------------------------------------------------------------

    def take(self, key: str, *, pin: bool = True) -> Whole | Mine | Busy | None:
        """Have a recording, or the task to fetch it.

        Args:
            pin: False asks for the task alone: None where there is nothing to do.
        """
        path = self._files / key
        with self._change() as index:
            row = index.execute(
                "SELECT whole, identity, size_bytes, owner FROM entry WHERE key = ?", (key,)
            ).fetchone()
            if row is not None and row[0]:
                if _size_of(path) == row[2]:
                    return self._pinned(index, key) if pin else None
                self._remove(index, key)  # somebody has been tidying up
                row = None
            part = self._part(key)
            if row is not None and row[3] is not None and self._is_alive(row[3]):
                return Busy(_size_of(part)) if pin else None
            identity = row[1] if row is not None else ""
            size = _size_of(part)
            index.execute(
                "INSERT INTO entry (key, identity, size_bytes, used_at, owner) "
                "VALUES (?, ?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET "
                "size_bytes = excluded.size_bytes, owner = excluded.owner",
                (key, identity, size, time.time(), self._me),
            )
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
        with self._change() as index:
            row = index.execute("DELETE FROM pin WHERE id = ? RETURNING key", (pin,)).fetchone()
            if row is not None:
                index.execute("UPDATE entry SET used_at = ? WHERE key = ?", (time.time(), row[0]))

    # -- fetching ---------------------------------------------------------------------------------

    def began(self, mine: Mine, identity: str) -> None:
        """What is in the file from now on are bytes of the object with this identity."""
        with self._change() as index:
            index.execute("UPDATE entry SET identity = ? WHERE key = ?", (identity, mine.key))

    def reserve(self, mine: Mine, size_bytes: int, *, ahead: bool = False) -> bool:
        """Make room for so many bytes in all. False: what is there is all in use.

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
            if missing > 0:
                self._bury_the_dead(index)
            if not self._evicted(index, missing, mine.key, spare_ahead=ahead):
                return False
            index.execute("UPDATE entry SET size_bytes = ? WHERE key = ?", (size_bytes, mine.key))
            return True

    def _evicted(
        self, index: sqlite3.Connection, missing: int, but: str, *, spare_ahead: bool
    ) -> bool:
        """Whether so many bytes could be made free; if not, nothing is removed."""
        if missing <= 0:
            return True
        spared = "AND ahead IS NULL" if spare_ahead else ""
        removable = index.execute(
            "SELECT key, size_bytes FROM entry WHERE key <> ? AND owner IS NULL AND size_bytes > 0 "
            f"AND key NOT IN (SELECT key FROM pin) {spared} "
            "ORDER BY ahead IS NOT NULL, CASE WHEN ahead IS NULL THEN used_at ELSE -used_at END",
            (but,),
        ).fetchall()
        if sum(size for _, size in removable) < missing:
            return False
        for key, size in removable:
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
        size = mine.path.stat().st_size
        with self._change() as index:
            mine.path.replace(self._files / mine.key)
            index.execute(
                "UPDATE entry SET whole = 1, size_bytes = ?, used_at = ?, owner = NULL, ahead = ? "
                "WHERE key = ?",
                (size, time.time(), None if pin else self._me, mine.key),
            )
            return self._pinned(index, mine.key) if pin else None

    def leave(self, mine: Mine, *, keep: bool = True) -> None:
        """Give the task up; what is there of it is kept for whoever comes next, if it is good."""
        with self._change() as index:
            if not keep or _size_of(mine.path) == 0:
                index.execute("UPDATE entry SET owner = NULL WHERE key = ?", (mine.key,))
                self._remove(index, mine.key)
                return
            index.execute(
                "UPDATE entry SET owner = NULL, size_bytes = ?, used_at = ? WHERE key = ?",
                (_size_of(mine.path), time.time(), mine.key),
            )

    # -- the index --------------------------------------------------------------------------------

    def used_bytes(self) -> int:
        """What is taken of the bound, with what is reserved."""
        with self._change() as index:
            found = index.execute("SELECT coalesce(sum(size_bytes), 0) FROM entry").fetchone()
            return int(found[0])

    def _opened(self) -> sqlite3.Connection:
        try:
            return self._connected()
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            _log.warning(
                "The index of the cache %s is damaged (%s): it begins anew.", self.folder, error
            )
            for name in (_INDEX, f"{_INDEX}-wal", f"{_INDEX}-shm"):
                (self.folder / name).unlink(missing_ok=True)
            return self._connected()

    def _connected(self) -> sqlite3.Connection:
        index = sqlite3.connect(
            self.folder / _INDEX, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
        )
        try:
            index.execute("PRAGMA journal_mode = WAL")
            index.execute("PRAGMA synchronous = NORMAL")
            index.execute("BEGIN IMMEDIATE")
            version = index.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                for statement in _SCHEMA.split(";"):
                    index.execute(statement)
            elif version != _VERSION:
                raise sqlite3.OperationalError("it is another version's")
            index.execute("COMMIT")
        except BaseException:
            index.close()
            raise
        return index

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        """A transaction that no other thread or process changes anything beside."""
        with self._guard:
            self._index.execute("BEGIN IMMEDIATE")
            try:
                yield self._index
            except BaseException:
                self._index.execute("ROLLBACK")
                raise
            self._index.execute("COMMIT")

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

    # -- who is alive -----------------------------------------------------------------------------

    def _place_of(self, user: str) -> Path:
        return self._users / f"{user}.lock"

    def _user_lock(self, user: str) -> filelock.BaseFileLock:
        return filelock.FileLock(
            self._place_of(user), timeout=0, fallback_to_soft=False, thread_local=False
        )

    def _is_alive(self, user: str) -> bool:
        """Whether a process is there: it holds its lock for as long as it lives."""
        if user == self._me:
            return True
        if not self._place_of(user).exists():
            return False
        lock = self._user_lock(user)
        try:
            lock.acquire()
        except (filelock.Timeout, OSError):
            return True
        lock.release()
        return False

    def _bury_the_dead(self, index: sqlite3.Connection) -> None:
        """Free what dead processes hold."""
        users = index.execute(
            "SELECT owner FROM entry UNION SELECT ahead FROM entry UNION SELECT holder FROM pin"
        ).fetchall()
        for (user,) in users:
            if user is not None and not self._is_alive(user):
                self._let_go(index, user)
                with contextlib.suppress(OSError):
                    self._place_of(user).unlink()

    def _let_go(self, index: sqlite3.Connection, user: str) -> None:
        index.execute("DELETE FROM pin WHERE holder = ?", (user,))
        index.execute("UPDATE entry SET ahead = NULL WHERE ahead = ?", (user,))
        for (key,) in index.execute("SELECT key FROM entry WHERE owner = ?", (user,)).fetchall():
            size = _size_of(self._part(key))
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
            for path in self._users.iterdir():
                # A new one may not be locked yet.
                with contextlib.suppress(OSError):
                    old = time.time() - path.stat().st_mtime > _NEW_S
                    if old and path.suffix == ".lock" and not self._is_alive(path.stem):
                        path.unlink()


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
