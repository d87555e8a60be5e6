"""What a run would be like, said before it: slots that fit, settings, expected finish by policy.

Pure: what is known of the machine, the recordings and the models comes in, nothing is looked at.
`audio_batch.cli.plan` gathers it and shows the answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from audio_batch import host_memory
from audio_batch.engines.cuda import resolve_compute_type
from audio_batch.gpu.capacity import DEFAULT_MAX_PER_GPU, cpu_slots
from audio_batch.inventory import DeviceFacts
from audio_batch.learnt import Learnt
from audio_batch.needs import (
    FEED_CORE_S,
    ModelSize,
    assumed_per_audio_s,
    device_need,
    slots_in_vram,
)
from audio_batch.remembered import Experience
from audio_batch.schedule.bound import lower_bound_s
from audio_batch.schedule.simulation import (
    EARLIEST_FINISH,
    POLICY_NAMES,
    SimulatedDevice,
    SimulatedJob,
    longest_first,
    simulate,
)
from audio_batch.schedule.speeds import DeviceSpeed, Speeds

Limit = Literal["VRAM", "RAM", "CPU"]
Basis = Literal["learnt", "compared", "assumed"]

LEVELS: Mapping[str, int] = {
    "conservative": 1,
    "balanced": DEFAULT_MAX_PER_GPU,
    "aggressive": 2 * DEFAULT_MAX_PER_GPU,
}
"""Slots of a GPU by how much is dared, as far as they fit. They share one model, which computes
one batch after the other: the second keeps it busy between files, more gain little."""

_GPU_TYPES = {"float16", "int8_float16"}
"""Compute types that a GPU is taken to have, for what "auto" would be."""

_GPU_SLOTS_PER_CORE = 2
"""A slot of a GPU waits for it most of the time."""

_GPU_BATCH, _CPU_BATCH = 16, 8
"""Windows in a batch where nobody asked for a number."""

_MOST_JOBS = 3000
_THINNED_JOBS = (1000, 3000)
"""Of longer manifests so many recordings are simulated, spread over their lengths: a second's
work."""

_LONG_S = 1e6


@dataclass(frozen=True, slots=True)
class Work:
    """What is to be done.

    Attributes:
        size: of the recognition model.
        compute_type, batch_size: as asked for.
        stages: values of `Stage`.
        durations_s: of the recordings, in the order of the run; None: nobody knows.
        longest_first: whether the schedule may order them (the user did not).
    """

    size: ModelSize
    compute_type: str
    batch_size: int | None
    stages: tuple[str, ...]
    durations_s: tuple[float | None, ...]
    longest_first: bool = True


@dataclass(frozen=True, slots=True)
class Host:
    """The machine around the devices: cores, free memory, and what of it is to stay free."""

    cores: int
    free_bytes: int
    floor_bytes: int = host_memory.DEFAULT_FLOOR_BYTES


@dataclass(frozen=True, slots=True)
class Known:
    """What earlier runs found out about a device at this kind of work; None: nothing.

    `experience` is of a run that ran out of memory there; `holds` says that it counts still.
    """

    learnt: Learnt | None = None
    experience: Experience | None = None


@dataclass(frozen=True, slots=True)
class DeviceForecast:
    """What a device would do.

    Attributes:
        slots: those that the run would have.
        at_work: recordings side by side once the run is under way: its slots, and as many more as
            earlier runs were seen to have read ahead there.
        fits: slots that fit, by what limits them; VRAM is missing where it is not known.
        measured_memory: whether the VRAM's number rests on a measurement.
        levels: slots to ask for, by the names of `LEVELS`.
        speed: what its jobs are reckoned with.
        basis: whether that was learnt here, compared with what other devices showed, or assumed.
    """

    facts: DeviceFacts
    slots: int
    at_work: int
    fits: Mapping[Limit, int]
    measured_memory: bool
    levels: Mapping[str, int]
    speed: DeviceSpeed
    basis: Basis

    @property
    def limited_by(self) -> Limit:
        """What is short first."""
        return min(self.fits, key=lambda limit: self.fits[limit])

    @property
    def fit(self) -> int:
        """How many slots fit; 0: not even one."""
        return min(self.fits.values())

    @property
    def rtfx(self) -> float:
        """Audio seconds per second of the device once the run is under way."""
        return self.at_work / self.speed.seconds_per_audio_s(self.at_work)


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a run would be like.

    Attributes:
        audio_s: seconds of audio in all, unknown lengths taken for the median of the known; None
            where no length is known.
        unknown: recordings of unknown length.
        finish_s: expected seconds of the run by policy, the loading of models not counted; None
            where no length is known.
        bound_s: what no schedule could beat.
    """

    assets: int
    audio_s: float | None
    unknown: int
    devices: tuple[DeviceForecast, ...]
    finish_s: Mapping[str, float | None]
    bound_s: float | None

    @property
    def basis(self) -> Basis:
        """The least sure of the devices' bases."""
        order: tuple[Basis, ...] = ("assumed", "compared", "learnt")
        return min((device.basis for device in self.devices), key=order.index)

    def threads(self, level: str) -> int:
        """`--threads` for a level: a thread a slot."""
        return sum(device.levels[level] for device in self.devices)

    def max_per_gpu(self, level: str) -> str:
        """`--max-per-gpu` for a level, in the devices' order."""
        return ",".join(str(device.levels[level]) for device in self.devices)


