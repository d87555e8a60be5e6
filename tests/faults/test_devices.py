"""Devices that die, are lost or come back, on simulated GPUs: real pynvml, real processes."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

import faulty_engine
import pytest
import stub_nvml
from forked import completed
from program import Answer, environment, write_manifest

from audio_batch.journal import Journal
from audio_batch.outcome import State


def night(
    folder: Path, stub_dir: Path, gpus: int, faults: dict[str, Any], *arguments: object
) -> Answer:
    """A run with a process for each of so many simulated GPUs."""
    stub = stub_nvml.environment(stub_dir, [stub_nvml.gpu(number) for number in range(gpus)])
    given = {key: value for key, value in stub.items() if "STUB" in key or "CUDA" in key}
    variables = environment(
        **given,
        LD_LIBRARY_PATH=stub["LD_LIBRARY_PATH"],
        **faulty_engine.install(folder / "plugin"),
        FAULTY_ENGINE=json.dumps(faults),
        AUDIO_BATCH_CACHE_DIR=str(folder / "cache"),
    )
    run = ("run", "manifest.json", "--engine", "faulty", "--no-diarize", "-o", "out")
    given_too = ("--retry-delay", "0.01", "--max-per-gpu", "2", *arguments)
    answer = completed([*run, *given_too], folder, variables)
    assert "Traceback" not in answer.err, answer.err
    return answer


def begins(folder: Path, wait: dict[str, tuple[str, int]], **faults: Any) -> dict[str, Any]:
    """Faults; and what a device does waits until another one has begun so many recordings."""
    told = str(folder / "begun")
    waits = {device: [told, f"{other} begins", count] for device, (other, count) in wait.items()}
    return {"begins": told, "waits": waits, **faults}


def devices_of_done(folder: Path) -> Counter[str]:
    journal = Journal(folder / "out/.audio-batch/journal.sqlite3", read_only=True)
    entries = list(journal.entries())
    journal.close()
    assert {entry.state for entry in entries} == {State.DONE}
    return Counter(entry.device or "" for entry in entries)


def summary(folder: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((folder / "out/summary.json").read_text())
    return read


def test_a_device_that_dies_half_way_costs_no_asset(stub_dir: Path, tmp_path: Path) -> None:
    write_manifest(tmp_path, 24)
    # The others leave it enough to die of, and the end of it to see.
    wait = {"cuda:0": ("cuda:1", 4), "cuda:2": ("cuda:1", 4)}
    faults = begins(tmp_path, wait, delay_ms=20, dies_after={"cuda:1": 3})
    # It survives three recordings each time it is begun: deaths in a row need one to be enough.
    answer = night(tmp_path, stub_dir, 3, faults, "--max-restarts", "1")
    assert answer.code == 0, answer.err
    assert "cuda:1" in answer.err
    assert "taken out" in answer.err
    done = devices_of_done(tmp_path)
    assert sum(done.values()) == 24
    assert set(done) <= {"cuda:0", "cuda:1", "cuda:2"}
    assert done["cuda:1"] <= 3
    assert list(summary(tmp_path)["devices_out"]) == ["cuda:1"]


@pytest.mark.slow
def test_a_lost_device_can_be_made_a_failure(stub_dir: Path, tmp_path: Path) -> None:
    write_manifest(tmp_path, 16)
    faults = {"delay_ms": 400, "cannot_load": ["cuda:1"]}
    answer = night(tmp_path, stub_dir, 2, faults, "--fail-on-degraded")
    assert answer.code == 3, answer.err
    assert set(devices_of_done(tmp_path)) == {"cuda:0"}
    assert summary(tmp_path)["exit_code"] == 3


def test_a_lost_cuda_context_comes_back_with_a_new_process(stub_dir: Path, tmp_path: Path) -> None:
    """A sticky error spoils the process, not the GPU."""
    write_manifest(tmp_path, 12)
    faults = {"delay_ms": 50, "lost_after": {"cuda:0": 4}}
    answer = night(tmp_path, stub_dir, 1, faults)
    assert answer.code == 0, answer.err
    assert "lost its CUDA context" in answer.err
    assert devices_of_done(tmp_path) == {"cuda:0": 12}
    assert summary(tmp_path)["devices_out"] == {}


def test_a_device_that_cannot_load_is_left_out(stub_dir: Path, tmp_path: Path) -> None:
    write_manifest(tmp_path, 6)
    # It goes on when the others are known to be none.
    log = tmp_path / "night.log"
    faults = {
        "cannot_load": ["cuda:0"],
        "abort_loading": ["cuda:2"],
        "waits": {"cuda:1": [str(log), "is taken out", 2]},
    }
    more = ("--max-restarts", "1", "--log-file", log)
    answer = night(tmp_path, stub_dir, 3, faults, *more)
    assert answer.code == 0, answer.err
    assert devices_of_done(tmp_path) == {"cuda:1": 6}
    assert set(summary(tmp_path)["devices_out"]) == {"cuda:0", "cuda:2"}


def test_the_cpu_takes_over_only_if_it_may(stub_dir: Path, tmp_path: Path) -> None:
    write_manifest(tmp_path, 6)
    faults = {"cannot_load": ["cuda:0"]}
    answer = night(tmp_path, stub_dir, 1, faults)
    assert answer.code == 5, answer.err
    answer = night(tmp_path, stub_dir, 1, faults, "--cpu-fallback")
    assert answer.code == 0, answer.err
    assert "goes on with the CPU" in answer.err
    assert devices_of_done(tmp_path) == {"cpu": 6}


def test_the_last_device_is_not_given_up_for_what_assets_do(stub_dir: Path, tmp_path: Path) -> None:
    write_manifest(tmp_path, 10)
    faults = {"abort": [1, 3, 5, 7], "delay_ms": 20}
    answer = night(tmp_path, stub_dir, 1, faults, "--max-restarts", "2", "--max-attempts", "2")
    assert answer.code == 3, answer.err
    journal = Journal(tmp_path / "out/.audio-batch/journal.sqlite3", read_only=True)
    states = Counter(entry.state for entry in journal.entries())
    assert states == {State.DONE: 6, State.QUARANTINED: 4}


def test_a_suspect_is_tried_elsewhere(stub_dir: Path, tmp_path: Path) -> None:
    write_manifest(tmp_path, 8)
    wait = {"cuda:0": ("cuda:1", 1), "cuda:1": ("cuda:0", 1)}
    answer = night(tmp_path, stub_dir, 2, begins(tmp_path, wait, abort=[2]))
    assert answer.code == 3, answer.err
    db = sqlite3.connect(tmp_path / "out/.audio-batch/journal.sqlite3")
    rows = db.execute("SELECT device FROM attempts WHERE asset_id = 'tone-002'").fetchall()
    db.close()
    assert {device for (device,) in rows} == {"cuda:0", "cuda:1"}


def test_models_that_do_not_fit_are_loaded_smaller(stub_dir: Path, tmp_path: Path) -> None:
    write_manifest(tmp_path, 4)
    answer = night(tmp_path, stub_dir, 1, {"fits": ["int8_float16"]})
    assert answer.code == 0, answer.err
    assert "int8_float16 instead of float16" in answer.err
    assert devices_of_done(tmp_path) == {"cuda:0": 4}
    answer = night(tmp_path, stub_dir, 1, {"fits": []}, "--overwrite")
    assert answer.code == 5, answer.err
    assert "does not fit" in answer.err


@pytest.mark.slow
def test_the_last_device_is_given_up_when_it_says_itself_that_it_fails(
    stub_dir: Path, tmp_path: Path
) -> None:
    write_manifest(tmp_path, 6)
    answer = night(tmp_path, stub_dir, 1, {"lost_after": {"cuda:0": 0}}, "--max-restarts", "3")
    assert answer.code == 5, answer.err
    assert "No device is left" in answer.err
    assert night(tmp_path, stub_dir, 1, {}).code == 0


def test_an_asset_that_always_loses_the_context_fails_alone(stub_dir: Path, tmp_path: Path) -> None:
    write_manifest(tmp_path, 5)
    answer = night(tmp_path, stub_dir, 1, {"lose_context": [2]})
    assert answer.code == 3, answer.err
    journal = Journal(tmp_path / "out/.audio-batch/journal.sqlite3", read_only=True)
    states = {entry.asset_id: entry for entry in journal.entries()}
    bad = states.pop("tone-002")
    assert (bad.state, bad.error_kind) == (State.FAILED, "device")
    assert {entry.state for entry in states.values()} == {State.DONE}


def test_a_library_that_ends_every_process_is_not_the_recordings_fault(
    stub_dir: Path, tmp_path: Path
) -> None:
    write_manifest(tmp_path, 9)
    answer = night(tmp_path, stub_dir, 1, {"dies_after": {"cuda:0": 0}}, "--max-per-gpu", "1")
    assert answer.code == 5, answer.err
    journal = Journal(tmp_path / "out/.audio-batch/journal.sqlite3", read_only=True)
    assert {entry.deaths for entry in journal.entries()} == {0}
    journal.close()
    assert night(tmp_path, stub_dir, 1, {}).code == 0
    assert devices_of_done(tmp_path) == {"cuda:0": 9}


def test_a_device_that_hangs_while_it_loads_holds_up_nobody(stub_dir: Path, tmp_path: Path) -> None:
    write_manifest(tmp_path, 6)
    answer = night(tmp_path, stub_dir, 2, {"hang_loading": ["cuda:1"]})
    assert answer.code == 0, answer.err
    assert devices_of_done(tmp_path) == {"cuda:0": 6}


def test_a_run_ends_when_only_suspects_and_no_device_are_left(
    stub_dir: Path, tmp_path: Path
) -> None:
    write_manifest(tmp_path, 4)
    faults = {"abort": [3], "loads_once": ["cuda:0"], "marks": str(tmp_path)}
    answer = night(tmp_path, stub_dir, 1, faults, "--max-restarts", "2")
    assert answer.code == 5, answer.err
    assert "No device is left to work on" in answer.err
    assert night(tmp_path, stub_dir, 1, {}).code == 0


def test_a_library_that_wants_to_end_the_program_fails_its_asset(
    stub_dir: Path, tmp_path: Path
) -> None:
    write_manifest(tmp_path, 4)
    answer = night(tmp_path, stub_dir, 1, {"leave": [1]})
    assert answer.code == 3, answer.err
    assert "Unexpected SystemExit" in answer.err


def test_models_that_never_load_are_given_up(stub_dir: Path, tmp_path: Path) -> None:
    write_manifest(tmp_path, 2)
    faults = {"hang_loading": ["cuda:0"]}
    limits = ("--stall-timeout", "3s", "--max-restarts", "1")
    answer = night(tmp_path, stub_dir, 1, faults, *limits)
    assert answer.code == 5, answer.err
    assert "has not loaded its models within 3 s" in answer.err
