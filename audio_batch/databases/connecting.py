"""Opening a database, and what its errors mean: the one seam to SQLAlchemy and the drivers."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audio_batch.databases import urls
from audio_batch.databases.silence import Limits, Watch
from audio_batch.errors import AudioBatchError, SetupError, UsageError
from audio_batch.text import for_terminal, keep_secret, redact

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection, Engine

CONNECT_TIMEOUT_S = 10
_LOCK_TIMEOUT_S = 30
_LONGEST_REASON = 300
"""Characters of a database's own words in a sentence of ours."""

_MISSING = "pip install 'audio-batch[sql]'"

# Of PostgreSQL's error codes:
_NO_RIGHT, _READ_ONLY, _NO_TABLE = "42501", "25006", "42P01"
_LOCKED, _CANCELLED = "55P03", "57014"
_REMEDIES = {
    _LOCKED: "Another session holds a lock: end it, or try again later.",
    _CANCELLED: "It has taken too long: see what holds it up, or try again later.",
}
_NO_RESULTS_YET = (
    "If that is the table of results, `audio-batch results create --results-db URL` makes it."
)
_SQLITE_SLIPS = (
    *("no such", "syntax error", "unrecognized token", "incomplete input", "ambiguous"),
    *("readonly", "wrong number of arguments"),
)

_DRIVERS = {"postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg"}
"""Without a driver in the URL, SQLAlchemy would look for psycopg2: the extra has its successor."""

_OTHERS = {
    "mysql": ("pymysql", "mysql+pymysql"),
    "mariadb": ("pymysql", "mariadb+pymysql"),
    "mssql": ("pyodbc", "mssql+pyodbc"),
    "oracle": ("oracledb", "oracle+oracledb"),
}
"""Databases that can be read with a driver of their own: its package, and the URL's scheme."""


@dataclass(frozen=True, slots=True)
class Database:
    """A database that has been named, not yet asked.

    Args:
        engine: opens connections as they are needed.
        shown: the URL for people.
        key: which database it is: the URL with its parameters, without secrets.
        watch: cuts connections that are silent.
    """

    engine: Engine
    shown: str
    key: str
    watch: Watch

    @property
    def dialect(self) -> str:
        """What it speaks: "sqlite", "postgresql", …"""
        return self.engine.dialect.name

    @contextlib.contextmanager
    def translated(self, *, statement: bool = False) -> Iterator[None]:
        """Turn what SQLAlchemy and the driver raise into a sentence with its remedy.

        Args:
            statement: what is sent was written by the user, who can mend it.

        Raises:
            SetupError: the database cannot be reached, or refuses.
            UsageError: with `statement`, it does not understand what it was sent.
        """
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except SQLAlchemyError as error:
            raise explained(error, self.shown, statement=statement) from None

    @contextlib.contextmanager
    def connected(self, limits: Limits) -> Iterator[Connection]:
        """A connection whose statements end within limits; nothing is committed by itself.

        What is asked over it stands in `watch.answered_within`.

        Raises:
            SetupError: the database is silent.
            sqlalchemy.exc.SQLAlchemyError: it cannot be reached, or refuses.
        """
        with self.watch.answered_within(limits.silence_s):
            connection = self.engine.connect()
        try:
            with self.watch.answered_within(limits.silence_s):
                limits.set_for(connection)
            yield connection
        finally:
            with self.watch.answered_within(limits.silence_s):
                connection.close()

    @contextlib.contextmanager
    def begun(self, limits: Limits) -> Iterator[Connection]:
        """A transaction, which has been committed when the body has ended; see `connected`."""
        with self.watch.answered_within(limits.silence_s), self.engine.begin() as connection:
            limits.set_for(connection)
            yield connection

    def close(self) -> None:
        """Close what is open."""
        self.engine.dispose()


