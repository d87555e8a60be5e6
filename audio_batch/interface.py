"""What a session needs from whoever started it."""

from __future__ import annotations

from collections.abc import Callable

from audio_batch import summary
from audio_batch.assembly import Fleet
from audio_batch.control import Asker
from audio_batch.reporters import Reporter
from audio_batch.survey import Survey


class Interface:
    """A reporter, an answer, a place to speak."""

    def reporter(self, fleet: Fleet, survey: Survey) -> Reporter:
        """Open the reporter of this run."""
        raise NotImplementedError

    def asker(self) -> Asker | None:
        """Whom to ask after a failure whether to go on; None never asks."""
        return None

    def notice(self, text: str, *, warning: bool = False) -> None:
        """Say something before the reporter is open."""
        raise NotImplementedError

    def step_aside(self) -> Callable[[], None]:
        """Take the display away, for a program that speaks on this terminal; and what brings it
        back. The runner's thread, both."""
        return lambda: None

    def show(self, result: summary.Summary) -> None:
        """Show the closing table."""
        raise NotImplementedError
