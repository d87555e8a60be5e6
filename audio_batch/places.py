"""Where each device's models are loaded, and with how much: asked for, remembered, or eased since.

`Places` is the run's `guards.Ladder`. Used by the runner's thread, but for `place`, which loaders
call.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field, replace

from audio_batch.assembly import Fleet
from audio_batch.gpu.balancer import DeviceLoad
from audio_batch.gpu.devices import Device
from audio_batch.ladder import Rung, begin_with, describe, next_rung
from audio_batch.lineup import Lineup
from audio_batch.loading import Place
from audio_batch.options import RunOptions
from audio_batch.outcome import Outcome
from audio_batch.remembered import Key, Remembered


@dataclass(slots=True)
class Places:
    """The rung that every device stands on, and the place that follows from it.

    `ahead`: how many assets may be read ahead on each, besides those that it works on.
    """

    options: RunOptions
    lineup: Lineup
    fleet: Fleet
    remembered: Remembered
    ahead: int = 0
    _rungs: dict[str, Rung] = field(default_factory=dict)
    _steps: Counter[str] = field(default_factory=Counter)
    _begun_with: dict[str, DeviceLoad] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for load in self.fleet.balancer.loads():
            self._begin(load)

    def add(self, device_id: str) -> None:
        """A device has joined the fleet, or is back: it begins as one that was there from the
        beginning."""
        (load,) = (one for one in self.fleet.balancer.loads() if one.device.id == device_id)
        self._steps.pop(device_id, None)
        self._begin(load)

    def _begin(self, load: DeviceLoad) -> None:
        device = load.device
        slots = min(self.fleet.caps[device.id], self.fleet.workers)
        known = self.remembered.lookup(
            self._key(device), total_bytes=load.total_bytes, free_bytes=load.free_bytes
        )
        rung = begin_with(
            known,
            batch_size=self.options.batch_size,
            slots=slots,
            slots_asked=self.options.max_per_gpu is not None,
            compute_type=self.options.compute_type,
        )
        self._begun_with[device.id] = load
        self._rungs[device.id] = rung
        if rung.slots < slots:
            self.fleet.balancer.set_maximum(device.id, rung.slots)

    def _key(self, device: Device) -> Key:
        return Key(
            device_uuid=device.uuid or "cpu",
            model_identity=self.lineup.model.identity,
            compute_type=self.options.compute_type,
            diarize=self.lineup.diarizer is not None,
        )

    def rung(self, device_id: str) -> Rung:
        """What the device works with."""
        return self._rungs[device_id]

    def place(self, device_id: str) -> Place:
        """Where to load now; from any thread."""
        # As it was before anything of ours was there: right after a process has died, its memory
        # still counts as taken.
        load = self._begun_with[device_id]
        rung = self._rungs[device_id]
        return Place(
            device=load.device,
            slots=rung.slots,
            free_bytes=load.free_bytes,
            cpu_threads=self.options.cpu_threads,
            compute_type=rung.compute_type,
            batch_size=rung.batch_size,
            ahead=self.ahead,
        )

    def steps(self, device: str) -> int:
        """See `guards.Ladder`."""
        return self._steps[device]

    def ease(self, device: str, outcome: Outcome, *, idle: bool) -> tuple[str, bool] | None:
        """See `guards.Ladder`: fewer assets at a time, then a smaller compute type."""
        before = self._rungs[device]
        if not idle and before.slots == 1:
            # What was begun before the last step, or read ahead, is still in its way.
            self._steps[device] += 1
            return f"{device} ran out of memory: the asset is done again alone.", False
        at_work = replace(before, compute_type=outcome.compute_type or before.compute_type)
        after = next_rung(at_work, supported=_supported(self._begun_with[device].device))
        if after is None:
            return None
        self._steps[device] += 1
        same_type = after.compute_type == at_work.compute_type
        self._rungs[device] = replace(before, slots=after.slots) if same_type else after
        self.fleet.balancer.set_maximum(device, after.slots)
        # Loaded anew, the recognizer begins with whole batches again: with less beside it they may
        # fit now. Nothing is loaded under what runs.
        return describe(device, at_work, after), idle

    def ease_loading(self, device: str) -> str | None:
        """See `guards.Ladder`: only a smaller compute type makes models smaller."""
        before, kind = self._rungs[device], self._begun_with[device].device
        if before.compute_type == "auto" and kind.kind == "cpu":
            return None  # int8 by itself
        # What auto comes to on a GPU with room, see `resolve_compute_type`.
        compute_type = "float16" if before.compute_type == "auto" else before.compute_type
        at_work = replace(before, slots=1, compute_type=compute_type)
        after = next_rung(at_work, supported=_supported(kind))
        if after is None:
            return None
        self._steps[device] += 1
        self._rungs[device] = replace(after, slots=before.slots)
        return describe(device, at_work, after)

    def worked(self, device: str, outcome: Outcome) -> None:
        """See `guards.Ladder`: what worked after memory ran out is remembered for the next run."""
        if not self._steps[device] and outcome.batch_size is None:
            return
        begun = self._begun_with[device]
        rung = self._rungs[device]
        self.remembered.remember(
            self._key(begun.device),
            Rung(
                batch_size=outcome.batch_size or rung.batch_size,
                slots=rung.slots,
                compute_type=outcome.compute_type or rung.compute_type,
            ),
            model_name=self.lineup.model.name,
            total_bytes=begun.total_bytes,
            free_bytes=begun.free_bytes,
        )


def _supported(device: Device) -> Collection[str]:
    """The compute types that CTranslate2 has for a device, told without opening it.

    By compute capability (CTranslate2's documentation, "Quantization"): int8 from 6.1 on, float16
    from 7.0, bfloat16 from 8.0. One that does not say its own is taken for 7.0.
    """
    if device.kind == "cpu":
        return ("float32", "int8", "int8_float32")
    capability = device.compute_capability or (7, 0)
    found = ["float32"]
    if capability >= (6, 1):
        found += ["int8", "int8_float32"]
    if capability >= (7, 0):
        found += ["float16", "int8_float16"]
    if capability >= (8, 0):
        found += ["bfloat16", "int8_bfloat16"]
    return found
