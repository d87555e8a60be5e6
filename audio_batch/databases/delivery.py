"""From the journal's outbox to the table of results, beside a run that never waits for it.

    journal.finish ─(trigger)─► outbox ─► Delivery.pump ─► Sink (thread) ─► upsert, committed
                                   ▲                          │
                                   └──── forget the rows ◄────┘

At least once, and idempotent: a row leaves the outbox once its upsert has been committed, and an
upsert that comes twice changes nothing. One batch is under way at a time, so that of one asset the
newest outcome comes last. Only the main thread touches the journal.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from typing import TypeVar

from audio_batch.databases import connecting
from audio_batch.databases.results_table import DEFAULT_TABLE, ResultsTable, row_of
from audio_batch.databases.sink import Batch, Failed, Report, Sink, Written
from audio_batch.errors import SetupError
from audio_batch.journal_outbox import Outbox
from audio_batch.text import redact

AT_ONCE = 1000
"""Rows of a batch, the only ones that are held."""

_PUMP_S = 0.25
"""How often the outbox is looked at, while the run has something to tell."""

_PATIENCE_S = 30.0
"""How long the end of a run waits for one batch."""

_HASTE_S = 2.0
"""And that of one which was told to stop, for all batches together."""

_SHOWN = 5
"""Refused rows that are named."""

_Event = TypeVar("_Event")
_Notice = Callable[..., None]


class Delivery:
    """Delivers what an outbox holds. Main thread only, but for its `Sink`.

    Args:
        outbox: of the journal that is held.
        table: where results go.
        scope: of their rows: the output location's text.
        notice: told once of a database that is down, and once that it is back.

    Raises (every method):
        SetupError: the journal cannot be used.
    """

    def __init__(self, outbox: Outbox, table: ResultsTable, scope: str, notice: _Notice) -> None:
        self._outbox = outbox
        self._journal_id = outbox.journal_id()
        self._table = table
        self._scope = scope
        self._notice = notice
        self._sink: Sink | None = None
        self._under_way: Batch | None = None
        self._looked_s = 0.0
        self._last_number = 0
        self._down = False
        self.refused: list[str] = []
        """Rows that the database will not take, and why; the next run tries them again."""

    def after(self, tell: Callable[[_Event], None]) -> Callable[[_Event], None]:
        """`tell`, which also delivers: whatever the run tells is the moment to look."""

        def told(event: _Event) -> None:
            tell(event)
            self.pump()

        return told

    def pump(self) -> None:
        """Do what can be done without waiting for anybody."""
        now_s = time.monotonic()
        if now_s - self._looked_s < _PUMP_S:
            return
        self._looked_s = now_s
        try:
            self._take_reports()
            self._hand_over()
        except SetupError as error:
            # The run finds out by itself; what has been delivered is delivered once more.
            self._notice(str(error), warning=True)

    def finish(self, *, in_haste: bool = False) -> int:
        """Deliver what is left while the database takes it; how many rows were not delivered.

        A database that is down is asked once more, and not waited for; nor is any once Ctrl-C is
        pressed.

        Args:
            in_haste: whoever told the run to stop will not wait long.
        """
        try:
            self._drain(in_haste)
        except KeyboardInterrupt:
            self._notice("Results are no longer waited for.", warning=True)
        except SetupError as error:
            self._notice(str(error), warning=True)
        left = self._outbox.count()
        if left:
            self._notice(
                f"{left} results were not written to {self._table.database.shown}; the next run "
                "does it, or `audio-batch results push`.",
                warning=True,
            )
        for text in self.refused[:_SHOWN]:
            self._notice(f"The database refuses a result: {text}", warning=True)
        return left

    def close(self) -> None:
        """End the thread; what it has not done is in the outbox."""
        if self._sink is not None:
            self._sink.close(within_s=0.5)
            self._sink = None

    def _drain(self, in_haste: bool) -> None:
        until_s = time.monotonic() + _HASTE_S
        self._take_reports()
        before = self._sink.attempts if self._sink is not None else 0
        self._hand_over()
        while self._under_way is not None and self._sink is not None:
            self._sink.hurry()
            left_s = max(0.0, until_s - time.monotonic()) if in_haste else _PATIENCE_S
            try:
                report = self._sink.reports.get(timeout=left_s)
            except queue.Empty:
                text = f"{self._table.database.shown} has not answered yet; it is not waited for."
                self._notice(text, warning=True)
                return
            self._heard([report])
            if isinstance(report, Failed) and report.attempt > before:
                return  # an attempt that was under way may have met what is over by now
            self._hand_over()

    def _take_reports(self) -> None:
        found: list[Report] = []
        while self._sink is not None:
            try:
                found.append(self._sink.reports.get_nowait())
            except queue.Empty:
                break
        self._heard(found)

    def _heard(self, reports: list[Report]) -> None:
        written = [report for report in reports if isinstance(report, Written)]
        # Together: each commit of the journal is a few syncs of the disk.
        self._outbox.delivered([number for report in written for number in report.numbers])
        for report in reports:
            self._note(report)

    def _note(self, report: Report) -> None:
        if isinstance(report, Written):
            if report.last:
                self._under_way = None
            self.refused += report.refused
            if self._down:
                self._down = False
                self._notice(f"Results are written to {self._table.database.shown} again.")
        elif not self._down:
            self._down = True
            self._notice(f"{report.text} Results wait in the journal meanwhile.", warning=True)

    def _hand_over(self) -> None:
        if self._under_way is not None:
            return
        found = self._outbox.some(AT_ONCE, after=self._last_number)
        if not found:
            return
        self._last_number = found[-1].number  # what changes again comes behind it
        rows = tuple(row_of(item, self._scope, self._journal_id) for item in found)
        self._under_way = Batch(tuple(item.number for item in found), rows)
        if self._sink is None:
            self._sink = Sink(self._table)
        self._sink.put(self._under_way)


def check(url: str, table: str | None) -> None:
    """See before a run that results can be written: URL, driver and table's name.

    Raises:
        UsageError, SetupError: they cannot, whether or not the database is up.
    """
    _table(url, table).database.close()


def opened(
    outbox: Outbox, *, url: str, table: str | None, location: str, notice: _Notice
) -> Delivery:
    """The delivery to `--results-db`; from now on every change of the journal is due.

    Args:
        location: of the outputs.

    Raises:
        UsageError, SetupError: see `check`, and `Journal`.
    """
    results = _table(url, table)
    scope = scope_of(location)
    # A folder that was moved has another scope: there, its rows have not been told of.
    outbox.open_for(f"{results.database.key} {results.name} {scope}")
    return Delivery(outbox, results, scope, notice)


def scope_of(location: str) -> str:
    """The text that stands for an output location in the table."""
    return redact(location)


def _table(url: str, table: str | None) -> ResultsTable:
    return ResultsTable(connecting.opened(url), table or DEFAULT_TABLE)
