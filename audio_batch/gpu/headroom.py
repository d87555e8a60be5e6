"""Whether a GPU has the memory for one asset more: what assets were seen to take, and what is free.

The driver tells what is free, not whose the rest is. The models are there before the first asset
and stay; what assets take beyond that is the difference between the most that was free with none at
work and the least that was free with some.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from audio_batch.gpu.balancer import DeviceLoad

FACTOR = 1.15
SPARE_BYTES = 500_000_000
"""An asset is begun where 1.15 x what was seen to be taken and half a GB are free."""


@dataclass(slots=True)
class Headroom:
    """Watches the free memory of devices by id; one thread."""

    _most_free: dict[str, int] = field(default_factory=dict)
    _taken: dict[str, int] = field(default_factory=dict)

    def note(self, load: DeviceLoad, *, at_work: int) -> None:
        """Look at a device with so many of our assets at work; what says nothing is let be."""
        if load.device.kind != "cuda" or load.free_bytes is None or load.held:
            return
        device = load.device.id
        if at_work == 0:
            self._most_free[device] = load.free_bytes
        elif device in self._most_free:
            taken = (self._most_free[device] - load.free_bytes) // at_work
            self._taken[device] = max(self._taken.get(device, 0), taken)

    def fits(self, load: DeviceLoad) -> bool:
        """Whether one asset more has room; True where nothing is known yet."""
        if load.device.id not in self._taken or load.free_bytes is None:
            return True
        return load.free_bytes >= FACTOR * self._taken[load.device.id] + SPARE_BYTES

    def open(self, loads: Sequence[DeviceLoad], *, idle: bool) -> frozenset[str]:
        """The devices with room. Where none has it and nothing of ours runs (`idle`), the one with
        the most free memory: waiting for other people's programs might last for ever."""
        fitting = {load.device.id for load in loads if self.fits(load)}
        if not fitting and idle and loads:
            fitting = {max(loads, key=lambda load: load.free_bytes or 0).device.id}
        return frozenset(fitting)
