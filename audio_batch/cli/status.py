"""`audio-batch status OUT`: what the journals say."""

from __future__ import annotations

import json
import sys
import time
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from audio_batch.cli.option import opt

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Console

    from audio_batch.journal import JournalEntry, RunRecord
    from audio_batch.journal_counts import Counts, Rows
    from audio_batch.journals import Journals

SHOWN = 200
"""Assets in the table, where nobody asks for more."""

SHOWN_PARTS = 20
_TABLE = 1_000
"""Assets in one table: its columns are as wide as they need, so that it is held whole."""


def status(
    output_dir: Annotated[
        str, typer.Argument(help="The --output-dir of a run: a folder, or a store's URL.")
    ],
    state_dir: Annotated[
        Path | None, opt("The --state-dir of the run.", "--state-dir", panel="Options")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Everything as JSON.")] = False,
    failed: Annotated[bool, typer.Option("--failed", help="Only what failed, all of it.")] = False,
    suspect: Annotated[
        bool,
        typer.Option(
            "--suspect", help="Only transcripts that may not be all that was said, all of them."
        ),
    ] = False,
    every: Annotated[bool, typer.Option("--all", help=f"More than {SHOWN} assets.")] = False,
    counts: Annotated[bool, typer.Option("--counts", help="No assets, only how many.")] = False,
) -> int:
    """Say what is done, what failed and why. Works while a run is going on.

    What failed comes first, then what is suspect, at work, interrupted, done. With --failed and
    --suspect, what is either. Parts of one manifest (--shard) are told together.
    """
    from audio_batch import journal_counts
    from audio_batch.errors import UsageError
    from audio_batch.journals import Journals
    from audio_batch.output_folder import OutputFolder
    from audio_batch.text import for_terminal, redact

    folder = OutputFolder.at(output_dir, state_dir=state_dir)
    rows = journal_counts.FAILED | journal_counts.SUSPECT_ONLY | journal_counts.REST
    if failed and suspect:
        rows = journal_counts.FAILED | journal_counts.SUSPECT_ONLY
    elif failed or suspect:
        rows = journal_counts.FAILED if failed else journal_counts.SUSPECT
    elif as_json:
        rows = journal_counts.ALL
    with Journals(folder.whole) as journals:
        if not journals.parts:
            raise UsageError(
                f"{for_terminal(redact(output_dir))} holds no journal of a run.",
                remedy="Name the --output-dir of a run, and its --state-dir if it had one.",
            )
        if as_json:
            _write_json(redact(output_dir), journals, None if counts else rows)
        else:
            limit = None if every or failed or suspect else SHOWN
            _show(journals, None if counts else rows, limit)
    return 0


def _write_json(output_folder: str, journals: Journals, rows: Rows | None) -> None:
    """One object; each asset is a line of it, written as it is read."""
    run = journals.newest_run
    counts = journals.counts()
    head = {
        "output_folder": output_folder,
        "manifest": run.request.get("manifest") if run else None,
        "last_run": _run(run) if run else None,
        "parts": [
            {"shard": str(part.shard), "last_run": _run(part.run) if part.run else None}
            for part in journals.parts
            if part.shard is not None
        ],
        "parts_not_begun": [str(shard) for shard in journals.not_begun],
        "counts": {state.value: n for state, n in counts.states.items()},
        "suspect": counts.suspect,
        "stages_done": journals.stage_counts(),
    }
    text = json.dumps(head, indent=2, ensure_ascii=True)
    write = sys.stdout.write
    write(f'{text.removesuffix("}").rstrip()},\n  "assets": [')
    lines = iter(() if rows is None else journals.as_json(rows))
    between = "\n"
    while page := list(islice(lines, _TABLE)):
        write(between + ",\n".join(f"    {line}" for line in page))
        between = ",\n"
    write("]\n}\n" if between == "\n" else "\n  ]\n}\n")


def _run(run: RunRecord) -> dict[str, object]:
    return {
        "started_at": run.started_at,
        "finished_at": run.finished_at,
        "exit_code": run.exit_code,
        "version": run.version,
    }


def _show(journals: Journals, rows: Rows | None, limit: int | None) -> None:
    from audio_batch.reporters import SteadyConsole

    console = SteadyConsole()
    _show_runs(journals, console)
    counts = journals.counts()
    told = [f"{n} {state}" for state, n in counts.states.items() if n]
    if counts.suspect:
        told.append(f"{counts.suspect} of them suspect")
    console.print(", ".join(told), highlight=False)
    if rows is None:
        return
    entries = journals.entries(rows, limit)
    while page := list(islice(entries, _TABLE)):
        _show_table(page, console)
    _show_rest(counts, limit, console)


def _show_rest(counts: Counts, limit: int | None, console: Console) -> None:
    total = sum(counts.states.values())
    if limit is not None and total > limit:
        console.print(
            f"These are {limit} of {total}; --all shows every one, --failed what failed.",
            highlight=False,
        )


def _show_runs(journals: Journals, console: Console) -> None:
    whole = [part for part in journals.parts if part.shard is None]
    parts = [part for part in journals.parts if part.shard is not None]
    for part in whole:
        if part.run is not None:
            console.print(f"Last run: {_told(part.run)}.", highlight=False)
    # What has not ended well comes first.
    parts.sort(key=lambda part: part.run is not None and part.run.exit_code == 0)
    for part in parts[:SHOWN_PARTS]:
        told = _told(part.run) if part.run else "has not begun"
        console.print(f"Part {part.shard}: {told}.", highlight=False)
    if len(parts) > SHOWN_PARTS:
        console.print(f"and {len(parts) - SHOWN_PARTS} more parts", highlight=False)
    if missing := journals.not_begun:
        some = ", ".join(map(str, missing[:SHOWN_PARTS]))
        more = f" and {len(missing) - SHOWN_PARTS} more" if len(missing) > SHOWN_PARTS else ""
        console.print(f"Not begun: {some}{more}.", highlight=False)


def _told(run: RunRecord) -> str:
    begun = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(run.started_at))
    if run.exit_code is None:
        return f"began {begun}, has not ended (at work, or killed)"
    return f"began {begun}, ended with exit code {run.exit_code}"


def _show_table(entries: Iterable[JournalEntry], console: Console) -> None:
    from rich.markup import escape
    from rich.table import Table

    from audio_batch.text import for_terminal

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
    console.print(table)
