"""What the person reads in the morning: a table, and `summary.json` beside the outputs."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from audio_batch import __version__
from audio_batch.errors import ExitCode
from audio_batch.journal import JournalEntry
from audio_batch.outcome import DeviceShare, RunResult, State
from audio_batch.reporters import clock
from audio_batch.storage import write_atomic
from audio_batch.text import for_terminal

SHOWN_FAILURES = 50

_ENDED_BY = {
    "time_limit": "the time was up (--until, --max-runtime)",
    "signal": "it was interrupted",
    "failure": "it was ended after a failure",
}


@dataclass(slots=True)
class Summary:
    """One run over its selected assets: this run's work and the state of the whole.

    `skipped` assets of the manifest were not selected; `done_before` and `failed_before` were
    settled by earlier runs; incomplete assets count as failed; `suspect` lists transcripts that may
    not be the whole truth, which changes neither their state nor the exit code; `error` is what
    ended the run before its time, `ended_by` what left assets to the next one ("time_limit",
    "signal" or "failure"). `audio_s`, `wall_s` and `rtfx` (audio seconds per wall second)
    are this run's alone.
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
    error: str | None = None
    ended_by: Literal["time_limit", "signal", "failure"] | None = None
    failures: list[dict[str, Any]] = field(default_factory=list)
    noted: list[dict[str, Any]] = field(default_factory=list)
    suspect: list[dict[str, Any]] = field(default_factory=list)
    devices: dict[str, DeviceShare] = field(default_factory=dict)
    devices_out: dict[str, str] = field(default_factory=dict)

    @property
    def rtfx(self) -> float | None:
        """Audio seconds per wall second of this run, model loading included."""
        return round(self.audio_s / self.wall_s, 2) if self.audio_s and self.wall_s else None

    @property
    def incomplete(self) -> int:
        """How many of those that failed have their transcript all the same."""
        return sum(failure["state"] == State.INCOMPLETE for failure in self.failures)

    def to_json(self) -> dict[str, Any]:
        """Plain values for `summary.json`."""
        return {
            "schema_version": 1,
            "program": f"audio-batch {__version__}",
            "finished_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "manifest": self.manifest,
            "exit_code": self.exit_code,
            "exit_meaning": ExitCode(self.exit_code).name.lower(),
            "error": self.error,
            "ended_by": self.ended_by,
            "selected": self.selected,
            "skipped": self.skipped,
            "done": self.done,
            "rendered": self.rendered,
            "done_before": self.done_before,
            "failed": self.failed,
            "failed_before": self.failed_before,
            "incomplete": self.incomplete,
            "not_done": self.not_done,
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
                }
                for name, share in self.devices.items()
            },
            "devices_out": self.devices_out,
        }


def summarise(
    *,
    manifest: str,
    output_folder: str,
    asset_ids: Iterable[str],
    entries: Iterable[JournalEntry],
    skipped: int = 0,
    run_id: int | None,
    todo_ids: Set[str] = frozenset(),
    result: RunResult,
) -> Summary:
    """Count from the journal, which is what stands; `result` adds what only the run knows.

    An asset of `todo_ids` that this run has not come to is not done, whatever an earlier run says.
    """
    wanted = set(asset_ids)
    summary = Summary(
        manifest=manifest,
        output_folder=output_folder,
        exit_code=ExitCode.OK,
        selected=len(wanted),
        skipped=skipped,
        done=0,
        rendered=result.rendered,
        done_before=0,
        failed=0,
        failed_before=0,
        not_done=len(wanted),
        audio_s=sum(share.audio_s for share in result.shares.values()),
        wall_s=result.wall_s,
        devices=dict(result.shares),
        devices_out=dict(result.devices_out),
    )
    for entry in entries:
        stale = entry.asset_id in todo_ids and entry.run_id != run_id
        if entry.asset_id in wanted and not stale:
            _count(summary, entry, entry.run_id == run_id)
    summary.exit_code = _exit_code(summary, result)
    if summary.not_done:
        if result.out_of_time:
            summary.ended_by = "time_limit"
        elif result.interrupted:
            summary.ended_by = "signal"
        elif result.stopped_by_failure:
            summary.ended_by = "failure"
    return summary


