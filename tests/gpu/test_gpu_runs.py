"""Whole runs on simulated GPUs: the real program, the real pynvml, the null engine."""

from __future__ import annotations

import collections
import json
import re
import threading
from pathlib import Path

import faulty_engine
import pytest
import stub_nvml
from attempt_rows import count_attempts
from forked import completed
from program import Answer, environment, write_manifest

from audio_batch.journal import Journal

_GPU_IS_LOST = 15
"""NVML's own code."""

STATUS = re.compile(r"GPU (\d+): (\d+)/(\d+) tasks")


def run(
    folder: Path, stub: dict[str, str], *arguments: object, engine: str = "null", **more: str
) -> Answer:
    keys = ("LD_LIBRARY_PATH", "STUB_NVML", "STUB_CUDA", "CUDA_VISIBLE_DEVICES")
    given = {key: value for key, value in stub.items() if key.startswith(keys) or "STUB" in key}
    night = ("run", "manifest.json", "--engine", engine, "-o", "out", *arguments)
    cache = str(folder / "cache")  # what other tests have learnt of these GPUs decides nothing
    return completed(night, folder, environment(AUDIO_BATCH_CACHE_DIR=cache, **given, **more))


def test_sixteen_threads_over_three_unequal_gpus_keep_their_caps(
    stub_dir: Path, tmp_path: Path
) -> None:
    """None of them is done before all of the slots have one: a device may be late to load."""
    write_manifest(tmp_path, 90)
    (tmp_path / "marks").mkdir()
    faults = {"meet": list(range(90)), "meets": 6, "marks": str(tmp_path / "marks")}
    gpus = [
        stub_nvml.gpu(0, utilization_pct=10),
        stub_nvml.gpu(1, name="NVIDIA GeForce GTX 1660", free_bytes=5 << 30),
        stub_nvml.gpu(2, utilization_pct=80),
    ]
    done = run(
        tmp_path,
        stub_nvml.environment(stub_dir, gpus),
        *("-t", "16", "--max-per-gpu", "3,2,1", "-v"),
        engine="faulty",
        **faulty_engine.install(tmp_path / "plugin"),
        FAULTY_ENGINE=json.dumps({**faults, "delay_ms": 40}),
    )
    assert done.code == 0, done.err
    seen = [
        (int(gpu), int(active), int(cap))
        for line in done.err.splitlines()
        for gpu, active, cap in STATUS.findall(line)
    ]
    assert {(gpu, cap) for gpu, _, cap in seen} == {(0, 3), (1, 2), (2, 1)}
    assert all(active <= cap for _, active, cap in seen)
    assert {gpu for gpu, active, cap in seen if active == cap} == {0, 1, 2}
    entries = list(Journal(tmp_path / "out/.audio-batch/journal.sqlite3").entries())
    used = collections.Counter(entry.device for entry in entries)
    assert sum(used.values()) == 90
    assert set(used) == {"cuda:0", "cuda:1", "cuda:2"}


def test_a_chosen_device_is_the_only_one_used(stub_dir: Path, tmp_path: Path) -> None:
    write_manifest(tmp_path, 4)
    stub = stub_nvml.environment(stub_dir, [stub_nvml.gpu(0), stub_nvml.gpu(1)])
    done = run(tmp_path, stub, "-d", "cuda:1", "--max-per-gpu", "2")
    assert done.code == 0, done.err
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert list(summary["devices"]) == ["cuda:1"]
    missing = run(tmp_path, stub, "-d", "cuda:2", "--overwrite")
    assert missing.code == 5
    assert "cuda:2" in missing.err


@pytest.mark.slow
def test_a_gpu_that_disappears_costs_no_asset(stub_dir: Path, tmp_path: Path) -> None:
    write_manifest(tmp_path, 12)
    stub = stub_nvml.environment(stub_dir, [stub_nvml.gpu(0), stub_nvml.gpu(1)])
    begins, log, over = tmp_path / "begins", tmp_path / "night.log", threading.Event()

    def disappear() -> None:
        """Once it is at work."""
        while not (begins.exists() and "cuda:1 begins" in begins.read_text()):
            if over.wait(0.02):
                return
        gone = stub_nvml.gpu(1, handle_error=_GPU_IS_LOST)
        stub_nvml.write_spec(Path(stub["STUB_NVML_SPEC"]), [stub_nvml.gpu(0), gone])

    # Nothing is done before it is known to be gone.
    wait = [str(log), "is taken out", 1]
    faults = {"begins": str(begins), "waits": {"cuda:0": wait, "cuda:1": wait}}
    other = threading.Thread(target=disappear)
    other.start()
    try:
        done = run(
            tmp_path,
            stub,
            *("--max-per-gpu", "2", "--log-file", log),
            engine="faulty",
            **faulty_engine.install(tmp_path / "plugin"),
            FAULTY_ENGINE=json.dumps(faults),
        )
    finally:
        over.set()
        other.join()
    assert done.code == 0, done.err
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["done"] == 12
    assert "cuda:1" in summary["devices_out"]
    assert "taken out" in done.err


def test_a_speech_engine_on_a_simulated_gpu_names_the_device_and_touches_nothing(
    stub_dir: Path, tmp_path: Path
) -> None:
    """There is no CUDA behind the stub: every device fails to load, which is exit 5."""
    write_manifest(tmp_path, 2)
    stub = stub_nvml.environment(stub_dir, [stub_nvml.gpu(0)])
    done = run(tmp_path, stub, "--model", "demo", engine="faster-whisper")
    assert done.code == 5, done.err
    assert "No device can run the model" in done.err
    assert count_attempts(tmp_path / "out/.audio-batch/journal.sqlite3") == 0
