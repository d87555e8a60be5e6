"""The journal's tables, and how an older journal is brought up to them."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from audio_batch.errors import SetupError

SCHEMA_VERSION = 5
"""2 added the stages and `assets.missing`, 3 `assets.suspicions` and `assets.redone`, 4 the parts
and the index of running attempts, 5 the indexes of suspicions and notes; an older journal is
brought up to the newest."""

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE runs (
  run_id INTEGER PRIMARY KEY,
  started_at REAL NOT NULL,          -- seconds since 1970, UTC
  finished_at REAL,
  exit_code INTEGER,
  version TEXT NOT NULL,
  request TEXT NOT NULL              -- JSON: manifest, selection, options; what `retry` repeats
);
CREATE TABLE assets (
  asset_id TEXT PRIMARY KEY,
  name TEXT NOT NULL,
  state TEXT NOT NULL,               -- running done incomplete failed interrupted quarantined
  source TEXT NOT NULL,              -- identity of the input: size and time of change
  fingerprint TEXT NOT NULL,         -- of the options that decide the words
  rendering TEXT NOT NULL,           -- of the options that decide how they are written
  attempts INTEGER NOT NULL,         -- at this source and fingerprint
  deaths INTEGER NOT NULL,           -- attempts that ended with the program's own crash
  device TEXT, error_kind TEXT, error_text TEXT,
  started_at REAL, finished_at REAL,
  duration_s REAL, speech_s REAL, language TEXT,
  notes TEXT NOT NULL DEFAULT '[]',  -- JSON list
  outputs TEXT NOT NULL DEFAULT '[]',-- JSON list of {format, path, size_bytes, sha256}
  timings_s TEXT NOT NULL DEFAULT '{}',
  missing TEXT NOT NULL DEFAULT '[]',-- JSON list of the stages that failed
  suspicions TEXT NOT NULL DEFAULT '[]',-- JSON list of why the words may not be all
  redone INTEGER NOT NULL DEFAULT 0, -- how often it was done again because of them
  run_id INTEGER NOT NULL REFERENCES runs (run_id)
) WITHOUT ROWID;
CREATE INDEX assets_by_state ON assets (state);
CREATE TABLE attempts (
  attempt_id INTEGER PRIMARY KEY,
  asset_id TEXT NOT NULL,
  run_id INTEGER NOT NULL REFERENCES runs (run_id),
  device TEXT,
  state TEXT NOT NULL,
  started_at REAL NOT NULL,
  finished_at REAL,
  error_kind TEXT, error_text TEXT
);
"""

_STAGES = """
CREATE TABLE stages (
  asset_id TEXT NOT NULL,
  stage TEXT NOT NULL,               -- transcribe align diarize
  source TEXT NOT NULL,              -- identity of the input that it was made of
  fingerprint TEXT NOT NULL,         -- of the options that decide its result
  path TEXT NOT NULL, size_bytes INTEGER NOT NULL, sha256 TEXT NOT NULL,
  device TEXT NOT NULL,
  seconds REAL NOT NULL,
  finished_at REAL NOT NULL,
  times INTEGER NOT NULL,            -- how often this stage was ever done for this asset
  PRIMARY KEY (asset_id, stage)
) WITHOUT ROWID
"""

_PARTS = """
CREATE TABLE parts (                 -- the words of parts of an asset, until those of all are there
  asset_id TEXT NOT NULL,
  part TEXT NOT NULL,                -- 2of8
  source TEXT NOT NULL,              -- as in `stages`
  fingerprint TEXT NOT NULL,
  path TEXT NOT NULL, size_bytes INTEGER NOT NULL, sha256 TEXT NOT NULL,
  device TEXT NOT NULL,
  seconds REAL NOT NULL,
  finished_at REAL NOT NULL,
  PRIMARY KEY (asset_id, part)
) WITHOUT ROWID
"""


# Few are suspect, or have notes: without these they are looked for in every row.
_SUSPECT = "CREATE INDEX assets_suspect ON assets (asset_id) WHERE suspicions <> '[]'"
_NOTED = "CREATE INDEX assets_noted ON assets (asset_id) WHERE notes <> '[]'"

# Without it the end of an attempt reads every attempt that was ever made.
_RUNNING = "CREATE INDEX attempts_running ON attempts (asset_id) WHERE state = 'running'"


def version_of(db: sqlite3.Connection) -> int:
    """The file's schema version; 0 for an empty file.

    Raises:
        sqlite3.Error, ValueError: the file is no journal.
    """
    if not db.execute("SELECT name FROM sqlite_master LIMIT 1").fetchone():
        return 0
    row = db.execute("SELECT value FROM meta WHERE key = 'schema_version'").fetchone()
    if row is None:
        raise ValueError("its version is gone")
    return int(row[0])


def check(version: int, path: Path, *, read_only: bool) -> None:
    """Refuse what this program cannot use.

    Raises:
        SetupError: a newer journal, or an empty one to be read.
    """
    if version > SCHEMA_VERSION:
        raise SetupError(
            f"The journal {path} was written by a newer audio-batch (schema {version}).",
            remedy="Upgrade audio-batch, or choose another --output-dir.",
        )
    if version == 0 and read_only:
        raise SetupError(f"The journal {path} is empty.", remedy="Run it first.")


def bring_up(db: sqlite3.Connection, version: int) -> None:
    """Create the tables, or add what later versions have; within the caller's transaction."""
    if version == 0:
        for statement in _SCHEMA.split(";\n"):
            if statement.strip():
                db.execute(statement)
        db.execute("INSERT INTO meta VALUES ('schema_version', '0')")
    if version == 1:
        db.execute("ALTER TABLE assets ADD COLUMN missing TEXT NOT NULL DEFAULT '[]'")
    if version < 2:
        db.execute(_STAGES)
    if version < 4:
        db.execute(_PARTS)
    if version in (1, 2):
        db.execute("ALTER TABLE assets ADD COLUMN suspicions TEXT NOT NULL DEFAULT '[]'")
        db.execute("ALTER TABLE assets ADD COLUMN redone INTEGER NOT NULL DEFAULT 0")
    if version < 4:
        db.execute(_RUNNING)
    if version < 5:
        db.execute(_SUSPECT)
        db.execute(_NOTED)
    db.execute("UPDATE meta SET value = ? WHERE key = 'schema_version'", (str(SCHEMA_VERSION),))
