"""Where the runner's next assets come from: never more of them at a time than it can look over."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Protocol

from audio_batch.outcome import Stage
from audio_batch.plan import Action, Planned


class Feed(Protocol):
    """What is to be done, handed out in the order in which it should be begun."""

    def __len__(self) -> int:
        """How many have not been taken yet, with those that were put off."""
        ...

    @property
    def ready(self) -> int:
        """How many of them have not been put off."""
        ...

    def take(self, count: int) -> list[Planned]:
        """The next ones that are ready, at most `count`; none when there are none."""
        ...

    def put_off(self, planned: Planned) -> None:
        """Give back one of those that `take` gave last: it is not ready before `recall`."""
        ...

    def recall(self) -> None:
        """Those that were put off are ready, behind all others."""
        ...

    def needed(self) -> Set[Stage]:
        """The stages that some of them are missing: their models are loaded before the first."""
        ...


class ListFeed:
    """A plan that is there already."""

    def __init__(self, planned: Sequence[Planned]) -> None:
        self._planned = planned
        self._taken = 0
        self._put_off: list[Planned] = []

    def __len__(self) -> int:
        return self.ready + len(self._put_off)

    @property
    def ready(self) -> int:
        """See `Feed.ready`."""
        return len(self._planned) - self._taken

    def take(self, count: int) -> list[Planned]:
        """See `Feed.take`."""
        some = list(self._planned[self._taken : self._taken + count])
        self._taken += len(some)
        return some

    def put_off(self, planned: Planned) -> None:
        """See `Feed.put_off`."""
        self._put_off.append(planned)

    def recall(self) -> None:
        """See `Feed.recall`."""
        self._planned = [*self._planned[self._taken :], *self._put_off]
        self._taken, self._put_off = 0, []

    def needed(self) -> Set[Stage]:
        """See `Feed.needed`."""
        todo = [*self._planned[self._taken :], *self._put_off]
        return {stage for item in todo if item.action is Action.PROCESS for stage in item.missing}
