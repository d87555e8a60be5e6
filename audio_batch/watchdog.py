"""When an attempt has taken too long: what is expected of a device, and the limits drawn from it.

Only arithmetic over clocks that the caller reads; it stops nothing by itself. Times of attempts are
those of `Ticker.awake_s`, so that a laptop's sleep is nobody's fault.
"""

from __future__ import annotations

import re
import statistics
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from audio_batch.errors import UsageError
from audio_batch.time_limits import parse_duration_s

_REMEMBERED = 9
"""So many attempts of a device are remembered: enough for a median, few enough to follow a change
of load."""

_WINDOW_S = 30.0
"""Whisper pads to windows of 30 s: a shorter recording costs what a full window does."""

DEFAULT_STALL_S = 20 * 60.0

_MIN_BUDGET_S = 10 * 60.0
"""No default is shorter: models that load late and a disk that wakes up are no hang."""

_EXPECTED_X = 8.0
"""An attempt may take so many times what its device has needed before."""

_FIRST_S, _FIRST_CUDA_X, _FIRST_CPU_X = 30 * 60.0, 4.0, 60.0
"""Before a device's first result: half an hour, and so many times the duration. The largest model
with diarization runs at about the speed of speech on two old cores, far faster on any GPU."""

_UNKNOWN_DURATION_S = 3600.0
"""A recording of unknown length is given an hour's time until decoding tells its length."""

_MIN_MULTIPLE_S = 60.0
"""The least that `4x` gives: four times a clip of two seconds is over before a model answers."""

_MULTIPLE = re.compile(r"(\d+(?:\.\d+)?)\s*x", re.ASCII)

Verdict = Literal["timeout", "stalled"]


class Expectation:
    """How long each device takes, learnt from the attempts that did every stage. One thread only.

    The expected time is a + s x duration (the cost of TARGETS' schedule): s the median of the last
    nine attempts' seconds per second of audio, in which long recordings weigh as much as they are
    long, and a the median of what s does not explain. Durations below Whisper's window of 30 s
    count as one window; otherwise a night of short clips would make an hour look like a day.
    """

    def __init__(self) -> None:
        self._seen: defaultdict[str, deque[tuple[float, float]]] = defaultdict(
            lambda: deque(maxlen=_REMEMBERED)
        )

    def observe(self, device: str, duration_s: float, wall_s: float) -> None:
        """Learn from one attempt that was done from decoding to publication."""
        self._seen[device].append((max(duration_s, _WINDOW_S), wall_s))

    def expected_s(self, device: str, duration_s: float | None) -> float | None:
        """Seconds that an attempt will take; None before the first observation.

        Also None where the duration is unknown: there is nothing to expect of it.
        """
        seen = self._seen.get(device)
        if not seen or duration_s is None:
            return None
        slope = _weighted_median([(wall / heard, heard) for heard, wall in seen])
        overhead_s = statistics.median(max(0.0, wall - slope * heard) for heard, wall in seen)
        return overhead_s + slope * max(duration_s, _WINDOW_S)


def _weighted_median(values: Sequence[tuple[float, float]]) -> float:
    """The value below and above which lies at most half of the weight; of two, the higher."""
    half = sum(weight for _, weight in values) / 2
    for value, weight in sorted(values):
        half -= weight
        if half < 0:
            return value
    return max(value for value, _ in values)