def _count(summary: Summary, entry: JournalEntry, now: bool) -> None:
    if entry.state is State.DONE:
        summary.not_done -= 1
        if now:
            summary.done += 1
        else:
            summary.done_before += 1
        if entry.notes:
            summary.noted.append(
                {"id": entry.asset_id, "name": entry.name, "notes": list(entry.notes)}
            )
        if entry.suspicions:
            summary.suspect.append(
                {
                    "id": entry.asset_id,
                    "name": entry.name,
                    "suspicions": list(entry.suspicions),
                    "redone": entry.redone,
                }
            )
    elif entry.state in (State.FAILED, State.INCOMPLETE, State.QUARANTINED):
        summary.not_done -= 1
        if now:
            summary.failed += 1
        else:
            summary.failed_before += 1
        summary.failures.append(
            {
                "id": entry.asset_id,
                "name": entry.name,
                "state": entry.state.value,
                "kind": entry.error_kind,
                "reason": entry.error_text,
                "attempts": entry.attempts,
            }
        )


def _exit_code(summary: Summary, result: RunResult) -> ExitCode:
    if (result.interrupted or result.out_of_time) and summary.not_done:
        return ExitCode.INTERRUPTED
    if summary.failed or summary.failed_before or summary.not_done:
        return ExitCode.SOME_FAILED
    return ExitCode.OK


def write(summary: Summary, path: Path) -> None:
    """Write `summary.json` atomically."""
    text = json.dumps(summary.to_json(), indent=2, ensure_ascii=True)
    write_atomic(path, (text + "\n").encode("ascii"))


def line(summary: Summary) -> str:
    """The run's end in a line, for logs."""
    failed = summary.failed + summary.failed_before
    suspect = f"{len(summary.suspect)} suspect, " if summary.suspect else ""
    return (
        f"Finished with exit code {summary.exit_code}: {summary.done} done now, "
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
        ("of these suspect", len(summary.suspect)),
        ("failed", summary.failed + summary.failed_before - summary.incomplete),
        ("incomplete", summary.incomplete),
        ("not done yet", summary.not_done),
        ("skipped", summary.skipped),
    )
    for label, count in rows:
        if count or label == "done now":
            table.add_row(label, str(count))
    table.add_row("audio", clock(summary.audio_s))
    table.add_row("wall", clock(summary.wall_s))
    if summary.rtfx is not None:
        table.add_row("RTFx", f"{summary.rtfx:.1f}")
    for name, share in sorted(summary.devices.items()):
        table.add_row(name, f"{share.assets} assets, {clock(share.audio_s)} of audio")
    for name, reason in summary.devices_out.items():
        table.add_row(f"{name} taken out", escape(for_terminal(reason)))
    console.print(table)
    for failure in summary.failures[:SHOWN_FAILURES]:
        how = "incomplete" if failure["state"] == State.INCOMPLETE else "failed"
        text = f"{how}: {failure['name']} ({failure['id']}): {failure['reason']}"
        console.print(escape(for_terminal(text)), style="red", highlight=False, soft_wrap=True)
    if len(summary.failures) > SHOWN_FAILURES:
        more = len(summary.failures) - SHOWN_FAILURES
        console.print(f"and {more} more failures; see summary.json", style="red")
    for noted in summary.noted[:SHOWN_FAILURES]:
        text = f"note: {noted['name']} ({noted['id']}): {'; '.join(noted['notes'])}"
        console.print(escape(for_terminal(text)), style="yellow", highlight=False, soft_wrap=True)
    _show_suspects(summary, console)
    if why := _why(summary).removeprefix("; "):
        left = f"{summary.not_done} {'asset is' if summary.not_done == 1 else 'assets are'} left"
        console.print(
            f"{why[0].upper()}{why[1:]}: {left}; run the same command again to go on.",
            style="yellow",
            highlight=False,
            soft_wrap=True,
        )
    if summary.failed_before:
        console.print(
            f"Left as they were, failed in an earlier run: {summary.failed_before}; "
            "--retry-failed tries them again."
        )


def _show_suspects(summary: Summary, console: Console) -> None:
    for one in summary.suspect[:SHOWN_FAILURES]:
        again = ", though done again" if one["redone"] else ""
        text = f"suspect{again}: {one['name']} ({one['id']}): {'; '.join(one['suspicions'])}"
        console.print(escape(for_terminal(text)), style="yellow", highlight=False, soft_wrap=True)
    if len(summary.suspect) > SHOWN_FAILURES:
        more = len(summary.suspect) - SHOWN_FAILURES
        console.print(f"and {more} more suspect transcripts; see summary.json", style="yellow")
    first_time = sum(not one["redone"] for one in summary.suspect)
    if first_time:
        console.print(
            f"Perhaps not the whole truth: {first_time}; --redo-suspect does them again, once, "
            "window by window."
        )
