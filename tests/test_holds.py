"""Stores that are away hold what lies there, over real pools and journals; the work is made up."""

from __future__ import annotations

import dataclasses
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from test_runner import OPTIONS, House, planned
from test_runner import done as heard_here

from audio_batch import events
from audio_batch.backlog import Backlog
from audio_batch.errors import Away, ErrorKind
from audio_batch.evidence import Evidence, has_name
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
from audio_batch.time_limits import Clocks, TimeLimit
from audio_batch.watchdog import Expectation

SOON_S = 0.05
PATIENT_S = 60.0


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


def ended(house: House) -> int:
    """Attempts that have ended, and whose end is known."""
    return sum(isinstance(event, events.AssetFinished) for event in house.told)


def test_a_sign_in_that_comes_back_costs_no_attempt(house: House) -> None:
    asked, trying, most = 0, 0, 0
    lock, first_two, back = threading.Lock(), threading.Barrier(2), threading.Event()

    def work(job: Job) -> Outcome:
        nonlocal asked, trying, most
        if job.asset.path is not None:
            return done(job)
        told = " ".join(notices(house))
        held = "lets nobody in" in told and "is back" not in told
        with lock:
            asked, trying = asked + 1, trying + held
            most, number = max(most, trying), asked
        if number <= 2:
            first_two.wait(PATIENT_S)  # both have begun before it is known
        if number >= 5 and ended(house) >= 4 + number - 1:  # nobody else is at work
            back.set()
        time.sleep(0.1 * held)  # another one would be met
        with lock:
            trying -= held
        return done(job) if back.is_set() else missed(job, "s3://one")

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
    assert most == 1


def test_three_in_a_row_without_an_answer_hold_their_host_alone(house: House) -> None:
    back = threading.Event()
    both = Counter[str]()

    def work(job: Job) -> Outcome:
        both[job.asset.uri] += 1
        dead = job.asset.uri.startswith("https://dead/") and not back.is_set()
        return missed(job, "https://dead", signed_out=False) if dead else done(job)

    def mend(_: Runner) -> None:
        while not any("does not answer" in text for text in notices(house)):
            time.sleep(0.01)
        while len(order(house)) < 6 or ended(house) < both.total():  # the others go on
            time.sleep(0.01)
        back.set()

    places = [f"https://{host}/{n}" for n in range(6) for host in ("dead", "well")]
    result = house.run(
        12,
        work,
        todo=lying(*places),
        during=mend,
        options=dataclasses.replace(OPTIONS, max_attempts=100),  # one may be tried often till then
        holds=Holds(60, first_s=SOON_S),
    )
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
        while not job.asset.path and len(order(house)) < 2:
            time.sleep(0.01)  # so that nothing is done while the others wait
        return done(job) if job.asset.path else missed(job, "s3://one")

    todo = lying("s3://one/a", "", "s3://one/b", "", "s3://one/c")
    result = house.run(5, work, todo=todo, caps={"cpu": 5}, holds=Holds(2.0))
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


def test_a_silent_store_is_asked_before_one_of_those_that_wait_is_tried(house: House) -> None:
    begun, asked, back = Counter[str](), list[str](), threading.Event()

    def work(job: Job) -> Outcome:
        begun[job.asset.id] += 1
        return done(job) if back.is_set() else missed(job, "https://one", signed_out=False)

    def ask(uri: str, told: Callable[[Away | None], None]) -> None:
        asked.append(uri)
        if len(asked) == 3:
            back.set()
        away = None if back.is_set() else Away("https://one", False, "nobody is there")
        threading.Timer(0.02, told, [away]).start()

    holds = Holds(60, first_s=SOON_S, ask=ask)
    result = house.run(
        4, work, todo=lying(*[f"https://one/{n}" for n in range(4)]), caps={"cpu": 4}, holds=holds
    )
    assert (result.done, result.failed) == (4, 0)
    assert len(set(asked)) == len(asked) == 3, "each time for another one"
    assert begun.total() <= 4 + 4, "none was tried in vain"


