"""The driver, the GPUs, the CUDA libraries, the processor and its memory."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
from collections.abc import Iterator
from pathlib import Path

from audio_batch.assembly import usable_cores
from audio_batch.gpu.cuda import cuda_view
from audio_batch.gpu.devices import Device
from audio_batch.host_memory import available_bytes
from audio_batch.preflight.check import Finding, error, ok, size, warning
from audio_batch.preflight.cuda_libraries import CudaReport, ask
from audio_batch.preflight.facts import Facts

FIRST_DRIVER = 525
"""First driver of CUDA 12, on Linux and Windows (NVIDIA, "CUDA Compatibility", table 1)."""

_TASK_BYTES = 1_500_000_000
"""Peak host memory of one task beside the model: the samples of a long file and its features."""

_CONTEXT_BYTES = 600_000_000
"""What CUDA, its libraries' kernels and an allocator's cache take of a GPU before any work."""

_DRIVER_REMEDY = "Mend or update the NVIDIA driver (often a restart does), or use --device cpu."
_PACKAGES = {"cublas": "nvidia-cublas-cu12", "cudnn": "nvidia-cudnn-cu12"}


def driver(facts: Facts) -> Iterator[Finding]:
    """Which driver answers, and for how many GPUs."""
    if facts.device_spec == "cpu":
        yield ok("Not needed: --device cpu.")
        return
    report = facts.gpu_report
    broken = "; ".join(report.broken)
    if not report.source:
        if broken:
            yield warning(f"The NVIDIA driver does not work: {broken}.", _DRIVER_REMEDY)
        else:
            yield ok("No NVIDIA driver is installed: the CPU does the work.")
        return
    version = driver_version()
    count = len(report.gpus)
    name = f"NVIDIA driver {version}" if version else "NVIDIA driver of unknown version"
    text = f"{name}, {count} GPU{'' if count == 1 else 's'} reported by {report.source}"
    if version and (major := re.match(r"\d+", version)) and int(major[0]) < FIRST_DRIVER:
        yield error(
            f"{text}: too old for CUDA 12.", f"Install a driver of version {FIRST_DRIVER} or later."
        )
    elif broken:
        yield warning(f"{text}, since another source fails: {broken}.", _DRIVER_REMEDY)
    else:
        yield ok(f"{text}.")


def driver_version() -> str:
    """The driver's version as NVML tells it; "" where it does not."""
    import pynvml

    with contextlib.suppress(pynvml.NVMLError, UnicodeDecodeError):
        pynvml.nvmlInit()
        try:
            version = pynvml.nvmlSystemGetDriverVersion()
            return version.decode() if isinstance(version, bytes) else str(version)
        finally:
            pynvml.nvmlShutdown()
    return ""


def devices(facts: Facts) -> Iterator[Finding]:
    """Which devices will work, and whether the model fits into their memory."""
    if facts.settings.executor == "ray":
        yield ok("Ray places the workers; its nodes are asked when the run begins.")
        return
    chosen = facts.devices
    reported = facts.gpu_report.gpus if facts.device_spec != "cpu" else ()
    if reported and chosen[0].kind == "cpu":
        yield _unused_gpus(facts)
        return
    free = {gpu.uuid: gpu for gpu in facts.gpu_report.gpus} if chosen[0].kind == "cuda" else {}
    for device in chosen:
        if device.kind == "cpu":
            yield ok("The CPU does the work.")
            continue
        gpu = free.get(device.uuid or "")
        name = f"{device.id} ({device.name})"
        if gpu is None or gpu.free_bytes is None or gpu.total_bytes is None:
            yield ok(f"{name}: its memory is not reported.")
            continue
        text = f"{name}: {size(gpu.free_bytes)} of {size(gpu.total_bytes)} free"
        need = _gpu_need_bytes(facts)
        if need is not None and need > gpu.free_bytes:
            yield warning(
                f"{text}; {facts.model_name} takes about {size(need)}.",
                "Free its memory, or use a smaller --model, --compute-type int8_float16 or "
                "another --device.",
            )
        else:
            yield ok(f"{text}.")


