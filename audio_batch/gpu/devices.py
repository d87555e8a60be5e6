"""From what a user writes after `--device` to the devices of a run."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from audio_batch.errors import SetupError, UsageError
from audio_batch.gpu.cuda import CudaView, cuda_view
from audio_batch.gpu.snapshot import GpuSnapshot

logger = logging.getLogger("audio_batch.gpu")

_NUMBERED = re.compile(r"(?:cuda:)?([0-9]{1,4})")
_HOW = "Write auto, cpu, cuda, or CUDA's numbers such as cuda:0 or cuda:0,cuda:1."


@dataclass(frozen=True, slots=True)
class Device:
    """A place where a model lives.

    Attributes:
        id: "cpu", or "cuda:N" with CUDA's number N in this process and its children; in a cluster
            "ray:NODE/cpu" or "ray:NODE/cuda:N".
        cuda_index: N, for `device_index=`; None on the CPU. In a cluster 0: a worker sees its own.
        uuid: joins it with its `GpuSnapshot`; None on the CPU. In a cluster what it is one of.
        name: the product name, printable.
        compute_capability: such as (8, 6); None on the CPU or where nobody says.
        node: the machine of a cluster that it is of; "" for this one.
    """

    id: str
    kind: Literal["cuda", "cpu"]
    cuda_index: int | None
    uuid: str | None
    name: str
    compute_capability: tuple[int, int] | None
    node: str = ""

    @property
    def torch_name(self) -> str:
        """What PyTorch calls it in the process that works on it."""
        return "cpu" if self.kind == "cpu" else f"cuda:{self.cuda_index or 0}"


CPU = Device("cpu", "cpu", None, None, "CPU", None)


def resolve_devices(
    spec: str,
    snapshots: Sequence[GpuSnapshot],
    *,
    environ: Mapping[str, str],
    allow_cpu: bool = True,
) -> tuple[Device, ...]:
    """Turn `auto`, `cpu`, `cuda`, `cuda:N[,cuda:M]` or `N[,M]` into devices, in the order written.

    `auto` is every GPU that CUDA sees, or the CPU where it sees none. Asks the CUDA driver in a
    short-lived process, unless the answer is `cpu` anyway; call it once, at the start.

    Args:
        snapshots: the GPUs as the probe reports them.
        environ: the environment the models will run in (`os.environ`).
        allow_cpu: False where the work needs a GPU.

    Raises:
        UsageError: the text is none of these, names a device twice, or is `cpu` where that is not
            allowed.
        SetupError: a GPU that is named is not there, or none is.
    """
    word = spec.strip().lower()
    numbers = () if word in ("auto", "cpu", "cuda") else _numbers(spec)
    if word == "cpu":
        if not allow_cpu:
            raise UsageError("This needs a GPU, and the device asked for is the CPU.", remedy=_HOW)
        return (CPU,)
    view = cuda_view(snapshots, environ)
    present = tuple(
        Device(f"cuda:{index}", "cuda", index, gpu.uuid, gpu.name, gpu.compute_capability)
        for index, gpu in enumerate(view.gpus)
    )
    if word == "auto" and not present and allow_cpu:
        if view.problem:
            logger.warning("No GPU can be used: %s. Going on with the CPU.", view.problem)
        return (CPU,)
    if not present:
        raise _no_gpu(view, environ)
    for number in numbers:
        if number >= len(present):
            seen = ", ".join(f"{device.id} ({device.name})" for device in present)
            raise SetupError(f"There is no cuda:{number} here.", remedy=f"CUDA sees {seen}.")
    chosen = tuple(present[number] for number in numbers) or present
    reported = {snapshot.uuid for snapshot in snapshots}
    unreported = [device.id for device in chosen if device.uuid not in reported]
    if unreported:
        logger.warning(
            "Neither NVML nor nvidia-smi reports %s: only tasks are counted there, not its load.",
            ", ".join(unreported),
        )
    return chosen


def _numbers(spec: str) -> tuple[int, ...]:
    numbers: list[int] = []
    for part in spec.lower().split(","):
        match = _NUMBERED.fullmatch(part.strip())
        if match is None:
            raise UsageError(f"{_quoted(spec)} names no device.", remedy=_HOW)
        if int(match[1]) in numbers:
            raise UsageError(f"{_quoted(spec)} names cuda:{int(match[1])} twice.", remedy=_HOW)
        numbers.append(int(match[1]))
    return tuple(numbers)


def _no_gpu(view: CudaView, environ: Mapping[str, str]) -> SetupError:
    hidden = environ.get("CUDA_VISIBLE_DEVICES")
    if view.problem:
        return SetupError(
            f"No GPU can be used: {view.problem}.",
            remedy="Mend or update the NVIDIA driver (often a restart does), or use --device cpu.",
        )
    if hidden is not None:
        return SetupError(
            f"CUDA sees no GPU: CUDA_VISIBLE_DEVICES is {_quoted(hidden)}.",
            remedy="Unset or correct it, or use --device cpu.",
        )
    return SetupError(
        "CUDA sees no GPU on this machine.",
        remedy="Install the NVIDIA driver, or use --device cpu.",
    )


def _quoted(text: str) -> str:
    """What the user wrote, on one line and without control characters."""
    return repr(text if len(text) <= 80 else text[:77] + "...")
