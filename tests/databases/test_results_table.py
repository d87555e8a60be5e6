"""The table of results in a real SQLite and a real PostgreSQL."""

from __future__ import annotations

import json
import random
import sqlite3
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from backends import Backend, SqliteFile
from postgres_server import Muffler, Postgres

from audio_batch.cli import run_app
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
from audio_batch.databases.silence import Limits
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


def row(
    asset_id: str = "u-1", *, scope: str = "/out", journal: str = "j", **more: Any
) -> dict[str, Any]:
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
    return row_of(Undelivered(1, JournalEntry(**{**values, **more}), "1.2"), scope, journal)


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
    late = [row(state=State.FAILED, finished_at=199.9, journal="other"), row("u-3")]
    same_time = row("u-2", state=State.QUARANTINED, finished_at=200.0, journal="other")
    table.write([*late, same_time])
    assert states(backend) == {"u-1": "done", "u-2": "quarantined", "u-3": "done"}


def test_of_one_journal_the_last_outcome_stands_whatever_the_clock(
    backend: Backend, table: ResultsTable
) -> None:
    table.write([row(state=State.FAILED, finished_at=200.0)])
    table.write([row(finished_at=100.0)])
    assert states(backend) == {"u-1": "done"}


VERSION_1 = (
    f"CREATE TABLE {DEFAULT_TABLE} (asset_id TEXT NOT NULL, scope TEXT NOT NULL, name TEXT,"
    " state TEXT, error_kind TEXT, error_text TEXT, source TEXT, language TEXT,"
    " duration_s DOUBLE PRECISION, speech_s DOUBLE PRECISION, outputs {json}, missing {json},"
    " notes {json}, suspicions {json}, device TEXT, attempts INTEGER, timings_s {json},"
    " started_at {moment}, finished_at {moment}, fingerprint TEXT, program TEXT, run_id INTEGER,"
    " updated_at {moment}, PRIMARY KEY (asset_id, scope))",
    f"CREATE TABLE {META_TABLE} (table_name TEXT NOT NULL PRIMARY KEY, version INTEGER NOT NULL)",
    f"INSERT INTO {META_TABLE} VALUES ('{DEFAULT_TABLE}', 1)",
    f"INSERT INTO {DEFAULT_TABLE} (asset_id, scope, state, duration_s, finished_at)"
    " VALUES ('u-1', '/out', 'failed', 2.5, '2026-11-18 11:00:00'),"
    " ('u-2', '/out', 'done', 2.5, '2026-11-18 12:00:00')",
)


def test_a_table_of_version_1_is_brought_up(backend: Backend, database: Database) -> None:
    sqlite = isinstance(backend, SqliteFile)
    types = {
        "json": "JSON" if sqlite else "JSONB",
        "moment": "DATETIME" if sqlite else "TIMESTAMPTZ",
    }
    if not sqlite:
        backend.do("SET TIME ZONE 'UTC'")
    backend.do(*(statement.format(**types) for statement in VERSION_1))
    table = ResultsTable(database)
    table.prepare()
    assert backend.ask(f"SELECT * FROM {META_TABLE}") == [(DEFAULT_TABLE, VERSION)]
    asked = f"SELECT asset_id, state, journal_id FROM {DEFAULT_TABLE} ORDER BY asset_id"
    assert backend.ask(asked) == [("u-1", "failed", None), ("u-2", "done", None)]
    late = row("u-2", state=State.FAILED, finished_at=1_795_000_000.0)
    table.write([row("u-1", finished_at=1_795_100_000.0), late])
    assert backend.ask(asked) == [("u-1", "done", "j"), ("u-2", "done", None)]


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


def delivered(database: Database, rows: Sequence[dict[str, Any]]) -> list[Written]:
    """What a sink says of a batch, whose numbers are the rows' places."""
    sink = Sink(ResultsTable(database))
    sink.put(Batch(tuple(range(len(rows))), tuple(rows)))
    reports: list[Written] = []
    while not (reports and reports[-1].last):
        report = sink.reports.get(timeout=60)
        assert isinstance(report, Written), report
        reports.append(report)
    sink.close(within_s=60)
    return reports


