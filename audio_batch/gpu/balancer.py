"""Slots and leases: the locked shell around the pure policies.

A worker thread asks for a lease, waits until a device has a free slot, works inside the lease and
gives it back:

    with balancer.lease(cancelled=stop) as lease:
        transcribe(asset, lease.device)
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from audio_batch.errors import SetupError, UsageError
from audio_batch.gpu.devices import Device
from audio_batch.gpu.policies import POLICIES, DeviceState, choose, first_come, fitting, score
from audio_batch.gpu.probe import Sampler
from audio_batch.gpu.readings import Reading, Readings

__all__ = [
    "POLICIES",
    "Balancer",
    "Cancelled",
    "DeviceLoad",
    "DeviceState",
    "Lease",
    "choose",
    "first_come",
    "fitting",
    "score",
]

logger = logging.getLogger("audio_batch.gpu")

# A waiting thread looks again this often: an event that is set, memory that other programs give
# back and a GPU that is lost do not notify the condition.
_POLL_S = 0.2


class Cancelled(Exception):
    """The run was cancelled while a task waited for a device."""


@dataclass(frozen=True, slots=True)
class DeviceLoad:
    """One device for the progress display; None stands for what nobody reports.

    `free_bytes` is what the driver says, without the reservations. `out_reason` is None for a
    device in service, which gets no tasks while it is `held`.
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
    """A slot of a device, held until `release()`, or as a context manager.

    Attributes:
        slot: the lowest number that was free on that device, from 0.
        reserved_bytes: memory that counts as taken until the driver can be seen to report it.
    """

    device: Device
    slot: int
    reserved_bytes: int = 0
    _balancer: Balancer = field(kw_only=True, repr=False)

    def settle(self) -> None:
        """Say that the model is loaded: the next snapshot shows its memory, the reservation ends.

        From any thread; a second call does nothing.
        """
        self._balancer._settle(self)

    def release(self) -> None:
        """Give the slot back. From any thread; a second call does nothing."""
        self._balancer._release(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


@dataclass(slots=True)
class _Reservation:
    lease: Lease
    settled_at_s: float | None = None


@dataclass(slots=True)
class _Bay:
    """A device and what we hold of it; guarded by the balancer's lock."""

    device: Device
    maximum: int
    leases: dict[int, Lease] = field(default_factory=dict)  # by slot
    reservations: list[_Reservation] = field(default_factory=list)
    out_reason: str | None = None
    held: bool = False

    def reserved_bytes(self, reading: Reading) -> int:
        """Sum what the reading does not show yet, and forget what it does.

        NVML reports a model only once it is loaded: a reservation counts until a reading that was
        taken after it was settled.
        """
        self.reservations = [
            reservation
            for reservation in self.reservations
            if reservation.settled_at_s is None
            or (reading.taken_at_s is not None and reading.taken_at_s <= reservation.settled_at_s)
        ]
        return sum(reservation.lease.reserved_bytes for reservation in self.reservations)


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
        self._changed = threading.Condition()

    def lease(
        self,
        *,
        cancelled: threading.Event | None = None,
        exclude: frozenset[str] = frozenset(),
        need_bytes: int | Callable[[Device], int] = 0,
    ) -> Lease:
        """Wait for a free slot and take it.

        Args:
            cancelled: ends the wait.
            exclude: ids of devices this task must not have.
            need_bytes: memory the task will take, reserved with the slot; devices with less are
                passed over as `fitting` says. A function where it differs by device (a model that
                is there already needs nothing more): called under the lock, so it only looks up.

        Raises:
            Cancelled: `cancelled` is set, also when it was set before.
            SetupError: no device is left, or none that is not excluded.
        """
        while True:
            with self._changed:
                if cancelled is not None and cancelled.is_set():
                    raise Cancelled("the run was cancelled")
                lease = self._try(exclude, need_bytes)
                if lease is not None:
                    return lease
                bays = self._bays.values()
                if all(bay.out_reason is not None or bay.device.id in exclude for bay in bays):
                    raise self._nothing_left(exclude)
                self._changed.wait(_POLL_S)

    def try_lease(
        self,
        *,
        exclude: frozenset[str] = frozenset(),
        need_bytes: int | Callable[[Device], int] = 0,
    ) -> Lease | None:
        """Take a free slot, or None at once when there is none; else as `lease`.

        For whoever also gives the slots back: waiting for itself it would wait for ever.

        Raises:
            SetupError: no device is left.
        """
        with self._changed:
            return self._try(exclude, need_bytes)

    def lease_on(self, device_id: str) -> Lease | None:
        """Take a free slot of that very device, or None where it has none or takes no tasks.

        Raises:
            KeyError: no such device.
        """
        with self._changed:
            bay = self._bays[device_id]
            if bay.out_reason is not None or bay.held or len(bay.leases) >= bay.maximum:
                return None
            return self._grant(bay, 0)

    def look(self) -> None:
        """Take out the devices that the driver no longer reports.

        Raises:
            SetupError: no device is left.
        """
        with self._changed:
            self._find_lost()

    def take_out(self, device_id: str, reason: str) -> None:
        """Give that device no more tasks; those that run there keep their leases.

        From any thread. The first reason stays.

        Raises:
            KeyError: no such device.
        """
        with self._changed:
            bay = self._bays[device_id]
            if bay.out_reason is None:
                bay.out_reason = reason
                logger.warning("%s (%s) is taken out: %s", device_id, bay.device.name, reason)
                self._changed.notify_all()

    def hold(self, device_id: str) -> None:
        """Give that device no tasks until `resume`: its models are being loaded. From any thread.

        Raises:
            KeyError: no such device.
        """
        with self._changed:
            self._bays[device_id].held = True

    def resume(self, device_id: str) -> None:
        """End a `hold`. From any thread."""
        with self._changed:
            self._bays[device_id].held = False
            self._changed.notify_all()

    def set_maximum(self, device_id: str, maximum: int) -> None:
        """Change how many tasks a device takes at once, at least 1; those at work stay there.

        From any thread.
        """
        with self._changed:
            self._bays[device_id].maximum = max(1, maximum)
            self._changed.notify_all()

    def loads(self) -> tuple[DeviceLoad, ...]:
        """Say how busy every device is, in device order. From any thread, without waiting."""
        with self._changed:
            loads = []
            for bay in self._bays.values():
                reading = self._readings.read(bay.device)
                loads.append(
                    DeviceLoad(
                        device=bay.device,
                        active=len(bay.leases),
                        maximum=bay.maximum,
                        utilization_pct=reading.utilization_pct,
                        free_bytes=reading.free_bytes,
                        total_bytes=reading.total_bytes,
                        out_reason=bay.out_reason,
                        held=bay.held,
                    )
                )
            return tuple(loads)

    def status_line(self) -> str:
        """Write the line that is logged at each assignment, such as

        `GPU Balancer Status: GPU 0: 3/5 tasks, 45% util | GPU 1: 2/5 tasks, 32% util`
        """
        return "GPU Balancer Status: " + " | ".join(_status(load) for load in self.loads())

    def _try(
        self, exclude: frozenset[str], need_bytes: int | Callable[[Device], int]
    ) -> Lease | None:
        states = []
        self._find_lost()
        for bay in self._bays.values():
            if bay.out_reason is not None or bay.held or bay.device.id in exclude:
                continue
            reading = self._readings.read(bay.device)
            free, reserved = reading.free_bytes, bay.reserved_bytes(reading)
            need = need_bytes if isinstance(need_bytes, int) else need_bytes(bay.device)
            states.append(
                DeviceState(
                    id=bay.device.id,
                    active=len(bay.leases),
                    maximum=bay.maximum,
                    utilization_pct=reading.utilization_pct,
                    free_bytes=None if free is None else max(0, free - reserved),
                    need_bytes=need,
                )
            )
        if not states:
            return None
        chosen = self._policy(fitting(states))
        if chosen is None:
            return None
        needed = next(state.need_bytes for state in states if state.id == chosen)
        return self._grant(self._bays[chosen], max(0, needed))

    def _find_lost(self) -> None:
        for bay in self._bays.values():
            if bay.out_reason is None and self._readings.read(bay.device).lost:
                self.take_out(bay.device.id, "the driver no longer reports it")
        if all(bay.out_reason is not None for bay in self._bays.values()):
            raise self._nothing_left()

    def _grant(self, bay: _Bay, need_bytes: int) -> Lease:
        slot = next(slot for slot in range(bay.maximum) if slot not in bay.leases)
        lease = Lease(bay.device, slot, need_bytes, _balancer=self)
        bay.leases[slot] = lease
        if need_bytes > 0:
            bay.reservations.append(_Reservation(lease))
        return lease

    def _settle(self, lease: Lease) -> None:
        with self._changed:
            for reservation in self._bays[lease.device.id].reservations:
                if reservation.lease is lease and reservation.settled_at_s is None:
                    reservation.settled_at_s = time.monotonic()

    def _release(self, lease: Lease) -> None:
        with self._changed:
            bay = self._bays[lease.device.id]
            if bay.leases.get(lease.slot) is lease:
                del bay.leases[lease.slot]
                self._settle(lease)
                self._changed.notify_all()

    def _nothing_left(self, exclude: frozenset[str] = frozenset()) -> SetupError:
        why = "; ".join(
            f"{bay.device.id} {f'is out ({bay.out_reason})' if bay.out_reason else 'has failed it'}"
            for bay in self._bays.values()
            if bay.out_reason is not None or bay.device.id in exclude
        )
        return SetupError(
            f"No device is left to work on: {why}.",
            remedy="What is done is kept; run again once a device works.",
        )


def _status(load: DeviceLoad) -> str:
    label = "CPU" if load.device.kind == "cpu" else f"GPU {load.device.cuda_index}"
    if load.out_reason is not None:
        return f"{label}: {load.active}/{load.maximum} tasks, taken out"
    if load.held:
        return f"{label}: {load.active}/{load.maximum} tasks, loading"
    busy = "n/a" if load.utilization_pct is None else f"{load.utilization_pct:.0f}%"
    return f"{label}: {load.active}/{load.maximum} tasks, {busy} util"


def _either(names: Mapping[str, object]) -> str:
    return " or ".join(names)
