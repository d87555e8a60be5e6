"""Waiting for a database no longer than it may take: in the server, and where that is silent.

A server that is asked to ends by itself what takes too long, or waits for somebody's lock. One
that has stopped, or behind a line that swallows everything, does not: then the connection is cut
from this side, so that whoever waits for an answer gets an error.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from audio_batch.errors import SetupError

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

_LONGEST_MS = 2**31 - 1
"""PostgreSQL's own limit, 24 days."""

# CASE: no other setting is to be read as a number.
_LIMIT = (
    "SELECT set_config(name, '{ms}', true) FROM pg_settings WHERE CASE WHEN name = '{name}'"
    " THEN setting::bigint = 0 OR setting::bigint > {ms} ELSE false END"
)


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a database may take.

    Args:
        statement_s: for one statement; PostgreSQL ends it.
        lock_s: waiting for what another session has locked, within that; None: no less.
        silence_s: until the connection is cut, whatever the server does.
    """

    statement_s: float
    silence_s: float
    lock_s: float | None = None

    def set_for(self, connection: Connection) -> None:
        """Tell PostgreSQL, for this transaction; what the account has that is shorter stays."""
        if connection.dialect.name != "postgresql":
            return
        wanted = {"statement_timeout": self.statement_s, "lock_timeout": self.lock_s}
        chosen = [
            _LIMIT.format(name=name, ms=max(1, min(int(limit_s * 1000), _LONGEST_MS)))
            for name, limit_s in wanted.items()
            if limit_s is not None
        ]
        # For the transaction alone, not as parameters of the connection: a pooler takes those ill.
        connection.exec_driver_sql(" UNION ALL ".join(chosen)).close()


class Watch:
    """Cuts the connections of an engine to a server that is silent.

    Args:
        shown: the database's URL for people.
    """

    def __init__(self, engine: Engine, shown: str) -> None:
        from sqlalchemy import event

        self._shown = shown
        self._open: weakref.WeakSet[Any] = weakref.WeakSet()
        if engine.dialect.name == "postgresql":
            # Before SQLAlchemy's own first questions to a new connection.
            event.listen(engine, "connect", lambda made, _: self._open.add(made), insert=True)

    @contextlib.contextmanager
    def answered_within(self, seconds: float) -> Iterator[None]:
        """Cut the connections if the body takes longer.

        Raises:
            SetupError: it has, and failed.
        """
        expired = threading.Event()

        def cut() -> None:
            expired.set()
            for connection in list(self._open):
                with contextlib.suppress(Exception):  # closed by now, or a driver without a socket
                    _shut(connection.fileno())

        timer = threading.Timer(min(seconds, _LONGEST_MS / 1000), cut)
        timer.daemon = True
        timer.start()
        try:
            yield
        except Exception as error:
            if not expired.is_set():
                raise
            raise SetupError(
                f"The database {self._shown} has not answered for {seconds:.0f} s.",
                remedy="See that it is running and not overloaded, and try again.",
            ) from error
        finally:
            timer.cancel()


def _shut(number: int) -> None:
    """Whoever reads from the socket finds its end; the driver closes it."""
    borrowed = socket.socket(fileno=number)
    try:
        borrowed.shutdown(socket.SHUT_RDWR)
    finally:
        borrowed.detach()
