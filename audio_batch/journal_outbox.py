"""The journal's outbox: which assets' rows a table of results has not been told of.

Triggers fill it within the transaction of whatever changes a row, so that no outcome is forgotten,
whoever writes it: a run without results, a verification, a recovery. A row leaves it once it has
been delivered. They are made when a journal's results are first asked for: who wants none pays
nothing.
"""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from audio_batch import journal_rows
from audio_batch.journal_file import JournalFile
from audio_batch.journal_rows import JournalEntry

_DESTINATION = "results_destination"
_JOURNAL_ID = "journal_id"

# A row that changes again gets a new number: what is deleted is what was delivered. No OR REPLACE:
# within a trigger the outer statement's own conflict clause counts.
_PUT = (
    "WHEN NEW.state <> 'running' BEGIN"
    " DELETE FROM outbox WHERE asset_id = NEW.asset_id;"
    " INSERT INTO outbox (asset_id) VALUES (NEW.asset_id); END"
)

_MAKE = (
    "CREATE TABLE IF NOT EXISTS outbox"
    " (number INTEGER PRIMARY KEY AUTOINCREMENT, asset_id TEXT NOT NULL UNIQUE)",
    f"CREATE TRIGGER IF NOT EXISTS outbox_of_inserted AFTER INSERT ON assets {_PUT}",
    "CREATE TRIGGER IF NOT EXISTS outbox_of_updated"
    f" AFTER UPDATE OF state, error_kind, error_text, outputs, finished_at ON assets {_PUT}",
)


@dataclass(frozen=True, slots=True)
class Undelivered:
    """A row to be told of.

    Args:
        number: of its place in the outbox.
        version: of the program whose run has made it.
    """

    number: int
    entry: JournalEntry
    version: str


class Outbox:
    """The outbox of an open journal; in the thread that holds it.

    Raises (every method):
        SetupError: see `Journal`.
    """

    def __init__(self, file: JournalFile) -> None:
        self._file = file

    def open_for(self, destination: str) -> None:
        """See that what happens from now on goes to `destination`.

        For a destination that is not the last one, everything that the journal knows is due.
        """
        with self._file.translated():
            row = self._one("SELECT value FROM meta WHERE key = ?", _DESTINATION)
            named = self._one("SELECT value FROM meta WHERE key = ?", _JOURNAL_ID)
            known = row is not None and named is not None and row["value"] == destination
            if known and self._is_made():
                return
        with self._file.transaction():
            for statement in _MAKE:
                self._file.db.execute(statement)
            self._file.db.execute(
                "INSERT OR REPLACE INTO meta VALUES (?, ?)", (_DESTINATION, destination)
            )
            self._file.db.execute(
                "INSERT OR IGNORE INTO meta VALUES (?, ?)", (_JOURNAL_ID, str(uuid.uuid4()))
            )
            self._fill()

    def journal_id(self) -> str:
        """What tells this journal from others, once the outbox has been opened; else empty."""
        with self._file.translated():
            row = self._one("SELECT value FROM meta WHERE key = ?", _JOURNAL_ID)
        return str(row["value"]) if row is not None else ""

    def fill(self) -> None:
        """Have everything that the journal knows delivered, once more where it has been."""
        with self._file.transaction():
            self._fill()

    def some(self, most: int, *, after: int = 0) -> list[Undelivered]:
        """The oldest rows that are due, at most so many, from beyond a number on.

        What is at work at this moment is left out: its end is due later.
        """
        columns = journal_rows.entry_columns(self._file.version)
        with self._file.translated():
            # The outbox is read first: by itself SQLite might begin with a million assets.
            found = self._file.db.execute(
                f"SELECT box.number, box_run.version, entry.* FROM outbox AS box"
                f" CROSS JOIN (SELECT {columns} FROM assets) AS entry"
                " ON entry.asset_id = box.asset_id"
                " LEFT JOIN runs AS box_run ON box_run.run_id = entry.run_id"
                " WHERE box.number > ? AND entry.state <> 'running'"
                " ORDER BY box.number LIMIT ?",
                (after, most),
            )
            return [
                Undelivered(row["number"], journal_rows.entry_of(row), row["version"] or "")
                for row in found
            ]

    def delivered(self, numbers: Sequence[int]) -> None:
        """Forget rows that are where they should be."""
        if not numbers:
            return
        with self._file.transaction():
            self._file.db.executemany(
                "DELETE FROM outbox WHERE number = ?", [(number,) for number in numbers]
            )

    def count(self) -> int:
        """How many are due."""
        with self._file.translated():
            if not self._is_made():
                return 0
            row = self._one("SELECT count(*) AS n FROM outbox")
        return int(row["n"]) if row else 0

    def _fill(self) -> None:
        self._file.db.execute(
            "INSERT OR IGNORE INTO outbox (asset_id)"
            " SELECT asset_id FROM assets WHERE state <> 'running' ORDER BY finished_at"
        )

    def _is_made(self) -> bool:
        name = "SELECT 1 FROM sqlite_master WHERE type = 'trigger' AND name = 'outbox_of_updated'"
        return self._one(name) is not None

    def _one(self, statement: str, *values: object) -> sqlite3.Row | None:
        row: sqlite3.Row | None = self._file.db.execute(statement, values).fetchone()
        return row
