"""`audio-batch export OUT -f vtt`: other formats from the published JSON, without a model."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated

import typer

from audio_batch.cli.location import OutputDir, StateDir

if TYPE_CHECKING:
    from audio_batch.journal import Journal
    from audio_batch.occupied import Vouchers
    from audio_batch.output_folder import OutputFolder
    from audio_batch.outputs import Outputs
    from audio_batch.storage import PublishedFile


def export(
    output_dir: OutputDir,
    state_dir: StateDir = None,
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
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Write over files of others, too.")
    ] = False,
) -> int:
    """Render transcripts again from their JSON, with the names of speakers.json.

    The JSON files are touched only where a voice was given another name there. What no run or
    export is known to have written stays, unless it is below --to.
    """
    from audio_batch.errors import AssetError, ErrorKind, ExitCode, UsageError
    from audio_batch.formats import FORMATS, FormatOptions, parse_formats, render
    from audio_batch.occupied import Vouchers
    from audio_batch.outputs import LocalOutputs
    from audio_batch.publishing import Publisher
    from audio_batch.text import for_terminal, redact
    from audio_batch.transcript import Transcript
    from audio_batch.voices import names

    folder = _of(output_dir, state_dir)
    if to is None:
        folder.require_local("To export without --to")
    asked = [name for name in parse_formats(output_format or ()) if name != "json"]
    if output_format and not asked:
        raise UsageError("The JSON is what is read: name another format to write, such as vtt.")
    options = FormatOptions(
        max_line_width=max_line_width,
        max_line_count=max_line_count,
        highlight_words=highlight_words,
    )
    given = names.load(folder.root)
    is_a_runs = folder.journal_path.is_file()
    outputs = folder.place.open()
    target = outputs if to is None else LocalOutputs(to)
    count, found, bad = 0, 0, []
    written: list[PublishedFile] = []
    refused: list[str] = []
    held = _journal_of(folder) if to is None else nullcontext()
    with held as journal, closing(Vouchers(folder)) as vouchers:
        if journal is not None and (folder.root / names.FILE_NAME).is_file():
            from audio_batch.voices.folder import apply_names

            bad += apply_names(folder.root, journal)
        new: set[str] = set()
        if journal is not None:
            new = set(asked) - journal.formats.written().formats
            # Before the first file: a kill must leave nothing that passes for a person's.
            if new:
                journal.formats.note_export(new, (), _unknown(folder, outputs, new, vouchers))
        try:
            for path in _transcripts(folder):
                stem = path.removesuffix(".json")
                try:
                    data = outputs.read(PurePosixPath(path))
                    transcript = names.applied(Transcript.from_json(json.loads(data)), given)
                    found += 1
                    known = set(FORMATS)
                    if to is None and not overwrite:
                        known = _known(data, stem) | vouchers.formats(transcript.asset_id, stem)
                    publisher = Publisher(target, transcript.asset_id, stem, known)
                    for name in asked or _formats_of(outputs, stem, known):
                        try:
                            written.append(
                                publisher.publish(name, render(name, transcript, options))
                            )
                        except AssetError as error:
                            if error.kind is not ErrorKind.OUTPUT_EXISTS:
                                raise
                            refused.append(publisher.path(name).as_posix())
                    count += 1
                except (OSError, ValueError, AssetError) as error:
                    bad.append(f"{path}: {error}")
        finally:
            if journal is not None:
                _journal_written(journal, written)
                journal.formats.note_export(
                    {file.format for file in written},
                    (file.path for file in written),
                    refused,
                    instead_of=new,
                )
    bad += [
        f"{path}: it is there, and no run or export is known to have written it. Move it away, or "
        "give --overwrite."
        for path in refused
    ]
    if not count and (not bad or not (found or is_a_runs)):
        raise UsageError(
            f"{redact(str(output_dir))} holds no transcripts.",
            remedy="Name the --output-dir of a run.",
        )
    names_written = {file.format for file in written}
    formats = ", ".join(name for name in FORMATS if name in names_written) or "nothing but JSON"
    typer.echo(f"{count} transcript{'' if count == 1 else 's'} written as {formats}.", err=True)
    for line in bad:
        typer.echo(for_terminal(f"left out: {line}"), err=True)
    return ExitCode.SOME_FAILED if bad else ExitCode.OK


def _of(location: str, state_dir: Path | None) -> OutputFolder:
    """A run's output folder, or a local copy of one without its journal."""
    from audio_batch.errors import UsageError
    from audio_batch.output_folder import OutputFolder, of_a_run

    folder = OutputFolder.at(location, state_dir=state_dir)
    if not folder.is_local:
        return of_a_run(location, state_dir)
    if not folder.root.is_dir():
        raise UsageError(f"There is no folder {location}.")
    return folder


