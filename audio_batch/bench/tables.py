"""The results for people: rich tables. What comes from files is escaped."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from audio_batch.bench.comparison import COLUMNS, ComparisonReport, cells
from audio_batch.bench.results import Cell, Contestant, PeersReport, RunReport, StageTime
from audio_batch.text import for_terminal

_GB = 1e9


def show_run(console: Console, report: RunReport) -> None:
    """The cells, whether their results are equal, then the stages of each."""
    table = _table(f"{report.assets} assets, {report.audio_s / 60:.1f} min of audio")
    table.add_column("setting", no_wrap=True)
    for column in ("wall s", "RTFx", "start s", "CPU %", "GPU %", "RSS GB", "VRAM GB"):
        table.add_column(column, justify="right")
    for cell in report.cells:
        busy = [
            device.middle_utilization_pct
            for device in cell.devices
            if device.middle_utilization_pct is not None
        ]
        table.add_row(
            _safe(cell.name),
            f"{cell.wall_s:.1f}",
            _number(cell.rtfx, 1),
            _number(cell.start_s, 1),
            _number(cell.middle_cpu_pct, 0),
            _number(sum(busy) / len(busy) if busy else None, 0),
            f"{cell.peak_rss_bytes / _GB:.2f}",
            _number(None if cell.peak_vram_bytes is None else cell.peak_vram_bytes / _GB, 2),
        )
    console.print(table)
    for cell in report.cells:
        if verdict := _verdict(cell):
            console.print(_safe(f"{cell.name}: {verdict}"), highlight=False)
    names = list(dict.fromkeys(stage.name for cell in report.cells for stage in cell.stages))
    stages = _table("Stages: seconds of all assets, share of all stages, RTFx")
    stages.add_column("setting", no_wrap=True)
    for name in names:
        stages.add_column(_safe(name), justify="right")
    for cell in report.cells:
        by_name = {stage.name: stage for stage in cell.stages}
        stages.add_row(_safe(cell.name), *(_stage(by_name.get(name)) for name in names))
    console.print(stages)


def _table(title: str) -> Table:
    return Table(title=title, box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)


def _stage(stage: StageTime | None) -> str:
    if stage is None:
        return "-"
    return f"{stage.total_s:.1f} {stage.share_pct:.0f}% {_number(stage.rtfx, 0)}x"


def _verdict(cell: Cell) -> str:
    """What is to be said of a cell's results; nothing of the one that the others are held to."""
    if cell.problem is not None:
        return f"failed: {cell.problem}"
    if cell.differs is None:
        return ""
    differs = cell.differs
    parts = (("texts", differs.texts), ("times", differs.times), ("missing", differs.missing))
    named = [f"{len(ids)} {what} ({', '.join(ids[:5])})" for what, ids in parts if ids]
    if not named:
        return f"the same texts and times as {differs.to}"
    return f"not the same as {differs.to}: {'; '.join(named)}"


def show_peers(console: Console, report: PeersReport) -> None:
    """A row for each contestant, then what is to be known of them."""
    title = f"{report.assets} files, {report.audio_s / 60:.1f} min of audio"
    table = _table(title)
    table.add_column("program", no_wrap=True)
    for column in ("wall s", "ratio", "RTFx", "CPU s", "CPU ratio", "RSS GB", "WER %"):
        table.add_column(column, justify="right")
    for row in report.contestants:
        table.add_row(
            _safe(row.name),
            _number(row.wall_s, 1),
            f"{row.ratio:.2f}x" if row.ratio is not None else "-",
            _number(row.rtfx, 1),
            _number(row.cpu_s, 0),
            f"{row.cpu_ratio:.2f}x" if row.cpu_ratio is not None else "-",
            _number(None if row.peak_rss_bytes is None else row.peak_rss_bytes / _GB, 2),
            _number(None if row.wer is None else 100 * row.wer, 2),
        )
    console.print(table)
    for row in report.contestants:
        if note := _note(row):
            console.print(_safe(f"{row.name}: {note}"), highlight=False)
    by_name = {row.name: row for row in report.contestants}
    for what, name in (("all files in one call", report.best_all), ("a loop", report.best_loop)):
        if name is not None:
            console.print(f"The best peer, {what}: {_safe(by_name[name].title)}", highlight=False)


def _note(row: Contestant) -> str:
    if row.cannot is not None:
        return f"cannot run: {row.cannot}"
    parts = []
    if row.scaled:
        parts.append(f"times scaled from {row.files} files")
    if row.comparable is False:
        parts.append("does not hear as well as ours")
    if row.cpwer is not None:
        parts.append(f"cpWER {100 * row.cpwer:.1f} %")
    return ", ".join(parts)


def show_comparison(console: Console, report: ComparisonReport) -> None:
    """The times of each setting on each machine, then what it took."""
    for title, first, last in (("Time", 2, 8), ("Memory and utilisation", 8, len(COLUMNS))):
        table = _table(title)
        for name in COLUMNS[:2]:
            table.add_column(name, no_wrap=True)
        for name in COLUMNS[first:last]:
            table.add_column(name, justify="right")
        for line in report.lines:
            shown = [_safe(text) for text in cells(line)]
            table.add_row(*shown[:2], *shown[first:last])
        console.print(table)
    for note in report.notes:
        console.print(_safe(note), highlight=False)


def _safe(text: str) -> str:
    return escape(for_terminal(text))


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
