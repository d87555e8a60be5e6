"""Who may hold a run up or end it: signals, and a person who is asked after a failure."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import Protocol

_log = logging.getLogger("audio_batch.run")

Message = Callable[[], None]
"""What workers, signals and answers leave for the runner's thread to do."""

Inbox = queue.SimpleQueue[Message]


class StopControl:
    """A request to stop, and what it allows. Its methods are safe in a signal handler.

    One request: what runs is finished, nothing new begins. A second one by a person, or the end of
    the time that a scheduler's signal leaves: what runs is dropped.
    """

    def __init__(self, inbox: Inbox, grace_s: float) -> None:
        self.requested = threading.Event()
        self.reason = ""
        self._inbox = inbox
        self._grace_s = grace_s
        self._twice = False
        self._deadline_s: float | None = None

    def request(
        self, reason: str, *, within_grace: bool = False, within_s: float | None = None
    ) -> None:
        """Ask to stop.

        Args:
            within_grace: running work may take `grace_s` seconds and no more. Whoever asks so may
                ask again and again: the earliest end counts.
            within_s: the same with other seconds.
        """
        if within_grace and within_s is None:
            within_s = self._grace_s
        if within_s is None:
            self._twice = self._twice or self.requested.is_set()
        else:
            end_s = time.monotonic() + within_s
            if self._deadline_s is None or end_s < self._deadline_s:
                self._deadline_s = end_s
        self.reason = self.reason or reason
        # Event.set is not reentrant, SimpleQueue.put is: two signals may come at once.
        if not self.requested.is_set():
            self.requested.set()
        self._inbox.put(wake_up)

    @property
    def drop(self) -> bool:
        """Whether running work is to be left behind now."""
        late = self._deadline_s is not None and time.monotonic() > self._deadline_s
        return self._twice or late


def wake_up() -> None:
    """The message that only makes the runner look around."""


class Asker(Protocol):
    """Somebody to ask whether to go on after a failure."""

    def ask(self, answer: Callable[[bool], None]) -> float | None:
        """Put the question and return at once.

        Args:
            answer: to be called with what was said, from any thread.

        Returns:
            The seconds to wait for an answer, or None when nobody is asked.
        """
        ...

    def close(self) -> None:
        """The question is answered, or nobody answered in time."""
        ...


class Pause:
    """Holds new work back while a question is open; without an answer in time it goes on.

    Whoever does not answer once is taken to be asleep and not asked again.
    """

    def __init__(self, asker: Asker | None, inbox: Inbox) -> None:
        self._asker = asker
        self._inbox = inbox
        self._until_s: float | None = None
        self._asked = 0

    def ask(self, answered: Callable[[bool], None]) -> None:
        """Ask, unless a question is open already. `answered` runs in the runner's thread."""
        if self._asker is None or self._until_s is not None:
            return

        asked = self._asked = self._asked + 1

        def close_with(go_on: bool) -> None:
            if self._until_s is not None and self._asked == asked:
                self._close()
                answered(go_on)

        within_s = self._asker.ask(lambda go_on: self._inbox.put(lambda: close_with(go_on)))
        if within_s is not None:
            self._until_s = time.monotonic() + within_s

    @property
    def open(self) -> bool:
        """Whether new work has to wait for an answer."""
        if self._until_s is not None and time.monotonic() > self._until_s:
            _log.warning("Nobody answered; the run goes on and asks no more.")
            self._close()
            self._asker = None
        return self._until_s is not None

    def _close(self) -> None:
        self._until_s = None
        if self._asker is not None:
            self._asker.close()