@dataclass(frozen=True, slots=True)
class Watch:
    """The limits of every attempt.

    Args:
        timeout_s: an attempt's longest time; None where `timeout_x` or the default says it.
        timeout_x: that time as a multiple of the recording's duration.
        unlimited: whether an attempt may take for ever.
        stall_s: the longest time without any progress; None for no limit.
    """

    timeout_s: float | None = None
    timeout_x: float | None = None
    unlimited: bool = False
    stall_s: float | None = DEFAULT_STALL_S

    @classmethod
    def of_flags(cls, timeout: str | None, stall_timeout: str | None) -> Watch:
        """From `--timeout` (90m, 2h, 4x, none) and `--stall-timeout` (30m, none).

        Raises:
            UsageError: a flag cannot be understood.
        """
        stall_s: float | None = DEFAULT_STALL_S
        if stall_timeout is not None:
            stall_s = (
                None
                if _is_none(stall_timeout)
                else parse_duration_s(stall_timeout, "--stall-timeout")
            )
        if timeout is None:
            return cls(stall_s=stall_s)
        if _is_none(timeout):
            return cls(unlimited=True, stall_s=stall_s)
        if found := _MULTIPLE.fullmatch(timeout.strip().lower()):
            if not float(found[1]) > 0:
                raise UsageError(
                    f"--timeout {timeout!r} leaves no time.", remedy="Say 4x, 90m, 2h or none."
                )
            return cls(timeout_x=float(found[1]), stall_s=stall_s)
        return cls(timeout_s=parse_duration_s(timeout, "--timeout"), stall_s=stall_s)

    def budget_s(
        self, duration_s: float | None, expected_s: float | None, *, on_cuda: bool
    ) -> float | None:
        """The longest time that one attempt may take; None for no limit.

        `--timeout` says it, as a time or as a multiple of the duration (a minute at least).
        Without the flag it is eight times what the device is expected to need, ten minutes at
        least; before anything is known of the device, half an hour and 4 times the duration on a
        GPU, 60 times on a CPU. An unknown duration counts as an hour: ask again once decoding has
        told it.

        Args:
            duration_s: the recording's length, None while unknown.
            expected_s: from `Expectation.expected_s`.
        """
        if self.unlimited:
            return None
        if self.timeout_s is not None:
            return self.timeout_s
        heard_s = _UNKNOWN_DURATION_S if duration_s is None else duration_s
        if self.timeout_x is not None:
            return max(_MIN_MULTIPLE_S, self.timeout_x * heard_s)
        if expected_s is not None:
            return max(_MIN_BUDGET_S, _EXPECTED_X * expected_s)
        return _FIRST_S + (_FIRST_CUDA_X if on_cuda else _FIRST_CPU_X) * heard_s

    def verdict(
        self, begun_s: float, last_progress_s: float, now_s: float, budget_s: float | None
    ) -> Verdict | None:
        """Whether an attempt is over its time, or has made no progress for too long.

        Args:
            begun_s: when it began; like the other two a time of `Ticker.awake_s`.
            last_progress_s: when it last told anything; `begun_s` if it never did.
            budget_s: from `budget_s`.
        """
        if budget_s is not None and now_s - begun_s > budget_s:
            return "timeout"
        if self.stall_s is not None and now_s - last_progress_s > self.stall_s:
            return "stalled"
        return None


def _is_none(text: str) -> bool:
    return text.strip().lower() == "none"


class Ticker:
    """Finds out that the machine slept, or the program was stopped (Ctrl-Z), between two looks.

    A loop that looks every half second and finds a minute gone was not at work in between, and
    neither was an attempt. One thread only.

    Args:
        longest_tick_s: a longer gap between two looks is sleep. Far longer than the loop's own
            tick: a machine under load is late by seconds, and an attempt goes on meanwhile.
    """

    def __init__(self, longest_tick_s: float = 30.0) -> None:
        self.slept_s = 0.0
        self._longest_tick_s = longest_tick_s
        self._last_s: float | None = None

    def tick(self, now_s: float) -> float:
        """Look at the clock (`time.monotonic`). Returns the seconds slept since the last look."""
        gap_s = 0.0 if self._last_s is None else now_s - self._last_s
        self._last_s = now_s
        if gap_s <= self._longest_tick_s:
            return 0.0
        self.slept_s += gap_s
        return gap_s

    def awake_s(self, now_s: float) -> float:
        """The clock without the sleep: what attempts are measured with. Looks, as `tick` does."""
        self.tick(now_s)
        return now_s - self.slept_s
