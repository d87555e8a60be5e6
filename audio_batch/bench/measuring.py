"""Running commands and seeing what they take: time, processors, memory, devices.

The clock and the processor time are the kernel's; what is sampled (every 150 ms, by a thread of
this process) is memory, the devices, and how busy the processors were in the middle of the run.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from audio_batch.assembly import usable_cores
from audio_batch.gpu.probe import SOURCES, FallbackProbe
from audio_batch.gpu.snapshot import GpuSnapshot

INTERVAL_S = 0.15
_RELIST_EVERY = 5  # samples between two looks for new processes: listing them all is what costs
_MIDDLE = (0.25, 0.75)


@dataclass(frozen=True, slots=True)
class DeviceUsage:
    """One GPU during a run. Utilisation and memory are the whole GPU's, others' work included."""

    uuid: str
    name: str
    mean_utilization_pct: float | None
    middle_utilization_pct: float | None
    peak_used_bytes: int | None
    used_before_bytes: int | None


@dataclass(frozen=True, slots=True)
class Usage:
    """What a sequence of commands took.

    `cpu_s` is processor time of the processes and all that they started; `cpu_pct` is it in percent
    of all cores over the wall time, `middle_cpu_pct` the same from the first to the last quarter.
    `machine_cpu_pct` counts everybody's work: where it is much more, others were at work too.
    `peak_rss_bytes` is the most that was resident at once, shared pages counted in each process.
    """

    wall_s: float
    cpu_s: float
    cpu_pct: float
    middle_cpu_pct: float | None
    machine_cpu_pct: float | None
    peak_rss_bytes: int
    devices: tuple[DeviceUsage, ...]
    samples: int


@dataclass(frozen=True, slots=True)
class Ran:
    """How commands ended: their exit codes in order, when the first began (`time.time()`)."""

    codes: tuple[int, ...]
    began_at: float
    usage: Usage


@dataclass(slots=True)
class _Series:
    """What the sampler saw, one entry a sample."""

    at_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    rss_bytes: list[int] = field(default_factory=list)
    machine_pct: list[float] = field(default_factory=list)
    gpus: dict[str, list[tuple[float, GpuSnapshot]]] = field(default_factory=dict)


class _Tree:
    """The processes below this one that belong to the measured commands."""

    def __init__(self) -> None:
        self._known: dict[int, psutil.Process] = {}
        self._cpu_s: dict[int, float] = {}
        self._looks = 0

    def read(self, roots: Sequence[int]) -> tuple[float, int]:
        """Processor seconds so far (of the dead too, as last seen) and resident bytes now."""
        if self._looks % _RELIST_EVERY == 0 or any(root not in self._known for root in roots):
            self._relist(roots)
        self._looks += 1
        resident = 0
        for pid, process in list(self._known.items()):
            try:
                with process.oneshot():
                    times = process.cpu_times()
                    resident += process.memory_info().rss
                self._cpu_s[pid] = times.user + times.system
            except psutil.Error:
                del self._known[pid]
        return sum(self._cpu_s.values()), resident

    def _relist(self, roots: Sequence[int]) -> None:
        for root in roots:
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(root)
                for one in (process, *process.children(recursive=True)):
                    self._known.setdefault(one.pid, one)


class Sampler:
    """One thread that looks at running commands and at the GPUs. A context manager."""

    def __init__(self, interval_s: float = INTERVAL_S) -> None:
        self._interval_s = interval_s
        self._roots: tuple[int, ...] = ()
        self._stopping = threading.Event()
        self._series = _Series()
        self._thread = threading.Thread(target=self._run, name="bench-sampler", daemon=True)
        self._probe = FallbackProbe(SOURCES)
        self._before = {gpu.uuid: gpu for gpu in self._probe.snapshots()}
        self._began_s = time.perf_counter()

    def watch(self, pids: Sequence[int]) -> None:
        """Say which processes are the commands at present; their children are found."""
        self._roots = tuple(pids)

    def __enter__(self) -> Sampler:
        self._began_s = time.perf_counter()
        psutil.cpu_percent()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()
        self._probe.close()

    def _run(self) -> None:
        tree, seen = _Tree(), self._series
        while not self._stopping.wait(self._interval_s):
            cpu_s, resident = tree.read(self._roots)
            now_s = time.perf_counter() - self._began_s
            seen.at_s.append(now_s)
            seen.cpu_s.append(cpu_s)
            seen.rss_bytes.append(resident)
            seen.machine_pct.append(psutil.cpu_percent())
            for gpu in self._probe.snapshots():
                seen.gpus.setdefault(gpu.uuid, []).append((now_s, gpu))

    def usage(self, wall_s: float, cpu_s: float | None) -> Usage:
        """What was seen; after the end. `cpu_s` is the kernel's sum, None where there is none."""
        seen, cores = self._series, usable_cores()
        sampled_s = seen.cpu_s[-1] if seen.cpu_s else 0.0
        total_s = max(sampled_s, cpu_s or 0.0)
        low_s, high_s = (part * wall_s for part in _MIDDLE)
        middle = [n for n, at_s in enumerate(seen.at_s) if low_s <= at_s <= high_s]
        middle_pct = None
        if len(middle) > 1:
            first, last = middle[0], middle[-1]
            spent_s = seen.cpu_s[last] - seen.cpu_s[first]
            middle_pct = 100 * spent_s / (seen.at_s[last] - seen.at_s[first]) / cores
        return Usage(
            wall_s=round(wall_s, 3),
            cpu_s=round(total_s, 3),
            cpu_pct=round(100 * total_s / wall_s / cores, 1),
            middle_cpu_pct=_rounded(middle_pct),
            machine_cpu_pct=_rounded(_mean(seen.machine_pct)),
            peak_rss_bytes=max(seen.rss_bytes, default=0),
            devices=tuple(self._device(uuid, low_s, high_s) for uuid in seen.gpus),
            samples=len(seen.at_s),
        )

    def _device(self, uuid: str, low_s: float, high_s: float) -> DeviceUsage:
        seen = self._series.gpus[uuid]
        used = [_used_bytes(gpu) for _, gpu in seen]
        busy = [(at_s, gpu.utilization_pct) for at_s, gpu in seen]
        middle = [pct for at_s, pct in busy if low_s <= at_s <= high_s and pct is not None]
        before = self._before.get(uuid)
        return DeviceUsage(
            uuid=uuid,
            name=seen[0][1].name,
            mean_utilization_pct=_rounded(_mean([pct for _, pct in busy if pct is not None])),
            middle_utilization_pct=_rounded(_mean(middle)),
            peak_used_bytes=max((one for one in used if one is not None), default=None),
            used_before_bytes=_used_bytes(before) if before else None,
        )


