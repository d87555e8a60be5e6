"""A policy tried many times, each with a noise of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median, quantiles

from audio_batch.schedule.simulation import SimulatedDevice, SimulatedJob, Timeline, simulate
from audio_batch.schedule.speeds import Speeds


@dataclass(frozen=True, slots=True)
class Trial:
    """The runs of one policy, the shortest first; never none."""

    policy: str
    runs: tuple[Timeline, ...]

    @property
    def makespan_s(self) -> float:
        """The median."""
        return median(run.makespan_s for run in self.runs)

    @property
    def p95_s(self) -> float:
        """The makespan that 95 % of the runs keep; of a single run its own."""
        times = [run.makespan_s for run in self.runs]
        return quantiles(times, n=20, method="inclusive")[-1] if len(times) > 1 else times[0]

    @property
    def ratio(self) -> float:
        """The median of makespan over bound."""
        return median(run.ratio for run in self.runs)

    @property
    def p95_ratio(self) -> float:
        """As `p95_s`, of makespan over bound."""
        ratios = [run.ratio for run in self.runs]
        return quantiles(ratios, n=20, method="inclusive")[-1] if len(ratios) > 1 else ratios[0]

    @property
    def typical(self) -> Timeline:
        """A run in the middle."""
        return self.runs[len(self.runs) // 2]


def tried(
    policy: str,
    jobs: Sequence[SimulatedJob],
    devices: Sequence[SimulatedDevice],
    *,
    noise: float = 0.0,
    seed: int = 0,
    repeats: int = 1,
    cold: bool = False,
    copies: bool = False,
) -> Trial:
    """Try a policy; without noise once, since every run would be the same.

    Args:
        jobs: in the order in which they are to be done.
        cold: the schedule knows no speed at first and learns them as it goes.
    """
    runs = [
        simulate(
            jobs,
            devices,
            policy,
            noise=noise,
            seed=seed + number,
            speeds=Speeds() if cold else None,
            copies=copies,
        )
        for number in range(repeats if noise > 0 else 1)
    ]
    return Trial(policy, tuple(sorted(runs, key=lambda run: run.makespan_s)))
