"""Nights with a database: out of a table of assets, through a run, into a table of results."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import pytest
from backends import NEW_ONLY, Backend, SqliteFile, filled
from faulty_engine import install
from postgres_server import PASSWORD, Postgres
from program import Answer, command, environment, write_tone

from audio_batch.cli import run_app
from audio_batch.databases.results_table import DEFAULT_TABLE
from audio_batch.errors import ExitCode

Cli = Callable[..., Answer]
WORDS_ALONE = ("--device", "cpu", "-f", "json", "--no-align", "--no-diarize")
NULL = ("--engine", "null", *WORDS_ALONE)
HELD = ("--engine", "faulty", *WORDS_ALONE, "--order", "manifest")
"""Recordings that wait until they are told to go on, or hang; see `faulty_engine`."""
WAIT_S = 180.0


@pytest.fixture
def quick(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Cli:
    """Like `cli`, for commands that leave no trace in this process: it saves their start."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object, env: dict[str, str] | None = None) -> Answer:
        with monkeypatch.context() as only_now:
            for name, value in (env or {}).items():
                only_now.setenv(name, value)
            code = run_app([str(argument) for argument in arguments])
        said = capfd.readouterr()
        return Answer(code, said.out, said.err)

    return run


def states(backend: Backend) -> dict[str, str]:
    rows = backend.ask(f"SELECT asset_id, state FROM {DEFAULT_TABLE}")
    assert len({asset_id for asset_id, _ in rows}) == len(rows), "one row an asset"
    return dict(rows)


def due(out: Path) -> int:
    return counted(out, "outbox")


def counted(out: Path, rows: str) -> int:
    path = out / ".audio-batch" / "journal.sqlite3"
    with closing(sqlite3.connect(path, timeout=60)) as journal:
        return int(journal.execute(f"SELECT count(*) FROM {rows}").fetchone()[0])


def uuid(number: int) -> str:
    return f"6f9619ff-8b86-d011-b42d-{number:012d}"


def new_assets(backend: Backend, folder: Path, numbers: range, *, make: bool = False) -> set[str]:
    """Recordings, and their rows in the table of assets; their ids."""
    for number in numbers:
        write_tone(folder / "in" / f"{number}.wav", 0.3)
    filled(backend, [(uuid(number), f"in/{number}.wav") for number in numbers], make=make)
    return {uuid(number) for number in numbers}


def manifest_of(folder: Path, count: int) -> set[str]:
    """A manifest of recordings, without a database; the ids."""
    lines = []
    for number in range(count):
        write_tone(folder / "in" / f"{number}.wav", 0.5 + number / 1000)
        lines.append(json.dumps({"id": uuid(number), "path": f"in/{number}.wav"}))
    (folder / "m.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return {uuid(number) for number in range(count)}


@pytest.mark.parametrize(
    "backend", ["postgresql", pytest.param("sqlite", marks=pytest.mark.slow)], indirect=True
)
def test_the_second_nights_query_returns_only_what_is_new(
    backend: Backend, cli: Cli, quick: Cli, tmp_path: Path
) -> None:
    env = {**backend.environment, "AUDIO_BATCH_DATABASE_URL": backend.url()}
    ids = new_assets(backend, tmp_path, range(6), make=True)
    (tmp_path / "in" / "5.wav").write_bytes(b"no recording at all")

    def export() -> set[str]:
        answer = quick(
            *("manifest", "from-sql", "--query", NEW_ONLY, "--param", "shelf=3"),
            *("--map", "id=uuid,uri=s3_key", "--out", "m.jsonl"),
            env=env,
        )
        assert answer.code == 0, answer.err
        lines = (tmp_path / "m.jsonl").read_text(encoding="ascii").splitlines()
        return {json.loads(line)["id"] for line in lines}

    def run() -> Answer:
        return cli("run", "m.jsonl", "-o", "out", *NULL, "--results-db", backend.url(), env=env)

    assert quick("results", "create", "--results-db", backend.url(), env=env).code == 0
    assert export() == ids
    answer = run()
    assert answer.code == ExitCode.SOME_FAILED, answer.err
    done = ids - {uuid(5)}
    assert states(backend) == {**dict.fromkeys(done, "done"), uuid(5): "failed"}
    assert due(tmp_path / "out") == 0

    more = new_assets(backend, tmp_path, range(6, 8))
    assert export() == {uuid(5), *more}
    write_tone(tmp_path / "in" / "5.wav", 0.3)
    answer = run()
    assert answer.code == 0, answer.err
    assert states(backend) == dict.fromkeys(ids | more, "done")
    assert export() == set()
    assert (tmp_path / "m.jsonl").read_bytes() == b""
    transcript = json.loads((tmp_path / "out" / f"{uuid(7)}.json").read_text(encoding="utf-8"))
    assert transcript["metadata"] == {"title": "Title of in/7.wav", "shelf": 3}


def test_a_run_without_results_is_made_up_for(cli: Cli, quick: Cli, tmp_path: Path) -> None:
    backend = SqliteFile(tmp_path / "results.db")
    ids = manifest_of(tmp_path, 3)
    assert cli("run", "m.jsonl", "-o", "out", *NULL).code == 0
    asked = ("run", "m.jsonl", "-o", "out", *NULL, "--results-db", "sqlite:///results.db")
    assert cli(*asked).code == 0
    assert states(backend) == dict.fromkeys(ids, "done"), "though there was nothing to do"
    backend.do(f"DROP TABLE {DEFAULT_TABLE}")
    answer = quick("results", "push", "out", *asked[-2:])
    assert (answer.code, "0 results written" in answer.err) == (0, True), "it is the run's database"
    for _ in range(2):
        assert quick("results", "push", "out", "--all", *asked[-2:]).code == 0
    (tmp_path / f"out/{uuid(0)}.json").unlink()
    answer = quick("verify", "out")
    assert "1 result is due in the database" in answer.err
    assert states(backend) == dict.fromkeys(ids, "done")
    assert cli("run", "m.jsonl", "-o", "out", *NULL, "--overwrite", *asked[-2:]).code == 0
    assert states(backend) == dict.fromkeys(ids, "done"), "the same rows, whoever writes them"


def test_a_database_that_is_down_costs_nothing_but_its_rows(
    postgres: Postgres, cli: Cli, quick: Cli, tmp_path: Path
) -> None:
    ids = manifest_of(tmp_path, 5)
    asked = ("run", "m.jsonl", "-o", "out", *NULL, "--results-db", postgres.url())
    postgres.stop()
    try:
        answer = cli(*asked, env=postgres.environment)
        assert answer.code == 0, answer.err
        assert "Results wait in the journal" in answer.err
        summary = json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))
        assert (summary["done"], summary["results_undelivered"]) == (5, 5)
        answer = quick("results", "push", "out", env=postgres.environment)
        assert answer.code == ExitCode.ENVIRONMENT, answer.err
        assert due(tmp_path / "out") == 5
    finally:
        postgres.start()
    answer = quick("results", "push", "out", env=postgres.environment)
    assert answer.code == 0, answer.err
    assert "5 results written, 0 left" in answer.err
    assert states(postgres) == dict.fromkeys(ids, "done")
    assert due(tmp_path / "out") == 0


