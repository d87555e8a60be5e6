"""What is still to be done, and what of it may begin now."""

from __future__ import annotations

import heapq
import itertools
import time
from collections import deque
from collections.abc import Collection, Mapping, Sequence, Set

from audio_batch.flights import Flight
from audio_batch.guards import Guards
from audio_batch.plan import Planned
from audio_batch.time_limits import fits
from audio_batch.watchdog import Expectation


class Backlog:
    """The queue of a run, and the retries whose delay is not over. One thread only."""

    def __init__(self, guards: Guards, expectation: Expectation) -> None:
        self._guards = guards
        self._expectation = expectation
        self._todo: deque[Planned] = deque()
        self._later: list[tuple[float, int, Planned]] = []
        self._ticket = itertools.count()

    def __len__(self) -> int:
        return len(self._todo) + len(self._later)

    def add(self, *planned: Planned) -> None:
        """Put assets at the end."""
        self._todo.extend(planned)

    def put_back(self, planned: Planned) -> None:
        """Put an asset at the head: it was nobody's fault that it was not done."""
        self._todo.appendleft(planned)

    def add_later(self, planned: Planned, delay_s: float) -> None:
        """Put an asset at the end, once a delay is over."""
        item = (time.monotonic() + delay_s, next(self._ticket), planned)
        heapq.heappush(self._later, item)

    def take_due(self) -> None:
        """Put the retries whose delay is over into the queue."""
        while self._later and self._later[0][0] <= time.monotonic():
            self._todo.append(heapq.heappop(self._later)[2])

    def due_in_s(self) -> float | None:
        """Seconds until the next delay is over; None where there is none."""
        return max(0.0, self._later[0][0] - time.monotonic()) if self._later else None

    def remove(self, planned: Planned) -> None:
        """Take an asset that `choose` gave: it begins."""
        self._todo.remove(planned)

    def choose(
        self,
        flights: Collection[Flight],
        in_service: Sequence[str],
        failed_on: Mapping[str, Set[str]],
        *,
        isolated: bool,
    ) -> tuple[Planned, frozenset[str]] | None:
        """The next asset, and the devices that it must not have; None: nothing may begin now.

        A suspect (it ran when its process died, or hung) is alone where it can harm others, so that
        another crash convicts or clears it: on its device where devices are isolated, else in the
        whole run. It goes elsewhere than where it failed before, if there is an elsewhere.

        Args:
            flights: what is at work.
            in_service: the devices that are not out.
            failed_on: by asset, the devices that have failed on it.
        """
        watched = frozenset(f.job.device for f in flights if f.planned.suspect)
        if watched and not isolated:
            return None
        busy = frozenset(flight.job.device for flight in flights)
        left_s = self._guards.time.left_s()
        for planned in self._todo:
            if left_s is not None and not self._in_time(planned, in_service, left_s):
                continue
            exclude = watched
            if planned.suspect:
                if busy and not isolated:
                    continue
                failed = failed_on.get(planned.asset.id, frozenset())
                exclude |= busy | (failed if set(in_service) - failed else frozenset())
                if in_service and not set(in_service) - exclude:
                    continue  # without any device asking for one says why
            if not self._guards.floor.admits(self._guards.need_bytes(planned)):
                return None  # in its turn: a long recording must not wait for ever
            return planned, exclude
        return None

    def nothing_fits(self, in_service: Sequence[str]) -> bool:
        """Whether all that is left would not be done before the limit that the user has set."""
        left_s = self._guards.time.left_s()
        if left_s is None or not len(self):
            return False
        waiting = itertools.chain(self._todo, (item for _, _, item in self._later))
        return not any(self._in_time(item, in_service, left_s) for item in waiting)

    def _in_time(self, planned: Planned, in_service: Sequence[str], left_s: float) -> bool:
        expected = [
            self._expectation.expected_s(device, planned.asset.duration_s) for device in in_service
        ]
        known = [seconds for seconds in expected if seconds is not None]
        # A device that has done nothing yet may be the fast one.
        return fits(min(known) if known and len(known) == len(expected) else None, left_s)