@contextmanager
def _journal_of(folder: OutputFolder) -> Iterator[Journal | None]:
    """The folder's journal, held against a run; None where no run has written the folder.

    Raises:
        LockedError: a run is at work there.
    """
    from audio_batch.journal import Journal

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
    from audio_batch.journal_counts import ALL

    for entry in journal.tally().entries(ALL):
        outputs = tuple(by_path.get(output.path, output) for output in entry.outputs)
        if outputs != entry.outputs:
            journal.replace_outputs(entry.asset_id, outputs)


def _known(canonical: bytes, stem: str) -> set[str]:
    """The formats that a transcript says were published with it."""
    from audio_batch.formats import FORMATS
    from audio_batch.seal import named_in

    paths = named_in(canonical)
    return {name for name, known in FORMATS.items() if f"{stem}{known.suffix}" in paths}


def _unknown(
    folder: OutputFolder, outputs: Outputs, formats: Collection[str], vouchers: Vouchers
) -> list[str]:
    """What stands under names of these formats, and no run or export is known to have written."""
    from audio_batch.errors import AssetError
    from audio_batch.formats import FORMATS
    from audio_batch.seal import owner_of

    found = []
    for path in _transcripts(folder):
        stem = path.removesuffix(".json")
        names = {name: f"{stem}{FORMATS[name].suffix}" for name in formats}
        there = {name: text for name, text in names.items() if outputs.is_seen(text)}
        if not there:
            continue
        try:
            data = outputs.read(PurePosixPath(path))
        except (OSError, AssetError):
            data = b""
        known = _known(data, stem) | vouchers.formats(owner_of(data) or "", stem)
        found += [text for name, text in there.items() if name not in known]
    return found


def _formats_of(outputs: Outputs, stem: str, known: Collection[str]) -> list[str]:
    """Those of the known formats in which a transcript stands beside its JSON."""
    from audio_batch.formats import FORMATS

    return [
        name
        for name in FORMATS
        if name in known
        and name != "json"
        and outputs.size_bytes(f"{stem}{FORMATS[name].suffix}") is not None
    ]


def _transcripts(folder: OutputFolder) -> Iterator[str]:
    """Canonical JSON files, relative to the folder: those of the journal, else all there are."""
    from audio_batch.journal import Journal
    from audio_batch.journal_counts import ALL
    from audio_batch.storage import STATE_FOLDER
    from audio_batch.voices import names

    if folder.journal_path.is_file():
        with closing(Journal(folder.journal_path, read_only=True)) as journal:
            for entry in journal.tally().entries(ALL):
                yield from (output.path for output in entry.outputs if output.format == "json")
        return
    own = {folder.summary_path, folder.root / names.FILE_NAME}
    for place, folders, files in os.walk(folder.root):
        folders[:] = sorted(name for name in folders if name != STATE_FOLDER)
        for name in sorted(files):
            path = Path(place, name)
            if name.endswith(".json") and path not in own:
                yield path.relative_to(folder.root).as_posix()
