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
        free_bytes: free memory less what is reserved for models that are still loading, None when
            nobody reports it.
        need_bytes: what the waiting task would take there; 0 when it is not known.
    """

    id: str
    active: int
    maximum: int
    utilization_pct: float | None = None
    free_bytes: int | None = None
    need_bytes: int = 0
    out: bool = False


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
        its id, or None when every device is full or out: the task waits.
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


def fitting(states: Sequence[DeviceState]) -> list[DeviceState]:
    """Leave out the devices without memory for the task; a policy chooses among the rest.

    When none has it, the task waits for as long as something of ours runs on one of them and will
    give its memory back. When nothing does, waiting may last for ever (the memory is other
    people's): then the devices with the most free memory stay, and what happens there is a matter
    of handling out-of-memory, not of a queue that stands still.
    """
    candidates = [state for state in states if not state.out]
    fits = [
        state
        for state in candidates
        if state.free_bytes is None or state.need_bytes <= 0 or state.free_bytes >= state.need_bytes
    ]
    if fits or any(state.active for state in candidates):
        return fits
    most = max((state.free_bytes or 0 for state in candidates), default=0)
    return [state for state in candidates if (state.free_bytes or 0) == most]


def _free(states: Sequence[DeviceState]) -> list[DeviceState]:
    return [state for state in states if not state.out and state.active < state.maximum]


EARLIEST_FINISH = "earliest-finish"
"""The policy that decides asset and device together; see `audio_batch.schedule`."""

POLICIES: Mapping[str, Policy] = MappingProxyType(
    {"least-loaded": choose, "first-come": first_come}
)
"""The policies that decide the device alone, by the name that `--policy` takes."""
