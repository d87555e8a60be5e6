"""Listeners to a run's events. They only tell; they decide nothing.

`LogReporter` turns events into log records (console lines, log file, JSON lines). `LiveReporter`
adds a rich display on a terminal. Texts that come from files are cleaned before they are shown.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from audio_batch import events
from audio_batch.gpu.balancer import DeviceLoad
from audio_batch.outcome import Outcome, State
from audio_batch.text import for_terminal
from audio_batch.thinning import OneByOne

_log = logging.getLogger("audio_batch.run")

_SHOWN = 4
"""Assets of a device that the display names."""


class Reporter(Protocol):
    """Hears every event of a run, in order, in the parent's main thread."""

    def handle(self, event: events.Event) -> None:
        """Tell what happened."""
        ...

    def close(self) -> None:
        """The run is over."""
        ...


class SteadyConsole(Console):
    """A console whose reader may leave (`| head`, a closed terminal) without ending the program."""

    def on_broken_pipe(self) -> None:
        """Fall silent, where rich itself would leave with exit code 1."""
        self.quiet = True


class Steady:
    """A reporter that cannot hurt the run: once its terminal is gone, only the log is told."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._instead: LogReporter | None = None

    def handle(self, event: events.Event) -> None:
        """See `Reporter.handle`."""
        if self._instead is not None:
            self._instead.handle(event)
            return
        try:
            self._reporter.handle(event)
        except (OSError, ValueError):
            self._instead = LogReporter()
            _log.warning("The terminal is gone; the run goes on.")

    def close(self) -> None:
        """See `Reporter.close`."""
        with contextlib.suppress(OSError, ValueError):
            self._reporter.close()
        if self._instead is not None:
            self._instead.close()


class LogReporter:
    """Events as log records, in the words that the users of the seed system know.

    Where assets come too fast, not each of them is told (see `thinning`).
    """

    def __init__(self) -> None:
        self._one_by_one = OneByOne()

    def handle(self, event: events.Event) -> None:
        """See `Reporter.handle`."""
        self._tell_left_out(self._one_by_one.left_out())
        if self._is_told(event):
            self._tell(event)

    def _is_told(self, event: events.Event) -> bool:
        match event:
            case events.AssetStarted():
                return self._one_by_one.begins(event.key)
            case events.AssetProgress():
                return self._one_by_one.moves(event.key)
            case events.AssetFinished(outcome=outcome):
                key = events.job_key(outcome.asset_id, event.share)
                plain = outcome.state is State.DONE and not (outcome.notes or outcome.suspicions)
                return self._one_by_one.ends(key, plain=plain)
            case events.AssetDropped():
                self._one_by_one.ends(events.job_key(event.asset_id, event.share), plain=False)
        return True

    def _tell_left_out(self, found: tuple[int, float] | None) -> None:
        if found is not None:
            count, took_s = found
            fields = {"event": "AssetsFinished", "count": count, "took_s": round(took_s, 3)}
            text = f"{count} more done in {took_s:.1f} s, too many to be told one by one"
            _log.info("%s", text, extra={"worker": "Main", "fields": fields})

    def _tell(self, event: events.Event) -> None:
        match event:
            case events.RunStarted():
                self._say(event, "INFO", _opening(event))
            case events.AssetStarted():
                again = f" (attempt {event.attempt})" if event.attempt > 1 else ""
                head = f"[{event.position}/{event.total}] Processing: {_named(event)}{again}"
                self._detail(event.balancer_status, event.worker)
                self._say(event, "INFO", head, worker=event.worker)
                self._detail(f"ID: {event.asset_id}", event.worker)
                self._detail(f"Thread: {event.worker}", event.worker)
                self._detail(f"Device: {event.device}", event.worker)
            case events.AssetProgress():
                self._say(
                    event,
                    "DEBUG",
                    f"{event.asset_id}: {event.stage} {100 * event.share:.0f}%"
                    f" of {event.duration_s:.0f} s",
                )
            case events.AssetFinished():
                level, text = _closing(event)
                self._say(event, level, text, worker=event.worker)
            case events.AssetDropped():
                share = event.share or "original"
                text = f"{event.asset_id} ({share}): {event.device} is no longer waited for"
                self._say(event, "INFO", text)
            case events.DeviceJoined():
                self._say(event, "INFO", _joining(event))
            case events.DeviceOut():
                self._say(event, "ERROR", f"{event.device} is taken out: {event.reason}")
            case events.StopRequested():
                self._say(event, "WARNING", _stopping(event))
            case events.Notice():
                self._say(event, "WARNING" if event.warning else "INFO", event.text)

    def close(self) -> None:
        """See `Reporter.close`."""
        self._tell_left_out(self._one_by_one.left_out(last=True))

    def _detail(self, text: str, worker: str) -> None:
        """A line of its own for people, of an event whose record has it as a field."""
        _log.info("%s", text, extra={"worker": worker, "detail": True})

    def _say(self, event: events.Event, level: str, text: str, worker: str = "Main") -> None:
        number = logging.getLevelNamesMapping()[level]
        if not _log.isEnabledFor(number):
            return
        fields: dict[str, Any] = {"event": type(event).__name__, **_plain(event)}
        _log.log(
            number,
            "%s",
            text,
            extra={"worker": worker, "fields": fields},
        )


def _plain(event: events.Event) -> dict[str, Any]:
    # Only an outcome has records in it: `asdict`, which copies all there is, is slow.
    values = {field.name: getattr(event, field.name) for field in dataclasses.fields(event)}
    if values.pop("outcome", None) is not None:
        outcome = dataclasses.asdict(event)["outcome"]
        values.update({k: v for k, v in outcome.items() if k != "outputs"})
        values["outputs"] = [output["path"] for output in outcome["outputs"]]
    return values


def _opening(event: events.RunStarted) -> str:
    kept = f", {event.already_done} already done" if event.already_done else ""
    failed = f", {event.failed_before} failed before (see --retry-failed)"
    audio = f" ({clock(event.todo_audio_s)} of audio)" if event.todo_audio_s else ""
    return (
        f"{event.todo} to do{audio}{kept}{failed if event.failed_before else ''}; "
        f"{event.slots} at a time on {', '.join(event.devices)}; output: {event.output_folder}"
    )


def _named(event: events.AssetStarted) -> str:
    return f"{event.name} ({event.share})" if event.share else event.name


def _titled(event: events.AssetFinished) -> str:
    part = event.outcome.part
    return f"{event.name} ({part})" if part else event.name


def _closing(event: events.AssetFinished) -> tuple[str, str]:
    outcome = event.outcome
    head = f"[{event.position}/{event.total}]"
    if event.waits_for:
        return "INFO", f"{head} Waits for {event.waits_for}: {_titled(event)}"
    if outcome.part and outcome.state is State.DONE:
        return "INFO", f"{head} Heard: {event.name} ({outcome.part}) in {event.wall_s:.1f} s"
    if outcome.part:  # the asset itself tries it once more, and says what is wrong
        text = outcome.error_text or "its worker has ended"
        return "WARNING", f"{head} Not heard yet: {event.name} ({outcome.part}): {text}"
    if outcome.state is State.DONE:
        speed = ""
        if outcome.duration_s and event.wall_s > 0 and not outcome.rendered_only:
            rate = outcome.duration_s / event.wall_s
            speed = f", {outcome.duration_s:.1f} s of audio in {event.wall_s:.1f} s ({rate:.1f}x)"
        notes = f" - {'; '.join(outcome.notes)}" if outcome.notes else ""
        if outcome.suspicions:
            notes += f" - suspect: {'; '.join(outcome.suspicions)}"
            notes += "; it is done again" if event.will_retry_in_s is not None else ""
        what = "Rendered" if outcome.rendered_only else "Done"
        return ("WARNING" if notes else "INFO", f"{head} {what}: {event.name}{speed}{notes}")
    if event.will_retry_in_s is not None:
        text = f"{head} Again in {event.will_retry_in_s:.0f} s: {event.name}: {outcome.error_text}"
        return "WARNING", text
    how = "Incomplete" if outcome.state is State.INCOMPLETE else "Failed"
    return "ERROR", f"{head} {how}: {event.name}: {outcome.error_text} [{outcome.error_kind}]"


def _joining(event: events.DeviceJoined) -> str:
    return f"{event.device} ({event.name}) joins the run, {event.slots} at a time"


def _stopping(event: events.StopRequested) -> str:
    if event.running == 0:
        return f"Stopping after {event.signal_name}."
    return (
        f"Stopping after {event.signal_name}: {event.running} running, they are finished first. "
        "Once more to drop them; either way a rerun goes on from here."
    )


def clock(seconds: float) -> str:
    """Hours, minutes and seconds, as people read them: 1:02:03, 2:03."""
    whole = int(seconds + 0.5)
    hours, rest = divmod(whole, 3600)
    minutes, second = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{second:02d}" if hours else f"{minutes}:{second:02d}"


class LiveReporter:
    """On a terminal: an overall bar by audio seconds, a line a device, failures as they come."""

    def __init__(
        self,
        console: Console,
        loads: Callable[[], Sequence[DeviceLoad]],
        total_audio_s: Callable[[], float | None],
        *,
        quiet: bool = False,
        verbose: bool = False,
    ) -> None:
        self._console = console
        self._loads = loads
        self._quiet = quiet
        self._verbose = verbose
        self._lines = LogReporter()
        self._running: dict[str, dict[str, events.AssetStarted]] = {}
        self._progress: dict[str, events.AssetProgress] = {}
        self._begun_s = time.monotonic()
        self._audio_s = 0.0
        self._counts = {"done": 0, "failed": 0}
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[counts]}"),
            console=console,
        )
        self._task = self._bar.add_task("audio", total=None, counts="")
        self._todo = 0
        self._total_audio_s = total_audio_s
        self._live = self._new_live()

    def _new_live(self) -> Live:
        return Live(
            get_renderable=self._draw, console=self._console, refresh_per_second=4, transient=True
        )

    def handle(self, event: events.Event) -> None:
        """See `Reporter.handle`."""
        self._lines.handle(event)
        match event:
            case events.RunStarted():
                self._todo = event.todo
                self._begun_s = time.monotonic()
                self._print(_opening(event))
                self._live.start()
            case events.AssetStarted():
                self._running.setdefault(event.device, {})[event.key] = event
            case events.AssetProgress():
                self._progress[event.key] = event
            case events.AssetFinished():
                self._finished(event)
            case events.AssetDropped():
                self._gone(event.device, events.job_key(event.asset_id, event.share))
            case events.DeviceJoined():
                self._print(_joining(event))
            case events.DeviceOut():
                self._print(f"{event.device} is taken out: {event.reason}", "red")
            case events.StopRequested():
                self._print(_stopping(event), "yellow")
            case events.Notice():
                self._print(event.text, "yellow" if event.warning else None)

    def close(self) -> None:
        """See `Reporter.close`."""
        self._lines.close()
        self._live.stop()

    def pause(self) -> None:
        """Take the display away, for a question."""
        self._live.stop()

    def resume(self) -> None:
        """Draw again after a question, below it: the old display remembers where it stood."""
        self._live = self._new_live()
        self._live.start()

    def _finished(self, event: events.AssetFinished) -> None:
        outcome: Outcome = event.outcome
        self._gone(outcome.device, events.job_key(outcome.asset_id, event.share))
        if outcome.part and outcome.state is State.DONE:
            return  # the asset's own end tells
        if event.will_retry_in_s is None:
            self._counts["done" if outcome.state is State.DONE else "failed"] += 1
            self._audio_s += 0.0 if outcome.rendered_only else outcome.duration_s or 0.0
        level, text = _closing(event)
        if level != "INFO" or self._verbose:
            self._print(text, {"ERROR": "red", "WARNING": "yellow"}.get(level))

    def _gone(self, device: str, key: str) -> None:
        self._running.get(device, {}).pop(key, None)
        self._progress.pop(key, None)

    def _print(self, text: str, style: str | None = None) -> None:
        if not self._quiet or style == "red":
            self._console.print(escape(for_terminal(text)), style=style, highlight=False)

    def _update(self) -> None:
        running = list(self._progress.values())
        heard_s = self._audio_s + sum(one.asset_share * one.duration_s for one in running)
        wall_s = max(1e-6, time.monotonic() - self._begun_s)
        ended = self._counts["done"] + self._counts["failed"]
        parts = [f"{ended}/{self._todo}"]
        if self._counts["failed"]:
            parts.append(f"[red]{self._counts['failed']} failed[/red]")
        total_s = self._total_audio_s()
        if total_s:
            parts.append(f"{clock(heard_s)} of {clock(total_s)}")
        if heard_s > 0:
            parts.append(f"{heard_s / wall_s:.1f}x")
            if total_s:
                left_s = max(0.0, total_s - heard_s) * wall_s / heard_s
                parts.append(f"{clock(left_s)} left")
        # Failed assets leave no seconds behind, and an estimate may be passed: never beyond full.
        total = total_s or float(self._todo)
        completed = min(heard_s if total_s else ended, total) if ended < self._todo else total
        self._bar.update(self._task, completed=completed, total=total, counts="  ".join(parts))

    def _draw(self) -> RenderableType:
        """Also called by the display's own thread, hence the copies (`list`) of what may change."""
        self._update()
        table = Table.grid(padding=(0, 2))
        for load in self._loads():
            busy = "" if load.utilization_pct is None else f"{load.utilization_pct:.0f}% util"
            names = []
            running = list(self._running.get(load.device.id, {}).items())
            for key, started in running[:_SHOWN]:
                at = self._progress.get(key)
                where = f" [dim]{at.stage} {100 * at.share:.0f}%[/dim]" if at else ""
                names.append(escape(for_terminal(_named(started))) + where)
            if len(running) > _SHOWN:
                names.append(f"[dim]and {len(running) - _SHOWN} more[/dim]")
            table.add_row(
                f"[cyan]{load.device.id}[/cyan]",
                "[red]out[/red]" if load.out_reason else f"{load.active}/{load.maximum}",
                busy,
                ", ".join(names),
            )
        return Group(self._bar, table)
