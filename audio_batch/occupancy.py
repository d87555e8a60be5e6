"""How much devices have had at work, and for how long: speeds and busy times are made of it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field


@dataclass(slots=True)
class Occupancy:
    """Sums over time, by device. The runner's thread only; times are those of its clock."""

    _areas: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    _busy_s: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    _looked_s: dict[str, float] = field(default_factory=dict)

    def touch(self, device: str, now_s: float, *, active: int, busy: bool) -> float:
        """Take down what has been there since the last look; to be called before that changes.

        Args:
            active: so many assets have a share of the device.
            busy: whether any asset is at work there.

        Returns:
            Active assets times seconds there, so far.
        """
        past_s = now_s - self._looked_s.get(device, now_s)
        self._looked_s[device] = now_s
        self._areas[device] += active * past_s
        if busy:
            self._busy_s[device] += past_s
        return self._areas[device]

    def devices(self) -> list[str]:
        """Those on which anything has begun."""
        return list(self._looked_s)

    def busy_s(self, device: str) -> float:
        """Seconds until the last look in which at least one asset was at work there."""
        return self._busy_s[device]
