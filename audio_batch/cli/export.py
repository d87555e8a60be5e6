"""`audio-batch export OUT -f vtt`: other formats from the published JSON, without a model."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from audio_batch.journal import Journal
    from audio_batch.storage import PublishedFile


def export(
    output_dir: Annotated[Path, typer.Argument(help="The --output-dir of a run.")],
    output_format: Annotated[
        list[str] | None,
        typer.Option(
            "--output-format",
            "-f",
            help="Formats, a list, or all \\[those that are there].",
            show_default=False,
        ),
    ] = None,
    to: Annotated[
        Path | None, typer.Option("--to", help="Write below this folder instead.")
    ] = None,
    max_line_width: Annotated[int | None, typer.Option(help="Columns of a subtitle line.")] = None,
    max_line_count: Annotated[int | None, typer.Option(help="Lines of a subtitle.")] = None,
    highlight_words: Annotated[bool, typer.Option(help="Underline each word as spoken.")] = False,
) -> int:
    """Render transcripts again from their JSON, with the names of speakers.json.

    The JSON files are touched only where a voice was given another name there.
    """
    from audio_batch.errors import AssetError, ExitCode, UsageError
    from audio_batch.formats import FORMATS, FormatOptions, parse_formats, render
    from audio_batch.storage import OutputFolder, publish
    from audio_batch.text import for_terminal
    from audio_batch.transcript import Transcript
    from audio_batch.voices import names

    if not output_dir.is_dir():
        raise UsageError(f"There is no folder {output_dir}.")
    asked = [name for name in parse_formats(output_format or ()) if name != "json"]
    if output_format and not asked:
        raise UsageError("The JSON is what is read: name another format to write, such as vtt.")
    options = FormatOptions(
        max_line_width=max_line_width,
        max_line_count=max_line_count,
        highlight_words=highlight_words,
    )
    given = names.load(output_dir)
    is_a_runs = OutputFolder(output_dir).journal_path.is_file()
    count, found, bad = 0, 0, []
    written: list[PublishedFile] = []
    held = _journal_of(output_dir) if to is None else nullcontext()
    with held as journal:
        if journal is not None and (output_dir / names.FILE_NAME).is_file():
            from audio_batch.voices.folder import apply_names

            bad += apply_names(output_dir, journal)
        for path in _transcripts(output_dir):
            stem = path.removesuffix(".json")
            try:
                data = (output_dir / path).read_text(encoding="utf-8")
                transcript = names.applied(Transcript.from_json(json.loads(data)), given)
                found += 1
                for name in asked or _formats_of(output_dir / stem):
                    target = PurePosixPath(f"{stem}{FORMATS[name].suffix}")
                    text = render(name, transcript, options)
                    written.append(publish(to or output_dir, target, text, format_name=name))
                count += 1
            except (OSError, ValueError, AssetError) as error:
                bad.append(f"{path}: {error}")
        if journal is not None:
            _journal_written(journal, written)
    if not count and (not bad or not (found or is_a_runs)):
        raise UsageError(
            f"{output_dir} holds no transcripts.", remedy="Name the --output-dir of a run."
        )
    names_written = {file.format for file in written}
    formats = ", ".join(name for name in FORMATS if name in names_written) or "nothing but JSON"
    typer.echo(f"{count} transcript{'' if count == 1 else 's'} written as {formats}.", err=True)
    for line in bad:
        typer.echo(for_terminal(f"left out: {line}"), err=True)
    return ExitCode.SOME_FAILED if bad else ExitCode.OK


@contextmanager
def _journal_of(root: Path) -> Iterator[Journal | None]:
    """The folder's journal, held against a run; None where no run has written the folder.

    Raises:
        LockedError: a run is at work there.
    """
    from audio_batch.journal import Journal
    from audio_batch.storage import OutputFolder

    folder = OutputFolder(root)
    if not folder.journal_path.is_file():
        yield None
        return
    with folder.locked():
        journal = Journal(folder.journal_path)
        try:
            yield journal
        finally:
            journal.close()


def _journal_written(journal: Journal, written: Sequence[PublishedFile]) -> None:
    """Have the journal know the files that were its own: else they would pass for damaged."""
    by_path = {file.path: file for file in written}
    for entry in list(journal.entries()):
        outputs = tuple(by_path.get(output.path, output) for output in entry.outputs)
        if outputs != entry.outputs:
            journal.replace_outputs(entry.asset_id, outputs)


def _formats_of(stem: Path) -> list[str]:
    """The formats in which a transcript already stands beside its JSON."""
    from audio_batch.formats import FORMATS

    return [
        name
        for name, known in FORMATS.items()
        if name != "json" and stem.with_name(stem.name + known.suffix).is_file()
    ]


def _transcripts(root: Path) -> Iterator[str]:
    """Canonical JSON files, relative to `root`: those of the journal, else all that there are."""
    from audio_batch.journal import Journal
    from audio_batch.storage import STATE_FOLDER, OutputFolder
    from audio_batch.voices import names

    folder = OutputFolder(root)
    if folder.journal_path.is_file():
        journal = Journal(folder.journal_path, read_only=True)
        entries = list(journal.entries())
        journal.close()
        yield from (o.path for entry in entries for o in entry.outputs if o.format == "json")
        return
    own = {folder.summary_path, root / names.FILE_NAME}
    for place, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if name != STATE_FOLDER)
        for name in sorted(files):
            path = Path(place, name)
            if name.endswith(".json") and path not in own:
                yield path.relative_to(root).as_posix()
