"""The window that a run looks over, and what it forgets of the assets that are done."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_runner import GPUS, House, done, failed, planned

from audio_batch.backlog import WINDOW, Backlog
from audio_batch.feeding import ListFeed
from audio_batch.flights import Flights
from audio_batch.gpu.devices import CPU
from audio_batch.guards import Guards
from audio_batch.manifest import Asset
from audio_batch.outcome import Outcome, Stage, State
from audio_batch.parts import Part
from audio_batch.pipeline import Job
from audio_batch.plan import Planned
from audio_batch.time_limits import TimeLimit
from audio_batch.watchdog import Expectation


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path / "journal.sqlite3")


def itself(item: Planned) -> Iterator[Planned]:
    yield item


def of_length(count: int, duration_s: float, first: int = 0) -> list[Planned]:
    return [
        dataclasses.replace(
            item,
            asset=dataclasses.replace(
                item.asset, id=f"{duration_s:g}-{first + n}", duration_s=duration_s
            ),
        )
        for n, item in enumerate(planned(count))
    ]


def begin_next(backlog: Backlog) -> str | None:
    found = next(backlog.eligible(Flights(), ["cpu"], {}, isolated=False), None)
    if found is None:
        return None
    backlog.remove(found[0])
    return found[0].asset.id


def test_a_window_of_the_feed_is_held_and_filled_up_in_its_order() -> None:
    backlog = Backlog(Guards(), Expectation())
    count = WINDOW + 2500
    backlog.feed_from(ListFeed(planned(count)), itself)
    assert (backlog.waiting, len(backlog)) == (WINDOW, count)
    begun = []
    while (asset_id := begin_next(backlog)) is not None:
        begun.append(asset_id)
        backlog.fill()
        assert backlog.waiting <= WINDOW
        assert len(backlog) == count - len(begun)
        if len(begun) == 1200:
            assert backlog.waiting > WINDOW - 1000
            assert backlog.assets_left(["another"]) == count - 1200 + 1
    assert begun == [f"a{n}" for n in range(count)]


def test_what_comes_back_is_begun_before_the_rest_of_the_feed() -> None:
    backlog = Backlog(Guards(), Expectation())
    todo = planned(WINDOW + 10)
    backlog.feed_from(ListFeed(todo), itself)
    assert begin_next(backlog) == "a0"
    backlog.put_back(todo[0])
    assert begin_next(backlog) == "a0"


def test_what_the_time_left_suits_is_found_behind_what_it_does_not() -> None:
    expectation = Expectation()
    expectation.observe("cpu", 100.0, 100.0)
    backlog = Backlog(Guards(time=TimeLimit.of_flags(None, "10m")), expectation)
    feed = ListFeed([*of_length(WINDOW, 7200.0), *of_length(5, 60.0)])
    backlog.feed_from(feed, itself)
    assert begin_next(backlog) is None
    assert not backlog.nothing_fits(["cpu"])  # for all that is known of the feed
    assert backlog.due_in_s() == 0.0
    backlog.fill()
    assert [begin_next(backlog) for _ in range(5)] == [f"60-{n}" for n in range(5)]
    assert begin_next(backlog) is None
    assert (len(backlog), backlog.left_out) == (0, WINDOW)
    assert backlog.assets_left(()) == WINDOW


def test_what_comes_back_when_all_else_is_too_late_is_not_thrown_away_with_it() -> None:
    expectation = Expectation()
    expectation.observe("cpu", 100.0, 100.0)
    backlog = Backlog(Guards(time=TimeLimit.of_flags(None, "10m")), expectation)
    backlog.feed_from(ListFeed(of_length(WINDOW + 5, 7200.0)), itself)
    back, retried, added = of_length(3, 60.0)
    for give, item in (
        (backlog.put_back, back),
        (backlog.add, added),
        (lambda item: (backlog.add_later(item, 0.0), backlog.take_due()), retried),
    ):
        assert begin_next(backlog) is None
        give(item)
        backlog.fill()
        assert backlog.left_out == 0
        assert begin_next(backlog) == item.asset.id
    assert begin_next(backlog) is None
    backlog.fill()
    assert backlog.left_out == WINDOW


def test_an_asset_whose_parts_are_left_out_counts_once() -> None:
    expectation = Expectation()
    expectation.observe("cpu", 100.0, 100.0)
    backlog = Backlog(Guards(time=TimeLimit.of_flags(None, "10m")), expectation)
    (long,) = of_length(1, 14_400.0)
    parts = [dataclasses.replace(long, part=Part(n, 4, 14_400.0)) for n in range(4)]
    count = 2 * WINDOW + 1
    backlog.feed_from(
        ListFeed([long, *of_length(count - 1, 7200.0)]),
        lambda item: parts if item is long else [item],
    )
    backlog.remove(parts[3])
    backlog.add_later(parts[3], 0.0)
    for left_out in (WINDOW, count - 1):
        assert begin_next(backlog) is None
        backlog.fill()
        assert backlog.left_out == left_out
        assert backlog.assets_left([long.asset.id]) == count
        backlog.take_due()


def test_nothing_is_remembered_of_what_is_done(house: House) -> None:
    dice = random.Random(3)

    def work(job: Job) -> Outcome:
        if dice.random() < 0.2:
            return failed(job, transient=True)
        return failed(job, device=True) if job.asset.id == "a7" else done(job)

    house.run(300, work, devices=(*GPUS, CPU))
    assert house.states()[State.RUNNING] == 0
    runner = house.runner
    assert runner is not None
    begun, mishaps = runner._departures, runner._mishaps
    kept = (begun.positions, begun.tries, mishaps.failed_on, mishaps.deaths)
    assert [len(one) for one in kept] == [0, 0, 0, 0]


def test_who_fetches_ahead_is_told_what_is_next_in_line(house: House) -> None:
    todo = planned(200)
    for n in range(0, 200, 2):
        remote = dataclasses.replace(todo[n].asset, uri=f"s3://b/a{n}", path=None)
        todo[n] = dataclasses.replace(todo[n], asset=remote)
    told: list[list[str]] = []

    def offered(assets: list[Asset]) -> None:
        told.append([asset.id for asset in assets])

    result = house.run(0, done, todo=todo, fetch_ahead=offered)
    assert result.done == 200
    even = [f"a{n}" for n in range(0, 200, 2)]
    assert set().union(*told) <= set(even)
    for ids in told:
        assert 0 < len(ids) <= 32 and ids == even[even.index(ids[0]) :][: len(ids)]
    assert len(set().union(*told)) > 90


def test_the_stages_that_models_are_needed_for_are_known_before_the_first() -> None:
    todo = planned(3)
    assert ListFeed(todo).needed() == {Stage.TRANSCRIBE}
    assert ListFeed([]).needed() == set()
