"""Whole nights whose outputs go to a bucket: a real S3 API on loopback, the program as it is."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from attempt_rows import count_attempts
from program import Answer, command, environment, text_outputs, write_manifest
from stores.faults import Rule
from stores.s3 import S3

from audio_batch.journal import Journal
from audio_batch.outcome import State
from audio_batch.output_folder import OutputFolder
from audio_batch.seal import opened

Cli = Callable[..., Answer]
STATE = ("--state-dir", "state")
slow = pytest.mark.slow


def run(s3: S3, *more: object) -> tuple[object, ...]:
    flags = ("--engine", "null", "--isolation", "thread", "--s3-endpoint", s3.endpoint)
    return ("run", "manifest.json", *flags, "-o", s3.url("night"), *STATE, *more)


def states(folder: Path) -> dict[str, State]:
    journal = Journal(folder / "state/journal.sqlite3", read_only=True)
    try:
        return {entry.asset_id: entry.state for entry in journal.entries()}
    finally:
        journal.close()


def attempts(folder: Path) -> int:
    return count_attempts(folder / "state/journal.sqlite3")


def outputs(s3: S3) -> dict[str, bytes]:
    return {k: data for k, data in s3.objects("night/").items() if not k.startswith("summary")}


def test_a_night_into_a_bucket(cli: Cli, tmp_path: Path, s3: S3) -> None:
    write_manifest(tmp_path, 2)
    assert cli("run", "manifest.json", "--engine", "null", "-o", "out").code == 0
    answer = cli(*run(s3))
    assert answer.code == 0, answer.err
    assert f"output: {s3.url('night')}" in answer.err
    found = outputs(s3)
    texts = {name: data for name, data in found.items() if not name.endswith(".json")}
    assert texts == text_outputs(tmp_path / "out")
    assert sorted(found) == [
        f"tone-{n:03d}.{suffix}" for n in range(2) for suffix in ("json", "srt", "txt")
    ]
    assert json.loads(s3.get("night/summary.json"))["done"] == 2
    assert s3.get("night/summary.json") == (tmp_path / "state/summary.json").read_bytes()
    assert s3.uploads() == []
    # Six outputs, the summary and the probe; a listing to begin with.
    counts = s3.counts()
    assert (counts["PUT"], counts["LIST"], counts["HEAD"], counts["GET"]) == (8, 1, 0, 0)


@slow
def test_a_night_into_a_bucket_once_more(cli: Cli, tmp_path: Path, s3: S3) -> None:
    write_manifest(tmp_path, 2)
    assert cli(*run(s3)).code == 0
    found = outputs(s3)
    s3.trouble.clear()
    assert "Nothing to do" in cli(*run(s3)).err
    assert s3.counts()["PUT"] == 0
    assert s3.counts()["LIST"] == 1
    assert outputs(s3) == found

    url = s3.url("night")
    assert cli("verify", url, *STATE).code == 0
    s3.put("night/tone-001.txt", b"other\n")
    s3.delete("night/tone-000.srt")
    damaged = cli("verify", url, *STATE)
    assert damaged.code == 3
    assert "tone-000.srt is missing" in damaged.out
    assert cli(*run(s3)).code == 0
    assert outputs(s3).keys() == found.keys()
    assert outputs(s3)["tone-001.txt"] == found["tone-001.txt"]
    assert attempts(tmp_path) == 4  # of which two only wrote the texts again


@slow
def test_what_looks_at_a_bucket_or_cannot(cli: Cli, tmp_path: Path, s3: S3) -> None:
    manifest = write_manifest(tmp_path, 1)
    body = json.loads(manifest.read_text())
    body["assets"][0]["reference_text"] = "null"
    manifest.write_text(json.dumps(body))
    assert cli(*run(s3)).code == 0
    url = s3.url("night")
    assert cli("export", url, "-f", "vtt", "--to", "vtt", *STATE).code == 0
    assert (tmp_path / "vtt/tone-000.vtt").is_file()
    measured = cli("eval", "manifest.json", url, *STATE, "--json")
    assert measured.code == 0, measured.err
    assert json.loads(measured.out)
    refused = cli("speakers", "link", url, *STATE)
    assert refused.code == 2, refused.err
    assert "needs a local --output-dir" in refused.err
    absent = cli("verify", s3.url("other"))
    assert absent.code == 2
    assert "holds no journal of a run" in absent.err


@slow
def test_a_lost_journal_is_made_again_from_the_bucket(cli: Cli, tmp_path: Path, s3: S3) -> None:
    write_manifest(tmp_path, 4)
    assert cli(*run(s3)).code == 0
    before = outputs(s3)
    shutil.rmtree(tmp_path / "state")
    s3.put("night/tone-001.json", before["tone-001.json"][:-100])
    s3.put("night/tone-002.json", before["tone-003.json"])
    s3.rule(Rule("error", kind="GET", status=403, code="AccessDenied", times=1))
    refused = cli(*run(s3))
    assert refused.code == 5, refused.err
    assert "could not be read" in refused.err
    s3.trouble.clear()
    answer = cli(*run(s3))
    assert answer.code == 0, answer.err
    assert "2 assets done" in answer.err
    after = outputs(s3)
    assert {n: d for n, d in after.items() if n[:8] in ("tone-000", "tone-003")} == {
        n: d for n, d in before.items() if n[:8] in ("tone-000", "tone-003")
    }
    assert {n: d for n, d in after.items() if not n.endswith("json")} == {
        n: d for n, d in before.items() if not n.endswith("json")
    }
    assert json.loads(after["tone-002.json"])["asset_id"] == "tone-002"
    assert set(states(tmp_path).values()) == {State.DONE}
    assert attempts(tmp_path) == 2


@pytest.mark.parametrize(
    ("path", "is_done"),
    [
        pytest.param("*/tone-*.srt", False, marks=slow),
        pytest.param("*/tone-*.txt", True, marks=slow),
        pytest.param("*/tone-*.json", False, marks=slow),
        pytest.param("*/tone-*.json", True, marks=slow),
        pytest.param("*/summary.json", False, marks=slow),
        pytest.param("*/summary.json", True, marks=slow),
    ],
)
def test_a_kill_at_any_step_is_survived(
    cli: Cli, tmp_path: Path, s3: S3, path: str, is_done: bool
) -> None:
    write_manifest(tmp_path, 2)
    # The first answer is withheld, with the object stored already or not; then the kill comes.
    rule = Rule("lost" if is_done else "hang", kind="PUT", path=path, times=1)
    s3.rule(rule)
    process = subprocess.Popen(
        command(*run(s3)), cwd=tmp_path, env=environment(), stderr=subprocess.DEVNULL
    )
    ends_s = time.monotonic() + 120
    while rule.times == 1 and time.monotonic() < ends_s:
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert rule.times != 1, "it never came so far"
    torn = outputs(s3)
    s3.trouble.rules.clear()
    for name, data in torn.items():  # nothing half is there, whatever is
        assert data.endswith(b"\n"), name
    answer = cli(*run(s3))
    assert answer.code == 0, answer.err
    assert set(states(tmp_path).values()) == {State.DONE}
    found = outputs(s3)
    assert len(found) == 6
    for name, data in found.items():
        if name.endswith(".json"):
            sealed = opened(data)
            assert sealed is not None
            for file in sealed.outputs:
                assert hashlib.sha256(found[file.path]).hexdigest() == file.sha256
    assert s3.uploads() == []


def test_a_bucket_that_refuses_ends_the_run_before_it_begins(
    cli: Cli, tmp_path: Path, s3: S3
) -> None:
    write_manifest(tmp_path, 1)
    s3.rule(Rule("error", kind="PUT", status=403, code="AccessDenied"))
    answer = cli(*run(s3))
    assert answer.code == 5, answer.err
    assert "Nothing can be written to s3://recordings/night" in answer.err
    assert not (tmp_path / "state").exists(), "nothing was begun, and nothing is left of it"


@slow
def test_a_bucket_that_fails_in_the_night_costs_no_transcription(
    cli: Cli, tmp_path: Path, s3: S3
) -> None:
    write_manifest(tmp_path, 2)
    s3.rule(Rule("error", kind="PUT", path="*/tone-001.*", status=403, code="AccessDenied"))
    assert cli(*run(s3, "--yes")).code == 3
    assert states(tmp_path) == {"tone-000": State.DONE, "tone-001": State.FAILED}
    s3.trouble.rules.clear()
    assert cli(*run(s3)).code == 0
    assert set(states(tmp_path).values()) == {State.DONE}
    journal = Journal(tmp_path / "state/journal.sqlite3", read_only=True)
    assert journal.stage_counts() == {"transcribe": 2}
    journal.close()


@pytest.mark.skipif(importlib.util.find_spec("gcsfs") is not None, reason="gcsfs is installed")
def test_what_a_store_needs_is_named_before_the_run(cli: Cli, tmp_path: Path) -> None:
    write_manifest(tmp_path, 1)
    answer = cli("run", "manifest.json", "--engine", "null", "-o", "gs://bucket/night", *STATE)
    assert answer.code == 5, answer.err
    assert "pip install 'audio-batch[gcs]'" in answer.err


@slow
def test_two_shards_fill_one_bucket_and_the_whole_takes_over(
    cli: Cli, tmp_path: Path, s3: S3
) -> None:
    write_manifest(tmp_path, 3)
    for part in ("1/2", "2/2"):
        assert cli(*run(s3, "--shard", part)).code == 0
    before = outputs(s3)
    assert len(before) == 9
    assert {"night/summary.1-of-2.json", "night/summary.2-of-2.json"} <= set(s3.keys())
    assert "3 assets done" in cli(*run(s3)).err
    assert outputs(s3) == before
    assert attempts(tmp_path) == 0
    assert OutputFolder.at(s3.url("night"), state_dir=tmp_path / "state").journal_path.is_file()
