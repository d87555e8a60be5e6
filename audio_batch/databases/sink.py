"""The thread that writes batches of results to their table, and goes on trying until it can."""

from __future__ import annotations

import queue
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from audio_batch.databases.connecting import explained, reason_of
from audio_batch.databases.results_table import ResultsTable, Row
from audio_batch.errors import AudioBatchError

if TYPE_CHECKING:
    from sqlalchemy.exc import StatementError

FIRST_DELAY_S = 1.0
LONGEST_DELAY_S = 60.0


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows with their numbers in the outbox, in one order."""

    numbers: tuple[int, ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Written:
    """A batch has been committed, but for the rows that the database will not take.

    Args:
        numbers: of those that are there.
        refused: the ids of those that are not, and why.
    """

    numbers: tuple[int, ...]
    refused: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Failed:
    """The database cannot be written to now; the batch is tried again after a while."""

    text: str


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
        self._hurried = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._work, daemon=True, name="results")
        self._thread.start()

    def put(self, batch: Batch) -> None:
        """Have a batch written; a `Written` answers it, perhaps after some `Failed`."""
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
        delay_s = FIRST_DELAY_S
        while not self._closed:
            try:
                self.reports.put(self._written(batch))
                return
            except AudioBatchError as error:
                self.reports.put(Failed(str(error)))
            except Exception as error:  # whatever a driver raises must not end the thread
                self._prepared = False
                self.reports.put(Failed(str(explained(error, self._table.database.shown))))
            self._hurried.wait(delay_s)
            self._hurried.clear()
            delay_s = min(2 * delay_s, LONGEST_DELAY_S)

    def _written(self, batch: Batch) -> Written:
        from sqlalchemy.exc import StatementError

        if not self._prepared:
            self._table.prepare()
            self._prepared = True
        try:
            self._table.write(batch.rows)
        except StatementError as error:
            if not is_of_a_row(error):
                raise
            return self._one_by_one(batch)
        return Written(batch.numbers)

    def _one_by_one(self, batch: Batch) -> Written:
        """One row that cannot be stored must not hold up the others."""
        from sqlalchemy.exc import StatementError

        numbers: list[int] = []
        refused: list[str] = []
        for number, row in zip(batch.numbers, batch.rows, strict=True):
            try:
                self._table.write([row])
                numbers.append(number)
            except StatementError as error:
                if not is_of_a_row(error):
                    raise
                refused.append(f"{row['asset_id']}: {reason_of(error)}")
        return Written(tuple(numbers), tuple(refused))


def is_of_a_row(error: StatementError) -> bool:
    """Whether a row is what is refused, rather than all that the database is sent."""
    from sqlalchemy import exc

    if not isinstance(error, exc.DBAPIError):
        return True  # a value that could not even be sent
    if isinstance(error, exc.DataError | exc.IntegrityError):
        return True
    # An index takes no entry above 2,704 bytes: PostgreSQL's program_limit_exceeded.
    return getattr(error.orig, "sqlstate", None) == "54000"