def foresee(
    work: Work,
    devices: Sequence[DeviceFacts],
    known: Mapping[str, Known],
    host: Host,
    *,
    caps: Mapping[str, int] | None = None,
) -> Forecast:
    """Say what the run would be like.

    Args:
        known: by `Device.id`.
        caps: slots by `Device.id`, where they were asked for.
    """
    lengths = [duration_s for duration_s in work.durations_s if duration_s is not None]
    longest_s = max(lengths, default=None)
    fits = {
        facts.device.id: _fits(work, facts, devices, known, host, longest_s) for facts in devices
    }
    slots = {
        facts.device.id: _slots(facts, fits[facts.device.id], known, caps) for facts in devices
    }
    speeds = _speeds(work, devices, known, host)
    seen = tuple(
        DeviceForecast(
            facts=facts,
            slots=slots[facts.device.id],
            at_work=slots[facts.device.id] + _ahead(known.get(facts.device.id, Known())),
            fits=fits[facts.device.id],
            measured_memory=known.get(facts.device.id, Known()).experience is not None,
            levels=_levels(facts, fits[facts.device.id]),
            speed=_speed(speeds, facts.device.id, slots[facts.device.id]),
            basis=_basis(facts.device.id, known),
        )
        for facts in devices
    )
    finish_s, bound_s = _finish(work, seen, host, lengths)
    unknown = len(work.durations_s) - len(lengths)
    return Forecast(
        assets=len(work.durations_s),
        audio_s=sum(lengths) + unknown * median(lengths) if lengths else None,
        unknown=unknown,
        devices=seen,
        finish_s=finish_s,
        bound_s=bound_s,
    )