def opened(text: str, *, must_exist: bool = False, read_only: bool = False) -> Database:
    """The database of a URL; nothing is sent to it yet.

    Args:
        must_exist: the file of an SQLite database is not made.
        read_only: what is sent cannot change anything, on SQLite and PostgreSQL.

    Raises:
        UsageError: the URL cannot be understood, or names a variable that is not set.
        SetupError: SQLAlchemy or the database's driver is not installed, or the file is not there.
    """
    require_sqlalchemy()
    from sqlalchemy import create_engine
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError

    url = _url(text)
    name = _shown(url)
    kind = url.get_backend_name()
    if kind == "sqlite":
        _check_file(url, name, must_exist)
    options: dict[str, Any] = {}
    if kind == "postgresql" and read_only:
        options["execution_options"] = {"postgresql_readonly": True}
    try:
        engine = create_engine(
            url,
            # Parameters are names and paths of recordings, and need not stand in any log.
            hide_parameters=True,
            pool_pre_ping=True,
            pool_size=1,
            max_overflow=0,
            connect_args=_arguments(url),
            **options,
        )
    except NoSuchModuleError:
        raise UsageError(
            f"{name}: {for_terminal(url.drivername)} is no database that is known here.",
            remedy="Known are sqlite, postgresql and what SQLAlchemy has besides.",
        ) from None
    except ImportError as error:
        raise SetupError(
            f"{name}: the driver {error.name or url.drivername} is not installed.",
            remedy=_remedy(kind),
        ) from None
    except (ArgumentError, TypeError, ValueError) as error:
        raise UsageError(f"The database URL {name} cannot be used: {_words(error)}.") from None
    if kind == "sqlite":
        _set_up_sqlite(engine, read_only)
    return Database(engine, name, _key(url), Watch(engine, name))


def require_sqlalchemy() -> None:
    """See that the library is there.

    Raises:
        SetupError: it is not installed.
    """
    if importlib.util.find_spec("sqlalchemy") is None:
        raise SetupError("Databases need SQLAlchemy, which is not installed.", remedy=_remedy())


def explained(error: Exception, name: str, *, statement: bool = False) -> AudioBatchError:
    """What SQLAlchemy raised, as a sentence of ours; see `Database.translated`."""
    from sqlalchemy import exc

    reason = reason_of(error)
    if statement and _is_slip(error, reason):
        return UsageError(
            f"The database {name} does not take the query: {_ended(reason)}",
            remedy=_NO_RESULTS_YET if _is_missing_table(error, reason) else "",
        )
    if state_of(error) == _NO_RIGHT:
        return SetupError(
            f"The database {name} refuses: {_ended(reason)}", remedy="Grant it to the user."
        )
    if (state := state_of(error)) in _REMEDIES:
        remedy = _REMEDIES[state]
        if statement:
            remedy = f"{remedy} --timeout says how long it may take."
    elif name.startswith("sqlite"):
        remedy = "Check the file and its permissions."
    else:
        remedy = "See that it is running, and that host, user and password are right."
    reachable = not isinstance(error, exc.OperationalError | exc.InterfaceError | exc.TimeoutError)
    how = "refuses" if reachable else "cannot be used"
    return SetupError(f"The database {name} {how}: {_ended(reason)}", remedy=remedy)


def reason_of(error: Exception) -> str:
    """The driver's own words in one line, without the statement, its parameters or secrets."""
    return _words(getattr(error, "orig", None) or error)


def _ended(reason: str) -> str:
    """The end of a sentence of ours; some drivers ask a question."""
    return reason if reason.endswith("?") else f"{reason}."


def _is_missing_table(error: Exception, reason: str) -> bool:
    return state_of(error) == _NO_TABLE or "no such table" in reason


def _words(error: Exception) -> str:
    text = redact(for_terminal(str(error) or type(error).__name__)).strip().rstrip(".")
    return text if len(text) <= _LONGEST_REASON else f"{text[:_LONGEST_REASON]}…"


def _is_slip(error: Exception, reason: str) -> bool:
    """Whether the query is wrong rather than the database."""
    from sqlalchemy import exc

    if state_of(error) == _NO_RIGHT:
        return False
    if isinstance(error, exc.OperationalError):
        # SQLite has one error for slips of the query and for failures of the file.
        return any(slip in reason for slip in _SQLITE_SLIPS)
    if isinstance(error, exc.DBAPIError):
        written = state_of(error) == _READ_ONLY
        return written or isinstance(error, exc.ProgrammingError | exc.DataError)
    return isinstance(error, exc.StatementError | exc.ArgumentError | exc.InvalidRequestError)


