"""The runner over real pools, journals and balancers; only the work is made up."""

from __future__ import annotations

import dataclasses
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence, Set
from pathlib import Path
from typing import Any

import pytest
from attempt_rows import count_attempts
from fake_gpus import FakeProbe, fake_gpu
from loaders import Loading

from audio_batch import events
from audio_batch.errors import DeviceError, ErrorKind, SetupError
from audio_batch.feeding import ListFeed
from audio_batch.gpu.balancer import Balancer
from audio_batch.gpu.devices import CPU, Device
from audio_batch.gpu.probe import Sampler
from audio_batch.gpu.snapshot import GpuSnapshot
from audio_batch.journal import Journal
from audio_batch.manifest import Asset
from audio_batch.options import DecodingOptions, RunOptions, SpeakerLimits
from audio_batch.outcome import Outcome, RunResult, Stage, StageRecord, State
from audio_batch.pipeline import Job
from audio_batch.plan import Action, Planned
from audio_batch.pools import Pool, SerialPool, ThreadPool
from audio_batch.runner import Runner
from audio_batch.storage import PublishedFile
from audio_batch.tell import Tell
from audio_batch.wiring import Means

Work = Callable[[Job], Outcome]
GPUS = tuple(Device(f"cuda:{n}", "cuda", n, f"GPU-{n}", "T", None) for n in range(3))
OPTIONS = RunOptions(model="m", engine="null", decoding=DecodingOptions(), retry_delay_s=0.01)
PATIENCE_S = 60.0


def planned(count: int) -> list[Planned]:
    return [
        Planned(
            asset=Asset(id=f"a{n}", uri="x", path=Path("x"), name=f"A {n}", position=n),
            action=Action.PROCESS,
            decoding=DecodingOptions(),
            limits=SpeakerLimits(),
            formats=("json",),
            output_name=f"a{n}",
            source="1:1",
            fingerprint="f",
            rendering="r",
            stages={Stage.TRANSCRIBE: "f"},
        )
        for n in range(count)
    ]


def done(job: Job) -> Outcome:
    record = StageRecord(
        asset_id=job.asset.id,
        stage=Stage.TRANSCRIBE,
        source="1:1",
        fingerprint="f",
        file=PublishedFile("transcribe", "stages/x", 1, "0"),
        device=job.device,
        seconds=0.1,
    )
    return Outcome(job.asset.id, State.DONE, "f", job.device, duration_s=1.0, stages=(record,))


def until(true: Callable[[], bool]) -> None:
    """Wait for something, for so long that only a fault is ever waited for to the end."""
    until_s = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < until_s, "it did not come to pass"
        time.sleep(0.01)


def failed(job: Job, *, transient: bool = False, device: bool = False) -> Outcome:
    return Outcome(
        job.asset.id,
        State.FAILED,
        "f",
        job.device,
        error_kind=ErrorKind.MODEL,
        error_text="no",
        transient=transient,
        device_failed=device,
    )


@dataclasses.dataclass
class House:
    """A journal on disk and what a run over it told."""

    path: Path
    told: list[events.Event] = dataclasses.field(default_factory=list)
    runner: Runner | None = None
    tell: Tell = dataclasses.field(init=False)
    """What the workers of the last run tell by."""

    def run(
        self,
        count: int,
        work: Work,
        *,
        devices: tuple[Device, ...] = (CPU,),
        caps: dict[str, int] | None = None,
        pool: Callable[[Work], Pool] | None = None,
        load: Callable[[str, Set[Stage]], Sequence[str]] = lambda _, __: (),
        options: RunOptions = OPTIONS,
        during: Callable[[Runner], None] | None = None,
        todo: list[Planned] | None = None,
        sampler: Sampler | None = None,
        **more: Any,
    ) -> RunResult:
        caps = caps or dict.fromkeys((device.id for device in devices), 2)
        make = pool or (lambda work: ThreadPool(work, sum(caps.values())))
        journal = Journal(self.path)

        def opened(tell: Tell, _died: object) -> Pool:
            self.tell = tell
            return make(work)

        try:
            means = Means(
                options=options,
                journal=journal,
                run_id=journal.begin_run(version="0", request={}),
                balancer=Balancer(devices, caps, sampler),
                pool=opened,
                loader=lambda _pool: Loading(load),
                emit=self.told.append,
                **more,
            )
            self.runner = Runner(means)
            if during is not None:
                threading.Thread(target=during, args=(self.runner,), daemon=True).start()
            return self.runner.run(ListFeed(planned(count) if todo is None else todo))
        finally:
            journal.close()

    def states(self) -> Counter[State]:
        return Counter(entry.state for entry in Journal(self.path, read_only=True).entries())

    def attempts(self) -> int:
        return count_attempts(self.path)


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path / "journal.sqlite3")


