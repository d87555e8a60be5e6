"""What no schedule can beat: a lower bound of the makespan (McNaughton 1959; Gonzalez 1977).

T ≥ max(ΣD/ΣR, Dmax/Rmax, and for each k the k longest jobs over the k fastest slots). Here with
jobs that cost a_g + s_{g,k} · D: the work w of a job is what it costs on one device taken as the
measure, and R what every device does of that in a second at best. Each device is the measure once;
the highest bound counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from audio_batch.schedule.speeds import JobCost


def lower_bound_s(durations_s: Sequence[float], devices: Sequence[tuple[JobCost, int]]) -> float:
    """Seconds that these jobs take at least.

    Args:
        devices: the speed of each and its slots.

    Raises:
        ValueError: jobs, and no slot to do them.
    """
    usable = [(speed, slots) for speed, slots in devices if slots > 0]
    if not durations_s:
        return 0.0
    if not usable:
        raise ValueError("jobs without a device have no bound")
    return max(_bound_s(durations_s, usable, measure) for measure, _ in usable)


def _bound_s(
    durations_s: Sequence[float], devices: Sequence[tuple[JobCost, int]], measure: JobCost
) -> float:
    work = sorted((measure.cost_s(1, duration_s) for duration_s in durations_s), reverse=True)
    # A job's rate (its work over its cost there) is monotone in D: an end of the range is the most.
    ends = (min(durations_s), max(durations_s))
    rates = _best_rates([_device_rates(measure, *device, ends) for device in devices])
    bound_s = 0.0
    sums = list(accumulate(work))
    for count, rate in enumerate(rates, 1):
        done = sums[min(count, len(sums)) - 1]
        if done > 0:
            bound_s = max(bound_s, done / rate if rate > 0 else 0.0)
    return max(bound_s, sums[-1] / rates[-1] if rates[-1] > 0 else 0.0)


def _device_rates(
    measure: JobCost, speed: JobCost, slots: int, ends: tuple[float, float]
) -> list[float]:
    """Work a second on a device with up to 0, 1, … `slots` jobs there."""
    rates = [0.0]
    for active in range(1, slots + 1):
        each = max(_rate(measure.cost_s(1, d), speed.cost_s(active, d)) for d in ends)
        rates.append(max(rates[-1], active * each))
    return rates


def _rate(work: float, cost_s: float) -> float:
    return work / cost_s if cost_s > 0 else (float("inf") if work > 0 else 0.0)


def _best_rates(devices: Sequence[Sequence[float]]) -> list[float]:
    """Work a second with 1, 2, … jobs in all, spread over the devices as is best."""
    best = [0.0]
    for rates in devices:
        best = [
            max(
                best[count - here] + rates[here]
                for here in range(len(rates))
                if 0 <= count - here < len(best)
            )
            for count in range(len(best) + len(rates) - 1)
        ]
    return best[1:]
