"""Devices that join a run that has begun: a lookout offers them, the runner takes them in.

    Lookout  (a thread)           → found → Arrivals (the runner's thread)
    Arrivals                      → Lookout.taken, Balancer.add, what is known of it → Crew.welcome

A device that was out because its machine went, and is offered again, is taken in anew.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from audio_batch import events
from audio_batch.backlog import Backlog
from audio_batch.control import Inbox
from audio_batch.crew import Crew
from audio_batch.gpu.devices import Device

PATIENCE_S = 600.0
"""So long a run waits for another device when the last one has gone with its machine."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A device that may join, and how many assets it takes at a time."""

    device: Device
    slots: int


class Lookout(Protocol):
    """Looks for devices that come up while a run is at work."""

    def begin(self, found: Callable[[Sequence[Arrival]], None], left: Callable[[], int]) -> None:
        """Begin to look, in a thread of its own.

        Args:
            found: takes what may join, from any thread; again and again until it is `taken`.
            left: how many assets have not begun.
        """
        ...

    def taken(self, arrival: Arrival) -> None:
        """It takes part from now on. The runner's thread, before anything is begun there."""
        ...

    def expects(self, device: str) -> bool:
        """Whether this device has gone in such a way that another may come in its place."""
        ...

    def stop(self) -> None:
        """Look no more. Returns at once; again does no harm."""
        ...

    def close(self) -> None:
        """Look no more, and wait a while until nothing is asked for either."""
        ...


@dataclass(slots=True)
class Arrivals:
    """See the module's docstring. The runner's thread only, but for `found`.

    Attributes:
        lookout: None: nothing joins.
        take: enters a device in what a run knows of its devices, among them the balancer.
        joined: called after some have joined.
        stopping: whether the run is to end, so that nothing begins any more.
    """

    lookout: Lookout | None
    take: Callable[[Arrival], None]
    joined: Callable[[], None]
    inbox: Inbox
    crew: Crew
    backlog: Backlog
    emit: Callable[[events.Event], None]
    stopping: Callable[[], bool]
    _open: bool = False
    _alone_since_s: float | None = None

    def begin(self) -> None:
        """Begin to look."""
        if self.lookout is not None:
            self._open = True
            self.lookout.begin(self.found, lambda: len(self.backlog))

    def found(self, arrivals: Sequence[Arrival]) -> None:
        """Offer some. From any thread."""
        self.inbox.put(lambda: self._welcome(arrivals))

    def _welcome(self, arrivals: Sequence[Arrival]) -> None:
        if not self._open or self.lookout is None or not len(self.backlog) or self.stopping():
            return
        # One that is still thought to be there is offered again once it is known to be out.
        joining = [one for one in arrivals if one.device.id not in self.crew.in_service()]
        for one in joining:
            self.lookout.taken(one)
            self.take(one)
            self.emit(events.DeviceJoined(one.device.id, one.device.name, one.slots))
            self.crew.welcome(one.device.id)
        if joining:
            self._alone_since_s = None
            self.joined()

    def awaited(self) -> bool:
        """Whether a run that has no device any more waits for one. Says so once."""
        if not self._open or self.lookout is None:
            return False
        last = self.crew.last_out()
        if last is None or not self.lookout.expects(last):
            return False
        now_s = time.monotonic()
        if self._alone_since_s is None:
            self._alone_since_s = now_s
            text = f"No device is left; the run waits up to {PATIENCE_S / 60:.0f} min for another."
            self.emit(events.Notice(text, warning=True))
        return now_s - self._alone_since_s < PATIENCE_S

    def stop(self) -> None:
        """Take nothing in any more. Waits for nobody."""
        self._open = False
        if self.lookout is not None:
            self.lookout.stop()

    def close(self) -> None:
        """Take nothing in any more, and wait a while until nobody looks."""
        self.stop()
        if self.lookout is not None:
            self.lookout.close()
