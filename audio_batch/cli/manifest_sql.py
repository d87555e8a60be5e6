"""`audio-batch manifest from-sql`: a manifest out of a database's query."""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

_REPLACED = (".jsonl", ".ndjson", ".json")
_CONNECTION, _ENTRIES = "Database", "Entries"
_NAMED = 1000
"""Rows that cannot be used are named, up to so many."""


def from_sql(
    out: Annotated[
        str, typer.Option("--out", "-o", metavar="FILE", help="The manifest; - is stdout.")
    ],
    url: Annotated[
        str | None,
        typer.Option(
            "--url",
            help="postgresql://user:${PGPASSWORD}@host/db, sqlite:///file.db, or another that "
            "SQLAlchemy knows \\[AUDIO_BATCH_DATABASE_URL].",
            envvar="AUDIO_BATCH_DATABASE_URL",
            show_envvar=False,
            show_default=False,
            rich_help_panel=_CONNECTION,
        ),
    ] = None,
    query: Annotated[
        str | None,
        typer.Option("--query", help="SQL, with :name for a --param.", rich_help_panel=_CONNECTION),
    ] = None,
    query_file: Annotated[
        Path | None,
        typer.Option("--query-file", help="A file that holds it.", rich_help_panel=_CONNECTION),
    ] = None,
    table: Annotated[
        str | None,
        typer.Option("--table", help="A whole table or view.", rich_help_panel=_CONNECTION),
    ] = None,
    param: Annotated[
        list[str] | None,
        typer.Option(
            "--param", metavar="NAME=VALUE", help="Repeatable.", rich_help_panel=_CONNECTION
        ),
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(
            "--map",
            metavar="OURS=COLUMN,…",
            help="Our fields and the columns they are in: id=uuid,uri=s3_key.",
            rich_help_panel=_ENTRIES,
        ),
    ] = None,
    prefix: Annotated[
        str,
        typer.Option(
            "--prefix",
            help="Put before each uri that is no URL itself: s3://bucket/.",
            show_default=False,
            rich_help_panel=_ENTRIES,
        ),
    ] = "",
    timeout: Annotated[
        str,
        typer.Option(
            "--timeout",
            metavar="TIME",
            help="Longest time for an answer of PostgreSQL: 90s, 10m, 2h.",
            rich_help_panel=_CONNECTION,
        ),
    ] = "1h",
    skip_invalid: Annotated[
        bool,
        typer.Option(
            "--skip-invalid",
            help="Leave out rows that make no entry, name them, and exit 3.",
            rich_help_panel=_ENTRIES,
        ),
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite FILE though it is no .json or .jsonl.")
    ] = False,
) -> int:
    """Make a manifest of a query's rows, as JSON Lines.

    Columns that are not mapped keep their names: a column that is named as a field of a manifest is
    that field, any other travels into the transcript's metadata. Each row is checked as `manifest
    check` would; a row that is wrong ends it with exit code 4, and nothing is written.
    """
    from audio_batch.databases import connecting
    from audio_batch.databases.query import Export, entries, line, parse_parameters
    from audio_batch.databases.row_checking import RowChecks
    from audio_batch.errors import ExitCode, UsageError
    from audio_batch.time_limits import parse_duration_s

    if url is None:
        raise UsageError(
            "No database is named.", remedy="Give --url, or set AUDIO_BATCH_DATABASE_URL."
        )
    if sum(one is not None for one in (query, query_file, table)) != 1:
        raise UsageError("Give either --query, --query-file or --table.")
    if param and table is not None:
        raise UsageError("--param is for --query and --query-file.")
    export = Export(
        query=_read(query_file) if query_file is not None else query,
        table=table,
        parameters=parse_parameters(param or []),
        columns=_mapped(columns),
        prefix=prefix,
        timeout_s=parse_duration_s(timeout, "--timeout"),
    )
    target = _target(out, force)
    database = connecting.opened(url, must_exist=True, read_only=True)
    checks = RowChecks(str(target.parent if target else Path.cwd()))
    count, refused = 0, _Refused(told_at_once=skip_invalid)
    try:
        with _whole(target) as file:
            for number, entry in enumerate(entries(database, export), start=1):
                if problems := checks.problems(number, entry):
                    refused.add(problems)
                elif skip_invalid or not refused.rows:
                    file.write(line(entry))
                    count += 1
            refused.end()
    finally:
        database.close()
    left_out = f", {_rows(refused.rows)} left out" if refused.rows else ""
    _say(f"{count} asset{'' if count == 1 else 's'} written to {out}{left_out}.")
    return ExitCode.SOME_FAILED if refused.rows else ExitCode.OK


