"""CUDA's own numbering: which GPU is `cuda:0` for a process with a given environment.

NVML counts every GPU of the machine in PCI order. CUDA counts the ones it may see, by default the
fastest first, or as CUDA_VISIBLE_DEVICES and CUDA_DEVICE_ORDER say. Only the UUID joins the two.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from audio_batch.gpu.nvidia_smi import no_window
from audio_batch.gpu.snapshot import GpuSnapshot, normal_bus_id, printable

# A machine of eight GPUs without persistence mode takes seconds a GPU to wake up.
_DRIVER_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class CudaGpu:
    """A GPU or MIG instance as CUDA sees it; its place in `CudaView.gpus` is CUDA's number."""

    uuid: str
    name: str
    compute_capability: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class CudaView:
    """What CUDA sees, in its order; `problem` says why the driver could not be used, or is ""."""

    gpus: tuple[CudaGpu, ...]
    problem: str = ""


def pin_device_order(environ: MutableMapping[str, str]) -> None:
    """Make CUDA count GPUs in PCI order, as NVML and nvidia-smi do, unless the user chose.

    To be called with `os.environ` before anything loads CUDA; children inherit it.
    """
    environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")


def cuda_view(snapshots: Sequence[GpuSnapshot], environ: Mapping[str, str]) -> CudaView:
    """Say what a process with this environment sees: the driver's word where it can be had.

    Runs a short-lived process (tens of milliseconds; seconds where GPUs must wake up first).
    Without a driver the answer is worked out from the environment and the snapshots.
    """
    answer = _ask_driver(environ)
    if "problem" in answer:
        return CudaView((), printable(str(answer["problem"])))
    if "gpus" in answer:
        return CudaView(tuple(_joined(gpu, snapshots) for gpu in answer["gpus"]))
    return CudaView(
        tuple(
            CudaGpu(snapshot.uuid, snapshot.name, snapshot.compute_capability)
            for snapshot in visible_by_environment(snapshots, environ)
        )
    )


def visible_by_environment(
    snapshots: Sequence[GpuSnapshot], environ: Mapping[str, str]
) -> tuple[GpuSnapshot, ...]:
    """Apply CUDA_VISIBLE_DEVICES as CUDA does, on GPUs in PCI order. Pure.

    The rules are those of the CUDA programming guide and of `torch.cuda`'s reading of it: the list
    ends at the first entry that names nothing; numbers are read as far as they are digits; UUIDs
    may be cut short as long as they stay unique; an entry twice hides everything; the first entry
    decides whether the list is of numbers, GPUs or MIG instances. A process sees one MIG instance
    only, and no whole GPU beside it. CUDA_DEVICE_ORDER=FASTEST_FIRST cannot be followed without
    the driver: the order is PCI's then too.
    """
    ordered = sorted(snapshots, key=lambda snapshot: (snapshot.pci_bus_id, snapshot.index))
    # A number means a whole GPU; where that is cut into instances, the first of them.
    first_of_board: dict[str, GpuSnapshot] = {}
    for snapshot in ordered:
        first_of_board.setdefault(snapshot.pci_bus_id, snapshot)
    boards = list(first_of_board.values())
    wanted = environ.get("CUDA_VISIBLE_DEVICES")
    if wanted is None:
        chosen = boards
    else:
        chosen = []
        prefix = next((p for p in ("GPU-", "MIG-") if wanted.startswith(p)), None)
        for entry in wanted.split(","):
            match = _named(entry, prefix, ordered) if prefix else _numbered(entry, boards)
            if match is None:
                break
            if match in chosen:
                return ()
            chosen.append(match)
    instances = [snapshot for snapshot in chosen if snapshot.uuid.startswith("MIG-")]
    return tuple(instances[:1] or chosen)


def _numbered(entry: str, boards: Sequence[GpuSnapshot]) -> GpuSnapshot | None:
    digits = re.match(r"\s*\+?([0-9]{1,9})", entry)  # "1gpu" is 1, as by strtoul; "-1" is nothing
    number = int(digits[1]) if digits else len(boards)
    return boards[number] if number < len(boards) else None


def _named(entry: str, prefix: str, snapshots: Sequence[GpuSnapshot]) -> GpuSnapshot | None:
    uuid = entry.strip()
    matches = [snapshot for snapshot in snapshots if snapshot.uuid.startswith(uuid)]
    return matches[0] if len(matches) == 1 and uuid.startswith(prefix) else None


def _ask_driver(environ: Mapping[str, str]) -> dict[str, Any]:
    if not sys.executable:  # an embedded interpreter has nothing to start
        return {"absent": "there is no Python to ask it with"}
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", str(Path(__file__).with_name("cuda_driver.py"))],
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_DRIVER_TIMEOUT_S,
            check=False,
            creationflags=no_window(),
        )
    except subprocess.TimeoutExpired:
        return {"problem": f"the CUDA driver gives no answer in {_DRIVER_TIMEOUT_S:g} s"}
    except OSError as error:
        return {"absent": f"it cannot be asked: {error}"}
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        return {"problem": f"the CUDA driver ends its process (exit {done.returncode})"}
    return answer


def _joined(gpu: Mapping[str, Any], snapshots: Sequence[GpuSnapshot]) -> CudaGpu:
    """Find the driver's GPU among the snapshots: by UUID, else by bus address if that is enough.

    The driver says the sixteen bytes of a UUID without its `GPU-` or `MIG-`.
    """
    bare = str(gpu["uuid"])
    bus_id = normal_bus_id(str(gpu["pci_bus_id"]))
    named = [s for s in snapshots if s.uuid.partition("-")[2] == bare]
    placed = [s for s in snapshots if s.pci_bus_id == bus_id]
    match = named or (placed if len(placed) == 1 else [])
    major, minor = gpu["compute_capability"]
    return CudaGpu(
        uuid=match[0].uuid if match else f"GPU-{bare}",
        name=match[0].name if match else printable(str(gpu["name"])),
        compute_capability=(int(major), int(minor)),
    )
