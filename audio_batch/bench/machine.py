"""What was measured on: results of different machines are compared, but never mixed."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from audio_batch.assembly import usable_cores
from audio_batch.gpu.probe import open_probe

_PACKAGES = (
    "audio-batch",
    "ctranslate2",
    "faster-whisper",
    "pyannote.audio",
    "torch",
    "whisperx",
    "numpy",
    "onnxruntime",
)


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU of the machine, used or not."""

    uuid: str
    name: str
    total_bytes: int | None


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine and what is installed on it. `load` is the load average before the first run."""

    system: str
    python: str
    cpu: str
    cores: int
    ram_bytes: int
    gpus: tuple[Gpu, ...]
    versions: dict[str, str]
    load: float | None

    def named(self, devices: Iterable[str]) -> tuple[str, ...]:
        """The products behind devices such as "cuda:1" or "cpu", each device once."""
        wanted = sorted(set(devices))
        gpus = _gpu_names() if any(device != "cpu" for device in wanted) else {}
        return tuple(self.cpu if one == "cpu" else gpus.get(one, one) for one in wanted)


def look() -> Machine:
    """Describe this machine. Takes a moment where a driver must be asked."""
    probe = open_probe()
    try:
        seen = probe.snapshots()
    finally:
        probe.close()
    return Machine(
        system=platform.platform(),
        python=platform.python_version(),
        cpu=_cpu(),
        cores=usable_cores(),
        ram_bytes=psutil.virtual_memory().total,
        gpus=tuple(Gpu(gpu.uuid, gpu.name, gpu.total_bytes) for gpu in seen),
        versions={name: version for name in _PACKAGES if (version := installed(name))},
        load=round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    )


def installed(package: str) -> str | None:
    """The version of a package of this environment, None where it is not there."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _gpu_names() -> dict[str, str]:
    """CUDA's numbers are not NVML's: the run's own way of counting devices is asked."""
    from audio_batch.errors import AudioBatchError
    from audio_batch.gpu.devices import resolve_devices

    probe = open_probe()
    try:
        devices = resolve_devices("cuda", probe.snapshots(), environ=os.environ)
    except AudioBatchError:
        return {}
    finally:
        probe.close()
    return {device.id: device.name for device in devices}


def folder_name(names: Sequence[str]) -> str:
    """What a result folder for these devices is called: `nvidia_h200`, `2x_nvidia_h200`, `cpu`."""
    counted = {name: names.count(name) for name in names}
    parts = [
        (f"{count}x_" if count > 1 else "") + re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
        for name, count in counted.items()
    ]
    return "+".join(parts) or "cpu"


def _cpu() -> str:
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
