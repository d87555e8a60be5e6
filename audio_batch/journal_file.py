"""The journal's file: how it is opened, and what is written together.

Rows are durable when a transaction has ended (`synchronous=EXTRA`: FULL, and the folder is synced
too). The rollback journal is used rather than WAL, because WAL is unsafe on network file systems
and one writer gains nothing from it. A commit costs three syncs of the disk whatever it holds, so
that writes which happen at one time are cheaper in one group.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path, PurePath
from types import TracebackType
from urllib.parse import quote_from_bytes

from audio_batch import journal_schema
from audio_batch.errors import SetupError

_DAMAGE = ("malformed", "not a database", "no such", "already exists", "Could not decode")
"""What SQLite says of a file that is not what was written; a table that is gone is one of them."""


_NOT_OURS = (sqlite3.Error, ValueError, TypeError, KeyError)
"""What goes wrong with a journal; the latter three are of rows that SQLite takes for sound and that
cannot be ours."""

_CACHE_KIB = 64 * 1024
"""Of pages: a million assets' rows are 300 MB, of which an id that is random touches any."""

_LEAST_SQLITE = (3, 35)
"""It has RETURNING."""


def read_only_uri(path: PurePath) -> str:
    """The URI by which SQLite opens a file for reading only.

    The server of a UNC path is part of the path (`file:////server/share`): as the host of a URI,
    where `as_uri` puts it, SQLite refuses it.
    """
    text = quote_from_bytes(os.fsencode(path.as_posix()), safe="/:")
    return f"file://{'' if text.startswith('/') else '/'}{text}?mode=ro"


@dataclass(slots=True)
class _Group:
    """Writes that are to be committed together; `failed` where one took all of them back."""

    begun: bool = False
    failed: SetupError | None = None


class _InGroup:
    """A write as part of a group. No generator: there are several an asset."""

    __slots__ = ("_file", "_group")

    def __init__(self, file: JournalFile, group: _Group) -> None:
        self._file = file
        self._group = group

    def __enter__(self) -> None:
        self._file.begin_in(self._group)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            failed = self._file.fail(self._group, error)
            if isinstance(error, _NOT_OURS):
                raise failed from error


class JournalFile:
    """An open journal. Not thread-safe: the parent's main thread holds it.

    Raises (every method):
        SetupError: the file is damaged, of a newer version, or cannot be written.
    """

    def __init__(self, path: Path, *, read_only: bool) -> None:
        if sqlite3.sqlite_version_info < _LEAST_SQLITE:
            raise SetupError(
                f"Python's SQLite is {sqlite3.sqlite_version}; 3.35 or newer is needed.",
                remedy="Use a newer Python or system.",
            )
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
            uri = read_only_uri(self.path.resolve())
            self.db = sqlite3.connect(uri, uri=True, timeout=30, isolation_level=None)
        else:
            self.db = sqlite3.connect(self.path, timeout=30, isolation_level=None)
        self.db.row_factory = sqlite3.Row
        if not read_only:
            self.db.execute("PRAGMA journal_mode=DELETE")
            self.db.execute("PRAGMA synchronous=EXTRA")
            self.db.execute("PRAGMA foreign_keys=ON")
            self.db.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
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
        except _NOT_OURS as error:
            raise self._told(error) from error

    def _told(self, error: Exception) -> SetupError:
        text = str(error) if isinstance(error, sqlite3.Error) else "malformed"
        if "full" in text:
            problem, remedy = "the disk is full", "Free some space and run it again."
        elif any(sign in text for sign in _DAMAGE):
            problem = "the file is damaged"
            remedy = (
                "Your outputs are untouched. Move the journal away and run it again: "
                "what is done is then taken over from the published JSON."
            )
        elif "locked" in text:
            problem = "another program keeps it locked"
            remedy = "Close whatever has it open and run it again."
        else:
            problem, remedy = text, "Check the folder's permissions and file system."
        return SetupError(f"The journal {self.path} cannot be used: {problem}.", remedy=remedy)

    def transaction(self) -> AbstractContextManager[None]:
        """Write all of the body or nothing; durable at its end, or with the group it stands in."""
        return self._alone() if self._group is None else _InGroup(self, self._group)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        with self.translated(), self._rolled_back_on_error():
            self.db.execute("BEGIN IMMEDIATE")
            yield
            self.db.execute("COMMIT")

    def begin_in(self, group: _Group) -> None:
        """A write of a group begins."""
        if group.failed is not None:
            raise group.failed
        if not group.begun:
            try:
                self.db.execute("BEGIN IMMEDIATE")
            except sqlite3.Error as error:
                raise self.fail(group, error) from error
            group.begun = True

    def fail(self, group: _Group, error: BaseException) -> SetupError:
        """A write of a group has failed, which takes all of it back; what further ones are told."""
        # The error itself is what matters; SQLite may have rolled back already.
        with contextlib.suppress(sqlite3.Error):
            self.db.execute("ROLLBACK")
        if isinstance(error, _NOT_OURS):
            group.failed = self._told(error)
        else:
            group.failed = error if isinstance(error, SetupError) else self._taken_back()
        return group.failed

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
