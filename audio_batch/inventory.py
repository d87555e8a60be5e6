"""The devices of this machine as they are now: what they are, what is free, who else is there."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import psutil

from audio_batch.gpu.cuda import cuda_view, pin_device_order
from audio_batch.gpu.devices import CPU, Device, resolve_devices
from audio_batch.gpu.nvml import NvmlProbe
from audio_batch.gpu.probe import open_probe
from audio_batch.gpu.snapshot import GpuSnapshot, ProbeError
from audio_batch.host_memory import available_bytes

_CPU_INTERVAL_S = 0.2


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """One device; None stands for what nobody reports.

    Attributes:
        total_bytes, free_bytes: a GPU's own memory, or the host's; of the host's what this process
            may still take (a container may allow less than is free).
        utilization_pct: 0 to 100.
        processes: how many compute on it, ours too; None on the CPU.
        peak_core_hz: see `GpuSnapshot`; None on the CPU.
    """

    device: Device
    total_bytes: int | None = None
    free_bytes: int | None = None
    utilization_pct: float | None = None
    processes: int | None = None
    peak_core_hz: float | None = None


@dataclass(frozen=True, slots=True)
class Inventory:
    """The devices, GPUs in CUDA's order first.

    Attributes:
        source: "nvml", "nvidia-smi" or "none".
        problem: why CUDA shows no GPU though a driver is there, or "".
    """

    devices: tuple[DeviceFacts, ...]
    source: str
    problem: str = ""


def take_inventory() -> Inventory:
    """Look at every GPU that CUDA sees, and at the CPU. Takes a second; never raises."""
    pin_device_order(os.environ)
    source, snapshots = _snapshots()
    view = cuda_view(snapshots, os.environ)
    counts = _process_counts() if view.gpus else {}
    found = [
        _gpu(
            Device(f"cuda:{index}", "cuda", index, gpu.uuid, gpu.name, gpu.compute_capability),
            snapshots,
            counts.get(gpu.uuid),
        )
        for index, gpu in enumerate(view.gpus)
    ]
    return Inventory((*found, _cpu()), source, view.problem)


def look_at(spec: str) -> tuple[DeviceFacts, ...]:
    """Look at the devices that `--device` names; see `resolve_devices`.

    Raises:
        UsageError, SetupError: there are no such devices.
    """
    pin_device_order(os.environ)
    # Who asks for the CPU alone must not wait for a driver.
    _, snapshots = ("none", ()) if spec.strip().lower() == "cpu" else _snapshots()
    return tuple(
        _cpu() if device.kind == "cpu" else _gpu(device, snapshots, None)
        for device in resolve_devices(spec, snapshots, environ=os.environ)
    )


def _snapshots() -> tuple[str, tuple[GpuSnapshot, ...]]:
    probe = open_probe()
    try:
        found = probe.snapshots()
        return probe.name, found
    finally:
        probe.close()


def _process_counts() -> dict[str, int]:
    try:
        probe = NvmlProbe()
    except ProbeError:
        return {}
    try:
        return probe.process_counts()
    except ProbeError:
        return {}
    finally:
        probe.close()


def _gpu(device: Device, snapshots: Sequence[GpuSnapshot], processes: int | None) -> DeviceFacts:
    snapshot = next((found for found in snapshots if found.uuid == device.uuid), None)
    if snapshot is None:
        return DeviceFacts(device)
    return DeviceFacts(
        device=device,
        total_bytes=snapshot.total_bytes,
        free_bytes=snapshot.free_bytes,
        utilization_pct=snapshot.utilization_pct,
        processes=processes,
        peak_core_hz=snapshot.peak_core_hz,
    )


def _cpu() -> DeviceFacts:
    return DeviceFacts(
        device=CPU,
        total_bytes=psutil.virtual_memory().total,
        free_bytes=available_bytes(),
        utilization_pct=psutil.cpu_percent(interval=_CPU_INTERVAL_S),
    )
