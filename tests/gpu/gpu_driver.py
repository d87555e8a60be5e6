"""Run by the tests in a process of its own, over the stub library; prints one JSON object.

gpu_driver.py nvml N     N readings of NvmlProbe, or the error that ended them
gpu_driver.py chain N    N readings of the whole chain: source, GPUs, log
gpu_driver.py codes      how NvmlProbe takes every error code that pynvml knows
gpu_driver.py processes  how many processes compute on each GPU
gpu_driver.py balance N  N leases on every GPU, the status line after each, log
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from audio_batch.gpu.balancer import Balancer
from audio_batch.gpu.devices import resolve_devices
from audio_batch.gpu.nvml import NvmlProbe
from audio_batch.gpu.probe import Sampler, open_probe
from audio_batch.gpu.snapshot import GpuSnapshot, ProbeError

log: list[tuple[str, str]] = []


class _Keep(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        log.append((record.levelname, record.getMessage()))


def _plain(snapshots: tuple[GpuSnapshot, ...]) -> list[dict[str, Any]]:
    return [asdict(snapshot) for snapshot in snapshots]


def nvml(count: int) -> dict[str, Any]:
    readings: list[Any] = []
    try:
        probe = NvmlProbe()
        for _ in range(count):
            readings.append(_plain(probe.snapshots()))
        probe.close()
        probe.close()
    except ProbeError as error:
        return {"readings": readings, "error": str(error), "type": type(error).__name__}
    return {"readings": readings, "error": None}


def chain(count: int) -> dict[str, Any]:
    probe = open_probe()
    readings = []
    for _ in range(count):
        gpus = _plain(probe.snapshots())
        readings.append({"source": probe.name, "gpus": gpus})
    probe.close()
    return {"readings": readings}


def codes() -> dict[str, Any]:
    import pynvml
    from stub_nvml import gpu, write_spec

    probe = NvmlProbe()
    taken = {}
    names = [name for name in dir(pynvml) if name.startswith("NVML_ERROR_")]
    for place in ("utilization_error", "handle_error"):
        for name in names:
            broken = gpu(1, **{place: getattr(pynvml, name)})
            write_spec(Path(os.environ["STUB_NVML_SPEC"]), [gpu(0), broken])
            try:
                found = probe.snapshots()
            except ProbeError:
                answer = "source"
            else:
                answer = "gpu" if len(found) == 1 else "metric"
                assert len(found) == 1 or found[1].utilization_pct is None
            taken[f"{place} {name}"] = answer
    return {"taken": taken}


def processes() -> dict[str, Any]:
    probe = NvmlProbe()
    try:
        return {"counts": probe.process_counts()}
    except ProbeError as error:
        return {"error": str(error)}


def balance(count: int) -> dict[str, Any]:
    with Sampler(interval_s=0.02) as sampler:
        devices = resolve_devices("auto", sampler.latest(), environ=os.environ)
        balancer = Balancer(devices, dict.fromkeys([d.id for d in devices], 5), sampler)
        leases, lines = [], []
        for _ in range(count):
            lease = balancer.try_lease()
            assert lease is not None
            leases.append(lease)
            lines.append(balancer.status_line())
        for lease in leases:
            lease.release()
        devices_text = [[d.id, d.uuid, d.name] for d in devices]
    threads = [thread.name for thread in threading.enumerate()]
    return {
        "devices": devices_text,
        "leases": [lease.device.id for lease in leases],
        "lines": lines,
        "threads": threads,
        "heavy": [name for name in ("torch", "ctranslate2", "numpy") if name in sys.modules],
    }


if __name__ == "__main__":
    logger = logging.getLogger("audio_batch.gpu")
    logger.setLevel(logging.DEBUG)
    logger.addHandler(_Keep())
    mode, *rest = sys.argv[1:]
    modes: dict[str, Callable[..., dict[str, Any]]] = {
        "nvml": nvml,
        "chain": chain,
        "codes": codes,
        "processes": processes,
        "balance": balance,
    }
    answer = modes[mode](*map(int, rest))
    print(json.dumps({**answer, "log": log}))