def engine(folder: Path, faults: dict[str, object]) -> dict[str, str]:
    """The environment of a run with `HELD`."""
    return {**install(folder / "plugin"), "FAULTY_ENGINE": json.dumps(faults)}


def start(folder: Path, backend: Backend, faults: dict[str, object]) -> subprocess.Popen[bytes]:
    """Such a run, one recording after the other."""
    with (folder / "stderr").open("ab") as err:
        return subprocess.Popen(
            command("run", "m.jsonl", "-o", "out", *HELD, "-t", 1, "--results-db", backend.url()),
            cwd=folder,
            env=environment(**backend.environment, **engine(folder, faults)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=err,
        )


def until(holds: Callable[[], bool], what: str, run: subprocess.Popen[bytes]) -> None:
    until_s = time.monotonic() + WAIT_S
    while time.monotonic() < until_s:
        has_ended = run.poll() is not None
        if holds():
            return
        assert not has_ended, f"the run has ended with {run.returncode} before {what}"
        time.sleep(0.05)
    raise AssertionError(f"{what} has not happened in {WAIT_S} s")


def arrived(backend: Backend, count: int) -> Callable[[], bool]:
    def holds() -> bool:
        try:
            return len(states(backend)) >= count
        except Exception:  # the table is not there yet
            return False

    return holds


def test_a_database_may_go_and_come_back_during_the_night(
    postgres: Postgres, tmp_path: Path
) -> None:
    ids = manifest_of(tmp_path, 48)
    gone, back = tmp_path / "gone", tmp_path / "back"
    # Results are handed over when something else is told: so recordings come and go meanwhile.
    faults = {"delay_ms": 80, "hurry": str(back), "wait": [8], "gate": str(gone)}
    process = start(tmp_path, postgres, {**faults, "hold": [46], "until": str(back)})

    def goes_on_without() -> bool:
        told = "Results wait in the journal" in said(tmp_path)
        return told and due(tmp_path / "out") > 3

    stopped = False
    try:
        until(arrived(postgres, 1), "the first result", process)
        postgres.stop()
        stopped = True
        gone.touch()
        until(goes_on_without, "more work without the database", process)
        postgres.start()
        stopped = False
        back.touch()
        assert process.wait(WAIT_S) == 0, said(tmp_path)
    finally:
        process.kill()
        process.wait()
        if stopped:
            postgres.start()
    assert "Traceback" not in said(tmp_path)
    assert states(postgres) == dict.fromkeys(ids, "done")
    assert due(tmp_path / "out") == 0


def said(folder: Path) -> str:
    return (folder / "stderr").read_text(encoding="utf-8")


def test_killed_before_delivery_nothing_is_lost(
    postgres: Postgres, cli: Cli, tmp_path: Path
) -> None:
    """The database is down, so that every outcome is in the journal alone when the kill comes."""
    ids = manifest_of(tmp_path, 7)
    postgres.stop()
    try:
        process = start(tmp_path, postgres, {"hang": [4]})
        until(published(tmp_path / "out", 4), "the first outputs", process)
        until(lambda: due(tmp_path / "out") == 4, "their rows in the journal", process)
        process.kill()
        process.wait()
    finally:
        postgres.start()
    assert due(tmp_path / "out") == 4
    gone_on_with(postgres, cli, tmp_path, ids)


def published(out: Path, count: int) -> Callable[[], bool]:
    return lambda: len(list(out.glob("*-*.json"))) >= count


def gone_on_with(backend: Backend, cli: Cli, folder: Path, ids: set[str]) -> None:
    """Another run does what is left, and tells the database of all."""
    done_before = counted(folder / "out", "assets WHERE state = 'done'")
    assert done_before > 0
    asked = ("run", "m.jsonl", "-o", "out", *HELD, "--results-db", backend.url())
    answer = cli(*asked, env={**backend.environment, **engine(folder, {})})
    assert answer.code == 0, answer.err
    summary = json.loads((folder / "out" / "summary.json").read_text(encoding="utf-8"))
    assert summary["done_before"] == done_before
    assert states(backend) == dict.fromkeys(ids, "done")
    assert due(folder / "out") == 0


@pytest.mark.parametrize(
    "backend", ["postgresql", pytest.param("sqlite", marks=pytest.mark.slow)], indirect=True
)
def test_killed_while_delivering_nothing_is_lost_or_doubled(
    backend: Backend, cli: Cli, tmp_path: Path
) -> None:
    ids = manifest_of(tmp_path, 14)
    process = start(tmp_path, backend, {"delay_ms": 80, "hang": [12]})
    # No more: what comes later is handed over when something else is told, which may be never.
    until(arrived(backend, 1), "the first result", process)
    process.kill()
    process.wait()
    assert set(states(backend).values()) == {"done"}
    gone_on_with(backend, cli, tmp_path, ids)


def test_a_password_is_written_nowhere(postgres: Postgres, cli: Cli, tmp_path: Path) -> None:
    ids = manifest_of(tmp_path, 2)
    (tmp_path / "in" / "1.wav").write_bytes(b"no recording at all")
    encoded = quote(PASSWORD, safe="")
    plain = {"PG_SECRET": ""}
    said = []
    for url in (postgres.url("wr0ngPassw0rd"), postgres.url(encoded)):
        answer = cli(
            *("run", "m.jsonl", "-o", "out", *NULL, "--overwrite", "--log-file", "night.log"),
            *("--verbose", "--verbose", "--results-db", url),
            env=plain,
        )
        assert answer.code == ExitCode.SOME_FAILED, answer.err
        said.append(answer.out + answer.err)
    assert states(postgres) == {uuid(0): "done", uuid(1): "failed"}
    # What `retry` finds in the journal has no password: the environment has it.
    write_tone(tmp_path / "in" / "1.wav", 0.2)
    answer = cli("retry", "out", env={"AUDIO_BATCH_RESULTS_DB": postgres.url(encoded)})
    assert answer.code == 0, answer.err
    said.append(answer.out + answer.err)
    assert states(postgres) == dict.fromkeys(ids, "done")
    for secret in (PASSWORD, encoded, "wr0ngPassw0rd"):
        assert not any(secret in text for text in said)
        found = [
            path.name
            for path in tmp_path.rglob("*")
            if path.is_file() and secret.encode() in path.read_bytes()
        ]
        assert found == []


@pytest.mark.parametrize(
    ("url", "table", "code", "said"),
    [
        ("nonsense", None, 2, "cannot be understood"),
        ("sqlite:///r.db", "a;b", 2, "plain name"),
        ("postgresql://u:${NOT_SET_HERE}@h/d", None, 2, "NOT_SET_HERE"),
        ("mssql+pyodbc://h/d", None, 5, "not installed"),
    ],
)
def test_a_slip_is_told_before_anything_is_begun(
    quick: Cli, tmp_path: Path, url: str, table: str | None, code: int, said: str
) -> None:
    manifest_of(tmp_path, 1)
    named = () if table is None else ("--results-table", table)
    answer = quick("run", "m.jsonl", "-o", "out", *NULL, "--results-db", url, *named)
    assert answer.code == code
    assert said in answer.err
    assert not (tmp_path / "out").exists()


def test_a_database_is_named_by_a_person(cli: Cli, quick: Cli, tmp_path: Path) -> None:
    """A file that came along with recordings could send secrets to its maker's server."""
    ids = manifest_of(tmp_path, 1)
    settings = tmp_path / "audio-batch.toml"
    settings.write_text('results-db = "sqlite:///told.db"', encoding="utf-8")
    asked = ("run", "m.jsonl", "-o", "out", *NULL)
    answer = quick(*asked)
    assert answer.code == ExitCode.USAGE
    assert "sets results-db" in answer.err
    assert not (tmp_path / "told.db").exists()
    (tmp_path / "conf").mkdir()
    settings = settings.rename(tmp_path / "conf" / "audio-batch.toml")
    assert cli(*asked, "--config", settings).code == 0
    assert states(SqliteFile(tmp_path / "conf" / "told.db")) == dict.fromkeys(ids, "done")
