"""Simulated GPUs for the real `pynvml` and the real driver query: two stub libraries in C.

    stub_dir = build(tmp_path)
    subprocess.run(..., env=environment(stub_dir, [gpu(0), gpu(1, utilization_pct=45)]))

The loader reads LD_LIBRARY_PATH when a process starts: the stubs serve subprocesses.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

_HERE = Path(__file__).parent
_numbers = itertools.count()
GIB = 1024**3


@dataclass(frozen=True)
class StubGpu:
    """One GPU; an error is an NVML return code (0: none), `lost_after` counts readings.

    `cores`, `clock_mhz` and `processes` below 0 are not supported.
    """

    uuid: str
    bus_id: str
    name: str = "NVIDIA GeForce RTX 3090"
    total_bytes: int = 24 * GIB
    free_bytes: int = 20 * GIB
    utilization_pct: int = 0
    capability: tuple[int, int] = (8, 6)
    handle_error: int = 0
    memory_error: int = 0
    utilization_error: int = 0
    lost_after: int = -1
    mig: tuple[str, ...] | None = None
    cores: int = 10496
    clock_mhz: int = 2100
    processes: int = 0

    @property
    def bare_uuid(self) -> str:
        return self.uuid.partition("-")[2].replace("-", "")


def gpu(number: int, **changes: object) -> StubGpu:
    """Make a GPU whose UUID and bus address follow from `number`."""
    uuid = f"GPU-{number:08x}-1111-4222-8333-{number:012x}"
    return StubGpu(uuid, f"00000000:{16 * number + 1:02X}:00.0", **changes)  # type: ignore[arg-type]


def build(folder: Path) -> Path:
    """Compile both stubs into `folder` and return it; skips the test where that cannot be done."""
    if not sys.platform.startswith("linux"):
        pytest.skip("the stub NVML library is built for Linux only")
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler to build the stub NVML library with")
    for source, library in (("stub_nvml.c", "libnvidia-ml.so.1"), ("stub_cuda.c", "libcuda.so.1")):
        subprocess.run(
            [compiler, "-shared", "-fPIC", "-D_GNU_SOURCE", "-o", folder / library, _HERE / source],
            check=True,
        )
    return folder


def write_spec(
    path: Path,
    gpus: Sequence[StubGpu],
    *,
    init_error: int = 0,
    fail_after: int = -1,
    fail_code: int = 999,
) -> None:
    """Write (or, while a process reads them, replace) the GPUs of the stub NVML."""
    rows: list[tuple[object, ...]] = [(init_error, fail_after, fail_code)]
    for g in gpus:
        identity = (g.uuid, g.bus_id, g.name, g.total_bytes, g.free_bytes, g.utilization_pct)
        errors = (g.handle_error, g.memory_error, g.utilization_error, g.lost_after)
        mig = "off" if g.mig is None else ",".join(g.mig) or "none"
        rows.append((*identity, *g.capability, *errors, mig, g.cores, g.clock_mhz, g.processes))
    # Replaced whole: the stub may read at any moment.
    whole = path.with_suffix(".new")
    whole.write_text("".join("\t".join(map(str, row)) + "\n" for row in rows))
    whole.replace(path)


def environment(
    stub_dir: Path,
    gpus: Sequence[StubGpu],
    *,
    init_error: int = 0,
    fail_after: int = -1,
    fail_code: int = 999,
    cuda_order: Sequence[StubGpu] | None = None,
    cuda_error: int = 0,
) -> dict[str, str]:
    """Return this process's environment with the stubs in front and no CUDA variables of its own.

    Args:
        cuda_order: the GPUs as the stub CUDA driver counts them; None: a driver that is a stub,
            so that CUDA's order is worked out from the environment.
        cuda_error: what `cuInit` answers (-1: it aborts).
    """
    environ = {name: value for name, value in os.environ.items() if not name.startswith("CUDA_")}
    spec = stub_dir / f"nvml-{next(_numbers)}.spec"
    write_spec(spec, gpus, init_error=init_error, fail_after=fail_after, fail_code=fail_code)
    environ["STUB_NVML_SPEC"] = str(spec)
    if cuda_order is not None:
        cuda_spec = stub_dir / f"cuda-{next(_numbers)}.spec"
        rows = [str(cuda_error)]
        for g in cuda_order:
            bus_id = g.bus_id.lower().removeprefix("0000")
            rows.append("\t".join((g.bare_uuid, bus_id, g.name, *map(str, g.capability))))
        cuda_spec.write_text("\n".join(rows) + "\n")
        environ["STUB_CUDA_SPEC"] = str(cuda_spec)
    before = environ.get("LD_LIBRARY_PATH")
    environ["LD_LIBRARY_PATH"] = f"{stub_dir}:{before}" if before else str(stub_dir)
    return environ
