"""`manifest from-sql` against a real SQLite and a real PostgreSQL."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from backends import ARCHIVE, Backend, SqliteFile, filled
from postgres_server import PASSWORD, Muffler, Postgres
from program import environment

from audio_batch.cli import run_app
from audio_batch.databases.query import AT_ONCE

NASTY = "x'); DROP TABLE assets; --"


@pytest.fixture(autouse=True)
def variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AUDIO_BATCH_DATABASE_URL", raising=False)
    for name, value in Postgres.environment.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def export(tmp_path: Path) -> Callable[..., tuple[int, list[dict[str, Any]]]]:
    """Run `from-sql`: its exit code, and the manifest's entries."""

    def run(backend: Backend, *arguments: str) -> tuple[int, list[dict[str, Any]]]:
        out = tmp_path / "m.jsonl"
        code = run_app(
            ["manifest", "from-sql", "--url", backend.url(), "--out", str(out), *arguments]
        )
        lines = out.read_text(encoding="ascii").splitlines() if out.exists() else []
        return code, [json.loads(line) for line in lines]

    return run


Run = Callable[..., tuple[int, list[dict[str, Any]]]]


def test_rows_become_entries(backend: Backend, export: Run) -> None:
    filled(backend, [("u-2", "b.wav"), ("u-1", "a.wav"), ("u-3", "https://host/c.wav")])
    code, entries = export(
        backend,
        *("--query", "SELECT * FROM assets WHERE shelf = :shelf ORDER BY uuid"),
        *("--param", "shelf=3", "--map", "id=uuid, uri=s3_key", "--prefix", "s3://bucket/in/"),
    )
    assert code == 0
    assert [entry["uri"] for entry in entries] == [
        *("s3://bucket/in/a.wav", "s3://bucket/in/b.wav"),
        "https://host/c.wav",
    ]
    first = entries[0]
    assert first["id"].strip() == "u-1"  # PostgreSQL pads CHAR
    assert {key: value for key, value in first.items() if key not in ("id", "uri")} == {
        "title": "Title of a.wav",
        "shelf": 3,
        "recorded": "2026-11-12",
    }


def test_a_table_is_read_whole(backend: Backend, export: Run) -> None:
    filled(backend, [(f"u-{n:03d}", f"{n}.wav") for n in range(5)])
    code, entries = export(backend, "--table", "assets", "--map", "id=uuid,uri=s3_key")
    assert (code, len(entries)) == (0, 5)


def test_no_rows_are_an_empty_manifest(backend: Backend, export: Run) -> None:
    backend.do(ARCHIVE)
    assert export(backend, "--table", "assets") == (0, [])


def test_a_table_in_a_schema(postgres: Postgres, export: Run) -> None:
    postgres.do(
        "CREATE SCHEMA reports", 'CREATE TABLE reports."Odd Name" (id TEXT, uri TEXT)',
        "INSERT INTO reports.\"Odd Name\" VALUES ('1', 'a.wav')",
    )  # fmt: skip
    code, entries = export(postgres, "--table", "reports.Odd Name")
    assert (code, entries) == (0, [{"id": "1", "uri": "a.wav"}])


@pytest.mark.parametrize(
    "arguments",
    [
        ("--query", "SELECT * FROM assets WHERE s3_key = :key", "--param", f"key={NASTY}"),
        ("--table", "assets; DROP TABLE assets"),
        ("--table", 'assets"; DROP TABLE assets; --'),
        ("--query", "SELECT * FROM assets", "--map", 'id=uuid,uri=s3_key"; DROP TABLE assets'),
        ("--query", "SELECT * FROM assets", "--param", "x) = 1; DROP TABLE assets; --=1"),
    ],
)
def test_nothing_of_a_parameter_or_name_is_run(
    backend: Backend, export: Run, arguments: tuple[str, ...]
) -> None:
    filled(backend, [("u-1", "a.wav")])
    code, entries = export(backend, *arguments)
    assert (code, entries) in ((0, []), (2, []))
    assert backend.ask("SELECT count(*) FROM assets") == [(1,)]


