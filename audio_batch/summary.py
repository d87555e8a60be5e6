"""What the person reads in the morning: a table, and `summary.json` beside the outputs.

A run over a million assets holds none of their ids: the journal is counted by SQL, and what
`summary.json` lists is read from it while that is written.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from audio_batch import __version__
from audio_batch.errors import ExitCode
from audio_batch.journal import Journal, JournalEntry
from audio_batch.journal_counts import BAD, FAILED, NOTED, SUSPECT_DONE, Rows
from audio_batch.outcome import DeviceShare, RunResult, State, StoreAway
from audio_batch.reporters import clock
from audio_batch.storage import write_atomic
from audio_batch.text import for_terminal

SHOWN_FAILURES = 50

_ENDED_BY = {
    "time_limit": "the time was up (--until, --max-runtime)",
    "signal": "it was interrupted",
    "failure": "it was ended after a failure",
    "store_away": "a store was away",
}


@dataclass(slots=True)
class Summary:
    """One run over its selected assets: this run's work and the state of the whole.

    `skipped` assets of the manifest were not selected; `done_before` and `failed_before` were
    settled by earlier runs; incomplete assets count as failed, and `incomplete` says how many they
    are; `suspects` transcripts may not be the whole truth, `suspects_first` of them have not been
    done again for it, which changes neither their state nor the exit code; `error` is what ended
    the run before its time, `ended_by` what left assets to the next one ("time_limit", "signal",
    "failure" or "store_away"), `stores_away` what some of them are left for. `audio_s`, `wall_s`
    and `rtfx` (audio seconds per wall second) are this run's alone.
    Each of `devices` is written with the share of `wall_s` in which it was busy (`busy_share`) and
    with its own `rtfx`, audio seconds per busy second.
    `results_undelivered` outcomes have not reached the database (None: there is none); the next run
    delivers them. `failures`, `noted` and `suspect` are the first of each; `lists` has all.
    """

    manifest: str
    output_folder: str
    exit_code: int
    selected: int
    skipped: int
    done: int
    rendered: int
    done_before: int
    failed: int
    failed_before: int
    not_done: int
    audio_s: float
    wall_s: float
    lists: Lists
    incomplete: int = 0
    suspects: int = 0
    suspects_first: int = 0
    error: str | None = None
    ended_by: Literal["time_limit", "signal", "failure", "store_away"] | None = None
    stores_away: tuple[StoreAway, ...] = ()
    results_undelivered: int | None = None
    failures: list[dict[str, Any]] = field(default_factory=list)
    noted: list[dict[str, Any]] = field(default_factory=list)
    suspect: list[dict[str, Any]] = field(default_factory=list)
    devices: dict[str, DeviceShare] = field(default_factory=dict)
    devices_out: dict[str, str] = field(default_factory=dict)

    @property
    def rtfx(self) -> float | None:
        """Audio seconds per wall second of this run, model loading included."""
        return _ratio(self.audio_s, self.wall_s)

    def to_json(self) -> dict[str, Any]:
        """Plain values, with the first of each list; `write` has all."""
        return {
            "schema_version": 1,
            "program": f"audio-batch {__version__}",
            "finished_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "manifest": self.manifest,
            "exit_code": self.exit_code,
            "exit_meaning": ExitCode(self.exit_code).name.lower(),
            "error": self.error,
            "ended_by": self.ended_by,
            "stores_away": [asdict(store) for store in self.stores_away],
            "selected": self.selected,
            "skipped": self.skipped,
            "done": self.done,
            "rendered": self.rendered,
            "done_before": self.done_before,
            "failed": self.failed,
            "failed_before": self.failed_before,
            "incomplete": self.incomplete,
            "not_done": self.not_done,
            "results_undelivered": self.results_undelivered,
            "audio_s": round(self.audio_s, 3),
            "wall_s": round(self.wall_s, 3),
            "rtfx": self.rtfx,
            "failures": self.failures,
            "noted": self.noted,
            "suspect": self.suspect,
            "devices": {
                name: {
                    "assets": share.assets,
                    "audio_s": round(share.audio_s, 3),
                    "busy_s": round(share.busy_s, 3),
                    "busy_share": _ratio(share.busy_s, self.wall_s),
                    "rtfx": _ratio(share.audio_s, share.busy_s),
                }
                for name, share in self.devices.items()
            },
            "devices_out": self.devices_out,
        }


class Lists:
    """What `summary.json` lists of the selected assets, from the journal.

    `run_id` is this run's; `stands(asset_id)` says whether the row of an earlier run counts: of an
    asset that is selected and that this run was not to do.
    """

    def __init__(self, journal: Journal, run_id: int | None, stands: Callable[[str], bool]) -> None:
        self._tally = journal.tally()
        self._run_id = run_id
        self._stands = stands

    def _entries(self, rows: Rows) -> Iterator[JournalEntry]:
        for entry in self._tally.by_id(rows):
            if entry.run_id == self._run_id or self._stands(entry.asset_id):
                yield entry

    def failed(self) -> Iterator[JournalEntry]:
        """What failed or is incomplete, by id."""
        return self._entries(FAILED)

    def failures(self) -> Iterator[dict[str, Any]]:
        """What failed or is incomplete, and why."""
        return map(_failure, self.failed())

    def noted(self) -> Iterator[dict[str, Any]]:
        """What is done and has notes."""
        for entry in self._entries(NOTED):
            yield {"id": entry.asset_id, "name": entry.name, "notes": list(entry.notes)}

    def suspect(self) -> Iterator[dict[str, Any]]:
        """What is done and may not be the whole truth."""
        for entry in self._entries(SUSPECT_DONE):
            yield {
                "id": entry.asset_id,
                "name": entry.name,
                "suspicions": list(entry.suspicions),
                "redone": entry.redone,
            }


def _failure(entry: JournalEntry) -> dict[str, Any]:
    return {
        "id": entry.asset_id,
        "name": entry.name,
        "state": entry.state.value,
        "kind": entry.error_kind,
        "reason": entry.error_text,
        "attempts": entry.attempts,
    }


def summarise(
    *,
    manifest: str,
    output_folder: str,
    journal: Journal,
    selected: int,
    done_before: int,
    stands: Callable[[str], bool],
    skipped: int = 0,
    run_id: int | None,
    result: RunResult,
) -> Summary:
    """Count from the journal, which is what stands; `result` adds what only the run knows.

    An asset to be done that this run has not come to is not done, whatever an earlier run says.

    Args:
        selected: how many assets were selected, and `done_before` how many of them were done
            and not to be done again.
        stands: whether an asset is selected and was not to be done. Asked of those alone that
            failed, are suspect or have notes.
    """
    lists = Lists(journal, run_id, stands)
    now = {} if run_id is None else journal.tally().of_run(run_id)
    summary = Summary(
        manifest=manifest,
        output_folder=output_folder,
        exit_code=ExitCode.OK,
        selected=selected,
        skipped=skipped,
        done=now.get(State.DONE, 0),
        rendered=result.rendered,
        done_before=done_before,
        failed=sum(now.get(state, 0) for state in BAD),
        failed_before=0,
        not_done=0,
        audio_s=sum(share.audio_s for share in result.shares.values()),
        wall_s=result.wall_s,
        lists=lists,
        noted=list(islice(lists.noted(), SHOWN_FAILURES)),
        devices=dict(result.shares),
        devices_out=dict(result.devices_out),
        stores_away=result.stores_away,
    )
    for entry in lists.failed():
        summary.failed_before += entry.run_id != run_id
        summary.incomplete += entry.state is State.INCOMPLETE
        if len(summary.failures) < SHOWN_FAILURES:
            summary.failures.append(_failure(entry))
    for one in lists.suspect():
        summary.suspects += 1
        summary.suspects_first += not one["redone"]
        if len(summary.suspect) < SHOWN_FAILURES:
            summary.suspect.append(one)
    settled = summary.done + done_before + summary.failed + summary.failed_before
    summary.not_done = selected - settled
    summary.exit_code = _exit_code(summary, result)
    if summary.not_done:
        if result.out_of_time:
            summary.ended_by = "time_limit"
        elif result.interrupted:
            summary.ended_by = "signal"
        elif result.stopped_by_failure:
            summary.ended_by = "failure"
        elif result.stores_away:
            summary.ended_by = "store_away"
    return summary


def _exit_code(summary: Summary, result: RunResult) -> ExitCode:
    if (result.interrupted or result.out_of_time) and summary.not_done:
        return ExitCode.INTERRUPTED
    if summary.stores_away and summary.not_done and not result.stopped_by_failure:
        return ExitCode.ENVIRONMENT
    if summary.failed or summary.failed_before or summary.not_done:
        return ExitCode.SOME_FAILED
    return ExitCode.OK


def write(summary: Summary, path: Path) -> None:
    """Write `summary.json` atomically, with all that its lists hold."""
    lists = summary.lists
    whole = {"failures": lists.failures, "noted": lists.noted, "suspect": lists.suspect}
    text = io.StringIO()
    before = "{"
    for key, value in summary.to_json().items():
        text.write(f'{before}\n  "{key}": ')
        before = ","
        if key in whole:
            _write_list(text, whole[key]())
        else:
            text.write(json.dumps(value, indent=2, ensure_ascii=True).replace("\n", "\n  "))
    text.write("\n}\n")
    write_atomic(path, text.getvalue().encode("ascii"))


def _write_list(text: io.StringIO, items: Iterator[dict[str, Any]]) -> None:
    """A line for each item: these are the only lists that grow with the manifest."""
    text.write("[")
    before = "\n"
    for item in items:
        text.write(f"{before}    {json.dumps(item, ensure_ascii=True)}")
        before = ",\n"
    text.write("]" if before == "\n" else "\n  ]")


def line(summary: Summary) -> str:
    """The run's end in a line, for logs."""
    failed = summary.failed + summary.failed_before
    suspect = f"{summary.suspects} suspect, " if summary.suspects else ""
    again = f"{summary.rendered} written again, " if summary.rendered else ""
    now = summary.done - summary.rendered
    return (
        f"Finished with exit code {summary.exit_code}: {now} done now, {again}"
        f"{summary.done_before} before, {failed} failed, {suspect}{summary.not_done} not done; "
        f"{clock(summary.audio_s)} of audio in {clock(summary.wall_s)}{_why(summary)}"
    )