def test_a_silent_store_of_outputs_is_asked_for_none_of_the_recordings() -> None:
    asked, told = list[str](), list[Callable[[], None]]()

    def ask(uri: str, answer: Callable[[Away | None], None]) -> None:
        asked.append(uri)
        answer(None)

    holds = Holds(60, "s3://out/x/", first_s=1, ask=ask)
    holds.line, holds.emit, holds.post = Queue(), lambda _: None, told.append
    (item,) = lying("https://one/a")
    silent = Away("s3://out", signed_out=False, reason="nobody is there")
    assert holds.failed(flight(item, 0), item, silent, 1, last=True) is not None
    assert list(holds.due(3)) == [] and asked == ["s3://out/x/summary.json"]
    assert list(holds.due(9)) == [], "it is asked once at a time"
    told.pop()()
    assert list(holds.due(9)) == [item]


NAMELESS = Away("https://typo", False, "its host has no address", nameless=True)


def test_a_name_that_nobody_knows_while_others_are_known_is_waited_for_by_nobody(
    house: House,
) -> None:
    """However many need it, and though what is behind all that can wait comes later."""

    def work(job: Job) -> Outcome:
        if job.asset.uri.startswith("https://typo"):
            return dataclasses.replace(missed(job, ""), away=NAMELESS, transient=True)
        return done(job)

    places = [f"https://{host}/{n}" for n in range(8) for host in ("typo", "well")]
    holds = Holds(3600, first_s=SOON_S, most=2)
    result = house.run(16, work, todo=lying(*places), caps={"cpu": 1}, holds=holds)
    assert (result.done, result.failed, result.not_begun) == (8, 8, 0)
    assert result.stores_away == ()
    told = notices(house)
    assert sum("https://typo has no address" in text for text in told) == 1
    assert {attempts(house)[f"a{n}"] for n in range(0, 16, 2)} == {3}


@pytest.mark.parametrize("well", ["https://127.0.0.1:8443", "http://[::1]", "s3://bucket", ""])
def test_names_that_nobody_knows_wait_while_none_is_known(well: str) -> None:
    """It may be the network: what is reached by an address, or lies here, tells nothing."""
    holds, queue = Holds(3600, evidence=Evidence("http://10.0.0.7:9000")), Queue()
    holds.line, holds.emit = queue, lambda _: None
    other, *items = lying(f"{well}/0" if well else "", *["https://typo/a"] * 4)
    for item in items[:3]:
        holds.reached(flight(other, 1))
        back = holds.failed(flight(item, 0), item, NAMELESS, 0)
    assert back is not None and all(map(holds.keep, (*items[:2], items[3])))
    now_s = 0.0
    while now_s < 4000:
        now_s += 1
        for tried in holds.due(now_s):
            assert holds.failed(flight(tried, now_s), tried, NAMELESS, now_s) is not None
    assert holds.over(now_s)
    assert [(s.store, s.assets, s.reason) for s in holds.left()] == [
        ("https://typo", 4, NAMELESS.reason)
    ]
    (tried,) = holds.due(now_s + 200)
    (named,) = lying("https://well/1")
    holds.reached(flight(named, now_s))
    assert holds.failed(flight(tried, now_s), tried, NAMELESS, now_s) is None
    assert (len(holds), len(queue.added)) == (0, 3)
    assert not holds.keep(tried)
    for item in items:
        assert holds.failed(flight(item, now_s), item, NAMELESS, now_s) is None


def assert_waited_for(holds: Holds, items: list[Planned], named: Planned) -> None:
    """Their host is held for them, and still is when one was tried, though others get through."""
    for item in items:
        holds.reached(flight(named, 1))
        back = holds.failed(flight(item, 0), item, NAMELESS, 0)
    assert back is not None
    holds.reached(flight(named, 10))
    (tried,) = holds.due(20)
    assert holds.failed(flight(tried, 20), tried, NAMELESS, 20) is not None


