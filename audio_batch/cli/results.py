"""`audio-batch results create | push | show-schema`: the table of results, without a run."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from audio_batch.cli import remote_options as remote
from audio_batch.cli.option import opt

app = typer.Typer(
    name="results",
    help="The table of results in a database (--results-db of a run).",
    no_args_is_help=True,
)


class Dialect(StrEnum):
    """The databases that results are written to."""

    POSTGRESQL = "postgresql"
    SQLITE = "sqlite"


_ResultsDb = Annotated[
    str | None,
    opt(
        "The database of the table (SQLAlchemy URL) \\[push: the last run's].",
        "--results-db",
        panel="Database",
    ),
]


@app.command("create")
def create(results_db: _ResultsDb = None, results_table: remote.ResultsTable = None) -> None:
    """Make the table where it is not there, before the first night's query asks it."""
    from audio_batch.databases import connecting, urls
    from audio_batch.databases.results_table import DEFAULT_TABLE, ResultsTable
    from audio_batch.errors import UsageError

    if results_db is None:
        raise UsageError("No database is named.", remedy="Give --results-db.")
    database = connecting.opened(urls.absolute(results_db, Path()))
    try:
        table = ResultsTable(database, results_table or DEFAULT_TABLE)
        with database.translated():
            is_new = table.prepare()
    finally:
        database.close()
    done = "was made" if is_new else "was there already"
    print(f"The table {table.name} {done}.", file=sys.stderr)


@app.command("push")
def push(
    output_dir: Annotated[str, typer.Argument(help="The --output-dir of a run.")],
    state_dir: remote.StateDir = None,
    shard: remote.Shard = None,
    results_db: _ResultsDb = None,
    results_table: remote.ResultsTable = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Also what has been written already.")
    ] = False,
) -> int:
    """Write results that a run could not, to the database of the last run or another.

    Exit code 5: the database cannot be written to; 3: it has refused some.
    """
    from audio_batch.databases import delivery, urls
    from audio_batch.errors import ExitCode, SetupError, UsageError
    from audio_batch.journal import Journal
    from audio_batch.output_folder import OutputFolder
    from audio_batch.request import Request
    from audio_batch.text import for_terminal, redact

    def say(text: str, **_: object) -> None:
        print(for_terminal(redact(text)), file=sys.stderr)

    folder = OutputFolder.at(output_dir, state_dir=state_dir, shard=shard)
    folder.require()
    with folder.locked():
        journal = Journal(folder.journal_path)
        try:
            runs = (journal.last_run(idle=False), journal.last_run())
            named = (Request.from_json(run.request).settings for run in runs if run is not None)
            asked = next((one for one in named if one.results_db is not None), None)
            url = results_db or (asked.results_db if asked is not None else None)
            table = results_table or (asked.results_table if asked is not None else None)
            if url is None:
                raise UsageError(
                    "No run of this folder names a database.", remedy="Give --results-db."
                )
            due = delivery.opened(
                journal.outbox,
                url=urls.absolute(url, Path()),  # as a run names it
                table=table,
                location=folder.where,
                notice=say,
            )
            try:
                if everything:
                    journal.outbox.fill()
                before = journal.outbox.count()
                left = due.finish()
            finally:
                due.close()
        finally:
            journal.close()
    say(f"{before - left} results written, {left} left.")
    if left > len(due.refused):
        raise SetupError("Not all results could be written.", remedy="Run it again later.")
    return ExitCode.SOME_FAILED if left else ExitCode.OK


@app.command("show-schema")
def show_schema(
    dialect: Annotated[
        Dialect, typer.Option("--dialect", help="The kind of database.")
    ] = Dialect.POSTGRESQL,
    results_table: remote.ResultsTable = None,
) -> None:
    """Print the SQL that makes the table, for accounts that may not make it themselves."""
    from audio_batch.databases.connecting import require_sqlalchemy
    from audio_batch.databases.results_table import DEFAULT_TABLE, statements

    require_sqlalchemy()
    sys.stdout.write(statements(dialect.value, results_table or DEFAULT_TABLE))
