"""How the parts of a runner are put together from what it is given.

Those that need each other are made with what there is, and told of the rest at the end of `wire`.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from audio_batch import events
from audio_batch.announcer import Announcer
from audio_batch.arrivals import Arrival, Arrivals, Lookout
from audio_batch.backlog import Backlog
from audio_batch.control import Asker, Pause, StopControl
from audio_batch.crew import Crew, Loader
from audio_batch.departures import Departures
from audio_batch.dispatch import Dispatch, Pace, rank_of
from audio_batch.endings import Endings
from audio_batch.flights import Flights
from audio_batch.gpu.balancer import Balancer
from audio_batch.gpu.policies import EARLIEST_FINISH
from audio_batch.guards import Guards
from audio_batch.holds import Holds
from audio_batch.journal import Journal
from audio_batch.mailbox import Mailbox
from audio_batch.manifest import Asset
from audio_batch.mishaps import Mishaps
from audio_batch.news import News
from audio_batch.options import RunOptions
from audio_batch.outcome import RunResult
from audio_batch.partings import Partings
from audio_batch.pools import Death, Pool
from audio_batch.tell import Tell
from audio_batch.watchdog import Expectation, Ticker

MakePool = Callable[[Tell, Callable[[Death], None]], Pool]
"""Opens the pool of a run: what workers tell, and whom to tell of a process's death. It begins no
process yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What a runner is given for its run.

    Attributes:
        reserve: a device that takes part only when every other one is out.
        asker: whom to ask after a failure whether to go on; None goes on without asking.
        grace_s: after a scheduler's signal, how long running jobs may take to end.
        fetch_ahead: is told which assets of other machines are next in line, each time that some
            have begun.
        holds: what keeps assets whose store is away; by default none are.
        lookout: who looks for devices that join the run; None: nobody.
        take: enters one in whatever knows of the run's devices, among them `balancer`.
    """

    options: RunOptions
    journal: Journal
    run_id: int
    balancer: Balancer
    pool: MakePool
    loader: Callable[[Pool], Loader]
    emit: Callable[[events.Event], None]
    guards: Guards = field(default_factory=Guards)
    pace: Pace = field(default_factory=Pace)
    reserve: str | None = None
    asker: Asker | None = None
    grace_s: float = 25.0
    fetch_ahead: Callable[[Sequence[Asset]], None] | None = None
    holds: Holds = field(default_factory=Holds)
    lookout: Lookout | None = None
    take: Callable[[Arrival], None] = lambda _arrival: None

    @property
    def makes_copies(self) -> bool:
        """Whether what runs late at the end is done on another device too."""
        devices = len(self.balancer.loads())
        return (
            self.options.backup_copies
            and self.options.policy == EARLIEST_FINISH
            and devices > (2 if self.reserve is not None else 1)
        )

    @property
    def slots(self) -> int:
        """Assets that may be at work at once, over all devices but the reserve."""
        loads = self.balancer.loads()
        return sum(load.maximum for load in loads if load.device.id != self.reserve)


@dataclass(frozen=True, slots=True)
class Wiring:
    """The parts of a runner, each knowing of those that it needs."""

    result: RunResult
    mail: Mailbox
    announcer: Announcer
    stop: StopControl
    pause: Pause
    pool: Pool
    backlog: Backlog
    flights: Flights
    partings: Partings
    crew: Crew
    endings: Endings
    mishaps: Mishaps
    departures: Departures
    arrivals: Arrivals
    now_s: Callable[[], float]
    """Seconds on a clock that stands still while the machine sleeps."""


def wire(means: Means) -> Wiring:
    """Make the parts of a runner. No process is begun, and nothing is written."""
    options, journal, guards = means.options, means.journal, means.guards
    ticker = Ticker()
    mail = Mailbox()
    result = RunResult()
    flights = Flights()
    expectation = Expectation()
    tries: Counter[str] = Counter()
    positions: dict[str, int] = {}
    given_up: set[int] = set()
    announcer = Announcer(means.emit)

    def now_s() -> float:
        return ticker.awake_s(time.monotonic())

    holds = means.holds
    news = News(mail.inbox, journal, flights, given_up, holds, announcer.emit, now_s)
    pool = means.pool(news.tell(), news.died)
    pause = Pause(means.asker, mail.inbox)
    stop = StopControl(mail.inbox, means.grace_s)
    backlog = Backlog(guards, expectation, rank_of(options, means.pace.lengths), holds)
    holds.line, holds.emit, holds.post = backlog, announcer.emit, mail.inbox.put
    holds.now_s = now_s
    crew = Crew(
        means.balancer,
        means.loader(pool),
        max_restarts=options.max_restarts,
        reserve=means.reserve,
        ladder=guards.ladder,
        inbox=mail.inbox,
        emit=announcer.emit,
        result=result,
    )
    partings = Partings(options.split_long_s, means.slots, lengths=means.pace.lengths)
    endings = Endings(
        options=options,
        journal=journal,
        guards=guards,
        backlog=backlog,
        flights=flights,
        partings=partings,
        pool=pool,
        crew=crew,
        expectation=expectation,
        tries=tries,
        positions=positions,
        given_up=given_up,
        pause=pause,
        stop=stop,
        result=result,
        emit=announcer.emit,
        now_s=now_s,
        holds=holds,
    )
    mishaps = Mishaps(
        options=options,
        guards=guards,
        flights=flights,
        backlog=backlog,
        crew=crew,
        pool=pool,
        expectation=expectation,
        tries=tries,
        emit=announcer.emit,
        end=endings.end,
        interrupted=endings.interrupted,
        lose=endings.lose,
        forgive=journal.forgive,
        given_up=given_up,
    )
    dispatcher = Dispatch(
        options=options,
        guards=guards,
        backlog=backlog,
        balancer=means.balancer,
        crew=crew,
        flights=flights,
        failed_on=mishaps.failed_on,
        pace=means.pace,
        isolated=pool.isolated,
        workers=lambda: pool.workers,
    )

    def more_devices() -> None:
        partings.slots, departures.copies = means.slots, means.makes_copies

    arrivals = Arrivals(
        lookout=means.lookout,
        take=means.take,
        joined=more_devices,
        inbox=mail.inbox,
        crew=crew,
        backlog=backlog,
        emit=announcer.emit,
        stopping=stop.requested.is_set,
    )
    departures = Departures(
        journal=journal,
        run_id=means.run_id,
        guards=guards,
        backlog=backlog,
        flights=flights,
        partings=partings,
        dispatcher=dispatcher,
        pool=pool,
        news=news,
        status_line=means.balancer.status_line,
        copies=means.makes_copies,
        awaited=arrivals.awaited,
        in_service=crew.in_service,
        tries=tries,
        positions=positions,
        emit=announcer.emit,
        now_s=now_s,
    )
    crew.awaited = arrivals.awaited
    endings.mishaps, endings.dispatcher = mishaps, dispatcher
    news.endings, news.mishaps = endings, mishaps
    return Wiring(
        result=result,
        mail=mail,
        announcer=announcer,
        stop=stop,
        pause=pause,
        pool=pool,
        backlog=backlog,
        flights=flights,
        partings=partings,
        crew=crew,
        endings=endings,
        mishaps=mishaps,
        departures=departures,
        arrivals=arrivals,
        now_s=now_s,
    )
