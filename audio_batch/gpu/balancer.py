"""Slots and leases: the locked shell around the pure policies.

Whoever begins a task takes a free slot of a device with it, and gives it back when the task ends:

    lease = balancer.try_lease()
    ...
    lease.release()
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from audio_batch.errors import SetupError, UsageError
from audio_batch.gpu.devices import Device
from audio_batch.gpu.policies import POLICIES, DeviceState, choose, first_come, score
from audio_batch.gpu.probe import Sampler
from audio_batch.gpu.readings import Reading, Readings

__all__ = [
    "POLICIES",
    "Balancer",
    "DeviceLoad",
    "DeviceState",
    "Lease",
    "choose",
    "first_come",
    "score",
]

logger = logging.getLogger("audio_batch.gpu")


@dataclass(frozen=True, slots=True)
class DeviceLoad:
    """One device for the progress display; None stands for what nobody reports.

    `out_reason` is None for a device in service, which gets no tasks while it is `held`.
    """

    device: Device
    active: int
    maximum: int
    utilization_pct: float | None
    free_bytes: int | None
    total_bytes: int | None
    out_reason: str | None
    held: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Lease:
    """A slot of a device, held until `release()`.

    Attributes:
        slot: the lowest number that was free on that device, from 0.
    """

    device: Device
    slot: int
    _balancer: Balancer = field(kw_only=True, repr=False)

    def release(self) -> None:
        """Give the slot back. From any thread; a second call does nothing."""
        self._balancer._release(self)


@dataclass(slots=True)
class _Bay:
    """A device and what we hold of it; guarded by the balancer's lock."""

    device: Device
    maximum: int
    leases: dict[int, Lease] = field(default_factory=dict)  # by slot
    out_reason: str | None = None
    held: bool = False
    _read: Reading | None = None
    _load: DeviceLoad | None = None

    @property
    def takes_tasks(self) -> bool:
        return self.out_reason is None and not self.held

    def load(self, reading: Reading) -> DeviceLoad:
        """How busy it is: the same record as before, where nothing has changed since."""
        active, load = len(self.leases), self._load
        if (
            load is None
            or load.active != active
            or load.maximum != self.maximum
            or load.held != self.held
            or load.out_reason != self.out_reason
            or self._read != reading
        ):
            self._read = reading
            load = self._load = DeviceLoad(
                device=self.device,
                active=active,
                maximum=self.maximum,
                utilization_pct=reading.utilization_pct,
                free_bytes=reading.free_bytes,
                total_bytes=reading.total_bytes,
                out_reason=self.out_reason,
                held=self.held,
            )
        return load


