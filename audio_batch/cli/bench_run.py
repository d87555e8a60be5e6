"""`audio-batch bench run MANIFEST`: one manifest through a grid of our settings."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from audio_batch.cli.option import manifest_argument

if TYPE_CHECKING:
    from audio_batch.bench.results import RunReport

_GRID = "Grid: values parted by commas"


def run(
    manifest: Annotated[Path, manifest_argument("The recordings.")],
    flags: Annotated[
        list[str] | None,
        typer.Argument(metavar="[-- FLAGS]", help="Flags of `run` for all: -- --model demo."),
    ] = None,
    batch_size: Annotated[
        str | None, typer.Option(help="Such as 1,8,16.", rich_help_panel=_GRID)
    ] = None,
    max_per_gpu: Annotated[
        str | None,
        typer.Option(help="Such as 1,2; with commas inside, 1;2,1.", rich_help_panel=_GRID),
    ] = None,
    prefetch: Annotated[
        str | None, typer.Option(help="Such as 0,2.", rich_help_panel=_GRID)
    ] = None,
    policy: Annotated[
        str | None, typer.Option(help="Names of policies.", rich_help_panel=_GRID)
    ] = None,
    isolation: Annotated[
        str | None, typer.Option(help="thread,process.", rich_help_panel=_GRID)
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds; figures are medians.")] = 3,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many.")] = None,
    output_dir: Annotated[
        Path, typer.Option("--output-dir", "-o", help="Gets a folder named after the devices.")
    ] = Path("bench-results"),
    work_dir: Annotated[
        Path | None, typer.Option(help="Keep outputs and logs here \\[a temporary folder].")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The result as JSON on stdout.")] = False,
) -> int:
    """Measure our settings against each other: time, stages, processors, memory, equal results.

    Every combination is a real run in a process of its own, into a new folder; the combinations
    take turns. The result goes to OUTPUT_DIR/<devices>/bench-run.json; see `bench compare`.
    """
    from audio_batch.bench import assets, grid, ours
    from audio_batch.bench.machine import folder_name
    from audio_batch.bench.results import RUN_FILE, save

    given = {
        "batch_size": batch_size,
        "max_per_gpu": max_per_gpu,
        "prefetch": prefetch,
        "policy": policy,
        "isolation": isolation,
    }
    cells = grid.cells_of(given)
    manifest = manifest.expanduser().absolute()
    material = assets.read(manifest, limit=limit, references=False)
    if work_dir is not None:
        ours.refuse_used(work_dir)
    with tempfile.TemporaryDirectory(prefix="audio-batch-bench-") as temporary:
        plan = grid.Plan(
            manifest=manifest,
            arguments=(*(flags or ()), *(("--limit", str(limit)) if limit else ())),
            cells=cells,
            repeats=repeats,
            work=(work_dir or Path(temporary)).expanduser().absolute(),
            assets=len(material.recordings),
            audio_s=material.audio_s,
        )
        report = grid.measure(plan, _say)
    path = output_dir.expanduser() / folder_name(report.devices) / RUN_FILE
    save(path, report)
    _show(report, as_json=as_json)
    _say(f"Written to {path}")
    return _code(report)


def _show(report: RunReport, *, as_json: bool) -> None:
    import json
    from dataclasses import asdict

    from audio_batch.bench.tables import show_run
    from audio_batch.reporters import SteadyConsole

    if as_json:
        sys.stdout.write(json.dumps(asdict(report), indent=2) + "\n")
    else:
        show_run(SteadyConsole(), report)


def _code(report: RunReport) -> int:
    from audio_batch.errors import ExitCode

    return ExitCode.SOME_FAILED if any(cell.problem for cell in report.cells) else ExitCode.OK


def _say(text: str) -> None:
    from audio_batch.text import for_terminal

    typer.echo(for_terminal(text), err=True)
