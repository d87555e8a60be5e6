"""Take a GPU's memory but for some bytes, and hold it until stdin is closed.

    python hog.py NUMBER LEAVE_BYTES

NUMBER is CUDA's. A process of its own that needs the driver's library alone (cuda.h), so that it is
as foreign to the program under trial as another user's. Prints one JSON line: {"free_bytes",
"held_bytes"} once it holds what it can, or {"problem"}, and then ends with exit code 5.
"""

from __future__ import annotations

import ctypes
import json
import sys
from typing import Any

_STEPS_BYTES = (1 << 30, 1 << 28, 1 << 26, 1 << 21)
"""Plain allocations from 1 GB down to the driver's own page of 2 MB."""


class DriverError(Exception):
    """The CUDA driver refused a call."""


def main() -> int:
    """Hold it, and say so."""
    number, leave_bytes = int(sys.argv[1]), int(sys.argv[2])
    try:
        cuda = _open(number)
        held_bytes = _take(cuda, leave_bytes)
        answer: dict[str, Any] = {"free_bytes": _free_bytes(cuda), "held_bytes": held_bytes}
    except (DriverError, OSError) as error:
        answer = {"problem": str(error)}
    print(json.dumps(answer), flush=True)
    if "problem" in answer:
        return 5
    sys.stdin.read()  # until whoever began this closes it, or is gone
    return 0


def _open(number: int) -> Any:
    cuda = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    device, context = ctypes.c_int(), ctypes.c_void_p()
    _check("cuInit", cuda.cuInit(0))
    _check("cuDeviceGet", cuda.cuDeviceGet(ctypes.byref(device), number))
    retained = cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)
    _check("cuDevicePrimaryCtxRetain", retained)
    _check("cuCtxSetCurrent", cuda.cuCtxSetCurrent(context))
    return cuda


def _free_bytes(cuda: Any) -> int:
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    _check("cuMemGetInfo", cuda.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)))
    return free.value


def _take(cuda: Any, leave_bytes: int) -> int:
    """Allocate in ever smaller steps; how many bytes."""
    held_bytes = 0
    for step_bytes in _STEPS_BYTES:
        while _free_bytes(cuda) - step_bytes >= leave_bytes:
            address = ctypes.c_uint64()
            if cuda.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(step_bytes)) != 0:
                break  # what is free need not be free in one piece
            held_bytes += step_bytes
    return held_bytes


def _check(call: str, code: int) -> None:
    if code != 0:
        raise DriverError(f"{call} answers error {code}")


if __name__ == "__main__":
    sys.exit(main())
