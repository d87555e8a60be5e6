"""What a command must not spoil or stumble over: its log, its streams, its folders."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from program import Answer, command, environment, text_outputs, write_manifest

Cli = Callable[..., Answer]
NULL = ("--engine", "null")

linux = pytest.mark.skipif(sys.platform != "linux", reason="a POSIX shell and /dev/full")


@pytest.fixture
def night(cli: Cli, tmp_path: Path) -> Path:
    """A folder with two recordings that are done, and their manifest."""
    manifest = write_manifest(tmp_path, 2)
    assert cli("run", manifest, *NULL, "-o", "out").code == 0
    return tmp_path


def in_shell(folder: Path, redirections: str, *arguments: object, **more: str) -> Answer:
    """The program under a shell's redirections; "$E" in them is a file that is read as stderr."""
    err = folder / "stderr"
    done = subprocess.run(
        ["sh", "-c", f'"$@" {redirections}', "sh", *command(*arguments)],
        cwd=folder,
        env=environment(E=str(err), **more),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    return Answer(done.returncode, done.stdout, err.read_text() if err.is_file() else done.stderr)


# ---- the log


def test_a_log_spoils_no_file_of_the_run(cli: Cli, night: Path) -> None:
    (night / "mine.toml").write_text('engine = "null"\n')
    (night / "link.log").hardlink_to(night / "manifest.json")
    logs = {
        "manifest.json": "is a file that the run needs",
        "link.log": "is a file that the run needs",
        "mine.toml": "is a file that the run needs",
        "out/summary.json": "is a file that the run needs",
        "out/.audio-batch/journal.sqlite3": "holds the state of the run",
        "out/.audio-batch/new/x.log": "holds the state of the run",
        "audio/tone-000.wav": "is no text: a recording",
    }
    before = {path: path.read_bytes() for path in night.rglob("*") if path.is_file()}
    run = ("run", "manifest.json", "--config", "mine.toml", "-o", "out", "--overwrite")
    for log, why in logs.items():
        answer = cli(*run, "--log-file", log)
        assert (answer.code, why in answer.err) == (2, True), answer.err
        assert answer.err.endswith("a log would spoil it. Choose another --log-file.\n")
    assert {path: path.read_bytes() for path in night.rglob("*") if path.is_file()} == before


def test_a_log_goes_on_where_it_ended(cli: Cli, night: Path) -> None:
    for _ in range(2):
        answer = cli("run", "manifest.json", *NULL, "-o", "out", "--log-file", "out/night.log")
        assert answer.code == 0
    assert (night / "out/night.log").read_text().count("Nothing to do") == 2


# ---- the standard streams


@linux
@pytest.mark.parametrize("closed", ['>&- 2>"$E"', "<&- >&- 2>&-"])
def test_a_run_whose_streams_are_closed_answers_its_own_code(tmp_path: Path, closed: str) -> None:
    write_manifest(tmp_path, 1)
    answer = in_shell(tmp_path, closed, "run", "manifest.json", *NULL, "-o", "out")
    assert answer.code == 0, answer.err
    assert "Error" not in answer.err
    assert len(text_outputs(tmp_path / "out", (".txt",))) == 1


@linux
@pytest.mark.parametrize("buffered", ["", "1"])
@pytest.mark.parametrize("arguments", [("status", "out"), ("status", "out", "--json")])
def test_output_that_cannot_be_written_is_one_sentence(
    night: Path, arguments: tuple[str, ...], buffered: str
) -> None:
    answer = in_shell(night, '>/dev/full 2>"$E"', *arguments, PYTHONUNBUFFERED=buffered)
    assert answer.code == 5
    assert answer.err == "The output cannot be written: No space left on device.\n"


@linux
def test_a_reader_that_has_seen_enough_is_no_error(night: Path) -> None:
    answer = in_shell(night, '2>"$E" | head -c 1', "status", "out", "--json")
    assert (answer.out, answer.err) == ("{", "")


# ---- the current folder


@linux
def test_a_current_folder_that_is_gone_is_one_sentence(night: Path) -> None:
    gone = "The current folder no longer exists; change to another."
    program = " ".join(command("run", "{manifest}", *NULL, "-o", "{out}"))

    def run(manifest: str, out: str) -> tuple[int, str]:
        done = subprocess.run(
            [
                "sh",
                "-c",
                f"mkdir d; cd d; rmdir ../d; {program.format(manifest=manifest, out=out)}",
            ],
            cwd=night,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        return done.returncode, done.stderr

    assert run("manifest.json", "out") == (5, f"{gone}\n")
    assert run(f"{night}/manifest.json", f"{night}/out")[0] == 0


# ---- what the next run makes of what could not be written


def test_an_output_that_could_not_be_written_is_written_by_the_next_run(
    cli: Cli, tmp_path: Path
) -> None:
    write_manifest(tmp_path, 2)
    (tmp_path / "out/tone-000.txt/in the way").mkdir(parents=True)
    run = ("run", "manifest.json", *NULL, "-o", "out", "-y")
    assert cli(*run).code == 3
    failed = json.loads(cli("status", "out", "--json", "--failed").out)["assets"]
    assert [(asset["asset_id"], asset["error_kind"]) for asset in failed] == [
        ("tone-000", "output_exists")
    ]
    (tmp_path / "out/tone-000.txt/in the way").rmdir()
    (tmp_path / "out/tone-000.txt").rmdir()
    assert cli(*run).code == 0
    assert len(text_outputs(tmp_path / "out", (".txt",))) == 2


# ---- folders that are no run's


def test_export_of_a_folder_of_other_json_is_a_slip(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other/package.json").write_text('{"name": "other"}')
    answer = cli("export", "other", "-f", "vtt")
    assert (answer.code, answer.err) == (
        2,
        "other holds no transcripts. Name the --output-dir of a run.\n",
    )