@pytest.mark.parametrize("pool", [SerialPool, lambda work: ThreadPool(work, 2)])
def test_every_pool_gives_what_the_serial_one_gives(
    house: House, pool: Callable[[Work], Pool]
) -> None:
    result = house.run(9, lambda job: failed(job) if job.asset.id == "a4" else done(job), pool=pool)
    assert (result.done, result.failed, result.not_begun) == (8, 1, 0)
    assert house.states() == {State.DONE: 8, State.FAILED: 1}
    finished = [event for event in house.told if isinstance(event, events.AssetFinished)]
    assert {event.outcome.asset_id for event in finished} == {f"a{n}" for n in range(9)}
    assert all(event.worker.startswith("Worker-") for event in finished)


@pytest.mark.parametrize("count", [100, pytest.param(500, marks=pytest.mark.slow)])
def test_assets_on_three_gpus_never_pass_the_caps(house: House, count: int) -> None:
    caps = {"cuda:0": 3, "cuda:1": 2, "cuda:2": 1}
    lock, active, most = threading.Lock(), Counter[str](), Counter[str]()
    seen: list[str] = []
    all_full = threading.Event()
    noise = random.Random(1)
    delays = [noise.uniform(0.04, 0.1) for _ in range(count)]

    def work(job: Job) -> Outcome:
        with lock:
            active[job.device] += 1
            most[job.device] = max(most[job.device], active[job.device])
            seen.append(job.asset.id)
            if active == caps:
                all_full.set()
        all_full.wait(PATIENCE_S)  # however slowly they begin, once every slot is taken
        all_full.set()  # where that never comes, none of the others waits for it too
        time.sleep(delays[int(job.asset.id[1:])])
        with lock:
            active[job.device] -= 1
        return done(job)

    result = house.run(
        count,
        work,
        devices=GPUS,
        caps=caps,
        pool=lambda work: ThreadPool(work, 16),
        options=dataclasses.replace(OPTIONS, backup_copies=False),
    )
    assert result.done == count
    assert sorted(seen) == sorted(f"a{n}" for n in range(count))
    assert dict(most) == caps
    assert house.attempts() == count


def test_what_may_pass_is_tried_again_and_no_more_than_asked(house: House) -> None:
    tries: Counter[str] = Counter()

    def work(job: Job) -> Outcome:
        tries[job.asset.id] += 1
        assert job.attempt == tries[job.asset.id]
        passed = job.asset.id == "a0" and tries["a0"] == 2
        return done(job) if passed or job.asset.id == "a2" else failed(job, transient=True)

    result = house.run(3, work)
    assert tries == {"a0": 2, "a1": 3, "a2": 1}
    assert (result.done, result.failed) == (2, 1)


def test_what_cannot_pass_is_tried_once(house: House) -> None:
    house.run(1, failed)
    assert house.attempts() == 1


def test_a_run_that_dies_between_two_attempts_leaves_the_asset_to_be_done(house: House) -> None:
    slow = dataclasses.replace(OPTIONS, retry_delay_s=60.0)

    def stop(runner: Runner) -> None:
        until(lambda: any(isinstance(event, events.AssetFinished) for event in house.told))
        runner.stop.request("SIGINT")

    result = house.run(1, lambda job: failed(job, transient=True), options=slow, during=stop)
    assert (result.interrupted, result.not_begun) == (True, 1)
    assert house.states() == {State.INTERRUPTED: 1}


