"""Whether what the journal vouches for is still there: every output and every kept result, by hash.

A run that has nothing to do looks at sizes only, so that ten thousand assets are looked through in
a second. Here every byte is read. Nothing is written, deleted or overwritten but the journal's
rows; the next run makes again what is damaged. What an unfinished asset has is left alone: the run
that goes on with it trusts nothing without its hash.
"""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from audio_batch.errors import AssetError, SetupError
from audio_batch.journal import Journal, JournalEntry
from audio_batch.outcome import Stage, State
from audio_batch.storage import STATE_FOLDER, OutputFolder, PublishedFile, contained
from audio_batch.voices.folder import settle

_UNFINISHED = (State.RUNNING, State.INTERRUPTED)
_SHOWN_JOURNAL_PROBLEMS = 3

_REQUEUED = "Its outputs were damaged or missing."
"""The journal's word for an asset that waits to be made again."""


@dataclass(frozen=True, slots=True)
class Damage:
    """A file that is not what the journal says. `stage` is None for an output.

    `path` is relative to the output folder, `problem` a phrase that follows it in a sentence.
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
            "everything is then done anew.",
        )


def verify(folder: OutputFolder, journal: Journal) -> Verification:
    """Read every file that the journal has and compare; to be called with the folder's lock held.

    Raises:
        SetupError: the journal cannot be used.
    """
    settle(folder.root, journal)
    entries = list(journal.entries())
    stages = journal.stages()
    check = _Check(folder.root)
    sound = {}
    waiting = tuple(entry.asset_id for entry in entries if _waits(entry))
    for entry in entries:
        if entry.state in _UNFINISHED:
            continue
        whole = check.outputs(entry)
        if len(whole) < len(entry.outputs):
            sound[entry.asset_id] = whole
        for stage, record in stages.get(entry.asset_id, {}).items():
            if record.fingerprint:  # one without is of no use any more, and known to be
                check.kept(entry.asset_id, stage, record.file)
    return Verification(
        outputs=check.output_count,
        stages=check.stage_count,
        size_bytes=check.size_bytes,
        unfinished=sum(entry.state in _UNFINISHED for entry in entries) - len(waiting),
        waiting=waiting,
        damages=tuple(check.damages),
        sound=sound,
        leftovers=tuple(_relative(folder.root, folder.leftovers())),
    )


def _waits(entry: JournalEntry) -> bool:
    """Whether an earlier look has queued it, and no run has begun it since."""
    return entry.state is State.INTERRUPTED and entry.error_text == _REQUEUED


def _relative(root: Path, paths: Iterable[Path]) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in paths)


class _Check:
    """Counts what it reads, and gathers what is not as it should be."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.damages: list[Damage] = []
        self.output_count = self.stage_count = self.size_bytes = 0

    def outputs(self, entry: JournalEntry) -> tuple[PublishedFile, ...]:
        """Look at an asset's outputs; return those that are sound."""
        sound = []
        for output in entry.outputs:
            self.output_count += 1
            problem = self._problem(self._root, output)
            if problem is None:
                sound.append(output)
            else:
                self.damages.append(Damage(entry.asset_id, output.format, output.path, problem))
        return tuple(sound)

    def kept(self, asset_id: str, stage: Stage, file: PublishedFile) -> None:
        """Look at a stage's result."""
        self.stage_count += 1
        problem = self._problem(self._root / STATE_FOLDER, file)
        if problem is not None:
            path = f"{STATE_FOLDER}/{file.path}"
            self.damages.append(Damage(asset_id, file.format, path, problem, stage))

    def _problem(self, base: Path, file: PublishedFile) -> str | None:
        """What is wrong with a file, or None."""
        try:
            path = contained(base, PurePosixPath(file.path))
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):  # to open a pipe would wait for ever
                return "is not a file any more"
            if status.st_size != file.size_bytes:
                return f"has {status.st_size} bytes instead of {file.size_bytes}"
            with path.open("rb") as opened:
                digest = hashlib.file_digest(opened, "sha256").hexdigest()
        except FileNotFoundError:
            return "is missing"
        except AssetError as error:
            return f"cannot be read: {error.message}"
        except (OSError, ValueError) as error:
            return f"cannot be read: {getattr(error, 'strerror', None) or error}"
        self.size_bytes += status.st_size
        return None if digest == file.sha256 else "has other bytes than were written"
