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
    from audio_batch.text import for_terminal
    from audio_batch.transcript import Transcript

    if not output_dir.is_dir():
        raise UsageError(f"There is no folder {output_dir}.")
    formats = [name for name in parse_formats(output_format) if name != "json"]
    if not formats:
        raise UsageError("The JSON is what is read: name another format to write, such as vtt.")
    options = FormatOptions(
        max_line_width=max_line_width,
        max_line_count=max_line_count,
        highlight_words=highlight_words,
    )
    count, bad = 0, []
    for path in _transcripts(output_dir):
        stem = path.removesuffix(".json")
        try:
            data = (output_dir / path).read_text(encoding="utf-8")
            transcript = Transcript.from_json(json.loads(data))
            for name in formats:
                target = PurePosixPath(f"{stem}{FORMATS[name].suffix}")
                text = render(name, transcript, options)
                publish(to or output_dir, target, text, format_name=name)
            count += 1
        except (OSError, ValueError, AssetError) as error:
            bad.append(f"{path}: {error}")
    if not count and not bad:
        raise UsageError(f"{output_dir} holds no transcripts.")
    typer.echo(f"{count} transcripts written as {', '.join(formats)}.", err=True)
    for line in bad:
        typer.echo(for_terminal(f"left out: {line}"), err=True)
    return ExitCode.SOME_FAILED if bad else ExitCode.OK


def _transcripts(root: Path) -> Iterator[str]:
    """Canonical JSON files, relative to `root`: those of the journal, else all that there are."""
    from audio_batch.journal import Journal
    from audio_batch.storage import STATE_FOLDER, OutputFolder

    folder = OutputFolder(root)
    if folder.journal_path.is_file():
        journal = Journal(folder.journal_path, read_only=True)
        entries = list(journal.entries())
        journal.close()
        yield from (o.path for entry in entries for o in entry.outputs if o.format == "json")
        return
    for place, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if name != STATE_FOLDER)
        for name in sorted(names):
            path = Path(place, name)
            if name.endswith(".json") and path != folder.summary_path:
                yield path.relative_to(root).as_posix()
