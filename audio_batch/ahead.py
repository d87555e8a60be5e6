"""How many assets are read ahead on a device, beside those that it works on (`--prefetch`).

They are fetched, decoded and searched for speech while the device is at others, and where the
recognizer shares its batches their windows fill those that would else go half empty.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

WINDOW_S = 30.0
MOST = 32
"""Each has a thread and its samples; more would not fill a batch better."""
MOST_FREE = 256
"""Of those that open nothing: they only wait for a thread, and for the commit that begins them."""
_FREE_S = 1e-3
"""What takes a worker less opens nothing."""
_BATCHES = 2
"""So many batches are to be in flight: one at work, one that gathers."""
_LEAD_S = 0.25
"""Work for so long is to be there while outcomes are committed and the next is begun."""
_UNKNOWN_WINDOWS = 10
"""Of a recording whose length nobody knows."""


@dataclass(frozen=True, slots=True)
class Ahead:
    """See the module's docstring.

    Attributes:
        asked: `--prefetch`; None: as many as fill the batches, or last until the next commit, and
            one at least.
        shared: whether windows of several assets share a batch.
        batch_size: windows in a batch of a device, by its id.
        eased: whether a device has run short of memory: it gets no more than it works on.
    """

    asked: int | None = 0
    shared: bool = False
    batch_size: Callable[[str], int] = lambda _device: 8
    eased: Callable[[str], bool] = lambda _device: False

    @property
    def most(self) -> int:
        """The most that are read ahead on a device: so many threads are needed besides."""
        if self.asked is not None:
            return self.asked
        return MOST

    def room(
        self,
        device: str,
        slots: int,
        durations_s: Iterable[float | None],
        each_s: float | None = None,
    ) -> int:
        """How many more may be read ahead.

        Args:
            slots: how many assets the device works on at once.
            durations_s: of what is in flight there, in seconds, None where it is unknown.
            each_s: what a usual asset takes there; None where nothing is known.
        """
        if self.eased(device):
            return 0
        lengths = list(durations_s)
        ahead = max(0, len(lengths) - slots)
        if self.asked is not None:
            return self.asked - ahead
        if not self.shared:
            enough = 1 if each_s is None else math.ceil(slots * _LEAD_S / max(each_s, 1e-3))
            most = MOST if each_s is None or each_s >= _FREE_S else MOST_FREE
            return min(most, max(1, enough)) - ahead
        free = MOST - ahead
        windows = sum(_windows(length) for length in lengths)
        wanted = windows < _BATCHES * self.batch_size(device) or len(lengths) <= slots
        return free if wanted else 0


def _windows(duration_s: float | None) -> int:
    return _UNKNOWN_WINDOWS if duration_s is None else max(1, math.ceil(duration_s / WINDOW_S))
