"""What begins next, and on which device: the policies over the queue, the slots and what is known.

`earliest-finish` decides asset and device together (`schedule.earliest_finish`); the others take
the first asset that may begin, and then a device for it (`gpu.policies`). Where no slot is free, an
asset may be read ahead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field, replace

from audio_batch.ahead import Ahead
from audio_batch.backlog import Backlog, Rank
from audio_batch.crew import Crew
from audio_batch.flights import Flight, Flights
from audio_batch.gpu.balancer import Balancer, DeviceLoad, Lease
from audio_batch.gpu.devices import Device
from audio_batch.gpu.headroom import has_room
from audio_batch.gpu.policies import EARLIEST_FINISH
from audio_batch.guards import Guards
from audio_batch.lengths import Lengths
from audio_batch.occupancy import Occupancy
from audio_batch.options import RunOptions
from audio_batch.outcome import Outcome, Stage
from audio_batch.plan import Planned, danger
from audio_batch.schedule.earliest_finish import (
    DeviceNow,
    Running,
    Waiting,
    backup_copy,
    next_start,
)
from audio_batch.schedule.speeds import Speeds

_FOREIGN_PCT = 20.0
"""An idle device that is busier than this works for somebody else too."""
_SUSPECT = 1000
"""More danger than any that earlier runs have left: what was under suspicion in this one."""
_NEW_SHARE = 0.2
"""What the last one counts in a mean that forgets."""
_LOADING_S = 5.0
"""A device that is loading its models is taken to open so soon."""


@dataclass(frozen=True, slots=True)
class Beginning:
    """An asset is to begin. Without a `lease` it is read ahead; `queued`: it needs a slot later."""

    planned: Planned
    device: Device
    lease: Lease | None
    expected_s: float | None
    queued: bool = False


@dataclass(slots=True)
class Pace:
    """How the devices of a run work: what is read ahead, how fast they are, how long things are."""

    ahead: Ahead = field(default_factory=Ahead)
    speeds: Speeds = field(default_factory=Speeds)
    lengths: Lengths = field(default_factory=Lengths)
    slowed: dict[str, float] = field(default_factory=dict)
    """By device: how many times longer it takes because others use it."""
    worked_s: dict[str, float] = field(default_factory=dict)
    """By device: what those whose length nobody knows have taken there lately, in a worker. What
    they wait for commits is left out: the slower those are, the more is to be at hand."""
    stages: dict[str, dict[str, tuple[float, float]]] = field(default_factory=dict)
    """By device and stage: seconds of work, and seconds of audio that they were for."""

    def cost_s(self, device: str, active: int, duration_s: float | None) -> float | None:
        """What an asset takes on a device with so many at work there, it included."""
        cost_s = self.speeds.cost_s(device, active, duration_s)
        return None if cost_s is None else cost_s * self.slowed.get(device, 1.0)

    def took(self, device: str, work_s: float) -> None:
        """An asset of a length that nobody knows was done."""
        before_s = self.worked_s.get(device, work_s)
        self.worked_s[device] = before_s + _NEW_SHARE * (work_s - before_s)

    def timed(self, outcome: Outcome) -> None:
        """Take down how long the stages of an asset took that was done as a whole."""
        seen = self.stages.setdefault(outcome.device, {})
        for stage in Stage:
            if stage.value in outcome.timings_s:
                work_s, audio_s = seen.get(stage.value, (0.0, 0.0))
                seen[stage.value] = (
                    work_s + outcome.timings_s[stage.value],
                    audio_s + (outcome.duration_s or 0.0),
                )


def rank_of(options: RunOptions, lengths: Lengths) -> Rank:
    """In which order assets begin: the user's, else longest first; what is dangerous comes last."""
    if options.policy != EARLIEST_FINISH or options.in_order:
        return lambda _planned: ()
    return lambda planned: (
        danger(planned) + _SUSPECT * planned.suspect,
        -planned.asset.priority,
        -lengths.of_asset(planned),  # the parts of a long one are begun as early as it would be
    )


