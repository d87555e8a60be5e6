"""How many assets may be in a stage at once on a device, while more of them are read ahead.

Whoever waits at a gate tells so from time to time, but only while something moves on the device:
where all of it hangs there is silence, and the watchdog sees it.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

BEAT_S = 15.0
"""How often a waiting asset tells that it waits."""
_LOOK_S = 1.0
"""How often it looks whether one within has been given up."""


@dataclass(frozen=True, slots=True, eq=False)
class Guest:
    """Who is at a gate, or past it. `gone`: nobody waits for it any more, it may hang."""

    gone: Callable[[], bool]
    called: threading.Event = field(default_factory=threading.Event)
    """Set when there is room and it is its turn."""


class Gate:
    """Lets `width` guests in at a time, in the order in which they came. Any thread.

    One that is gone takes no place, whether its thread ever comes back or not.
    """

    def __init__(self, width: int) -> None:
        self._width = width
        self._within: list[Guest] = []
        self._line: deque[Guest] = deque()
        self._lock = threading.Lock()

    def enter(self, guest: Guest, waiting: Callable[[], None], beat_s: float = BEAT_S) -> None:
        """Come in, or wait for it.

        Args:
            waiting: called when there is no room, every `beat_s` after that, and when the guest is
                gone; may raise to give up.
        """
        with self._lock:
            self._line.append(guest)
            self._call()
        try:
            if not guest.called.is_set():
                waiting()
            while not self._admitted(guest, beat_s):
                waiting()
        except BaseException:
            self.leave(guest)
            raise

    def _admitted(self, guest: Guest, patience_s: float) -> bool:
        until_s = time.monotonic() + patience_s
        while not guest.called.wait(min(_LOOK_S, max(0.0, until_s - time.monotonic()))):
            with self._lock:
                self._call()
            if (time.monotonic() >= until_s or guest.gone()) and not guest.called.is_set():
                return False
        return True

    def _call(self) -> None:
        """Let in whoever there is room for; with the lock held."""
        if self._line and len(self._within) >= self._width:
            self._within = [other for other in self._within if not other.gone()]
        while self._line and len(self._within) < self._width:
            guest = self._line.popleft()
            if not guest.gone():
                self._within.append(guest)
                guest.called.set()

    def leave(self, guest: Guest) -> None:
        """Make room for the next."""
        with self._lock:
            for place in (self._line, self._within):
                if guest in place:
                    place.remove(guest)
            self._call()


class Gates:
    """The gates of all devices in this process, one a stage, each as wide as the device's slots.

    Args:
        slots: how many assets a device works on at once; None lets everybody in.
    """

    def __init__(self, slots: Callable[[str], int] | None = None) -> None:
        self._slots = slots
        self._gates: dict[tuple[str, str], Gate] = {}
        self._guard = threading.Lock()
        self._moves: defaultdict[str, int] = defaultdict(int)

    def moved(self, device: str) -> None:
        """Something was done on the device."""
        self._moves[device] += 1

    @contextmanager
    def enter(
        self,
        device: str,
        stage: str,
        *,
        waiting: Callable[[], None],
        entered: Callable[[], None],
        gone: Callable[[], bool],
    ) -> Iterator[None]:
        """Be in a stage.

        Args:
            waiting: called where there is no room at once, then from time to time while the device
                does other work; may raise.
            entered: called after that, once there is room; may raise.
            gone: whether nobody waits for the caller any more.
        """
        if self._slots is None:
            yield
            return
        with self._guard:
            key = (device, stage)
            gate = self._gates.get(key)
            if gate is None:
                gate = self._gates[key] = Gate(self._slots(device))
        seen = self._moves[device]

        waits = False

        def beat() -> None:
            nonlocal seen, waits
            if not waits or gone() or self._moves[device] != seen:
                seen, waits = self._moves[device], True
                waiting()

        guest = Guest(gone)
        gate.enter(guest, beat)
        try:
            if waits:
                entered()
            yield
        finally:
            gate.leave(guest)
