"""GPU readings by NVML, through `pynvml` (the module of the distribution nvidia-ml-py)."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from audio_batch.gpu.snapshot import (
    GpuSnapshot,
    ProbeAbsent,
    ProbeError,
    normal_bus_id,
    printable,
)

# Return codes of nvml.h (nvmlReturn_t), which never change their numbers. Three classes: what an
# error says about one metric, about one GPU, or about the library as a whole. A code that a later
# NVML adds is taken as "this metric is not to be had".
_NO_METRIC = frozenset(
    {
        2,  # INVALID_ARGUMENT: how some drivers refuse utilisation of a MIG instance
        3,  # NOT_SUPPORTED
        4,  # NO_PERMISSION
        5,  # ALREADY_INITIALIZED
        7,  # INSUFFICIENT_SIZE
        10,  # TIMEOUT
        13,  # FUNCTION_NOT_FOUND: the driver is older than the call
        14,  # CORRUPTED_INFOROM: a warning about the board's flash, the GPU works
        19,  # IN_USE
        20,  # MEMORY: the driver is short of it for this call
        21,  # NO_DATA
        22,  # VGPU_ECC_NOT_SUPPORTED
        23,  # INSUFFICIENT_RESOURCES
        24,  # FREQ_NOT_SUPPORTED
        25,  # ARGUMENT_VERSION_MISMATCH
        26,  # DEPRECATED
        27,  # NOT_READY
        29,  # INVALID_STATE
        30,  # RESET_TYPE_NOT_SUPPORTED
        999,  # UNKNOWN
    }
)
_GPU_GONE = frozenset(
    {
        6,  # NOT_FOUND
        8,  # INSUFFICIENT_POWER: its power cables are not connected
        11,  # IRQ_ISSUE
        15,  # GPU_IS_LOST: fell off the bus
        16,  # RESET_REQUIRED
        28,  # GPU_NOT_FOUND
    }
)
_LIBRARY_NOT_FOUND = 12
_SOURCE_DEAD = frozenset(
    {
        1,  # UNINITIALIZED
        9,  # DRIVER_NOT_LOADED
        _LIBRARY_NOT_FOUND,
        17,  # OPERATING_SYSTEM
        18,  # LIB_RM_VERSION_MISMATCH: the driver was updated without a reboot
    }
)
_NOT_FOUND = 6


class NvmlProbe:
    """Reads every GPU by NVML; a GPU in MIG mode is reported as its instances.

    Any thread may construct and close it; `snapshots()` is for one thread at a time.

    Raises:
        ProbeAbsent: neither the binding nor the driver's library is installed.
        ProbeError: NVML is there but does not start.
    """

    name = "nvml"

    def __init__(self) -> None:
        try:
            import pynvml
        except ImportError as error:
            raise ProbeAbsent("NVML: the Python module pynvml is not installed") from error
        self._nvml: Any = pynvml
        self._open = False
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            if error.value == _LIBRARY_NOT_FOUND:
                raise ProbeAbsent("NVML: the driver's library is not installed") from error
            raise ProbeError(f"NVML: {error}") from error
        self._open = True

    def snapshots(self) -> tuple[GpuSnapshot, ...]:
        """Read every GPU. A lost one is left out; a metric it does not support is None.

        Raises:
            ProbeError: the library fails, or every GPU does.
        """
        found: list[GpuSnapshot] = []
        gone: list[str] = []
        try:
            for index in range(self._nvml.nvmlDeviceGetCount()):
                try:
                    found.extend(self._gpu(index))
                except self._nvml.NVMLError as error:
                    if error.value in _SOURCE_DEAD:
                        raise
                    gone.append(f"GPU {index}: {error}")
        except self._nvml.NVMLError as error:
            raise ProbeError(f"NVML: {error}") from error
        if gone and not found:
            raise ProbeError(f"NVML: {'; '.join(gone)}")
        return tuple(found)

    def process_counts(self) -> dict[str, int]:
        """How many processes compute on each GPU, ours too, by UUID.

        A GPU that does not say is left out (as in MIG mode, where administrators alone are told).

        Raises:
            ProbeError: the library fails.
        """
        nvml = self._nvml
        found: dict[str, int] = {}
        try:
            for index in range(nvml.nvmlDeviceGetCount()):
                try:
                    handle = nvml.nvmlDeviceGetHandleByIndex(index)
                    processes = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
                    found[_text(nvml.nvmlDeviceGetUUID(handle))] = len(processes)
                except nvml.NVMLError as error:
                    if error.value in _SOURCE_DEAD:
                        raise
        except nvml.NVMLError as error:
            raise ProbeError(f"NVML: {error}") from error
        return found

    def close(self) -> None:
        if self._open:
            self._open = False
            with contextlib.suppress(self._nvml.NVMLError):  # a driver that is gone is closed
                self._nvml.nvmlShutdown()

    def _gpu(self, index: int) -> Iterator[GpuSnapshot]:
        """Yield the GPU, or its MIG instances. An error about its identity is an NVMLError."""
        nvml = self._nvml
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        bus_id = normal_bus_id(_text(nvml.nvmlDeviceGetPciInfo(handle).busId))
        capability = self._metric(nvml.nvmlDeviceGetCudaComputeCapability, handle)
        mig_mode = self._metric(nvml.nvmlDeviceGetMigMode, handle)
        if mig_mode is None or mig_mode[0] != 1:
            load = self._metric(nvml.nvmlDeviceGetUtilizationRates, handle)
            busy_pct = None if load is None else min(100.0, float(load.gpu))
            yield self._snapshot(handle, index, bus_id, capability, busy_pct)
            return
        for slot in range(self._metric(nvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0):
            try:
                instance = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, slot)
            except nvml.NVMLError as error:
                if error.value == _NOT_FOUND:  # a slot without an instance
                    continue
                raise
            # NVML has no utilisation of an instance, and its GPU's would be other people's.
            yield self._snapshot(instance, index, bus_id, capability, None)

    def _snapshot(
        self,
        handle: object,
        index: int,
        bus_id: str,
        capability: tuple[int, int] | None,
        busy_pct: float | None,
    ) -> GpuSnapshot:
        nvml = self._nvml
        uuid = _text(nvml.nvmlDeviceGetUUID(handle))
        name = self._metric(nvml.nvmlDeviceGetName, handle)
        memory = self._metric(nvml.nvmlDeviceGetMemoryInfo, handle)
        # An instance of a MIG says nothing of the two; nor do drivers before the 510 series.
        cores = self._metric(nvml.nvmlDeviceGetNumGpuCores, handle)
        clock_mhz = self._metric(self._max_clock_mhz, handle)
        return GpuSnapshot(
            uuid=uuid,
            index=index,
            pci_bus_id=bus_id,
            name=printable(_text(name or "")) or "NVIDIA GPU",
            total_bytes=None if memory is None else int(memory.total),
            free_bytes=None if memory is None else int(memory.free),
            utilization_pct=busy_pct,
            taken_at_s=time.monotonic(),
            compute_capability=capability,
            peak_core_hz=cores * clock_mhz * 1e6 if cores and clock_mhz else None,
        )

    def _max_clock_mhz(self, handle: object) -> int:
        return int(self._nvml.nvmlDeviceGetMaxClockInfo(handle, self._nvml.NVML_CLOCK_SM))

    def _metric(self, call: Callable[[Any], Any], handle: object) -> Any:
        try:
            return call(handle)
        except UnicodeDecodeError:  # a name that is not text
            return None
        except self._nvml.NVMLError as error:
            if error.value in _GPU_GONE or error.value in _SOURCE_DEAD:
                raise
            return None


def _text(value: str | bytes) -> str:
    """Older bindings answer bytes where newer ones answer text."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
