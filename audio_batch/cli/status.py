"""`audio-batch status OUT`: what the journal says."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from audio_batch.journal import JournalEntry, RunRecord


def status(
    output_dir: Annotated[Path, typer.Argument(help="The --output-dir of a run.")],
    as_json: Annotated[bool, typer.Option("--json", help="Everything as JSON.")] = False,
    failed: Annotated[bool, typer.Option("--failed", help="Only what failed.")] = False,
    suspect: Annotated[
        bool, typer.Option("--suspect", help="Only transcripts that may not be all that was said.")
    ] = False,
) -> int:
    """Say what is done, what failed and why. Works while a run is going on.

    With --failed and --suspect, what is either.
    """
    from audio_batch.journal import Journal
    from audio_batch.outcome import State
    from audio_batch.storage import OutputFolder

    folder = OutputFolder(output_dir)
    folder.require()
    journal = Journal(folder.journal_path, read_only=True)
    entries = list(journal.entries())
    run = journal.last_run()
    stages = journal.stage_counts()
    journal.close()
    if run is not None and run.exit_code is not None:
        # A run that left work behind in native code has ended; nobody is at work there.
        entries = [_ended(entry) for entry in entries]
    counts = {state.value: sum(entry.state is state for entry in entries) for state in State}
    suspects = sum(bool(entry.suspicions) for entry in entries)
    if failed or suspect:
        bad = (State.FAILED, State.INCOMPLETE, State.QUARANTINED)
        entries = [e for e in entries if (failed and e.state in bad) or (suspect and e.suspicions)]
    if as_json:
        _write_json(output_dir, counts, suspects, stages, entries, run)
    else:
        _show(counts, suspects, entries, run)
    return 0


def _ended(entry: JournalEntry) -> JournalEntry:
    from audio_batch.outcome import State

    if entry.state is not State.RUNNING:
        return entry
    return dataclasses.replace(entry, state=State.INTERRUPTED)


def _write_json(
    output_dir: Path,
    counts: dict[str, int],
    suspects: int,
    stages: dict[str, int],
    entries: Sequence[JournalEntry],
    run: RunRecord | None,
) -> None:
    body = {
        "output_folder": str(output_dir),
        "manifest": run.request.get("manifest") if run else None,
        "last_run": {
            "started_at": run.started_at,
            "finished_at": run.finished_at,
            "exit_code": run.exit_code,
            "version": run.version,
        }
        if run
        else None,
        "counts": counts,
        "suspect": suspects,
        "stages_done": stages,
        "assets": [dataclasses.asdict(entry) for entry in entries],
    }
    sys.stdout.write(json.dumps(body, indent=2, ensure_ascii=True) + "\n")


def _show(
    counts: dict[str, int], suspects: int, entries: Sequence[JournalEntry], run: RunRecord | None
) -> None:
    from rich.markup import escape
    from rich.table import Table

    from audio_batch.reporters import SteadyConsole
    from audio_batch.text import for_terminal

    console = SteadyConsole()
    if run is not None:
        begun = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(run.started_at))
        ended = f"ended with exit code {run.exit_code}"
        if run.exit_code is None:
            ended = "has not ended (at work, or killed)"
        console.print(f"Last run: began {begun}, {ended}.", highlight=False)
    told = [f"{n} {state}" for state, n in counts.items() if n]
    if suspects:
        told.append(f"{suspects} of them suspect")
    console.print(", ".join(told), highlight=False)
    table = Table("id", "name", "state", "attempts", "device")
    table.add_column("reason or notes", overflow="fold")
    for entry in entries:
        doubts = [f"suspect: {reason}" for reason in entry.suspicions]
        remark = "; ".join(
            [entry.error_text, *doubts] if entry.error_text else [*doubts, *entry.notes]
        )
        cells = (entry.asset_id, entry.name, entry.state.value, str(entry.attempts))
        rest = (entry.device or "", remark)
        table.add_row(*(escape(for_terminal(cell)) for cell in (*cells, *rest)))
    if entries:
        console.print(table)
