"""`examples/databases/`, as its README says, with SQLite and with PostgreSQL."""

from __future__ import annotations

import json
import re
import sqlite3
from pathlib import Path

import pytest
from backends import Backend, SqliteFile
from postgres_server import Postgres
from program import PROJECT
from shipped import EXAMPLES, NULL, copied, ended, install, needs_posix, with_path

from audio_batch.cli import run_app
from audio_batch.databases.results_table import DEFAULT_TABLE, VERSION, statements

DOCUMENT = (PROJECT / "docs" / "databases.md").read_text(encoding="utf-8")


@needs_posix
def test_two_nights(tmp_path: Path) -> None:
    folder = copied(tmp_path / "examples") / "databases"
    archive = SqliteFile(folder / "archive.db")
    with sqlite3.connect(archive.path) as db:
        db.executescript((folder / "assets.sql").read_text(encoding="utf-8"))
    env = with_path(install(tmp_path / "bin").parent, **NULL)
    answer = ended(["sh", "night.sh", "3", "--device", "cpu", "-f", "json"], folder, env)
    assert answer.code == 0, answer.err
    report = (folder / "report.sql").read_text(encoding="utf-8")
    rows = archive.ask(report)
    assert {title: state for _, title, state, *_ in rows} == {
        "A phone number": "done",
        "The door code": "done",
        "The lottery": "done",
        "Not ours": "not begun",
    }
    ids = {uuid for uuid, _, state, *_ in rows if state == "done"}
    assert {path.stem for path in (folder / "out").glob("*-*.json")} == ids
    some = json.loads(next((folder / "out").glob("*0002.json")).read_text(encoding="utf-8"))
    assert some["metadata"]["title"] == some["name"] == "The door code"

    answer = ended(["sh", "night.sh"], folder, env)
    assert answer.code == 0, answer.err
    assert "0 assets written" in answer.err
    assert archive.ask(report) == rows


def test_the_queries_do_in_postgresql(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in postgres.environment.items():
        monkeypatch.setenv(name, value)
    folder = EXAMPLES / "databases"
    made = re.sub("--.*", "", (folder / "assets.sql").read_text(encoding="utf-8"))
    postgres.do(*filter(str.strip, made.split(";\n")))
    asked = ["manifest", "from-sql", "--url", postgres.url(), "--param", "shelf=3"]
    asked += ["--query-file", str(folder / "new.sql"), "--out", str(tmp_path / "new.jsonl")]
    assert run_app(["results", "create", "--results-db", postgres.url()]) == 0
    for left in (3, 2):
        assert run_app(asked) == 0
        lines = (tmp_path / "new.jsonl").read_text(encoding="ascii").splitlines()
        assert len(lines) == left
        entry = json.loads(lines[-1])
        assert (entry["name"], entry["uri"]) in (
            *(("The lottery", "lottery.mp4"), ("The door code", "door_code.mp3")),
        )
        postgres.do(
            "INSERT INTO audio_batch_results (asset_id, scope, state)"
            f" VALUES ('{entry['id']}', '/out', 'done')"
        )
    report = (folder / "report.sql").read_text(encoding="utf-8")
    assert [state for _, _, state, *_ in postgres.ask(report)].count("done") == 2


def test_the_documented_columns_are_those_of_the_table() -> None:
    table = DOCUMENT.partition("| column |")[2].partition("\n\n")[0]
    documented = [
        name for row in table.splitlines()[2:] for name in re.findall("`(.*?)`", row.split("|")[1])
    ]
    made = statements("postgresql").partition(f"TABLE {DEFAULT_TABLE} (")[2].partition("PRIMARY")[0]
    assert documented == re.findall(r"^\s(\w+) ", made, re.M)
    assert f"It is {VERSION}." in DOCUMENT


QUERIES = re.findall(r"SELECT a\.[^;]*;", DOCUMENT)


@pytest.mark.parametrize(
    "query", [*QUERIES, "cron/nightly.sql", "windows/nightly.sql", "databases/report.sql"]
)
def test_the_queries_take_the_last_outcome_of_any_folder(backend: Backend, query: str) -> None:
    """Of ids that are no texts, after the output folder was moved: one row an asset."""
    if query.endswith(".sql"):
        query = (EXAMPLES / query).read_text(encoding="utf-8")
    ids = [f"0b0c8f3e-55a2-4a9d-9f0e-8f6a3c1d000{number}" for number in range(5)]
    kind = "CHAR(36)" if isinstance(backend, SqliteFile) else "UUID"
    backend.do(f"CREATE TABLE assets (uuid {kind} PRIMARY KEY, s3_key TEXT, title TEXT)")
    for uuid in ids:
        backend.do(f"INSERT INTO assets VALUES ('{uuid}', 'a.wav', '{uuid[-1]}')")
    backend.do(*filter(str.strip, statements(backend_dialect(backend)).split(";\n")))
    for number, scope, state, finished, updated in (
        (0, "/old", "done", 1, 1),
        (0, "/new", "done", 1, 3),  # told anew after the move
        (1, "/old", "done", 1, 1),
        (1, "/new", "failed", 2, 2),
        (2, "/old", "failed", 1, 4),  # what was late has not the last word
        (2, "/new", "done", 2, 2),
        (3, "/old", "quarantined", 1, 1),
    ):
        backend.do(
            f"INSERT INTO {DEFAULT_TABLE} (asset_id, scope, state, finished_at, updated_at)"
            f" VALUES ('{ids[number]}', '{scope}', '{state}',"
            f" '2026-11-0{finished} 00:00:00', '2026-11-0{updated} 00:00:00')"
        )
    rows = backend.ask(query)
    if "s3_key" in query:
        assert {str(uuid) for uuid, *_ in rows} == {ids[1], ids[4]}
        return
    told = [tuple(value for value in row if str(value) not in ids)[:2] for row in rows]
    last = "not begun" if "not begun" in query else None
    assert sorted(told, key=lambda row: row[0]) == [
        *(("0", "done"), ("1", "failed"), ("2", "done"), ("3", "quarantined"), ("4", last)),
    ]


def backend_dialect(backend: Backend) -> str:
    return "sqlite" if isinstance(backend, SqliteFile) else "postgresql"