def test_a_host_that_has_given_something_tonight_has_a_name_whoever_knows_it() -> None:
    """So nothing fails in the night in which names cannot be looked up any more."""
    holds = Holds(3600)
    holds.line, holds.emit = Queue(), lambda _: None
    named, *items = lying("https://well/1", *["https://typo/a"] * 3)
    seen = [
        dataclasses.replace(item, asset=dataclasses.replace(item.asset, seen="5:tag"))
        for item in items
    ]
    assert_waited_for(holds, seen, named)


@pytest.mark.parametrize(
    ("origin", "endpoint", "named"),
    [
        ("https://well.example", None, True),
        ("http://localhost:8080", None, False),
        ("https://web.localhost", None, False),
        ("http://127.0.0.1:8080", None, False),
        ("s3://bucket", None, True),
        ("s3://bucket", "http://localhost:9000", False),
        ("s3://bucket", "https://s3.well.example", True),
        ("gs://bucket", "http://localhost:9000", True),
    ],
)
def test_only_a_name_that_is_looked_up_tells_that_names_are_known(
    origin: str, endpoint: str | None, named: bool
) -> None:
    assert has_name(origin, endpoint) is named


@pytest.mark.parametrize("how", ["seen of another", "taken for a slip before", "outputs"])
def test_a_host_that_was_reached_before_the_run_is_no_slip(how: str) -> None:
    """Whoever of it was seen, and however few those are that fail."""
    holds = Holds(3600, "https://typo/out" if how == "outputs" else "")
    holds.line, holds.emit = Queue(), lambda _: None
    named, first, *items = lying("https://well/1", *["https://typo/a"] * 4)
    if how == "taken for a slip before":
        assert holds.failed(flight(first, 0), first, NAMELESS, 0) is None
        holds.reached(flight(named, 1))
        assert holds.failed(flight(first, 0), first, NAMELESS, 0) is None
        for item in items:
            assert holds.failed(flight(item, 0), item, NAMELESS, 0) is None
    if how != "outputs":
        asset = dataclasses.replace(first.asset, seen="5:tag")
        assert not holds.keep(dataclasses.replace(first, asset=asset))  # it lies in the cache
    assert_waited_for(holds, items, named)


def test_who_asks_and_never_tells_does_not_keep_a_store_held() -> None:
    asked = list[str]()
    holds = Holds(3600, ask=lambda uri, _told: asked.append(uri))
    holds.line, holds.emit = Queue(), lambda _: None
    (item,) = lying("https://one/a")
    away = Away("https://one", signed_out=False, reason="nobody is there")
    assert holds.failed(flight(item, 0), item, away, 0, last=True) is not None
    assert not list(holds.due(20)) and not list(holds.due(139))
    assert list(holds.due(141)) == [item]
    assert len(asked) == 1


@pytest.mark.parametrize("nameless", [False, True])
def test_those_whose_recordings_have_come_ahead_tell_that_it_is_not_the_network(
    nameless: bool,
) -> None:
    """All that lies elsewhere was there before: another store is asked, and vouches."""
    asked, told = list[str](), list[Callable[[], None]]()
    away = dataclasses.replace(NAMELESS, nameless=nameless)

    def ask(uri: str, answer: Callable[[Away | None], None]) -> None:
        asked.append(uri)
        answer(away if "typo" in uri else None)

    holds, queue = Holds(3600, ask=ask), Queue()
    holds.line, holds.emit, holds.post, holds.now_s = queue, lambda _: None, told.append, lambda: 2
    item, *more = lying(*["https://typo/a"] * 3)
    holds.came_ahead("https://well/1", time.monotonic() - 1)
    told.pop()()
    for one in (item, *more)[: 3 if nameless else 1]:
        back = holds.failed(flight(one, 5), one, away, 9, last=True)
    assert back is not None
    for now_s in (10, 30):
        assert not list(holds.due(now_s))
    assert asked == ["https://well/1", "https://typo/a"]
    while told:
        told.pop(0)()
    assert (len(holds), bool(queue.added)) == (0, True)


