"""Runs without devices: the policies of `--policy` against devices that are numbers.

The decisions are those of a run: `earliest_finish.next_start`, and `gpu.policies` for the others.
What is simulated is the rest: jobs take what their device's `JobCost` says, slower or faster
as others come to and leave the device while they are at work, times a noise of their own.
"""

from __future__ import annotations

import math
import random
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from audio_batch.gpu.policies import EARLIEST_FINISH as EARLIEST_FINISH
from audio_batch.gpu.policies import POLICIES, DeviceState
from audio_batch.schedule.bound import lower_bound_s
from audio_batch.schedule.earliest_finish import (
    DeviceNow,
    Running,
    Start,
    Waiting,
    backup_copy,
    next_start,
)
from audio_batch.schedule.speeds import Cost, JobCost, Speeds

POLICY_NAMES = (EARLIEST_FINISH, *POLICIES)
"""The policies that can be tried."""

_DONE = 1e-9
"""The share of a job that is rounding."""


@dataclass(frozen=True, slots=True)
class SimulatedDevice:
    """A device, what it truly does, and how many jobs may be read ahead there."""

    id: str
    slots: int
    speed: JobCost
    ahead: int = 0


@dataclass(frozen=True, slots=True)
class SimulatedJob:
    """A job; its length is known to the schedule unless `hidden`."""

    id: str
    duration_s: float
    hidden: bool = False


@dataclass(frozen=True, slots=True)
class Span:
    """A job's time on a device. Not `useful`: another copy was done first."""

    job: str
    device: str
    begun_s: float
    ended_s: float
    useful: bool = True


@dataclass(frozen=True, slots=True)
class Timeline:
    """How a simulated run went; `spans` in the order in which they ended."""

    policy: str
    makespan_s: float
    bound_s: float
    spans: tuple[Span, ...]
    slots: Mapping[str, int]

    @property
    def ratio(self) -> float:
        """The makespan over its lower bound; 1 where there was nothing to do."""
        return self.makespan_s / self.bound_s if self.bound_s > 0 else 1.0

    def jobs(self, device: str) -> int:
        """How many were done there."""
        return sum(span.device == device and span.useful for span in self.spans)

    def busy(self, device: str) -> float:
        """The share of the run in which at least one job was at work there."""
        spans = sorted((s.begun_s, s.ended_s) for s in self.spans if s.device == device)
        covered_s, until_s = 0.0, 0.0
        for begun_s, ended_s in spans:
            covered_s += max(0.0, ended_s - max(begun_s, until_s))
            until_s = max(until_s, ended_s)
        return covered_s / self.makespan_s if self.makespan_s > 0 else 0.0


@dataclass(slots=True, eq=False)
class _Task:
    """A job on a device. `left` is the share of it that is still to be done."""

    job: SimulatedJob
    noise: float
    begun_s: float
    expected_s: float | None
    at_work_s: float | None = None  # when it got its slot; None while it is read ahead
    left: float = 1.0
    company_s: float = 0.0  # the integral of how many were at work


@dataclass(slots=True)
class _Bay:
    device: SimulatedDevice
    tasks: list[_Task] = field(default_factory=list)

    @property
    def at_work(self) -> list[_Task]:
        return [task for task in self.tasks if task.at_work_s is not None]

    def whole_s(self, task: _Task, active: int) -> float:
        """What a task takes in all with so many at work."""
        return task.noise * self.device.speed.cost_s(active, task.job.duration_s)

    def next_end_s(self) -> float:
        """Seconds until the first of its tasks is done, as long as nothing changes."""
        at_work = self.at_work
        count = len(at_work)
        return min((task.left * self.whole_s(task, count) for task in at_work), default=math.inf)

    def pass_time(self, seconds: float) -> None:
        at_work = self.at_work
        count = len(at_work)
        for task in at_work:
            whole_s = self.whole_s(task, count)
            task.left = 0.0 if whole_s <= 0 else task.left - seconds / whole_s
            task.company_s += seconds * count

    def fill(self, now_s: float) -> None:
        """Give what is read ahead the free slots, in its order."""
        free = self.device.slots - len(self.at_work)
        for task in [task for task in self.tasks if task.at_work_s is None][: max(0, free)]:
            task.at_work_s = now_s


