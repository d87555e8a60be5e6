"""The run: select, dispatch, commit, retry.

    Runner.run
      ├─ Crew.load_all           every device's models, before any asset is touched
      ├─ Backlog                 a window of the feed, filled up as it empties
      └─ loop: all that has come in, in one transaction of the journal; events and jobs go out after
          ├─ Mailbox.take        each message of a worker, see News:
          │   ├─ started, progress     → event
          │   ├─ stage done            → journal.finish_stage
          │   ├─ finished → Endings    → journal.finish → release → event, or again later
          │   └─ died → Mishaps.died   → what ran is done again, alone, or set aside
          ├─ Mishaps.watch       what takes too long is given up
          └─ Departures          while there is room: Dispatch.next → journal.start → submit

Workers return records; only this thread commits, decides and emits. They never wait for a commit:
what they do next has been begun ahead. Failed attempts that may pass are done again after a growing
delay. Whatever ends the run early, work that is running is waited for and committed, unless it is
dropped. Nothing here knows what a job does.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator

from audio_batch import events
from audio_batch.control import Message
from audio_batch.errors import SetupError
from audio_batch.feeding import Feed
from audio_batch.outcome import Outcome, RunResult, State
from audio_batch.plan import Action, Planned
from audio_batch.wiring import Means, wire

_TICK_S = 0.5
"""How often the loop looks at delays and at a grace period; also bounds Ctrl-C on Windows."""

_ABANDONED_S = 2.0
"""What was abandoned ends at its next step: so long it is waited for."""

_NEXT_IN_LINE = 64
"""Of so many assets those that are not on this machine are told to whoever fetches ahead."""


class Runner:
    """Drives one run to its end. Main thread only."""

    def __init__(self, means: Means) -> None:
        parts = wire(means)
        self.stop = parts.stop
        self.result = parts.result
        self._options = means.options
        self._journal = means.journal
        self._guards = means.guards
        self._fetch_ahead = means.fetch_ahead
        self._holds = means.holds
        self._mail = parts.mail
        self._announcer = parts.announcer
        self._pause = parts.pause
        self._pool = parts.pool
        self._backlog = parts.backlog
        self._flights = parts.flights
        self._partings = parts.partings
        self._crew = parts.crew
        self._endings = parts.endings
        self._mishaps = parts.mishaps
        self._departures = parts.departures
        self._arrivals = parts.arrivals
        self._now_s = parts.now_s
        self._watch_due_s = 0.0
        self._announced_stop = False
        self._draining = False
        self._places_taken = 0

    def run(self, feed: Feed) -> RunResult:
        """Do everything that the feed has, in its order.

        Raises:
            SetupError: no device is left, the model cannot be loaded, the disk is full, or the
                journal fails. What was running is finished and committed first.
        """
        begun_s = time.monotonic()
        self._departures.total = len(feed)
        needed = feed.needed()
        if self._options.split_long_s is not None:
            self._partings.heard = self._journal.parts()
        self._backlog.feed_from(feed, self._taken)
        try:
            self._arrivals.begin()  # what goes while models load may be waited for
            if self._pool.isolated or needed:
                self._crew.load_all(needed)
            self._loop()
        except BaseException as error:
            self._drain(error)
            raise
        finally:
            self._arrivals.stop()
            self._announce_stop()
            self.result.wall_s = time.monotonic() - begun_s
            busy_s = self._departures.dispatcher.busy_s(self._now_s())
            self.result.not_begun = self._not_done()
            self.result.stores_away = self._holds.left()
            stopped = self.stop.requested.is_set()
            self.result.interrupted = stopped and not self.result.stopped_by_failure
            # A library that loads cannot be interrupted, a process can be killed.
            stuck = self._crew.loading and not self._pool.isolated
            self.result.dropped = self.result.dropped or stuck
            released = (
                self._pool.drop()
                if self._flights.held or self.result.dropped
                else self._pool.close()
            )
            self.result.dropped = self.result.dropped or not released
            self._arrivals.close()  # after the pool: whoever wants out waits for no cluster
            self._take_what_is_there()
            self._put_back()
            self.result.was_busy(busy_s)
        return self.result

    def _taken(self, item: Planned) -> Iterable[Planned]:
        """An asset comes from the feed: what is to be done of it."""
        asset_id = item.asset.id
        self._places_taken += 1
        self._departures.positions[asset_id] = self._places_taken
        if item.suspect and item.entry is not None:
            self._mishaps.deaths[asset_id] = item.entry.deaths
        return self._partings.cut(item)

    def _not_done(self) -> int:
        """Assets that were not begun or not ended."""
        at_work = (f.job.asset.id for f in self._flights.values() if not f.abandoned)
        return self._backlog.assets_left(at_work)

    # -- the loop ---------------------------------------------------------------------------------

    def _loop(self) -> None:
        while not self.stop.drop:
            with self._together():
                self._act_on(self._mail.take())
                self._watch()
                self._dispatch()
                if self.stop.requested.is_set():
                    self._endings.withdraw()
            ended = self.stop.requested.is_set() or self._nothing_to_wait_for()
            if not len(self._flights) and (ended or self._out_of_time()):
                break
            self._receive()
        until_s = time.monotonic() + _ABANDONED_S
        while self._flights.held and not self.stop.drop and time.monotonic() < until_s:
            self._receive()
            self._act_on(self._mail.take())

    @contextlib.contextmanager
    def _together(self) -> Iterator[None]:
        """Commit all that is done within as one; what follows from it, follows after that.

        Raises:
            SetupError: it cannot be committed. Nothing of it has been told to anybody.
        """
        with self._announcer.held():
            try:
                with self._journal.grouped():
                    yield
            except BaseException:
                self._departures.recall()
                raise
        self._endings.tidy()
        self._departures.depart()

    def _receive(self) -> None:
        """See what has come in; waits a while for the first."""
        patience_s = _TICK_S
        due_s = self._backlog.due_in_s()
        if due_s is not None and self._may_begin():
            patience_s = min(_TICK_S, due_s + 0.001)
        self._mail.receive(patience_s)

    def _act_on(self, messages: Iterable[Message]) -> None:
        for message in messages:
            message()
            self._announce_stop()

    def _watch(self) -> None:
        """Look after what takes too long, not after each of a thousand messages."""
        now_s = self._now_s()
        if now_s >= self._watch_due_s:
            self._watch_due_s = now_s + _TICK_S / 2
            self._mishaps.watch(now_s)
            self._crew.look_after_loading(self._guards.watch.stall_s)

    def _dispatch(self) -> None:
        self._crew.tell()
        self._backlog.fill()
        self._departures.begin_all(self._may_begin)
        if len(self._departures) and self._fetch_ahead is not None:
            remote = [
                item.asset
                for item in self._backlog.ahead(_NEXT_IN_LINE)
                if item.asset.path is None and item.action is Action.PROCESS and item.missing
            ]
            if remote:
                self._fetch_ahead(remote)

    def _may_begin(self) -> bool:
        return not (self.stop.requested.is_set() or self._pause.open or self._draining)

    def _nothing_to_wait_for(self) -> bool:
        """Whether nothing is left, or only what has waited for its store for too long."""
        if not len(self._backlog):
            return True
        if len(self._flights) or not self._backlog.only_held:
            return False
        now_s = self._now_s()
        self._holds.tell_of_waiting(now_s)
        return self._holds.over(now_s)

    def _announce_stop(self) -> None:
        if self.stop.requested.is_set() and not self._announced_stop:
            self._announced_stop = True
            self._arrivals.stop()
            self._announcer.emit(events.StopRequested(self.stop.reason, len(self._flights)))

    def _out_of_time(self) -> bool:
        if not self._backlog.nothing_fits(self._crew.in_service()):
            return False
        self.result.out_of_time = True
        text = f"The time is up: {self._not_done()} assets are left for the next run."
        self._announcer.emit(events.Notice(text, warning=True))
        return True

    # -- the end ----------------------------------------------------------------------------------

    def _drain(self, error: BaseException) -> None:
        """After an error: let what runs end, and commit what still can be committed."""
        self._draining = True
        self._arrivals.stop()
        if len(self._flights):
            text = f"{error} {len(self._flights)} running are finished first."
            self._announcer.emit(events.Notice(text, warning=True))
        while len(self._flights) and not self.stop.drop:
            # Each by itself: what cannot be committed must not take others with it.
            with contextlib.suppress(SetupError):  # the first error is the one that is told
                self._mishaps.watch(self._now_s())
                self._act_on(self._mail.take(at_most=1))
            if not len(self._mail):
                self._receive()
            self._announce_stop()

    def _take_what_is_there(self) -> None:
        """Nobody will wait for more: what has been done and told is committed all the same."""
        self._draining = True
        self._crew.close()
        self._mail.receive_all()
        while len(self._mail):
            with contextlib.suppress(SetupError):
                self._act_on(self._mail.take(at_most=1))

    def _put_back(self) -> None:
        """Journal what a dropped run still had in hand as interrupted, uncounted."""
        for flight in self._flights.values():
            lone = not self._flights.others(flight)
            if flight.abandoned or flight.job.part or (flight.job.copy and not lone):
                continue
            with contextlib.suppress(SetupError):  # it stays `running`: debris for the next run
                self._journal.finish(flight.outcome(State.INTERRUPTED), counts=False)
        for division in self._partings.open():
            asset_id, fingerprint = division.whole.asset.id, division.whole.fingerprint
            broken_off = Outcome(asset_id, State.INTERRUPTED, fingerprint, device="")
            with contextlib.suppress(SetupError):
                self._journal.finish(broken_off, counts=False)
