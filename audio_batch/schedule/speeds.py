"""How long a recording takes where: learnt from the jobs that have ended.

A job on device g with k at work there costs c = a_g + s_{g,k} · D seconds, with D its seconds of
audio. s_{g,k} is the median over the last jobs there with k at work; a_g, what a job costs however
short it is, the slope of a robust line through (1/D, wall/D). In that form multiplicative noise
weighs the same on long and short recordings.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations
from statistics import median
from typing import Protocol

_LAST_JOBS = 9
"""Of these s_{g,k} is the median."""

_KNOWN_WEIGHT = 4
"""As how many of them a speed known from earlier runs counts: five new jobs overrule it."""

_LINE_JOBS = 32
"""Of these a_g is found; a new line is drawn after every `_LINE_EVERY` jobs."""

_LINE_EVERY = 4
_LINE_LEAST = 8
_LINE_SPREAD = 2.0
"""The longest of them must be so much longer than the shortest, else no line can be told."""

_LEAST_S = 0.1
"""Shorter recordings count as so long: their time says nothing about speed."""

_LEAST_SHARE = 0.01
_LEAST_PER_AUDIO_S = 1e-9
"""A speed is never infinite: some of each job's time is taken for that of its audio."""

_TYPICAL_S = 600.0
"""An unknown length, before any length has been seen."""


class Cost(Protocol):
    """Expected seconds of a job of `duration_s` (None: unknown) as one of `active` on a device.

    None where nothing is known of any device. `Speeds.cost_s` is one.
    """

    def __call__(self, device: str, active: int, duration_s: float | None) -> float | None: ...


class JobCost(Protocol):
    """What a device takes for a job; a `DeviceSpeed` is one."""

    def cost_s(self, active: int, duration_s: float) -> float:
        """Seconds of a job of `duration_s` as one of `active`."""
        ...


def by_active(known: Mapping[int, float], active: int) -> float:
    """What a job takes as one of `active`, from what it was found to take among others.

    A number that was not measured is answered from the nearest that was, the lower of two, and
    never too well: more at work share the device as though they gained nothing by it (k/k' times
    the time), fewer are as slow as the more that were measured.

    Raises:
        ValueError: nothing was measured.
    """
    if (exact := known.get(active)) is not None:
        return exact
    nearest = min(known, key=lambda count: (abs(count - active), count))
    return known[nearest] * max(1.0, active / nearest)


@dataclass(frozen=True, slots=True)
class DeviceSpeed:
    """What is known of one device.

    Attributes:
        fixed_s: what every job costs there, however short.
        per_audio_s: seconds per second of audio of one job, by how many are at work there.
        jobs: how many were measured.
    """

    fixed_s: float
    per_audio_s: Mapping[int, float]
    jobs: int = 0

    def seconds_per_audio_s(self, active: int) -> float:
        """Of one job among `active`; see `by_active`.

        Raises:
            ValueError: there is no speed at all.
        """
        return by_active(self.per_audio_s, active)

    def cost_s(self, active: int, duration_s: float) -> float:
        """Seconds of a job of `duration_s` as one of `active`."""
        return self.fixed_s + self.seconds_per_audio_s(active) * max(0.0, duration_s)


@dataclass(slots=True)
class _Learner:
    """The jobs of one device, as (seconds of audio, wall seconds)."""

    known: DeviceSpeed | None
    jobs: int = 0
    fixed_s: float = 0.0
    line: deque[tuple[int, float, float]] = field(default_factory=lambda: deque(maxlen=_LINE_JOBS))
    last: dict[int, deque[tuple[float, float]]] = field(default_factory=dict)
    speed: DeviceSpeed | None = None

    def __post_init__(self) -> None:
        self.speed = self.known if self.known and self.known.per_audio_s else None
        self.fixed_s = self.known.fixed_s if self.known else 0.0

    def observe(self, active: int, duration_s: float, wall_s: float) -> None:
        self.jobs += 1
        self.line.append((active, duration_s, wall_s))
        self.last.setdefault(active, deque(maxlen=_LAST_JOBS)).append((duration_s, wall_s))
        moved = False
        if self.jobs % _LINE_EVERY == 0 and len(self.line) >= _LINE_LEAST:
            moved = self._draw_line()
        speeds = dict(self.speed.per_audio_s) if self.speed else {}
        # Of another number at work nothing is new, unless what every job costs has moved.
        for count in self.last if moved else (active,):
            speeds[count] = self._per_audio_s(count)
        before = self.known.jobs if self.known else 0
        self.speed = DeviceSpeed(self.fixed_s, speeds, before + self.jobs)

    def _per_audio_s(self, active: int) -> float:
        jobs = self.last[active]
        found = [
            max(wall_s - self.fixed_s, _LEAST_SHARE * wall_s) / duration_s
            for duration_s, wall_s in jobs
        ]
        if self.known and (before := self.known.per_audio_s.get(active)) is not None:
            weight = min(_KNOWN_WEIGHT, self.known.jobs, _LAST_JOBS - len(found))
            found += [before] * weight
        return max(_LEAST_PER_AUDIO_S, median(found))

    def _draw_line(self) -> bool:
        """Find a_g anew among the jobs with one number at work; say whether it is another."""
        counts = [active for active, _, _ in self.line]
        commonest = max(set(counts), key=lambda count: (counts.count(count), -count))
        jobs = [(d, w) for active, d, w in self.line if active == commonest]
        durations = [duration_s for duration_s, _ in jobs]
        if len(jobs) < _LINE_LEAST or max(durations) < _LINE_SPREAD * min(durations):
            return False
        fixed_s = _slope([(1 / d, w / d) for d, w in jobs])
        before, self.fixed_s = self.fixed_s, min(max(0.0, fixed_s), min(w for _, w in jobs))
        return before != self.fixed_s