@pytest.mark.parametrize(("local", "slips"), [(3, False), (5, sys.platform == "linux")])
def test_a_slip_beside_local_files_is_not_waited_for_for_an_hour(local: int, slips: bool) -> None:
    holds, queue = Holds(3600), Queue()
    holds.line, holds.emit = queue, lambda _: None
    *here, one, two, three, four = lying(*[""] * local, *["https://typo/a"] * 4)
    for item in here:
        at_work = flight(item, 0)
        holds.ended(at_work, heard_here(at_work.job), 1)
    for item in (one, two, three):
        holds.failed(flight(item, 2), item, NAMELESS, 3)
    assert all(map(holds.keep, (one, two, four)))
    now_s, failed_at_s = 3.0, None
    while now_s < 1000 and failed_at_s is None:
        now_s += 1
        for tried in list(holds.due(now_s)):
            if holds.failed(flight(tried, now_s), tried, NAMELESS, now_s) is None:
                failed_at_s = now_s
    assert (failed_at_s is not None) == slips
    assert failed_at_s is None or 300 < failed_at_s < 500


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

    class UntilAllWait(TimeLimit):
        def left_s(self, now: Clocks | None = None) -> float | None:
            waits = any("Nothing else" in text for text in notices(house))
            return -1.0 if how == "the time" and waits else super().left_s(now)

    result = house.run(
        3,
        lambda job: missed(job, "s3://one"),
        todo=lying(*[f"s3://one/{n}" for n in range(3)]),
        during=interrupt,
        guards=Guards(time=UntilAllWait.of_flags(None, "1h")),
        holds=Holds(24 * 3600),
    )
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


def test_of_what_waits_no_more_is_kept_than_there_is_room_for() -> None:
    holds = Holds(60, most=3)
    backlog = Backlog(Guards(), Expectation(), holds=holds)
    holds.line, holds.emit = backlog, lambda _: None
    items = lying(*[f"s3://one/{n}" for n in range(9)], "", "https://well/x")
    held(holds, items[0])
    feed = ListFeed(items[1:])
    backlog.feed_from(feed, lambda item: (item,))
    assert [item.asset.id for item in backlog.ahead(9)] == ["a9", "a10"]
    assert (len(holds), len(feed), feed.ready) == (3, 6, 0)
    assert not backlog.only_held and backlog.assets_left(()) == len(items)
    assert [store.assets for store in holds.left()] == [9]
    for item in list(backlog.ahead(2)):
        backlog.remove(item)
    assert backlog.only_held and backlog.due_in_s() is None
    (tried,) = holds.due(20)
    backlog.fill()
    assert (len(holds), feed.ready) == (2, 0), "they are not planned again for each that is tried"
    holds.reached(flight(tried, 20))
    backlog.fill()
    assert [item.asset.id for item in backlog.ahead(9)] == [f"a{n}" for n in range(1, 9)]
    assert (len(feed), holds.left()) == (0, ())


@pytest.mark.slow
def test_what_lies_behind_all_that_can_wait_is_done_meanwhile(house: House) -> None:
    """More than are looked over at a time, and more than are kept."""
    back, count = threading.Event(), 21_000

    def work(job: Job) -> Outcome:
        away = job.asset.uri.startswith("s3://one") and not back.is_set()
        return missed(job, "s3://one") if away else done(job)

    def mend(_: Runner) -> None:
        while not any(f"left to do: {count} assets" in text for text in notices(house)[-2:]):
            time.sleep(0.1)
        local.extend(order(house))
        back.set()

    local: list[str] = []
    places = [*["s3://one/x"] * count, *[""] * 6]
    holds = Holds(3600, first_s=0.5, most=1000)
    todo = lying(*places)
    result = house.run(len(todo), work, todo=todo, during=mend, caps={"cpu": 1}, holds=holds)
    assert (result.done, result.failed, result.not_begun) == (count + 6, 0, 0)
    assert set(local) == {f"a{n}" for n in range(count, count + 6)}
    assert set(attempts(house).values()) == {1}


