"""`bench compare`: one report from the result folders of several machines or GPUs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from audio_batch.bench.results import RUN_FILE, SCHEMA_VERSION, Cell, RunReport, StageTime, load
from audio_batch.errors import UsageError

COLUMNS = [
    *("setting", "results", "total s", "mean s", "min s", "max s", "speed", "RTFx"),
    *("VRAM GB", "RSS GB", "GPU %", "CPU %"),
]


@dataclass(frozen=True, slots=True)
class Line:
    """One setting on one machine.

    `total_s` is the wall time of the whole manifest (median of the repeats), the other three are
    of single assets. `speed` is the first folder's wall time with the same setting by this one's:
    2 is twice as fast. None where there is nothing to divide.
    """

    folder: str
    devices: tuple[str, ...]
    cell: str
    total_s: float
    mean_s: float | None
    min_s: float | None
    max_s: float | None
    speed: float | None
    rtfx: float | None
    peak_vram_bytes: int | None
    peak_rss_bytes: int
    gpu_pct: float | None
    cpu_pct: float | None
    stages: tuple[StageTime, ...]
    problem: str | None


@dataclass(frozen=True, slots=True)
class ComparisonReport:
    """What `bench compare` makes of result folders. `notes` say what makes it unfair."""

    made_at: str
    folders: tuple[str, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...]
    schema_version: int = SCHEMA_VERSION
    kind: Literal["bench-compare"] = "bench-compare"


def find(folders: Sequence[Path]) -> list[Path]:
    """The results in the folders named, or in the folders that lie in them, in order.

    Raises:
        UsageError: a folder without any.
    """
    found = list[Path]()
    for folder in folders:
        inside = [folder / RUN_FILE, *sorted(folder.glob(f"*/{RUN_FILE}"))]
        there = [path for path in inside if path.is_file()]
        if not there:
            raise UsageError(
                f"There is no {RUN_FILE} in {folder}.",
                remedy="Name a folder that `audio-batch bench run` has written.",
            )
        found += [path for path in there if path not in found]
    return found


def compare(paths: Sequence[Path]) -> ComparisonReport:
    """Put results side by side; the first is what speeds are told against.

    Raises:
        UsageError: a file that is no result.
    """
    reports = [(path.parent.name, load(path, RunReport)) for path in paths]
    first = {cell.name: cell for cell in reports[0][1].cells}
    lines = [
        _line(name, report, cell, first.get(cell.name))
        for name, report in reports
        for cell in report.cells
    ]
    # The same settings beside each other, the machines in the order in which they were named.
    order = {cell: n for n, cell in enumerate(dict.fromkeys(line.cell for line in lines))}
    lines.sort(key=lambda line: order[line.cell])
    return ComparisonReport(
        made_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        folders=tuple(name for name, _ in reports),
        lines=tuple(lines),
        notes=tuple(_notes([report for _, report in reports])),
    )


def _line(name: str, report: RunReport, cell: Cell, first: Cell | None) -> Line:
    sound = cell.problem is None and first is not None and first.problem is None
    busy = [
        device.middle_utilization_pct
        for device in cell.devices
        if device.middle_utilization_pct is not None
    ]
    times = cell.assets
    return Line(
        folder=name,
        devices=report.devices,
        cell=cell.name,
        total_s=cell.wall_s,
        mean_s=times.mean_s if times else None,
        min_s=times.min_s if times else None,
        max_s=times.max_s if times else None,
        speed=round(first.wall_s / cell.wall_s, 3) if first and sound and cell.wall_s else None,
        rtfx=cell.rtfx,
        peak_vram_bytes=cell.peak_vram_bytes,
        peak_rss_bytes=cell.peak_rss_bytes,
        gpu_pct=round(sum(busy) / len(busy), 1) if busy else None,
        cpu_pct=cell.middle_cpu_pct,
        stages=cell.stages,
        problem=cell.problem,
    )


def _notes(reports: Sequence[RunReport]) -> list[str]:
    notes = []
    if len({(report.assets, round(report.audio_s)) for report in reports}) > 1:
        notes.append("The results are of different recordings: their times do not compare.")
    if len({report.arguments for report in reports}) > 1:
        notes.append("The runs had different flags.")
    if len({report.program for report in reports}) > 1:
        notes.append("The results are of different versions of the program.")
    return notes


def markdown(report: ComparisonReport) -> str:
    """The comparison as a Markdown table."""
    rows = [COLUMNS, ["---"] * len(COLUMNS), *(cells(line) for line in report.lines)]
    text = "\n".join(
        "| " + " | ".join(part.replace("|", "/") for part in row) + " |" for row in rows
    )
    notes = "".join(f"\n* {note}" for note in report.notes)
    return f"# Bench results side by side\n\n{text}\n{notes}\n"


def cells(line: Line) -> list[str]:
    """A line as texts, in the order of the table's columns."""
    return [
        line.cell,
        line.folder,
        f"{line.total_s:.1f}" if line.problem is None else "failed",
        *(_number(value, 2) for value in (line.mean_s, line.min_s, line.max_s)),
        f"{line.speed:.2f}x" if line.speed is not None else "-",
        _number(line.rtfx, 1),
        _number(None if line.peak_vram_bytes is None else line.peak_vram_bytes / 1e9, 1),
        f"{line.peak_rss_bytes / 1e9:.1f}",
        _number(line.gpu_pct, 0),
        _number(line.cpu_pct, 0),
    ]


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