def run_commands(
    commands: Sequence[Sequence[str]],
    *,
    log: Path,
    at_once: int = 1,
    environ: Mapping[str, str] | None = None,
) -> Ran:
    """Run commands to their end, `at_once` side by side, in order, and see what they take.

    What they print goes to the file `log`. On an interruption they are ended too.
    """
    waiting, running, codes = list(enumerate(commands)), dict[int, subprocess.Popen[bytes]](), {}
    with Sampler() as sampler, log.open("ab") as talk:
        before_s = _children_cpu_s()
        began_at, began_s = time.time(), time.perf_counter()
        try:
            while waiting or running:
                while waiting and len(running) < at_once:
                    number, command = waiting.pop(0)
                    running[number] = subprocess.Popen(
                        command,
                        stdin=subprocess.DEVNULL,
                        stdout=talk,
                        stderr=subprocess.STDOUT,
                        env=environ,
                    )
                    sampler.watch([one.pid for one in running.values()])
                for number in _ended(running):
                    codes[number] = running.pop(number).returncode
            wall_s = time.perf_counter() - began_s
        finally:
            for process in running.values():
                _end(process)
        spent_s = _children_cpu_s()
    cpu_s = None if spent_s is None or before_s is None else spent_s - before_s
    return Ran(
        codes=tuple(codes[number] for number in range(len(commands))),
        began_at=began_at,
        usage=sampler.usage(wall_s, cpu_s),
    )


def _ended(running: Mapping[int, subprocess.Popen[bytes]]) -> list[int]:
    """Wait until one at least has ended."""
    if len(running) == 1:
        for process in running.values():
            process.wait()
    while not (ended := [n for n, process in running.items() if process.poll() is not None]):
        time.sleep(0.01)
    return ended


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process(process.pid).children(recursive=True):
            child.kill()
    process.kill()
    process.wait()


def _children_cpu_s() -> float | None:
    """Processor time of all ended children and theirs, by the kernel; None on Windows."""
    if os.name != "posix":
        return None
    import resource

    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _used_bytes(gpu: GpuSnapshot) -> int | None:
    if gpu.total_bytes is None or gpu.free_bytes is None:
        return None
    return gpu.total_bytes - gpu.free_bytes


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)
