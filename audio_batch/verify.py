"""Whether what the journal vouches for is still there: every output and every kept result, by hash.

A run that has nothing to do looks at sizes only, so that ten thousand assets are looked through in
a second. Here every byte is read. Nothing is written, deleted or overwritten but the journal's
rows; the next run makes again what is damaged. What an unfinished asset has is left alone: the run
that goes on with it trusts nothing without its hash.
"""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from audio_batch.errors import SetupError
from audio_batch.journal import Journal, JournalEntry
from audio_batch.journal_counts import ALL
from audio_batch.outcome import Stage, StageRecord, State
from audio_batch.output_folder import OutputFolder
from audio_batch.outputs import OTHER_BYTES, LocalOutputs, Outputs
from audio_batch.storage import PublishedFile
from audio_batch.voices.folder import settle

_AT_ONCE = 1000
"""Assets whose rows are held at a time."""

_UNFINISHED = (State.RUNNING, State.INTERRUPTED)
_SHOWN_JOURNAL_PROBLEMS = 3

_REQUEUED = "Its outputs were damaged or missing."
"""The journal's word for an asset that waits to be made again."""


@dataclass(frozen=True, slots=True)
class Damage:
    """A file that is not what the journal says. `stage` is None for an output.

    `path` is relative to the output folder where it lies in it; `problem` is a phrase that follows
    it in a sentence.
    """

    asset_id: str
    format: str
    path: str
    problem: str
    stage: Stage | None = None


@dataclass(frozen=True, slots=True)
class Verification:
    """What was looked at and what was found.

    `sound` holds, of each asset with damaged outputs, those that are not. `leftovers` are temporary
    files of a killed run, which the next run removes; `waiting` are the assets that an earlier look
    has queued, and `unfinished` counts the others left alone.
    """

    outputs: int
    stages: int
    size_bytes: int
    unfinished: int
    waiting: tuple[str, ...]
    damages: tuple[Damage, ...]
    sound: dict[str, tuple[PublishedFile, ...]]
    leftovers: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether every output that was ever done is there as it was written."""
        return not (self.damages or self.waiting)

    def requeue(self, journal: Journal) -> None:
        """Have the next run make again what is damaged.

        Raises:
            SetupError: the journal cannot be written.
        """
        stages = [(d.asset_id, d.stage) for d in self.damages if d.stage is not None]
        if self.damages:
            journal.requeue(self.sound, stages, _REQUEUED)


def check_journal(path: Path) -> None:
    """Have SQLite look through the whole file.

    Raises:
        SetupError: it is damaged, or cannot be read.
    """
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=30)) as db:
            limit = _SHOWN_JOURNAL_PROBLEMS
            rows = db.execute(f"PRAGMA integrity_check({limit})").fetchall()
    except (sqlite3.Error, ValueError) as error:  # the latter: what it says is no text
        rows = [(str(error) if isinstance(error, sqlite3.Error) else "malformed",)]
    found = [" ".join(str(row[0]).split()) for row in rows]
    if found != ["ok"]:
        raise SetupError(
            f"The journal {path} cannot be used: the file is damaged ({'; '.join(found)}).",
            remedy="Your outputs are untouched. Move the journal away and run it again: "
            "what is done is then taken over from the published JSON.",
        )


def verify(folder: OutputFolder, journal: Journal) -> Verification:
    """Read every file that the journal has and compare; to be called with the folder's lock held.

    Raises:
        SetupError: the journal cannot be used, or the store does not answer.
    """
    settle(folder.root, journal)
    outputs = _Look(folder.place.open())
    kept = _Look(LocalOutputs(folder.state))
    sound: dict[str, tuple[PublishedFile, ...]] = {}
    damages: list[Damage] = []
    waiting: list[str] = []
    unfinished = 0
    entries = journal.tally().entries(ALL)
    while some := list(itertools.islice(entries, _AT_ONCE)):
        waits = [entry.asset_id for entry in some if _waits(entry)]
        finished = [entry for entry in some if entry.state not in _UNFINISHED]
        waiting += waits
        unfinished += len(some) - len(finished) - len(waits)
        results = _results(journal, finished)
        output_faults = outputs.faults([o for entry in finished for o in entry.published])
        result_faults = kept.faults([r.file for entry in finished for r in results[entry.asset_id]])
        for entry in finished:
            problems = [(output, next(output_faults)) for output in entry.published]
            whole = tuple(output for output, problem in problems if problem is None)
            if len(whole) < len(problems):
                sound[entry.asset_id] = whole
            damages += [
                Damage(entry.asset_id, output.format, output.path, problem)
                for output, problem in problems
                if problem is not None
            ]
            for result in results[entry.asset_id]:
                if (problem := next(result_faults)) is not None:
                    path = _shown(folder, folder.state / result.file.path)
                    damages.append(
                        Damage(entry.asset_id, result.file.format, path, problem, result.stage)
                    )
    return Verification(
        outputs=outputs.count,
        stages=kept.count,
        size_bytes=outputs.size_bytes + kept.size_bytes,
        unfinished=unfinished,
        waiting=tuple(waiting),
        damages=tuple(damages),
        sound=sound,
        leftovers=tuple(sorted(_shown(folder, path) for path in folder.leftovers())),
    )


def _results(journal: Journal, entries: Sequence[JournalEntry]) -> dict[str, list[StageRecord]]:
    """By asset the kept results that something may still be taken from."""
    stages = journal.lookup.stages(entry.asset_id for entry in entries)
    return {
        entry.asset_id: [
            # One without is of no use any more, and known to be.
            record
            for record in stages.get(entry.asset_id, {}).values()
            if record.fingerprint
        ]
        for entry in entries
    }


def _waits(entry: JournalEntry) -> bool:
    """Whether an earlier look has queued it, and no run has begun it since."""
    return entry.state is State.INTERRUPTED and entry.error_text == _REQUEUED


def _shown(folder: OutputFolder, path: Path) -> str:
    within = path.is_relative_to(folder.root)
    return path.relative_to(folder.root).as_posix() if within else str(path)


class _Look:
    """Reads files of one place, and counts what it reads."""

    def __init__(self, place: Outputs) -> None:
        self._place = place
        self.count = self.size_bytes = 0

    def faults(self, files: Sequence[PublishedFile]) -> Iterator[str | None]:
        """What is wrong with each, or None, in order.

        Raises:
            SetupError: see `Outputs.fault`.
        """
        if self._place.at_once == 1:
            yield from self._counted(files, map(self._place.fault, files))
            return
        with ThreadPoolExecutor(self._place.at_once, "Verification") as threads:
            yield from self._counted(files, threads.map(self._place.fault, files))

    def _counted(
        self, files: Sequence[PublishedFile], faults: Iterable[str | None]
    ) -> Iterator[str | None]:
        for file, fault in zip(files, faults, strict=True):
            self.count += 1
            if fault in (None, OTHER_BYTES):
                self.size_bytes += file.size_bytes
            yield fault
