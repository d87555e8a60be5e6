"""Stores that are away hold what lies there, over real pools and journals; the work is made up."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from test_runner import OPTIONS, House, planned
from test_runner import done as heard_here

from audio_batch import events
from audio_batch.backlog import Backlog
from audio_batch.errors import Away, ErrorKind
from audio_batch.feeding import ListFeed
from audio_batch.flights import Flight, Flights, job_of
from audio_batch.gpu.devices import CPU
from audio_batch.guards import Guards
from audio_batch.holds import Holds
from audio_batch.journal import Journal
from audio_batch.outcome import Outcome, RunResult, State
from audio_batch.pipeline import Job
from audio_batch.plan import Planned
from audio_batch.runner import Runner
from audio_batch.time_limits import TimeLimit
from audio_batch.watchdog import Expectation

SOON_S = 0.05


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path / "journal.sqlite3")


def lying(*uris: str) -> list[Planned]:
    """Assets a0, a1, … at these places; "" is a file of this machine."""
    return [
        dataclasses.replace(
            item, asset=dataclasses.replace(item.asset, uri=uri, path=None) if uri else item.asset
        )
        for item, uri in zip(planned(len(uris)), uris, strict=True)
    ]


def done(job: Job) -> Outcome:
    """Done; what does not lie here was fetched for it."""
    return dataclasses.replace(heard_here(job), reached=job.asset.path is None)


def missed(job: Job, store: str, *, signed_out: bool = True) -> Outcome:
    return Outcome(
        job.asset.id,
        State.FAILED,
        "f",
        job.device,
        error_kind=ErrorKind.INPUT_FORBIDDEN if signed_out else ErrorKind.NETWORK,
        error_text="It cannot be fetched.",
        transient=not signed_out,
        away=Away(store, signed_out, "nobody is there"),
    )


def notices(house: House) -> list[str]:
    return [event.text for event in house.told if isinstance(event, events.Notice)]


def attempts(house: House) -> dict[str, int]:
    journal = Journal(house.path, read_only=True)
    return {entry.asset_id: entry.attempts for entry in journal.entries()}


def order(house: House) -> list[str]:
    """The assets in the order in which they were done."""
    return [
        event.outcome.asset_id
        for event in house.told
        if isinstance(event, events.AssetFinished) and event.outcome.state is State.DONE
    ]


def test_a_sign_in_that_comes_back_costs_no_attempt(house: House) -> None:
    asked = Counter[str]()

    def work(job: Job) -> Outcome:
        asked[job.asset.id] += 1
        away = job.asset.path is None and sum(asked[f"a{n}"] for n in range(4)) < 5
        return missed(job, "s3://one") if away else done(job)

    places = ["s3://one/a", "s3://one/b", "s3://two/c", "s3://two/d", "", "", "", ""]
    result = house.run(
        8,
        work,
        todo=lying(*places),
        options=dataclasses.replace(OPTIONS, max_attempts=1),
        holds=Holds(60, first_s=SOON_S, profile="night"),
    )
    assert (result.done, result.failed, result.not_begun) == (8, 0, 0)
    assert result.stores_away == ()
    assert set(attempts(house).values()) == {1}
    told = notices(house)
    assert sum("lets nobody in" in text for text in told) == 1
    assert "aws sso login --profile night" in told[0]
    assert sum("is back" in text for text in told) == 1
    assert set(order(house)[:4]) == {"a4", "a5", "a6", "a7"}, "the others go on"
    # Nobody else was sent to where nobody is let in: those at work, then one at a time.
    assert asked["a2"] + asked["a3"] <= 3


def test_three_in_a_row_without_an_answer_hold_their_host_alone(house: House) -> None:
    back = threading.Event()
    both = Counter[str]()

    def work(job: Job) -> Outcome:
        both[job.asset.uri] += 1
        dead = job.asset.uri.startswith("https://dead/") and not back.is_set()
        return missed(job, "https://dead", signed_out=False) if dead else done(job)

    def mend(_: Runner) -> None:
        while not sum("does not answer" in text for text in notices(house)):
            time.sleep(0.01)
        time.sleep(0.2)
        back.set()

    places = [f"https://{host}/{n}" for n in range(6) for host in ("dead", "well")]
    result = house.run(12, work, todo=lying(*places), during=mend, holds=Holds(60, first_s=SOON_S))
    assert (result.done, result.failed) == (12, 0)
    assert set(attempts(house).values()) == {1}, "what failed before it was known counts no more"
    assert max(both[uri] for uri in places if "well" in uri) == 1
    assert {int(key[1:]) % 2 for key in order(house)[:6]} == {1}


@pytest.mark.parametrize("signed_out", [True, False])
def test_what_was_held_has_all_its_attempts(house: House, signed_out: bool) -> None:
    asked = Counter[str]()

    def work(job: Job) -> Outcome:
        asked[job.asset.id] += 1
        if sum(asked.values()) < 4:
            return missed(job, "https://one", signed_out=signed_out)
        own[job.asset.id] += 1
        failure = missed(job, "https://one", signed_out=False)
        return dataclasses.replace(failure, away=None) if own[job.asset.id] < 3 else done(job)

    own = Counter[str]()
    todo = lying(*[f"https://one/{n}" for n in range(3)])
    result = house.run(3, work, todo=todo, caps={"cpu": 1}, holds=Holds(60, first_s=SOON_S))
    assert (result.done, result.failed) == (3, 0)
    assert set(attempts(house).values()) == {3}


@pytest.mark.parametrize("wait_s", [60, 0])
def test_too_few_to_tell_or_nobody_who_waits_fail_as_ever(house: House, wait_s: float) -> None:
    count = 2 if wait_s else 4
    more = 30 if wait_s else 0  # others, that show that the network is well

    def work(job: Job) -> Outcome:
        if job.asset.uri.startswith("https://dead"):
            return missed(job, "https://dead", signed_out=False)
        time.sleep(0.02)
        return done(job)

    result = house.run(
        count + more,
        work,
        todo=lying(
            *[f"https://dead/{n}" for n in range(count)],
            *[f"https://well/{n}" for n in range(more)],
        ),
        options=dataclasses.replace(OPTIONS, outage_wait_s=wait_s),
        holds=Holds(wait_s, first_s=SOON_S),
    )
    assert (result.done, result.failed) == (more, count)
    assert {attempts(house)[f"a{n}"] for n in range(count)} == {3}


def test_what_never_comes_back_is_left_to_the_next_run(house: House) -> None:
    def work(job: Job) -> Outcome:
        return done(job) if job.asset.path else missed(job, "s3://one")

    result = house.run(
        5, work, todo=lying("s3://one/a", "", "s3://one/b", "", "s3://one/c"), holds=Holds(0.3)
    )
    assert (result.done, result.failed, result.not_begun) == (2, 0, 3)
    (store,) = result.stores_away
    assert (store.store, store.assets, store.reason) == ("s3://", 3, "nobody is there")
    assert "aws sso login" in store.remedy
    assert house.states()[State.FAILED] == 0
    (waits,) = [text for text in notices(house) if "Nothing else" in text]
    assert "Nothing else is left to do: 3 assets wait for s3://" in waits
    assert "Ctrl-C ends the run" in waits
    assert house.run(3, done, todo=lying("s3://one/a", "s3://one/b", "s3://one/c")).done == 3


def test_outputs_that_are_away_hold_all_and_nothing_is_heard_twice(house: House) -> None:
    heard, published = Counter[str](), threading.Event()

    def work(job: Job) -> Outcome:
        whole = done(job)
        heard[job.asset.id] += not job.kept
        if published.is_set():
            return dataclasses.replace(whole, outputs=(whole.stages[0].file,))
        return dataclasses.replace(missed(job, "s3://out"), stages=whole.stages)

    threading.Timer(0.3, published.set).start()
    holds = Holds(60, "s3://out/x", first_s=SOON_S)
    result = house.run(6, work, todo=planned(6), caps={"cpu": 1}, holds=holds)
    assert (result.done, result.failed) == (6, 0)
    assert set(heard.values()) == {1}


def test_what_is_one_assets_own_fails_alone(house: House) -> None:
    def work(job: Job) -> Outcome:
        return missed(job, "gs://one") if job.asset.id == "a0" else done(job)

    todo = lying(*[f"gs://one/{n}" for n in range(6)])
    result = house.run(6, work, todo=todo, holds=Holds(60, first_s=SOON_S))
    assert (result.done, result.failed) == (5, 1)


def test_a_try_that_tells_nothing_is_followed_by_another(house: House) -> None:
    """The process that tried it died, or it was slow: nothing is known of the store."""
    tries = Counter[str]()

    def work(job: Job) -> Outcome:
        tries[job.asset.id] += 1
        if sum(tries.values()) < 2:
            return missed(job, "s3://one")
        if sum(tries.values()) < 4:
            return dataclasses.replace(
                missed(job, "s3://one"), away=None, error_kind=ErrorKind.TIMEOUT
            )
        return done(job)

    todo = lying(*[f"s3://one/{n}" for n in range(4)])
    result = house.run(4, work, todo=todo, caps={"cpu": 1}, holds=Holds(60, first_s=SOON_S))
    assert result.done + result.failed == 4
    assert result.done >= 2


class Queue:
    """What goes on; see `holds.Line`."""

    def __init__(self) -> None:
        self.added: list[str] = []

    def add(self, *planned: Planned) -> None:
        self.added += [item.asset.id for item in planned]

    def set_aside(self) -> None: ...


def flight(item: Planned, begun_s: float) -> Flight:
    job = job_of(item, "cpu", 1, 1, 1)
    return Flight(item, job, CPU, None, "", begun_s=begun_s, told_s=begun_s, since_s=begun_s)


def test_of_several_machines_one_that_is_not_signed_in_holds_the_rest_no_more_than_twice() -> None:
    holds, queue = Holds(60), Queue()
    holds.line, holds.emit = queue, lambda _: None
    signed_out = Away("s3://one", signed_out=True, reason="nobody is signed in here")
    bad, good, *more = lying(*[f"s3://one/{n}" for n in range(6)])
    whole = events.AssetProgress(good.asset.id, "cpu", "fetch", 1.0, 0.0, 1.0)
    for now_s in (100.0, 300.0):
        assert holds.failed(flight(more.pop(), now_s), bad, signed_out, now_s) is not None
        assert holds.keep(good)
        assert [item.asset.id for item in holds.due(now_s + 20)] == [bad.asset.id]
        assert holds.failed(flight(bad, now_s + 20), bad, signed_out, now_s + 21) == {}
        assert [item.asset.id for item in holds.due(now_s + 60)] == [good.asset.id]
        through = flight(good, now_s + 60)
        holds.progressed(through, whole)
        holds.ended(through, done(through.job), now_s + 70)
        assert (len(holds), queue.added) == (0, [bad.asset.id])
        queue.added.clear()
    assert holds.failed(flight(more[0], 350.0), more[0], signed_out, 370.0) is None
    assert holds.failed(flight(more[1], 380.0), more[1], signed_out, 390.0) is not None


@pytest.mark.parametrize("how", ["a signal", "the time"])
def test_a_signal_and_the_end_of_the_time_end_the_waiting(house: House, how: str) -> None:
    def interrupt(runner: Runner) -> None:
        while how == "a signal" and not any("Nothing else" in text for text in notices(house)):
            time.sleep(0.01)
        if how == "a signal":
            runner.stop.request("SIGTERM")

    limit = TimeLimit.of_flags(None, None if how == "a signal" else "1s")
    begun_s = time.monotonic()
    result = house.run(
        3,
        lambda job: missed(job, "s3://one"),
        todo=lying(*[f"s3://one/{n}" for n in range(3)]),
        during=interrupt,
        guards=Guards(time=limit),
        holds=Holds(3600),
    )
    assert time.monotonic() - begun_s < 60
    assert (result.interrupted, result.out_of_time) == (how == "a signal", how == "the time")
    assert (result.failed, result.not_begun) == (0, 3)
    assert [store.assets for store in result.stores_away] == [3]


SIGNED_OUT = Away("s3://one", signed_out=True, reason="it is over")


def held(holds: Holds, *items: Planned, now_s: float = 0.0) -> None:
    """The first one finds nobody signed in; all of them wait."""
    assert holds.failed(flight(items[0], now_s), items[0], SIGNED_OUT, now_s) is not None
    assert all(map(holds.keep, items[1:]))


def test_a_recording_that_was_had_without_its_store_does_not_say_that_it_is_back() -> None:
    holds, queue = Holds(60), Queue()
    holds.line, holds.emit = queue, lambda _: None
    items = lying(*[f"s3://one/{n}" for n in range(4)])
    held(holds, *items)
    (first,) = holds.due(20)
    at_work = flight(first, 20)
    step = events.AssetProgress(first.asset.id, "cpu", "transcribe", 0.5, 0.5, 1.0)
    holds.progressed(at_work, step)
    holds.ended(at_work, heard_here(at_work.job), 21)
    assert (len(holds), queue.added) == (3, [])
    (second,) = holds.due(21)  # at once: the first has told nothing
    at_work = flight(second, 21)
    gone = dataclasses.replace(missed(at_work.job, ""), away=None)
    gone = dataclasses.replace(gone, error_kind=ErrorKind.INPUT_MISSING)
    holds.ended(at_work, gone, 22)  # planned as missing
    assert (len(holds), queue.added) == (2, [])
    (third,) = holds.due(22)
    holds.reached(flight(third, 22))
    assert (len(holds), queue.added) == (0, ["a3"])


def test_a_store_that_comes_back_for_a_moment_again_and_again_is_not_waited_for_anew() -> None:
    holds = Holds(3600)
    holds.line, holds.emit = Queue(), lambda _: None
    (item,) = lying("s3://one/a")
    begins = events.AssetProgress(item.asset.id, "cpu", "fetch", 0.1, 0.0, 1.0)
    held(holds, item)
    now_s, tries = 0.0, 0
    while not holds.over(now_s) and now_s < 10_000:
        now_s += 1
        for _ in list(holds.due(now_s)):
            tries += 1
            holds.progressed(flight(item, now_s), begins)
            held(holds, item, now_s=now_s)
    assert now_s == 3600
    assert tries < 40
    at_work = flight(item, now_s)
    assert list(holds.due(now_s + 200))
    holds.progressed(at_work, begins)
    holds.ended(at_work, done(at_work.job), now_s)  # it is well: the next outage is another
    held(holds, item, now_s=now_s)
    assert not holds.over(now_s + 3599)


@pytest.mark.parametrize("places", [["a/0", "a/1"], ["a/0", "b/0", "c/0"]])
def test_where_nobody_gets_through_anywhere_the_last_attempt_waits(
    house: House, places: list[str]
) -> None:
    """However few they are; the local ones go on, and nothing has failed."""
    local = threading.Event()

    def work(job: Job) -> Outcome:
        if job.asset.path is not None:
            local.set()
        store = job.asset.uri.rpartition("/")[0]
        away = job.asset.path is None and not local.is_set()
        return missed(job, store, signed_out=False) if away else done(job)

    result = house.run(
        len(places) + 1,
        work,
        todo=lying(*[f"https://{place}" for place in places], ""),
        caps={"cpu": 1},
        options=dataclasses.replace(OPTIONS, max_attempts=1, fail_fast=True),
        holds=Holds(60, first_s=SOON_S),
    )
    assert (result.done, result.failed) == (len(places) + 1, 0)
    assert set(attempts(house).values()) == {1}


def test_few_that_wait_while_others_get_through_fail_by_themselves() -> None:
    holds, queue = Holds(60), Queue()
    holds.line, holds.emit = queue, lambda _: None
    silent = Away("https://typo", signed_out=False, reason="its host has no address")
    one, two, well = lying("https://typo/1", "https://typo/2", "https://well/3")
    assert holds.failed(flight(one, 0), one, silent, 1, last=True) == {"a0": 0}
    assert holds.keep(two)
    (tried,) = holds.due(20)
    assert holds.failed(flight(tried, 20), tried, silent, 21) == {}, "nobody gets through"
    holds.reached(flight(well, 30))
    (tried,) = holds.due(60)
    assert tried is two
    assert holds.failed(flight(two, 60), two, silent, 61) is None
    assert (len(holds), queue.added) == (0, ["a0"])
    assert holds.failed(flight(one, 70), one, silent, 71, last=True) is None


def test_what_lies_behind_all_that_can_wait_is_done_once_the_waiting_is_over() -> None:
    holds = Holds(60, most=3)
    backlog = Backlog(Guards(), Expectation(), holds=holds)
    holds.line, holds.emit = backlog, lambda _: None
    items = lying(*[f"s3://one/{n}" for n in range(5)], "", "s3://one/x")
    held(holds, *items[:3])
    backlog.feed_from(ListFeed(items[3:]), lambda item: (item,))
    assert backlog.only_held and backlog.unread and not backlog.waiting
    assert backlog.read_on() and not backlog.only_held
    assert backlog.due_in_s() == 0.0
    backlog.fill()
    assert [item.asset.id for item in backlog.ahead(9)] == ["a5"]
    assert backlog.assets_left(()) == len(items)
    assert [store.assets for store in holds.left()] == [6]
    assert not backlog.read_on()


def test_what_would_show_that_a_store_is_back_but_takes_too_long_lets_another_try() -> None:
    holds = Holds(60, first_s=1)
    expectation = Expectation()
    for _ in range(20):
        expectation.observe("cpu", 1.0, 1000.0)
    guards = Guards(time=TimeLimit.of_flags(None, "60s"))
    backlog = Backlog(guards, expectation, holds=holds)
    holds.line, holds.emit = backlog, lambda _: None
    items = [
        dataclasses.replace(item, asset=dataclasses.replace(item.asset, duration_s=100.0))
        for item in lying("s3://one/a", "s3://one/b", "")
    ]
    held(holds, *items[:2])
    backlog.take_tries(2)
    assert backlog.waiting == 1
    assert not list(backlog.eligible(Flights(), ["cpu"], {}, isolated=False))
    backlog.feed_from(ListFeed(items[2:]), lambda item: (item,))
    assert backlog.left_out == 1
    assert [item.asset.id for item in holds.due(3)] == ["a1"]


def test_a_signal_does_not_wait_for_what_is_tried(house: House) -> None:
    tried, over = threading.Event(), threading.Event()

    def work(job: Job) -> Outcome:
        if house.told and any("lets nobody in" in text for text in notices(house)):
            tried.set()
            over.wait(30)
        return missed(job, "s3://one")

    def interrupt(runner: Runner) -> None:
        tried.wait(30)
        runner.stop.request("SIGTERM")

    begun_s = time.monotonic()
    result = house.run(
        1, work, todo=lying("s3://one/a"), during=interrupt, holds=Holds(600, first_s=SOON_S)
    )
    over.set()
    assert time.monotonic() - begun_s < 20
    assert (result.interrupted, result.failed, result.not_begun) == (True, 0, 1)
    assert [store.assets for store in result.stores_away] == [1]


def test_what_was_heard_before_its_outputs_could_be_written_is_not_written_again() -> None:
    result = RunResult()
    late = Outcome("a", State.DONE, "f", "cpu", duration_s=5.0)
    result.count(late)
    result.count(dataclasses.replace(late, asset_id="b", rendered_only=True))
    assert (result.done, result.rendered, result.shares["cpu"].audio_s) == (2, 1, 5.0)


@pytest.mark.slow
def test_a_window_full_of_what_waits_lets_what_comes_later_through(house: House) -> None:
    places = ["s3://one/x"] * 21_000 + [""]
    result = house.run(
        len(places),
        lambda job: done(job) if job.asset.path else missed(job, "s3://one"),
        todo=lying(*places),
        holds=Holds(0.5),
    )
    assert (result.done, result.failed, result.not_begun) == (1, 0, 21_000)