def test_a_device_that_fails_gives_its_work_to_the_others_uncounted(house: House) -> None:
    tried = threading.Event()

    def work(job: Job) -> Outcome:
        if job.device == "cuda:1":
            tried.set()
            return failed(job, device=True)
        tried.wait(PATIENCE_S)  # the others must not have done all before its models are there
        return done(job)

    result = house.run(30, work, devices=GPUS)
    assert result.done == 30
    assert list(result.devices_out) == ["cuda:1"]
    entries = list(Journal(house.path, read_only=True).entries())
    assert {entry.attempts for entry in entries} == {1}
    assert sum(isinstance(event, events.DeviceOut) for event in house.told) >= 1


def test_with_no_device_left_the_run_says_so_and_keeps_what_is_done(house: House) -> None:
    def work(job: Job) -> Outcome:
        return done(job) if job.asset.id == "a0" else failed(job, device=True)

    with pytest.raises(SetupError, match="No device is left"):
        house.run(5, work, pool=SerialPool)
    states = house.states()
    assert (states[State.DONE], states[State.FAILED], states[State.RUNNING]) == (1, 0, 0)


def test_a_gpu_that_is_lost_while_the_others_are_full_holds_nothing_up(house: House) -> None:
    """The runner gives the slots back itself: waiting for one it would wait for ever."""
    fakes = [fake_gpu(0), fake_gpu(1)]
    devices = tuple(
        Device(f"cuda:{n}", "cuda", n, fake.uuid, fake.name, None) for n, fake in enumerate(fakes)
    )

    both, over = threading.Barrier(2), threading.Event()
    lost = threading.Event()

    class Losing(FakeProbe):
        def snapshots(self) -> tuple[GpuSnapshot, ...]:
            return super().snapshots()[: 1 if lost.is_set() else 2]

    def give_up(runner: Runner) -> None:
        if not over.wait(PATIENCE_S):
            runner.stop.request("the test")

    def work(job: Job) -> Outcome:
        if not lost.is_set():
            both.wait(PATIENCE_S)
            lost.set()
        if job.device == "cuda:1":
            until(lambda: len(sampler.latest()) == 1)
        else:  # the other one's slot is free, and this one full, when it is found to be lost
            until(lambda: any(isinstance(event, events.DeviceOut) for event in house.told))
        return done(job)

    with Sampler([lambda: Losing([fakes])], interval_s=0.1) as sampler:
        result = house.run(
            4,
            work,
            devices=devices,
            caps={"cuda:0": 1, "cuda:1": 1},
            sampler=sampler,
            during=give_up,
        )
    over.set()
    assert (result.done, result.interrupted) == (4, False)
    assert list(result.devices_out) == ["cuda:1"]


def test_a_device_that_cannot_load_is_left_out_before_any_asset(house: House) -> None:
    def load(device: str, _: Set[Stage]) -> Sequence[str]:
        if device == "cuda:0":
            raise DeviceError("no room")
        return ()

    def work(job: Job) -> Outcome:
        until(lambda: any(isinstance(event, events.DeviceOut) for event in house.told))
        return done(job)

    result = house.run(6, work, devices=GPUS, load=load)
    assert result.devices_out == {"cuda:0": "no room"}
    assert result.shares
    assert set(result.shares) <= {"cuda:1", "cuda:2"}


def test_a_model_that_no_device_can_load_touches_no_asset(house: House) -> None:
    def load(_: str, __: Set[Stage]) -> Sequence[str]:
        raise DeviceError("no room")

    with pytest.raises(SetupError, match="no room"):
        house.run(6, done, devices=GPUS, load=load)
    assert house.attempts() == 0


