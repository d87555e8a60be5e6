"""Delivery beside a run: a database that is down, locked or slow, and who has the last word."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from backends import SqliteFile
from postgres_server import Muffler, Postgres

from audio_batch.databases import delivery
from audio_batch.databases.delivery import AT_ONCE, Delivery
from audio_batch.databases.results_table import DEFAULT_TABLE
from audio_batch.journal import Journal
from audio_batch.outcome import Outcome, State

WAIT_S = 120.0
Deliver = Callable[..., Delivery]


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal(tmp_path / "journal.sqlite3")
    made.begin_run(version="0.0", request={})
    yield made
    made.close()


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def deliver(
    journal: Journal, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Deliver]:
    for name, value in Postgres.environment.items():
        monkeypatch.setenv(name, value)
    opened: list[Delivery] = []

    def to(url: str, location: str = "/out") -> Delivery:
        one = delivery.opened(
            journal.outbox,
            url=url,
            table=None,
            location=location,
            notice=lambda text, **_: said.append(text),
        )
        opened.append(one)
        return one

    yield to
    for one in opened:
        one.close()


def end(journal: Journal, asset_id: str, state: State) -> None:
    journal.start(
        asset_id, name="A", source="1:1", fingerprint="f", rendering="r", device="cpu", run_id=1
    )
    journal.finish(Outcome(asset_id, state, "f", device="cpu"))


def pump_until(due: Delivery, holds: Callable[[], bool]) -> None:
    until_s = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < until_s
        due.pump()
        time.sleep(0.02)


def test_what_changes_while_the_database_is_down_comes_last(
    postgres: Postgres, journal: Journal, deliver: Deliver, said: list[str]
) -> None:
    due = deliver(postgres.url())
    postgres.stop()
    try:
        end(journal, "a", State.FAILED)
        pump_until(due, lambda: bool(said))
        end(journal, "a", State.DONE)
        end(journal, "b", State.DONE)
        due.pump()
        assert due.finish() == 2
    finally:
        postgres.start()
    assert due.finish() == 0
    asked = f"SELECT asset_id, state FROM {DEFAULT_TABLE} ORDER BY asset_id"
    assert postgres.ask(asked) == [("a", "done"), ("b", "done")]
    assert sum("Results wait in the journal" in text for text in said) == 1
    assert sum("again" in text for text in said) == 1


def test_a_table_that_somebody_locks_holds_up_nobody(
    postgres: Postgres, journal: Journal, deliver: Deliver, said: list[str]
) -> None:
    due = deliver(postgres.url())
    end(journal, "a", State.DONE)
    assert due.finish() == 0
    with postgres.connected() as other:
        other.autocommit = False
        other.execute(f"LOCK TABLE {DEFAULT_TABLE}")
        end(journal, "b", State.DONE)
        begun_s = time.monotonic()
        assert due.finish(in_haste=True) == 1
        assert time.monotonic() - begun_s < WAIT_S / 2
        assert any("has not answered yet" in text for text in said)
        other.rollback()
    assert due.finish() == 0


def test_an_attempt_that_was_under_way_at_the_end_has_not_the_last_word(
    postgres: Postgres, line: Muffler, journal: Journal, deliver: Deliver, said: list[str]
) -> None:
    """It meets a line that breaks; the one that is made because the run ends, a whole one."""
    due = deliver(postgres.url(port=line.port))
    line.after = b"COMMIT"
    end(journal, "a", State.DONE)
    due.pump()
    assert line.has_swallowed.wait(WAIT_S)
    line.after = b""
    sink = due._sink
    assert sink is not None

    def break_it() -> None:
        assert sink._hurried.wait(WAIT_S)  # the run has come to its end
        line.cut()

    with ThreadPoolExecutor(1) as pool:
        broken = pool.submit(break_it)
        assert due.finish() == 0
        broken.result()
    assert sum("Results wait in the journal" in text for text in said) == 1
    assert postgres.ask(f"SELECT asset_id FROM {DEFAULT_TABLE}") == [("a",)]


def test_a_connection_that_was_cut_in_between_is_made_again(
    postgres: Postgres, journal: Journal, deliver: Deliver, said: list[str]
) -> None:
    due = deliver(postgres.url())
    for name in ("a", "b"):
        end(journal, name, State.DONE)
        assert due.finish() == 0
        postgres.do(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'audio-batch'"
        )
    assert said == []


def test_many_rows_come_in_batches_and_only_once(
    journal: Journal, deliver: Deliver, tmp_path: Path
) -> None:
    backend = SqliteFile(tmp_path / "results.db")
    with journal.grouped():
        for number in range(2 * AT_ONCE + 5):
            end(journal, f"u-{number}", State.DONE)
    due = deliver(backend.url())
    told: list[int] = []
    pump_until(due, lambda: journal.outbox.count() <= AT_ONCE + 5)
    assert due.finish() == 0
    assert backend.ask(f"SELECT count(*) FROM {DEFAULT_TABLE}") == [(2 * AT_ONCE + 5,)]
    due.after(told.append)(7)
    assert told == [7]


def test_what_is_written_leaves_the_outbox_though_the_rest_of_its_batch_waits(
    postgres: Postgres, journal: Journal, deliver: Deliver
) -> None:
    """A row is refused, one behind it is locked by somebody: the halves before them are told."""
    due = deliver(postgres.url())
    end(journal, "u-7", State.FAILED)
    assert due.finish() == 0
    postgres.do(f"ALTER TABLE {DEFAULT_TABLE} ADD CHECK (asset_id <> 'u-4')")
    with journal.grouped():
        for number in range(8):
            end(journal, f"u-{number}", State.DONE)
    with postgres.connected() as other:
        other.autocommit = False
        other.execute(f"SELECT * FROM {DEFAULT_TABLE} FOR UPDATE")
        pump_until(due, lambda: journal.outbox.count() == 3)
        assert len(due.refused) == 1
        other.rollback()
    assert due.finish() == 1


def test_a_folder_that_was_moved_is_told_of_anew(
    journal: Journal, deliver: Deliver, tmp_path: Path
) -> None:
    backend = SqliteFile(tmp_path / "results.db")
    end(journal, "a", State.DONE)
    for location in ("/old", "/old", "/new"):
        assert deliver(backend.url(), location).finish() == 0
    asked = f"SELECT scope, asset_id FROM {DEFAULT_TABLE} ORDER BY scope"
    assert backend.ask(asked) == [("/new", "a"), ("/old", "a")]


def test_a_clock_that_was_ahead_costs_no_outcome(
    journal: Journal, deliver: Deliver, tmp_path: Path
) -> None:
    backend = SqliteFile(tmp_path / "results.db")
    due = deliver(backend.url())
    end(journal, "a", State.FAILED)
    assert due.finish() == 0
    backend.do(f"UPDATE {DEFAULT_TABLE} SET finished_at = '2099-01-01 00:00:00.000000'")
    end(journal, "a", State.DONE)
    assert due.finish() == 0
    assert backend.ask(f"SELECT state FROM {DEFAULT_TABLE}") == [("done",)]


def test_a_destination_is_its_host_and_schema_but_not_its_password(
    journal: Journal, deliver: Deliver
) -> None:
    end(journal, "a", State.DONE)
    begun = "postgresql://u:x@db/d?options=-csearch_path%3Da&connect_timeout=1"
    seen = []
    for url in (
        begun,
        "postgresql://u:other@db/d?connect_timeout=1&password=p&options=-csearch_path%3Da",
        begun.replace("%3Da", "%3Db"),
        "postgresql:///d?host=/run/postgresql",
        "postgresql:///d?host=10.0.0.9",
    ):
        deliver(url)
        seen.append(journal.outbox.count())
        journal.outbox.delivered([item.number for item in journal.outbox.some(9)])
    assert seen == [1, 0, 1, 1, 1]


def test_a_broken_journal_is_the_runs_business(
    journal: Journal, deliver: Deliver, said: list[str], tmp_path: Path
) -> None:
    due = deliver(f"sqlite:///{tmp_path / 'results.db'}")
    journal.close()
    due.pump()
    assert "journal" in said[0]