def _why(summary: Summary) -> str:
    return f"; {_ENDED_BY[summary.ended_by]}" if summary.ended_by else ""


def show(summary: Summary, console: Console) -> None:
    """The closing table, and every failure with its reason."""
    table = Table(title="audio-batch", show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(justify="right")
    rows: Sequence[tuple[str, object]] = (
        ("done now", summary.done - summary.rendered),
        ("written again", summary.rendered),
        ("done before", summary.done_before),
        ("of these suspect", summary.suspects),
        ("failed", summary.failed + summary.failed_before - summary.incomplete),
        ("incomplete", summary.incomplete),
        ("not done yet", summary.not_done),
        ("skipped", summary.skipped),
        ("results not written", summary.results_undelivered),
    )
    for label, count in rows:
        if count or label == "done now":
            table.add_row(label, str(count))
    table.add_row("audio", clock(summary.audio_s))
    table.add_row("wall", clock(summary.wall_s))
    if summary.rtfx is not None:
        table.add_row("RTFx", f"{summary.rtfx:.1f}")
    for name, share in sorted(summary.devices.items()):
        table.add_row(name, _device(share, summary.wall_s))
    for name, reason in summary.devices_out.items():
        table.add_row(f"{name} taken out", escape(for_terminal(reason)))
    console.print(table)
    for failure in summary.failures:
        how = "incomplete" if failure["state"] == State.INCOMPLETE else "failed"
        text = f"{how}: {failure['name']} ({failure['id']}): {failure['reason']}"
        console.print(escape(for_terminal(text)), style="red", highlight=False, soft_wrap=True)
    if more := summary.failed + summary.failed_before - len(summary.failures):
        console.print(f"and {more} more failures; see summary.json", style="red")
    for noted in summary.noted:
        text = f"note: {noted['name']} ({noted['id']}): {'; '.join(noted['notes'])}"
        console.print(escape(for_terminal(text)), style="yellow", highlight=False, soft_wrap=True)
    _show_suspects(summary, console)
    for store in summary.stores_away:
        wait = "1 asset waits" if store.assets == 1 else f"{store.assets} assets wait"
        text = f"{store.store} is away: {store.reason}; {wait} for it. {store.remedy}"
        console.print(escape(for_terminal(text)), style="yellow", highlight=False, soft_wrap=True)
    if why := _why(summary).removeprefix("; "):
        left = f"{summary.not_done} {'asset is' if summary.not_done == 1 else 'assets are'} left"
        console.print(
            f"{why[0].upper()}{why[1:]}: {left}; run the same command again to go on.",
            style="yellow",
            highlight=False,
            soft_wrap=True,
        )
    if summary.results_undelivered:
        console.print(
            "The database has not taken all results; the next run delivers them, or "
            "`audio-batch results push`.",
            style="yellow",
            highlight=False,
            soft_wrap=True,
        )
    if summary.failed_before:
        console.print(
            f"Left as they were, failed in an earlier run: {summary.failed_before}; "
            "--retry-failed tries them again."
        )


def _device(share: DeviceShare, wall_s: float) -> str:
    told = [f"{share.assets} assets, {clock(share.audio_s)} of audio"]
    if (busy := _ratio(share.busy_s, wall_s)) is not None:
        told.append(f"{100 * busy:.0f} % busy")
    if (rtfx := _ratio(share.audio_s, share.busy_s)) is not None:
        told.append(f"RTFx {rtfx:.1f}")
    return ", ".join(told)


def _ratio(part: float, whole: float) -> float | None:
    """None where there is nothing to tell of."""
    return round(part / whole, 2) if part and whole else None


def _show_suspects(summary: Summary, console: Console) -> None:
    for one in summary.suspect:
        again = ", though done again" if one["redone"] else ""
        text = f"suspect{again}: {one['name']} ({one['id']}): {'; '.join(one['suspicions'])}"
        console.print(escape(for_terminal(text)), style="yellow", highlight=False, soft_wrap=True)
    if more := summary.suspects - len(summary.suspect):
        console.print(f"and {more} more suspect transcripts; see summary.json", style="yellow")
    if summary.suspects_first:
        console.print(
            f"Perhaps not the whole truth: {summary.suspects_first}; --redo-suspect does them "
            "again, once, window by window."
        )