def test_one_stop_finishes_what_runs_and_begins_nothing(house: House) -> None:
    begun, go = threading.Event(), threading.Event()

    def work(job: Job) -> Outcome:
        begun.set()
        go.wait(PATIENCE_S)
        return done(job)

    def stop(runner: Runner) -> None:
        begun.wait(PATIENCE_S)
        runner.stop.request("SIGINT")
        go.set()

    result = house.run(20, work, during=stop)
    assert result.interrupted
    assert not result.dropped
    assert 1 <= result.done <= 2
    assert house.states() == {State.DONE: result.done}


@pytest.mark.parametrize("grace", [False, True])
def test_a_second_stop_or_the_end_of_the_grace_drops_what_runs(house: House, grace: bool) -> None:
    begun, go = threading.Event(), threading.Event()

    def work(job: Job) -> Outcome:
        begun.set()
        go.wait(PATIENCE_S)
        return done(job)

    def stop(runner: Runner) -> None:
        begun.wait(PATIENCE_S)
        runner.stop.request("SIGTERM", within_grace=grace)
        if not grace:
            runner.stop.request("SIGTERM")

    result = house.run(20, work, during=stop, grace_s=0.1)
    go.set()
    assert (result.interrupted, result.dropped) == (True, True)
    states = house.states()
    assert set(states) == {State.INTERRUPTED}
    entries = list(Journal(house.path, read_only=True).entries())
    assert {entry.attempts for entry in entries} == {0}


def test_fail_fast_begins_nothing_after_a_failure(house: House) -> None:
    fast = dataclasses.replace(OPTIONS, fail_fast=True)
    result = house.run(20, failed, options=fast, pool=SerialPool)
    assert (result.failed, result.not_begun, result.interrupted) == (1, 19, False)
    assert result.stopped_by_failure


class Person:
    """Answers as told; None never answers."""

    def __init__(self, *answers: bool | None, within_s: float = PATIENCE_S) -> None:
        self.answers = list(answers)
        self.within_s = within_s
        self.asked = threading.Event()
        self.closed = 0

    def ask(self, answer: Callable[[bool], None]) -> float | None:
        self.asked.set()
        said = self.answers.pop(0)
        if said is not None:
            threading.Timer(0.05, answer, [said]).start()
        return self.within_s

    def close(self) -> None:
        self.closed += 1


def test_a_person_may_stop_after_a_failure(house: House) -> None:
    person = Person(True, False)
    result = house.run(20, failed, pool=SerialPool, asker=person)
    assert (result.failed, result.not_begun, person.closed) == (2, 18, 2)


def test_who_does_not_answer_is_not_asked_again(house: House) -> None:
    person = Person(None, within_s=0.1)
    result = house.run(5, failed, pool=SerialPool, asker=person)
    assert (result.failed, result.not_begun, person.answers) == (5, 0, [])


def test_what_runs_is_committed_and_a_signal_heard_while_a_question_is_open(house: House) -> None:
    person = Person(None, within_s=600.0)

    def work(job: Job) -> Outcome:
        if job.asset.id == "a0":
            return failed(job)
        person.asked.wait(PATIENCE_S)
        return done(job)

    def stop(runner: Runner) -> None:
        until(lambda: house.states()[State.DONE] >= 1)
        runner.stop.request("SIGINT")

    began = time.monotonic()
    result = house.run(20, work, asker=person, during=stop)
    assert time.monotonic() - began < 300
    assert result.interrupted
    assert (result.failed, result.done) == (1, 1)


def test_a_no_that_comes_after_a_signal_drops_nothing(house: House) -> None:
    class Late(Person):
        def ask(self, answer: Callable[[bool], None]) -> float | None:
            assert house.runner is not None
            house.runner.stop.request("SIGINT")
            return super().ask(answer)

    person = Late(False)

    def work(job: Job) -> Outcome:
        if job.asset.id == "a0":
            return failed(job)
        until(lambda: person.closed == 1)  # it is at work when the answer comes
        return done(job)

    result = house.run(20, work, asker=person)
    assert (result.interrupted, result.dropped, result.stopped_by_failure) == (True, False, False)
    assert house.states() == {State.FAILED: 1, State.DONE: 1}


