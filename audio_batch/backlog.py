"""What is still to be done, in which order, and what of it may begin now.

Of a million assets only a window is looked over; it is filled up from the run's feed.
"""

from __future__ import annotations

import heapq
import itertools
import math
import time
from bisect import insort
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from typing import Any

from audio_batch.feeding import Feed, ListFeed
from audio_batch.flights import Flights
from audio_batch.guards import Guards
from audio_batch.holds import Holds
from audio_batch.plan import Planned
from audio_batch.time_limits import fits
from audio_batch.watchdog import Expectation

Rank = Callable[[Planned], tuple[Any, ...]]
"""What comes first: the lower rank; of equal ones what was added first."""

Cut = Callable[[Planned], Iterable[Planned]]
"""What an asset that comes from the feed is done as: itself, or its parts."""

WINDOW = 20_000
"""So many are looked over at a time: 40 MB. What comes later in the feed is not begun before."""
_FIRST = -math.inf
"""The rank of what comes before everything else."""
_PORTION = 1000
"""So many are taken from the feed at once, once as many are missing: no outcome waits for long."""


class Backlog:
    """The queue of a run, and the retries whose delay is not over. One thread only.

    Args:
        rank: in which order things are begun; without it in the order in which they are added.
        holds: what keeps those whose store is away.
    """

    def __init__(
        self,
        guards: Guards,
        expectation: Expectation,
        rank: Rank = lambda _planned: (),
        holds: Holds | None = None,
    ) -> None:
        self._guards = guards
        self._expectation = expectation
        self._rank = rank
        self._holds = holds if holds is not None else Holds()
        # Sorted tuples of a rank, a ticket and the asset, flat since there may be a million. The
        # ticket, unlike any other, keeps assets from being compared.
        self._todo: list[tuple[Any, ...]] = []
        self._later: list[tuple[float, int, Planned]] = []
        self._last = itertools.count()
        self._first = itertools.count(-1, -1)
        self._feed: Feed = ListFeed(())
        self._cut: Cut = lambda planned: (planned,)
        self._too_late = False
        """Whether nothing that is held would be done in the time left."""
        self._whole_left_out = 0
        self._in_parts_left_out: set[str] = set()

    def __len__(self) -> int:
        return len(self._todo) + len(self._later) + len(self._feed) + len(self._holds)

    @property
    def only_held(self) -> bool:
        """Whether nothing is left but what waits for its store."""
        return not (self._todo or self._later or self._feed.ready)

    def assets_left(self, at_work: Iterable[str]) -> int:
        """How many assets there are with those at work; of one in parts many jobs may be left."""
        here = {planned.asset.id for planned in self._here()}
        in_part = here.union(at_work, self._in_parts_left_out)
        return len(in_part) + len(self._feed) + self._whole_left_out

    def _here(self) -> Iterator[Planned]:
        """All that has come from the feed."""
        yield from (entry[-1] for entry in itertools.chain(self._todo, self._later))
        yield from self._holds

    @property
    def left_out(self) -> int:
        """How many assets were passed over for good because the time left is too short."""
        return self._whole_left_out + len(self._in_parts_left_out)

    def feed_from(self, feed: Feed, cut: Cut) -> None:
        """Take what is to be done from a feed, as `fill` finds room for it."""
        self._feed, self._cut = feed, cut
        self.fill()

    def fill(self) -> None:
        """Take more from the feed where there is room, or where the time left suits nothing."""
        if self._holds.recalls:
            self._holds.recalled()
            self._feed.recall()
        if self._too_late and self._feed.ready:
            self._leave_out()
        self._too_late = False
        room = WINDOW - len(self._todo)
        if room >= min(_PORTION, self._feed.ready) > 0:
            portion = WINDOW if room == WINDOW else _PORTION
            self._put(*(one for item in self._feed.take(portion) for one in self._taken(item)))

    def _taken(self, item: Planned) -> Iterator[Planned]:
        """What of an asset from the feed may begin; what waits is held, or stays in the feed."""
        if self._holds.pass_over(item):
            self._feed.put_off(item)
        else:
            yield from (one for one in self._cut(item) if not self._holds.keep(one))

    def _leave_out(self) -> None:
        for entry in self._todo:
            if entry[-1].part is None:
                self._whole_left_out += 1
            else:  # another part may be at work, or have been left out before
                self._in_parts_left_out.add(entry[-1].asset.id)
        self._todo.clear()

    def ahead(self, count: int) -> Iterator[Planned]:
        """The next ones in line, at most `count`."""
        return (entry[-1] for entry in self._todo[:count])

    @property
    def waiting(self) -> int:
        """How many could begin, were there room: without those whose delay is not over."""
        return len(self._todo)

    def add(self, *planned: Planned) -> None:
        """Put assets behind those of their rank."""
        self._put(*(item for item in planned if not self._holds.keep(item)))

    def _put(self, *planned: Planned) -> None:
        self._too_late = False  # nobody has asked yet whether these would be done in time
        if len(planned) > 1:
            self._todo += [self._entry(item, next(self._last)) for item in planned]
            self._todo.sort()
        else:
            for item in planned:
                insort(self._todo, self._entry(item, next(self._last)))

    def put_back(self, planned: Planned) -> None:
        """Put an asset before those of its rank: it was nobody's fault that it was not done."""
        self._too_late = False
        if not self._holds.keep(planned):
            insort(self._todo, self._entry(planned, next(self._first)))

    def set_aside(self) -> None:
        """A store is held: what waits for it leaves the queue, but for what is to be tried."""
        self._todo = [
            entry for entry in self._todo if entry[0] == _FIRST or not self._holds.keep(entry[-1])
        ]

    def take_tries(self, now_s: float, in_service: Callable[[], Sequence[str]] = tuple) -> None:
        """Put those before all others whose store is to be tried again."""
        left_s = self._guards.time.left_s()
        devices = in_service() if left_s is not None else ()

        def fits(item: Planned) -> bool:
            return left_s is None or self._in_time(item, devices, left_s)

        for planned in self._holds.due(now_s, fits):
            self._too_late = False
            insort(self._todo, (_FIRST, next(self._first), planned))

    def _entry(self, planned: Planned, ticket: int) -> tuple[Any, ...]:
        return (*self._rank(planned), ticket, planned)

    def add_later(self, planned: Planned, delay_s: float) -> None:
        """Put an asset behind those of its rank, once a delay is over."""
        item = (time.monotonic() + delay_s, next(self._last), planned)
        heapq.heappush(self._later, item)

    def take_due(self) -> None:
        """Put the retries whose delay is over into the queue."""
        while self._later and self._later[0][0] <= time.monotonic():
            self.add(heapq.heappop(self._later)[2])

    def due_in_s(self) -> float | None:
        """Seconds until the next delay is over; None where there is none."""
        if self._feed.ready and (self._too_late or not self._todo):
            return 0.0
        return max(0.0, self._later[0][0] - time.monotonic()) if self._later else None

    def remove(self, planned: Planned) -> None:
        """Take an asset that `eligible` gave: it begins."""
        # Its rank may be another by now; what begins stands at the front or not far from it.
        del self._todo[next(n for n, entry in enumerate(self._todo) if entry[-1] is planned)]

    def eligible(
        self,
        flights: Flights,
        in_service: Sequence[str],
        failed_on: Mapping[str, Set[str]],
        *,
        isolated: bool,
    ) -> Iterator[tuple[Planned, frozenset[str]]]:
        """What may begin now, in order, and the devices that each must not have.

        A suspect (it ran when its process died, or hung) is alone where it can harm others, so that
        another crash convicts or clears it: on its device where devices are isolated, else in the
        whole run. It goes elsewhere than where it failed before, if there is an elsewhere.

        Args:
            flights: what is at work.
            in_service: the devices that are not out.
            failed_on: by asset, the devices that have failed on it.
        """
        watched: frozenset[str] = frozenset()
        if flights.suspects:
            watched = frozenset(f.job.device for f in flights.values() if f.job.suspect)
            if not isolated:
                return
        left_s = self._guards.time.left_s()
        if left_s is not None:
            self._give_tries_back(in_service, left_s)
        self._too_late = left_s is not None and left_s > 0
        for entry in self._todo:
            planned = entry[-1]
            if left_s is not None and not self._in_time(planned, in_service, left_s):
                continue
            self._too_late = False
            exclude = watched
            if planned.suspect:
                busy = frozenset(flight.job.device for flight in flights.values())
                if busy and not isolated:
                    continue
                failed = failed_on.get(planned.asset.id, frozenset())
                exclude |= busy | (failed if set(in_service) - failed else frozenset())
                if in_service and not set(in_service) - exclude:
                    continue  # without any device asking for one says why
            yield planned, exclude

    def _give_tries_back(self, in_service: Sequence[str], left_s: float) -> None:
        """What was to be tried and would not be done in time makes way for another."""
        tries = itertools.takewhile(lambda entry: entry[0] == _FIRST, self._todo)
        late = [entry for entry in tries if not self._in_time(entry[-1], in_service, left_s)]
        for entry in late:
            if self._holds.give_back(entry[-1]):
                self._todo.remove(entry)

    def nothing_fits(self, in_service: Sequence[str]) -> bool:
        """Whether all that is left would not be done before the limit that the user has set."""
        left_s = self._guards.time.left_s()
        if left_s is None or not len(self) or (left_s > 0 and len(self._feed)):
            return False
        return not any(self._in_time(planned, in_service, left_s) for planned in self._here())

    def _in_time(self, planned: Planned, in_service: Sequence[str], left_s: float) -> bool:
        duration_s = planned.asset.duration_s if planned.part is None else planned.part.length_s
        expected = [self._expectation.expected_s(device, duration_s) for device in in_service]
        known = [seconds for seconds in expected if seconds is not None]
        # A device that has done nothing yet may be the fast one.
        return fits(min(known) if known and len(known) == len(expected) else None, left_s)
