"""The machine's memory (RAM, not a GPU's): what is free, what an asset needs, who has to wait.

A kernel that runs out of memory kills without asking, and takes the largest: us. So an asset begins
only where its need leaves `--min-free-ram` free. What is free is the machine's and the container's:
Docker, Slurm and systemd limit memory by control groups, which the machine's own count ignores.
"""

from __future__ import annotations

import math
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import psutil

from audio_batch.errors import UsageError

_UNIT_BYTES = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
    # One letter as Slurm, Docker and Java read it.
    "k": 2**10,
    "m": 2**20,
    "g": 2**30,
    "t": 2**40,
}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)", re.ASCII)

DEFAULT_FLOOR_BYTES = 10**9

UNKNOWN_DURATION_S = 3600.0
"""A recording of unknown length is taken for an hour."""

_SAMPLES_BYTES = 64_000
"""A second of sound: 16,000 floats."""

_FEATURES_BYTES = 900_000
"""A second of sound while its spectrum is taken and speech is looked for (measured: an hour at
once peaks at 3.3 GB, ten minutes at 0.44 GB beside the program)."""

_PART_S = 20 * 60.0
"""The spectrum is never taken of more at once."""

_WINDOW_ON_CPU_BYTES = 300_000_000
"""Activations of one window of 30 s in a batch on a CPU, of a model of medium size."""

_DIARIZATION_BYTES = 400_000
"""A second of sound while its voices are told apart, beside its samples."""

_DIARIZED_PART_S = 3600.0
"""Voices are told apart in no longer pieces."""

_BASE_BYTES = 200_000_000
"""What any task takes: decoder, a block of samples that is joined on, caches, the transcript."""


_AVAILABLE_FRESH_S = 0.05
"""The files of a container's limits take a millisecond."""

_RESIDENT_FRESH_S = 0.5
"""The list of this program's processes takes several, for it is made from that of all."""


def parse_size_bytes(text: str, flag: str) -> int:
    """Bytes of "2GB" (powers of 1000), "1.5GiB" or "2G" (powers of 1024), "500MB" or "0".

    Raises:
        UsageError: it is none of these, or a number without a unit that is not 0; names `flag`.
    """
    found = _SIZE.fullmatch(text.strip().lower())
    unit = found[2] if found else ""
    # "2" is more likely two gigabytes than two bytes: better to ask.
    if not found or unit not in _UNIT_BYTES or (unit == "" and float(found[1]) != 0):
        raise UsageError(
            f"{flag} {text!r} is not a size.",
            remedy="Say it with a unit: 2GB, 500MB, 1.5GiB; or 0.",
        )
    return int(float(found[1]) * _UNIT_BYTES[unit])


# -- what is free --------------------------------------------------------------------------------


def available_bytes() -> int:
    """What this process may still take: of the machine, and of every control group it is in."""
    free = psutil.virtual_memory().available
    if sys.platform == "linux":
        free = min([free, *cgroup_rooms()])
    return max(0, free)


def cgroup_rooms(
    membership: Path = Path("/proc/self/cgroup"), mount: Path = Path("/sys/fs/cgroup")
) -> Iterator[int]:
    """The room in each control group that limits memory, in bytes, from the own group upward.

    Both versions, also side by side. The room is limit - use + inactive file cache, which the
    kernel gives back before it kills. A group that cannot be read limits nothing.

    Args:
        membership: which groups the process is in, as the kernel lists them (cgroups(7)).
        mount: where the groups' file systems are mounted.
    """
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            files = ("memory.max", "memory.current", "inactive_file")
            # Alone, or beside the groups of version 1.
            roots = [mount, mount / "unified"]
        elif "memory" in controllers.split(","):
            files = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            roots = [mount / "memory", mount / controllers]
        else:
            continue
        inside = PurePosixPath(group.lstrip("/"))
        for root in roots:
            # In a container the path may be that of the host, while the mount shows only its part:
            # then the root stands for the container.
            for folder in (inside, *inside.parents):
                room = _room(root / folder, *files)
                if room is not None:
                    yield room


def _room(folder: Path, limit_name: str, used_name: str, cache_name: str) -> int | None:
    try:
        limit = (folder / limit_name).read_text(encoding="ascii").strip()
        used = int((folder / used_name).read_text(encoding="ascii"))
        stat = (folder / "memory.stat").read_text(encoding="ascii")
    except (OSError, ValueError):
        return None
    if not limit.isdecimal():  # "max"
        return None
    cache = re.search(rf"^{cache_name} (\d+)$", stat, flags=re.M)
    return int(limit) - used + (int(cache[1]) if cache else 0)