class _Refused:
    """Rows of which no entry can be made; some are named, all are counted.

    Args:
        told_at_once: they are named as they come, and are no error.
    """

    def __init__(self, *, told_at_once: bool) -> None:
        self.rows = 0
        self._told_at_once = told_at_once
        self._problems: list[str] = []

    def add(self, problems: list[str]) -> None:
        """Take down what is wrong with a row."""
        self.rows += 1
        if self.rows > _NAMED:
            return
        if self._told_at_once:
            for text in problems:
                _say(f"Left out: {text}")
        else:
            self._problems += problems

    def end(self) -> None:
        """All rows have come.

        Raises:
            ManifestError: some cannot be used, and are not to be left out.
        """
        from audio_batch.errors import ManifestError

        more = [f"and {_rows(self.rows - _NAMED)} more"] if self.rows > _NAMED else []
        if self._told_at_once:
            for text in more:
                _say(text)
        elif self.rows:
            raise ManifestError(
                f"{_rows(self.rows)} of the query cannot be used.",
                problems=[*self._problems, *more],
                remedy="Mend them, give --map, or leave them out by --skip-invalid; nothing was "
                "written.",
            )


def _rows(count: int) -> str:
    return f"{count} row{'' if count == 1 else 's'}"


def _say(text: str) -> None:
    from audio_batch.text import for_terminal, redact

    print(for_terminal(redact(text)), file=sys.stderr)


def _mapped(text: str | None) -> dict[str, str]:
    from audio_batch.errors import UsageError
    from audio_batch.manifest import FIELDS, is_own_field
    from audio_batch.manifest_text import shown

    found: dict[str, str] = {}
    for part in (text or "").split(",") if text else ():
        ours, equals, column = (piece.strip() for piece in part.partition("="))
        if not (equals and ours and column) or ours in found:
            raise UsageError(
                f"--map {shown(part)} cannot be read, or maps a field twice.",
                remedy="Write it as ours=column,ours=column: id=uuid,uri=s3_key.",
            )
        if not is_own_field(ours) or ours == "position":
            raise UsageError(
                f"--map {shown(part)}: {shown(ours)} is no field of a manifest.",
                remedy=f"Known: {', '.join(sorted(FIELDS))}. Other columns need not be mapped.",
            )
        found[ours] = column
    return found


def _read(file: Path) -> str:
    from audio_batch.errors import UsageError

    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8"
        raise UsageError(f"{file} cannot be read: {reason}.") from error


def _target(out: str, force: bool) -> Path | None:
    from audio_batch.errors import UsageError
    from audio_batch.text import for_terminal

    if out == "-":
        return None
    target = Path(out).expanduser().absolute()
    if target.exists() and not (target.is_file() and (force or target.suffix.lower() in _REPLACED)):
        remedy = "Choose another name." if target.is_dir() else "Add --force to overwrite it."
        raise UsageError(f"{for_terminal(str(target))} is there already.", remedy=remedy)
    return target


@contextlib.contextmanager
def _whole(target: Path | None) -> Iterator[BinaryIO]:
    """The file to write to: at its end it is `target`, whole; after an error nothing has changed.

    Raises:
        SetupError: it cannot be written.
    """
    from audio_batch.errors import SetupError
    from audio_batch.storage import TEMPORARY_PREFIX, move_over, sync_folder

    if target is None:
        yield sys.stdout.buffer
        return
    temporary = target.parent / f"{TEMPORARY_PREFIX}{os.getpid()}-{secrets.token_hex(6)}"
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        move_over(temporary, target)
        sync_folder(target.parent)
    except OSError as error:
        raise SetupError(
            f"{target} cannot be written: {error.strerror or error}.",
            remedy="Check the folder, its permissions and its space.",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
