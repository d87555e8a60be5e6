"""The index of the cache: one SQLite file that all processes share."""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path

_log = logging.getLogger("audio_batch.inputs")

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
_GLANCE_S = 0.05
"""A reader is held up only where the index is opened or mended at that moment."""


def opened(folder: Path) -> sqlite3.Connection:
    """The index of a cache; one that is damaged begins anew.

    Raises:
        sqlite3.Error, OSError: it cannot be used.
    """
    try:
        return _connected(folder)
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError as error:
        _log.warning("The index of the cache %s is damaged (%s): it begins anew.", folder, error)
        for name in (_INDEX, f"{_INDEX}-wal", f"{_INDEX}-shm"):
            (folder / name).unlink(missing_ok=True)
        return _connected(folder)


def for_reading(folder: Path) -> sqlite3.Connection:
    """The index of a cache that is open: reads beside whoever changes it, and waits for nobody.

    Raises:
        sqlite3.Error: it cannot be used.
    """
    index = sqlite3.connect(
        folder / _INDEX, timeout=_GLANCE_S, isolation_level=None, check_same_thread=False
    )
    index.execute("PRAGMA query_only = ON")
    return index


def _connected(folder: Path) -> sqlite3.Connection:
    index = sqlite3.connect(
        folder / _INDEX, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
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
