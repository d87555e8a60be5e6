"""`audio-batch manifest schema | check | create | from-sql`."""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from audio_batch.cli import manifest_options as options
from audio_batch.cli.manifest_sql import from_sql
from audio_batch.cli.option import manifest_argument

app = typer.Typer(
    name="manifest",
    help="Manifests: what they may hold, whether one is sound, one from folders or a database.",
    no_args_is_help=True,
)
app.command("from-sql")(from_sql)


class Layout(StrEnum):
    """The forms of a manifest that `create` writes."""

    JSON = "json"
    JSONL = "jsonl"


@app.command("schema")
def schema() -> None:
    """Print the JSON Schema of a manifest (draft 2020-12)."""
    from audio_batch.formats import FORMATS
    from audio_batch.manifest_entry import json_schema

    _print_json(json_schema(frozenset(FORMATS)))


@app.command("check")
def check(
    manifest: Annotated[Path, manifest_argument("JSON, a JSON list or JSON Lines.")],
    config: Annotated[
        Path | None,
        typer.Option("--config", help="Configuration file (TOML).", envvar="AUDIO_BATCH_CONFIG"),
    ] = None,
    root: options.Root = None,
    field: options.Field = None,
    allow_missing: options.AllowMissing = None,
    where: options.Where = None,
    exclude: options.Exclude = None,
    order: options.OrderBy = None,
    skip: options.Skip = None,
    limit: options.Limit = None,
    as_json: Annotated[bool, typer.Option("--json", help="The answer as JSON.")] = False,
) -> None:
    """Check a manifest without a run: exit 0, or 4 with every problem it has.

    Settings come from where `run` has them, so that both mean the same assets.
    """
    flags = {
        "root": root,
        "field": field,
        "allow_missing": allow_missing,
        "where": where,
        "exclude": exclude,
        "order": order,
        "skip": skip,
        "limit": limit,
    }
    from audio_batch.assets import amount_of
    from audio_batch.config import merge
    from audio_batch.errors import ManifestError
    from audio_batch.request import Request, choose, read_manifest

    settings, _ = merge(flags, config=config, manifest=manifest)
    try:
        loaded = read_manifest(Request(manifest.expanduser(), settings))
        chosen = choose(loaded, settings)
    except ManifestError as error:
        if as_json:
            _print_json({"valid": False, "error": str(error), "problems": error.problems})
        raise
    amount = amount_of(chosen)
    unknown = amount.count - amount.known
    if as_json:
        answer = {
            "valid": True,
            "assets": len(loaded.assets),
            "selected": len(chosen),
            "duration_s": round(amount.known_s, 3),
            "duration_unknown": unknown,
        }
        _print_json(answer)
        return
    length = "length unknown"
    if amount.known:
        length = str(timedelta(seconds=round(amount.known_s)))
    if amount.known and unknown:
        length += f" and {unknown} of unknown length"
    typer.echo(f"Valid: {len(loaded.assets)} assets; {len(chosen)} selected ({length}).")


@app.command("create")
def create(
    paths: Annotated[list[str], typer.Argument(metavar="PATH", help="Files, folders or patterns.")],
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE", help="The manifest; - is stdout.")
    ],
    recursive: Annotated[
        bool, typer.Option("--recursive/--no-recursive", help="Also what is in folders below.")
    ] = True,
    glob: Annotated[
        list[str] | None,
        typer.Option(
            "--glob",
            help='Files of a folder that count: "*.mp3". Repeatable \\[known media suffixes].',
        ),
    ] = None,
    probe: Annotated[
        bool, typer.Option("--probe/--no-probe", help="Find out how long each recording is.")
    ] = True,
    layout: Annotated[
        Layout | None,
        typer.Option(
            "--format", help="JSON or JSON Lines \\[by FILE's suffix].", show_default=False
        ),
    ] = None,
    relative_to: Annotated[
        Path | None,
        typer.Option(
            "--relative-to",
            help="Write paths below this folder relative to it (then run with --root) "
            "\\[FILE's folder].",
        ),
    ] = None,
    keep_unreadable: Annotated[
        bool, typer.Option("--keep-unreadable", help="Keep files that cannot be read.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite FILE.")] = False,
) -> None:
    """Make a manifest of the recordings in folders."""
    from rich.console import Console
    from rich.progress import Progress

    from audio_batch import manifest_create as making
    from audio_batch.errors import UsageError
    from audio_batch.storage import write_atomic
    from audio_batch.text import for_terminal

    target = None if output == "-" else Path(output).expanduser().absolute()
    if target is not None and target.exists() and not (force and target.is_file()):
        remedy = "Choose another name." if target.is_dir() else "Add --force to overwrite it."
        raise UsageError(f"{for_terminal(str(target))} is there already.", remedy=remedy)
    if relative_to is not None and not relative_to.is_dir():
        raise UsageError(f"There is no folder {for_terminal(str(relative_to))}.")
    base = relative_to.absolute() if relative_to else target.parent if target else None
    console = Console(stderr=True)

    def report(text: str) -> None:
        console.print(for_terminal(text), markup=False, highlight=False, soft_wrap=True)

    recordings = making.find(paths, recursive=recursive, globs=glob or (), report=report)
    if not recordings:
        raise UsageError("There are no recordings there.", remedy="See --glob and --recursive.")
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("Reading", total=len(recordings))
        entries = making.entries(
            recordings,
            base=base,
            probe=probe,
            keep_unreadable=keep_unreadable,
            report=report,
            progress=lambda: progress.advance(task),
        )
    if not entries:
        raise UsageError("None of the recordings can be read.", remedy="See --keep-unreadable.")
    if layout is None:
        lines = target is not None and target.suffix.lower() in (".jsonl", ".ndjson")
        layout = Layout.JSONL if lines else Layout.JSON
    text = making.rendered(entries, json_lines=layout is Layout.JSONL, ascii_only=target is None)
    if target is None:
        sys.stdout.write(text)
    else:
        write_atomic(target, text.encode("utf-8"))
    count, left_out = len(entries), len(recordings) - len(entries)
    said = (
        f"{count} recording{'' if count == 1 else 's'} written to {output if target else 'stdout'}"
    )
    report(f"{said}, {left_out} left out." if left_out else f"{said}.")


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=True) + "\n")
