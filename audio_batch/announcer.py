"""What is told to the reporter, and when: what is not committed is not said to be done."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from audio_batch import events


class Announcer:
    """Hands events to the reporter. The runner's thread only."""

    def __init__(self, tell: Callable[[events.Event], None]) -> None:
        self._tell = tell
        self._held: list[events.Event] | None = None

    def emit(self, event: events.Event) -> None:
        """Tell it, or keep it until what is `held` is over."""
        if self._held is None:
            self._tell(event)
        else:
            self._held.append(event)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Tell everything at the end; where an error ends it, only what is true all the same."""
        self._held = []
        committed = False
        try:
            yield
            committed = True
        finally:
            held, self._held = self._held, None
            for event in held:
                if committed or isinstance(
                    event, events.Notice | events.DeviceJoined | events.DeviceOut
                ):
                    self._tell(event)
