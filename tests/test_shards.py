"""`--shard i/n`: parts of one manifest, done by processes that know nothing of each other."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import faulty_engine
import pytest
from program import Answer, command, environment, text_outputs, write_manifest
from shipped import EXAMPLES, NULL, executable, install, with_path

from audio_batch.errors import UsageError
from audio_batch.shards import Shard

COUNT = 24
FORMATS = ("-f", "txt,json")

# ---- Which part an asset is of


@pytest.mark.parametrize(
    ("asset_id", "of_2", "of_4", "of_7", "of_100"),
    [
        ("a", 1, 3, 5, 51),
        ("asset-1", 1, 1, 1, 53),
        ("tone-000", 2, 4, 2, 32),
        ("\u00e9", 2, 4, 4, 52),
        ("x/y", 2, 2, 4, 90),
    ],
)
def test_a_part_is_the_same_for_ever(
    asset_id: str, of_2: int, of_4: int, of_7: int, of_100: int
) -> None:
    """The numbers are SHA-256's, not this machine's: a change would do half of all runs again."""
    for count, index in ((2, of_2), (4, of_4), (7, of_7), (100, of_100)):
        assert [n for n in range(1, count + 1) if Shard(n, count).takes(asset_id)] == [index]


def test_parts_are_a_partition_of_about_the_same_size() -> None:
    ids = [f"asset-{number}" for number in range(4000)]
    for count in (1, 3, 8):
        parts = [
            {asset_id for asset_id in ids if Shard(index, count).takes(asset_id)}
            for index in range(1, count + 1)
        ]
        assert sum(map(len, parts)) == len(ids)
        assert set.union(*parts) == set(ids)
        assert all(abs(len(part) - 4000 / count) < 200 for part in parts)


def test_what_is_no_part_is_told() -> None:
    assert Shard.parse(" 2/4 ") == Shard(2, 4)
    assert Shard.parse("02/4").tag == "2-of-4"
    assert str(Shard(2, 4)) == "2/4"
    for text in ("", "2", "/4", "2/", "a/b", "2/4/8", "-1/4", "2:4", "\u0662/4", "1.0/4"):
        with pytest.raises(UsageError, match="not of the form i/n"):
            Shard.parse(text)
    for text in ("0/4", "5/4"):
        with pytest.raises(UsageError, match=r"the parts are 1/4 to 4/4"):
            Shard.parse(text)
    for text in ("0/0", "1/0", "1/100001"):
        with pytest.raises(UsageError, match="there can be"):
            Shard.parse(text)


# ---- Runs


def begun(folder: Path, shard: str, held: Iterable[int] = ()) -> subprocess.Popen[str]:
    """A run of a part; it never comes to an end with those of the numbers `held`."""
    words = ["run", "manifest.json", "-o", "out", "-y", *FORMATS, "--order", "manifest"]
    # What is read ahead may be heard before what has begun: nobody would then pass the held ones.
    words += ["--prefetch", "0", "--max-per-gpu", "1"]
    faults = {"hold": list(held), "until": str(folder / "never")}
    env = environment(**faulty_engine.install(folder / "plugin"), FAULTY_ENGINE=json.dumps(faults))
    return subprocess.Popen(
        command(*words, "--engine", "faulty", "--shard", shard),
        cwd=folder,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finished(processes: Iterable[subprocess.Popen[str]]) -> None:
    for process in processes:
        text, _ = process.communicate(timeout=240)
        assert process.returncode == 0, text


def status(cli: Callable[..., Answer]) -> dict[str, Any]:
    answer = cli("status", "out", "--json")
    assert answer.code == 0, answer.err
    body: dict[str, Any] = json.loads(answer.out)
    return body


def ids_of(body: dict[str, Any], state: str = "done") -> list[str]:
    return sorted(asset["asset_id"] for asset in body["assets"] if asset["state"] == state)


@pytest.mark.skipif(os.name != "posix", reason="kills by process group")
def test_four_parts_at_once(
    tmp_path: Path, cli: Callable[..., Answer], children: list[subprocess.Popen[str]]
) -> None:
    """A partition; one of them killed and run again; one look at all; three parts afterwards."""
    write_manifest(tmp_path, COUNT)
    every = [f"tone-{number:03d}" for number in range(COUNT)]
    victims = [asset_id for asset_id in every if Shard(4, 4).takes(asset_id)]
    slow = begun(tmp_path, "4/4", held=(int(asset_id[-3:]) for asset_id in victims[1:]))
    children.append(slow)
    mine = [tmp_path / "out" / f"{asset_id}.txt" for asset_id in victims]
    three = [begun(tmp_path, f"{index}/4") for index in (1, 2, 3)]
    children.extend(three)
    while not any(path.exists() for path in mine):
        assert slow.poll() is None, slow.communicate()[0]
        time.sleep(0.05)
    os.killpg(slow.pid, signal.SIGKILL)
    slow.communicate()
    finished(three)

    body = status(cli)
    others = [asset_id for asset_id in every if asset_id not in victims]
    assert set(others) <= set(ids_of(body)) < set(every)
    assert [part["shard"] for part in body["parts"]] == ["1/4", "2/4", "3/4", "4/4"]
    assert [part["last_run"]["exit_code"] for part in body["parts"]] == [0, 0, 0, None]
    again = begun(tmp_path, "4/4")
    children.append(again)
    finished([again])

    body = status(cli)
    assert ids_of(body) == every, "each once, nothing besides"
    assert body["counts"]["done"] == COUNT
    assert body["parts_not_begun"] == []
    outputs = text_outputs(tmp_path / "out", (".txt", ".json"))
    texts = {Path(name).stem for name in outputs if name.endswith(".txt")}
    assert texts == set(every)
    for index in range(1, 5):
        summary = json.loads((tmp_path / f"out/summary.{index}-of-4.json").read_text("utf-8"))
        part = sum(Shard(index, 4).takes(asset_id) for asset_id in every)
        assert (summary["selected"], summary["not_done"]) == (part, 0)

    # Another number of parts later: what is there is taken over, and nothing is done again.
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("tone-*")}
    three = [begun(tmp_path, f"{index}/3") for index in (1, 2, 3)]
    children.extend(three)
    finished(three)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("tone-*")} == times
    body = status(cli)
    assert ids_of(body) == every
    assert body["counts"]["done"] == COUNT


def test_a_part_runs_once_at_a_time(
    tmp_path: Path, cli: Callable[..., Answer], children: list[subprocess.Popen[str]]
) -> None:
    write_manifest(tmp_path, 6)
    first = begun(tmp_path, "1/2", held=range(6))
    children.append(first)
    while not (tmp_path / "out/.audio-batch/shards/1-of-2/journal.sqlite3").exists():
        assert first.poll() is None, first.communicate()[0]
        time.sleep(0.05)
    second = cli("run", "manifest.json", "-o", "out", "--shard", "1/2", env=NULL)
    assert second.code == 11, second.err
    first.kill()
    first.communicate()


def test_a_wrong_part_is_a_slip(tmp_path: Path, cli: Callable[..., Answer]) -> None:
    write_manifest(tmp_path, 1)
    answer = cli("run", "manifest.json", "-o", "out", "--shard", "5/4", env=NULL)
    assert answer.code == 2
    assert "the parts are 1/4 to 4/4" in answer.err
    assert not (tmp_path / "out").exists()


# ---- Slurm

SBATCH = EXAMPLES / "slurm/shards.sbatch"
needs_bash = pytest.mark.skipif(
    os.name != "posix" or shutil.which("bash") is None, reason="needs bash"
)


def slurm_task(folder: Path, tools: Path, index: int, **more: str) -> subprocess.Popen[str]:
    """One job of the array, as slurmd starts it."""
    script = folder / f"slurm_script_{index}"
    script.write_bytes(SBATCH.read_bytes())
    array = {
        "SLURM_JOB_ID": str(77 + index),
        "SLURM_ARRAY_JOB_ID": "77",
        "SLURM_ARRAY_TASK_ID": str(index),
        "SLURM_ARRAY_TASK_MIN": "1",
        "SLURM_ARRAY_TASK_COUNT": "4",
        "STUB_LOG": str(folder / "stub.log"),
        **more,
    }
    return subprocess.Popen(
        ["bash", str(script), "manifest.json", "out"],
        cwd=folder,
        env=with_path(tools, **array),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


@needs_bash
def test_a_slurm_array_does_all_parts(
    tmp_path: Path, cli: Callable[..., Answer], children: list[subprocess.Popen[str]]
) -> None:
    write_manifest(tmp_path, 8, duration_s=0.1)
    tools = tmp_path / "bin"
    install(tools)
    jobs = [slurm_task(tmp_path, tools, index, **NULL) for index in range(1, 5)]
    children.extend(jobs)
    finished(jobs)
    assert ids_of(status(cli)) == [f"tone-{number:03d}" for number in range(8)]


@needs_bash
def test_a_slurm_job_of_the_array_goes_on_in_a_next_one(
    tmp_path: Path, children: list[subprocess.Popen[str]]
) -> None:
    tools = tmp_path / "bin"
    executable(tools / "scontrol", '#!/bin/sh\necho "scontrol $*" >>"$STUB_LOG"\n')
    executable(tools / "audio-batch", '#!/bin/sh\nprintf "<%s>" "$@" >>"$STUB_LOG"\nexit 130\n')
    ends = str(int(time.time()) + 3600)
    job = slurm_task(tmp_path, tools, 3, SLURM_JOB_END_TIME=ends)
    children.append(job)
    text, _ = job.communicate(timeout=120)
    assert job.returncode == 130, text
    told = (tmp_path / "stub.log").read_text(encoding="utf-8")
    assert told.startswith("<run><manifest.json><-o><out><-y><--shard><3/4><--max-runtime><3")
    assert told.endswith("scontrol requeue 77_3\n")
    # One part again, by itself: how many there are must be said.
    alone = {"SLURM_ARRAY_TASK_MIN": "3", "SLURM_ARRAY_TASK_COUNT": "1"}
    unsaid = slurm_task(tmp_path, tools, 3, **alone)
    children.append(unsaid)
    text, _ = unsaid.communicate(timeout=120)
    assert (unsaid.returncode, "set SHARDS" in text) == (2, True)
    said = slurm_task(tmp_path, tools, 3, SHARDS="4", **alone)
    children.append(said)
    said.communicate(timeout=120)
    calls = [line for line in (tmp_path / "stub.log").read_text().split("<run>") if line]
    assert ["<--shard><3/4>" in call for call in calls] == [True, True]


def test_the_slurm_array_asks_for_a_warning_in_time() -> None:
    lines = SBATCH.read_text(encoding="utf-8").splitlines()
    directives = [line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH ")]
    assert {"array=1-4", "signal=B:USR1@120", "requeue"} <= set(directives)
    assert "singleton" not in "\n".join(directives), "the jobs of an array are of one name"
    assert not [line for line in lines[lines.index("set -u") :] if line.startswith("#SBATCH")]