def resident_bytes() -> int:
    """Memory that this process and its children hold. Pages they share count more than once."""
    total = 0
    me = psutil.Process()
    for process in (me, *me.children(recursive=True)):
        try:
            total += process.memory_info().rss
        except psutil.Error:  # it has just ended
            continue
    return total


def kept_for(seconds: float, read: Callable[[], int]) -> Callable[[], int]:
    """A reading that is taken again only when it is older: of many tiny assets each asks for it."""
    taken_at_s, value = -math.inf, 0

    def latest() -> int:
        nonlocal taken_at_s, value
        now_s = time.monotonic()
        if now_s - taken_at_s >= seconds:
            taken_at_s, value = now_s, read()
        return value

    return latest


# -- what an asset needs -------------------------------------------------------------------------


def need_bytes(
    duration_s: float | None, *, batch_size: int, diarize: bool, on_cpu: bool = False
) -> int:
    """The most memory that one task takes beside the models, which are loaded before.

    Grows with the length by the samples alone; all else is done in parts.

    Args:
        duration_s: the recording's length; None is taken for an hour.
        batch_size: windows that are computed at once.
        diarize: whether its voices are told apart.
        on_cpu: whether the engine computes in this memory, not in a GPU's.
    """
    heard_s = UNKNOWN_DURATION_S if duration_s is None else duration_s
    features = _FEATURES_BYTES * min(heard_s, _PART_S)
    if on_cpu:
        features += _WINDOW_ON_CPU_BYTES * max(1, batch_size)
    voices = _DIARIZATION_BYTES * min(heard_s, _DIARIZED_PART_S) if diarize else 0.0
    # One stage after the other: the larger counts.
    return int(_BASE_BYTES + _SAMPLES_BYTES * heard_s + max(features, voices))


# -- who has to wait -----------------------------------------------------------------------------


def admitted(need: int, *, available: int, outstanding: int, floor: int) -> bool:
    """Whether so many bytes can be taken while `floor` stays free.

    Args:
        available: free at this moment.
        outstanding: what tasks that run will still take of it.
        floor: what is to stay free; 0 lets everything in.
    """
    return floor == 0 or available - outstanding - need >= floor


class MemoryFloor:
    """Keeps assets waiting that would take the memory below its floor. One thread only.

    A task that has just begun has not taken yet what it will need. What those that run will still
    take is the sum of their needs, less what the program has grown by since nothing ran.

    Args:
        min_free_bytes: the floor; 0 never lets anything wait.
        warn: told once when an asset is begun alone in too little memory.
        available, resident: read the memory; for tests.
    """

    def __init__(
        self,
        min_free_bytes: int,
        warn: Callable[[str], None],
        *,
        available: Callable[[], int] | None = None,
        resident: Callable[[], int] | None = None,
    ) -> None:
        self._floor = min_free_bytes
        self._warn = warn
        self._available = available or kept_for(_AVAILABLE_FRESH_S, available_bytes)
        # Too old it is too small for what runs, and others wait a little longer than they must.
        self._resident = resident or kept_for(_RESIDENT_FRESH_S, resident_bytes)
        self._idle = 0
        self._needs: dict[str, int] = {}
        self._warned = False

    def admits(self, need: int) -> bool:
        """Whether a task of this need may begin now; with nothing running it always may.

        Waiting would not make room then: nobody of ours holds any.
        """
        if self._floor == 0:
            return True
        free = self._available()
        if not self._needs:
            self._idle = self._resident()
            if not (
                self._warned or admitted(need, available=free, outstanding=0, floor=self._floor)
            ):
                self._warned = True
                self._warn(
                    f"Only {free / 1e9:.1f} GB of memory are free; about {need / 1e9:.1f} GB are "
                    f"needed beside the {self._floor / 1e9:.1f} GB of --min-free-ram. Such "
                    "recordings are done one at a time. A smaller --batch-size needs less."
                )
            return True
        grown = max(0, self._resident() - self._idle)
        outstanding = max(0, sum(self._needs.values()) - grown)
        return admitted(need, available=free, outstanding=outstanding, floor=self._floor)

    def begun(self, task: str, need: int) -> None:
        """A task has begun."""
        self._needs[task] = need

    def ended(self, task: str) -> None:
        """A task has ended, however. Unknown ones are ignored."""
        self._needs.pop(task, None)
