"""`examples/databases/`, as its README says, with SQLite and with PostgreSQL."""

from __future__ import annotations

import json
import re
import sqlite3
from pathlib import Path

import pytest
from backends import SqliteFile
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
