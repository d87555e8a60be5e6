"""`audio-batch gpus`: the devices as they are, and the speeds that were learnt of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import stub_nvml
from program import Answer
from stub_nvml import GIB, StubGpu, gpu

from audio_batch.gpu.devices import CPU
from audio_batch.learnt import Learnt, LearntSpeeds, SpeedKey, device_key
from audio_batch.schedule.speeds import DeviceSpeed

Cli = Callable[..., Answer]
Stub = Callable[..., dict[str, str]]

UNEQUAL = [
    gpu(0, name="NVIDIA GeForce GTX 1660", total_bytes=6 * GIB, free_bytes=5 * GIB, processes=2),
    gpu(1, utilization_pct=45, processes=-1),
]


@pytest.fixture
def stub(stub_dir: Path, tmp_path: Path) -> Stub:
    """The environment of a machine with these GPUs, and a cache of its own."""

    def make(gpus: Sequence[StubGpu] = (), **more: Any) -> dict[str, str]:
        whole = stub_nvml.environment(stub_dir, gpus, **more)
        names = ("LD_LIBRARY_PATH", "STUB_NVML_SPEC", "STUB_CUDA_SPEC")
        kept = {name: whole[name] for name in names if name in whole}
        return {**kept, "AUDIO_BATCH_CACHE_DIR": str(tmp_path / "cache")}

    return make


def learn(folder: Path, monkeypatch: pytest.MonkeyPatch, *uuids: str) -> None:
    monkeypatch.setenv("AUDIO_BATCH_CACHE_DIR", str(folder))
    for uuid in uuids:
        LearntSpeeds.load().keep(
            Learnt.of(
                SpeedKey(uuid, "abc", "auto", 16, ("transcribe", "diarize"), 2),
                DeviceSpeed(1.5, {1: 0.02, 2: 0.025}, 9),
                stage_per_audio_s={"transcribe": 0.01, "diarize": 0.008},
                device_name=f"board of {uuid}",
                model_name="large-v3 \x1b[31m",
            )
        )


def ask(cli: Cli, env: dict[str, str], *arguments: object) -> dict[str, Any]:
    answer = cli("gpus", "--json", *arguments, env=env)
    assert answer.code == 0, answer.err
    body: dict[str, Any] = json.loads(answer.out)
    return body


def test_every_gpu_is_shown_as_it_is_with_the_cpu(cli: Cli, stub: Stub, tmp_path: Path) -> None:
    body = ask(cli, stub(UNEQUAL))
    assert (body["schema_version"], body["source"], body["problem"]) == (1, "nvml", "")
    first, second, host = body["devices"]
    assert first == {
        "id": "cuda:0",
        "cuda_index": 0,
        "uuid": UNEQUAL[0].uuid,
        "name": "NVIDIA GeForce GTX 1660",
        "compute_capability": [8, 6],
        "total_bytes": 6 * GIB,
        "free_bytes": 5 * GIB,
        "utilization_pct": 0.0,
        "processes": 2,
        "peak_core_hz": 10496 * 2100e6,
        "speeds": [],
    }
    assert (second["utilization_pct"], second["processes"]) == (45.0, None)
    assert host["id"] == "cpu" and 0 < host["free_bytes"] <= host["total_bytes"]
    assert not (tmp_path / "cache").exists()


def test_gpus_are_counted_as_cuda_does(cli: Cli, stub: Stub) -> None:
    body = ask(cli, stub(UNEQUAL, cuda_order=UNEQUAL[::-1]))
    assert [device["uuid"] for device in body["devices"]] == [
        UNEQUAL[1].uuid,
        UNEQUAL[0].uuid,
        None,
    ]
    assert [device["processes"] for device in body["devices"]] == [None, 2, None]


def test_no_gpu_is_no_error_and_a_broken_driver_is_told(cli: Cli, stub: Stub) -> None:
    body = ask(cli, stub([]))
    assert [device["id"] for device in body["devices"]] == ["cpu"]
    broken = stub(UNEQUAL, cuda_order=UNEQUAL, cuda_error=999)
    answer = cli("gpus", env=broken)
    assert answer.code == 0
    assert "No GPU can be used: the CUDA driver answers error 999" in answer.out
    assert "cuda:0" not in answer.out


def test_learnt_speeds_are_shown_by_device(
    cli: Cli, stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn(tmp_path / "cache", monkeypatch, UNEQUAL[1].uuid, device_key(CPU), "GPU-elsewhere")
    body = ask(cli, stub(UNEQUAL))
    assert [len(device["speeds"]) for device in body["devices"]] == [0, 1, 1]
    (speed,) = body["devices"][1]["speeds"]
    assert speed["rtfx"] == {"1": pytest.approx(50), "2": pytest.approx(80)}
    assert speed["per_audio_s"] == {"1": 0.02, "2": 0.025}
    assert speed["stage_per_audio_s"] == {"transcribe": 0.01, "diarize": 0.008}
    assert (speed["batch_size"], speed["slots"], speed["jobs"]) == (16, 2, 9)
    (other,) = body["speeds_of_other_devices"]
    assert other["name"] == "board of GPU-elsewhere"

    answer = cli("gpus", env={**stub(UNEQUAL), "COLUMNS": "200"})
    assert answer.code == 0 and "\x1b" not in answer.out
    for text in ("50 (1 at work)", "80 (2 at work)", "diarize 125", "1.5 s", "batch 16", "2 slots"):
        assert text in answer.out, text
    assert "1 more speed learnt on other devices" in answer.out


def test_speeds_are_forgotten_when_asked(
    cli: Cli, stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn(tmp_path / "cache", monkeypatch, UNEQUAL[0].uuid, UNEQUAL[1].uuid)
    answer = cli("gpus", "--forget", env=stub(UNEQUAL))
    assert answer.code == 0
    assert f"2 learnt speeds removed from {tmp_path / 'cache'}." in answer.out
    assert "No speeds are learnt on these devices yet" in answer.out
    assert LearntSpeeds.look().all() == []
    assert ask(cli, stub(UNEQUAL), "--forget")["forgotten"] == 0


def test_a_damaged_file_is_told_and_left_alone(cli: Cli, stub: Stub, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/speeds.json").write_text("{")
    answer = cli("gpus", env=stub(UNEQUAL))
    assert answer.code == 0 and "speeds.json is damaged" in answer.out
    assert (tmp_path / "cache/speeds.json").read_text() == "{"