def _unused_gpus(facts: Facts) -> Finding:
    names = ", ".join(gpu.name for gpu in facts.gpu_report.gpus)
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    problem = cuda_view(facts.gpu_report.gpus, os.environ).problem
    if not problem and hidden is not None:
        why, remedy = f"CUDA_VISIBLE_DEVICES is {hidden!r}", "Unset or correct it."
    else:
        why, remedy = problem or "CUDA sees none", _DRIVER_REMEDY
    return warning(
        f"The driver reports {names}, but CUDA cannot use it ({why}): the CPU would do the work.",
        remedy,
    )


def _gpu_need_bytes(facts: Facts) -> int | None:
    """Least device memory of the model: weights, CUDA itself, and a batch of two windows.

    The hub's conversions hold float16 weights; see `engines.cuda.default_batch_size` for the
    memory of a window.
    """
    if (weights := facts.model_bytes) is None:
        return None
    compute_type = facts.settings.compute_type or "auto"
    factor = 2.0 if compute_type == "float32" else 0.5 if compute_type.startswith("int8") else 1.0
    return int(factor * weights + 2 * (0.08 * weights + 60e6) + _CONTEXT_BYTES)


def cuda(facts: Facts) -> Iterator[Finding]:
    """Whether the libraries that the models open on a GPU are there."""
    if not facts.cuda_devices:
        yield ok("Not needed: no GPU is to be used.")
        return
    if facts.settings.recognizer == "null":
        yield ok("Not needed: the null engine hears nothing.")
        return
    speakers = facts.settings.diarize is not False
    torch_cuda = torch_cuda_version() if speakers or facts.wants_alignment else None
    yield from judged(ask(with_cudnn=bool(torch_cuda)), facts.cuda_devices)
    if torch_cuda == "":
        yield warning(
            "torch is installed without CUDA: speakers and alignment would be done on the CPU.",
            "Run `pip install --force-reinstall torch torchaudio --index-url "
            "https://download.pytorch.org/whl/cu128`.",
        )


def judged(report: CudaReport, devices: tuple[Device, ...]) -> Iterator[Finding]:
    """What a report means for a run on these GPUs. Pure."""
    if report.driver_error:
        yield error(
            f"A GPU is there, but not CUDA's part of its driver: {report.driver_error}.",
            "Install NVIDIA's whole driver (in a container: NVIDIA_DRIVER_CAPABILITIES=compute,"
            "utility), or use --device cpu.",
        )
        return
    for name, reason in report.missing.items():
        package = next((p for part, p in _PACKAGES.items() if part in name), "")
        yield error(
            f"{name} is missing, which is opened when a GPU is first used: {reason}.",
            f"Run `pip install {package}`, or use --device cpu.",
        )
    needed = 1 + max(device.cuda_index or 0 for device in devices)
    if report.visible is None or report.visible < needed:
        why = f" ({report.problem})" if report.problem else ""
        yield error(
            f"CTranslate2 sees {report.visible or 0} of {needed} GPUs{why}.",
            "Check the driver's version and CUDA_VISIBLE_DEVICES, or use --device cpu.",
        )
    elif not report.missing:
        places = ", ".join(f"{path or name}" for name, path in report.found.items())
        yield ok(f"CTranslate2 sees {report.visible} and opens {places}.")


def torch_cuda_version() -> str | None:
    """The CUDA that torch was built for, "" for none, read without importing it; None: no torch."""
    spec = importlib.util.find_spec("torch")
    for root in (spec.submodule_search_locations or []) if spec else []:
        with contextlib.suppress(OSError):
            text = (Path(root) / "version.py").read_text(encoding="utf-8")
            found = re.search(r"^cuda\b[^=\n]*=\s*['\"]([\d.]+)['\"]", text, re.MULTILINE)
            return found[1] if found else ""
    return None


def memory(facts: Facts) -> Iterator[Finding]:
    """Cores and free memory of the host."""
    cores = usable_cores()
    free = available_bytes()
    text = f"{cores} core{'' if cores == 1 else 's'}, {size(free)} of memory free"
    need = (facts.model_bytes or 0) + _TASK_BYTES
    if free < need:
        yield warning(
            f"{text}; the model and one recording take about {size(need)}.",
            "Close other programs, or use a smaller --model.",
        )
    else:
        yield ok(f"{text}.")
