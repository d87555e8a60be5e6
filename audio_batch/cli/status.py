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
    from collections.abc import Iterable, Sequence

    from rich.console import Console

    from audio_batch.failed_starts import FailedStart
    from audio_batch.journal import JournalEntry
    from audio_batch.journal_counts import Counts, Rows
    from audio_batch.journals import Journals, Part
    from audio_batch.output_folder import OutputFolder

SHOWN = 200
"""Assets in the table, where nobody asks for more."""

SHOWN_PARTS = 20
_WIDE = 120
"""A terminal of so many columns has room for a table with ids, names and reasons."""
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
    new_failures: Annotated[
        bool,
        typer.Option(
            "--new-failures", help="Only what failed in the last run; exit 0 where nothing has."
        ),
    ] = False,
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
    --suspect, what is either. Parts of one manifest (--shard) are told together. Each asset is a
    line, but on a wide terminal without --failed and --suspect.

    With --new-failures the exit code tells whether the last run has something new to say: 3 where
    assets failed in it, or where it ended with 3 for another reason than earlier failures.
    """
    from audio_batch import journal_counts
    from audio_batch.errors import ExitCode, UsageError
    from audio_batch.journals import Journals
    from audio_batch.output_folder import OutputFolder
    from audio_batch.text import for_terminal, redact

    folder = OutputFolder.at(output_dir, state_dir=state_dir)
    rows = journal_counts.FAILED | journal_counts.SUSPECT_ONLY | journal_counts.REST
    only = failed or suspect or new_failures
    if new_failures and (failed or suspect):
        raise UsageError("--new-failures goes with neither --failed nor --suspect.")
    if failed and suspect:
        rows = journal_counts.FAILED | journal_counts.SUSPECT_ONLY
    elif new_failures:
        rows = journal_counts.NEWLY_FAILED
    elif failed or suspect:
        rows = journal_counts.FAILED if failed else journal_counts.SUSPECT
    elif as_json:
        rows = journal_counts.ALL
    with Journals(folder.whole) as journals:
        failed_starts = _failed_starts(folder, journals)
        if not journals.parts:
            raise UsageError(
                f"{for_terminal(redact(output_dir))} holds no journal of a run.",
                remedy=" ".join(map(str, failed_starts))
                or "Name the --output-dir of a run, and its --state-dir if it had one.",
            )
        if as_json:
            _write_json(redact(output_dir), journals, failed_starts, None if counts else rows)
        else:
            limit = None if every or only else SHOWN
            for start in failed_starts:
                typer.echo(for_terminal(str(start)))
            _show(journals, None if counts else rows, limit, as_table=not only)
        return _news(journals) if new_failures else ExitCode.OK


def _failed_starts(folder: OutputFolder, journals: Journals) -> list[FailedStart]:
    """Starts that ended before their run began, and after which none has begun."""
    from audio_batch.failed_starts import FailedStarts

    begun = {str(part.shard or ""): part.run.started_at for part in journals.parts if part.run}
    # A run of the whole does what its parts have to do, and parts do what the whole has.
    whole, any_part = begun.get("", 0.0), max(begun.values(), default=0.0)
    now = time.time()  # of a clock that was set back since nothing can be told
    return [
        start
        for start in FailedStarts.look().of(folder)
        if (max(begun.get(start.shard, 0.0), whole) if start.shard else any_part)
        < start.began_at
        <= now
    ]


def _news(journals: Journals) -> int:
    """Whether the last run has something new to say; see `status`."""
    from audio_batch.errors import ExitCode
    from audio_batch.journal_counts import BAD

    if journals.new_failures():
        return ExitCode.SOME_FAILED
    states = journals.counts().states
    before = any(states[state] for state in BAD)
    ended = {part.run.exit_code for part in journals.parts if part.run is not None}
    return ExitCode.OK if before or ExitCode.SOME_FAILED not in ended else ExitCode.SOME_FAILED


def _write_json(
    output_folder: str, journals: Journals, failed: Sequence[FailedStart], rows: Rows | None
) -> None:
    """One object; each asset is a line of it, written a page at a time."""
    from audio_batch.journal_counts import BETWEEN

    newest = journals.newest
    run = newest.run if newest else None
    counts = journals.counts()
    head = {
        "output_folder": output_folder,
        "manifest": run.request.get("manifest") if run else None,
        "last_run": _run(newest),
        "failed_starts": [
            {
                "shard": start.shard or None,
                "began_at": start.began_at,
                "exit_code": start.exit_code,
                "error": start.text,
            }
            for start in failed
        ],
        "parts": [
            {"shard": str(part.shard), "last_run": _run(part)}
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
    before = "\n    "
    for page in () if rows is None else journals.as_json(rows):
        write(before + page)
        before = BETWEEN
    write("\n  ]\n}\n" if before == BETWEEN else "]\n}\n")


def _run(part: Part | None) -> dict[str, object] | None:
    if part is None or part.run is None:
        return None
    run = part.run
    return {
        "started_at": run.started_at,
        "finished_at": run.finished_at,
        "exit_code": run.exit_code,
        "at_work": part.at_work,
        "selected": run.selected,
        "todo": run.todo,
        "version": run.version,
    }


def _show(journals: Journals, rows: Rows | None, limit: int | None, *, as_table: bool) -> None:
    from audio_batch.reporters import SteadyConsole

    console = SteadyConsole()
    _show_runs(journals, console)
    counts = journals.counts()
    told = ", ".join(f"{n} {state}" for state, n in counts.states.items() if n) or "0 done"
    if (selected := journals.selected) and selected >= sum(counts.states.values()):
        told += f" of {selected} selected"
    if counts.suspect:
        told += f", {counts.suspect} of them suspect"
    console.print(told, highlight=False, soft_wrap=True)
    if rows is None:
        return
    entries = journals.entries(rows, limit)
    while page := list(islice(entries, _TABLE)):
        if as_table and console.is_terminal and console.width >= _WIDE:
            _show_table(page, console)
        else:
            sys.stdout.write("".join(f"{_line(entry)}\n" for entry in page))
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
            console.print(f"Last run: {_told(part)}.", highlight=False, soft_wrap=True)
    # What has not ended well comes first.
    parts.sort(key=lambda part: part.run is not None and part.run.exit_code == 0)
    for part in parts[:SHOWN_PARTS]:
        console.print(f"Part {part.shard}: {_told(part)}.", highlight=False, soft_wrap=True)
    if len(parts) > SHOWN_PARTS:
        console.print(f"and {len(parts) - SHOWN_PARTS} more parts", highlight=False)
    if missing := journals.not_begun:
        some = ", ".join(map(str, missing[:SHOWN_PARTS]))
        more = f" and {len(missing) - SHOWN_PARTS} more" if len(missing) > SHOWN_PARTS else ""
        console.print(f"Not begun: {some}{more}.", highlight=False)


def _told(part: Part) -> str:
    run = part.run
    if run is None:
        return "has not begun"
    begun = time.strftime("began %Y-%m-%d %H:%M:%S", time.localtime(run.started_at))
    if run.todo is not None:
        begun += f" with {run.todo} of {run.selected} assets to do"
    if run.exit_code is not None:
        return f"{begun}, ended with exit code {run.exit_code}"
    if part.at_work is None:
        return f"{begun}, has not ended (at work, or killed)"
    return (
        f"{begun}, is at work" if part.at_work else f"{begun}, was interrupted: nobody is at work"
    )


def _remark(entry: JournalEntry) -> str:
    doubts = [f"suspect: {reason}" for reason in entry.suspicions]
    return "; ".join([entry.error_text, *doubts] if entry.error_text else [*doubts, *entry.notes])


def _line(entry: JournalEntry) -> str:
    """An asset in a line, however long: a table of 80 columns has no room for ids and reasons."""
    from audio_batch.text import for_terminal

    named = f" ({entry.name})" if entry.name != entry.asset_id else ""
    device = f" on {entry.device}" if entry.device else ""
    attempts = f", {entry.attempts} attempts" if entry.attempts > 1 else ""
    remark = _remark(entry)
    why = f": {remark}" if remark else ""
    return for_terminal(f"{entry.state} {entry.asset_id}{named}{device}{attempts}{why}")


def _show_table(entries: Iterable[JournalEntry], console: Console) -> None:
    from rich.markup import escape
    from rich.table import Table

    from audio_batch.text import for_terminal

    table = Table()
    table.add_column("id", overflow="fold")
    for title in ("name", "state", "attempts", "device"):
        table.add_column(title)
    table.add_column("reason or notes", overflow="fold")
    for entry in entries:
        cells = (entry.asset_id, entry.name, entry.state.value, str(entry.attempts))
        rest = (entry.device or "", _remark(entry))
        table.add_row(*(escape(for_terminal(cell)) for cell in (*cells, *rest)))
    console.print(table)
