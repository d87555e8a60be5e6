"""Nights with limits: of time, of memory, of trust in what was heard. The real program."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import faulty_engine
import pytest
from program import Answer, write_manifest

Cli = Callable[..., Answer]
NULL = ("--engine", "null", "-o", "out")


def summary(folder: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((folder / "out/summary.json").read_text())
    return read


def test_what_would_not_be_done_in_time_is_left_for_the_next_run(cli: Cli, tmp_path: Path) -> None:
    """An hour of sound is expected to take minutes, once it is known what a second takes."""
    manifest = write_manifest(tmp_path, 40)
    listed = json.loads(manifest.read_text())
    for entry in listed["assets"]:
        entry["duration"] = 36_000
    manifest.write_text(json.dumps(listed))
    night = ("run", manifest, *NULL, "--model", "null:500", "--max-per-gpu", "1")
    answer = cli(*night, "--max-runtime", "60s")
    assert answer.code == 130, answer.err
    told = summary(tmp_path)
    # Those that had begun before anything was known: one at work, one read ahead.
    assert 1 <= told["done"] <= 2
    assert f"The time is up: {40 - told['done']} assets are left" in answer.err
    assert told["failed"] == 0
    again = cli("run", manifest, *NULL, "--model", "null")
    assert again.code == 0, again.err
    assert summary(tmp_path)["done"] == 40 - told["done"]


def test_what_has_begun_when_the_time_is_up_is_ended_and_nothing_else_is_begun(
    cli: Cli, tmp_path: Path
) -> None:
    manifest = write_manifest(tmp_path, 40)
    night = ("run", manifest, *NULL, "--model", "null:500", "--max-per-gpu", "1")
    answer = cli(*night, "--max-runtime", "2s")
    assert answer.code == 130, answer.err
    assert "The time is up" in answer.err
    told = summary(tmp_path)
    # Two at a time, one of them read ahead, of half a second each.
    assert told["done"] == answer.err.count("] Processing: ") <= 9
    assert told["failed"] == 0


def test_a_limit_that_is_not_met_changes_nothing(cli: Cli, tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path, 3)
    in_half_a_day = f"{datetime.now() + timedelta(hours=12):%H:%M}"
    answer = cli("run", manifest, *NULL, "--max-runtime", "6h", "--until", in_half_a_day)
    assert answer.code == 0, answer.err


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--until", "25:00"),
        ("--max-runtime", "soon"),
        ("--timeout", "0x"),
        ("--stall-timeout", "never"),
        ("--min-free-ram", "2"),
        ("--nice", "-5"),
    ],
)
def test_a_slip_is_told_before_anything_is_done(
    flag: str, value: str, cli: Cli, tmp_path: Path
) -> None:
    manifest = write_manifest(tmp_path, 1)
    answer = cli("run", manifest, *NULL, f"{flag}={value}")
    assert answer.code == 2, answer.err
    assert flag in answer.err
    assert not (tmp_path / "out").exists()


def test_too_little_memory_makes_assets_wait_for_each_other(cli: Cli, tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path, 5)
    night = ("run", manifest, *NULL, "--model", "null:100", "--max-per-gpu", "3")
    answer = cli(
        *night, "--min-free-ram", "900TB", "--log-file", "log.json", "--log-format", "json"
    )
    assert answer.code == 0, answer.err
    log = [json.loads(line) for line in (tmp_path / "log.json").read_text().splitlines()]
    assert sum("Such recordings are done one at a time" in line["message"] for line in log) == 1
    running = most = 0
    for line in log:
        running += "Processing:" in line["message"]
        most = max(most, running)
        running -= "Done:" in line["message"]
    assert most == 1


def suspicious(folder: Path) -> dict[str, str]:
    return {
        **faulty_engine.install(folder / "plugin"),
        "FAULTY_ENGINE": json.dumps({"loops": [1]}),
    }


NIGHT = ("--engine", "faulty", "--no-diarize", "-o", "out")


def test_a_suspect_transcript_is_done_told_and_listed(cli: Cli, tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path, 3)
    variables = suspicious(tmp_path)
    answer = cli("run", manifest, *NIGHT, env=variables)
    assert answer.code == 0, answer.err
    assert "suspect" in answer.err
    assert [item["id"] for item in summary(tmp_path)["suspect"]] == ["tone-001"]
    listed = json.loads(cli("status", "out", "--suspect", "--json").out)
    assert [entry["asset_id"] for entry in listed["assets"]] == ["tone-001"]
    # A later night does it again, once, and nothing else.
    answer = cli("run", manifest, *NIGHT, "--redo-suspect", env=variables)
    assert answer.code == 0, answer.err
    assert summary(tmp_path)["done"] == 1
    assert (tmp_path / "out/tone-001.txt").read_text().strip() == "recording 1"
    assert json.loads(cli("status", "out", "--suspect", "--json").out)["assets"] == []
    # Without the flag what was redone stays.
    answer = cli("run", manifest, *NIGHT, env=variables)
    assert "Nothing to do" in answer.err


@pytest.mark.parametrize("isolation", ["thread", "process"])
def test_a_suspect_transcript_is_done_again_in_the_same_night(
    isolation: str, cli: Cli, tmp_path: Path
) -> None:
    manifest = write_manifest(tmp_path, 3)
    answer = cli(
        *("run", manifest, *NIGHT, "--redo-suspect", "--isolation", isolation),
        env=suspicious(tmp_path),
    )
    assert answer.code == 0, answer.err
    assert "it is done again" in answer.err
    assert (tmp_path / "out/tone-001.txt").read_text().strip() == "recording 1"
    assert summary(tmp_path)["suspect"] == []
    assert summary(tmp_path)["done"] == 3