def test_what_looks_like_sql_in_a_row_is_text(backend: Backend, export: Run) -> None:
    backend.do(ARCHIVE)
    quoted = NASTY.replace("'", "''")
    backend.do(f"INSERT INTO assets (uuid, s3_key) VALUES ('{quoted}', '{quoted}')")
    code, entries = export(backend, "--table", "assets", "--map", "id=uuid,uri=s3_key")
    assert code == 0
    assert (entries[0]["id"].strip(), entries[0]["uri"]) == (NASTY, NASTY)


@pytest.mark.parametrize(
    "query",
    [
        "DELETE FROM assets",
        "DELETE FROM assets RETURNING uuid, s3_key",
        "DROP TABLE assets",
        "SELECT 1; DELETE FROM assets",
        "UPDATE assets SET shelf = 4 RETURNING *",
    ],
)
def test_a_query_can_only_read(
    backend: Backend, export: Run, capsys: pytest.CaptureFixture[str], query: str
) -> None:
    filled(backend, [("u-1", "a.wav")])
    assert export(backend, "--query", query) == (2, [])
    assert backend.ask("SELECT shelf FROM assets") == [(3,)]
    assert "Traceback" not in capsys.readouterr().err


def test_nor_does_what_it_calls_write(postgres: Postgres, export: Run) -> None:
    """A sequence would keep what a rolled back transaction has taken of it."""
    postgres.do("CREATE SEQUENCE counter")
    assert export(postgres, "--query", "SELECT nextval('counter') AS id, 'a.wav' AS uri") == (2, [])
    assert postgres.ask("SELECT nextval('counter')") == [(1,)]


def test_values_of_postgresql(postgres: Postgres, export: Run) -> None:
    code, entries = export(
        postgres,
        "--query",
        "SELECT 'a.wav' AS uri, '6f9619ff-8b86-d011-b42d-00c04fc964ff'::uuid AS id, 1.50 AS price,"
        " 7::numeric AS seven, 'NaN'::float AS none, true AS heard, NULL AS nothing,"
        " '2026-11-12 10:00+00'::timestamptz AS at, '00:01:30'::interval AS length,"
        " ARRAY['x', NULL] AS tags, '{\"a\": [1]}'::jsonb AS facts, '\\xff00'::bytea AS raw,"
        " 'B\u00e4r' AS bear, 9223372036854775807 AS big",
    )
    assert code == 0
    assert entries == [
        {
            "uri": "a.wav",
            "id": "6f9619ff-8b86-d011-b42d-00c04fc964ff",
            "price": 1.5,
            "seven": 7,
            "none": None,
            "heard": True,
            "nothing": None,
            "at": entries[0]["at"],
            "length": 90.0,
            "tags": ["x", None],
            "facts": {"a": [1]},
            "raw": "ff00",
            "bear": "B\u00e4r",
            "big": 2**63 - 1,
        }
    ]
    assert entries[0]["at"].startswith("2026-11-12T")


def test_names_that_are_no_utf8_travel_as_they_are(tmp_path: Path, export: Run) -> None:
    code, entries = export(
        SqliteFile(tmp_path / "made.db"), "--query", "SELECT 1 AS id, 'a' AS uri"
    )
    assert code == 5, "no file is made"
    SqliteFile(tmp_path / "made.db").do("CREATE TABLE t (id, uri)")
    SqliteFile(tmp_path / "made.db").do("INSERT INTO t VALUES (1, CAST(x'61ff2e776176' AS TEXT))")
    code, entries = export(SqliteFile(tmp_path / "made.db"), "--table", "t")
    assert (code, entries) == (4, []), "no manifest can name it"


