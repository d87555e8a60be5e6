"""What the tests ask of a database, the same of SQLite and of PostgreSQL."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

ARCHIVE = (
    "CREATE TABLE assets (uuid CHAR(36) PRIMARY KEY, s3_key TEXT NOT NULL, title TEXT,"
    " shelf INTEGER, recorded DATE)"
)
NEW_ONLY = (
    "SELECT a.uuid, a.s3_key, a.title, a.shelf FROM assets a WHERE a.shelf = :shelf"
    " AND NOT EXISTS (SELECT 1 FROM audio_batch_results r"
    " WHERE r.asset_id = a.uuid AND r.state = 'done') ORDER BY a.uuid"
)


class Backend(Protocol):
    """A database for a test."""

    environment: dict[str, str]

    def url(self) -> str:
        """As the program is given it."""
        ...

    def ask(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """The rows of a query."""
        ...

    def do(self, *statements: str) -> None:
        """Statements without rows."""
        ...


class SqliteFile:
    """An SQLite database."""

    environment: dict[str, str] = {}  # noqa: RUF012

    def __init__(self, path: Path) -> None:
        self.path = path

    def url(self) -> str:
        return f"sqlite:///{self.path}"

    def ask(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        with contextlib.closing(sqlite3.connect(self.path)) as db:
            return list(db.execute(statement, values))

    def do(self, *statements: str) -> None:
        with contextlib.closing(sqlite3.connect(self.path)) as db, db:
            for statement in statements:
                db.execute(statement)


def filled(backend: Backend, rows: Sequence[tuple[str, str]], *, make: bool = True) -> None:
    """A table of assets: uuid and key of each."""
    if make:
        backend.do(ARCHIVE)
    for uuid, key in rows:
        backend.do(
            f"INSERT INTO assets VALUES ('{uuid}', '{key}', 'Title of {key}', 3, '2026-11-12')"
        )
