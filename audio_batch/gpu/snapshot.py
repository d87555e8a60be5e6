"""What a GPU reports about itself at one moment, and the protocol of those who ask it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class ProbeError(Exception):
    """A source of GPU readings failed as a whole; another source may do."""


class ProbeAbsent(ProbeError):
    """A source is not installed on this machine, as is normal without an NVIDIA driver."""


@dataclass(frozen=True, slots=True)
class GpuSnapshot:
    """One GPU, or one MIG instance, at `taken_at_s`.

    Attributes:
        uuid: `GPU-…` or `MIG-…`, the only name that CUDA, NVML and nvidia-smi agree on.
        index: NVML's number, which is not CUDA's; MIG instances carry their GPU's.
        pci_bus_id: as `normal_bus_id` writes it; MIG instances carry their GPU's.
        name: the product name, printable characters only.
        total_bytes, free_bytes: device memory, None where it is not reported (integrated GPUs
            share the host's memory and say "not supported").
        utilization_pct: 0 to 100, None where it is not reported (MIG, some consumer cards).
        taken_at_s: `time.monotonic()` of the reading.
        compute_capability: such as (8, 6), None where it is not reported.
        peak_core_hz: CUDA cores times their highest clock, None where it is not reported. Says how
            fast a GPU may be against another until that is measured, and no more than that: cores
            of one generation do more in a cycle than another's.
    """

    uuid: str
    index: int
    pci_bus_id: str
    name: str
    total_bytes: int | None
    free_bytes: int | None
    utilization_pct: float | None
    taken_at_s: float
    compute_capability: tuple[int, int] | None
    peak_core_hz: float | None = None


class Probe(Protocol):
    """A source of snapshots, used by one thread at a time."""

    name: str

    def snapshots(self) -> tuple[GpuSnapshot, ...]:
        """Read every GPU now, in the source's order.

        Raises:
            ProbeError: the source fails as a whole. A single GPU that fails is left out instead.
        """
        ...

    def close(self) -> None:
        """Give back what the source holds; a second call does nothing."""
        ...


def normal_bus_id(text: str) -> str:
    """Write a PCI address one way: eight hex digits of domain, lower case.

    NVML and nvidia-smi write `00000000:3B:00.0`, CUDA writes `0000:3b:00.0`.
    """
    domain, separator, rest = text.strip().lower().partition(":")
    return f"{domain:0>8}:{rest}" if separator else domain


def printable(text: str) -> str:
    """Drop control and formatting characters: names go to terminals and logs."""
    return "".join(character for character in text if character.isprintable()).strip()