BAD_ROWS: tuple[tuple[str, str], ...] = (
    ("'a-2' AS id, NULL AS uri", '2 (id "a-2"): the entry names no recording'),
    ("'a-3' AS id, '' AS uri", '3 (id "a-3"): the entry names no recording'),
    ("'' AS id, 'e.wav' AS uri", "4: its id is NULL or empty"),
    ("'a-1' AS id, 'f.wav' AS uri", '5 (id "a-1"): the id is already that of row 1'),
    ("'a' || CHR(10) AS id, 'g.wav' AS uri", '6 (id "a\\n"), /id: '),
    (
        "'a-7' AS id, 'h.wav' AS uri, -1.0 AS duration",
        '7 (id "a-7"), /duration: must be at least 0',
    ),
    (
        "'a-8' AS id, 'i.wav' AS uri, 0 AS duration, 'klingon' AS language",
        '"klingon" is no language',
    ),
    (
        "'a-9' AS id, '../j.wav' AS uri, 0 AS duration, 'en' AS language, -3 AS num_speakers",
        "must be",
    ),
)


def test_bad_rows_are_left_out_where_that_is_asked_for(
    backend: Backend, export: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    columns = ("id", "uri", "duration", "language", "num_speakers")
    good = "'a-1' AS id, 'a.wav' AS uri, 1.5 AS duration, 'en' AS language, 2 AS num_speakers"
    later = good.replace("a-1", "a-10").replace("a.wav", "https://host/k.wav")
    selects = [good, *(_filled(row, columns) for row, _ in BAD_ROWS), later]
    if isinstance(backend, SqliteFile):
        backend.do(ARCHIVE)
        selects = [one.replace("CHR(10)", "char(10)") for one in selects]
    query = " UNION ALL ".join(f"SELECT {one}" for one in selects)
    asked = ("--query", query, "--prefix", "s3://media/")
    assert export(backend, *asked) == (4, [])
    assert "8 rows of the query cannot be used." in capsys.readouterr().err
    code, entries = export(backend, *asked, "--skip-invalid")
    found = [(entry["id"], entry["uri"]) for entry in entries]
    assert (code, found) == (3, [("a-1", "s3://media/a.wav"), ("a-10", "https://host/k.wav")])
    err = capsys.readouterr().err
    for _, said in BAD_ROWS:
        assert said in err
    assert "2 assets written to" in err and "8 rows left out." in err


def _filled(row: str, columns: tuple[str, ...]) -> str:
    """The row with NULL for the columns that it does not have."""
    types = {"duration": "FLOAT", "num_speakers": "INTEGER"}
    missing = [name for name in columns if f" AS {name}" not in row]
    nulls = (f"CAST(NULL AS {types.get(name, 'VARCHAR(9)')}) AS {name}" for name in missing)
    return ", ".join([row, *nulls])


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--query", "SELEKT 1"), 2, "does not take the query"),
        (("--table", "nothing_here"), 2, "`audio-batch results create"),
        (("--query", "SELECT uuid FROM assets WHERE shelf = :shelf"), 2, ":shelf"),
        (("--query", "SELECT uuid FROM assets", "--param", "a=1"), 2, "no parameter :a"),
        (("--table", "assets", "--param", "a=1"), 2, "--param is for --query"),
        (("--table", "assets", "--map", "id=nope"), 2, 'no column "nope"'),
        (("--table", "assets", "--map", "shelf=uuid"), 2, "no field of a manifest"),
        (("--table", "assets", "--map", "id"), 2, "cannot be read"),
        (("--query", "SELECT uuid AS a, s3_key AS a FROM assets"), 2, "two columns"),
        (("--query", "SELECT 1", "--table", "assets"), 2, "either"),
        (("--query", "SELECT NULL AS id, 'a.wav' AS uri"), 4, "row 1: its id is NULL"),
        (("--query", "SELECT 'x' AS id, NULL AS uri"), 4, 'row 1 (id "x"): the entry names no'),
        (("--query", "SELECT 'x' AS id"), 4, 'row 1 (id "x"): the entry names no recording'),
    ],
)
def test_slips_are_told_and_change_nothing(
    backend: Backend,
    export: Run,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    code: int,
    said: str,
) -> None:
    filled(backend, [("u-1", "a.wav")])
    (tmp_path / "m.jsonl").write_text('{"last": "night"}\n', encoding="utf-8")
    assert export(backend, *arguments) == (code, [{"last": "night"}])
    err = capsys.readouterr().err
    assert said in err
    assert "Traceback" not in err
    assert not list(tmp_path.glob(".audio-batch-tmp-*"))


