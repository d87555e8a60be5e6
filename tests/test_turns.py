"""Many starts at one moment: one goes ahead, the others wait, and import nothing meanwhile."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from program import environment

from audio_batch import turns
from audio_batch.errors import LockedError
from audio_batch.output_folder import OutputFolder

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there are no turns there")

BIG = ["typer", "pydantic", "filelock", "sqlite3", "sqlalchemy", "fsspec", "numpy", "av", "torch"]

REFUSED = """
import json, sys
from audio_batch.cli import run_app
code = run_app(["run", "manifest.json", "-o", "out"])
print(json.dumps([int(code), [name for name in json.loads(sys.argv[1]) if name in sys.modules]]))
"""

WAITING = """
from audio_batch import turns
from audio_batch.errors import LockedError
print("asks", flush=True)
try:
    turns.take(["run", "manifest.json", "-o", "out"])
    print("ahead", flush=True)
except LockedError:
    print("refused", flush=True)
"""


def started(script: str, folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_who_comes_second_has_imported_nothing_big(tmp_path: Path) -> None:
    folder = OutputFolder.at(str(tmp_path / "out"))
    with folder.locked(), started(REFUSED, tmp_path, json.dumps(BIG)) as second:
        out, said = second.communicate()
    assert json.loads(out) == [11, []], said
    assert said.startswith(f"Another run is at work in {folder.where}. Wait for it")


@pytest.mark.parametrize("is_new", [True, False])
def test_others_wait_for_who_is_on_its_way(tmp_path: Path, is_new: bool) -> None:
    folder = OutputFolder.at(str(tmp_path / "out"))
    if not is_new:
        folder.create()
    turns.take(["run", "manifest.json", "-o", str(tmp_path / "out")])
    try:
        assert folder.root.exists() is not is_new, "it makes nothing"
        with started(WAITING, tmp_path) as second:
            assert second.stdout is not None
            assert second.stdout.readline() == "asks\n"
            with pytest.raises(subprocess.TimeoutExpired):
                second.wait(timeout=0.5)
            with folder.locked():
                assert second.stdout.readline() == "refused\n"
    finally:
        turns.end()


def taken_within_s(folder: Path) -> float:
    begun_s = time.monotonic()
    turns.take(["run", "manifest.json", f"--output-dir={folder}"])
    return time.monotonic() - begun_s


@pytest.fixture
def ended() -> Iterator[None]:
    yield
    turns.end()


@pytest.mark.usefixtures("ended")
def test_a_locked_folder_ends_the_turn(tmp_path: Path) -> None:
    folder = OutputFolder.at(str(tmp_path / "out"))
    folder.create()
    assert taken_within_s(folder.root) < 5
    with folder.locked():
        pass
    assert taken_within_s(folder.root) < 5, "the first would still keep it waiting"


@pytest.mark.usefixtures("ended")
def test_neither_new_folders_beside_it_nor_locks_of_others_keep_it_waiting(tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    out = tmp_path / "out"
    out.mkdir()
    asked = os.open(out, os.O_RDONLY)  # flock -n out audio-batch run manifest.json -o out
    fcntl.flock(asked, fcntl.LOCK_EX)
    try:
        assert taken_within_s(out) < 5
    finally:
        os.close(asked)
    assert taken_within_s(tmp_path / "one") < 5
    assert taken_within_s(tmp_path / "other") < 5


@pytest.mark.parametrize(
    "line",
    [
        "status -o out",
        "run manifest.json",
        "run manifest.json -o",
        "run manifest.json -o out --help",
        "run manifest.json -o out --shard 1/2",
        "run manifest.json -o out --shard=1/2",
        "run manifest.json -o out -o elsewhere",
        "run -- manifest.json -o out",
        "run manifest.json -o s3://bucket/out",
    ],
)
def test_what_else_is_asked_waits_for_nobody(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with OutputFolder.at("out").locked():
        turns.take(line.split())
        with pytest.raises(LockedError):
            turns.take(["run", "manifest.json", "-o", "out"])


def test_a_settings_file_may_say_that_this_is_a_shard(tmp_path: Path) -> None:
    one = OutputFolder.at(str(tmp_path), shard="1/2")
    whole = OutputFolder.at(str(tmp_path))
    with one.locked():
        assert (whole.state / "run.lock").is_file(), "a shard has looked at it"
        whole.refuse_second()
        with pytest.raises(LockedError):
            one.refuse_second()
    with whole.locked(), pytest.raises(LockedError):
        whole.refuse_second()