def test_of_two_stores_the_one_that_comes_back_is_not_kept_by_the_other() -> None:
    """Though the other one has all the room."""
    holds = Holds(60, most=5)
    backlog = Backlog(Guards(), Expectation(), holds=holds)
    holds.line, holds.emit = backlog, lambda _: None
    silent = Away("https://two", signed_out=False, reason="nobody is there")
    items = lying("s3://one/a", *["https://two/a"] * 3, *["s3://one/b"] * 5, *["https://two/b"] * 5)
    held(holds, items[0])
    for item in items[1:4]:
        holds.failed(flight(item, 0), item, silent, 0)
    backlog.feed_from(ListFeed(items[4:]), lambda item: (item,))
    assert sorted(store.assets for store in holds.left()) == [6, 6]
    assert not backlog.waiting
    tried = next(item for item in holds.due(20) if "two" in item.asset.uri)
    holds.reached(flight(tried, 20))
    backlog.fill()
    assert {item.asset.uri for item in backlog.ahead(9)} == {"https://two/b"}
    assert backlog.waiting == 5
    assert [(store.store, store.assets) for store in holds.left()] == [("s3://", 6)]


def test_what_is_at_hand_waits_for_its_outputs_alone() -> None:
    holds = Holds(60, "gs://out/x", at_hand=lambda asset, source: source == asset.id)
    holds.line, holds.emit = Queue(), lambda _: None
    first, cached, other = (
        dataclasses.replace(item, formats=("json",)) for item in lying(*["s3://one/a"] * 3)
    )
    cached = dataclasses.replace(cached, source=cached.asset.id)
    held(holds, first)
    assert (holds.keep(cached), holds.keep(other)) == (False, True)
    over = Away("gs://out", signed_out=True, reason="it is over")
    assert holds.failed(flight(cached, 1), cached, over, 1) is not None
    assert holds.keep(cached)


def test_what_would_show_that_a_store_is_back_but_takes_too_long_lets_another_try() -> None:
    holds = Holds(60, first_s=1)
    expectation = Expectation()
    for _ in range(20):
        expectation.observe("cpu", 1.0, 1000.0)
    guards = Guards(time=TimeLimit.of_flags(None, "2000s"))
    backlog = Backlog(guards, expectation, holds=holds)
    holds.line, holds.emit = backlog, lambda _: None
    items = [
        dataclasses.replace(item, asset=dataclasses.replace(item.asset, duration_s=1000.0))
        for item in lying("s3://one/a", "s3://one/b", "")
    ]
    short = dataclasses.replace(items[0].asset, id="short", duration_s=1.0)
    held(holds, *items[:2], dataclasses.replace(items[0], asset=short))
    backlog.take_tries(2)  # without any device nobody can tell
    assert [item.asset.id for item in backlog.ahead(9)] == ["a0"]
    assert not list(backlog.eligible(Flights(), ["cpu"], {}, isolated=False))
    assert backlog.only_held and len(holds) == 3
    backlog.take_tries(2, lambda: ["cpu"])
    ((tried, _),) = backlog.eligible(Flights(), ["cpu"], {}, isolated=False)
    assert tried.asset.id == "short"
    backlog.remove(tried)
    holds.ended(flight(tried, 2), heard_here(flight(tried, 2).job), 3)
    backlog.take_tries(9, lambda: ["cpu"])
    assert backlog.only_held and len(holds) == 2, "none that waits would be done"
    assert backlog.nothing_fits(["cpu"])
    backlog.feed_from(ListFeed(items[2:]), lambda item: (item,))
    assert backlog.left_out == 0


def test_a_signal_does_not_wait_for_what_is_tried(house: House) -> None:
    tried, over = threading.Event(), threading.Event()

    def work(job: Job) -> Outcome:
        if house.told and any("lets nobody in" in text for text in notices(house)):
            tried.set()
            over.wait(2 * PATIENT_S)
        return missed(job, "s3://one")

    def interrupt(runner: Runner) -> None:
        tried.wait(PATIENT_S)
        runner.stop.request("SIGTERM")

    begun_s = time.monotonic()
    result = house.run(
        1, work, todo=lying("s3://one/a"), during=interrupt, holds=Holds(600, first_s=SOON_S)
    )
    over.set()
    assert time.monotonic() - begun_s < 2 * PATIENT_S
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
