"""Devices as a person describes them: `fast=2@40x`, `slow=1@24s`, `gpu=2@8s/13.5s`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from audio_batch.errors import UsageError
from audio_batch.schedule.simulation import SimulatedDevice
from audio_batch.schedule.speeds import DeviceSpeed, JobCost, by_active

_NUMBER = r"[0-9]{1,9}(?:\.[0-9]{1,9})?"
_DEVICE = re.compile(
    rf"(?P<name>[^=@\s]{{1,60}})=(?P<slots>[1-9][0-9]{{0,2}})@(?P<speeds>{_NUMBER}[xs](?:/{_NUMBER}[xs])*)"
)
HOW = (
    "Write name=slots@speed: fast=2@40x (40 seconds of audio a second, shared by its 2 slots), "
    "or slow=1@24s (24 seconds a file). With 2 at work, if measured: "
    "fast=2@40x/55x, or 2@8s/14s."
)


@dataclass(frozen=True, slots=True)
class FileSpeed:
    """A device that takes as long for one file as for another; by how many are at work there."""

    per_file_s: Mapping[int, float]

    def cost_s(self, active: int, duration_s: float) -> float:  # noqa: ARG002 - see `JobCost`
        """See `JobCost.cost_s`."""
        return by_active(self.per_file_s, active)


def parse_device(text: str) -> SimulatedDevice:
    """Read a description.

    `40x`: seconds of audio a second of the whole device, its jobs share it. `24s`: seconds of one
    file. After a slash the same with two at work, with three, and so on; beyond what is given,
    more jobs share what there is (see `by_active`).

    Raises:
        UsageError: it cannot be understood.
    """
    found = _DEVICE.fullmatch(text.strip())
    if found is None:
        raise UsageError(f"{text!r} describes no device.", remedy=HOW)
    written = found["speeds"].split("/")
    values = {active: float(speed[:-1]) for active, speed in enumerate(written, 1)}
    units = {speed[-1] for speed in written}
    if len(units) > 1 or not all(values.values()):
        problem = "mixes x and s" if len(units) > 1 else "never gets anything done"
        raise UsageError(f"The device {text!r} {problem}.", remedy=HOW)
    speed: JobCost = FileSpeed(values)
    if units == {"x"}:
        speed = DeviceSpeed(0.0, {active: active / rate for active, rate in values.items()})
    return SimulatedDevice(found["name"], int(found["slots"]), speed)


def parse_devices(texts: Sequence[str]) -> list[SimulatedDevice]:
    """Read descriptions.

    Raises:
        UsageError: one cannot be understood, or two have one name.
    """
    devices = [parse_device(text) for text in texts]
    names = [device.id for device in devices]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"Two devices are called {name!r}.", remedy="Give each its own name.")
    return devices
