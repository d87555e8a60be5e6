"""The journal: what became of every asset, in SQLite, written by the parent alone.

Rows are durable when a call returns (`synchronous=FULL`). The rollback journal is used rather than
WAL, because WAL is unsafe on network file systems and one writer gains nothing from it.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from audio_batch.errors import ErrorKind, SetupError
from audio_batch.outcome import Outcome, State
from audio_batch.storage import PublishedFile

SCHEMA_VERSION = 1

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
  state TEXT NOT NULL,               -- running done failed interrupted quarantined
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


_FACTS = {
    "outputs": "'[]'",
    "notes": "'[]'",
    "timings_s": "'{}'",
    "duration_s": "NULL",
    "speech_s": "NULL",
    "language": "NULL",
}
"""What is known of an asset as it was last done, and its empty value."""


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """One asset's row."""

    asset_id: str
    name: str
    state: State
    source: str
    fingerprint: str
    rendering: str
    attempts: int
    deaths: int
    device: str | None
    error_kind: ErrorKind | None
    error_text: str | None
    started_at: float | None
    finished_at: float | None
    duration_s: float | None
    speech_s: float | None
    language: str | None
    notes: tuple[str, ...]
    outputs: tuple[PublishedFile, ...]
    timings_s: dict[str, float]
    run_id: int


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run's row; `exit_code` is None for a run that is at work or was killed."""

    run_id: int
    started_at: float
    finished_at: float | None
    exit_code: int | None
    version: str
    request: dict[str, Any]


