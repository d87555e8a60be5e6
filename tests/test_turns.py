"""Many starts at one moment: one goes ahead, the others wait, and import nothing meanwhile."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from program import environment

from audio_batch import turns
from audio_batch.errors import LockedError
from audio_batch.output_folder import OutputFolder

pytestmark = pytest.mark.skipif(os.name == "nt", reason="folders cannot be locked there")

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


def test_a_locked_folder_ends_the_turn(tmp_path: Path) -> None:
    folder = OutputFolder.at(str(tmp_path / "out"))
    folder.create()
    turns.take(["run", "manifest.json", f"--output-dir={tmp_path / 'out'}"])
    asked = os.open(folder.root, os.O_RDONLY)
    fcntl = pytest.importorskip("fcntl")
    with pytest.raises(BlockingIOError):
        fcntl.flock(asked, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with folder.locked():
        fcntl.flock(asked, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(asked)


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
