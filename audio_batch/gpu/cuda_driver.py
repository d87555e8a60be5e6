"""Ask the CUDA driver which GPUs it would show a process with this environment, in its order.

A program of its own, run by `audio_batch.gpu.cuda` in a short-lived process and importing nothing
of the package. The driver reads CUDA_VISIBLE_DEVICES once in a process's life, a CUDA context does
not survive a fork, and a broken driver may abort: none of that may happen to the run itself.

Prints one JSON object: {"gpus": [{"uuid", "pci_bus_id", "name", "compute_capability"}, …]},
{"absent": "why"} where there is no driver to ask, or {"problem": "why"} where it refuses.
Function names and numbers: cuda.h.
"""

import ctypes
import json
import os
import sys
import uuid
from typing import Any

_NO_DEVICE = 100  # also the answer when CUDA_VISIBLE_DEVICES hides every GPU
_STUB_LIBRARY = 34  # the library that toolkits ship for linking only
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76


class _CudaError(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def main() -> dict[str, Any]:
    try:
        cuda = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return {"absent": "the CUDA driver's library is not installed"}
    try:
        _check(cuda.cuInit(0))
        return {"gpus": _gpus(cuda)}
    except _CudaError as error:
        if error.code == _NO_DEVICE:
            return {"gpus": []}
        if error.code == _STUB_LIBRARY:
            return {"absent": "the CUDA driver's library is a stub"}
        return {"problem": f"the CUDA driver answers error {error.code}{_describe(cuda, error)}"}
    except AttributeError as error:
        return {"absent": f"the CUDA driver's library is not whole ({error})"}


def _gpus(cuda: Any) -> list[dict[str, Any]]:
    count = ctypes.c_int()
    _check(cuda.cuDeviceGetCount(ctypes.byref(count)))
    return [_gpu(cuda, number) for number in range(count.value)]


def _gpu(cuda: Any, number: int) -> dict[str, Any]:
    device = ctypes.c_int()
    _check(cuda.cuDeviceGet(ctypes.byref(device), number))
    raw = (ctypes.c_ubyte * 16)()
    # The second version (CUDA 11.4) names a MIG instance; the first names the GPU it is part of.
    get_uuid = getattr(cuda, "cuDeviceGetUuid_v2", None) or cuda.cuDeviceGetUuid
    _check(get_uuid(raw, device))
    bus_id, name = ctypes.create_string_buffer(32), ctypes.create_string_buffer(128)
    _check(cuda.cuDeviceGetPCIBusId(bus_id, len(bus_id), device))
    _check(cuda.cuDeviceGetName(name, len(name), device))
    capability = []
    for attribute in (_CAPABILITY_MAJOR, _CAPABILITY_MINOR):
        value = ctypes.c_int()
        _check(cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, device))
        capability.append(value.value)
    return {
        "uuid": str(uuid.UUID(bytes=bytes(raw))),
        "pci_bus_id": bus_id.value.decode("ascii", "replace"),
        "name": name.value.decode("utf-8", "replace"),
        "compute_capability": capability,
    }


def _check(code: int) -> None:
    if code != 0:
        raise _CudaError(code)


def _describe(cuda: Any, error: _CudaError) -> str:
    text = ctypes.c_char_p()
    try:
        cuda.cuGetErrorString(error.code, ctypes.byref(text))
    except AttributeError:
        return ""
    return f" ({text.value.decode('utf-8', 'replace')})" if text.value else ""


if __name__ == "__main__":
    # Libraries may print, at any time up to the end of the process: only this keeps the pipe.
    answer = os.dup(1)
    os.dup2(2, 1)
    os.write(answer, json.dumps(main()).encode())