class _Run:
    def __init__(
        self,
        jobs: Sequence[SimulatedJob],
        devices: Sequence[SimulatedDevice],
        policy: str,
        noise: float,
        seed: int,
        speeds: Speeds | None,
        copies: bool,
    ) -> None:
        self.policy = policy
        # Its first is found at once, however many have gone before.
        self.waiting = OrderedDict((job.id, job) for job in jobs)
        self.usual_s = median(job.duration_s for job in jobs) if jobs else 0.0
        self.bays = {device.id: _Bay(device) for device in devices}
        self.speeds = speeds
        self.cost: Cost = speeds.cost_s if speeds else self._true_cost_s
        self.noise = noise
        self.random = random.Random(seed)
        self.copies = copies
        self.copied: set[str] = set()
        self.now_s = 0.0
        self.spans: list[Span] = []

    def go(self) -> None:
        self._start_all()
        while any(bay.tasks for bay in self.bays.values()):
            step_s = min(bay.next_end_s() for bay in self.bays.values())
            self.now_s += step_s
            for bay in self.bays.values():
                bay.pass_time(step_s)
            for bay in self.bays.values():
                for task in [task for task in bay.at_work if task.left <= _DONE]:
                    if task in bay.tasks:  # else a copy of it was done in this very moment
                        self._end(bay, task)
                        self._start_all()

    def _end(self, bay: _Bay, task: _Task) -> None:
        self._leave(bay, task, useful=True)
        for other in self.bays.values():
            for copy in [copy for copy in other.tasks if copy.job.id == task.job.id]:
                self._leave(other, copy, useful=False)
        if self.speeds is not None and task.at_work_s is not None:
            wall_s = self.now_s - task.at_work_s
            active = round(task.company_s / wall_s) if wall_s > 0 else 1
            self.speeds.observe(bay.device.id, active, task.job.duration_s, wall_s)

    def _leave(self, bay: _Bay, task: _Task, *, useful: bool) -> None:
        bay.tasks.remove(task)
        begun_s = self.now_s if task.at_work_s is None else task.at_work_s
        self.spans.append(Span(task.job.id, bay.device.id, begun_s, self.now_s, useful))
        bay.fill(self.now_s)

    def _start_all(self) -> None:
        while (start := self._next()) is not None:
            bay = self.bays[start.device]
            job = self.waiting.pop(start.id, None)
            if job is None:
                self.copied.add(start.id)
                job = next(
                    task.job
                    for other in self.bays.values()
                    for task in other.tasks
                    if task.job.id == start.id
                )
            # With mean 1, so that noise alone makes no device slower.
            noise = math.exp(self.random.gauss(-(self.noise**2) / 2, self.noise))
            active = len(bay.at_work) + (not start.ahead)
            expected_s = self.cost(bay.device.id, active, _known_s(job))
            task = _Task(job, noise, self.now_s, expected_s)
            task.at_work_s = None if start.ahead else self.now_s
            bay.tasks.append(task)

    def _next(self) -> Start | None:
        if self.policy != EARLIEST_FINISH:
            return self._next_by_load()
        devices = [self._snapshot(bay) for bay in self.bays.values()]
        if self.waiting:
            waiting = (Waiting(job.id, _known_s(job)) for job in self.waiting.values())
            return next_start(self.now_s, waiting, devices, self.cost)
        if not self.copies:
            return None
        running = [job for device in devices for job in device.running]
        return backup_copy(self.now_s, running, devices, self.cost, self.copied)

    def _next_by_load(self) -> Start | None:
        first = next(iter(self.waiting), None)
        # A device is as busy as it can be, or idle: what nvidia-smi shows in the seed's runs.
        states = [
            DeviceState(id, len(bay.tasks), bay.device.slots, 100.0 if bay.tasks else 0.0)
            for id, bay in self.bays.items()
        ]
        chosen = POLICIES[self.policy](states)
        return None if first is None or chosen is None else Start(first, chosen)

    def _snapshot(self, bay: _Bay) -> DeviceNow:
        running = tuple(
            Running(
                task.job.id,
                bay.device.id,
                task.begun_s if task.at_work_s is None else task.at_work_s,
                _known_s(task.job),
                task.expected_s,
                ahead=task.at_work_s is None,
            )
            for task in bay.tasks
        )
        room = bay.device.ahead - sum(job.ahead for job in running)
        return DeviceNow(bay.device.id, bay.device.slots, running, ahead_room=max(0, room))

    def _true_cost_s(self, device: str, active: int, duration_s: float | None) -> float | None:
        if duration_s is None:
            duration_s = self.usual_s
        return self.bays[device].device.speed.cost_s(active, duration_s)


def _known_s(job: SimulatedJob) -> float | None:
    return None if job.hidden else job.duration_s


def simulate(
    jobs: Sequence[SimulatedJob],
    devices: Sequence[SimulatedDevice],
    policy: str = EARLIEST_FINISH,
    *,
    noise: float = 0.0,
    seed: int = 0,
    speeds: Speeds | None = None,
    copies: bool = False,
) -> Timeline:
    """Run `jobs` on `devices`; the same arguments give the same run.

    Args:
        jobs: in the order in which a run would have them; see `longest_first`.
        policy: one of `POLICY_NAMES`.
        noise: the standard deviation of the logarithm of what a job takes, 0.2 for 20 %.
        speeds: what the schedule believes at the beginning; it learns from every job that ends.
            None: it knows what the devices truly do, and the usual length of a hidden job.
        copies: whether earliest-finish may begin a job once more elsewhere at the end.

    Raises:
        ValueError: no such policy, or jobs and no slot to do them.
    """
    if policy not in POLICY_NAMES:
        raise ValueError(f"no policy {policy!r}")
    bound_s = lower_bound_s(
        [job.duration_s for job in jobs], [(device.speed, device.slots) for device in devices]
    )
    run = _Run(jobs, devices, policy, noise, seed, speeds, copies)
    run.go()
    slots = {device.id: device.slots for device in devices}
    return Timeline(policy, run.now_s, bound_s, tuple(run.spans), slots)


def longest_first(jobs: Sequence[SimulatedJob]) -> list[SimulatedJob]:
    """The order that earliest-finish plans in, unless the user asked for another."""
    return sorted(jobs, key=lambda job: (job.hidden, -job.duration_s))
