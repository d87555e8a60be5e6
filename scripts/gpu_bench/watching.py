"""What a device, this process and the machine do while something is measured."""

from __future__ import annotations

import os
import statistics
import threading
import time
from typing import Any

import psutil
from machine import Absent, Gpu

PERIOD_S = 0.15


class Watch:
    """Samples from a thread of its own between entering and leaving.

    Args:
        gpu: None on a CPU.
        idle_free_bytes: the GPU's free memory before anything was loaded.
    """

    def __init__(self, gpu: Gpu | None, idle_free_bytes: int) -> None:
        self._gpu = gpu
        self._idle_free_bytes = idle_free_bytes
        self._process = psutil.Process()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._busy_pct: list[float] = []
        self._machine_pct: list[float] = []
        self._least_free_bytes = idle_free_bytes
        self._peak_rss_bytes = 0

    def __enter__(self) -> Watch:
        self._begun_s, self._cpu_begun_s = time.monotonic(), self._cpu_s()
        psutil.cpu_percent()  # the first answer means nothing: it is since the call before
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._wall_s = time.monotonic() - self._begun_s
        self._used_s = self._cpu_s() - self._cpu_begun_s
        self._ended.set()
        self._thread.join()

    def found(self) -> dict[str, Any]:
        """Shares from 0 to 1 and bytes; None where nobody tells."""
        cores = os.cpu_count() or 1
        return {
            "device_busy_share": _share(self._machine_pct if self._gpu is None else self._busy_pct),
            "machine_cpu_share": _share(self._machine_pct),
            "process_cpu_share": round(self._used_s / max(1e-9, self._wall_s * cores), 4),
            "peak_vram_bytes": (
                None if self._gpu is None else self._idle_free_bytes - self._least_free_bytes
            ),
            "peak_rss_bytes": self._peak_rss_bytes,
            "samples": len(self._machine_pct),
        }

    def _cpu_s(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)

    def _sample(self) -> None:
        last = False
        while not last:
            last = self._ended.wait(PERIOD_S)
            self._machine_pct.append(psutil.cpu_percent())
            self._peak_rss_bytes = max(self._peak_rss_bytes, self._process.memory_info().rss)
            if self._gpu is None:
                continue
            try:
                busy_pct, free_bytes = self._gpu.utilization_pct(), self._gpu.free_bytes()
            except Absent:  # for a moment, or for ever: the measurement itself will tell
                continue
            self._least_free_bytes = min(self._least_free_bytes, free_bytes)
            if busy_pct is not None:
                self._busy_pct.append(busy_pct)


def _share(percentages: list[float]) -> float | None:
    return round(statistics.fmean(percentages) / 100, 4) if percentages else None
