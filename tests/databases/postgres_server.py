"""A PostgreSQL server of the test's own: on loopback, in a temporary folder, never the system's."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

PASSWORD = "qF7zvNn2/xJ@k3:Lw"  # every character that a URL has to encode
USER = "night"
WAIT_S = 180.0


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


def template(folder: Path) -> None:
    """What `initdb` makes, in a new folder: servers begin with copies of it."""
    with _own_folder() as made:
        words = made / "password"
        words.write_text(PASSWORD, encoding="utf-8")
        words.chmod(0o644)
        done = subprocess.run(
            [
                *(str(binaries() / "initdb"), "-D", str(made / "data"), "-U", USER),
                *("-A", "scram-sha-256", f"--pwfile={words}", "-E", "UTF8", "--locale=C"),
                "--no-sync",
            ],
            cwd=made,
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            check=False,
            **identity(),
        )
        assert done.returncode == 0, done.stdout + done.stderr
        shutil.copytree(made / "data", folder)


class Postgres:
    """A server that can be stopped, killed and started again with what it holds."""

    def __init__(self, folder: Path, template: Path) -> None:
        self._folder = folder
        self._bin = binaries()
        self._who = identity()
        # Bound as long as this lives, so that nobody else is given its port while the server is
        # down; who listens may share it with who does not, where both say so.
        self._reserved = socket.socket()
        self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._reserved.bind(("127.0.0.1", 0))
        self.port: int = self._reserved.getsockname()[1]
        shutil.copytree(template, folder / "data")
        (folder / "data").chmod(0o700)
        for path in (folder / "data", *(folder / "data").rglob("*")) if self._who else ():
            os.chown(path, self._who["user"], self._who["group"])
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def url(
        self, password: str | None = None, *, port: int | None = None, database: str = "postgres"
    ) -> str:
        """Of its database; the password is named, not written, unless it is given."""
        secret = "${PG_SECRET}" if password is None else password
        return f"postgresql://{USER}:{secret}@127.0.0.1:{port or self.port}/{database}"

    environment: dict[str, str] = {"PG_SECRET": PASSWORD}  # noqa: RUF012

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(str(self._bin / "postgres"), "-D", str(self._folder / "data")),
                    *("-h", "127.0.0.1", "-p", str(self.port), "-k", str(self._folder), "-F"),
                    *("-c", "autovacuum=off"),  # it would hold locks when it likes
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

    def close(self) -> None:
        """Stop it for good."""
        self.stop()
        self._reserved.close()

    @contextlib.contextmanager
    def connected(self) -> Iterator[Any]:
        """A connection of the test's own, each statement committed."""
        import psycopg

        connection = psycopg.connect(
            host="127.0.0.1", port=self.port, user=USER, password=PASSWORD, dbname="postgres",
            autocommit=True, connect_timeout=60,
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


@contextlib.contextmanager
def server(template: Path) -> Iterator[Postgres]:
    """A server, and nothing of it left at the end."""
    with _own_folder() as folder:
        running = Postgres(folder, template)
        try:
            yield running
        finally:
            running.close()


@contextlib.contextmanager
def _own_folder() -> Iterator[Path]:
    """A folder of the server's account, which may not look into pytest's own."""
    who = identity()
    folder = Path(tempfile.mkdtemp(prefix="audio-batch-postgres-"))
    try:
        if who:
            os.chown(folder, who["user"], who["group"])
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Muffler:
    """A line to a server that can swallow what the server says, as a dead one does."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self.after = b""
        """Once a client has sent this, no word of the server gets through to it."""
        self.has_swallowed = threading.Event()
        """That has happened."""
        self._sockets: list[socket.socket] = [self._server]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def cut(self) -> None:
        """Break the connections that there are."""
        for one in self._sockets[1:]:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._server.accept()
                server = socket.create_connection(("127.0.0.1", self._port))
                self._sockets += [client, server]
                silent = threading.Event()
                for ends in ((client, server, True), (server, client, False)):
                    threading.Thread(
                        target=self._pass_on, args=(*ends, silent), daemon=True
                    ).start()

    def _pass_on(
        self, source: socket.socket, target: socket.socket, asks: bool, silent: threading.Event
    ) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(65536):
                if asks and self.after and self.after in piece:
                    silent.set()
                    self.has_swallowed.set()
                if asks or not silent.is_set():
                    target.sendall(piece)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)