def state_of(error: Exception) -> str | None:
    """PostgreSQL's SQLSTATE, where there is one."""
    return getattr(getattr(error, "orig", None), "sqlstate", None)


def _url(text: str) -> URL:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    whole = text
    # A port must be a number before it can be parsed; all of a URL may be one variable.
    if urls.names_variables(text) and "://" not in text:
        whole = urls.filled_in(text)
    try:
        url = make_url(urls.port_filled_in(whole))
    except (ArgumentError, ValueError):
        # Not what was given: it may be a password in the wrong place.
        raise UsageError(
            "The database URL cannot be understood.",
            remedy="Write it as postgresql://user:${PGPASSWORD}@host/database or "
            "sqlite:///file.db, and percent-encode what is special in a password.",
        ) from None
    url = url.set(drivername=_DRIVERS.get(url.drivername, url.drivername))
    for part in ("username", "password", "host", "database"):
        if (value := getattr(url, part)) is not None:
            given: dict[str, Any] = {part: urls.filled_in(str(value))}
            url = url.set(**given)
    query = {
        key: urls.filled_in(value) if isinstance(value, str) else value
        for key, value in url.query.items()
    }
    url = url.set(query=query)
    for secret in (url.password, url.query.get("password"), url.query.get("sslpassword")):
        if isinstance(secret, str):
            keep_secret(secret)
    return url


def _shown(url: URL) -> str:
    """The URL for people: neither password nor query, in which there may be another."""
    from sqlalchemy import URL

    bare = URL.create(url.get_backend_name(), url.username, None, url.host, url.port, url.database)
    return for_terminal(bare.render_as_string())


def _key(url: URL) -> str:
    """What two URLs of one database have in common: parameters say which host or schema it is."""
    text = _shown(url)
    if url.get_backend_name() == "sqlite" and not str(url.database).startswith("file:"):
        text = f"sqlite:///{Path(str(url.database)).absolute()}"
    query = sorted(
        f"{key}={value if isinstance(value, str) else ','.join(value)}"
        for key, value in url.query.items()
        if not urls.is_secret(key)
    )
    return "?".join([text, *(["&".join(query)] if query else [])])


def _arguments(url: URL) -> dict[str, Any]:
    kind = url.get_backend_name()
    if kind == "sqlite":
        return {"timeout": _LOCK_TIMEOUT_S}
    if kind == "postgresql" and url.get_driver_name().startswith("psycopg"):
        # A server behind a line that has gone silent is given up, not waited for.
        ours: dict[str, Any] = {
            "connect_timeout": CONNECT_TIMEOUT_S,
            "keepalives_idle": 30,
            "keepalives_interval": 10,
            "keepalives_count": 3,
            "tcp_user_timeout": 30_000,
            "application_name": "audio-batch",
            # A database of bytes (SQL_ASCII) has none of its own: texts would come as bytes.
            "client_encoding": "utf8",
        }
        if url.get_driver_name() == "psycopg":
            ours["prepare_threshold"] = None  # a pooler between may not know prepared statements
        return {key: value for key, value in ours.items() if key not in url.query}
    return {}


def _check_file(url: URL, name: str, must_exist: bool) -> None:
    path = url.database
    if not path or path == ":memory:":
        raise UsageError(f"{name} names no file.", remedy="Write it as sqlite:///folder/file.db.")
    if must_exist and not path.startswith("file:") and not Path(path).is_file():
        raise SetupError(f"There is no database file {for_terminal(path)}.")


def _set_up_sqlite(engine: Engine, read_only: bool) -> None:
    from sqlalchemy import event

    def connected(connection: Any, _record: Any) -> None:
        # Names of files may hold bytes that are no UTF-8: they travel as a manifest has them.
        connection.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
        if read_only:
            connection.execute("PRAGMA query_only=ON")

    event.listen(engine, "connect", connected)


def _remedy(kind: str = "postgresql") -> str:
    if kind in ("postgresql", "sqlite"):
        return f"{_MISSING}."
    if kind in _OTHERS:
        package, scheme = _OTHERS[kind]
        return f"pip install {package}, and write {scheme}://…"
    return f"Install SQLAlchemy's driver for {kind}."
