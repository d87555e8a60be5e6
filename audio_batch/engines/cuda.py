"""What a CUDA device is best run with, and the libraries that CTranslate2 opens by name."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from audio_batch.errors import UsageError
from audio_batch.gpu.devices import Device

COMPUTE_TYPES = (
    "auto",
    "default",
    "float32",
    "float16",
    "bfloat16",
    "int8",
    "int8_float32",
    "int8_float16",
    "int8_bfloat16",
    "int16",
)

_SMALL_GPU_BYTES = 10 * 1000**3
"""Below this a large model in float16 leaves little room for batches: int8_float16 halves it."""


def resolve_compute_type(
    wanted: str, supported: set[str], device: Device, free_bytes: int | None
) -> tuple[str, list[str]]:
    """The compute type to load with, and a sentence where that is not what was asked for.

    auto: int8 on a CPU; on a GPU float16, or int8_float16 where memory is short, or what the
    hardware has instead (GPUs before compute capability 7.0 have no fast float16).

    Raises:
        UsageError: there is no such type.
    """
    if wanted not in COMPUTE_TYPES:
        raise UsageError(f"There is no compute type {wanted!r}; known: {', '.join(COMPUTE_TYPES)}.")
    if wanted == "default" or wanted in supported:
        return wanted, []
    if device.kind == "cpu":
        preference = ["int8", "int8_float32", "float32"]
    elif free_bytes is not None and free_bytes < _SMALL_GPU_BYTES:
        preference = ["int8_float16", "float16", "int8", "int8_float32", "float32"]
    else:
        preference = ["float16", "int8_float16", "int8", "int8_float32", "float32"]
    chosen = next((name for name in preference if name in supported), "default")
    if wanted == "auto":
        return chosen, []
    return chosen, [f"{device.id} cannot compute in {wanted}: {chosen} is used instead."]


CUDA_LANES = 2
"""Batches a GPU works on at once: while one is put together or read out on the CPU, and between the
small kernels of its decoding, the other computes."""

_THREADS_OF_A_LANE = 4
"""On machines with many cores: CTranslate2's own default, and fewer batches in memory."""


def default_lanes(kind: str, cores: int, cpu_threads: int | None) -> tuple[int, int]:
    """Batches that a device works on at once, and the CPU threads of each.

    On a CPU one thread a batch wastes least: threads that share one wait for each other.
    """
    if kind == "cuda":
        return CUDA_LANES, cpu_threads or 1
    threads = cpu_threads or max(1, min(_THREADS_OF_A_LANE, cores // _THREADS_OF_A_LANE))
    return max(1, cores // threads), threads


def default_batch_size(kind: str, free_bytes: int | None, model_bytes: int, lanes: int = 1) -> int:
    """Windows per batch when none was asked for: as many as memory holds, up to 64.

    A window's memory is mostly its cross-attention keys and values, about 8 % of the weights for
    large-v3 (246 MB of 3.1 GB), plus encoder activations; a fifth of the free memory and the
    model itself are left alone. Fewer than 2 would change the mode, so 2 is the least.
    """
    if kind == "cpu":
        return 4  # its decoder is fastest with 2 to 4 windows, and the last batches end together
    if free_bytes is None:
        return 16
    window_bytes = 0.08 * model_bytes + 60e6
    room = (0.8 * free_bytes - model_bytes) / max(1, lanes)
    fits = room / window_bytes
    return next((size for size in (64, 32, 16, 8, 4) if size <= fits), 2)


def preload_libraries() -> None:
    """Let CTranslate2 find the cuBLAS and cuDNN that the torch wheels bring.

    It opens them by bare name at run time. On Linux a library that the process has loaded already
    is found whatever LD_LIBRARY_PATH says. On Windows CTranslate2 and cuDNN look in the folders of
    PATH, not in those of `add_dll_directory`, where only Python's own loading looks: both get them.
    Importing torch would do the same in four seconds.
    """
    if sys.platform == "win32":
        folders = windows_folders()
        for folder in folders:
            with contextlib.suppress(OSError):
                os.add_dll_directory(str(folder))
        os.environ["PATH"] = with_folders(os.environ.get("PATH", ""), folders)
        return
    for package, pattern in (
        ("nvidia.cublas", "libcublas*.so.*"),
        ("nvidia.cudnn", "libcudnn*.so.*"),
    ):
        for folder in _folders(package, "lib"):
            for library in sorted(folder.glob(pattern)):
                with contextlib.suppress(OSError):
                    ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)


def windows_folders() -> list[Path]:
    """Where wheels for Windows hold CUDA's libraries, as far as they are installed.

    torch brings its own in torch/lib; whoever installs NVIDIA's wheels besides means those.
    """
    places = (("nvidia.cublas", "bin"), ("nvidia.cudnn", "bin"), ("torch", "lib"))
    return [folder for package, name in places for folder in _folders(package, name)]


def with_folders(path: str, folders: Sequence[Path]) -> str:
    """A PATH that begins with these folders, each of them once."""
    wanted = [str(folder) for folder in folders]
    kept = [part for part in path.split(os.pathsep) if part and part not in wanted]
    return os.pathsep.join([*wanted, *kept])


def _folders(package: str, name: str) -> list[Path]:
    """The folders of that name in an installed package, which is not imported."""
    with contextlib.suppress(ImportError, ValueError):
        spec = importlib.util.find_spec(package)
        roots = (spec.submodule_search_locations or []) if spec else []
        return [folder for root in roots if (folder := Path(root) / name).is_dir()]
    return []