class Balancer:
    """Hands out the slots of the devices; safe for any number of threads.

    Args:
        devices: in the order that ties and the status line follow.
        caps: tasks at once, by `Device.id`, each at least 1.
        sampler: where load and memory come from; None counts tasks alone. Its owner stops it.
        policy: a name in `POLICIES`.

    Raises:
        UsageError: no such policy.
        ValueError: no device, or one without a cap.
    """

    def __init__(
        self,
        devices: Sequence[Device],
        caps: Mapping[str, int],
        sampler: Sampler | None = None,
        *,
        policy: str = "least-loaded",
    ) -> None:
        if policy not in POLICIES:
            raise UsageError(f"There is no policy {policy!r}.", remedy=f"Use {_either(POLICIES)}.")
        if not devices or any(caps.get(device.id, 0) < 1 for device in devices):
            raise ValueError("every device needs a cap of at least 1, and there must be a device")
        self._policy = POLICIES[policy]
        self._readings = Readings(sampler)
        self._bays = {device.id: _Bay(device, caps[device.id]) for device in devices}
        self._guard = threading.RLock()

    def add(self, device: Device, maximum: int) -> None:
        """Take in a device that joins, or one that was out; it is held until `resume`.

        From any thread. What still runs on one that was out keeps its leases.

        Raises:
            ValueError: `maximum` is less than 1.
        """
        if maximum < 1:
            raise ValueError("every device needs a cap of at least 1")
        with self._guard:
            before = self._bays.get(device.id)
            leases = before.leases if before is not None else {}
            self._bays[device.id] = _Bay(device, maximum, leases, held=True)

    def try_lease(self, *, exclude: frozenset[str] = frozenset()) -> Lease | None:
        """Take a free slot where the policy says, or None at once when there is none.

        Args:
            exclude: ids of devices this task must not have.

        Raises:
            SetupError: no device is left.
        """
        with self._guard:
            self._find_lost()
            states = [
                DeviceState(
                    id=bay.device.id,
                    active=len(bay.leases),
                    maximum=bay.maximum,
                    utilization_pct=self._readings.read(bay.device).utilization_pct,
                )
                for bay in self._bays.values()
                if bay.takes_tasks and bay.device.id not in exclude
            ]
            chosen = self._policy(states)
            return None if chosen is None else self._grant(self._bays[chosen])

    def lease_on(self, device_id: str) -> Lease | None:
        """Take a free slot of that very device, or None where it has none or takes no tasks.

        Raises:
            KeyError: no such device.
        """
        with self._guard:
            bay = self._bays[device_id]
            if not bay.takes_tasks or len(bay.leases) >= bay.maximum:
                return None
            return self._grant(bay)

    def look(self) -> None:
        """Take out the devices that the driver no longer reports.

        Raises:
            SetupError: no device is left.
        """
        with self._guard:
            self._find_lost()

    def take_out(self, device_id: str, reason: str) -> None:
        """Give that device no more tasks; those that run there keep their leases.

        From any thread. The first reason stays.

        Raises:
            KeyError: no such device.
        """
        with self._guard:
            bay = self._bays[device_id]
            if bay.out_reason is None:
                bay.out_reason = reason
                logger.warning("%s (%s) is taken out: %s", device_id, bay.device.name, reason)

    def hold(self, device_id: str) -> None:
        """Give that device no tasks until `resume`: its models are being loaded. From any thread.

        Raises:
            KeyError: no such device.
        """
        with self._guard:
            self._bays[device_id].held = True

    def resume(self, device_id: str) -> None:
        """End a `hold`. From any thread."""
        with self._guard:
            self._bays[device_id].held = False

    def set_maximum(self, device_id: str, maximum: int) -> None:
        """Change how many tasks a device takes at once, at least 1; those at work stay there.

        From any thread.
        """
        with self._guard:
            self._bays[device_id].maximum = max(1, maximum)

    def loads(self) -> tuple[DeviceLoad, ...]:
        """Say how busy every device is, in device order. From any thread, without waiting."""
        with self._guard:
            return tuple(bay.load(self._readings.read(bay.device)) for bay in self._bays.values())

    def status_line(self) -> str:
        """Write the line that is logged at each assignment, such as

        `GPU Balancer Status: GPU 0: 3/5 tasks, 45% util | GPU 1: 2/5 tasks, 32% util`
        """
        return "GPU Balancer Status: " + " | ".join(_status(load) for load in self.loads())

    def _find_lost(self) -> None:
        for bay in self._bays.values():
            if bay.out_reason is None and self._readings.read(bay.device).lost:
                self.take_out(bay.device.id, "the driver no longer reports it")
        if all(bay.out_reason is not None for bay in self._bays.values()):
            raise self._nothing_left()

    def _grant(self, bay: _Bay) -> Lease:
        slot = next(slot for slot in range(bay.maximum) if slot not in bay.leases)
        lease = bay.leases[slot] = Lease(bay.device, slot, _balancer=self)
        return lease

    def _release(self, lease: Lease) -> None:
        with self._guard:
            bay = self._bays[lease.device.id]
            if bay.leases.get(lease.slot) is lease:
                del bay.leases[lease.slot]

    def _nothing_left(self) -> SetupError:
        why = "; ".join(f"{bay.device.id} is out ({bay.out_reason})" for bay in self._bays.values())
        return SetupError(
            f"No device is left to work on: {why}.",
            remedy="What is done is kept; run again once a device works.",
        )


def _status(load: DeviceLoad) -> str:
    label = "CPU" if load.device.kind == "cpu" else f"GPU {load.device.cuda_index}"
    if load.device.node:
        label = load.device.id
    if load.out_reason is not None:
        return f"{label}: {load.active}/{load.maximum} tasks, taken out"
    if load.held:
        return f"{label}: {load.active}/{load.maximum} tasks, loading"
    busy = "n/a" if load.utilization_pct is None else f"{load.utilization_pct:.0f}%"
    return f"{label}: {load.active}/{load.maximum} tasks, {busy} util"


def _either(names: Mapping[str, object]) -> str:
    return " or ".join(names)
