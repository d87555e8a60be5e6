"""The table of results in a real SQLite and a real PostgreSQL."""

from __future__ import annotations

import json
import random
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from backends import Backend, SqliteFile
from postgres_server import Postgres

from audio_batch.databases import connecting
from audio_batch.databases.connecting import Database
from audio_batch.databases.results_table import (
    DEFAULT_TABLE,
    META_TABLE,
    VERSION,
    ResultsTable,
    row_of,
    statements,
)
from audio_batch.databases.sink import Batch, Sink, Written
from audio_batch.errors import ErrorKind, SetupError, UsageError
from audio_batch.journal import JournalEntry
from audio_batch.journal_outbox import Undelivered
from audio_batch.outcome import State
from audio_batch.storage import PublishedFile

COUNT = f"SELECT count(*) FROM {DEFAULT_TABLE}"


@pytest.fixture
def database(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    for name, value in Postgres.environment.items():
        monkeypatch.setenv(name, value)
    opened = connecting.opened(backend.url())
    yield opened
    opened.close()


@pytest.fixture
def table(database: Database) -> ResultsTable:
    made = ResultsTable(database)
    made.prepare()
    return made


def row(asset_id: str = "u-1", *, scope: str = "/out", **more: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "asset_id": asset_id,
        "name": "A",
        "state": State.DONE,
        "source": "1:1",
        "fingerprint": "f",
        "rendering": "r",
        "attempts": 1,
        "deaths": 0,
        "device": "cpu",
        "error_kind": None,
        "error_text": None,
        "started_at": 1_795_000_000.0,
        "finished_at": 1_795_000_010.5,
        "duration_s": 12.5,
        "speech_s": 8.0,
        "language": "en",
        "notes": (),
        "outputs": (PublishedFile("json", "a.json", 3, "0" * 64),),
        "timings_s": {"decode": 0.5},
        "missing": (),
        "suspicions": (),
        "redone": 0,
        "run_id": 4,
    }
    return row_of(Undelivered(1, JournalEntry(**{**values, **more}), "1.2"), scope)


def states(backend: Backend) -> dict[str, str]:
    return dict(backend.ask(f"SELECT asset_id, state FROM {DEFAULT_TABLE}"))


def test_a_row_says_what_the_journal_says(backend: Backend, table: ResultsTable) -> None:
    table.write([row()])
    columns = (
        "asset_id, scope, name, state, error_kind, error_text, source, language, duration_s,"
        " speech_s, device, attempts, fingerprint, program, run_id"
    )
    assert backend.ask(f"SELECT {columns} FROM {DEFAULT_TABLE}") == [
        ("u-1", "/out", "A", "done", None, None, "1:1", "en", 12.5, 8.0, "cpu", 1, "f",
         "audio-batch 1.2", 4)
    ]  # fmt: skip
    asked = f"SELECT outputs, timings_s, finished_at, updated_at FROM {DEFAULT_TABLE}"
    ((outputs, timings, finished, updated),) = backend.ask(asked)
    if isinstance(backend, SqliteFile):
        outputs, timings = json.loads(outputs), json.loads(timings)
        assert finished == "2026-11-18 11:06:50.500000"
    else:
        assert finished.timestamp() == 1_795_000_010.5
    assert outputs[0]["path"] == "a.json"
    assert timings == {"decode": 0.5}
    assert updated


def test_twice_is_once(backend: Backend, table: ResultsTable) -> None:
    for _ in range(2):
        table.prepare()
        table.write([row(f"u-{n}") for n in range(5)])
    assert backend.ask(COUNT) == [(5,)]


def test_the_newest_outcome_stands_whatever_comes_last(
    backend: Backend, table: ResultsTable
) -> None:
    table.write([row(state=State.FAILED, finished_at=100.0)])
    table.write([row(finished_at=200.0), row("u-2", finished_at=200.0)])
    late = [row(state=State.FAILED, finished_at=199.9), row("u-3")]
    table.write([*late, row("u-2", state=State.QUARANTINED, finished_at=200.0)])
    assert states(backend) == {"u-1": "done", "u-2": "quarantined", "u-3": "done"}


def test_output_locations_have_rows_of_their_own(backend: Backend, table: ResultsTable) -> None:
    table.write([row(scope="/a"), row(scope="s3://b/c", state=State.FAILED)])
    asked = f"SELECT scope, state FROM {DEFAULT_TABLE} ORDER BY scope"
    assert backend.ask(asked) == [("/a", "done"), ("s3://b/c", "failed")]


def test_any_text_is_stored(backend: Backend, table: ResultsTable) -> None:
    nasty = "a'; DROP TABLE audio_batch_results; --\0\udcff \u202e\U0001f600 %s :x \\ \""
    table.write(
        [
            row(
                nasty,
                name=nasty,
                state=State.FAILED,
                error_kind=ErrorKind.INTERNAL,
                error_text=nasty,
                notes=(nasty,),
                outputs=(PublishedFile("json", nasty, 3, "0"),),
                timings_s={nasty: 1.0},
                scope=nasty,
            )
        ]
    )
    expected = nasty.replace("\0", "\ufffd").replace("\udcff", "\\udcff")
    ((asset_id, scope, text, notes),) = backend.ask(
        f"SELECT asset_id, scope, error_text, notes FROM {DEFAULT_TABLE}"
    )
    assert (asset_id, scope, text) == (expected,) * 3
    assert (json.loads(notes) if isinstance(notes, str) else notes) == [expected]


def test_a_table_that_lacks_columns_gets_them(backend: Backend, database: Database) -> None:
    backend.do(
        f"CREATE TABLE {DEFAULT_TABLE} (asset_id TEXT NOT NULL, scope TEXT NOT NULL, state TEXT,"
        " finished_at TIMESTAMP, team TEXT, PRIMARY KEY (asset_id, scope))",
        f"INSERT INTO {DEFAULT_TABLE} VALUES ('old', '/out', 'done', NULL, 'ours')",
    )
    table = ResultsTable(database)
    table.prepare()
    table.write([row(), row("old", state=State.FAILED)])
    asked = f"SELECT asset_id, team, duration_s FROM {DEFAULT_TABLE} ORDER BY asset_id"
    assert backend.ask(asked) == [("old", "ours", 12.5), ("u-1", None, 12.5)]
    assert backend.ask(f"SELECT * FROM {META_TABLE}") == [(DEFAULT_TABLE, VERSION)]


def test_a_newer_table_is_left_alone(backend: Backend, table: ResultsTable) -> None:
    backend.do(f"UPDATE {META_TABLE} SET version = {VERSION + 1}")
    with pytest.raises(SetupError, match="newer audio-batch"):
        table.prepare()


def test_the_printed_schema_is_what_is_made(backend: Backend, database: Database) -> None:
    from sqlalchemy import inspect

    def columns() -> list[tuple[str, str, bool]]:
        inspector = inspect(database.engine)
        return [
            (column["name"], str(column["type"]), column["nullable"])
            for name in (DEFAULT_TABLE, META_TABLE)
            for column in inspector.get_columns(name)
        ]

    backend.do(*filter(str.strip, statements(database.dialect).split(";\n")))
    printed = columns()
    ResultsTable(database).prepare()
    assert columns() == printed
    assert backend.ask(f"SELECT * FROM {META_TABLE}") == [(DEFAULT_TABLE, VERSION)]
    backend.do(f"DROP TABLE {DEFAULT_TABLE}", f"DROP TABLE {META_TABLE}")
    ResultsTable(database).prepare()
    assert columns() == printed


def test_several_runs_may_make_the_table_at_once(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PG_SECRET", Postgres.environment["PG_SECRET"])
    others = [connecting.opened(postgres.url()) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda one: ResultsTable(one).prepare(), others))
    for one in others:
        one.close()
    assert postgres.ask(f"SELECT * FROM {META_TABLE}") == [(DEFAULT_TABLE, VERSION)]


def test_a_table_in_a_schema(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PG_SECRET", Postgres.environment["PG_SECRET"])
    postgres.do("CREATE SCHEMA reports")
    database = connecting.opened(postgres.url())
    table = ResultsTable(database, "reports.results")
    table.prepare()
    table.write([row()])
    database.close()
    assert postgres.ask("SELECT asset_id FROM reports.results") == [("u-1",)]
    assert postgres.ask(f"SELECT * FROM reports.{META_TABLE}") == [("results", VERSION)]


@pytest.mark.parametrize("name", ["a; DROP TABLE b", 'a"b', "a.b.c", "", "1a", "a b", "ä"])
def test_a_table_has_a_plain_name(database: Database, name: str) -> None:
    with pytest.raises(UsageError, match="plain name"):
        ResultsTable(database, name)
    with pytest.raises(UsageError, match="plain"):
        statements("sqlite", name)


def test_one_row_that_is_refused_holds_up_no_other(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An index of PostgreSQL takes no key above 2,704 bytes: an id of a thousand letters may be."""
    monkeypatch.setenv("PG_SECRET", Postgres.environment["PG_SECRET"])
    letters = random.Random(7)
    long = "".join(chr(letters.randrange(0x4E00, 0x9FA5)) for _ in range(1000))
    rows = (row("u-1"), row(long), row("u-3"))
    sink = Sink(ResultsTable(connecting.opened(postgres.url())))
    sink.put(Batch((1, 2, 3), rows))
    report = sink.reports.get(timeout=60)
    sink.close(within_s=60)
    assert isinstance(report, Written)
    assert report.numbers == (1, 3)
    assert len(report.refused) == 1
    assert report.refused[0].startswith(long[:20])
    assert set(states(postgres)) == {"u-1", "u-3"}


def test_a_slow_reader_of_sqlite_is_waited_for(database: Database, backend: Backend) -> None:
    if not isinstance(backend, SqliteFile):
        pytest.skip("PostgreSQL's readers hold up no writer")
    table = ResultsTable(database)
    table.prepare()
    with sqlite3.connect(backend.path) as other, ThreadPoolExecutor(1) as pool:
        other.execute("BEGIN EXCLUSIVE")
        written = pool.submit(table.write, [row()])
        with pytest.raises(TimeoutError):
            written.result(timeout=0.3)
        other.execute("COMMIT")
        written.result(timeout=30)
    assert states(backend) == {"u-1": "done"}
