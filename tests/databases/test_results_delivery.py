"""Delivery beside a run: a database that is down, locked or slow, and who has the last word."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from backends import SqliteFile
from postgres_server import Postgres

from audio_batch.databases import delivery
from audio_batch.databases.delivery import AT_ONCE, Delivery
from audio_batch.databases.results_table import DEFAULT_TABLE
from audio_batch.journal import Journal
from audio_batch.outcome import Outcome, State

WAIT_S = 60.0
Deliver = Callable[[str], Delivery]


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

    def to(url: str) -> Delivery:
        one = delivery.opened(
            journal.outbox,
            url=url,
            table=None,
            location="/out",
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


def test_a_broken_journal_is_the_runs_business(
    journal: Journal, deliver: Deliver, said: list[str], tmp_path: Path
) -> None:
    due = deliver(f"sqlite:///{tmp_path / 'results.db'}")
    journal.close()
    due.pump()
    assert "journal" in said[0]
