"""How many tasks a device may run at once: `--max-per-gpu`, and what is right without it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from audio_batch.errors import UsageError
from audio_batch.gpu.devices import Device

DEFAULT_MAX_PER_GPU = 2
"""Tasks a CUDA device runs at once when nobody says.

The seed's default of 5 was found with a model for every task. Here the tasks of a device share one
model, which is busy with one batch at a time: the second task decodes, writes and finds speech
while the first holds the GPU, and more than two mainly hold memory.
"""

_THREADS_PER_CPU_TASK = 4  # what CTranslate2 itself gives one worker; below it a task only slows
_ENTRY = re.compile(r"(?:(cpu|(?:cuda:)?[0-9]{1,4}):)?([0-9]{1,3})")
_HOW = "Write one number, one a device such as 2,1, or device:number such as 0:2,1:1 (1 to 999)."


def parse_max_per_gpu(text: str, devices: Sequence[Device]) -> dict[str, int]:
    """Read `5`, `2,1` (in the order of `devices`), `0:2,1:1` or `cuda:0:2,cuda:1:1`.

    Numbers before a colon are CUDA's. Every device gets a cap of at least one.

    Returns:
        cap by `Device.id`, in the order of `devices`.

    Raises:
        UsageError: not of these forms, a device too many, too few, unknown or twice.
    """
    shown = repr(text if len(text) <= 80 else text[:77] + "...")
    named: list[str | None] = []
    caps: list[int] = []
    for part in text.strip().lower().split(","):
        match = _ENTRY.fullmatch(part.strip())
        if match is None or int(match[2]) == 0:
            raise UsageError(f"--max-per-gpu {shown} cannot be read.", remedy=_HOW)
        named.append(match[1] and _device_id(match[1]))
        caps.append(int(match[2]))
    ids = [device.id for device in devices]
    if named == [None]:
        return dict.fromkeys(ids, caps[0])
    if all(name is None for name in named):
        if len(caps) != len(ids):
            raise UsageError(
                f"--max-per-gpu {shown} gives {len(caps)} numbers for {_counted(ids)}.",
                remedy=_HOW,
            )
        return dict(zip(ids, caps, strict=True))
    by_name: dict[str, int] = {}
    for name, cap in zip(named, caps, strict=True):
        if name is None:
            raise UsageError(
                f"--max-per-gpu {shown} names some devices and not others.", remedy=_HOW
            )
        if name not in ids:
            raise UsageError(f"--max-per-gpu {shown} names {name}; this run uses {_counted(ids)}.")
        if name in by_name:
            raise UsageError(f"--max-per-gpu {shown} names {name} twice.", remedy=_HOW)
        by_name[name] = cap
    missing = [device_id for device_id in ids if device_id not in by_name]
    if missing:
        raise UsageError(f"--max-per-gpu {shown} says nothing of {', '.join(missing)}.")
    return {device_id: by_name[device_id] for device_id in ids}


def later_max_per_gpu(text: str) -> int:
    """What `parse_max_per_gpu` has read, for a device that joins later: the last number."""
    return int(text.strip().rpartition(",")[2].rpartition(":")[2])


def default_max_per_gpu(
    devices: Sequence[Device], *, cores: int, free_bytes: int, need_bytes: int
) -> dict[str, int]:
    """Say the caps of a run that names none: `DEFAULT_MAX_PER_GPU` a GPU, `cpu_slots` the CPU.

    Args:
        cores, free_bytes, need_bytes: the host's, as for `cpu_slots`.
    """
    on_cpu = cpu_slots(cores, free_bytes, need_bytes)
    return {
        device.id: on_cpu if device.kind == "cpu" else DEFAULT_MAX_PER_GPU for device in devices
    }


def cpu_slots(cores: int, free_bytes: int, need_bytes: int) -> int:
    """Say how many tasks the CPU takes: one for every four cores, as far as memory goes, ≥ 1.

    Args:
        cores: logical cores this process may use.
        free_bytes: host memory available now.
        need_bytes: what one task takes at its peak beside the shared model; 0 or less: not known.
    """
    by_cores = cores // _THREADS_PER_CPU_TASK
    by_memory = free_bytes // need_bytes if need_bytes > 0 else by_cores
    return max(1, min(by_cores, by_memory))


def _device_id(name: str) -> str:
    return name if name == "cpu" else f"cuda:{int(name.removeprefix('cuda:'))}"


def _counted(ids: Sequence[str]) -> str:
    return f"{len(ids)} device{'s' if len(ids) != 1 else ''} ({', '.join(ids)})"
