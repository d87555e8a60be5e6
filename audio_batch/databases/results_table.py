"""The table of results: its columns, its version, and the upsert that fills it.

One row for each asset and scope, which is the output location's text. The tables are made where
they are not there; a table of an older version gets the columns that it lacks. See
docs/databases.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from audio_batch.databases.connecting import Database
from audio_batch.databases.silence import Limits
from audio_batch.errors import SetupError, UsageError
from audio_batch.journal_outbox import Undelivered

if TYPE_CHECKING:
    from sqlalchemy import Connection, Insert, MetaData, Table

DEFAULT_TABLE = "audio_batch_results"
META_TABLE = "audio_batch_schema"
VERSION = 2
"""Of the table's columns. 2 added `journal_id`."""

LIMITS = Limits(lock_s=60, statement_s=120, silence_s=600)
"""Of writing a batch; whoever has the table locked for longer is not waited for."""

_GRACE_S = 3.0
"""What a server may take to say that the time was up."""

DIALECTS = ("sqlite", "postgresql")
"""Those with an upsert that leaves newer rows alone."""

_NAME = re.compile(r"(?:[A-Za-z_][A-Za-z0-9_]{0,62}\.)?[A-Za-z_][A-Za-z0-9_]{0,62}")

Row = dict[str, Any]


class ResultsTable:
    """A table of results in a database.

    Args:
        limits: how long a transaction may take.

    Raises:
        UsageError: its name is no plain one, or the database is one of another kind.
    """

    def __init__(
        self, database: Database, name: str = DEFAULT_TABLE, limits: Limits = LIMITS
    ) -> None:
        check(database, name)
        self.database = database
        self.name = name
        self._limits = limits
        self._table, self._meta = _tables(name)
        self._upsert = _upsert(self._table, database.dialect)

    def prepare(self) -> bool:
        """See that the table is there, with every column; whether it had to be made.

        Raises:
            SetupError: a newer version of the program has made it, or the database is silent.
            sqlalchemy.exc.SQLAlchemyError: the database cannot be reached, or refuses.
        """
        from sqlalchemy import inspect, select

        limits = replace(self._limits, silence_s=self._limits.statement_s + _GRACE_S)
        with self.database.begun(limits) as connection:
            if connection.dialect.name == "postgresql":
                # Of several runs that begin at once, one makes the tables.
                connection.exec_driver_sql(
                    "SELECT pg_advisory_xact_lock(hashtext('audio_batch_schema'))"
                )
            inspector = inspect(connection)
            there = inspector.has_table(self._table.name, schema=self._table.schema)
            version = None
            if inspector.has_table(self._meta.name, schema=self._meta.schema):
                version = connection.execute(
                    select(self._meta.c.version).where(self._meta.c.table_name == self._table.name)
                ).scalar()
                if version is not None and version > VERSION:
                    raise SetupError(
                        f"The table {self.name} in {self.database.shown} was made by a newer "
                        f"audio-batch (version {version}).",
                        remedy="Upgrade audio-batch, or give another --results-table.",
                    )
            self._table.metadata.create_all(connection)
            if there:
                self._add_columns(connection)
            if version == VERSION:
                return not there
            meta = self._meta
            connection.execute(meta.delete().where(meta.c.table_name == self._table.name))
            connection.execute(meta.insert(), {"table_name": self._table.name, "version": VERSION})
            return not there

    def _add_columns(self, connection: Connection) -> None:
        """Columns that came after version 1 may be empty: older rows do not have them."""
        from sqlalchemy import inspect
        from sqlalchemy.schema import CreateColumn

        known = inspect(connection).get_columns(self._table.name, schema=self._table.schema)
        names = {column["name"] for column in known}
        quoted = connection.dialect.identifier_preparer.format_table(self._table)
        for column in self._table.columns:
            if column.name not in names:
                added = CreateColumn(column).compile(dialect=connection.dialect)
                connection.exec_driver_sql(f"ALTER TABLE {quoted} ADD COLUMN {added}")

    def write(self, rows: Sequence[Row]) -> None:
        """Insert or update rows, all or none; committed when this returns.

        Of one journal the outcome that comes last stands; one of another journal is left as it is
        where its outcome is newer.

        Raises:
            SetupError: the database is silent.
            sqlalchemy.exc.SQLAlchemyError: the database cannot be reached, or refuses.
        """
        stamped = datetime.now(UTC)
        with self.database.begun(self._limits) as connection:
            connection.execute(self._upsert, [{**row, "updated_at": stamped} for row in rows])


