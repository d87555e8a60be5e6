"""The journal counted and gone through by SQL: a million rows are never held.

SQLite's read lock keeps a run from committing. So rows are read in pages, and between two of them
nothing is held, however slowly whoever asked for them goes on.
"""

from __future__ import annotations

import dataclasses
import heapq
import json
import re
import sqlite3
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter

from audio_batch import journal_rows
from audio_batch.journal_file import JournalFile
from audio_batch.journal_rows import JournalEntry
from audio_batch.outcome import State

PAGE = 5_000
BETWEEN = ",\n    "

BAD = (State.FAILED, State.INCOMPLETE, State.QUARANTINED)
SETTLED = (State.DONE, *BAD)

_SUSPECT = "suspicions != '[]'"
_IN_BAD = f"state IN ({', '.join(repr(state.value) for state in BAD)})"
_IN_SETTLED = f"state IN ({', '.join(repr(state.value) for state in SETTLED)})"
_LISTS = ("notes", "outputs", "timings_s", "missing", "suspicions")
"""Columns that hold JSON."""


Rank = tuple[str, bool, float]
"""An asset's id, whether it is settled, and since when it is as it is."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Which rows, as conditions that no two of one journal's meet: an index answers each alone."""

    conditions: tuple[str, ...]

    def __or__(self, other: Rows) -> Rows:
        return Rows(self.conditions + other.conditions)


ALL = Rows(("TRUE",))
FAILED = Rows(tuple(f"state = '{state}'" for state in BAD))
NEWLY_FAILED = Rows(
    tuple(f"state = '{state}' AND run_id = (SELECT max(run_id) FROM runs)" for state in BAD)
)
"""What failed in the journal's last run, not before."""
SUSPECT = Rows((_SUSPECT,))
# A + keeps SQLite from the index of states, by which almost all would be looked up one by one.
SUSPECT_DONE = Rows((f"{_SUSPECT} AND +state = 'done'",))
SUSPECT_ONLY = Rows((f"{_SUSPECT} AND NOT {_IN_BAD}",))
NOTED = Rows(("notes != '[]' AND +state = 'done'",))
REST = Rows(
    tuple(
        f"state = '{state}' AND suspicions = '[]'"
        for state in (State.RUNNING, State.INTERRUPTED, State.DONE)
    )
)


@dataclass(frozen=True, slots=True)
class Counts:
    """How many assets are in each state, and how many of all are suspect."""

    states: dict[State, int]
    suspect: int

    def __add__(self, other: Counts) -> Counts:
        states = {state: n + other.states[state] for state, n in self.states.items()}
        return Counts(states, self.suspect + other.suspect)


NOTHING = Counts(dict.fromkeys(State, 0), 0)


