"""What the texts of native libraries' errors tell, the same for every engine.

CTranslate2, torch and ONNX Runtime raise a bare RuntimeError for whatever CUDA answers, so the text
is all there is to go by: that of cudaGetErrorString, of cuBLAS and cuDNN, of the dynamic linker.
"""

from __future__ import annotations

import re
from enum import Enum, auto

from audio_batch.errors import DeviceError


class Failure(Enum):
    """What has failed, and so what can be done about it."""

    OUT_OF_MEMORY = auto()
    """Less at a time may pass; the process goes on."""

    CONTEXT_LOST = auto()
    """A sticky CUDA error: whatever this process asks of the GPU from now on fails as well."""

    LIBRARY_MISSING = auto()
    """A CUDA library cannot be loaded."""

    NO_DEVICE = auto()
    """There is no driver that works, or no GPU behind it."""

    DEVICE = auto()
    """The GPU, its driver or its libraries, but nothing more is known."""

    OTHER = auto()
    """Nothing to do with the device."""


_MEMORY = re.compile(
    r"out of memory|bad_alloc|\bMemoryError\b|(can't|cannot|unable to|failed to) allocate"
    r"|_alloc_failed",
    re.IGNORECASE,
)
_STICKY = re.compile(
    # Those of which the CUDA Runtime's reference says that "the process must be terminated and
    # relaunched" (Data types, cudaError), under their text and their name …
    r"illegal (memory access|instruction) was encountered|unspecified launch failure"
    r"|launch timed out and was terminated|device-side assert triggered|misaligned address"
    r"|invalid program counter|hardware stack error"
    r"|operation not supported on global/shared address space"
    r"|uncorrectable (ECC|NVLink) error|context is destroyed|driver shutting down"
    r"|cudaError(IllegalAddress|IllegalInstruction|LaunchFailure|LaunchTimeout|Assert"
    r"|MisalignedAddress|InvalidPc|HardwareStackError|InvalidAddressSpace|ECCUncorrectable"
    r"|NvlinkUncorrectable|ContextIsDestroyed|CudartUnloading|Unknown)\b"
    # … the driver's own for a GPU that is gone: no CUDA call works after it either …
    r"|\bXid\b|fallen off the bus|GPU is lost|CUDA driver (is )?(lost|unloading)"
    # … cudaErrorUnknown, which a GPU off the bus gives too …
    r"|CUDA (failed with error|error:) unknown error|CUDA (runtime )?error \(999\)"
    # … and what `device_error` below makes of them.
    r"|CUDA context is lost",
    re.IGNORECASE,
)
_LIBRARY = re.compile(
    r"(?P<name>\b(lib)?(cublas|cudnn|cudart|cufft|curand|cusparse|cusolver|nvrtc|nvjitlink)"
    r"[\w.-]*?(\.so[\d.]*\d|\.so|\.dll))",
    re.IGNORECASE,
)
_UNLOADABLE = re.compile(
    r"not found|cannot be loaded|could not (load|locate)|unable to load|cannot open shared object"
    r"|no such file|failed to load",
    re.IGNORECASE,
)
_NO_DEVICE = re.compile(
    r"CUDA driver version is insufficient|no CUDA-capable device|no CUDA GPUs are available"
    r"|CUDA-capable device\(s\) is/are busy or unavailable|found no NVIDIA driver"
    r"|NVIDIA driver on your system is too old|system not yet initialized"
    r"|unsupported display driver|driver/library version mismatch"
    r"|couldn't communicate with the NVIDIA driver|not compiled with CUDA|CUDA driver not found"
    r"|libcuda\.so|nvcuda\.dll",
    re.IGNORECASE,
)
_DEVICE_WORDS = ("cuda", "cudnn", "cublas", "nvrtc", "driver")


def classify(text: str) -> Failure:
    """What an error's text tells; see `Failure`."""
    if _STICKY.search(text):
        return Failure.CONTEXT_LOST
    if _MEMORY.search(text):
        return Failure.OUT_OF_MEMORY
    if _NO_DEVICE.search(text):
        return Failure.NO_DEVICE
    if _LIBRARY.search(text) and _UNLOADABLE.search(text):
        return Failure.LIBRARY_MISSING
    return Failure.DEVICE if is_device_trouble(text) else Failure.OTHER


def is_sticky(text: str) -> bool:
    """Whether only a new process can use the GPU again after an error of this text.

    True for a library's text and for the message of the DeviceError that was made of it.
    """
    return classify(text) is Failure.CONTEXT_LOST


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, the machine's or the GPU's."""
    return classify(first_line(error)) is Failure.OUT_OF_MEMORY or isinstance(error, MemoryError)


def device_error(text: str, device: str = "The device") -> DeviceError | None:
    """The error for trouble of a device, with its remedy; None where the text tells of none.

    Running out of memory is not the device's failure; see `is_out_of_memory`.

    Args:
        text: a library's; see `first_line`.
        device: what the sentence begins with, such as "cuda:0".
    """
    match classify(text):
        case Failure.CONTEXT_LOST:
            return DeviceError(
                f"{device} failed and its CUDA context is lost: {text}.",
                remedy="The process must be restarted to use it again; see the driver's log (Xid).",
            )
        case Failure.LIBRARY_MISSING:
            found = _LIBRARY.search(text)
            name = found["name"] if found else "a CUDA library"
            return DeviceError(
                f"{device} cannot be used, the library {name} is missing: {text}.",
                remedy="Install it (pip install nvidia-cublas-cu12 nvidia-cudnn-cu12), "
                "or use --device cpu.",
            )
        case Failure.NO_DEVICE:
            return DeviceError(
                f"{device} is not there: {text}.",
                remedy="Check that `nvidia-smi` sees it and that its driver is one for CUDA 12, "
                "or use --device cpu.",
            )
        case Failure.DEVICE:
            return DeviceError(f"{device} failed: {text}.", remedy="See the driver's log.")
    return None


def first_line(error: BaseException) -> str:
    """An error's text without what follows it in native libraries: stacks, advice, addresses."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__).rstrip(".")[:300]


def is_device_trouble(text: str) -> bool:
    """Whether an error's text speaks of the GPU, its driver or its libraries."""
    low = text.lower()
    return any(word in low for word in _DEVICE_WORDS)
