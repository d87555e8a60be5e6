"""`audio-batch bench scale`: what many assets cost, and what a long one does."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from audio_batch.bench.many import ManyCost
    from audio_batch.bench.scale import ScaleReport


def scale(
    flags: Annotated[
        list[str] | None,
        typer.Argument(metavar="[-- FLAGS]", help="Flags of `run` for the long ones."),
    ] = None,
    counts: Annotated[
        str | None, typer.Option(help="Assets, such as 10,1000 \\[10,100,1000,10000].")
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Also 100,000 assets.")] = False,
    nothing_published: Annotated[
        bool,
        typer.Option(
            "--nothing-published",
            help="Assets a second of the program itself, with what a resume and `status` take; "
            "no long recordings.",
        ),
    ] = False,
    model: Annotated[str, typer.Option(help="For the long recordings.")] = "demo",
    max_hours: Annotated[
        float, typer.Option(min=0, max=24, help="The longest recording; 0 makes none.")
    ] = 1.0,
    clip: Annotated[
        Path | None,
        typer.Option(help="Speech to make the long recordings of \\[something like it]."),
    ] = None,
    output_dir: Annotated[
        Path, typer.Option("--output-dir", "-o", help="Gets a folder named after the processor.")
    ] = Path("bench-results"),
    work_dir: Annotated[
        Path | None, typer.Option(help="For temporary files; the disk whose commits are measured.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The result as JSON on stdout.")] = False,
) -> int:
    """Measure cost against work: 10 to 100,000 assets, and one asset of a minute to hours.

    The many are tiny and go through an engine that hears nothing, so that what is left is the
    program's own: manifest, schedule, journal, files. The long one is heard by a real model.
    With --nothing-published the files are left out too; up to 1,000,000 assets make sense then.
    The result goes to OUTPUT_DIR/<processor>/bench-scale.json.
    """
    import json
    from dataclasses import asdict

    from audio_batch.bench import scale as bench
    from audio_batch.bench.machine import folder_name
    from audio_batch.errors import ExitCode
    from audio_batch.storage import write_atomic

    wanted = _counts(counts) if counts else bench.COUNTS
    if nothing_published:
        max_hours = 0.0
    hours = [hour for hour in bench.HOURS if hour <= max_hours]
    if max_hours and max_hours not in hours:
        hours.append(max_hours)
    if work_dir is not None:
        work_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="audio-batch-bench-", dir=work_dir) as temporary:
        report = bench.measure(
            Path(temporary).absolute(),
            counts=(*wanted, bench.FULL_COUNT) if full else wanted,
            hours=hours,
            model=model,
            clip=clip.expanduser() if clip else None,
            flags=flags or (),
            publish=not nothing_published,
            say=_say,
        )
    text = json.dumps(asdict(report), indent=2) + "\n"
    path = output_dir.expanduser() / folder_name([report.machine.cpu]) / bench.SCALE_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, text.encode("utf-8"))
    if as_json:
        sys.stdout.write(text)
    else:
        _show(report)
    _say(f"Written to {path}")
    codes = [cost.exit_code for cost in report.counts]
    codes += [cost.exit_code for cost in report.unpublished]
    codes += [cost.exit_code for cost in report.lengths]
    return ExitCode.SOME_FAILED if any(codes) else ExitCode.OK


def _counts(text: str) -> tuple[int, ...]:
    from audio_batch.errors import UsageError

    counts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and 0 < int(part) <= 1_000_000 for part in counts):
        raise UsageError(
            f"--counts {text!r} is no list of numbers from 1 to 1,000,000.",
            remedy="Such as 10,1000.",
        )
    return tuple(int(part) for part in counts)


def _show(report: ScaleReport) -> None:
    from rich.table import Table

    from audio_batch.bench.scale import duration_text
    from audio_batch.reporters import SteadyConsole

    console = SteadyConsole()
    table = Table(title="Assets of 0.1 s, null engine")
    columns = ("assets", "wall s", "first task s", "ms each", "between ms", "CPU ms")
    for column in (*columns, "journal MB", "RSS MB", "B each", "B manifest"):
        table.add_column(column, justify="right")
    for cost in report.counts:
        table.add_row(
            f"{cost.assets:,}" if cost.exit_code == 0 else f"{cost.assets:,} (failed)",
            f"{cost.wall_s:.1f}",
            *(
                "-" if value is None else f"{value:.2f}"
                for value in (
                    cost.first_task_s,
                    cost.ms_per_asset,
                    cost.between_ms,
                    cost.cpu_ms_per_asset,
                )
            ),
            f"{cost.journal_bytes / 1e6:.2f}",
            f"{cost.peak_rss_bytes / 1e6:.0f}",
            *(
                "-" if value is None else f"{value:,}"
                for value in (cost.rss_bytes_per_asset, cost.manifest_bytes_per_asset)
            ),
        )
    if report.counts:
        console.print(table)
    if report.unpublished:
        console.print(_table_of_many(report.unpublished))
    table = Table(title="One recording")
    for column in ("audio", "wall s", "RTFx", "CPU s", "RSS MB", "samples MB", "beyond MB"):
        table.add_column(column, justify="right")
    for length in report.lengths:
        text = duration_text(length.duration_s)
        table.add_row(
            text if length.exit_code == 0 else f"{text} (failed)",
            f"{length.wall_s:.1f}",
            f"{length.rtfx:.1f}",
            f"{length.cpu_s:.1f}",
            *(
                f"{size / 1e6:.0f}"
                for size in (
                    length.peak_rss_bytes,
                    length.samples_bytes,
                    length.beyond_samples_bytes,
                )
            ),
        )
    if report.lengths:
        console.print(table)


def _table_of_many(costs: Sequence[ManyCost]) -> Table:
    from rich.table import Table

    table = Table(title="Null engine, nothing published", pad_edge=False)
    columns = ("assets", "wall s", "1st s", "a second", "CPU ms", "MB", "journal")
    for column in (*columns, "again s", "MB", "status s"):
        table.add_column(column, justify="right", no_wrap=True)
    for cost in costs:
        failed = cost.exit_code or cost.done != cost.assets
        resume_bytes = cost.resume_peak_rss_bytes
        table.add_row(
            f"{cost.assets:,} failed" if failed else f"{cost.assets:,}",
            f"{cost.wall_s:.1f}",
            _number(cost.first_task_s),
            _number(cost.assets_per_s, 0),
            f"{cost.cpu_ms_per_asset:.2f}",
            f"{cost.peak_rss_bytes / 1e6:.0f}",
            f"{cost.journal_bytes / 1e6:.0f}",
            _number(cost.resume_s),
            "-" if resume_bytes is None else f"{resume_bytes / 1e6:.0f}",
            _number(cost.status_s),
        )
    return table


def _number(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _say(text: str) -> None:
    from audio_batch.text import for_terminal

    typer.echo(for_terminal(text), err=True)
