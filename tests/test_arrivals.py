"""Devices that join a run, or come back to it. The runner is real, the work is made up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from loaders import Loading
from test_runner import OPTIONS, done, failed, planned

from audio_batch import events
from audio_batch.arrivals import Arrival
from audio_batch.errors import DeviceError, SetupError
from audio_batch.feeding import ListFeed
from audio_batch.gpu.balancer import Balancer
from audio_batch.gpu.capacity import later_max_per_gpu, parse_max_per_gpu
from audio_batch.gpu.devices import Device
from audio_batch.journal import Journal
from audio_batch.outcome import Outcome, RunResult, Stage
from audio_batch.pipeline import Job
from audio_batch.pools import ThreadPool
from audio_batch.runner import Runner
from audio_batch.wiring import Means

PATIENT_S = 60.0

A, B = (Device(f"ray:{n}/cpu", "cpu", None, "ray:cpu:1", "1 core", None, n) for n in "ab")


@dataclass
class Offers:
    """A lookout that offers the same devices again and again once they are `up`."""

    arrivals: Sequence[Arrival]
    is_lost: bool = False
    up: threading.Event = field(default_factory=threading.Event)
    over: threading.Event = field(default_factory=threading.Event)
    closed: threading.Event = field(default_factory=threading.Event)
    taken_in: list[str] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    error: Exception | None = None
    asked: list[str] = field(default_factory=list)

    def begin(self, found: Callable[[Sequence[Arrival]], None], _left: Callable[[], int]) -> None:
        def offer() -> None:
            self.up.wait(PATIENT_S)
            while not self.over.wait(0.01):
                found(self.arrivals)

        threading.Thread(target=offer, daemon=True).start()

    def taken(self, arrival: Arrival) -> None:
        self.taken_in.append(arrival.device.id)
        if self.error is not None:
            raise self.error

    def expects(self, device: str) -> bool:
        self.asked.append(device)
        if len(self.asked) > 2:  # the run waits, tick after tick
            self.up.set()
        return self.is_lost

    def stop(self) -> None:
        self.over.set()

    def close(self) -> None:
        assert self.over.is_set()
        self.closed.set()
        self.log.append("close")


def run(
    folder: Path,
    count: int,
    work: Callable[[Job], Outcome],
    offers: Offers,
    *,
    load: Callable[[str, Set[Stage]], Sequence[str]] = lambda _device, _needed: (),
    devices: Sequence[Device] = (A,),
    begun: Callable[[Runner], None] = lambda _runner: None,
    pool: type[ThreadPool] = ThreadPool,
) -> tuple[RunResult, list[events.Event]]:
    told: list[events.Event] = []
    balancer = Balancer(devices, {device.id: 1 for device in devices})
    journal = Journal(folder / "journal.sqlite3")
    try:
        means = Means(
            options=OPTIONS,
            journal=journal,
            run_id=journal.begin_run(version="0", request={}),
            balancer=balancer,
            pool=lambda _tell, _died: pool(work, 3),
            loader=lambda _pool: Loading(load),
            emit=told.append,
            lookout=offers,
            take=lambda arrival: balancer.add(arrival.device, arrival.slots),
        )
        runner = Runner(means)
        begun(runner)
        return runner.run(ListFeed(planned(count))), told
    finally:
        journal.close()


def joined(told: list[events.Event]) -> list[str]:
    return [event.device for event in told if isinstance(event, events.DeviceJoined)]


def test_a_device_that_joins_works_and_joins_once(tmp_path: Path) -> None:
    offers = Offers([Arrival(B, 2)])
    both, seen = threading.Event(), list[str]()
    together = threading.Barrier(2, both.set)

    def work(job: Job) -> Outcome:
        offers.up.set()
        if job.device == A.id:
            assert both.wait(PATIENT_S)  # else it might do all of them by itself
        elif not both.is_set():
            seen.append(job.asset.id)
            together.wait(PATIENT_S)  # two at a time
        return done(job)

    result, told = run(tmp_path, 200, work, offers)
    assert result.done == 200
    assert joined(told) == offers.taken_in == [B.id]
    assert len(seen) == 2
    assert offers.closed.is_set()


def test_a_run_without_a_device_waits_for_one_that_is_lost_and_takes_it_anew(
    tmp_path: Path,
) -> None:
    offers = Offers([Arrival(A, 1)], is_lost=True)

    def work(job: Job) -> Outcome:
        return done(job) if offers.taken_in else failed(job, device=True)

    result, told = run(tmp_path, 5, work, offers)
    assert (result.done, result.not_begun) == (5, 0)
    assert joined(told) == [A.id]
    assert sum(isinstance(event, events.DeviceOut) for event in told) == 1
    assert not result.devices_out, "it is back"
    waits = [e.text for e in told if isinstance(e, events.Notice) and "waits up to" in e.text]
    assert len(waits) == 1


def test_a_run_whose_device_failed_by_itself_waits_for_nobody(tmp_path: Path) -> None:
    offers = Offers([Arrival(B, 1)])
    with pytest.raises(SetupError, match="No device is left"):
        run(tmp_path, 5, lambda job: failed(job, device=True), offers)
    assert not offers.taken_in


def test_a_device_that_is_lost_while_it_loads_is_waited_for(tmp_path: Path) -> None:
    offers = Offers([Arrival(B, 1)], is_lost=True)

    def load(device: str, _needed: Set[Stage]) -> Sequence[str]:
        if device == A.id:
            raise DeviceError("a has left the cluster.")
        return ()

    result, told = run(tmp_path, 3, done, offers, load=load)
    assert (result.done, joined(told)) == (3, [B.id])
    assert set(offers.asked) == {A.id}


def test_the_device_that_went_out_last_is_asked_about(tmp_path: Path) -> None:
    offers = Offers([])
    runners: list[Runner] = []

    def work(job: Job) -> Outcome:
        while job.device == A.id and B.id not in runners[0].result.devices_out:
            time.sleep(0.01)
        return failed(job, device=True)

    with pytest.raises(SetupError):
        run(tmp_path, 9, work, offers, devices=(A, B), begun=runners.append)
    assert offers.asked == [A.id]


def test_nothing_joins_a_run_that_was_told_to_stop(tmp_path: Path) -> None:
    offers = Offers([Arrival(B, 1)])
    runners: list[Runner] = []
    over: list[bool] = []

    def work(job: Job) -> Outcome:
        time.sleep(0.05)  # what was told before has been heard
        runners[0].stop.requested.set()  # an offer comes before the signal's own message
        offers.up.set()
        over.append(offers.over.wait(PATIENT_S))
        return done(job)

    result, told = run(tmp_path, 5, work, offers, begun=runners.append)
    assert result.interrupted
    assert over == [True], "it looks on while what runs is finished"
    assert not joined(told)


def test_nothing_joins_while_what_runs_is_finished_after_an_error(tmp_path: Path) -> None:
    offers = Offers([Arrival(B, 1)], error=SetupError("The disk is full."))
    over: list[bool] = []

    def work(job: Job) -> Outcome:
        offers.up.set()
        over.append(offers.over.wait(PATIENT_S))
        return done(job)

    with pytest.raises(SetupError, match="disk is full"):
        run(tmp_path, 5, work, offers)
    assert over == [True]
    assert offers.taken_in == [B.id]


def test_who_wants_out_waits_for_no_cluster(tmp_path: Path) -> None:
    order: list[str] = []
    offers = Offers([], log=order)
    runners: list[Runner] = []
    release = threading.Event()

    class Pool(ThreadPool):
        def drop(self) -> bool:
            order.append("drop")
            release.set()
            return super().drop()

    def work(job: Job) -> Outcome:
        runners[0].stop.request("SIGINT")
        runners[0].stop.request("SIGINT")
        release.wait(PATIENT_S)
        return done(job)

    result, _ = run(tmp_path, 5, work, offers, begun=runners.append, pool=Pool)
    assert result.dropped
    assert order == ["drop", "close"]


def test_a_device_that_was_out_begins_anew_in_the_balancer() -> None:
    balancer = Balancer([A], {A.id: 1})
    lease = balancer.try_lease()
    assert lease is not None
    balancer.take_out(A.id, "its node has gone")
    balancer.add(A, 2)
    (load,) = balancer.loads()
    assert (load.out_reason, load.held, load.active, load.maximum) == (None, True, 1, 2)
    balancer.resume(A.id)
    assert balancer.try_lease() is not None
    assert balancer.try_lease() is None
    lease.release()
    assert balancer.try_lease() is not None
    with pytest.raises(ValueError, match="at least 1"):
        balancer.add(B, 0)


@pytest.mark.parametrize(("text", "cap"), [("5", 5), ("2,1", 1)])
def test_a_device_that_joins_later_has_the_last_cap(text: str, cap: int) -> None:
    devices = [A, B][: text.count(",") + 1]
    assert list(parse_max_per_gpu(text, devices).values())[-1] == later_max_per_gpu(text) == cap
