"""The outbox: whatever changes a row of the journal is due, until it has been delivered."""

from __future__ import annotations

from pathlib import Path

import pytest

from audio_batch.errors import ErrorKind
from audio_batch.journal import Journal
from audio_batch.outcome import Outcome, State


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    made = Journal(tmp_path / "journal.sqlite3")
    made.begin_run(version="0.0", request={})
    return made


def begin(journal: Journal, asset_id: str) -> None:
    journal.start(
        asset_id,
        name=asset_id,
        source="1:1",
        fingerprint="f",
        rendering="r",
        device="cpu",
        run_id=1,
    )


def end(journal: Journal, asset_id: str, state: State = State.DONE) -> None:
    begin(journal, asset_id)
    journal.finish(Outcome(asset_id, state, "f", device="cpu"))


def due(journal: Journal) -> dict[str, str]:
    return {item.entry.asset_id: item.entry.state.value for item in journal.outbox.some(100)}


def test_a_journal_without_results_collects_nothing(journal: Journal) -> None:
    end(journal, "a")
    assert journal.outbox.count() == 0


def test_what_stands_already_is_due_at_a_new_destination(journal: Journal) -> None:
    end(journal, "a")
    end(journal, "b", State.FAILED)
    begin(journal, "c")
    journal.outbox.open_for("one")
    assert due(journal) == {"a": "done", "b": "failed"}
    journal.outbox.delivered([item.number for item in journal.outbox.some(100)])
    journal.outbox.open_for("one")
    assert due(journal) == {}
    journal.outbox.open_for("two")
    assert due(journal) == {"a": "done", "b": "failed"}


def test_a_journal_has_a_name_of_its_own(journal: Journal, tmp_path: Path) -> None:
    assert journal.outbox.journal_id() == ""
    journal.outbox.open_for("one")
    name = journal.outbox.journal_id()
    assert len(name) == 36
    journal.outbox.open_for("two")
    assert journal.outbox.journal_id() == name
    other = Journal(tmp_path / "other.sqlite3")
    other.outbox.open_for("one")
    assert other.outbox.journal_id() != name


def test_every_way_to_change_a_row_is_seen(journal: Journal) -> None:
    journal.outbox.open_for("one")
    end(journal, "a")
    journal.quarantine("a", "crashed")
    begin(journal, "b")
    journal.settle_debris(crashed=False)
    end(journal, "c")
    journal.outbox.delivered([item.number for item in journal.outbox.some(100)])
    assert due(journal) == {}
    journal.requeue({"c": ()}, [], "damaged")
    journal.quarantine("b", "crashed")
    assert due(journal) == {"b": "quarantined", "c": "interrupted"}


def test_it_stands_in_the_file_whoever_opens_it(journal: Journal, tmp_path: Path) -> None:
    """A run without --results-db forgets nothing for the next one that has it."""
    journal.outbox.open_for("one")
    journal.close()
    again = Journal(tmp_path / "journal.sqlite3")
    end(again, "a")
    assert due(again) == {"a": "done"}
    assert again.outbox.some(1)[0].version == "0.0"


def test_a_row_that_changes_while_it_is_delivered_is_due_again(journal: Journal) -> None:
    journal.outbox.open_for("one")
    end(journal, "a", State.FAILED)
    (under_way,) = journal.outbox.some(100)
    end(journal, "a", State.DONE)
    journal.outbox.delivered([under_way.number])
    assert due(journal) == {"a": "done"}
    # Numbers are not used again, even that of the last row.
    (second,) = journal.outbox.some(100)
    assert second.number > under_way.number
    journal.outbox.delivered([second.number])
    end(journal, "a", State.FAILED)
    assert journal.outbox.some(100)[0].number > second.number


def test_what_is_at_work_waits_for_its_end(journal: Journal) -> None:
    journal.outbox.open_for("one")
    end(journal, "a", State.FAILED)
    begin(journal, "a")
    assert due(journal) == {}
    journal.finish(Outcome("a", State.FAILED, "f", device="cpu", error_kind=ErrorKind.TIMEOUT))
    assert due(journal) == {"a": "failed"}


def test_oldest_first_and_in_batches(journal: Journal) -> None:
    journal.outbox.open_for("one")
    for name in ("c", "a", "b"):
        end(journal, name)
    first = journal.outbox.some(2)
    assert [item.entry.asset_id for item in first] == ["c", "a"]
    rest = journal.outbox.some(2, after=first[-1].number)
    assert [item.entry.asset_id for item in rest] == ["b"]
