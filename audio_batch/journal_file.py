"""The journal's file: how it is opened, and what is written together.

Rows are durable when a transaction has ended (`synchronous=EXTRA`: FULL, and the folder is synced
too). The rollback journal is used rather than WAL, because WAL is unsafe on network file systems
and one writer gains nothing from it. A commit costs three syncs of the disk whatever it holds, so
that writes which happen at one time are cheaper in one group.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from audio_batch import journal_schema
from audio_batch.errors import SetupError

_DAMAGE = ("malformed", "not a database", "no such", "already exists", "Could not decode")
"""What SQLite says of a file that is not what was written; a table that is gone is one of them."""


@dataclass(slots=True)
class _Group:
    """Writes that are to be committed together; `failed` where one took all of them back."""

    begun: bool = False
    failed: SetupError | None = None


class JournalFile:
    """An open journal. Not thread-safe: the parent's main thread holds it.

    Raises (every method):
        SetupError: the file is damaged, of a newer version, or cannot be written.
    """

    def __init__(self, path: Path, *, read_only: bool) -> None:
        self.path = path
        self._group: _Group | None = None
        with self.translated():
            try:
                self._open(read_only)
            except sqlite3.OperationalError as error:
                # A killed run left a transaction to roll back, which a reader may not do: open it
                # for writing once. SQLite's own locks keep this safe beside a run at work.
                if not read_only or "readonly" not in str(error):
                    raise
                self._open(read_only=False)

    def _open(self, read_only: bool) -> None:
        if read_only:
            uri = f"{self.path.resolve().as_uri()}?mode=ro"
            self.db = sqlite3.connect(uri, uri=True, timeout=30, isolation_level=None)
        else:
            self.db = sqlite3.connect(self.path, timeout=30, isolation_level=None)
        self.db.row_factory = sqlite3.Row
        if not read_only:
            self.db.execute("PRAGMA journal_mode=DELETE")
            self.db.execute("PRAGMA synchronous=EXTRA")
            self.db.execute("PRAGMA foreign_keys=ON")
        version = journal_schema.version_of(self.db)
        journal_schema.check(version, self.path, read_only=read_only)
        if version < journal_schema.SCHEMA_VERSION and not read_only:
            with self.transaction():
                journal_schema.bring_up(self.db, version)
        if not read_only:
            # 0.1 s for 10,000 assets: damage in a page that is not read today waits for nobody.
            (sound,) = self.db.execute("PRAGMA integrity_check(1)").fetchone()
            if sound != "ok":
                raise sqlite3.DatabaseError(f"malformed: {sound}")
        self.version = version if read_only else journal_schema.SCHEMA_VERSION
        """The schema of what is there."""

    def close(self) -> None:
        """Close the file; what was committed is there whether this is called or not."""
        self.db.close()

    @contextlib.contextmanager
    def translated(self) -> Iterator[None]:
        """Turn what SQLite says, or a row that cannot be ours, into a sentence with its remedy."""
        try:
            yield
        except (sqlite3.Error, ValueError, TypeError, KeyError) as error:
            # The latter three: rows that SQLite takes for sound and that cannot be ours.
            text = str(error) if isinstance(error, sqlite3.Error) else "malformed"
            if "full" in text:
                problem, remedy = "the disk is full", "Free some space and run it again."
            elif any(sign in text for sign in _DAMAGE):
                problem = "the file is damaged"
                remedy = (
                    "Your outputs are untouched. Move the journal away and run it again: "
                    "everything is then done anew."
                )
            elif "locked" in text:
                problem = "another program keeps it locked"
                remedy = "Close whatever has it open and run it again."
            else:
                problem, remedy = text, "Check the folder's permissions and file system."
            raise SetupError(
                f"The journal {self.path} cannot be used: {problem}.", remedy=remedy
            ) from error

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Write all of the body or nothing; durable at its end, or with the group it stands in."""
        group = self._group
        if group is None:
            with self.translated(), self._rolled_back_on_error():
                self.db.execute("BEGIN IMMEDIATE")
                yield
                self.db.execute("COMMIT")
            return
        if group.failed is not None:
            raise group.failed
        try:
            with self.translated(), self._rolled_back_on_error():
                if not group.begun:
                    self.db.execute("BEGIN IMMEDIATE")
                    group.begun = True
                yield
        except BaseException as error:
            # A SetupError is what every further write of the group is answered with.
            group.failed = error if isinstance(error, SetupError) else self._taken_back()
            raise

    @contextlib.contextmanager
    def grouped(self) -> Iterator[None]:
        """Commit every write of the body at once, at its end; see `Journal.grouped`."""
        if self._group is not None:
            raise ValueError("a group of writes cannot hold another")
        group = self._group = _Group()
        try:
            yield
        finally:
            self._group = None
            # Also after an error that is not the journal's: what was written before it is true.
            if group.begun and group.failed is None:
                with self.translated(), self._rolled_back_on_error():
                    self.db.execute("COMMIT")

    @contextlib.contextmanager
    def _rolled_back_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            # The error itself is what matters; SQLite may have rolled back already.
            with contextlib.suppress(sqlite3.Error):
                self.db.execute("ROLLBACK")
            raise

    def _taken_back(self) -> SetupError:
        return SetupError(
            f"The journal {self.path} cannot be used: a write was broken off.",
            remedy="Run it again.",
        )