def test_a_mapped_column_goes_before_one_of_its_name(backend: Backend, export: Run) -> None:
    query = "SELECT 7 AS id, 'u-7' AS uuid, 'a.wav' AS uri"
    code, entries = export(backend, "--query", query, "--map", "id=uuid")
    if isinstance(backend, SqliteFile):
        assert code == 5
        backend.do(ARCHIVE)
        code, entries = export(backend, "--query", query, "--map", "id=uuid")
    assert (code, entries) == (0, [{"id_column": 7, "id": "u-7", "uri": "a.wav"}])


def test_an_error_between_rows_leaves_the_last_manifest(
    postgres: Postgres, export: Run, tmp_path: Path
) -> None:
    (tmp_path / "m.jsonl").write_text('{"last": "night"}\n', encoding="utf-8")
    series = f"SELECT n AS id, 'a.wav' AS uri, 1 / ({3 * AT_ONCE} - n) FROM"
    code, entries = export(postgres, "--query", f"{series} generate_series(1, 100000) AS n")
    assert (code, entries) == (2, [{"last": "night"}])
    assert not list(tmp_path.glob(".audio-batch-tmp-*"))


def test_a_database_that_is_not_there_or_refuses(
    postgres: Postgres, export: Run, nobody_listens: int, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = SqliteFile(Path("x"))
    wrong.url = lambda: postgres.url("wr0ng-passw0rd")  # type: ignore[method-assign]
    assert export(wrong, "--table", "assets")[0] == 5
    closed = f"postgresql://night:0pen-sesame@127.0.0.1:{nobody_listens}/db"
    wrong.url = lambda: closed  # type: ignore[method-assign]
    assert export(wrong, "--table", "assets")[0] == 5
    err = capsys.readouterr().err
    assert err.count("cannot be used") == 2
    for secret in ("wr0ng-passw0rd", "0pen-sesame", PASSWORD):
        assert secret not in err


def test_the_url_of_the_environment_and_stdout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    backend = SqliteFile(tmp_path / "archive.db")
    filled(backend, [("u-1", "a.wav")])
    assert run_app(["manifest", "from-sql", "--table", "assets", "-o", "-"]) == 2
    monkeypatch.setenv("AUDIO_BATCH_DATABASE_URL", backend.url())
    query = tmp_path / "new.sql"
    query.write_text("SELECT uuid AS id, s3_key AS uri\nFROM assets -- all", encoding="utf-8")
    assert run_app(["manifest", "from-sql", "--query-file", str(query), "-o", "-"]) == 0
    assert json.loads(capfdbinary.readouterr().out) == {"id": "u-1", "uri": "a.wav"}


def test_only_manifests_are_replaced_unasked(tmp_path: Path) -> None:
    backend = SqliteFile(tmp_path / "archive.db")
    filled(backend, [("u-1", "a.wav")])
    precious = tmp_path / "a.wav"
    precious.write_bytes(b"sound")
    asked = ["manifest", "from-sql", "--url", backend.url(), "--table", "assets"]
    asked += ["--map", "id=uuid,uri=s3_key", "--out", str(precious)]
    assert run_app(asked) == 2
    assert precious.read_bytes() == b"sound"
    assert run_app([*asked, "--force"]) == 0
    assert precious.read_bytes().startswith(b'{"id"')


@pytest.mark.parametrize("lock", [False, True])
def test_a_query_that_takes_too_long_is_ended(
    postgres: Postgres, export: Run, capsys: pytest.CaptureFixture[str], lock: bool
) -> None:
    filled(postgres, [("u-1", "a.wav")])
    asked = ("--query", "SELECT uuid AS id, s3_key AS uri, pg_sleep(60) FROM assets")
    with postgres.connected() as other:
        other.autocommit = False
        if lock:
            other.execute("LOCK TABLE assets")
            asked = ("--table", "assets", "--map", "id=uuid,uri=s3_key")
        assert export(postgres, *asked, "--timeout", "1s") == (5, [])
    assert "--timeout says how long it may take" in capsys.readouterr().err


def test_a_server_that_falls_silent_is_given_up(
    postgres: Postgres, line: Muffler, export: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    filled(postgres, [("u-1", "a.wav")])
    silent = SqliteFile(Path("x"))
    silent.url = lambda: postgres.url(port=line.port)  # type: ignore[method-assign]
    asked = ("--table", "assets", "--map", "id=uuid,uri=s3_key")
    line.after = b"FETCH"
    assert export(silent, *asked, "--timeout", "2s") == (5, [])
    assert "has not answered for 5 s" in capsys.readouterr().err
    line.after = b""
    assert export(silent, *asked)[0] == 0


def test_a_database_of_bytes_has_texts_all_the_same(
    postgres: Postgres, export: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    postgres.do(
        "DROP DATABASE IF EXISTS bytes",
        "CREATE DATABASE bytes ENCODING 'SQL_ASCII' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'",
    )
    ascii = SqliteFile(Path("x"))
    ascii.url = lambda: postgres.url(database="bytes")  # type: ignore[method-assign]
    code, entries = export(ascii, "--query", "SELECT 1 AS id, 'B\u00e4r.wav' AS uri")
    assert (code, entries) == (0, [{"id": 1, "uri": "B\u00e4r.wav"}])
    query = "SELECT 1 AS id, convert_from('\\xff', 'SQL_ASCII') AS uri"
    assert export(ascii, "--query", query)[0] == 2
    assert "invalid byte sequence" in capsys.readouterr().err


PEAK = """
import pathlib, re, sys
from audio_batch.cli import run_app
code = run_app(sys.argv[1:])
# Not getrusage: a process begins there with the peak of the one that has begun it.
print(code, re.search(r"VmHWM:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs /proc")
def test_many_rows_take_no_more_memory_than_few(backend: Backend, tmp_path: Path) -> None:
    """A row is half a kilobyte, in Python more: 100,000 of them at once are 120 MB."""
    rows = "SELECT n AS id, repeat('x', 500) || n AS uri FROM generate_series(1, :n::int) AS n"
    if isinstance(backend, SqliteFile):
        rows = (
            "WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s"
            " WHERE n < CAST(:n AS INTEGER))"
            " SELECT n AS id, printf('%0500d', n) AS uri FROM s"
        )
        backend.do(ARCHIVE)
    out = tmp_path / "m.jsonl"
    peak_kib = []
    for count in (2 * AT_ONCE, 100_000):
        done = subprocess.run(
            [
                *(sys.executable, "-c", PEAK, "manifest", "from-sql", "--url", backend.url()),
                *("--query", rows, "--param", f"n={count}", "--out", str(out)),
            ],
            env=environment(**backend.environment),
            capture_output=True,
            text=True,
            timeout=600,
            check=True,
        )
        code, peak = map(int, done.stdout.split())
        assert code == 0, done.stderr
        peak_kib.append(peak)
        with out.open("rb") as file:
            assert sum(1 for _ in file) == count
    print(peak_kib)
    assert peak_kib[1] - peak_kib[0] < 40 * 1024, peak_kib
