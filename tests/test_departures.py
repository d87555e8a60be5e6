"""What has begun and could not be committed: no worker gets it, and nobody hears of it."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest
from test_runner import House, done

from audio_batch import events
from audio_batch.announcer import Announcer
from audio_batch.errors import SetupError
from audio_batch.journal import Journal
from audio_batch.outcome import Outcome
from audio_batch.pipeline import Job
from audio_batch.runner import Runner

REFUSE = """
CREATE TRIGGER refuse BEFORE INSERT ON attempts WHEN NEW.asset_id = 'a1'
BEGIN SELECT RAISE(ABORT, 'refused'); END
"""


def test_what_began_beside_what_the_journal_refuses_reaches_no_worker(tmp_path: Path) -> None:
    house = House(tmp_path / "journal.sqlite3")
    Journal(house.path).close()
    with closing(sqlite3.connect(house.path)) as journal:
        journal.execute(REFUSE)
    worked = []

    def work(job: Job) -> Outcome:
        worked.append(job.asset.id)
        return done(job)

    def give_up(runner: Runner) -> None:
        timer = threading.Timer(60, lambda: [runner.stop.request("the test") for _ in range(2)])
        timer.daemon = True
        timer.start()

    with pytest.raises(SetupError, match="refused"):
        house.run(4, work, during=give_up)
    assert not worked
    assert not house.states()
    assert not [one for one in house.told if isinstance(one, events.AssetStarted)]
    assert house.runner is not None
    assert house.runner.result.not_begun == 4
    assert not house.runner.stop.requested.is_set()  # it waits for nothing that has not begun


def test_what_is_not_committed_is_not_said_to_be_done() -> None:
    told: list[events.Event] = []
    announcer = Announcer(told.append)
    dropped, notice = events.AssetDropped("a", "", "cpu"), events.Notice("true all the same")
    with announcer.held():
        announcer.emit(dropped)
        assert not told
    assert told == [dropped]
    with pytest.raises(SetupError), announcer.held():
        announcer.emit(dropped)
        announcer.emit(notice)
        raise SetupError("it cannot be committed")
    announcer.emit(dropped)
    assert told == [dropped, notice, dropped]