def test_an_input_that_never_rests_is_given_up(house: House) -> None:
    def work(job: Job) -> Outcome:
        changed = failed(job, transient=True)
        return dataclasses.replace(changed, error_kind=ErrorKind.INPUT_CHANGED)

    result = house.run(1, work)
    assert result.failed == 1
    assert house.attempts() == 3


def test_a_failure_that_may_pass_stays_to_be_done_when_the_run_is_stopped(house: House) -> None:
    def work(job: Job) -> Outcome:
        assert house.runner is not None
        house.runner.stop.request("SIGINT")
        return failed(job, transient=True)

    result = house.run(2, work, pool=SerialPool)
    assert (result.failed, result.not_begun) == (0, 2)
    assert house.states() == {State.INTERRUPTED: 1}


def test_a_full_disk_ends_the_run_and_leaves_everything_to_be_done(house: House) -> None:
    def work(job: Job) -> Outcome:
        full = dataclasses.replace(failed(job), error_kind=ErrorKind.DISK_FULL, error_text="full")
        return done(job) if job.asset.id == "a0" else full

    with pytest.raises(SetupError, match="full"):
        house.run(9, work, pool=SerialPool)
    assert house.states() == {State.DONE: 1, State.INTERRUPTED: 1}
    entries = {entry.asset_id: entry for entry in Journal(house.path, read_only=True).entries()}
    assert entries["a1"].attempts == 0


def test_an_asset_that_breaks_every_device_does_not_take_the_night(house: House) -> None:
    def work(job: Job) -> Outcome:
        return failed(job, device=True) if job.asset.id == "a0" else done(job)

    result = house.run(12, work, devices=GPUS)
    assert (result.done, result.failed) == (11, 1)
    assert len(result.devices_out) == 1


def test_what_ran_when_the_program_crashed_runs_alone(house: House) -> None:
    lock, running, beside = threading.Lock(), set[str](), set[str]()

    def work(job: Job) -> Outcome:
        with lock:
            running.add(job.asset.id)
            if "a7" in running:
                beside.update(running)
        time.sleep(0.05)
        with lock:
            running.discard(job.asset.id)
        return done(job)

    todo = planned(12)
    todo[7] = dataclasses.replace(todo[7], suspect=True)
    assert house.run(0, work, todo=todo, devices=GPUS).done == 12
    assert beside == {"a7"}


def test_work_that_runs_when_the_last_device_fails_is_committed_first(house: House) -> None:
    def work(job: Job) -> Outcome:
        if job.asset.id == "a0":
            return failed(job, device=True)
        until(lambda: any(isinstance(event, events.DeviceOut) for event in house.told))
        return done(job)

    with pytest.raises(SetupError, match="No device is left"):
        house.run(5, work)
    assert house.states()[State.DONE] >= 1
    assert house.states()[State.RUNNING] == 0


def test_a_stop_while_models_load_leaves_at_once(house: House) -> None:
    loading, go = threading.Event(), threading.Event()

    def load(_: str, __: Set[Stage]) -> Sequence[str]:
        loading.set()
        go.wait(PATIENCE_S)
        return ()

    def stop(runner: Runner) -> None:
        loading.wait(PATIENCE_S)
        runner.stop.request("SIGTERM", within_grace=True)

    result = house.run(5, done, load=load, during=stop)
    go.set()
    assert (result.interrupted, result.dropped, result.not_begun) == (True, True, 5)
    assert any(isinstance(event, events.StopRequested) for event in house.told)
    assert house.attempts() == 0


def test_each_assignment_is_told_with_the_line_the_users_know(house: House) -> None:
    house.run(1, done, devices=GPUS[:2], caps={"cuda:0": 5, "cuda:1": 5})
    (started,) = [event for event in house.told if isinstance(event, events.AssetStarted)]
    idle = "GPU 1: 0/5 tasks, n/a util"
    # The second may still be loading when the first is ready.
    told = started.balancer_status.replace("GPU 1: 0/5 tasks, loading", idle)
    assert told == f"GPU Balancer Status: GPU 0: 1/5 tasks, n/a util | {idle}"
