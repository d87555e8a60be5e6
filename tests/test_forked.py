"""What the tests begin by a fork is what `python -m audio_batch` begins."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import faulty_engine
import pytest
from forked import completed
from program import command, environment, write_manifest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


def started(arguments: list[str], folder: Path, env: dict[str, str]) -> tuple[int, str, str]:
    done = subprocess.run(
        command(*arguments), cwd=folder, env=env, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("arguments", "variables"),
    [
        (["--version"], {}),
        (["status", "no such folder"], {}),
        (["run"], {}),
        (["manifest", "schema"], {}),
        (["run", "manifest.json"], {"AUDIO_BATCH_ENGINE": "no such engine"}),
    ],
)
def test_it_says_and_answers_the_same(
    arguments: list[str], variables: dict[str, str], tmp_path: Path
) -> None:
    write_manifest(tmp_path, 2)
    env = environment(**variables)
    completed(["--version"], tmp_path, env)  # the second of an environment is the first that forks
    answer = completed(arguments, tmp_path, env)
    assert (answer.code, answer.out, answer.err) == started(arguments, tmp_path, env)


def test_an_engine_on_the_path_and_processes_that_it_begins(tmp_path: Path) -> None:
    write_manifest(tmp_path, 4)
    env = environment(
        **faulty_engine.install(tmp_path / "plugin"), FAULTY_ENGINE=json.dumps({"fail": [2]})
    )
    night = ["run", "manifest.json", "--engine", "faulty", "--isolation", "process", "-o", "out"]
    completed(["--version"], tmp_path, env)
    answer = completed([*night, "--max-attempts", "1"], tmp_path, env)
    assert answer.code == 3, answer.err
    assert len(list((tmp_path / "out").glob("*.txt"))) == 3


def test_what_does_not_end_in_time_is_killed(tmp_path: Path) -> None:
    write_manifest(tmp_path, 1)
    env = environment()
    completed(["--version"], tmp_path, env)
    night = ["run", "manifest.json", "--engine", "null", "--model", "null:600000", "-o", "out"]
    with pytest.raises(subprocess.TimeoutExpired):
        completed(night, tmp_path, env, timeout_s=2)
    assert completed(["--version"], tmp_path, env).code == 0
