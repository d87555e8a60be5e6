"""Devices that join a run that has begun: a lookout offers them, the runner takes them in.

    Lookout  (a thread)           → found → Arrivals (the runner's thread)
    Arrivals                      → Lookout.taken, Balancer.add, what is known of it → Crew.welcome

A device that was out because its machine went, and is offered again, is taken in anew.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from audio_batch import events
from audio_batch.backlog import Backlog
from audio_batch.control import Inbox
from audio_batch.crew import Crew
from audio_batch.gpu.devices import Device

PATIENCE_S = 600.0
"""How long a run that has lost its last device waits for another one, where one may come."""


@dataclass(frozen=True, slots=True)
class Newcomer:
    """A device that may join, and how many assets it takes at a time."""

    device: Device
    slots: int


class Lookout(Protocol):
    """Looks for devices that come up while a run is at work."""

    def begin(self, found: Callable[[Sequence[Newcomer]], None], left: Callable[[], int]) -> None:
        """Begin to look, in a thread of its own.

        Args:
            found: takes what may join, from any thread; again and again until it is `taken`.
            left: how many assets have not begun.
        """
        ...

    def taken(self, newcomer: Newcomer) -> None:
        """It takes part from now on. The runner's thread, before anything is begun there."""
        ...

    def expects(self) -> bool:
        """Whether a device has gone in such a way that another may come in its place."""
        ...

    def close(self) -> None:
        """Look no more."""
        ...


@dataclass(slots=True)
class Arrivals:
    """See the module's docstring. The runner's thread only, but for `found`.

    Attributes:
        lookout: None: nothing joins.
        take: enters a newcomer in what a run knows of its devices.
        joined: called after some have joined.
    """

    lookout: Lookout | None
    take: Callable[[Newcomer], None]
    joined: Callable[[], None]
    inbox: Inbox
    crew: Crew
    backlog: Backlog
    emit: Callable[[events.Event], None]
    _open: bool = False
    _alone_since_s: float | None = field(default=None)

    def begin(self) -> None:
        """Begin to look."""
        if self.lookout is not None:
            self._open = True
            self.lookout.begin(self.found, lambda: len(self.backlog))

    def found(self, newcomers: Sequence[Newcomer]) -> None:
        """Offer some. From any thread."""
        self.inbox.put(lambda: self._welcome(newcomers))

    def _welcome(self, newcomers: Sequence[Newcomer]) -> None:
        if not self._open or self.lookout is None or not len(self.backlog):
            return
        # What is in service already was offered before it was taken.
        joining = [one for one in newcomers if one.device.id not in self.crew.in_service()]
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
        if not self._open or self.lookout is None or not self.lookout.expects():
            return False
        now_s = time.monotonic()
        if self._alone_since_s is None:
            self._alone_since_s = now_s
            text = f"No device is left; the run waits up to {PATIENCE_S / 60:.0f} min for another."
            self.emit(events.Notice(text, warning=True))
        return now_s - self._alone_since_s < PATIENCE_S

    def close(self) -> None:
        """Take nothing in any more."""
        self._open = False
        if self.lookout is not None:
            self.lookout.close()
