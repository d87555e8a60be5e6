"""Which device takes the next task: pure functions of numbers, without a GPU, a clock or a lock."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class DeviceState:
    """What a policy knows of one device at the moment of the decision.

    Attributes:
        active, maximum: tasks that run there, and how many may.
        utilization_pct: 0 to 100, None when nobody reports it.
    """

    id: str
    active: int
    maximum: int
    utilization_pct: float | None = None


Policy = Callable[[Sequence[DeviceState]], str | None]


def score(active: int, maximum: int, utilization_pct: float | None) -> float:
    """Rate how loaded a device is, 0 (idle) to 100 (full and busy); the lowest is the best.

    The seed's formula: active / maximum * 50 + utilisation / 100 * 50. Without a utilisation the
    half that is known is stretched to the same range, as though the GPU were as busy as its slots
    are: counted as 0 %, a GPU that cannot say would look idle and draw every task.
    """
    tasks = active / maximum
    if utilization_pct is None:
        return tasks * 100
    return tasks * 50 + min(100.0, max(0.0, utilization_pct)) / 100 * 50


def choose(states: Sequence[DeviceState]) -> str | None:
    """Pick the least loaded device by `score`; ties go to fewest tasks, then to the first.

    Returns:
        its id, or None when every device is full: the task waits.
    """
    free = _free(states)
    best = min(
        free,
        key=lambda state: (
            score(state.active, state.maximum, state.utilization_pct),
            state.active,
        ),
        default=None,
    )
    return best.id if best else None


def first_come(states: Sequence[DeviceState]) -> str | None:
    """Pick the first device with a free slot, or None."""
    return next((state.id for state in _free(states)), None)


def _free(states: Sequence[DeviceState]) -> list[DeviceState]:
    return [state for state in states if state.active < state.maximum]


EARLIEST_FINISH = "earliest-finish"
"""The policy that decides asset and device together; see `audio_batch.schedule`."""

POLICIES: Mapping[str, Policy] = MappingProxyType(
    {"least-loaded": choose, "first-come": first_come}
)
"""The policies that decide the device alone, by the name that `--policy` takes."""
