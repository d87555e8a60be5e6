"""`audio-batch plan`: asked of real manifests on simulated machines, and it touches nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import stub_nvml
from program import Answer, write_manifest, write_tone
from stub_nvml import GIB, gpu

from audio_batch import models
from audio_batch.gpu.devices import CPU
from audio_batch.ladder import Rung
from audio_batch.learnt import Learnt, LearntSpeeds, SpeedKey, device_key
from audio_batch.remembered import Key, Remembered
from audio_batch.schedule.speeds import DeviceSpeed

Cli = Callable[..., Answer]

DEMO = models.find(models.DEMO)
GPUS = [gpu(0), gpu(1, name="GTX 1660", total_bytes=6 * GIB, free_bytes=5 * GIB, cores=1408)]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AUDIO_BATCH_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def two_gpus(stub_dir: Path) -> dict[str, str]:
    whole = stub_nvml.environment(stub_dir, GPUS)
    return {name: whole[name] for name in ("LD_LIBRARY_PATH", "STUB_NVML_SPEC")}


def plan(cli: Cli, *arguments: object, env: dict[str, str] | None = None) -> dict[str, Any]:
    cached = {"AUDIO_BATCH_CACHE_DIR": os.environ.get("AUDIO_BATCH_CACHE_DIR", "")}
    answer = cli("plan", "manifest.json", "--json", *arguments, env={**(env or {}), **cached})
    assert answer.code == 0, answer.err
    body: dict[str, Any] = json.loads(answer.out)
    return body


def learn(uuid: str, per_audio_s: float, *, batch_size: int | None = None) -> None:
    batch = DEMO.defaults.get("batch_size") if batch_size is None else batch_size
    LearntSpeeds.load().keep(
        Learnt.of(
            SpeedKey(uuid, DEMO.identity, "auto", batch, ("transcribe",), 1),
            DeviceSpeed(0.0, {1: per_audio_s}, 9),
            stage_per_audio_s={"transcribe": per_audio_s},
            device_name="",
            model_name="demo",
        )
    )


@pytest.mark.usefixtures("cache")
def test_a_guess_is_called_one_and_nothing_is_touched(
    cli: Cli, tmp_path: Path, two_gpus: dict[str, str]
) -> None:
    write_manifest(tmp_path, 5, duration_s=2)
    before = sorted(tmp_path.rglob("*"))
    body = plan(cli, "--model", "large-v3", "--no-diarize", env=two_gpus)
    assert sorted(tmp_path.rglob("*")) == before
    assert body["assets"] == 5 and body["audio_s"] == pytest.approx(10, abs=0.1)
    assert body["model"] == {
        "name": "large-v3",
        "here": False,
        "size_source": "the usual size of large",
    }
    fast, slow = body["devices"]
    assert fast["slots_that_fit"]["VRAM"] == 2
    assert slow["slots_that_fit"]["VRAM"] == 0 and slow["limited_by"] == "VRAM"
    assert {one["speed"]["basis"] for one in body["devices"]} == {"assumed"}
    assert slow["speed"]["rtfx"] == pytest.approx(fast["speed"]["rtfx"] * 1408 / 10496)
    assert body["speeds"]["basis"] == "assumed"
    assert "none are learnt on this machine yet" in body["speeds"]["text"]
    assert set(body["finish_s"]) == {"earliest-finish", "least-loaded", "first-come"}

    shown = cli("plan", "manifest.json", "-m", "large-v3", "--no-diarize", env=two_gpus)
    assert shown.code == 0 and "\x1b" not in shown.out
    assert "not on this machine yet: a run would fetch it" in shown.out
    assert "cuda:1: too little VRAM is free for this model." in shown.out
    assert "Speeds are unknown: none are learnt on this machine yet" in shown.out
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.usefixtures("cache")
def test_what_was_learnt_is_what_is_reckoned_with(
    cli: Cli, tmp_path: Path, two_gpus: dict[str, str]
) -> None:
    entries = [{"id": f"a{n}", "path": "a.wav", "duration": 600} for n in range(6)]
    write_tone(tmp_path / "a.wav")
    (tmp_path / "manifest.json").write_text(json.dumps({"assets": entries}))
    learn(GPUS[0].uuid, 8 / 600)
    learn(GPUS[1].uuid, 24 / 600)
    learn(GPUS[1].uuid, 1.0, batch_size=3)  # of other settings
    asked = ("--model", "demo", "--no-diarize", "--max-per-gpu", "1")
    body = plan(cli, *asked, env=two_gpus)
    assert body["speeds"]["basis"] == "learnt"
    assert body["finish_s"]["earliest-finish"] == pytest.approx(40)
    assert body["finish_s"]["first-come"] == pytest.approx(48)
    assert body["bound_s"] == pytest.approx(36)
    slower = plan(cli, *asked, "--batch-size", "3", env=two_gpus)
    assert slower["devices"][1]["speed"]["rtfx"] == pytest.approx(1)
    assert [one["speed"]["basis"] for one in slower["devices"]] == ["compared", "learnt"]


@pytest.mark.usefixtures("cache")
def test_a_device_that_ran_out_of_memory_is_given_no_more_than_worked(
    cli: Cli, tmp_path: Path, two_gpus: dict[str, str]
) -> None:
    write_manifest(tmp_path, 3)
    Remembered.load().remember(
        Key(GPUS[0].uuid, DEMO.identity, "auto", False),
        Rung(2, 1, "int8_float16"),
        total_bytes=24 * GIB,
        free_bytes=20 * GIB,
    )
    body = plan(cli, "--model", "demo", "--no-diarize", env=two_gpus)
    first, second = body["devices"]
    assert (first["slots"], first["slots_that_fit"]["VRAM"], first["memory_measured"]) == (
        1,
        1,
        True,
    )
    assert (second["slots"], second["memory_measured"]) == (2, False)
    assert body["recommended"]["balanced"] == {"threads": 3, "max_per_gpu": "1,2"}
    roomier = stub_nvml.gpu(0, free_bytes=24 * GIB, total_bytes=40 * GIB)
    spec = Path(two_gpus["STUB_NVML_SPEC"])
    stub_nvml.write_spec(spec, [roomier, GPUS[1]])
    other = plan(cli, "--model", "demo", "--no-diarize", env=two_gpus)
    assert other["devices"][0]["memory_measured"] is False


@pytest.mark.usefixtures("cache")
def test_recordings_that_cannot_be_read_are_counted_and_asked_for_ones_alone(
    cli: Cli, tmp_path: Path
) -> None:
    write_manifest(tmp_path, 4, duration_s=2)
    (tmp_path / "audio/tone-000.wav").write_bytes(b"no sound at all")
    (tmp_path / "audio/tone-001.wav").unlink()
    learn(device_key(CPU), 0.5)
    cpu = ("--model", "demo", "--device", "cpu", "--no-diarize")
    body = plan(cli, *cpu)
    assert (body["assets"], body["unknown_durations"]) == (4, 2)
    assert body["audio_s"] == pytest.approx(8, abs=0.1)
    assert body["finish_s"]["first-come"] == pytest.approx(4, abs=0.1)
    last = plan(cli, *cpu, "--skip", "3")
    assert (last["assets"], last["unknown_durations"]) == (1, 0)
    first = plan(cli, *cpu, "--limit", "1")
    assert first["audio_s"] is None and set(first["finish_s"].values()) == {None}


@pytest.mark.usefixtures("cache")
def test_speakers_that_cannot_be_told_apart_are_told(cli: Cli, tmp_path: Path) -> None:
    write_manifest(tmp_path, 1)
    env = {"HF_HOME": str(tmp_path / "hf"), "HF_TOKEN": ""}
    body = plan(cli, "--model", "demo", "--device", "cpu", env=env)
    assert body["stages"] == ["transcribe"]
    (note,) = body["notes"]
    assert note.startswith("Speakers would not be told apart: ")
    demo = ("--diarize-model", "demo", "--align-model", "demo")
    both = plan(cli, "--model", "demo", "--device", "cpu", *demo, env=env)
    assert both["stages"] == ["transcribe", "align", "diarize"] and both["notes"] == []


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("none.json",), 4, "none.json"),
        (("manifest.json", "--model", "nonsense"), 2, "There is no model 'nonsense'"),
        (("manifest.json", "-d", "cuda:7"), 5, "cuda:7"),
        (("manifest.json", "-d", "cpu", "--max-per-gpu", "1,1"), 2, "--max-per-gpu"),
        (("manifest.json", "-d", "cpu", "--compute-type", "float17"), 2, "float17"),
        (("manifest.json", "-d", "cpu", "--limit", "0"), 2, ""),
    ],
)
def test_what_a_run_would_refuse_is_refused(
    cli: Cli,
    tmp_path: Path,
    two_gpus: dict[str, str],
    arguments: tuple[str, ...],
    code: int,
    said: str,
) -> None:
    write_manifest(tmp_path, 1)
    answer = cli("plan", *arguments, env=two_gpus)
    assert answer.code == code, answer.err
    assert said in answer.err and "Traceback" not in answer.err
