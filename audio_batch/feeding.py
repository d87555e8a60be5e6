"""Where the runner's next assets come from: never more of them at a time than it can look over."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Protocol

from audio_batch.outcome import Stage
from audio_batch.plan import Action, Planned


class Feed(Protocol):
    """What is to be done, handed out in the order in which it should be begun."""

    def __len__(self) -> int:
        """How many have not been taken yet."""
        ...

    def take(self, count: int) -> list[Planned]:
        """The next ones, at most `count`; none when all have been taken."""
        ...

    def needed(self) -> Set[Stage]:
        """The stages that some of them are missing: their models are loaded before the first."""
        ...


class ListFeed:
    """A plan that is there already."""

    def __init__(self, planned: Sequence[Planned]) -> None:
        self._planned = planned
        self._taken = 0

    def __len__(self) -> int:
        return len(self._planned) - self._taken

    def take(self, count: int) -> list[Planned]:
        """See `Feed.take`."""
        some = list(self._planned[self._taken : self._taken + count])
        self._taken += len(some)
        return some

    def needed(self) -> Set[Stage]:
        """See `Feed.needed`."""
        todo = self._planned[self._taken :]
        return {stage for item in todo if item.action is Action.PROCESS for stage in item.missing}
