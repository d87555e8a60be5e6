"""What is known of a device now: its GPU's last snapshot, or the host's own figures."""

from __future__ import annotations

import time
from dataclasses import dataclass

import psutil

from audio_batch.gpu.devices import Device
from audio_batch.gpu.probe import Sampler
from audio_batch.gpu.snapshot import GpuSnapshot
from audio_batch.host_memory import available_bytes

# A source that hangs leaves its last snapshot behind. After this long it says nothing about now.
_STALE_AFTER_S = 15.0
# psutil's percentage is the mean since it was last asked: asked too soon it means nothing.
_HOST_INTERVAL_S = 0.5
# The host is asked for at each assignment; the files of a container's limits take a millisecond.
# What is read here is only shown: `host_memory.MemoryFloor` looks by itself.
_HOST_FRESH_S = 0.5


@dataclass(frozen=True, slots=True)
class Reading:
    """Utilisation and memory of one device; None stands for what nobody reports.

    `taken_at_s` is of `time.monotonic()`, None without a reading. `lost` is true once a GPU that
    was reported before is missing from a reading that reports others.
    """

    utilization_pct: float | None = None
    free_bytes: int | None = None
    total_bytes: int | None = None
    taken_at_s: float | None = None
    lost: bool = False


class Readings:
    """Reads devices without blocking; one thread at a time (the balancer's lock sees to it)."""

    def __init__(self, sampler: Sampler | None) -> None:
        self._sampler = sampler
        self._bus_ids: dict[str, str] = {}
        self._host = Reading()
        psutil.cpu_percent(interval=None)  # begins the first interval
        self._host_due_s = time.monotonic() + _HOST_INTERVAL_S

    def read(self, device: Device) -> Reading:
        """Say what is known of `device`; old snapshots count as none."""
        if device.node:
            return Reading()
        if device.kind == "cpu":
            return self._read_host()
        snapshots = self._sampler.latest() if self._sampler else ()
        for snapshot in snapshots:
            if snapshot.uuid == device.uuid:
                self._bus_ids[device.id] = snapshot.pci_bus_id
                return _fresh(snapshot)
        # Its board, not its UUID, must be missing: nvidia-smi does not list MIG instances.
        boards = {snapshot.pci_bus_id for snapshot in snapshots}
        known = self._bus_ids.get(device.id)
        return Reading(lost=bool(boards) and known is not None and known not in boards)

    def _read_host(self) -> Reading:
        now_s = time.monotonic()
        if self._host.taken_at_s is not None and now_s - self._host.taken_at_s < _HOST_FRESH_S:
            return self._host
        total_bytes = psutil.virtual_memory().total
        busy_pct = self._host.utilization_pct
        if now_s >= self._host_due_s:
            busy_pct = psutil.cpu_percent(interval=None)
            self._host_due_s = now_s + _HOST_INTERVAL_S
        self._host = Reading(busy_pct, available_bytes(), total_bytes, now_s)
        return self._host


def _fresh(snapshot: GpuSnapshot) -> Reading:
    if time.monotonic() - snapshot.taken_at_s > _STALE_AFTER_S:
        return Reading(total_bytes=snapshot.total_bytes)
    return Reading(
        snapshot.utilization_pct, snapshot.free_bytes, snapshot.total_bytes, snapshot.taken_at_s
    )
