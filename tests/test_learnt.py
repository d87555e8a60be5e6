"""What was learnt of devices' speeds: kept, found again, merged, and never in a run's way."""

from __future__ import annotations

import dataclasses
import json
import logging
import platform
import subprocess
import sys
import time
from pathlib import Path

import pytest
from program import environment

from audio_batch.gpu.devices import CPU, Device
from audio_batch.kept_file import MAX_AGE_S
from audio_batch.learnt import Learnt, LearntSpeeds, SpeedKey, device_key
from audio_batch.remembered import Remembered
from audio_batch.schedule.speeds import DeviceSpeed

GPU = "GPU-00000000-1111-4222-8333-000000000000"
KEY = SpeedKey(GPU, "abc", "auto", None, ("transcribe", "diarize"), 2)
SPEED = DeviceSpeed(fixed_s=1.5, per_audio_s={1: 0.02, 2: 0.03}, jobs=9)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AUDIO_BATCH_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def learnt(key: SpeedKey = KEY, *, age_s: float = 0.0, jobs: int = 9) -> Learnt:
    stages = {"transcribe": 0.012, "diarize": 0.008}
    found = Learnt.of(
        key,
        dataclasses.replace(SPEED, jobs=jobs),
        stage_per_audio_s=stages,
        device_name="RTX 3090",
        model_name="large-v3",
    )
    return dataclasses.replace(found, learnt_at=time.time() - age_s)


def test_what_one_run_learnt_the_next_one_begins_with(folder: Path) -> None:
    first = LearntSpeeds.load()
    assert first.lookup(KEY) is None and not folder.exists()
    kept = learnt()
    first.keep(kept)
    found = LearntSpeeds.load().lookup(KEY)
    assert found == kept
    assert found is not None and found.speed == SPEED
    assert found.rtfx(2) == pytest.approx(2 / 0.03)
    assert [path.name for path in folder.glob("*.json")] == ["speeds.json"]
    for other in (
        dataclasses.replace(KEY, device_uuid="cpu@here"),
        dataclasses.replace(KEY, model_identity="abd"),
        dataclasses.replace(KEY, compute_type="float16"),
        dataclasses.replace(KEY, batch_size=8),
        dataclasses.replace(KEY, stages=("transcribe",)),
        dataclasses.replace(KEY, slots=1),
    ):
        assert LearntSpeeds.load().lookup(other) is None


@pytest.mark.usefixtures("folder")
def test_the_nearest_number_of_slots_will_do_and_nothing_else() -> None:
    memory = LearntSpeeds.load()
    for slots, age_s in ((1, 0.0), (3, 50.0), (5, 10.0)):
        memory.keep(learnt(dataclasses.replace(KEY, slots=slots), age_s=age_s))
    nearest = {slots: memory.nearest(dataclasses.replace(KEY, slots=slots)) for slots in (1, 2, 9)}
    assert {slots: known and known.key.slots for slots, known in nearest.items()} == {
        1: 1,
        2: 1,  # as near as 3, and later
        9: 5,
    }
    assert memory.nearest(dataclasses.replace(KEY, stages=("transcribe",))) is None


@pytest.mark.usefixtures("folder")
def test_of_two_runs_about_one_thing_the_later_is_believed() -> None:
    early, late = LearntSpeeds.load(), LearntSpeeds.load()
    late.keep(learnt(jobs=50))
    early.keep(learnt(jobs=3, age_s=600))
    assert early.lookup(KEY) == late.lookup(KEY)
    kept = LearntSpeeds.load().lookup(KEY)
    assert kept is not None and kept.jobs == 50


@pytest.mark.usefixtures("folder")
def test_a_clock_that_was_wrong_does_not_keep_what_is_new_out() -> None:
    memory = LearntSpeeds.load()
    memory.keep(learnt(jobs=50, age_s=-86400))
    memory.keep(learnt(jobs=3))
    kept = LearntSpeeds.load().lookup(KEY)
    assert kept is not None and kept.jobs == 3


