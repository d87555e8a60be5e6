"""Fixtures of the databases' tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import postgres_server
import pytest
from backends import Backend, SqliteFile
from filelock import FileLock
from postgres_server import Muffler, Postgres


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """One server a worker; the folder that it begins with is made once for all of them."""
    postgres_server.binaries(), postgres_server.identity()
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    template = folder / "postgres-template"
    with FileLock(folder / "postgres-template.lock"):
        if not template.is_dir():
            postgres_server.template(template)
    with postgres_server.server(template) as started:
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


@pytest.fixture
def line(postgres: Postgres) -> Iterator[Muffler]:
    """A line to the server that can fall silent."""
    muffler = Muffler(postgres.port)
    yield muffler
    muffler.close()
