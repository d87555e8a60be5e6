"""Fixtures of the databases' tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import postgres_server
import pytest
from backends import Backend, SqliteFile
from postgres_server import Postgres


@pytest.fixture(scope="module")
def running() -> Iterator[Postgres]:
    with postgres_server.server() as started:
        yield started


@pytest.fixture
def postgres(running: Postgres) -> Postgres:
    """A running server without tables."""
    running.do(
        "DROP SCHEMA IF EXISTS public CASCADE", "CREATE SCHEMA public",
        "DROP SCHEMA IF EXISTS reports CASCADE",
    )  # fmt: skip
    return running


@pytest.fixture(params=["sqlite", "postgresql"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    """Each kind of database in turn, empty."""
    if request.param == "sqlite":
        return SqliteFile(tmp_path / "archive.db")
    postgres: Postgres = request.getfixturevalue("postgres")
    return postgres