class Dispatch:
    """See the module's docstring. The runner's thread only."""

    def __init__(
        self,
        *,
        options: RunOptions,
        guards: Guards,
        backlog: Backlog,
        balancer: Balancer,
        crew: Crew,
        flights: Flights,
        failed_on: Mapping[str, Set[str]],
        pace: Pace,
        isolated: bool,
        workers: Callable[[], int],
    ) -> None:
        self._planned_finish = options.policy == EARLIEST_FINISH
        self._guards = guards
        self._backlog = backlog
        self._balancer = balancer
        self._crew = crew
        self._flights = flights
        self._failed_on = failed_on
        self._pace = pace
        self._isolated = isolated
        self._workers = workers
        self._copied: set[str] = set()
        self._several = False
        self._occupancy = Occupancy()

    def next(self, now_s: float) -> Beginning | None:
        """What may begin now; None: nothing.

        Raises:
            SetupError: there is something to do, nothing at work, and no device left.
        """
        if not self._backlog.waiting or self._flights.held >= self._workers():
            return None
        eligible = (
            chosen
            for chosen in self._backlog.eligible(
                self._flights,
                self._crew.in_service(),
                self._failed_on,
                isolated=self._isolated,
            )
            # An attempt that was abandoned may still be at it.
            if not self._flights.has(chosen[0])
        )
        if self._planned_finish:
            return self._by_finish(eligible, now_s)
        return self._in_turn(eligible)

    # -- one after the other ----------------------------------------------------------------------

    def _in_turn(self, eligible: Iterator[tuple[Planned, frozenset[str]]]) -> Beginning | None:
        chosen = next(eligible, None)
        if chosen is None:
            return None
        planned, exclude = chosen
        if not self._admitted(planned):
            return None
        lease = self._balancer.try_lease(exclude=exclude)
        if lease is not None:
            return Beginning(planned, lease.device, lease, None)
        rooms = [
            (-room, load.device.id, load.device)
            for load in self._open_loads()
            if load.device.id not in exclude and (room := self._room(load)) > 0
        ]
        if planned.suspect or not rooms:
            return None
        return Beginning(planned, min(rooms)[2], None, None, queued=not self._pace.ahead.shared)

    # -- by expected finish -----------------------------------------------------------------------

    def _by_finish(
        self, eligible: Iterator[tuple[Planned, frozenset[str]]], now_s: float
    ) -> Beginning | None:
        self._balancer.look()
        in_service = self._crew.in_service()
        self._several = len(in_service) > 1
        loads = {
            load.device.id: load
            for load in self._balancer.loads()
            if load.device.id in in_service  # the reserve is held, and will not open soon
        }
        if len(loads) == 1:
            return self._on_the_only_one(eligible, *loads.values())
        devices = [
            replace(seen, open=seen.open and has_room(loads[seen.id], len(seen.running)))
            for seen in (self._seen(load, now_s) for load in loads.values())
        ]
        if not any(device.slots > len(device.running) or device.ahead_room for device in devices):
            return None
        walked: dict[str, Planned] = {}

        def waiting() -> Iterator[Waiting]:
            for number, (planned, exclude) in enumerate(eligible):
                walked[str(number)] = planned
                yield Waiting(str(number), self._pace.lengths.of(planned), exclude)

        start = next_start(now_s, waiting(), devices, self._pace.cost_s)
        if start is None:
            return None
        planned = walked[start.id]
        if not self._admitted(planned):
            return None
        lease = self._balancer.lease_on(start.device)
        if lease is None and (planned.suspect or not self._room(loads[start.device])):
            return None
        return Beginning(
            planned,
            loads[start.device].device,
            lease,
            self._pace.cost_s(
                start.device,
                len(self._flights.on(start.device)) + 1,
                self._pace.lengths.of(planned),
            ),
            queued=lease is None and not self._pace.ahead.shared,
        )

    def _on_the_only_one(
        self, eligible: Iterator[tuple[Planned, frozenset[str]]], load: DeviceLoad
    ) -> Beginning | None:
        """What the plan says of one device, without the plan: the next in line, where it has room.

        Of many tiny assets each asks.
        """
        device = load.device.id
        at_work = self._flights.count_on(device)
        self._notice_others(load, idle=not at_work)
        if load.held or not has_room(load, at_work):
            return None
        room = self._room(load)
        if room <= 0 and at_work >= load.maximum:
            return None
        planned = next((planned for planned, exclude in eligible if device not in exclude), None)
        if planned is None or not self._admitted(planned):
            return None
        lease = self._balancer.lease_on(device)
        if lease is None and (planned.suspect or room <= 0):
            return None
        return Beginning(
            planned,
            load.device,
            lease,
            self._pace.cost_s(device, at_work + 1, self._pace.lengths.of(planned)),
            queued=lease is None and not self._pace.ahead.shared,
        )

    def _seen(self, load: DeviceLoad, now_s: float) -> DeviceNow:
        """A device as the plan sees it: what runs there, and what it could take."""
        device = load.device.id
        flights = self._flights.on(device)
        self._notice_others(load, idle=not flights)
        running = tuple(self._running(flight, now_s) for flight in flights)
        room = self._room(load)
        if self._several and self._pace.speeds.learnt(device) is None:
            room = 0  # what is read ahead stays there, and it may be the slow one
        if self._pace.ahead.shared:
            slots, ahead_room = max(load.maximum, len(flights) + room), 0
        else:
            slots, ahead_room = load.maximum, room
        return DeviceNow(
            id=device,
            slots=slots,
            running=running,
            ahead_room=ahead_room,
            open=not load.held,
            opens_at_s=now_s + _LOADING_S if load.held else None,
        )

    def _running(self, flight: Flight, now_s: float) -> Running:
        duration_s = flight.duration_s or self._pace.lengths.of(flight.planned)
        return Running(
            id=flight.job.key,
            device=flight.device.id,
            begun_s=min(flight.since_s, now_s),
            duration_s=duration_s,
            expected_s=flight.expected_s,
            ahead=flight.queued,
        )

    def _notice_others(self, load: DeviceLoad, *, idle: bool) -> None:
        """Remember how busy a device is with other people's work, seen while it does none of ours.

        The CPU is always busy with ours: fetching and decoding for every device.
        """
        if idle and load.device.kind == "cuda":
            busy = load.utilization_pct or 0.0
            share = min(busy, 90.0) / 100 if busy > _FOREIGN_PCT else 0.0
            self._pace.slowed[load.device.id] = 1.0 / (1.0 - share)

    # -- once more --------------------------------------------------------------------------------

    def copy(self, now_s: float) -> tuple[Flight, Lease] | None:
        """What runs late and is to be done once more on a free, faster device; and its slot there.

        To be asked when nothing waits. Each asset has one copy at most.
        """
        wanted = {f.job.key: f for f in self._flights.values() if f.job.claim and not f.job.copy}
        if not wanted:
            return None
        loads = self._open_loads()
        devices = [self._seen(load, now_s) for load in loads]
        running = [job for device in devices for job in device.running if job.id in wanted]
        start = backup_copy(now_s, running, devices, self._pace.cost_s, self._copied)
        lease = None if start is None else self._balancer.lease_on(start.device)
        if start is None or lease is None:
            return None
        flight = wanted[start.id]
        if not self._admitted(flight.planned):
            lease.release()
            return None
        self._copied.add(start.id)
        return flight, lease

    # -- room -------------------------------------------------------------------------------------

    def _open_loads(self) -> list[DeviceLoad]:
        return [
            load for load in self._balancer.loads() if load.out_reason is None and not load.held
        ]

    def _room(self, load: DeviceLoad) -> int:
        """How many assets more may be read ahead on a device."""
        speeds, device = self._pace.speeds, load.device.id
        if self._flights.suspects and any(f.job.suspect for f in self._flights.on(device)):
            return 0
        lengths: Iterable[float | None]
        if self._pace.ahead.shared:
            flights = self._flights.on(device)
            lengths = (flight.duration_s or flight.planned.asset.duration_s for flight in flights)
        else:  # only their number counts
            lengths = (None,) * self._flights.count_on(device)
        each_s = self._pace.worked_s.get(device)
        if each_s is None and speeds.learnt(device) is not None:
            each_s = self._pace.cost_s(device, load.maximum, speeds.typical_s())
        return self._pace.ahead.room(device, load.maximum, lengths, each_s)

    def _admitted(self, planned: Planned) -> bool:
        """Whether the host's memory allows it; a long recording waits its turn, not for ever."""
        return self._guards.floor.admits(self._guards.need_bytes(planned))

    def promote(self, device: str, now_s: float) -> None:
        """Give free slots to what was read ahead, in its order."""
        for flight in self._flights.on(device):
            if flight.lease is None:
                lease = self._balancer.lease_on(device)
                if lease is None:
                    return
                if flight.queued:
                    flight.area = self.touch(device, now_s)
                flight.lease, flight.queued = lease, False

    # -- learning ---------------------------------------------------------------------------------

    def touch(self, device: str, now_s: float) -> float:
        """Assets at work times seconds on a device so far; to be called before that changes."""
        flights = self._flights.on(device)
        active = len(flights)
        if not self._pace.ahead.shared:
            active = sum(flight.lease is not None for flight in flights)
        return self._occupancy.touch(device, now_s, active=active, busy=bool(flights))

    def busy_s(self, now_s: float) -> dict[str, float]:
        """By device: seconds so far in which at least one asset was at work there."""
        for device in self._occupancy.devices():
            self.touch(device, now_s)
        return {device: self._occupancy.busy_s(device) for device in self._occupancy.devices()}

    def learn(self, flight: Flight, outcome: Outcome, now_s: float) -> None:
        """An asset was done from decoding to publication."""
        if outcome.duration_s is None:
            self._pace.took(flight.device.id, sum(outcome.timings_s.values()))
            return
        wall_s = now_s - flight.since_s
        self._pace.lengths.told(flight.planned, outcome.duration_s)
        job = flight.job  # as it began: what is kept of it since then is its own work
        in_parts = job.parts or (job.part and len(job.stages) > 1)
        if job.kept or in_parts or wall_s <= 0:
            return
        area = self.touch(flight.device.id, now_s) - flight.area
        active = max(1, round(area / wall_s))
        self._pace.speeds.observe(flight.device.id, active, outcome.duration_s, wall_s)
        self._pace.timed(outcome)
