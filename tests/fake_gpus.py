"""GPUs that are not there, and a probe that says of them what it is told."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from audio_batch.gpu.snapshot import GpuSnapshot, ProbeError

_GIB = 1024**3


def fake_gpu(
    index: int,
    *,
    uuid: str | None = None,
    name: str = "Simulated GPU",
    total_bytes: int | None = 24 * _GIB,
    free_bytes: int | None = 24 * _GIB,
    utilization_pct: float | None = 0.0,
    compute_capability: tuple[int, int] | None = (8, 6),
    peak_core_hz: float | None = None,
) -> GpuSnapshot:
    """Make up a GPU whose UUID and bus address follow from its index."""
    return GpuSnapshot(
        uuid=uuid or f"GPU-{index:08x}-0000-4000-8000-{index:012x}",
        index=index,
        pci_bus_id=f"00000000:{index + 1:02x}:00.0",
        name=name,
        total_bytes=total_bytes,
        free_bytes=free_bytes,
        utilization_pct=utilization_pct,
        taken_at_s=time.monotonic(),
        compute_capability=compute_capability,
        peak_core_hz=peak_core_hz,
    )


class FakeProbe:
    """Answers the given readings one after the other, and the last one from then on.

    Each reading is stamped with the time it is asked for. An exception among them is raised in
    its turn. `closed` says whether the probe was given back.
    """

    name = "fake"

    def __init__(self, readings: Sequence[Sequence[GpuSnapshot] | ProbeError]) -> None:
        if not readings:
            raise ValueError("a FakeProbe needs at least one reading")
        self._readings = list(readings)
        self.closed = False

    def snapshots(self) -> tuple[GpuSnapshot, ...]:
        reading = self._readings.pop(0) if len(self._readings) > 1 else self._readings[0]
        if isinstance(reading, ProbeError):
            raise reading
        now_s = time.monotonic()
        return tuple(replace(snapshot, taken_at_s=now_s) for snapshot in reading)

    def close(self) -> None:
        self.closed = True