def check(database: Database, name: str) -> None:
    """Refuse what cannot hold results.

    Raises:
        UsageError: the table's name is no plain one, or the database is one of another kind.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            "--results-table is no plain name.",
            remedy="Use letters, digits and underscores, as results or reports.results.",
        )
    if database.dialect not in DIALECTS:
        raise UsageError(
            f"--results-db: results are written to SQLite and PostgreSQL, not to "
            f"{database.dialect}.",
            remedy="`manifest from-sql` reads others, too.",
        )


def row_of(item: Undelivered, scope: str, journal_id: str) -> Row:
    """The row of an asset, as the journal has it."""
    entry = item.entry
    outputs = [
        {
            "format": output.format,
            "path": output.path,
            "size_bytes": output.size_bytes,
            "sha256": output.sha256,
        }
        for output in entry.published
    ]
    row = {
        "asset_id": entry.asset_id,
        "scope": scope,
        "name": entry.name,
        "state": entry.state.value,
        "error_kind": entry.error_kind.value if entry.error_kind else None,
        "error_text": entry.error_text,
        "source": entry.source,
        "language": entry.language,
        "duration_s": entry.duration_s,
        "speech_s": entry.speech_s,
        "outputs": outputs,
        "missing": list(entry.missing),
        "notes": list(entry.notes),
        "suspicions": list(entry.suspicions),
        "device": entry.device,
        "attempts": entry.attempts,
        "timings_s": entry.timings_s,
        "started_at": _moment(entry.started_at),
        "finished_at": _moment(entry.finished_at),
        "fingerprint": entry.fingerprint,
        "program": f"audio-batch {item.version}".strip(),
        "run_id": entry.run_id,
        "journal_id": journal_id,
    }
    return {column: clean(value) for column, value in row.items()}


def clean(value: Any) -> Any:
    """Texts as every database takes them: PostgreSQL has no NUL, UTF-8 no lone surrogate."""
    if isinstance(value, str):
        if value.isascii():
            return value.replace("\0", "\N{REPLACEMENT CHARACTER}")
        text = value.replace("\0", "\N{REPLACEMENT CHARACTER}")
        return text.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, Mapping):
        return {clean(key): clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [clean(item) for item in value]
    return value


def statements(dialect: str, name: str = DEFAULT_TABLE) -> str:
    """The SQL that makes the tables, for people who make them themselves.

    Raises:
        UsageError: it is none of `DIALECTS`, or the name is no plain one.
    """
    from sqlalchemy.dialects import postgresql, sqlite
    from sqlalchemy.schema import CreateTable

    if dialect not in DIALECTS:
        raise UsageError(f"The dialects are {' and '.join(DIALECTS)}.")
    if not _NAME.fullmatch(name):
        raise UsageError("The table's name is no plain one.")
    chosen = {"sqlite": sqlite.dialect, "postgresql": postgresql.dialect}[dialect]()
    table, meta = _tables(name)
    made = [f"{str(CreateTable(one).compile(dialect=chosen)).strip()};\n" for one in (table, meta)]
    quoted = chosen.identifier_preparer.format_table(meta)
    return "\n".join(made) + f"\nINSERT INTO {quoted} VALUES ('{table.name}', {VERSION});\n"


def _moment(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def _tables(name: str) -> tuple[Table, Table]:
    from sqlalchemy import JSON, Column, DateTime, Double, Integer, MetaData, Table, Text
    from sqlalchemy.dialects.postgresql import JSONB

    json_text = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
    moment = DateTime(timezone=True)
    schema, _, plain_name = name.rpartition(".")
    metadata: MetaData = MetaData(schema=schema or None)
    results = Table(
        plain_name,
        metadata,
        Column("asset_id", Text, primary_key=True),
        Column("scope", Text, primary_key=True),
        Column("name", Text),
        Column("state", Text),
        Column("error_kind", Text),
        Column("error_text", Text),
        Column("source", Text),
        Column("language", Text),
        Column("duration_s", Double),
        Column("speech_s", Double),
        Column("outputs", json_text),
        Column("missing", json_text),
        Column("notes", json_text),
        Column("suspicions", json_text),
        Column("device", Text),
        Column("attempts", Integer),
        Column("timings_s", json_text),
        Column("started_at", moment),
        Column("finished_at", moment),
        Column("fingerprint", Text),
        Column("program", Text),
        Column("run_id", Integer),
        Column("updated_at", moment),
        Column("journal_id", Text),
    )
    meta = Table(
        META_TABLE,
        metadata,
        Column("table_name", Text, primary_key=True),
        Column("version", Integer, nullable=False),
    )
    return results, meta


def _upsert(table: Table, dialect: str) -> Insert:
    from sqlalchemy import or_
    from sqlalchemy.dialects import postgresql, sqlite

    insert = postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)
    keys = [column.name for column in table.primary_key]
    new = insert.excluded
    return insert.on_conflict_do_update(
        index_elements=keys,
        set_={column.name: new[column.name] for column in table.columns if column.name not in keys},
        # What a machine delivers late must not undo what another has done since. One journal tells
        # in order, and its clock may have been set back.
        where=or_(
            table.c.finished_at.is_(None),
            new.finished_at >= table.c.finished_at,
            new.journal_id == table.c.journal_id,
        ),
    )
