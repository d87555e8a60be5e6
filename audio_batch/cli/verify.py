"""`audio-batch verify OUT`: whether every output is still what was written."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from audio_batch.cli.location import OutputDir, Shard, StateDir

if TYPE_CHECKING:
    from audio_batch.verify import Verification

SCHEMA_VERSION = 1


def verify(
    output_dir: OutputDir,
    state_dir: StateDir = None,
    shard: Shard = None,
    as_json: Annotated[bool, typer.Option("--json", help="What was found as JSON.")] = False,
    fix: Annotated[
        bool, typer.Option("--fix/--no-fix", help="Have the next run make again what is damaged.")
    ] = True,
) -> int:
    """Read every output and kept result that the journal knows, and compare it with its hash.

    Only the journal is written: what is missing or damaged is made again by the next run. Exit 0
    when all is sound, 3 when something is not or still waits for that run, 5 when the journal is
    damaged itself.
    """
    from audio_batch.errors import ExitCode
    from audio_batch.journal import Journal
    from audio_batch.output_folder import of_a_run
    from audio_batch.text import redact
    from audio_batch.verify import check_journal
    from audio_batch.verify import verify as look

    folder = of_a_run(output_dir, state_dir, shard)
    with folder.locked():
        check_journal(folder.journal_path)
        journal = Journal(folder.journal_path)
        try:
            found = look(folder, journal)
            if fix:
                found.requeue(journal)
            untold = journal.outbox.count() if fix and found.sound else 0
        finally:
            journal.close()
    if as_json:
        _write_json(redact(output_dir), found, fix)
    else:
        _say(found, fix)
    if untold:
        told = _count(untold, "result is", "results are")
        typer.echo(f"{told} due in the database; `audio-batch results push` tells it.", err=True)
    return ExitCode.OK if found.ok else ExitCode.SOME_FAILED


def _write_json(output_dir: str, found: Verification, fix: bool) -> None:
    body = {
        "schema_version": SCHEMA_VERSION,
        "output_folder": output_dir,
        "ok": found.ok,
        "outputs": found.outputs,
        "stages": found.stages,
        "size_bytes": found.size_bytes,
        "unfinished": found.unfinished,
        "waiting": list(found.waiting),
        "damages": [dataclasses.asdict(damage) for damage in found.damages],
        "requeued": sorted(found.sound) if fix else [],
        "leftovers": found.leftovers,
    }
    sys.stdout.write(json.dumps(body, indent=2, ensure_ascii=True) + "\n")


def _say(found: Verification, fix: bool) -> None:
    from audio_batch.text import for_terminal

    for damage in found.damages:
        line = f"{damage.asset_id} {damage.format}: {damage.path} {damage.problem}"
        typer.echo(for_terminal(line))
    for path in found.leftovers:
        typer.echo(for_terminal(f"{path} is left of a killed run; the next run removes it."))
    outputs = _count(found.outputs, "output", "outputs")
    seen = f"{outputs} and {_count(found.stages, 'kept result', 'kept results')} read"
    typer.echo(f"{seen}, {len(found.damages)} damaged.", err=True)
    if found.unfinished:
        unfinished = _count(found.unfinished, "asset is", "assets are")
        typer.echo(f"{unfinished} not finished; run again to go on.", err=True)
    if found.waiting:
        waiting = _count(len(found.waiting), "asset waits", "assets wait")
        typer.echo(f"{waiting} to be made again; run again for that.", err=True)
    if found.sound:
        damaged = _count(len(found.sound), "asset has", "assets have")
        then = "the next run makes what is damaged again"
        if not fix:
            then = "without --no-fix the next run makes them again"
        typer.echo(f"{damaged} damaged outputs: {then}.", err=True)
    if len(found.damages) > sum(damage.stage is None for damage in found.damages):
        typer.echo("Damaged kept results are made again when they are needed.", err=True)


def _count(count: int, one: str, more: str) -> str:
    return f"{count} {one if count == 1 else more}"
