"""What the machine has: the program's dependencies, a GPU, its memory and its load."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[2]

OPTIONAL = {
    "torch": "no sticky error or hang on the GPU, no speakers",
    "pyannote.audio": "no speakers",
    "pyannote.metrics": "not used here",
    "whisperx": "not used here",
    "transformers": "not used here",
    "jiwer": "not used here",
}
"""Dependencies of the project that can be done without, and what is left out then."""


class Absent(Exception):
    """What is needed is not here; the text says what, and what to do."""


def missing() -> tuple[list[str], list[str]]:
    """The project's dependencies that are not installed: needed, and not needed here."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed: list[str] = []
    spared: list[str] = []
    for requirement in project["dependencies"]:
        name = re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
        try:
            metadata.version(name)
        except metadata.PackageNotFoundError:
            (spared if name in OPTIONAL else needed).append(name)
    return needed, spared


def has(module: str) -> bool:
    """Whether a module can be imported, by its finder's word."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def versions() -> list[tuple[str, str]]:
    """The machine, the interpreter and the libraries that decide, by name."""
    import psutil

    memory_gb = psutil.virtual_memory().total / 1e9
    found = [
        ("system", platform.platform()),
        ("host", f"{os.cpu_count()} cores, {memory_gb:.0f} GB of memory"),
        ("Python", platform.python_version()),
    ]
    for name in ("ctranslate2", "faster-whisper", "torch", "pyannote.audio", "nvidia-ml-py"):
        try:
            found.append((name, metadata.version(name)))
        except metadata.PackageNotFoundError:
            found.append((name, "not installed"))
    return found


class Gpu:
    """One GPU as NVML reports it, found by CUDA's number.

    Args:
        number: CUDA's, among those that `environ` lets it see.

    Raises:
        Absent: there is no such GPU, or NVML cannot be asked.
    """

    def __init__(self, number: int, environ: Mapping[str, str]) -> None:
        from audio_batch.gpu.cuda import cuda_view
        from audio_batch.gpu.nvml import NvmlProbe
        from audio_batch.gpu.snapshot import ProbeError

        self.number = number
        try:
            self._probe = NvmlProbe()
            snapshots = self._probe.snapshots()
        except ProbeError as error:
            raise Absent(f"There is no CUDA GPU here: {error}. {_NO_GPU}") from error
        view = cuda_view(snapshots, environ)
        if number >= len(view.gpus):
            why = view.problem or f"CUDA sees {len(view.gpus)} GPUs, NVML {len(snapshots)}"
            raise Absent(f"cuda:{number} is not there: {why}. {_NO_GPU}")
        self.uuid = view.gpus[number].uuid
        self.name = view.gpus[number].name
        self.capability = view.gpus[number].compute_capability
        self._reading()

    def _reading(self) -> Any:
        found = next((gpu for gpu in self._probe.snapshots() if gpu.uuid == self.uuid), None)
        if found is None or found.free_bytes is None or found.total_bytes is None:
            raise Absent(f"NVML does not tell the memory of cuda:{self.number}. {_NO_GPU}")
        return found

    def free_bytes(self) -> int:
        """Memory that nobody holds now."""
        return int(self._reading().free_bytes)

    def utilization_pct(self) -> float | None:
        """The share of the last moments in which a kernel ran, as NVML has it; None: not told."""
        value = self._reading().utilization_pct
        return None if value is None else float(value)

    def total_bytes(self) -> int:
        """All of its memory."""
        return int(self._reading().total_bytes)

    def facts(self) -> list[tuple[str, str]]:
        """Name, memory and driver."""
        import pynvml

        found = [
            ("GPU", f"{self.name} (cuda:{self.number}, {self.uuid})"),
            ("GPU memory", f"{gb(self.total_bytes())}, {gb(self.free_bytes())} free at the start"),
        ]
        with suppress(pynvml.NVMLError):
            cuda = pynvml.nvmlSystemGetCudaDriverVersion()
            driver = pynvml.nvmlSystemGetDriverVersion()
            found.append(("driver", f"{driver}, CUDA {cuda // 1000}.{cuda % 1000 // 10}"))
        return found


_NO_GPU = "Run this on a machine with one, or try what can be tried without: --device cpu."


def gb(count_bytes: float) -> str:
    """Bytes for people."""
    return f"{count_bytes / 1e9:.2f} GB"
