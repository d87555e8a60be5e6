"""Which assets a log tells of one by one: all of them, unless they come faster than anybody reads.

A million lines of "Done" hide the one that failed, and cost more than the work. So of more than
`MOST_A_S` assets a second the rest is counted, once a run has told of its first `AT_FIRST`. What
has been said to begin is also said to end; what fails, is tried again or has notes is always told.
"""

from __future__ import annotations

import time
from collections.abc import Callable

MOST_A_S = 20.0
AT_FIRST = 200
_SUMMARY_S = 1.0


class OneByOne:
    """See the module's docstring. One thread only.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._now_s = self._summed_up_s = clock()
        self._free = float(AT_FIRST)
        self._left_out = 0
        self._at_work: set[str] = set()

    def begins(self, key: str) -> bool:
        """Whether to tell that an asset begins."""
        if self._free < 1.0:
            return False
        self._free -= 1.0
        self._at_work.add(key)
        return True

    def moves(self, key: str) -> bool:
        """Whether to tell how far it has come."""
        return key in self._at_work

    def ends(self, key: str, *, plain: bool) -> bool:
        """Whether to tell that it has ended; `plain`: there is nothing to say but that."""
        if key in self._at_work:
            self._at_work.remove(key)
            return True
        self._left_out += plain
        return not plain

    def left_out(self, *, last: bool = False) -> tuple[int, float] | None:
        """How many have ended untold, and in how many seconds; None where there is nothing to say.

        To be asked at every event: it answers once a second, and the `last` time at once.
        """
        now_s = self._clock()
        self._free = min(float(AT_FIRST), self._free + MOST_A_S * (now_s - self._now_s))
        self._now_s = now_s
        took_s = now_s - self._summed_up_s
        if took_s < _SUMMARY_S and not last:
            return None
        self._summed_up_s = now_s
        count, self._left_out = self._left_out, 0
        return (count, took_s) if count else None
