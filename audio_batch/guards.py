"""What keeps a run from harm: time limits, the watchdog, the memory's floor and its ladder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from audio_batch.host_memory import MemoryFloor
from audio_batch.outcome import Outcome
from audio_batch.plan import Planned
from audio_batch.time_limits import TimeLimit
from audio_batch.watchdog import Watch


class Ladder(Protocol):
    """What to do when a device runs out of memory; see `places.Places`."""

    def steps(self, device: str) -> int:
        """How many steps down the device has taken."""
        ...

    def ease(self, device: str, outcome: Outcome, *, idle: bool) -> tuple[str, bool] | None:
        """Take the next step down. A sentence, and whether models have to be loaded again.

        None: there is none left. `idle`: nothing else is at work there.
        """
        ...

    def ease_loading(self, device: str) -> str | None:
        """Take a step down because models could not be loaded; a sentence, None without any."""
        ...

    def worked(self, device: str, outcome: Outcome) -> None:
        """An asset was done there with what is in force."""
        ...


def _no_warning(_text: str) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Guards:
    """Every limit of a run; by default none but the watchdog's generous one.

    `need_bytes` estimates the host memory that an asset takes.
    """

    watch: Watch = field(default_factory=Watch)
    time: TimeLimit = field(default_factory=lambda: TimeLimit.of_flags(None, None))
    floor: MemoryFloor = field(default_factory=lambda: MemoryFloor(0, _no_warning))
    need_bytes: Callable[[Planned], int] = lambda _planned: 0
    ladder: Ladder | None = None
