"""Which job begins next, and where: to the earliest expected finish, replanned, bound late.

At every decision the waiting jobs are planned anew, in their order (longest first, unless somebody
asked for another): each goes to the device where it would be done first, be that after what runs
there now. Only a job that the plan puts on a free slot begins. A slot that is planned nothing
stays idle, which is the point: a slow device must not take the last long file. Pure functions of
snapshots: no clock, no lock.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from audio_batch.schedule.speeds import Cost

_HORIZON = 500
"""So many jobs are planned and no more. A device that would not be done with one of them before
the others have done the rest adds less than 0.2 % to their work."""

_OVERDUE = 0.1
"""A job that has passed its estimate is expected to take this share of its time more."""

_COPY_GAIN = 0.8
"""A copy is worth beginning if it takes less than this share of what the original still needs."""

_COPY_OVERDUE = 3.0
"""A job that has taken so many times its estimate is copied without asking what it needs."""

_SAME = 1e-9
"""Relative difference within which two moments are one."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A job that has not begun; None is an unknown length."""

    id: str
    duration_s: float | None
    excluded: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Running:
    """A job that has been given to a device.

    Attributes:
        expected_s: its cost as it was estimated when it began; None where nobody could.
        ahead: it is only read ahead, and begins when a slot is free.
        excluded: devices that must not have a copy of it.
    """

    id: str
    device: str
    begun_s: float
    duration_s: float | None
    expected_s: float | None
    ahead: bool = False
    excluded: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class DeviceNow:
    """A device at the moment of the decision.

    Attributes:
        slots: jobs that may be at work there at once.
        running: all that was given to it, what is read ahead included.
        ahead_room: how many more may be read ahead there.
        open: False: nothing may begin there now.
        opens_at_s: of one that is not open, when it will be (its models are being loaded); until
            then jobs are kept for it where that is faster. None: not soon.
    """

    id: str
    slots: int
    running: tuple[Running, ...] = ()
    ahead_room: int = 0
    open: bool = True
    opens_at_s: float | None = None


@dataclass(frozen=True, slots=True)
class Start:
    """What is to begin now. `ahead`: it is read ahead, and waits there for a slot.

    Of several devices each has its last job only when a slot is free: that is bound late.
    """

    id: str
    device: str
    ahead: bool = False


class _Bay:
    """A device in the plan: when each of its slots will be free."""

    __slots__ = ("device", "free", "next", "ready_s", "room")

    def __init__(self, device: DeviceNow, now_s: float, cost: Cost, *, alone: bool) -> None:
        self.device = device
        at_work = [job for job in device.running if not job.ahead]
        behind = [job for job in device.running if job.ahead]
        at_work.sort(key=lambda job: job.begun_s)
        behind[:0] = at_work[device.slots :]
        at_work = at_work[: device.slots]
        idle = device.slots - len(at_work)
        opens_s = now_s if device.open else max(now_s, device.opens_at_s or now_s)
        ends_s = []
        late = False
        for job in at_work:
            expected_s = _expected_s(job, len(at_work), cost)
            ends_s.append(max(opens_s, now_s + _left_s(job, expected_s, now_s)))
            unsure = job.expected_s is None or expected_s is None
            late = late or unsure or now_s - job.begun_s >= (expected_s or 0.0)
        self.ready_s = [opens_s] * idle + sorted(ends_s)
        for job in behind:
            self.put(self.ready_s[0] + (_expected_s(job, device.slots, cost) or 0.0))
        # What is read ahead gets the next free slot.
        self.free = max(0, idle - len(behind)) if device.open else 0
        # Where a job is late, or began before anything was known, the device may be slower than is
        # believed: nothing is bound to it.
        self.room = device.ahead_room if device.open and (alone or not late) else 0
        self.next: Start | None = None  # what would be read ahead, if more is planned here

    def at_work(self) -> int:
        """How many there will be when the next job begins, itself included."""
        first_s = self.ready_s[0]
        return 1 + sum(ready_s > first_s for ready_s in self.ready_s)

    def put(self, done_s: float) -> None:
        """Plan a job on the slot that is free first."""
        self.ready_s[0] = done_s
        self.ready_s.sort()


def _may_take(device: DeviceNow) -> bool:
    return device.open and (device.ahead_room > 0 or len(device.running) < device.slots)


def _expected_s(job: Running, active: int, cost: Cost) -> float | None:
    """The whole time of a running job; None where nobody can say.

    The estimate that it began with was for those at work then; with more of them it takes longer.
    """
    now_s = cost(job.device, max(1, active), job.duration_s)
    if now_s is None or job.expected_s is None:
        return now_s if job.expected_s is None else job.expected_s
    return max(now_s, job.expected_s)


def _left_s(job: Running, expected_s: float | None, now_s: float) -> float:
    """Seconds until a running job should end; without an estimate, as many as it has run."""
    elapsed_s = max(0.0, now_s - job.begun_s)
    if expected_s is None:
        return elapsed_s
    left_s = expected_s - elapsed_s
    return left_s if left_s > 0 else _OVERDUE * elapsed_s


