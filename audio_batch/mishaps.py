"""What goes wrong with workers, and what becomes of what they had: hangs, deaths, lost devices.

watch            what takes too long, or does not move, is given up
died             what ran is done again, alone; what kills its process each time is set aside
device_failed    a lost CUDA context comes back with a new process, else the device goes out
eased            a device that ran out of memory gets less to do at once
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Self, TypeVar

from audio_batch import events
from audio_batch.backlog import Backlog
from audio_batch.crew import Crew
from audio_batch.errors import ErrorKind, SetupError
from audio_batch.flights import Flight, Flights, unseen
from audio_batch.guards import Guards
from audio_batch.options import RunOptions
from audio_batch.outcome import Outcome, State
from audio_batch.pipeline import Job
from audio_batch.pools import Death, Pool
from audio_batch.watchdog import Expectation

MAX_DEVICES_PER_ASSET = 2
"""After so many devices have failed on one asset it is the asset that is suspected."""

_CLEARED = 2
"""So many assets that were done after a SIGKILL show that somebody outside kills the processes.
Before that even a SIGKILL which the kernel did not send for lack of memory convicts: a guard of
memory that is no part of the kernel (earlyoom) sends it too."""

_KILLS_PER_DEATH = 5
"""So many SIGKILLs from outside weigh as much as one death."""

_MAX_TIMEOUTS = 2
"""An asset that took too long is given one more chance, with a process of its own."""


@dataclass(slots=True)
class Mishaps:
    """See the module's docstring. The runner's thread only.

    `end` commits an outcome that stands or is tried again later, `interrupted` one that is put back
    into the backlog, whether or not the attempt counts; `lose` forgets one that nobody needs.
    `tries` are the runner's counts of attempts. `forgive` takes deaths back that were the device's
    doing.

    Where the journal fails, every flight concerned has left `flights` before its error goes on:
    nobody would tell of it any more.
    """

    options: RunOptions
    guards: Guards
    flights: Flights
    backlog: Backlog
    crew: Crew
    pool: Pool
    expectation: Expectation
    tries: Counter[str]
    emit: Callable[[events.Event], None]
    end: Callable[[Flight, Outcome], None]
    interrupted: Callable[[Flight, Outcome, bool], None]
    lose: Callable[[Flight], None]
    forgive: Callable[[Iterable[str]], None]
    given_up: set[int]
    deaths: Counter[str] = field(default_factory=Counter)
    _killed: set[str] = field(default_factory=set)
    _cleared: int = 0
    failed_on: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    _timeouts: Counter[str] = field(default_factory=Counter)
    _device_failures: Counter[str] = field(default_factory=Counter)

    def watch(self, now_s: float) -> None:
        """Give up what takes too long or does not move.

        Args:
            now_s: a time of `watchdog.Ticker.awake_s`.
        """
        watch = self.guards.watch
        # One that waits may wait for one that hangs.
        for flight in sorted(self.flights.values(), key=lambda flight: flight.waiting):
            budget_s = watch.budget_s(
                flight.duration_s,
                self.expectation.expected_s(flight.job.device, flight.duration_s),
                on_cuda=flight.device.kind == "cuda",
            )
            if flight.waiting:
                budget_s = None
            verdict = watch.verdict(flight.begun_s, flight.told_s, now_s, budget_s)
            at_work = (f for f in self.flights.on(flight.device.id) if not f.abandoned)
            if flight.waiting and not all(f.waiting for f in at_work):
                continue  # for others
            if verdict is None or not self.flights.holds(flight.job):
                continue
            if flight.abandoned:
                self._end_abandoned(flight)
                continue
            at = f" (at {flight.stage})" if flight.stage else ""
            text = f"It was given up after {now_s - flight.begun_s:.0f} s{at}"
            if verdict == "stalled":
                text += f": it has told nothing for {now_s - flight.told_s:.0f} s"
            self._give_up(
                flight, f"{text} ({'--timeout' if verdict == 'timeout' else '--stall-timeout'})."
            )

    def _give_up(self, flight: Flight, text: str) -> None:
        asset_id, device = flight.job.asset.id, flight.job.device
        others = self.pool.give_up(flight.job)
        if others is None:
            return  # it has ended in this very moment
        self.given_up.add(flight.job.serial)
        self._timeouts[asset_id] += 1
        self.failed_on[asset_id].add(device)
        again = self._timeouts[asset_id] < min(_MAX_TIMEOUTS, self.options.max_attempts)
        # What hangs may hang its device: it goes on alone, and last.
        flight.planned = replace(unseen(flight.planned), suspect=True)
        failed = flight.outcome(
            State.FAILED, error_kind=ErrorKind.TIMEOUT, error_text=text, transient=again
        )
        with _Collected() as errors:
            errors.go_on(self.end, flight, failed)
            for job in others:
                errors.go_on(self._put_back, job)
        if self.pool.isolated:
            self.crew.strike(device, "an asset that hung", [asset_id], wanted=self._more)

    def _end_abandoned(self, flight: Flight) -> None:
        """Nobody needs it, but it holds its slot, and hangs."""
        others = self.pool.give_up(flight.job)
        if others is None:
            return
        with _Collected() as errors:
            errors.go_on(self.lose, flight)
            for job in others:
                errors.go_on(self._put_back, job)
        if self.pool.isolated:
            device = flight.job.device
            self.crew.strike(device, "an asset that hung", [], counts=False, wanted=self._more)

    def _end_all_on(self, device: str) -> None:
        """End the device's process; what has told its end already has ended."""
        for flight in self.flights.on(device):
            others = self.pool.give_up(flight.job)
            if others is not None:
                for job in (flight.job, *others):
                    self._put_back(job)
                return

    def _put_back(self, job: Job) -> None:
        """Put back what ended through no fault of its own: this attempt does not count."""
        if self.flights.holds(job) and not self._spare(self.flights.of(job)):
            flight = self.flights.of(job)
            self.tries[job.key] -= 1
            self.backlog.put_back(unseen(flight.planned))
            self.interrupted(flight, flight.outcome(State.INTERRUPTED), False)

    def _spare(self, flight: Flight) -> bool:
        """Whether nothing is lost with it: it was abandoned, or another device is at the same."""
        if not (flight.abandoned or self.flights.others(flight)):
            return False
        self.lose(flight)
        return True

    def died(self, death: Death) -> None:
        """The process of a device has ended by itself."""
        ran = [self.flights.of(job) for job in death.running if self.flights.holds(job)]
        with _Collected() as errors:
            for job in death.waiting:
                errors.go_on(self._put_back, job)
            if not ran and self.crew.is_held(death.device):
                return  # told again, for a job that was on its way
            told = f": {death.evidence}" if death.evidence else ""
            text = f"The process of {death.device} died by {death.how}{told}."
            self.emit(events.Notice(text, warning=True))
            alone = len(ran) == 1
            convicted = [errors.go_on(self._end_of_dead, flight, death, alone) for flight in ran]
        assets = [flight.job.asset.id for flight in ran]
        guiltless = not any(convicted)
        if self.crew.strike(death.device, death.how, assets, counts=guiltless, wanted=self._more):
            # Whatever was tried there died: the library, not the recordings.
            self.forgive(self.deaths)
            self.deaths.clear()

    def _end_of_dead(self, flight: Flight, death: Death, alone: bool) -> bool:
        """Do it again with nothing beside it, or set it aside; whether it is set aside."""
        if self._spare(flight):
            return False
        if flight.job.part is not None:
            self.end(flight, flight.outcome(State.FAILED, error_kind=ErrorKind.WORKER_DIED))
            return False
        asset_id = flight.job.asset.id
        self.deaths[asset_id] += 1
        limit = self.options.max_attempts
        if death.from_outside:
            self._killed.add(asset_id)
            limit *= _KILLS_PER_DEATH if self._cleared >= _CLEARED else 1
        self.failed_on[asset_id].add(death.device)
        at = f" during {flight.stage}" if flight.stage else ""
        text = f"It ended its worker process by {death.how}{at} on {death.device}"
        if death.evidence:
            text += f": {death.evidence}"
        if death.log is not None:
            text += f" (more in .audio-batch/{death.log.parent.name}/{death.log.name})"
        count = self.deaths[asset_id]
        if alone and count >= limit:
            self.crew.convict(asset_id)
            times = "" if count == 1 else f" This happened {count} times."
            outcome = flight.outcome(
                State.QUARANTINED,
                error_kind=ErrorKind.WORKER_DIED,
                error_text=f"{text}.{times} It is set aside; --retry-failed tries it again.",
                died=True,
            )
            self.end(flight, outcome)
            return True
        outcome = flight.outcome(
            State.INTERRUPTED,
            error_kind=ErrorKind.WORKER_DIED,
            error_text=f"{text}.",
            died=not death.from_outside,
        )
        self.backlog.add(replace(unseen(flight.planned), suspect=True))
        self.tries[asset_id] -= death.from_outside
        self.interrupted(flight, outcome, not death.from_outside)
        return False

    def forget(self, asset_id: str, *, done: bool) -> None:
        """An asset's outcome stands. Was it done, it was not the asset that killed its process.

        The deaths of one that failed are kept: they may turn out to have been a device's.
        """
        if done:
            self._cleared += asset_id in self._killed
            self.deaths.pop(asset_id, None)
        self._killed.discard(asset_id)
        self.failed_on.pop(asset_id, None)
        self._timeouts.pop(asset_id, None)
        self._device_failures.pop(asset_id, None)

    def renew(self, device: str) -> None:
        """What ran out of memory may hold what it had: all of it comes back with its process."""
        if not self.pool.isolated or not self._more or self.crew.is_held(device):
            return
        self._end_all_on(device)
        self.crew.begin_anew(device)

    @property
    def _more(self) -> bool:
        return bool(len(self.backlog) or len(self.flights))

    def is_the_devices_fault(self, job: Job) -> bool:
        """Whether a failure of a device on this asset is taken for the device's own."""
        failed = self.failed_on[job.asset.id]
        failed.add(job.device)
        self._device_failures[job.asset.id] += 1
        often = self._device_failures[job.asset.id] >= self.options.max_attempts
        return len(failed) < MAX_DEVICES_PER_ASSET and not often

    def device_failed(self, flight: Flight, reason: str, *, guilty: bool) -> None:
        """A device has failed on an asset, whose flight has ended.

        A CUDA context that is lost comes back with a new process; in a thread it does not.
        `guilty`: it is taken for the device's fault, not the asset's.
        """
        device = flight.job.device
        if not self.pool.isolated:
            if guilty:
                self.crew.take_out(device, reason)
            return
        if self.crew.is_held(device):
            return  # a neighbour in the same process, which is being begun anew
        self.emit(events.Notice(f"{device} failed: {reason}", warning=True))
        self._end_all_on(device)
        asset_id = flight.job.asset.id
        if not guilty:
            self.crew.convict(asset_id)
        self.crew.strike(
            device, reason, [asset_id], counts=guilty, its_own_fault=True, wanted=self._more
        )

    def eased(self, flight: Flight, outcome: Outcome) -> bool:
        """Whether the device has been given less to do at once, so that another try makes sense."""
        ladder, device = self.guards.ladder, outcome.device
        if ladder is None:
            return False
        if ladder.steps(device) > flight.steps:
            return True  # the step was taken for one that ran beside it
        step = ladder.ease(device, outcome, idle=not self.flights.on(device))
        if step is None:
            return False
        sentence, load_anew = step
        self.emit(events.Notice(sentence, warning=True))
        if load_anew:
            self.crew.begin_anew(device)
        return True


_Answer = TypeVar("_Answer")


class _Collected:
    """Lets several things be done though the journal fails at one; then the first error goes on."""

    def __init__(self) -> None:
        self._first: SetupError | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._first is not None:
            raise self._first

    def go_on(self, do: Callable[..., _Answer], *arguments: object) -> _Answer | None:
        """Do it; None where it failed."""
        try:
            return do(*arguments)
        except SetupError as error:
            self._first = self._first or error
            return None
