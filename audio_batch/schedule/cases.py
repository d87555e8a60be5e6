"""The cases that the policies are held to, and what was measured of them on real GPUs.

The measurements are those of a GTX 1660 and an RTX 3090 that diarized six (and twenty) recordings
of ten minutes: 24 and 8 seconds each. Everything else is a model.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from audio_batch.schedule.simulation import (
    EARLIEST_FINISH,
    POLICY_NAMES,
    SimulatedDevice,
    SimulatedJob,
    Timeline,
    longest_first,
)
from audio_batch.schedule.speeds import DeviceSpeed
from audio_batch.schedule.trials import tried

_LOG_NORMAL_DRAWS = 3
_LONG_PLACES = (0, 66, 133, 199)


@dataclass(frozen=True, slots=True)
class Case:
    """Work that is tried under every policy.

    Attributes:
        drawn: one order or draw of the jobs after the other.
        optimum_s: what no schedule beats, where somebody worked it out; else None.
        measured: what was seen on real GPUs, in words; "" where nobody has.
        relative: times are told as a multiple of the bound.
    """

    title: str
    devices: tuple[SimulatedDevice, ...]
    drawn: tuple[tuple[SimulatedJob, ...], ...]
    optimum_s: float | None = None
    measured: str = ""
    noise: float = 0.0
    relative: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """A case under a policy, over all its draws and repeats. Ratios are makespans over bounds."""

    case: Case
    policy: str
    runs: tuple[Timeline, ...]

    def quantile(self, share: float, *, relative: bool = False) -> float:
        """Of the makespans, or of the ratios: 0 the least, 0.5 the median, 1 the most."""
        values = sorted(run.ratio if relative else run.makespan_s for run in self.runs)
        return values[min(len(values) - 1, math.ceil(share * (len(values) - 1)))]

    @property
    def bound_s(self) -> float:
        """The bound of the first draw."""
        return self.runs[0].bound_s


def cases() -> tuple[Case, ...]:
    """Every case."""
    two = (_device("3090", 8), _device("1660", 24))
    four_two = tuple(_device(f"g{n}", 8 if n < 4 else 24) for n in range(6))
    eight = tuple(_device(f"g{n}", 1 / 60) for n in range(8))
    log_normal = tuple(_log_normal(seed) for seed in range(_LOG_NORMAL_DRAWS))
    one_long = tuple(_jobs([1.0] * place + [5.0] + [1.0] * (199 - place)) for place in _LONG_PLACES)
    fast2 = SimulatedDevice("3090", 2, DeviceSpeed(0.0, {1: 8.0, 2: 13.5}))
    return (
        Case("6 equal files, 8 s", two[:1], (_files(6),), 48, "49"),
        Case("6 equal files, 24 s", two[1:], (_files(6),), 144, "147"),
        Case("6 equal files, 8 s, 2 at a time: 13.5 s", (fast2,), (_files(6),), 40.5, "40"),
        Case("6 equal files, 8 s + 24 s", two, (_files(6),), 40, "49 (first come)"),
        Case("6 equal files, 8 s + 24 s, 3 shared slots", _slots(two, 3), (_files(6),), 40),
        Case("20 equal files, 8 s + 24 s", two, (_files(20),), 120, "132 (first come)"),
        Case("20 equal files, 8 s + 24 s, 2 shared slots", _slots(two, 2), (_files(20),), 120),
        Case("500 log-normal files, 8 equal GPUs", eight, log_normal, relative=True),
        Case("the same, 20 % noise", eight, log_normal, noise=0.2, relative=True),
        Case("200 files, one of 5x, 4 x 8 s + 2 x 24 s", four_two, one_long, 352),
        Case("the same, 20 % noise", four_two, one_long, noise=0.2),
    )  # fmt: skip


def results(repeats: int, seed: int = 0) -> Iterator[Result]:
    """Every case under every policy, case by case.

    Args:
        repeats: how often each draw is tried where there is noise.
    """
    for case in cases():
        for policy in POLICY_NAMES:
            runs: list[Timeline] = []
            for jobs in case.drawn:
                ordered = longest_first(jobs) if policy == EARLIEST_FINISH else jobs
                trial = tried(
                    policy, ordered, case.devices, noise=case.noise, seed=seed, repeats=repeats
                )
                runs += trial.runs
            yield Result(case, policy, tuple(runs))


def _device(name: str, per_audio_s: float) -> SimulatedDevice:
    return SimulatedDevice(name, 1, DeviceSpeed(0.0, {1: per_audio_s}))


def _slots(devices: Sequence[SimulatedDevice], slots: int) -> tuple[SimulatedDevice, ...]:
    """The same devices with slots that share them and gain nothing by it."""
    return tuple(SimulatedDevice(device.id, slots, device.speed) for device in devices)


def _files(count: int) -> tuple[SimulatedJob, ...]:
    return _jobs([1.0] * count)


def _jobs(durations_s: Sequence[float]) -> tuple[SimulatedJob, ...]:
    return tuple(SimulatedJob(str(number), d) for number, d in enumerate(durations_s))


def _log_normal(seed: int) -> tuple[SimulatedJob, ...]:
    """500 recordings, median 600 s, sigma 1."""
    drawn = random.Random(seed)
    return _jobs([600.0 * math.exp(drawn.gauss(0.0, 1.0)) for _ in range(500)])
