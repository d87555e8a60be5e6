"""GPU readings by the command `nvidia-smi`, for machines whose NVML library cannot be loaded."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from audio_batch.gpu.snapshot import (
    GpuSnapshot,
    ProbeAbsent,
    ProbeError,
    normal_bus_id,
    printable,
)

_MIB = 1024 * 1024
# The name comes last: should one ever hold a comma, it spoils no other column.
_FIELDS = "index,uuid,pci.bus_id,memory.total,memory.free,utilization.gpu,name"
_CAPABILITY_FIELD = "compute_cap"
_BUS_ID = re.compile(r"[0-9A-Fa-f]{4,8}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.[0-9A-Fa-f]")
_NUMBER = re.compile(r"[0-9]{1,9}(\.[0-9]{1,3})?")
_CAPABILITY = re.compile(r"([0-9]{1,2})\.([0-9]{1,2})")


class NvidiaSmiProbe:
    """Runs `nvidia-smi` once a reading; MIG instances are not listed by it, their GPU is.

    Raises:
        ProbeAbsent: there is no such command.
    """

    name = "nvidia-smi"

    def __init__(self, *, timeout_s: float = 5.0) -> None:
        self._executable = _find()
        self._timeout_s = timeout_s
        # Drivers of the 470 series refuse the whole query for this one field (candle#733).
        self._capability_known = True

    def snapshots(self) -> tuple[GpuSnapshot, ...]:
        """Read every GPU; blocks for as long as the command runs, `timeout_s` at most.

        Raises:
            ProbeError: the command fails, hangs, or prints no line that names a GPU.
        """
        status, output = self._run()
        if status != 0 and self._capability_known and _CAPABILITY_FIELD in output:
            self._capability_known = False
            status, output = self._run()
        if status != 0:
            raise ProbeError(f"nvidia-smi: exit {status}, {_first_line(output)}")
        found = parse_rows(
            output, with_capability=self._capability_known, taken_at_s=time.monotonic()
        )
        if not found:
            raise ProbeError(f"nvidia-smi: names no GPU, {_first_line(output)}")
        return found

    def close(self) -> None:
        """Nothing is held between two readings."""

    def _run(self) -> tuple[int, str]:
        fields = f"{_CAPABILITY_FIELD},{_FIELDS}" if self._capability_known else _FIELDS
        try:
            done = subprocess.run(
                [self._executable, f"--query-gpu={fields}", "--format=csv,noheader,nounits"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=self._timeout_s,
                check=False,
                creationflags=no_window(),
            )
        except subprocess.TimeoutExpired as error:
            raise ProbeError(f"nvidia-smi: no answer in {self._timeout_s:g} s") from error
        except OSError as error:
            raise ProbeError(f"nvidia-smi: {error.strerror or error}") from error
        return done.returncode, done.stdout.decode("utf-8", "replace")


def parse_rows(text: str, *, with_capability: bool, taken_at_s: float) -> tuple[GpuSnapshot, ...]:
    """Read the command's lines; what is no GPU's line is skipped, `[N/A]` and the like are None.

    Args:
        text: lines of `[compute_cap, ]index, uuid, pci.bus_id, memory.total [MiB],
            memory.free [MiB], utilization.gpu [%], name`.
    """
    found: dict[str, GpuSnapshot] = {}
    for line in text.splitlines():
        capability, columns = None, [column.strip() for column in line.split(",", 6)]
        if with_capability:
            columns = [column.strip() for column in line.split(",", 7)]
            capability = _CAPABILITY.fullmatch(columns.pop(0))
        if len(columns) != 7:
            continue
        index, uuid, bus_id, total, free, busy, name = columns
        if not (index.isascii() and index.isdigit() and len(index) <= 4):
            continue
        # A lost GPU has "[GPU is lost]" or "ERR!" in these columns, and drops out here.
        if not uuid.startswith("GPU-") or not uuid.isprintable() or not _BUS_ID.fullmatch(bus_id):
            continue
        total_mib, free_mib, busy_pct = _number(total), _number(free), _number(busy)
        found.setdefault(
            uuid,
            GpuSnapshot(
                uuid=uuid,
                index=int(index),
                pci_bus_id=normal_bus_id(bus_id),
                name=printable(name) or "NVIDIA GPU",
                total_bytes=None if total_mib is None else int(total_mib * _MIB),
                free_bytes=None if free_mib is None else int(free_mib * _MIB),
                utilization_pct=None if busy_pct is None else min(100.0, busy_pct),
                taken_at_s=taken_at_s,
                compute_capability=(
                    None if capability is None else (int(capability[1]), int(capability[2]))
                ),
            ),
        )
    return tuple(found.values())


def no_window() -> int:
    """`creationflags` that keep a console program from opening a window on Windows."""
    return getattr(subprocess, "CREATE_NO_WINDOW", 0)


def _find() -> str:
    if sys.platform == "win32":
        # The driver's own folders first: a search of PATH on Windows begins in the current
        # folder, where a manifest may have brought anything.
        for variable, rest in (
            ("SystemRoot", "System32/nvidia-smi.exe"),
            ("ProgramFiles", "NVIDIA Corporation/NVSMI/nvidia-smi.exe"),
        ):
            root = os.environ.get(variable)
            if root and (Path(root) / rest).is_file():
                return str(Path(root) / rest)
    found = shutil.which("nvidia-smi")
    if found is None:
        raise ProbeAbsent("nvidia-smi: there is no such command")
    return found


def _number(text: str) -> float | None:
    return float(text) if _NUMBER.fullmatch(text) else None


def _first_line(output: str) -> str:
    line = next((printable(line) for line in output.splitlines() if printable(line)), "")
    return f"{line[:200]!r}" if line else "no output"