def test_one_row_that_is_refused_holds_up_no_other(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An index of PostgreSQL takes no key above 2,704 bytes: an id of a thousand letters may be."""
    monkeypatch.setenv("PG_SECRET", Postgres.environment["PG_SECRET"])
    letters = random.Random(7)
    long = "".join(chr(letters.randrange(0x4E00, 0x9FA5)) for _ in range(1000))
    rows = [row(f"u-{number:03d}") for number in range(64)]
    rows[20] = row(long)
    reports = delivered(connecting.opened(postgres.url()), rows)
    numbers = [number for report in reports for number in report.numbers]
    assert numbers == [number for number in range(64) if number != 20], "in order"
    # Halves, each told of as it is there: 16, 4, the one that is refused, 1, 2, 8, 32.
    assert len(reports) == 7
    ((refused,),) = [report.refused for report in reports if report.refused]
    assert refused.startswith(long[:20])
    assert len(states(postgres)) == 63


TRIGGER = (
    "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.asset_id = 'u-2'"
    " THEN RAISE EXCEPTION 'not this one' USING ERRCODE = '{code}'; END IF; RETURN NEW; END $$"
)


@pytest.mark.parametrize("code", ["P0001", "23514", "22023", "44000"])
def test_what_a_trigger_of_the_users_refuses_is_a_row(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    monkeypatch.setenv("PG_SECRET", Postgres.environment["PG_SECRET"])
    database = connecting.opened(postgres.url())
    ResultsTable(database).prepare()
    postgres.do(
        TRIGGER.format(code=code),
        f"CREATE TRIGGER t BEFORE INSERT ON {DEFAULT_TABLE} FOR EACH ROW EXECUTE FUNCTION refuse()",
    )
    reports = delivered(database, [row(f"u-{number}") for number in range(4)])
    assert [report.refused[0][:17] for report in reports if report.refused] == ["u-2: not this one"]
    assert set(states(postgres)) == {"u-0", "u-1", "u-3"}


def test_a_locked_table_is_not_waited_for_for_ever(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """With a limit of the account's own, which is shorter than the program's minute."""
    monkeypatch.setenv("PG_SECRET", Postgres.environment["PG_SECRET"])
    url = f"{postgres.url()}?options=-c%20lock_timeout%3D300"
    asked = ["results", "create", "--results-db", url]
    assert run_app(asked) == 0
    postgres.do(f"ALTER TABLE {DEFAULT_TABLE} DROP COLUMN journal_id")
    with postgres.connected() as other:
        other.autocommit = False
        other.execute(f"LOCK TABLE {DEFAULT_TABLE}")
        assert run_app(asked) == 5
    err = capfd.readouterr().err
    assert f"The table {DEFAULT_TABLE} was made." in err
    assert "Another session holds a lock" in err
    assert run_app(asked) == 0
    assert f"The table {DEFAULT_TABLE} was there already." in capfd.readouterr().err


@pytest.mark.parametrize("limits", [Limits(lock_s=0.3, statement_s=60, silence_s=60),
                                    Limits(statement_s=0.3, silence_s=60)])  # fmt: skip
def test_the_programs_own_limits_end_a_wait(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch, limits: Limits
) -> None:
    monkeypatch.setenv("PG_SECRET", Postgres.environment["PG_SECRET"])
    database = connecting.opened(postgres.url())
    table = ResultsTable(database)  # without a limit that a busy machine does not keep
    table.prepare()
    with postgres.connected() as other:
        other.autocommit = False
        other.execute(f"LOCK TABLE {DEFAULT_TABLE}")
        with pytest.raises(SetupError, match="timeout"), database.translated():
            ResultsTable(database, limits=limits).write([row()])
    table.write([row()])
    database.close()


def test_a_server_that_falls_silent_is_cut_off(
    postgres: Postgres, line: Muffler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the first question that it is asked, and when a transaction is committed."""
    monkeypatch.setenv("PG_SECRET", Postgres.environment["PG_SECRET"])
    database = connecting.opened(postgres.url(port=line.port))
    table = ResultsTable(database)
    hasty = ResultsTable(database, limits=Limits(statement_s=0.1, silence_s=60))
    line.after = b"pg_catalog.version"
    with pytest.raises(SetupError, match="has not answered for 3 s"), database.translated():
        hasty.prepare()
    line.after = b""
    table.prepare()
    line.after = b"COMMIT"
    hasty = ResultsTable(database, limits=Limits(statement_s=60, silence_s=2))
    with pytest.raises(SetupError, match="has not answered for 2 s"), database.translated():
        hasty.write([row()])
    line.after = b""
    table.prepare()
    table.write([row()])
    database.close()
    assert states(postgres) == {"u-1": "done"}


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
        written.result(timeout=60)
    assert states(backend) == {"u-1": "done"}
