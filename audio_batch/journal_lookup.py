"""What the journal knows of a few assets at a time: a plan over a million of them holds no more."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from operator import itemgetter
from typing import Any

from audio_batch import journal_rows, journal_stages
from audio_batch.journal_file import JournalFile
from audio_batch.journal_rows import JournalEntry, stage_of
from audio_batch.outcome import Stage, StageRecord

_AT_ONCE = 500
"""Ids in one question: SQLite of old takes 999 parameters."""

Row = tuple[str, str, str, str, str, str, str, str]
"""Id, source, fingerprint, rendering, and the JSON of missing, notes, suspicions and outputs."""

# The plus keeps SQLite from looking into the index of states first.
_DONE = (
    "SELECT asset_id, source, fingerprint, rendering, missing, notes, suspicions, outputs"
    " FROM assets WHERE +state = 'done' AND asset_id "
)

_JSON_PATH = re.compile(r'\{"format": "json", "path": "([^"\\]*)"')
"""The path of an asset's JSON in its outputs as `outputs_json` writes them, if nothing is escaped:
to parse them takes ten times as long."""


class Lookup:
    """Questions to an open journal of the newest schema. Not thread-safe, as the journal.

    Raises (every method):
        SetupError: the file is damaged.
    """

    def __init__(self, file: JournalFile) -> None:
        self._file = file

    def entries(self, asset_ids: Iterable[str]) -> list[JournalEntry]:
        """The rows of those that have one, in no order."""
        columns = journal_rows.entry_columns(self._file.version)
        with self._file.translated():
            return [
                journal_rows.entry_of(row)
                for row in self._asked(
                    f"SELECT {columns} FROM assets WHERE asset_id IN ", asset_ids
                )
            ]

    def done(self, asset_ids: Sequence[str], *, dense: bool) -> dict[str, Row]:
        """Those that are done, by id, as little of each as tells whether it is to be kept.

        Args:
            dense: most rows between the least and the greatest of the ids are theirs, so that
                all of these may as well be read. There must be an id then.
        """
        with self._file.translated():
            if not dense:
                return {row[0]: row for row in self._asked(f"{_DONE} IN ", asset_ids, raw=True)}
            ends = (min(asset_ids), max(asset_ids))
            rows = self._raw().execute(f"{_DONE} BETWEEN ? AND ?", ends)
            return {row[0]: row for row in rows}

    def knows_any(self) -> bool:
        """Whether anything at all was ever written down of an asset."""
        with self._file.translated():
            row = self._file.db.execute(
                "SELECT EXISTS (SELECT 1 FROM assets) OR EXISTS (SELECT 1 FROM stages)"
            ).fetchone()
        return bool(row[0])

    def known(self, asset_ids: Sequence[str]) -> set[str]:
        """Those of which anything was ever written down."""
        with self._file.translated():
            return {
                row[0]
                for table in ("assets", "stages")
                for row in self._asked(
                    f"SELECT asset_id FROM {table} WHERE asset_id IN ", asset_ids, raw=True
                )
            }

    def stages(self, asset_ids: Iterable[str]) -> dict[str, dict[Stage, StageRecord]]:
        """The newest result of every stage, by asset and stage."""
        found: dict[str, dict[Stage, StageRecord]] = {}
        if self._file.version < journal_stages.SINCE_VERSION:
            return found
        with self._file.translated():
            for row in self._asked("SELECT * FROM stages WHERE asset_id IN ", asset_ids):
                record = stage_of(row)
                found.setdefault(record.asset_id, {})[record.stage] = record
        return found

    def has_kept_speakers(self) -> bool:
        """Whether the speakers of any asset were ever told apart, and are kept."""
        with self._file.translated():
            row = self._file.db.execute(
                "SELECT 1 FROM stages WHERE stage = ? LIMIT 1", (Stage.DIARIZE.value,)
            ).fetchone()
        return row is not None

    def count(self) -> int:
        """How many assets have a row."""
        with self._file.translated():
            row = self._file.db.execute("SELECT count(*) FROM assets").fetchone()
        return int(row[0])

    def ids(self) -> Iterator[str]:
        """The ids of all rows."""
        with self._file.translated():
            yield from map(itemgetter(0), self._raw().execute("SELECT asset_id FROM assets"))

    def json_paths(self) -> Iterator[tuple[str, str]]:
        """The id and the path of the JSON of all that have published one."""
        with self._file.translated():
            for asset_id, outputs in self._raw().execute("SELECT asset_id, outputs FROM assets"):
                if found := _JSON_PATH.search(outputs):
                    yield asset_id, found[1]
                elif '"json"' in outputs:
                    for output in json.loads(outputs):
                        if output["format"] == "json":
                            yield asset_id, output["path"]

    def _raw(self) -> sqlite3.Cursor:
        cursor = self._file.db.cursor()
        cursor.row_factory = None
        return cursor

    def _asked(
        self, statement: str, asset_ids: Iterable[str], *, raw: bool = False
    ) -> Iterator[Any]:
        cursor = self._raw() if raw else self._file.db.cursor()
        # Next to each other in the file, so that each page is read once.
        ids: Sequence[str] = sorted(asset_ids)
        for at in range(0, len(ids), _AT_ONCE):
            some = ids[at : at + _AT_ONCE]
            marks = ",".join("?" * len(some))
            yield from cursor.execute(f"{statement}({marks})", some)
