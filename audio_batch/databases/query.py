"""Rows of a query as entries of a manifest: streamed, never more of them at a time than a batch."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from audio_batch import locations
from audio_batch.databases.connecting import Database
from audio_batch.databases.silence import Limits
from audio_batch.errors import UsageError
from audio_batch.manifest_text import shown

if TYPE_CHECKING:
    from sqlalchemy import ClauseElement, Executable, Result, Row

_CAST = re.compile(r"(?<![:\w\\]):(\w+)(?=::)")
"""`:since::date`, which SQLAlchemy takes for no parameter unless a blank stands between."""

AT_ONCE = 1000
"""Rows that are fetched, and held, together."""

TIMEOUT_S = 3600.0
_GRACE_S = 3.0
"""What a server may take to say that the time was up."""


@dataclass(frozen=True, slots=True)
class Export:
    """What to ask for, and how a row becomes an entry.

    Args:
        query: SQL with `:name` for its parameters, or None.
        table: a table or view to be read whole, where there is no query: "name" or "schema.name".
        parameters: bound by the driver, never put into the text.
        columns: our field to the column that it is in; other columns keep their names.
        prefix: put before each uri that is no URL itself.
        timeout_s: how long the database may take for the first rows, and for the next ones.
    """

    query: str | None = None
    table: str | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)
    columns: Mapping[str, str] = field(default_factory=dict)
    prefix: str = ""
    timeout_s: float = TIMEOUT_S


def entries(database: Database, export: Export) -> Iterator[dict[str, Any]]:
    """The manifest's entry of each row, in the order of the rows; nothing in them is checked.

    An id or a uri that is an empty text is None, as NULL is.

    PostgreSQL keeps the rows behind a cursor of its own (as does MySQL), SQLite makes them one by
    one. What is sent may only read, on SQLite and PostgreSQL; nothing is committed anywhere.

    Raises:
        UsageError: the query, a parameter or a column's name is wrong.
        SetupError: the database cannot be reached, goes away in between, or takes too long.
    """
    statement = _statement(export)
    limits = Limits(statement_s=export.timeout_s, silence_s=export.timeout_s + _GRACE_S)
    with database.translated(statement=True), database.connected(limits) as connection:
        streamed = connection.execution_options(stream_results=True, yield_per=AT_ONCE)
        with database.watch.answered_within(limits.silence_s):
            rows = streamed.execute(statement, dict(export.parameters))
        if not rows.returns_rows:
            raise UsageError("The query returns no rows.", remedy="Give a SELECT.")
        names = _names(list(rows.keys()), export.columns)
        for row in _rows(rows, database, limits):
            entry = {name: plain(value) for name, value in zip(names, row, strict=True)}
            for name in ("id", "uri"):
                if entry.get(name) == "":  # an import's way to say NULL; a prefix alone is no place
                    entry[name] = None
            uri = entry.get("uri")
            if isinstance(uri, str) and export.prefix and not locations.scheme(uri):
                entry["uri"] = export.prefix + uri
            yield entry


def _rows(rows: Result[Any], database: Database, limits: Limits) -> Iterator[Row[Any]]:
    """Each row; while one is put to use, the database is not waited for."""
    while True:
        with database.watch.answered_within(limits.silence_s):
            part = rows.fetchmany(AT_ONCE)
        if not part:
            return
        yield from part


def _statement(export: Export) -> Executable:
    from sqlalchemy import bindparam, literal_column, select, table, text

    if export.query is None:
        assert export.table is not None
        schema, _, name = export.table.rpartition(".")
        # Quoted by SQLAlchemy where it is more than a plain name.
        return select(literal_column("*")).select_from(table(name, schema=schema or None))
    statement = text(_CAST.sub(r":\1 ", export.query))
    asked = set(_bound(statement))
    given = set(export.parameters)
    if missing := sorted(asked - given):
        raise UsageError(
            f"The query asks for {', '.join(f':{name}' for name in missing)}.",
            remedy=f"Give --param {missing[0]}=…, or write \\: where a colon is meant.",
        )
    if unknown := sorted(given - asked):
        raise UsageError(f"The query has no parameter :{unknown[0]}.")
    return statement.bindparams(*(bindparam(name, value=None) for name in asked))


def _bound(statement: ClauseElement) -> Iterator[str]:
    yield from statement.compile().params


def _names(columns: list[str], mapped: Mapping[str, str]) -> list[str]:
    """Our name of each column.

    Raises:
        UsageError: a mapped column is not there, or two columns would have one name.
    """
    for ours, column in mapped.items():
        if columns.count(column) != 1:
            has = "has no" if column not in columns else "has more than one"
            listed = ", ".join(shown(name) for name in columns[:50])
            raise UsageError(
                f"--map {ours}={column}: the query {has} column {shown(column)}.",
                remedy=f"Its columns: {listed}.",
            )
    ours_of = {column: ours for ours, column in mapped.items()}
    names = [ours_of.get(column, column) for column in columns]
    # `--map id=uuid` beside a column that is called id: the mapped one is meant.
    names = [
        f"{name}_column" if name in mapped and column != mapped[name] else name
        for name, column in zip(names, columns, strict=True)
    ]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(
            f"The query has two columns {shown(twice[0])}.",
            remedy="Name the columns that you need, each once: SELECT a.uuid, a.s3_key AS uri.",
        )
    return names


def plain(value: Any) -> Any:
    """A database's value as JSON has it.

    Dates and times are ISO 8601, intervals seconds, UUIDs and other things text, bytes hexadecimal;
    what is no number (NaN, infinity) is null.
    """
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else None
        case Decimal():
            if not value.is_finite():
                return None
            return int(value) if value == value.to_integral_value() else float(value)
        case datetime() | date() | time():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case bytes() | bytearray() | memoryview():
            return bytes(value).hex()
        case list() | tuple() | set() | frozenset():
            return [plain(one) for one in value]
        case dict():
            return {str(key): plain(one) for key, one in value.items()}
        case _:
            return str(value)


def line(entry: Mapping[str, Any]) -> bytes:
    """An entry as a line of JSON Lines; what no encoding takes is escaped."""
    return json.dumps(entry, ensure_ascii=True).encode("ascii") + b"\n"


def parse_parameters(texts: list[str]) -> dict[str, str]:
    """Read what stands after `--param`: a name, `=`, a value.

    Raises:
        UsageError: a text is not of this form, or gives one name twice.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not re.fullmatch(r"\w+", name) or name in found:
            raise UsageError(
                f"--param {shown(text)} cannot be read, or is given twice.",
                remedy="Write it as name=value, and :name in the query.",
            )
        found[name] = value
    return found
