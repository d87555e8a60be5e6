"""Open what CTranslate2 opens when it first uses a GPU, as the engine opens it.

A program of its own, run by `audio_batch.preflight.cuda_libraries` in a short-lived process: a
broken driver may abort it, and what is opened here stays out of the run itself. Prints one JSON
object with the fields of `CudaReport`. With the argument `cudnn` also looks for torch's cuDNN.
"""

import ctypes
import importlib.util
import json
import mmap
import os
import re
import sys
from pathlib import Path
from typing import Any

from audio_batch.engines.cuda import preload_libraries

_WINDOWS = os.name == "nt"
_NAME = re.compile(rb"\0((?:lib)?cu(?:blas|dnn)[A-Za-z0-9_.]{0,40}(?:\.so\.\d{1,3}|\.dll))(?=\0)")


def named_libraries(binary: Path) -> set[str]:
    """The CUDA libraries whose names stand in CTranslate2's own, as zero-terminated texts."""
    with binary.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return {match[1].decode("ascii") for match in _NAME.finditer(data)}


def _wanted(with_cudnn: bool) -> list[str]:
    wanted = set()
    spec = importlib.util.find_spec("ctranslate2")
    for root in (spec.submodule_search_locations or []) if spec else []:
        wheel = Path(root).parent / "ctranslate2.libs"  # where Linux wheels carry what they need
        for pattern in ("libctranslate2*.so*", "ctranslate2.dll"):
            for folder in (Path(root), wheel):
                for binary in folder.glob(pattern):
                    wanted |= named_libraries(binary)
    if not wanted:
        wanted.add("cublas64_12.dll" if _WINDOWS else "libcublas.so.12")
    if with_cudnn and not _WINDOWS:  # torch for Windows carries it in a folder of its own
        wanted.add("libcudnn.so.9")
    return sorted(wanted)


def _open(name: str) -> str:
    """Open a library by bare name; where it lies, or "".

    Raises:
        OSError: it is not found, or cannot be opened.
    """
    if sys.platform == "win32":
        try:
            library = ctypes.CDLL(name)  # the system's folders, and those that were added
        except OSError:
            library = ctypes.CDLL(name, winmode=0)  # those on PATH
        buffer = ctypes.create_unicode_buffer(1024)
        kernel = ctypes.windll.kernel32
        kernel.GetModuleFileNameW(ctypes.c_void_p(library._handle), buffer, len(buffer))
        return buffer.value
    ctypes.CDLL(name)
    try:
        for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
            if f"/{name}" in line:
                return line[line.index("/") :]
    except OSError:
        pass
    return ""


def main(with_cudnn: bool) -> dict[str, Any]:
    report: dict[str, Any] = {"found": {}, "missing": {}}
    try:
        ctypes.CDLL("nvcuda.dll" if _WINDOWS else "libcuda.so.1")
    except OSError as error:
        report["driver_error"] = str(error)
    preload_libraries()
    for name in _wanted(with_cudnn):
        try:
            report["found"][name] = _open(name)
        except OSError as error:
            report["missing"][name] = str(error)
    try:
        import ctranslate2

        report["visible"] = ctranslate2.get_cuda_device_count()
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        report["problem"] = str(error)
    return report


if __name__ == "__main__":
    # Libraries may print, at any time up to the end of the process: only this keeps the pipe.
    answer = os.dup(1)
    os.dup2(2, 1)
    os.write(answer, json.dumps(main("cudnn" in sys.argv[1:])).encode())
