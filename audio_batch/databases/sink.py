"""The thread that writes batches of results to their table, and goes on trying until it can."""

from __future__ import annotations

import queue
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from audio_batch.databases.connecting import explained, reason_of, state_of
from audio_batch.databases.results_table import ResultsTable, Row
from audio_batch.errors import AudioBatchError

if TYPE_CHECKING:
    from sqlalchemy.exc import StatementError

FIRST_DELAY_S = 1.0
LONGEST_DELAY_S = 60.0

_OF_A_ROW = ("22", "23", "44", "54000", "P0")
"""PostgreSQL's error codes of data, constraints, views' checks, an index entry above 2,704 bytes,
and what triggers raise."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows with their numbers in the outbox, in one order."""

    numbers: tuple[int, ...]
    rows: tuple[Row, ...]

    def halves(self) -> tuple[Batch, Batch]:
        """The rows that come first, and the others."""
        middle = len(self.rows) // 2
        return (
            Batch(self.numbers[:middle], self.rows[:middle]),
            Batch(self.numbers[middle:], self.rows[middle:]),
        )


@dataclass(frozen=True, slots=True)
class Written:
    """A part of a batch has been committed, or is a row that the database will not take.

    Args:
        numbers: of those rows that are there.
        refused: the id of one that is not, and why.
        last: nothing of the batch is left.
    """

    numbers: tuple[int, ...]
    refused: tuple[str, ...] = ()
    last: bool = True


@dataclass(frozen=True, slots=True)
class Failed:
    """The database cannot be written to now; what is left of the batch is tried again later.

    Args:
        attempt: which of the sink's it was; see `Sink.attempts`.
    """

    text: str
    attempt: int


Report = Written | Failed


class Sink:
    """One batch at a time, in the order given; see `delivery`, which is the other side of it.

    The thread is a daemon: a database that never answers keeps no process alive. What it had in
    hand is in the outbox still.
    """

    def __init__(self, table: ResultsTable) -> None:
        self._table = table
        self._prepared = False
        self._batches: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()
        self.reports: queue.SimpleQueue[Report] = queue.SimpleQueue()
        self.attempts = 0
        """How many have begun: what a later one meets was so after this was read."""
        self._hurried = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._work, daemon=True, name="results")
        self._thread.start()

    def put(self, batch: Batch) -> None:
        """Have a batch written; a `Written` for each part answers it, perhaps among `Failed`."""
        self._batches.put(batch)

    def hurry(self) -> None:
        """Try now what waits for its next attempt."""
        self._hurried.set()

    def close(self, within_s: float) -> None:
        """Begin no further attempt, and wait a while for the one under way."""
        self._closed = True
        self._hurried.set()
        self._batches.put(None)
        self._thread.join(within_s)

    def _work(self) -> None:
        try:
            while (batch := self._batches.get()) is not None:
                self._deliver(batch)
        finally:
            self._table.database.close()

    def _deliver(self, batch: Batch) -> None:
        left = [batch]  # what comes next is the last of them
        delay_s = FIRST_DELAY_S
        while left and not self._closed:
            self.attempts += 1
            try:
                self._write_next(left)
                delay_s = FIRST_DELAY_S
                continue
            except AudioBatchError as error:
                text = str(error)
            except Exception as error:  # whatever a driver raises must not end the thread
                self._prepared = False
                text = str(explained(error, self._table.database.shown))
            self.reports.put(Failed(text, self.attempts))
            self._hurried.wait(delay_s)
            self._hurried.clear()
            delay_s = min(2 * delay_s, LONGEST_DELAY_S)

    def _write_next(self, left: list[Batch]) -> None:
        """Write a part, or halve it: one row that cannot be stored must not hold up the others."""
        from sqlalchemy.exc import StatementError

        if not self._prepared:
            self._table.prepare()
            self._prepared = True
        part = left[-1]
        refused: tuple[str, ...] = ()
        try:
            self._table.write(part.rows)
        except StatementError as error:
            if not is_of_a_row(error):
                raise
            if len(part.rows) > 1:
                left[-1:] = reversed(part.halves())
                return
            refused = (f"{part.rows[0]['asset_id']}: {reason_of(error)}",)
        left.pop()
        self.reports.put(Written(() if refused else part.numbers, refused, last=not left))


def is_of_a_row(error: StatementError) -> bool:
    """Whether a row is what is refused, rather than all that the database is sent."""
    from sqlalchemy import exc

    if not isinstance(error, exc.DBAPIError):
        return True  # a value that could not even be sent
    if isinstance(error, exc.DataError | exc.IntegrityError):
        return True
    return (state_of(error) or "").startswith(_OF_A_ROW)
