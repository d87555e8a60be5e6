"""How long a run may last: `--until`, `--max-runtime`, and whether one more asset still fits.

Two clocks, because the two flags mean two things. `--until 07:00` is what the clock on the wall
shows. `--max-runtime 6h` is time that passes, sleep of the machine included: a scheduler's limit
and a person's patience go on while a laptop sleeps. Everything here is computed from readings of
these clocks that the caller may pass in; nothing waits.
"""

from __future__ import annotations

import re
import sys
import time
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from datetime import time as ClockTime

from audio_batch.errors import UsageError

_NUMBER = r"(\d+(?:\.\d+)?)"
_DURATION = re.compile(rf"(?:{_NUMBER}h)?(?:{_NUMBER}m)?(?:{_NUMBER}s)?|{_NUMBER}", re.ASCII)
_CLOCK = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2}))?", re.ASCII)

_MAX_DURATION_S = 366 * 24 * 3600.0
"""A longer limit is a slip of the finger, and no clock's arithmetic has to bear it."""

_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

_CLOCK_SET_S = 60.0
"""A wall clock that is off by more against time that passes was set; below it is fine tuning."""


def parse_duration_s(text: str, flag: str) -> float:
    """Seconds of "90", "90s", "30m", "6h", "1h30m" or "1.5h".

    Raises:
        UsageError: it is none of these, is zero, or is longer than a year; names `flag`.
    """
    found = _DURATION.fullmatch(text.strip().lower())
    parts = (float(part or 0) for part in found.groups()) if found else ()
    seconds = sum(value * unit_s for value, unit_s in zip(parts, (3600, 60, 1, 1), strict=False))
    if found and text.strip() and seconds == 0:
        raise UsageError(f"{flag} {text!r} must be more than 0.")
    if not 0 < seconds <= _MAX_DURATION_S:
        raise UsageError(
            f"{flag} {text!r} is not a length of time.",
            remedy="Say hours, minutes or seconds: 6h, 90m, 1h30m, 45s.",
        )
    return seconds


def parse_clock(text: str, flag: str) -> ClockTime:
    """The time of day of "07:00", "7:00" or "07:00:30", on a clock of 24 hours.

    Raises:
        UsageError: it is no time of day; names `flag`.
    """
    found = _CLOCK.fullmatch(text.strip())
    if found:
        hour, minute, second = (int(part or 0) for part in found.groups())
        if hour < 24 and minute < 60 and second < 60:
            return ClockTime(hour, minute, second)
    raise UsageError(
        f"{flag} {text!r} is not a time of day.",
        remedy="Say hours and minutes from 00:00 to 23:59: 07:00.",
    )


def next_occurrence_s(clock: ClockTime, after_s: float, zone: tzinfo | None = None) -> float:
    """When a clock next shows a time of day, in seconds since the epoch, later than `after_s`.

    In autumn a time that comes twice counts twice. In spring a time that is left out (02:30 where
    02:00 becomes 03:00) counts as what the clock shows as long after midnight (03:30), as PEP 495
    has it.

    Args:
        zone: whose clock; None for this machine's.
    """
    today = datetime.fromtimestamp(after_s, zone).date()
    found = []
    for days in (0, 1, 2):  # a day that begins between two changes of a clock may be all past
        for fold in (0, 1):
            day = datetime.combine(today + timedelta(days), clock.replace(fold=fold), zone)
            moment_s = day.timestamp()
            shown = datetime.fromtimestamp(moment_s, zone).time()
            # The second reading of a time that is left out lies before the change, not after it.
            if moment_s > after_s and (fold == 0 or shown == clock):
                found.append(moment_s)
    return min(found)


@dataclass(frozen=True, slots=True)
class Clocks:
    """One reading of both clocks.

    `wall_s`: seconds since the epoch, as the machine believes. `elapsed_s`: seconds that pass from
    any beginning, the machine's sleep included, whatever anybody sets the wall clock to.
    """

    wall_s: float
    elapsed_s: float

    @classmethod
    def read(cls) -> Clocks:
        """Read both now. Any thread."""
        return cls(time.time(), elapsed_s())


def elapsed_s() -> float:
    """A clock that only runs forward and counts sleep; only differences mean anything.

    `time.monotonic` stands still in sleep on Linux and macOS. Linux has CLOCK_BOOTTIME for this,
    macOS names it CLOCK_MONOTONIC, and on Windows `time.monotonic` itself counts sleep.
    """
    if sys.platform == "linux":
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    if sys.platform == "darwin":
        return time.clock_gettime(time.CLOCK_MONOTONIC)
    return time.monotonic()


@dataclass(frozen=True, slots=True)
class TimeLimit:
    """Until when a run may begin assets; the earlier of its two limits counts.

    A wall clock that somebody sets while the run goes on (or that was wrong until the network set
    it) moves the beginning of the run along, so that `--until 07:00` is still the first 07:00
    after the run began.
    """

    until: ClockTime | None
    max_runtime_s: float | None
    begun: Clocks
    zone: tzinfo | None = None

    @classmethod
    def of_flags(
        cls, until: str | None, max_runtime: str | None, begun: Clocks | None = None
    ) -> TimeLimit:
        """From the two flags as they are written; None where one is not given.

        Args:
            begun: when the run began; None for now.

        Raises:
            UsageError: a flag cannot be understood.
        """
        return cls(
            until=None if until is None else parse_clock(until, "--until"),
            max_runtime_s=None
            if max_runtime is None
            else parse_duration_s(max_runtime, "--max-runtime"),
            begun=begun or Clocks.read(),
        )

    def left_s(self, now: Clocks | None = None) -> float | None:
        """Seconds until the limit, negative after it; None without any limit."""
        now = now or Clocks.read()
        elapsed_s = now.elapsed_s - self.begun.elapsed_s
        left = []
        if self.max_runtime_s is not None:
            left.append(self.max_runtime_s - elapsed_s)
        if self.until is not None:
            begun_s = now.wall_s - elapsed_s
            if abs(begun_s - self.begun.wall_s) < _CLOCK_SET_S:
                begun_s = self.begun.wall_s
            left.append(next_occurrence_s(self.until, begun_s, self.zone) - now.wall_s)
        return min(left, default=None)

    def ends_at(self, now: Clocks | None = None) -> str | None:
        """What the wall clock shows at the limit; None without any limit.

        As 07:00 today, else Sunday 07:00 within a week, else 2026-11-29 07:00.
        """
        now = now or Clocks.read()
        left = self.left_s(now)
        if left is None:
            return None
        moment = datetime.fromtimestamp(now.wall_s + left, self.zone)
        days = (moment.date() - datetime.fromtimestamp(now.wall_s, self.zone).date()).days
        shown = f"{moment:%H:%M}"
        if days == 0:
            return shown
        return (
            f"{_WEEKDAYS[moment.weekday()]} {shown}" if 0 < days < 7 else f"{moment:%Y-%m-%d %H:%M}"
        )


def fits(estimate_s: float | None, left_s: float | None) -> bool:
    """Whether an asset may begin that is expected to take so long, with so much time left.

    Without a limit everything fits. Of an asset whose time nobody can tell it is not known that it
    would not be done: it fits while any time is left.
    """
    if left_s is None:
        return True
    return left_s > 0 and (estimate_s is None or estimate_s <= left_s)
