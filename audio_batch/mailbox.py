"""What workers, signals and answers have left for the runner's thread, in the order it came."""

from __future__ import annotations

import contextlib
import queue
from collections import deque
from collections.abc import Iterator

from audio_batch.control import Inbox, Message

_AT_ONCE = 1000
"""Messages that are taken in one go: a flood of progress must not keep outcomes from the disk."""


class Mailbox:
    """See the module's docstring. Anybody puts into `inbox`; all else is the runner's thread."""

    def __init__(self) -> None:
        self.inbox: Inbox = queue.SimpleQueue()
        self._received: deque[Message] = deque()

    def __len__(self) -> int:
        """How many have been received and not been taken yet."""
        return len(self._received)

    def receive(self, patience_s: float) -> None:
        """See what has come in; waits so long for the first."""
        with contextlib.suppress(queue.Empty):
            self._received.append(self.inbox.get(timeout=patience_s))
            while len(self._received) < _AT_ONCE:
                self._received.append(self.inbox.get_nowait())

    def receive_all(self) -> None:
        """See everything that has come in, without waiting."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._received.append(self.inbox.get_nowait())

    def take(self, at_most: int = _AT_ONCE) -> Iterator[Message]:
        """What is to be acted on. Where one message fails, those behind it are still there."""
        for _ in range(min(at_most, len(self._received))):
            yield self._received.popleft()