class Tally:
    """The assets of one open journal.

    `over`: nobody is at work there, so that what it calls running was interrupted.

    Raises (every method):
        SetupError: the journal is damaged or cannot be read.
    """

    def __init__(self, file: JournalFile, *, over: bool = False) -> None:
        self._file = file
        self._over = over
        self._source = f"(SELECT {journal_rows.entry_columns(file.version)} FROM assets)"
        self._left_out = ""

    def counts(self) -> Counts:
        """All of them. A tenth of a second for a million."""
        where = f"WHERE TRUE {self._left_out}"
        with self._file.translated():
            found = self._query(f"SELECT state, count(*) FROM assets {where} GROUP BY state")
            states = {**NOTHING.states, **{State(state): n for state, n in found}}
            if self._over:
                states[State.INTERRUPTED] += states[State.RUNNING]
                states[State.RUNNING] = 0
            ((suspect,),) = self._query(
                f"SELECT count(*) FROM {self._source} WHERE {_SUSPECT} {self._left_out}"
            )
        return Counts(states, suspect)

    def of_run(self, run_id: int) -> dict[State, int]:
        """What came of the assets that a run was the last to begin."""
        with self._file.translated():
            found = self._query(
                "SELECT state, count(*) FROM assets WHERE run_id = ? GROUP BY +state", (run_id,)
            )
            return {**NOTHING.states, **{State(state): n for state, n in found}}

    def entries(self, rows: Rows, limit: int | None = None) -> Iterator[JournalEntry]:
        """Rows, one condition after the other, each by id; `limit` is of all together."""
        columns = ", ".join(field.name for field in dataclasses.fields(JournalEntry))
        for condition in rows.conditions:
            for row in self._pages(columns, condition, limit):
                with self._file.translated():
                    entry = journal_rows.entry_of(row)
                if self._over and entry.state is State.RUNNING:
                    entry = dataclasses.replace(entry, state=State.INTERRUPTED)
                yield entry
                if limit is not None:
                    limit -= 1
            if limit == 0:
                return

    def by_id(self, rows: Rows) -> Iterator[JournalEntry]:
        """Rows by id, whatever condition they meet."""
        parts = [self.entries(Rows((condition,))) for condition in rows.conditions]
        return heapq.merge(*parts, key=lambda entry: entry.asset_id)

    def as_json(self, rows: Rows) -> Iterator[str]:
        """Rows as JSON objects in ASCII, with the fields of `JournalEntry`, a page at a time.

        `BETWEEN` stands between two of a page. SQLite writes them: of a million, each step that
        Python takes with one is a second.
        """
        fields = [field.name for field in dataclasses.fields(JournalEntry)]
        state = "CASE state WHEN 'running' THEN 'interrupted' ELSE state END"
        values = {
            **{name: name for name in fields},
            **{name: f"json({name})" for name in _LISTS},
            **({"state": state} if self._over else {}),
        }
        written = ", ".join(f"'{name}', {value}" for name, value in values.items())
        page = f"SELECT asset_id, json_object({written}) AS text FROM {self._source}"
        for condition in rows.conditions:
            after, count = "", PAGE
            while count == PAGE:
                ((text, count, after),) = self._read(
                    f"SELECT group_concat(text, '{BETWEEN}'), count(*), max(asset_id) FROM ({page}"
                    f" WHERE {condition} {self._further})",
                    (after, PAGE),
                )
                if count:
                    yield text if text.isascii() and "\x7f" not in text else _ascii(text)

    def leave_out(self, asset_ids: Sequence[str]) -> None:
        """Do as if these assets were not in this journal either."""
        if not asset_ids:
            return
        with self._file.translated():
            self._file.db.execute(
                "CREATE TEMP TABLE IF NOT EXISTS left_out (asset_id TEXT PRIMARY KEY) WITHOUT ROWID"
            )
            self._file.db.executemany(
                "INSERT INTO temp.left_out VALUES (?)", [(asset_id,) for asset_id in asset_ids]
            )
        self._left_out = "AND asset_id NOT IN (SELECT asset_id FROM temp.left_out)"

    def ranks(self) -> Iterator[list[Rank]]:
        """Pages of what decides which journal's row of an asset stands, by id."""
        columns = f"asset_id, {_IN_SETTLED}, coalesce(finished_at, started_at, 0)"
        after = ""
        while page := self._read(
            f"SELECT {columns} FROM {self._source} WHERE TRUE {self._further}", (after, PAGE)
        ):
            yield [tuple(row) for row in page]
            after = page[-1]["asset_id"]

    @property
    def _further(self) -> str:
        """The end of a question for a page: what comes behind an id, and how much of it."""
        return f"AND asset_id > ? {self._left_out} ORDER BY asset_id LIMIT ?"

    def _pages(self, columns: str, condition: str, limit: int | None) -> Iterator[sqlite3.Row]:
        after = ""
        while limit is None or limit > 0:
            size = PAGE if limit is None else min(PAGE, limit)
            page = self._read(
                f"SELECT {columns} FROM {self._source} WHERE {condition} {self._further}",
                (after, size),
            )
            yield from page
            if len(page) < size:
                return
            after = page[-1]["asset_id"]
            limit = None if limit is None else limit - size

    def _read(self, sql: str, values: Sequence[object]) -> list[sqlite3.Row]:
        with self._file.translated():
            return self._query(sql, values)

    def _query(self, sql: str, values: Sequence[object] = ()) -> list[sqlite3.Row]:
        return self._file.db.execute(sql, values).fetchall()


def leave_out_superseded(tallies: Sequence[Tally]) -> None:
    """Have each asset counted once where several journals may hold it.

    What stands is the newest row that is settled; where none is, the newest. Memory is bounded:
    the journals are gone through together, and what loses is kept in SQLite's temporary files.
    """
    losers: list[list[str]] = [[] for _ in tallies]
    for together in _by_id([tally.ranks() for tally in tallies]):
        best: dict[str, tuple[bool, float, int]] = {}
        for number, ranks in enumerate(together):
            for asset_id, settled, at in ranks:
                if (other := best.get(asset_id)) is None or (settled, at) > other[:2]:
                    best[asset_id] = (settled, at, number)
                    if other is not None:
                        losers[other[2]].append(asset_id)
                else:
                    losers[number].append(asset_id)
        for tally, some in zip(tallies, losers, strict=True):
            if len(some) >= PAGE:
                tally.leave_out(some)
                some.clear()
    for tally, rest in zip(tallies, losers, strict=True):
        tally.leave_out(rest)


def _by_id(pages: Sequence[Iterator[list[Rank]]]) -> Iterator[list[list[Rank]]]:
    """What several journals have, some pages at a time: all rows of an asset are together."""
    held = [next(some, []) for some in pages]
    while any(held):
        bound = min(ranks[-1][0] for ranks in held if ranks)
        ends = [bisect_right(ranks, bound, key=itemgetter(0)) for ranks in held]
        yield [ranks[:end] for ranks, end in zip(held, ends, strict=True)]
        held = [
            ranks[end:] or next(some, [])
            for ranks, end, some in zip(held, ends, pages, strict=True)
        ]


_TO_ESCAPE = re.compile(r"[^\x00-\x7e]+")  # DEL steers terminals, and JSON lets it be


def _ascii(text: str) -> str:
    return _TO_ESCAPE.sub(lambda found: json.dumps(found[0])[1:-1].replace("\x7f", "\\u007f"), text)
