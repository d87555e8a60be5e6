"""Whole runs on simulated unequal GPUs: each device does what the simulation has it do.

The null engine takes as long on a device as its model's name says. What is compared is who did
what; how long it took is for `scripts/bench_schedule.py`.
"""

from __future__ import annotations

import collections
import json
from pathlib import Path
from typing import Any

import faulty_engine
import pytest
import stub_nvml
from forked import completed
from program import environment, write_manifest

from audio_batch.engines.null import NullCosts
from audio_batch.errors import UsageError
from audio_batch.journal import Journal, JournalEntry
from audio_batch.models import null_model
from audio_batch.schedule.simulation import SimulatedDevice, SimulatedJob, simulate
from audio_batch.schedule.speeds import DeviceSpeed, Speeds

FAST_MS, SLOW_MS = 500, 2750


def run(
    stub_dir: Path, folder: Path, *arguments: object, faults: dict[str, Any] | None = None
) -> list[JournalEntry]:
    """Do the manifest in `folder` on a fast and a slow GPU; return what was done, as it began."""
    stub = stub_nvml.environment(stub_dir, [stub_nvml.gpu(0), stub_nvml.gpu(1)])
    given = {key: stub[key] for key in stub if "STUB" in key or key == "LD_LIBRARY_PATH"}
    night = (
        *("run", "manifest.json", "--engine", "null", "-o", "out", "--max-per-gpu", "1"),
        *("--model", f"null:cuda:0={FAST_MS},cuda:1={SLOW_MS}", "--prefetch", "0"),
        *("--overwrite", "--no-backup-copies", *arguments),
    )
    # Speeds that are learnt here are no other run's.
    variables = environment(**given, AUDIO_BATCH_CACHE_DIR=str(folder / "cache"))
    if faults is not None:
        plugin = faulty_engine.install(folder / "plugin")
        variables |= {**plugin, "FAULTY_ENGINE": json.dumps(faults)}
    answer = completed(night, folder, variables)
    assert answer.code == 0, answer.err
    entries = list(Journal(folder / "out/.audio-batch/journal.sqlite3", read_only=True).entries())
    last = max(entry.run_id for entry in entries)
    mine = [entry for entry in entries if entry.run_id == last]
    return sorted(mine, key=lambda entry: entry.started_at or 0.0)


def in_step(stub_dir: Path, folder: Path, policy: str, fast_ms: int) -> list[JournalEntry]:
    """Eight jobs: the slow GPU is done with one when the fast one begins its sixth.

    So however busy the machine is, and whichever of them is ready first.
    """
    write_manifest(folder, 8)
    told = str(folder / "begun")
    waits = {"cuda:0": [told, "cuda:1 begins", 1], "cuda:1": [told, "cuda:0 begins", 6]}
    more = ("--policy", policy, "--engine", "faulty", "--model", "faulty")
    faults = {"begins": told, "waits": waits, "delay_ms": fast_ms}
    return run(stub_dir, folder, *more, faults=faults)


def shares(entries: list[JournalEntry]) -> dict[str | None, int]:
    return dict(collections.Counter(entry.device for entry in entries))


def simulated(policy: str, count: int) -> dict[str | None, int]:
    """What each device does where nothing is known of them at first."""
    devices = [
        SimulatedDevice(name, 1, DeviceSpeed(0.0, {1: ms / 1000.0}))
        for name, ms in (("cuda:0", FAST_MS), ("cuda:1", SLOW_MS))
    ]
    jobs = [SimulatedJob(str(number), 1.0) for number in range(count)]
    timeline = simulate(jobs, devices, policy, speeds=Speeds())
    return {device.id: timeline.jobs(device.id) for device in devices}


def test_the_slow_gpu_stays_idle_at_the_end_as_in_the_simulation(
    stub_dir: Path, tmp_path: Path
) -> None:
    done = in_step(stub_dir, tmp_path, "earliest-finish", fast_ms=300)
    assert shares(done) == simulated("earliest-finish", 8) == {"cuda:0": 7, "cuda:1": 1}


@pytest.mark.slow
def test_the_next_run_knows_the_slow_gpu_from_its_beginning(stub_dir: Path, tmp_path: Path) -> None:
    model = ("--policy", "earliest-finish", "--model", "null:cuda:0=0.3x,cuda:1=3x")
    write_manifest(tmp_path, 2, duration_s=1.0)
    assert shares(run(stub_dir, tmp_path, *model)) == {"cuda:0": 1, "cuda:1": 1}
    manifest = write_manifest(tmp_path, 2, duration_s=3.0)
    # So long that the fast one is waited for even if it is ready a little after the slow one.
    assets = json.loads(manifest.read_text())["assets"]
    manifest.write_text(json.dumps({"assets": [{**asset, "duration_s": 3.0} for asset in assets]}))
    assert shares(run(stub_dir, tmp_path, *model)) == {"cuda:0": 2}


@pytest.mark.slow
def test_first_come_gives_the_slow_gpu_the_last_job_as_in_the_simulation(
    stub_dir: Path, tmp_path: Path
) -> None:
    done = in_step(stub_dir, tmp_path, "first-come", fast_ms=2000)
    assert shares(done) == simulated("first-come", 8) == {"cuda:0": 6, "cuda:1": 2}


def test_the_longest_goes_first_unless_somebody_asks_for_an_order(
    stub_dir: Path, tmp_path: Path
) -> None:
    write_manifest(tmp_path, 4, duration_s=1.0)  # each a little longer than the one before
    one = ("-d", "cuda:0", "--model", "null:30", "--isolation", "thread")
    longest = [entry.asset_id for entry in run(stub_dir, tmp_path, *one)]
    assert longest == ["tone-003", "tone-002", "tone-001", "tone-000"]
    asked = [entry.asset_id for entry in run(stub_dir, tmp_path, *one, "--order", "manifest")]
    assert asked == sorted(longest)


# -- what the null engine costs -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "device", "seconds"),
    [
        ("null", "cpu", 0.0),
        ("null:50", "cuda:3", 0.05),
        ("null:0.01x", "cpu", 0.1),
        ("null:20+0.01x", "cpu", 0.12),
        ("null:cuda:0=8000,cuda:1=24000", "cuda:1", 24.0),
        ("null:cuda:0=8000,cuda:1=24000", "cpu", 0.0),
        ("null:cuda:0=20+0.01x,cpu=0.5x,7", "cuda:0", 0.12),
        ("null:cuda:0=20+0.01x,cpu=0.5x,7", "cpu", 5.0),
        ("null:cuda:0=20+0.01x,cpu=0.5x,7", "cuda:1", 0.007),
    ],
)
def test_ten_seconds_of_audio_cost_what_the_name_says(
    name: str, device: str, seconds: float
) -> None:
    assert null_model(name).name == name
    assert NullCosts.parse(name).on(device).of(10.0) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "name",
    [
        *("null:soon", "null:-5", "null:1e3", "null:x", "null:0.01x+20"),
        *("null:5,", "null:5,6", "null:cuda:0", "null:gpu=5", "null:cuda:=5"),
        "null:cuda:0=1,cuda:0=2",
    ],
)
def test_a_cost_that_cannot_be_understood_is_said_with_the_ways_to_write_it(name: str) -> None:
    with pytest.raises(UsageError, match=r"null:0\.01x"):
        null_model(name)
