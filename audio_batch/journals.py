"""All journals of one output folder, read as one: the whole's and those of the parts (`--shard`).

Nothing is written. A million rows are counted by SQL and gone through in pages; see
`journal_counts`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from audio_batch.folder_lock import is_held
from audio_batch.journal import Journal, JournalEntry, RunRecord
from audio_batch.journal_counts import BAD, NOTHING, Counts, Rows, Tally, leave_out_superseded
from audio_batch.shards import Shard, states


@dataclass(frozen=True, slots=True)
class Part:
    """One journal: the whole's (`shard` None) or a part's, with its newest run.

    `at_work`: whether that run is going on; None where only its lock would tell, and cannot be
    asked.
    """

    shard: Shard | None
    journal: Journal
    run: RunRecord | None
    tally: Tally
    at_work: bool | None


class Journals:
    """The journals below a state folder. A context manager that closes them.

    An asset that several hold (parts of another number, an earlier run over the whole) counts
    once: see `leave_out_superseded`.

    Raises (every method):
        SetupError: one of them is damaged or cannot be read.
    """

    def __init__(self, state: Path) -> None:
        self.parts: list[Part] = []
        self._stack = ExitStack()
        found = list(states(state))
        try:
            for shard, folder in found:
                self.parts.append(self._opened(shard, folder))
            if len({shard.count if shard else 0 for shard, _ in found}) > 1:
                leave_out_superseded([part.tally for part in self.parts])
        except BaseException:
            self._stack.close()
            raise

    def _opened(self, shard: Shard | None, folder: Path) -> Part:
        journal = Journal(folder / "journal.sqlite3", read_only=True)
        self._stack.callback(journal.close)
        run = journal.last_run()
        at_work: bool | None = False
        if run is not None and run.exit_code is None:
            at_work = is_held(folder)
            if at_work is False:  # killed, or it has just ended
                run = journal.last_run()
        # A run that left work behind in native code has ended; nobody is at work there.
        over = run is not None and at_work is False
        return Part(shard, journal, run, journal.tally(over=over), at_work)

    def __enter__(self) -> Journals:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    @property
    def newest(self) -> Part | None:
        """The journal of the run that began last."""
        begun = [part for part in self.parts if part.run is not None]
        return max(begun, key=lambda part: part.run.started_at if part.run else 0.0, default=None)

    @property
    def selected(self) -> int | None:
        """How many assets the newest run was of, with its sibling parts'; None: not told by all."""
        newest = self.newest
        if newest is None or self.not_begun:
            return None
        count = newest.shard.count if newest.shard else 0
        siblings = [p for p in self.parts if (p.shard.count if p.shard else 0) == count]
        told = [part.run.selected if part.run else None for part in siblings]
        known = [selected for selected in told if selected is not None]
        return sum(known) if len(known) == len(told) else None

    @property
    def not_begun(self) -> list[Shard]:
        """The parts that have no journal yet, of the number of parts that was begun last."""
        begun = [(part.run.started_at, part.shard) for part in self.parts if part.run]
        if not begun:
            return []
        _, last = max(begun, key=lambda one: one[0])
        if last is None:
            return []
        there = {part.shard for part in self.parts}
        every = (Shard(index, last.count) for index in range(1, last.count + 1))
        return [shard for shard in every if shard not in there]

    def counts(self) -> Counts:
        """How many assets are in each state."""
        return sum((part.tally.counts() for part in self.parts), start=NOTHING)

    def new_failures(self) -> int:
        """How many failed in the last run of each part, not before."""
        last = ((part.tally, part.run) for part in self.parts)
        states = (tally.of_run(run.run_id) for tally, run in last if run is not None)
        return sum(found[state] for found in states for state in BAD)

    def stage_counts(self) -> dict[str, int]:
        """How often each stage was ever done, over all assets and runs."""
        total: Counter[str] = Counter()
        for part in self.parts:
            total.update(part.journal.stage_counts())
        return dict(total)

    def entries(self, rows: Rows, limit: int | None = None) -> Iterator[JournalEntry]:
        """Rows in the order of their conditions; `limit` is of all together."""
        for condition in rows.conditions:
            for part in self.parts:
                for entry in part.tally.entries(Rows((condition,)), limit):
                    yield entry
                    if limit is not None:
                        limit -= 1

    def as_json(self, rows: Rows) -> Iterator[str]:
        """Rows as JSON objects, a page at a time; see `Tally.as_json`."""
        for part in self.parts:
            yield from part.tally.as_json(rows)