def _slope(points: list[tuple[float, float]]) -> float:
    """Theil-Sen with the pairs weighted by their distance (Jaeckel 1972): 29 % may be outliers."""
    slopes = sorted(
        ((y1 - y0) / (x1 - x0), abs(x1 - x0))
        for (x0, y0), (x1, y1) in combinations(points, 2)
        if x1 != x0
    )
    half, seen = sum(weight for _, weight in slopes) / 2, 0.0
    for slope, weight in slopes:
        seen += weight
        if seen >= half:
            return slope
    return 0.0


class Speeds:
    """The speeds of a run's devices, by `Device.id`. One thread's: it holds no lock.

    Args:
        known: what earlier runs with the same settings have learnt.
        priors: guessed seconds per audio-second of a device that works alone. Only their ratios
            count: they are scaled by what the devices that were observed showed against theirs,
            and a device's first job replaces its own.
    """

    def __init__(
        self,
        known: Mapping[str, DeviceSpeed] | None = None,
        priors: Mapping[str, float] | None = None,
    ) -> None:
        self._learners = {device: _Learner(speed) for device, speed in (known or {}).items()}
        self._priors = {device: s for device, s in (priors or {}).items() if s > 0}
        self._durations: deque[float] = deque(maxlen=_LINE_JOBS)
        self._typical_s: float | None = None
        self._speeds: dict[str, DeviceSpeed | None] = {}
        self._per_audio_s: dict[tuple[str, int], tuple[float, float]] = {}

    def know(self, device: str, speed: DeviceSpeed) -> None:
        """Take up what earlier runs have learnt of a device that joins."""
        if device not in self._learners:
            self._learners[device] = _Learner(speed)
            self._speeds.clear()
            self._per_audio_s.clear()

    def observe(self, device: str, active: int, duration_s: float | None, wall_s: float) -> None:
        """Learn from a job that has ended well.

        Args:
            active: how many were at work there meanwhile, itself included.
            duration_s: its seconds of audio; without any, nothing is learnt.
        """
        if duration_s is None or duration_s <= 0 or wall_s < 0:
            return
        learner = self._learners.setdefault(device, _Learner(None))
        learner.observe(max(1, active), max(_LEAST_S, duration_s), wall_s)
        self._durations.append(duration_s)
        self._typical_s = None
        self._speeds.clear()
        self._per_audio_s.clear()

    def cost_s(self, device: str, active: int, duration_s: float | None) -> float | None:
        """Seconds that a job is expected to take on a device as one of `active` there.

        An unknown length counts as the median of those seen lately. A device of which nothing is
        known is taken for an average one of the others.

        Returns:
            None where nothing is known of any device: they are to be treated alike.
        """
        key = (device, active)
        found = self._per_audio_s.get(key)
        if found is None:
            speed = self._speed(device)
            if speed is None:
                return None
            found = (speed.fixed_s, speed.seconds_per_audio_s(max(1, active)))
            self._per_audio_s[key] = found
        fixed_s, per_audio_s = found
        return fixed_s + per_audio_s * (self.typical_s() if duration_s is None else duration_s)

    def learnt(self, device: str) -> DeviceSpeed | None:
        """What is known of a device by measurement, of this run and of those before; else None."""
        learner = self._learners.get(device)
        return learner.speed if learner else None

    def typical_s(self) -> float:
        """The median length of the last recordings, in seconds."""
        if self._typical_s is None:
            self._typical_s = median(self._durations) if self._durations else _TYPICAL_S
        return self._typical_s

    def _speed(self, device: str) -> DeviceSpeed | None:
        if device not in self._speeds:
            self._speeds[device] = self.learnt(device) or self._guessed(device)
        return self._speeds[device]

    def _guessed(self, device: str) -> DeviceSpeed | None:
        """From its prior and from what the others showed; None where there is neither."""
        measured = {
            other: learner.speed for other, learner in self._learners.items() if learner.speed
        }
        alone = {other: speed.seconds_per_audio_s(1) for other, speed in measured.items()}
        fixed_s = median(speed.fixed_s for speed in measured.values()) if measured else 0.0
        ratios = [alone[other] / self._priors[other] for other in alone if other in self._priors]
        # Without one to compare with, a prior can only be held against other priors.
        if device in self._priors and (ratios or not measured):
            return DeviceSpeed(fixed_s, {1: self._priors[device] * median(ratios or [1.0])})
        if alone:
            return DeviceSpeed(fixed_s, {1: median(alone.values())})
        if self._priors:
            return DeviceSpeed(0.0, {1: median(self._priors.values())})
        return None
