"""A PostgreSQL server of the test's own: on loopback, in a temporary folder, never the system's."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

PASSWORD = "qF7zvNn2/xJ@k3:Lw"  # every character that a URL has to encode
USER = "night"
WAIT_S = 60.0


def binaries() -> Path:
    """The folder of `initdb` and `postgres`; skips the test where there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("no PostgreSQL server is installed (Debian: apt install postgresql)")
    return found[-1].parent


def identity() -> dict[str, Any]:
    """As whom the server runs: it refuses to be root's."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return {}
    import pwd

    try:
        account = pwd.getpwnam("postgres")
    except KeyError:
        pytest.skip("PostgreSQL refuses to run as root, and there is no user postgres")
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


class Postgres:
    """A server that can be stopped, killed and started again with what it holds."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._bin = binaries()
        self._who = identity()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        if self._who:
            os.chown(folder, self._who["user"], self._who["group"])
        words = folder / "password"
        words.write_text(PASSWORD, encoding="utf-8")
        words.chmod(0o644)
        self._call(
            *("initdb", "-D", folder / "data", "-U", USER, "-A", "scram-sha-256"),
            *(f"--pwfile={words}", "-E", "UTF8", "--locale=C", "--no-sync"),
        )
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def url(self, password: str | None = None) -> str:
        """Of its database; the password is named, not written, unless it is given."""
        secret = "${PG_SECRET}" if password is None else password
        return f"postgresql://{USER}:{secret}@127.0.0.1:{self.port}/postgres"

    environment: dict[str, str] = {"PG_SECRET": PASSWORD}  # noqa: RUF012

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(str(self._bin / "postgres"), "-D", str(self._folder / "data")),
                    *("-h", "127.0.0.1", "-p", str(self.port), "-k", str(self._folder), "-F"),
                ],
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **self._who,
            )
        until_s = time.monotonic() + WAIT_S
        while time.monotonic() < until_s:
            with contextlib.suppress(Exception), self.connected() as connection:
                connection.execute("SELECT 1")
                return
            assert self._process.poll() is None, (self._folder / "log").read_text()
            time.sleep(0.05)
        raise AssertionError((self._folder / "log").read_text())

    def stop(self) -> None:
        """Shut it down at once: its clients' connections break."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(WAIT_S)
            self._process = None

    @contextlib.contextmanager
    def connected(self) -> Iterator[Any]:
        """A connection of the test's own, each statement committed."""
        import psycopg

        connection = psycopg.connect(
            host="127.0.0.1", port=self.port, user=USER, password=PASSWORD, dbname="postgres",
            autocommit=True, connect_timeout=5,
        )  # fmt: skip
        try:
            yield connection
        finally:
            connection.close()

    def ask(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """The rows of a query."""
        with self.connected() as connection:
            return list(connection.execute(statement, values).fetchall())

    def do(self, *statements: str) -> None:
        """Statements without rows."""
        with self.connected() as connection:
            for statement in statements:
                connection.execute(statement)

    def _call(self, program: str, *arguments: object) -> None:
        done = subprocess.run(
            [str(self._bin / program), *map(str, arguments)],
            cwd=self._folder,
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            check=False,
            **self._who,
        )
        assert done.returncode == 0, done.stdout + done.stderr


@contextlib.contextmanager
def server() -> Iterator[Postgres]:
    """A server, and nothing of it left at the end."""
    binaries(), identity()
    # Not below pytest's own folder, into which another user may not look.
    folder = Path(tempfile.mkdtemp(prefix="audio-batch-postgres-"))
    running = None
    try:
        running = Postgres(folder)
        yield running
    finally:
        if running is not None:
            running.stop()
        shutil.rmtree(folder, ignore_errors=True)