def next_start(
    now_s: float, waiting: Iterable[Waiting], devices: Sequence[DeviceNow], cost: Cost
) -> Start | None:
    """Choose the job that begins next; None when none is to begin now.

    Ask again, with the start in the snapshot, until the answer is None; and again whenever a job
    ends, comes, or a device opens.

    Args:
        now_s: on the clock of `Running.begun_s`.
        waiting: in the order of the plan, taken one at a time and no further than needed.
        cost: see `Cost`; where it knows nothing, jobs go in their order to free slots, those
            with the fewest at work first, and are read ahead only where there is one device.
    """
    if not any(_may_take(device) for device in devices):
        return None
    usable = [
        device
        for device in devices
        if device.slots > 0 and (device.open or device.opens_at_s is not None)
    ]
    bays = [_Bay(device, now_s, cost, alone=len(usable) == 1) for device in usable]
    planned = 0
    for job in waiting:
        allowed = [bay for bay in bays if bay.device.id not in job.excluded]
        if not allowed:
            continue
        chosen = _earliest(allowed, job, cost)
        if chosen is None:
            start = _first_come(allowed, job)
            if start is not None:
                return start
        else:
            bay, done_s = chosen
            if bay.free:
                return Start(job.id, bay.device.id)
            if bay.room and len(bays) == 1:
                return Start(job.id, bay.device.id, ahead=True)
            # A device's last job is not read ahead: until a slot is free there, another may be.
            if bay.next is not None:
                return bay.next
            if bay.room:
                bay.next = Start(job.id, bay.device.id, ahead=True)
            bay.put(done_s)
        planned += 1
        if planned >= _HORIZON:
            return None
    return None


def _earliest(bays: Sequence[_Bay], job: Waiting, cost: Cost) -> tuple[_Bay, float] | None:
    """Where the job would be done first, and when; None where nobody can say.

    Ties go to the device that takes less time itself, then to the first.
    """
    best: tuple[_Bay, float, float] | None = None
    for bay in bays:
        cost_s = cost(bay.device.id, bay.at_work(), job.duration_s)
        if cost_s is None:
            return None
        done_s = bay.ready_s[0] + cost_s
        if best is not None:
            margin_s = _SAME * max(abs(done_s), abs(best[1]))
            if done_s > best[1] + margin_s:
                continue
            if done_s >= best[1] - margin_s:
                alone_s = cost(bay.device.id, 1, job.duration_s)
                if alone_s is None or alone_s >= best[2] * (1 - _SAME):
                    continue
        best = (bay, done_s, cost(bay.device.id, 1, job.duration_s) or 0.0)
    return None if best is None else best[:2]


def _first_come(bays: Sequence[_Bay], job: Waiting) -> Start | None:
    free = [bay for bay in bays if bay.free]
    if free:
        chosen = min(free, key=lambda bay: len(bay.device.running))
        return Start(job.id, chosen.device.id)
    if len(bays) == 1 and bays[0].room:
        return Start(job.id, bays[0].device.id, ahead=True)
    # To read ahead would be to choose a device: not before it is known which is faster.
    return None


def backup_copy(
    now_s: float,
    running: Iterable[Running],
    devices: Sequence[DeviceNow],
    cost: Cost,
    copied: Collection[str],
) -> Start | None:
    """Choose a running job to be begun once more elsewhere; only where nothing waits.

    A copy is worth it on a device with a free slot that is faster and would be done in less than
    0.8 of what the original is expected to need still; or, wherever, once the original has passed
    three times its estimate. Of several the one with the most to gain. The first one done counts.

    Args:
        copied: ids that have had their copy.
    """
    best: tuple[float, Start] | None = None
    at_work = {device.id: sum(not job.ahead for job in device.running) for device in devices}
    free = [device.id for device in devices if device.open and len(device.running) < device.slots]
    for job in running if free else ():
        if job.id in copied or job.ahead:
            continue
        expected_s = _expected_s(job, at_work.get(job.device, 1), cost)
        if expected_s is None:
            continue
        lost = now_s - job.begun_s > _COPY_OVERDUE * expected_s
        left_s = _left_s(job, expected_s, now_s)
        for device in free:
            if device == job.device or device in job.excluded:
                continue
            cost_s = cost(device, at_work[device] + 1, job.duration_s) or 0.0
            if not lost and not (cost_s < _COPY_GAIN * left_s and _is_faster(device, job, cost)):
                continue
            # Of a lost job it is as likely as not that it takes as long again as it has.
            gain_s = (now_s - job.begun_s if lost else left_s) - cost_s
            if best is None or gain_s > best[0]:
                best = (gain_s, Start(job.id, device))
    return best[1] if best else None


def _is_faster(device: str, job: Running, cost: Cost) -> bool:
    """Whether a device is faster at this job than its own, each with nothing else at work."""
    there_s, here_s = cost(device, 1, job.duration_s), cost(job.device, 1, job.duration_s)
    return there_s is not None and here_s is not None and there_s < here_s