@pytest.mark.usefixtures("folder")
def test_old_speeds_are_dropped() -> None:
    memory = LearntSpeeds.load()
    old = dataclasses.replace(KEY, slots=1)
    memory.keep(learnt(old, age_s=MAX_AGE_S + 60), learnt())
    assert [known.key for known in LearntSpeeds.load().all()] == [KEY]


@pytest.mark.parametrize(
    "changes",
    [
        {"jobs": 0},
        {"per_audio_s": {}},
        {"per_audio_s": {1: 0.0}},
        {"per_audio_s": {1: float("inf")}},
        {"per_audio_s": {1: float("nan")}},
        {"per_audio_s": {0: 0.1}},
        {"fixed_s": -1.0},
        {"fixed_s": float("nan")},
        {"stage_per_audio_s": {"lunch": 0.1}},
    ],
)
def test_what_no_schedule_can_reckon_with_is_neither_kept_nor_believed(
    folder: Path, changes: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    unsound = dataclasses.replace(learnt(), **changes)  # type: ignore[arg-type]
    memory = LearntSpeeds.load()
    memory.keep(unsound)
    assert memory.lookup(KEY) is None and not folder.exists() and not caplog.records
    folder.mkdir()
    body = {"schema_version": 1, "speeds": [dataclasses.asdict(unsound)]}
    (folder / "speeds.json").write_text(json.dumps(body))
    assert LearntSpeeds.load().all() == []
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "speeds.json is damaged: how fast devices were found to be is lost." in caplog.text
    assert (folder / "speeds.damaged.json").exists() and not (folder / "speeds.json").exists()


def test_a_file_that_tells_more_than_is_asked_is_read(folder: Path) -> None:
    """Files from before have a `peak_bytes` with each speed."""
    folder.mkdir()
    kept = learnt()
    body = {"schema_version": 1, "speeds": [{**dataclasses.asdict(kept), "peak_bytes": 7 * 10**9}]}
    (folder / "speeds.json").write_text(json.dumps(body))
    memory = LearntSpeeds.load()
    assert memory.lookup(KEY) == kept and not memory.problem


def test_the_two_files_know_nothing_of_each_other(folder: Path) -> None:
    LearntSpeeds.load().keep(learnt())
    (folder / "devices.json").write_text("damaged")
    assert LearntSpeeds.load().lookup(KEY) is not None
    assert Remembered.look().forget() == 0
    assert LearntSpeeds.look().forget() == 1
    assert LearntSpeeds.load().all() == []


KEEPING = """
import dataclasses, logging, sys
from test_learnt import KEY, learnt
from audio_batch.learnt import LearntSpeeds
memory = LearntSpeeds.load()
print("ready", flush=True)
sys.stdin.readline()
refused = []
logging.getLogger("audio_batch.setup").addFilter(lambda record: refused.append(record.getMessage()))
for slots in range(1, 11):
    kept = learnt(dataclasses.replace(KEY, model_identity=sys.argv[1], slots=slots))
    memory.keep(kept)
    while refused:  # a run waits for two seconds, which may be too short on a busy machine
        assert "held by another program" in refused.pop(), refused
        memory = LearntSpeeds.load()
        memory.keep(kept)
"""


def test_runs_that_end_at_the_same_time_lose_nothing(
    folder: Path, children: list[subprocess.Popen[str]]
) -> None:
    here = str(Path(__file__).parent)
    for name in ("a", "b"):
        process = subprocess.Popen(
            [sys.executable, "-c", KEEPING, name],
            env=environment(AUDIO_BATCH_CACHE_DIR=str(folder), PYTHONPATH=here),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        children.append(process)
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in children:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    assert [process.wait(180) for process in children] == [0, 0]
    known = {(one.key.model_identity, one.key.slots) for one in LearntSpeeds.load().all()}
    assert known == {(name, slots) for name in ("a", "b") for slots in range(1, 11)}


def test_a_board_has_its_own_name_and_a_processor_its_machines() -> None:
    gpu = Device("cuda:0", "cuda", 0, GPU, "RTX 3090", (8, 6))
    assert device_key(gpu) == GPU
    assert device_key(CPU) == f"cpu@{platform.node()}"
