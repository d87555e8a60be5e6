"""`audio-batch bench compare FOLDER...`: one report from result folders of several GPUs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def compare(
    folders: Annotated[
        list[Path], typer.Argument(help="Result folders of `bench run`, or folders of them.")
    ],
    markdown: Annotated[
        Path | None, typer.Option(help="Also write the table to this Markdown file.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Everything as JSON.")] = False,
) -> int:
    """Put the results of several GPUs or machines side by side; speeds are told by the first."""
    import json
    from dataclasses import asdict

    from audio_batch.bench import comparison
    from audio_batch.bench.tables import show_comparison
    from audio_batch.reporters import SteadyConsole
    from audio_batch.storage import write_atomic

    report = comparison.compare(comparison.find([folder.expanduser() for folder in folders]))
    if as_json:
        sys.stdout.write(json.dumps(asdict(report), indent=2) + "\n")
    else:
        show_comparison(SteadyConsole(), report)
    if markdown is not None:
        write_atomic(markdown.expanduser(), comparison.markdown(report).encode("utf-8"))
    return 0
