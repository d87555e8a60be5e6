"""`audio-batch speakers link|list|rename`: the voices of a finished run, without a model."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from audio_batch.cli.location import OutputDir, StateDir

if TYPE_CHECKING:
    from audio_batch.output_folder import OutputFolder
    from audio_batch.voices.folder import LinkReport

app = typer.Typer(help="The voices of all recordings: link, list, name them.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Everything as JSON.")]


@app.command()
def link(
    output_dir: OutputDir,
    state_dir: StateDir = None,
    link_threshold: Annotated[
        float | None,
        typer.Option(
            help="Mean cosine from which voices are one person's \\[by the model].",
            show_default=False,
        ),
    ] = None,
    relink: Annotated[
        bool, typer.Option("--relink", help="Forget who was linked with whom.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Change nothing, say what would change.")
    ] = False,
    as_json: AsJson = False,
) -> int:
    """Give the same voice the same id in all recordings, and the names of speakers.json."""
    from audio_batch.errors import ExitCode
    from audio_batch.journal import Journal
    from audio_batch.text import for_terminal
    from audio_batch.voices.folder import link_output

    folder = _local(output_dir, state_dir)
    with folder.locked():
        if not dry_run:
            folder.sweep()
        journal = Journal(folder.journal_path)
        try:
            report = link_output(
                folder.root, journal, threshold=link_threshold, relink=relink, dry_run=dry_run
            )
        finally:
            journal.close()
    if as_json:
        _write_json({**dataclasses.asdict(report), "dry_run": dry_run})
    else:
        typer.echo(for_terminal(_told(report, dry_run)), err=True)
    for line in report.left_out:
        typer.echo(for_terminal(f"left out: {line}"), err=True)
    return ExitCode.SOME_FAILED if report.left_out else ExitCode.OK


def _told(report: LinkReport, dry_run: bool) -> str:
    heard = sum(report.spaces.values())
    if not heard:
        return (
            f"The {report.recordings} transcripts hold no voices to link: "
            "they were made without --diarize."
        )
    will = "would be" if dry_run else "were"
    parts = [
        f"{heard} voices in {report.recordings} recordings are {len(report.voices)} people's, "
        f"{len(report.new)} of them new; {len(report.changed)} transcripts {will} written anew."
    ]
    if report.unlinked:
        parts.append(f"{report.unlinked} voices talk too little to tell whose they are.")
    if len(report.spaces) > 1:
        parts.append(
            f"The voices were made by {len(report.spaces)} models, and are only linked among "
            f"those of one: {', '.join(f'{n} of {space}' for space, n in report.spaces.items())}."
        )
    return " ".join(parts)


@app.command("list")
def list_voices(output_dir: OutputDir, as_json: AsJson = False) -> None:
    """The voices, their names, and where each is heard most."""
    from audio_batch.errors import UsageError
    from audio_batch.output_folder import OutputFolder
    from audio_batch.voices import names

    root = OutputFolder.at(output_dir).root
    if not (root / names.FILE_NAME).is_file():
        raise UsageError(
            f"{output_dir} holds no {names.FILE_NAME}.",
            remedy="`audio-batch speakers link` makes it.",
        )
    voices = names.listed(root)
    if as_json:
        _write_json({"voices": [dataclasses.asdict(voice) for voice in voices]})
        return
    from rich.markup import escape
    from rich.table import Table

    from audio_batch.reporters import SteadyConsole
    from audio_batch.text import for_terminal

    table = Table("voice", "name")
    for column in ("recordings", "talk"):
        table.add_column(column, justify="right")
    table.add_column("heard most in", overflow="fold")
    for voice in voices:
        texts = (voice.voice, voice.name or "", str(voice.recordings), _minutes(voice.talk_s))
        cells = (*texts, ", ".join(voice.heard_in))
        table.add_row(*(escape(for_terminal(cell)) for cell in cells))
    SteadyConsole().print(table)


@app.command()
def rename(
    output_dir: OutputDir,
    voice: Annotated[str, typer.Argument(help="Such as VOICE_0001.")],
    name: Annotated[str, typer.Argument(help='The name; "" takes it away.')],
    state_dir: StateDir = None,
) -> None:
    """Name a voice in speakers.json; `speakers link`, `export` and runs then write the name."""
    from audio_batch.errors import UsageError
    from audio_batch.text import for_terminal
    from audio_batch.voices import names

    folder = _local(output_dir, state_dir)
    if not (folder.root / names.FILE_NAME).is_file():
        raise UsageError(
            f"{output_dir} holds no {names.FILE_NAME}.",
            remedy="`audio-batch speakers link` makes it.",
        )
    with folder.locked():
        shown = names.rename(folder.root, voice, name)
    told = f"is now {shown}" if shown else "has no name any more"
    typer.echo(
        for_terminal(
            f"{voice} {told}. `audio-batch speakers link {output_dir}` writes it into the "
            "transcripts."
        ),
        err=True,
    )


def _local(output_dir: str, state_dir: Path | None) -> OutputFolder:
    """A run's output folder, whose transcripts can be written anew.

    Raises:
        UsageError: there is no run's journal, or its outputs are in an object store.
    """
    from audio_batch.output_folder import of_a_run

    folder = of_a_run(output_dir, state_dir)
    folder.require_local("This command")
    return folder


def _minutes(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"


def _write_json(body: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(body, indent=2, ensure_ascii=True) + "\n")