class Journal:
    """The one door to the journal. Not thread-safe: the parent's main thread holds it.

    Raises (every method):
        SetupError: the file is damaged, of a newer version, or cannot be written.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path
        with self._translated():
            try:
                self._open(read_only)
            except sqlite3.OperationalError as error:
                # A killed run left a transaction to roll back, which a reader may not do: open it
                # for writing once. SQLite's own locks keep this safe beside a run at work.
                if not read_only or "readonly" not in str(error):
                    raise
                self._open(read_only=False)

    def _open(self, read_only: bool) -> None:
        if read_only:
            uri = f"{self.path.resolve().as_uri()}?mode=ro"
            self._db = sqlite3.connect(uri, uri=True, timeout=30, isolation_level=None)
        else:
            self._db = sqlite3.connect(self.path, timeout=30, isolation_level=None)
        self._db.row_factory = sqlite3.Row
        if not read_only:
            self._db.execute("PRAGMA journal_mode=DELETE")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute("PRAGMA foreign_keys=ON")
        self._open_schema(read_only)

    def _open_schema(self, read_only: bool) -> None:
        empty = not self._db.execute("SELECT name FROM sqlite_master LIMIT 1").fetchone()
        if empty:
            if read_only:
                raise SetupError(f"The journal {self.path} is empty.", remedy="Run it first.")
            with self._transaction():
                for statement in _SCHEMA.split(";\n"):
                    if statement.strip():
                        self._db.execute(statement)
                self._db.execute(
                    "INSERT INTO meta VALUES ('schema_version', ?)", (str(SCHEMA_VERSION),)
                )
            return
        row = self._db.execute("SELECT value FROM meta WHERE key = 'schema_version'").fetchone()
        version = int(row["value"]) if row else 0
        if version > SCHEMA_VERSION:
            raise SetupError(
                f"The journal {self.path} was written by a newer audio-batch (schema {version}).",
                remedy="Upgrade audio-batch, or choose another --output-dir.",
            )

    def close(self) -> None:
        """Close the file; what was committed is there whether this is called or not."""
        self._db.close()

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, ValueError, TypeError, KeyError) as error:
            # The latter three: rows that SQLite takes for sound and that cannot be ours.
            text = str(error) if isinstance(error, sqlite3.Error) else "malformed"
            if "full" in text:
                problem, remedy = "the disk is full", "Free some space and run it again."
            elif "malformed" in text or "not a database" in text or "no such table" in text:
                problem = "the file is damaged"
                remedy = (
                    "Your outputs are untouched. Move the journal away and run it again: "
                    "everything is then done anew."
                )
            elif "locked" in text:
                problem = "another program keeps it locked"
                remedy = "Close whatever has it open and run it again."
            else:
                problem, remedy = text, "Check the folder's permissions and file system."
            raise SetupError(
                f"The journal {self.path} cannot be used: {problem}.", remedy=remedy
            ) from error

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._translated():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                # The error itself is what matters; SQLite may have rolled back already.
                with contextlib.suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    # -- runs ---------------------------------------------------------------------------------

    def begin_run(self, *, version: str, request: dict[str, Any]) -> int:
        """Record a new run and return its number."""
        with self._transaction():
            cursor = self._db.execute(
                "INSERT INTO runs (started_at, version, request) VALUES (?, ?, ?)",
                (time.time(), version, json.dumps(request, ensure_ascii=True)),
            )
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def end_run(self, run_id: int, exit_code: int) -> None:
        """Record how a run ended."""
        with self._transaction():
            self._db.execute(
                "UPDATE runs SET finished_at = ?, exit_code = ? WHERE run_id = ?",
                (time.time(), exit_code, run_id),
            )

    def last_run(self) -> RunRecord | None:
        """The newest run, or None in a new journal."""
        with self._translated():
            row = self._db.execute("SELECT * FROM runs ORDER BY run_id DESC LIMIT 1").fetchone()
            if row is None:
                return None
            return RunRecord(**{**dict(row), "request": json.loads(row["request"])})

    # -- assets -------------------------------------------------------------------------------

    def settle_debris(self, *, crashed: bool) -> list[str]:
        """Turn `running` rows of a dead run into `interrupted` ones; return their ids.

        To be called with the folder's lock held, so that nobody is at work. `crashed` says that
        the dead process left a crash report: each asset it ran is then under suspicion, and the
        death is counted against it.
        """
        with self._transaction():
            rows = self._db.execute(
                "SELECT asset_id FROM assets WHERE state = 'running'"
            ).fetchall()
            now = time.time()
            self._db.execute(
                "UPDATE assets SET state = 'interrupted', finished_at = ?, deaths = deaths + ?"
                " WHERE state = 'running'",
                (now, int(crashed)),
            )
            self._db.execute(
                "UPDATE attempts SET state = 'interrupted', finished_at = ?"
                " WHERE state = 'running'",
                (now,),
            )
        return [row["asset_id"] for row in rows]

    def start(
        self,
        asset_id: str,
        *,
        name: str,
        source: str,
        fingerprint: str,
        rendering: str,
        device: str,
        run_id: int,
    ) -> int:
        """Commit that an attempt begins; return its number for this source and fingerprint.

        Attempts begin at 1 again when the input or the options have changed.
        """
        now = time.time()
        with self._transaction():
            self._db.execute(
                "INSERT INTO assets (asset_id, name, state, source, fingerprint, rendering,"
                " attempts, deaths, device, started_at, run_id)"
                " VALUES (:id, :name, 'running', :source, :fingerprint, :rendering, 1, 0,"
                " :device, :now, :run)"
                " ON CONFLICT (asset_id) DO UPDATE SET"
                " attempts = CASE WHEN source = :source AND fingerprint = :fingerprint"
                " THEN attempts + 1 ELSE 1 END,"
                " deaths = CASE WHEN source = :source AND fingerprint = :fingerprint"
                " THEN deaths ELSE 0 END,"
                + "".join(
                    f" {column} = CASE WHEN source = :source AND fingerprint = :fingerprint"
                    f" THEN {column} ELSE {empty} END,"
                    for column, empty in _FACTS.items()
                )
                + ""
                " name = :name, state = 'running', source = :source, fingerprint = :fingerprint,"
                " rendering = :rendering, device = :device, started_at = :now,"
                " finished_at = NULL, error_kind = NULL, error_text = NULL, run_id = :run",
                {
                    "id": asset_id,
                    "name": _storable(name),
                    "source": source,
                    "fingerprint": fingerprint,
                    "rendering": rendering,
                    "device": device,
                    "now": now,
                    "run": run_id,
                },
            )
            self._db.execute(
                "INSERT INTO attempts (asset_id, run_id, device, state, started_at)"
                " VALUES (?, ?, ?, 'running', ?)",
                (asset_id, run_id, device, now),
            )
            row = self._db.execute(
                "SELECT attempts FROM assets WHERE asset_id = ?", (asset_id,)
            ).fetchone()
        return int(row["attempts"])

    def finish(self, outcome: Outcome, *, counts: bool = True) -> None:
        """Commit what became of an attempt. `counts` False takes the attempt back (not its row)."""
        with self._transaction():
            self._finish(outcome, counts)

    def _finish(self, outcome: Outcome, counts: bool) -> None:
        now = time.time()
        # What an earlier attempt found out stands beside its outputs until new ones take its place.
        new_outputs = ", outputs = :outputs" if outcome.state is State.DONE else ""
        new_facts = (
            ", duration_s = :duration, speech_s = :speech, language = :language,"
            " notes = :notes, timings_s = :timings"
            if outcome.state is State.DONE and not outcome.rendered_only
            else ""
        )
        self._db.execute(
            "UPDATE assets SET state = :state, finished_at = :now, error_kind = :kind,"
            " error_text = :text, device = :device, attempts = max(0, attempts - :back)"
            + new_outputs
            + new_facts
            + " WHERE asset_id = :id",
            {
                "state": outcome.state.value,
                "now": now,
                "kind": outcome.error_kind,
                "text": _storable(outcome.error_text),
                "outputs": json.dumps([asdict(output) for output in outcome.outputs]),
                "device": outcome.device,
                "back": 0 if counts else 1,
                "duration": outcome.duration_s,
                "speech": outcome.speech_s,
                "language": outcome.language,
                "notes": json.dumps(list(outcome.notes)),
                "timings": json.dumps(outcome.timings_s),
                "id": outcome.asset_id,
            },
        )
        self._db.execute(
            "UPDATE attempts SET state = ?, finished_at = ?, error_kind = ?, error_text = ?"
            " WHERE asset_id = ? AND state = 'running'",
            (
                outcome.state.value,
                now,
                outcome.error_kind,
                _storable(outcome.error_text),
                outcome.asset_id,
            ),
        )

    def quarantine(self, asset_id: str, text: str) -> None:
        """Set aside an asset whose attempts killed the program too often."""
        with self._transaction():
            self._db.execute(
                "UPDATE assets SET state = 'quarantined', error_kind = ?, error_text = ?"
                " WHERE asset_id = ?",
                (ErrorKind.WORKER_DIED, text, asset_id),
            )

    def forgive(self, asset_ids: Iterable[str]) -> None:
        """Give failed or quarantined assets a fresh count of attempts (`--retry-failed`)."""
        with self._transaction():
            self._db.executemany(
                "UPDATE assets SET attempts = 0, deaths = 0 WHERE asset_id = ?",
                [(asset_id,) for asset_id in asset_ids],
            )

    def entries(self) -> Iterator[JournalEntry]:
        """Every asset's row, by id."""
        with self._translated():
            for row in self._db.execute("SELECT * FROM assets ORDER BY asset_id"):
                yield _entry(row)

    def attempt_count(self) -> int:
        """How many attempts were ever begun."""
        with self._translated():
            row = self._db.execute("SELECT count(*) AS n FROM attempts").fetchone()
        return int(row["n"])


def _storable(text: str | None) -> str | None:
    """SQLite holds UTF-8: what a file name has beyond it (lone surrogates) is shown escaped."""
    return None if text is None else text.encode("utf-8", "backslashreplace").decode("utf-8")


def _entry(row: sqlite3.Row) -> JournalEntry:
    values = dict(row)
    values["state"] = State(values["state"])
    values["error_kind"] = ErrorKind(values["error_kind"]) if values["error_kind"] else None
    values["notes"] = tuple(json.loads(values["notes"]))
    values["outputs"] = tuple(PublishedFile(**output) for output in json.loads(values["outputs"]))
    values["timings_s"] = json.loads(values["timings_s"])
    return JournalEntry(**values)
