"""`bench run`: one manifest through a grid of our settings, every cell a real run."""

from __future__ import annotations

import itertools
import shutil
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from audio_batch import __version__
from audio_batch.bench import ours
from audio_batch.bench.machine import look
from audio_batch.bench.results import Cell, Differences, OurRun, RunReport
from audio_batch.errors import UsageError
from audio_batch.transcript import Transcript

SETTINGS = {
    "batch_size": "--batch-size",
    "max_per_gpu": "--max-per-gpu",
    "prefetch": "--prefetch",
    "policy": "--policy",
    "isolation": "--isolation",
}
"""What a grid may vary, and the flag of `run` that it is."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be measured. `arguments` are flags of `run` that all cells have."""

    manifest: Path
    arguments: tuple[str, ...]
    cells: tuple[Mapping[str, str], ...]
    repeats: int
    work: Path
    assets: int
    audio_s: float


def cells_of(values: Mapping[str, str | None]) -> tuple[dict[str, str], ...]:
    """Every combination of the settings' values; one cell without any where none is given.

    A text such as "1,8,16" has three values; where a value itself has commas ("2,1" on unequal
    devices), values are parted by semicolons: "1;2,1".

    Raises:
        UsageError: an empty value.
    """
    parted = dict[str, list[str]]()
    for name, text in values.items():
        if text is not None:
            parts = [part.strip() for part in text.split(";" if ";" in text else ",")]
            if not all(parts):
                raise UsageError(f"{SETTINGS[name]} {text!r} has an empty value.")
            parted[name] = list(dict.fromkeys(parts))
    return tuple(
        dict(zip(parted, combination, strict=True))
        for combination in itertools.product(*parted.values())
    )


def title(settings: Mapping[str, str]) -> str:
    """What a cell is called: its settings, as flags without dashes."""
    named = (f"{name.replace('_', '-')} {value}" for name, value in settings.items())
    return ", ".join(named) or "defaults"


def measure(plan: Plan, tell: Callable[[str], None]) -> RunReport:
    """Run every cell as often as asked, the cells taking turns, each round in the other order.

    `tell` gets a line before each run. Outputs of the first round stay below `plan.work`, one
    folder a cell; those of later rounds are removed.
    """
    machine = look()
    runs: list[list[OurRun]] = [[] for _ in plan.cells]
    problems: list[str | None] = [None for _ in plan.cells]
    found: list[dict[str, Transcript]] = [{} for _ in plan.cells]
    for turn in range(plan.repeats):
        order = list(enumerate(plan.cells))
        for number, settings in order if turn % 2 == 0 else order[::-1]:
            tell(f"Round {turn + 1} of {plan.repeats}: {title(settings)}")
            output = plan.work / f"cell-{number:02d}" / f"round-{turn + 1}"
            log = plan.work / f"cell-{number:02d}" / f"round-{turn + 1}.log"
            log.parent.mkdir(parents=True, exist_ok=True)
            flags = [part for name in settings for part in (SETTINGS[name], settings[name])]
            cache = plan.work / f"cell-{number:02d}" / "cache"
            ran = ours.measure(
                plan.manifest, output, [*plan.arguments, *flags], cache=cache, log=log
            )
            run = ours.told(ran, output)
            runs[number].append(run)
            if run.exit_code:
                problems[number] = f"exit code {run.exit_code}: {ours.last_words(log)}"
            if turn == 0:
                found[number] = ours.transcripts(output)
            else:
                shutil.rmtree(output, ignore_errors=True)
    first = title(plan.cells[0])
    cells = []
    for number, settings in enumerate(plan.cells):
        differs = ours.differences(first, found[0], found[number]) if number else None
        cells.append(_cell(settings, runs[number], plan.audio_s, differs, problems[number]))
    return RunReport(
        made_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        program=f"audio-batch {__version__}",
        machine=machine,
        devices=machine.named(
            device for of_cell in runs for run in of_cell for device in run.devices
        ),
        manifest=str(plan.manifest),
        assets=plan.assets,
        audio_s=round(plan.audio_s, 3),
        repeats=plan.repeats,
        arguments=plan.arguments,
        cells=tuple(cells),
    )


def _cell(
    settings: Mapping[str, str],
    runs: Sequence[OurRun],
    audio_s: float,
    differs: Differences | None,
    problem: str | None,
) -> Cell:
    wall_s = statistics.median(run.usage.wall_s for run in runs)
    middle = [run.usage.middle_cpu_pct for run in runs if run.usage.middle_cpu_pct is not None]
    starts = [run.start_s for run in runs if run.start_s is not None]
    # One whole run stands for the rest: stages of different runs do not belong together.
    typical = min(runs, key=lambda run: abs(run.usage.wall_s - wall_s))
    return Cell(
        name=title(settings),
        settings=dict(settings),
        runs=tuple(runs),
        wall_s=round(wall_s, 3),
        rtfx=round(audio_s / wall_s, 2) if wall_s and not problem else None,
        cpu_s=round(statistics.median(run.usage.cpu_s for run in runs), 3),
        cpu_pct=round(statistics.median(run.usage.cpu_pct for run in runs), 1),
        middle_cpu_pct=round(statistics.median(middle), 1) if middle else None,
        peak_rss_bytes=max(run.usage.peak_rss_bytes for run in runs),
        peak_vram_bytes=_peak_vram(runs),
        start_s=round(statistics.median(starts), 3) if starts else None,
        devices=typical.usage.devices,
        assets=typical.assets,
        stages=typical.stages,
        differs=differs,
        problem=problem,
    )


def _peak_vram(runs: Sequence[OurRun]) -> int | None:
    """What all devices together held more than before, at the most, in any run."""
    peaks = [
        sum(
            device.peak_used_bytes - device.used_before_bytes
            for device in run.usage.devices
            if device.peak_used_bytes is not None and device.used_before_bytes is not None
        )
        for run in runs
        if run.usage.devices
    ]
    return max(peaks, default=None)
