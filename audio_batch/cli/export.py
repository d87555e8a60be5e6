"""`audio-batch export OUT -f vtt`: other formats from the published JSON, without a model."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Annotated

import typer


def export(
    output_dir: Annotated[Path, typer.Argument(help="The --output-dir of a run.")],
    output_format: Annotated[
        list[str], typer.Option("--output-format", "-f", help="Formats, a list, or all.")
    ],
    to: Annotated[
        Path | None, typer.Option("--to", help="Write below this folder instead.")
    ] = None,
    max_line_width: Annotated[int | None, typer.Option(help="Columns of a subtitle line.")] = None,
    max_line_count: Annotated[int | None, typer.Option(help="Lines of a subtitle.")] = None,
    highlight_words: Annotated[bool, typer.Option(help="Underline each word as spoken.")] = False,
) -> int:
    """Render transcripts again from their JSON. The JSON files themselves are not touched."""
    from audio_batch.errors import AssetError, ExitCode, UsageError
    from audio_batch.formats import FORMATS, FormatOptions, parse_formats, render
    from audio_batch.storage import publish
    from audio_batch.transcript import Transcript

    if not output_dir.is_dir():
        raise UsageError(f"There is no folder {output_dir}.")
    formats = [name for name in parse_formats(output_format) if name != "json"]
    options = FormatOptions(
        max_line_width=max_line_width,
        max_line_count=max_line_count,
        highlight_words=highlight_words,
    )
    count, bad = 0, []
    for path in _transcripts(output_dir):
        try:
            transcript = Transcript.from_json(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            bad.append(f"{path}: {error}")
            continue
        stem = path.relative_to(output_dir).with_name(path.name.removesuffix(".json"))
        for name in formats:
            target = PurePosixPath(f"{stem.as_posix()}{FORMATS[name].suffix}")
            try:
                publish(
                    to or output_dir, target, render(name, transcript, options), format_name=name
                )
            except AssetError as error:
                bad.append(str(error))
        count += 1
    typer.echo(f"{count} transcripts written as {', '.join(formats)}.", err=True)
    for line in bad:
        typer.echo(f"left out: {line}", err=True)
    if not count and not bad:
        raise UsageError(f"{output_dir} holds no transcripts.")
    return ExitCode.SOME_FAILED if bad else ExitCode.OK


def _transcripts(root: Path) -> Iterator[Path]:
    """Canonical JSON files: every `.json` but the run's summary and what is in the state folder."""
    from audio_batch.storage import STATE_FOLDER

    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if name != STATE_FOLDER)
        for name in sorted(names):
            path = Path(folder, name)
            if name.endswith(".json") and path != root / "summary.json":
                yield path
