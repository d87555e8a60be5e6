"""A simulated run as a person reads it, and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from audio_batch.reporters import clock
from audio_batch.schedule.simulation import SimulatedDevice, SimulatedJob, longest_first
from audio_batch.schedule.trials import Trial
from audio_batch.text import for_terminal

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Work:
    """What is simulated.

    Attributes:
        jobs: in the manifest's order, or as they were begun.
        planned: as earliest-finish takes them.
        left_out: assets of a past run that say nothing of their time.
        unknown: recordings whose length nobody knows.
        took_s: what the past run took on these devices; None where there was none.
    """

    jobs: tuple[SimulatedJob, ...]
    planned: tuple[SimulatedJob, ...]
    devices: tuple[SimulatedDevice, ...]
    left_out: int = 0
    unknown: int = 0
    took_s: float | None = None

    @property
    def audio_s(self) -> float:
        """Seconds of audio in all."""
        return sum(job.duration_s for job in self.jobs)


def to_json(work: Work, trials: Sequence[Trial], noise: float) -> dict[str, Any]:
    """Everything as plain values."""
    return {
        "schema_version": SCHEMA_VERSION,
        "assets": len(work.jobs),
        "left_out": work.left_out,
        "unknown_lengths": work.unknown,
        "audio_s": round(work.audio_s, 3),
        "took_s": None if work.took_s is None else round(work.took_s, 3),
        "noise": noise,
        "bound_s": round(trials[0].typical.bound_s, 3),
        "devices": [_device_json(work, device) for device in work.devices],
        "policies": [_trial_json(trial, work.devices) for trial in trials],
    }


def _device_json(work: Work, device: SimulatedDevice) -> dict[str, Any]:
    """What a device is: seconds of a usual job, by how many are at work there."""
    usual_s = _usual_s(work)
    return {
        "name": device.id,
        "slots": device.slots,
        "seconds_of_a_usual_file": {
            str(active): round(device.speed.cost_s(active, usual_s), 4)
            for active in range(1, device.slots + 1)
        },
    }


def _trial_json(trial: Trial, devices: Sequence[SimulatedDevice]) -> dict[str, Any]:
    typical = trial.typical
    return {
        "policy": trial.policy,
        "runs": len(trial.runs),
        "makespan_s": round(trial.makespan_s, 3),
        "makespan_p95_s": round(trial.p95_s, 3),
        "ratio": round(trial.ratio, 4),
        "ratio_p95": round(trial.p95_ratio, 4),
        "devices": {
            device.id: {
                "assets": typical.jobs(device.id),
                "busy": round(typical.busy(device.id), 4),
            }
            for device in devices
        },
    }


def show(console: Console, work: Work, trials: Sequence[Trial]) -> None:
    """The devices, and what each policy makes of them."""
    _say(console, f"{_count(len(work.jobs), 'recording')}, {clock(work.audio_s)} of audio.")
    if work.unknown:
        _say(console, f"{work.unknown} of unknown length are taken for usual ones.")
    if work.left_out:
        _say(console, f"{work.left_out} more of the journal say nothing of their time.")
    usual_s = _usual_s(work)
    devices = Table("device", title=f"Devices, usual file {clock(usual_s)}", title_justify="left")
    for column in ("slots", "seconds a file alone", "with all slots at work"):
        devices.add_column(column, justify="right")
    for device in work.devices:
        cells = (device.speed.cost_s(active, usual_s) for active in (1, device.slots))
        devices.add_row(_safe(device.id), str(device.slots), *(f"{cell:.2f}" for cell in cells))
    console.print(devices)
    noisy = len(trials[0].runs) > 1
    table = Table("policy", title="Expected, a model", title_justify="left")
    for column in ("takes", "p95", "over bound", *(d.id for d in work.devices)):
        if column != "p95" or noisy:
            table.add_column(_safe(column), justify="right")
    for trial in trials:
        spread = [_seconds(trial.p95_s)] if noisy else []
        shares = (
            f"{trial.typical.jobs(d.id)} ({100 * trial.typical.busy(d.id):.0f} % busy)"
            for d in work.devices
        )
        table.add_row(
            trial.policy, _seconds(trial.makespan_s), *spread, f"{trial.ratio:.3f}", *shares
        )
    console.print(table)
    _say(console, f"No schedule takes less than {_seconds(trials[0].typical.bound_s)}.")
    if noisy:
        _say(console, f"Medians of {len(trials[0].runs)} runs with noise; the bound is without.")
    if work.took_s is not None:
        _say(console, f"The run itself took {_seconds(work.took_s)}.")


def _usual_s(work: Work) -> float:
    ranked = longest_first(work.jobs)
    return ranked[len(ranked) // 2].duration_s


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 600 else clock(seconds)


def _count(count: int, one: str) -> str:
    return f"{count:,} {one}" + ("" if count == 1 else "s")


def _safe(text: str) -> str:
    return escape(for_terminal(text))


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False)