def _fits(
    work: Work,
    facts: DeviceFacts,
    devices: Sequence[DeviceFacts],
    known: Mapping[str, Known],
    host: Host,
    longest_s: float | None,
) -> dict[Limit, int]:
    """Slots that fit by each resource; the host's are shared evenly by the devices."""
    on_cpu = facts.device.kind == "cpu"
    batch = work.batch_size or (_CPU_BATCH if on_cpu else _GPU_BATCH)
    task_bytes = host_memory.need_bytes(
        longest_s, batch_size=batch, diarize="diarize" in work.stages, on_cpu=on_cpu
    )
    room = (host.free_bytes - host.floor_bytes) / len(devices) - work.size.host_bytes
    found: dict[Limit, int] = {"RAM": max(0, int(room // task_bytes))}
    past = known.get(facts.device.id, Known())
    if on_cpu:
        if past.experience is not None:  # more than that ran out of memory
            found["RAM"] = past.experience.rung.slots
        found["CPU"] = cpu_slots(host.cores, 0, 0)
        return found
    found["CPU"] = max(1, _GPU_SLOTS_PER_CORE * host.cores // len(devices))
    if facts.free_bytes is None:
        return found
    if past.experience is not None:  # more than that ran out of memory
        return {"VRAM": past.experience.rung.slots, **found}
    compute_type, _ = resolve_compute_type(
        work.compute_type,
        _GPU_TYPES | {work.compute_type} - {"auto"},
        facts.device,
        facts.free_bytes,
    )
    need = device_need(work.size, compute_type=compute_type, batch_size=batch, stages=work.stages)
    return {"VRAM": slots_in_vram(facts.free_bytes, need), **found}


def _slots(
    facts: DeviceFacts,
    fits: Mapping[Limit, int],
    known: Mapping[str, Known],
    caps: Mapping[str, int] | None,
) -> int:
    """The slots that a run would have: those asked for, or its defaults."""
    if caps is not None:
        return caps[facts.device.id]
    slots = DEFAULT_MAX_PER_GPU
    if facts.device.kind == "cpu":
        slots = max(1, min(fits.values()))
    past = known.get(facts.device.id, Known())
    return min(slots, past.experience.rung.slots) if past.experience else slots


def _ahead(past: Known) -> int:
    """How many more than its slots a device was seen to have at work: those read ahead count."""
    if past.learnt is None:
        return 0
    return max(0, max(past.learnt.per_audio_s) - past.learnt.key.slots)


def _levels(facts: DeviceFacts, fits: Mapping[Limit, int]) -> dict[str, int]:
    """Slots to ask for; one at least, since a run with none does nothing."""
    fit = max(1, min(fits.values()))
    if facts.device.kind == "cpu":
        return {level: 1 if level == "conservative" else fit for level in LEVELS}
    return {level: min(fit, most) for level, most in LEVELS.items()}


def _speeds(
    work: Work, devices: Sequence[DeviceFacts], known: Mapping[str, Known], host: Host
) -> Speeds:
    priors = {
        facts.device.id: assumed_per_audio_s(
            work.size,
            work.stages,
            on_cpu=facts.device.kind == "cpu",
            cores=host.cores,
            peak_core_hz=facts.peak_core_hz,
        )
        for facts in devices
    }
    return Speeds({id: past.learnt.speed for id, past in known.items() if past.learnt}, priors)


def _speed(speeds: Speeds, device: str, slots: int) -> DeviceSpeed:
    """What `speeds` believes of a device, learnt or not."""
    if (learnt := speeds.learnt(device)) is not None:
        return learnt
    fixed_s = speeds.cost_s(device, 1, 0.0) or 0.0
    per_audio_s = {
        active: ((speeds.cost_s(device, active, _LONG_S) or 0.0) - fixed_s) / _LONG_S
        for active in range(1, slots + 1)
    }
    return DeviceSpeed(fixed_s, per_audio_s)


def _basis(device: str, known: Mapping[str, Known]) -> Basis:
    if known.get(device, Known()).learnt is not None:
        return "learnt"
    return "compared" if any(past.learnt for past in known.values()) else "assumed"


def _finish(
    work: Work, devices: Sequence[DeviceForecast], host: Host, lengths: Sequence[float]
) -> tuple[dict[str, float | None], float | None]:
    """Expected seconds by policy, and the bound."""
    if not lengths:
        return dict.fromkeys(POLICY_NAMES), None
    usual_s = median(lengths)
    jobs = [
        SimulatedJob(str(number), usual_s if duration_s is None else duration_s, duration_s is None)
        for number, duration_s in enumerate(work.durations_s)
    ]
    simulated = [SimulatedDevice(d.facts.device.id, d.at_work, d.speed) for d in devices]
    bound_s = lower_bound_s(
        [job.duration_s for job in jobs], [(device.speed, device.slots) for device in simulated]
    )
    # However fast the GPUs are, the host has to feed them.
    feed_s = 0.0
    if all(device.facts.device.kind == "cuda" for device in devices):
        feed_s = sum(job.duration_s for job in jobs) * FEED_CORE_S / max(1, host.cores)
    finish_s: dict[str, float | None] = {}
    for policy in POLICY_NAMES:
        ordered = policy == EARLIEST_FINISH and work.longest_first
        arranged = longest_first(jobs) if ordered else jobs
        finish_s[policy] = max(feed_s, _makespan_s(arranged, simulated, policy, bound_s))
    return finish_s, max(feed_s, bound_s)


def _makespan_s(
    jobs: Sequence[SimulatedJob], devices: Sequence[SimulatedDevice], policy: str, bound_s: float
) -> float:
    """Simulate the run; a very long one is told from two short ones that are like it.

    What a policy loses against the bound is partly the same for any number of jobs (at the end),
    partly grows with it (too much side by side): a line through two points.
    """
    if len(jobs) <= _MOST_JOBS:
        return simulate(jobs, devices, policy).makespan_s
    fewer, few = (simulate(_thinned(jobs, most), devices, policy) for most in _THINNED_JOBS)
    if few.bound_s <= fewer.bound_s:  # one recording decides it all
        return max(bound_s, few.makespan_s)
    slope = (few.makespan_s - fewer.makespan_s) / (few.bound_s - fewer.bound_s)
    return max(bound_s, few.makespan_s + slope * (bound_s - few.bound_s))


def _thinned(jobs: Sequence[SimulatedJob], most: int) -> list[SimulatedJob]:
    """Every n-th of the jobs by length, no more than `most`, in their order."""
    step = -(-len(jobs) // most)
    ranked = sorted(range(len(jobs)), key=lambda number: -jobs[number].duration_s)
    return [jobs[number] for number in sorted(ranked[::step])]
