"""`scripts/gpu_bench.py`: its arithmetic, its order, and a dry run on the CPU with a tiny shape."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import stub_nvml
from program import PROJECT, environment

from audio_batch import models
from audio_batch.engines import LoadRequest, open_engine
from audio_batch.gpu.devices import CPU
from audio_batch.options import resolve_decoding

SCRIPT = PROJECT / "scripts" / "gpu_bench.py"
sys.path.append(str(PROJECT / "scripts" / "gpu_common"))
sys.path.append(str(PROJECT / "scripts" / "gpu_bench"))
from cells import BATCHED, LOADS, MODEL, OURS, PLAIN, durations_s, plan, tokens_of  # noqa: E402
from report import recommend  # noqa: E402
from roofline import (  # noqa: E402
    Peak,
    bound,
    cross_values,
    encoder_flops,
    peak_of,
    step_weights,
)
from whisper_shapes import SHAPES, max_length, max_new_tokens  # noqa: E402

TOKENS = 8
DRY = (
    *("--device", "cpu", "--shapes", "tiny-random", "--batch-sizes", "1,2", "--slots", "1"),
    *("--loads", "short", "--clips", "2", "--tokens", f"4,{TOKENS}", "--cell-seconds", "0.2"),
)


def bench(
    *arguments: object, env: dict[str, str] | None = None, python: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *python, str(SCRIPT), *map(str, arguments)],
        env=environment(**(env or {})),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=900,
        check=False,
    )


def answer(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "gpu_bench.json").read_text(encoding="utf-8"))
    return found


# The figures are those published for these models and devices (fp16, greedy, 100 tokens).


@pytest.mark.parametrize(
    ("shape", "encoder_tflop", "weights_gb", "cross_mb"),
    [("large-v3", 2.3, 1.6, 246), ("large-v3-turbo", 2.3, 0.316, 31)],
)
def test_work_that_the_shapes_imply(
    shape: str, encoder_tflop: float, weights_gb: float, cross_mb: float
) -> None:
    assert encoder_flops(SHAPES[shape]) / 1e12 == pytest.approx(encoder_tflop, rel=0.02)
    assert 2 * step_weights(SHAPES[shape]) / 1e9 == pytest.approx(weights_gb, rel=0.01)
    assert 2 * cross_values(SHAPES[shape]) / 1e6 == pytest.approx(cross_mb, rel=0.01)


@pytest.mark.parametrize(
    ("name", "large_v3", "turbo"),
    [("NVIDIA GeForce RTX 4090", 580, 1550), ("Tesla T4", 200, 575)],
)
def test_ceilings_of_known_devices_at_sixteen_windows(
    name: str, large_v3: float, turbo: float
) -> None:
    peak = peak_of(name)
    assert peak is not None
    for shape, rtfx in (("large-v3", large_v3), ("large-v3-turbo", turbo)):
        assert bound(SHAPES[shape], peak, 16, 100).rtfx(16) == pytest.approx(rtfx, rel=0.03)


def test_a_variant_of_a_known_device_has_no_peak_of_its_own() -> None:
    assert peak_of("NVIDIA GeForce RTX 4090 Laptop GPU") is None
    assert peak_of("NVIDIA L40S") is None


def test_what_more_beams_and_tokens_and_wider_weights_cost() -> None:
    shape, peak = SHAPES["large-v3"], Peak(1000, 1000)
    one = bound(shape, peak, 8, 100)
    assert bound(shape, peak, 8, 200).decoder_s > 1.9 * one.decoder_s
    assert bound(shape, peak, 8, 100, beam_size=5).decoder_s > one.decoder_s
    assert bound(shape, peak, 8, 100, compute_type="float32").decoder_s > 1.9 * one.decoder_s
    assert bound(shape, peak, 8, 100, beam_size=5).encoder_s == one.encoder_s


def test_tokens_that_a_whisper_model_has_no_room_for() -> None:
    assert max_length(224) == 448
    with pytest.raises(ValueError, match="1 to 224"):
        max_length(225)


def test_the_most_telling_cells_come_first_and_none_twice() -> None:
    sizes, slots = [1, 2, 4, 8, 16, 32, 64, 128], [1, 2, 3, 4]
    cells = plan(["large-v3", "small"], sizes, slots, LOADS)
    assert len({cell.name for cell in cells}) == len(cells) == 2 * (8 + 3 * (1 + 7 + 32))
    first = cells[: 2 * (1 + 3 * 3)]
    assert {(cell.shape, cell.way, cell.load) for cell in first} == {
        (shape, way, load)
        for shape in ("large-v3", "small")
        for way, loads in ((MODEL, [""]), *((way, LOADS) for way in (PLAIN, BATCHED, OURS)))
        for load in loads
    }
    assert {cell.batch_size for cell in first if cell.way != PLAIN} == {16}
    assert {cell.slots for cell in first} == {1}


def test_recordings_of_a_load() -> None:
    assert durations_s("short", 3, 600) == [5.0] * 3
    assert durations_s("long", 256, 600) == [600] * 12
    assert Counter(durations_s("mixed", 256, 600)) == {600: 2, 60: 12, 5: 128}
    assert [tokens_of(load, 100) for load in LOADS] == [17, 100, 100]


def test_recommended_is_what_is_near_the_best_on_every_load() -> None:
    def cell(load: str, size: int, rtfx: float, vram_gb: float = 10, way: str = OURS) -> Any:
        found = {"rtfx": rtfx, "peak_vram_bytes": vram_gb * 1e9, "engine": {"batch_size": size}}
        about = {"shape": "large-v3", "way": way, "load": load, "batch_size": size, "slots": 1}
        return {**about, "state": "done", "found": found}

    entries = [
        *(cell(load, 16, 100) for load in LOADS),
        *(cell(load, 32, rate) for load, rate in zip(LOADS, (99, 150, 140), strict=True)),
        *(cell(load, 64, 500, vram_gb=23) for load in LOADS),
        cell("short", 128, 900),
        cell("long", 1, 50, way=PLAIN),
        {**cell("short", 8, 0), "state": "left out"},
    ]
    chosen = recommend(entries, 24_000_000_000)["large-v3"]
    assert (chosen["batch_size"], chosen["slots"]) == (32, 1)
    assert chosen["rtfx"] == {"short": 99, "long": 150, "mixed": 140}
    assert chosen["peers_rtfx"] == {PLAIN: {"long": 50}, BATCHED: {}}
    entries.append({**cell("short", 32, 0), "state": "failed"})
    assert recommend(entries, 24_000_000_000)["large-v3"]["batch_size"] == 16


@pytest.fixture(scope="module")
def dry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished dry run's folder."""
    out = tmp_path_factory.mktemp("bench")
    done = bench("--out", out, *DRY)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (out / "gpu_bench.md").read_text(encoding="utf-8") + "\n"
    return out


def test_a_dry_run_measures_every_cell(dry: Path) -> None:
    result = answer(dry)
    found = {(cell["way"], cell["batch_size"]): cell["found"] for cell in result["cells"]}
    assert {cell["state"] for cell in result["cells"]} == {"done"}
    wanted = {(MODEL, 1), (MODEL, 2), (PLAIN, 1), (BATCHED, 2), (OURS, 1), (OURS, 2)}
    assert set(found) == wanted
    for (way, size), seen in found.items():
        assert seen["peak_vram_bytes"] is None
        assert seen["peak_rss_bytes"] > 50e6
        assert 0 < seen["device_busy_share"] <= 1
        assert seen["samples"] > 0
        if way != MODEL:
            count = seen["recordings"]
            assert 1 <= count <= seen["recordings_of"] == 2  # on a busy machine the time runs out
            assert (seen["audio_s"], seen["least_windows"]) == (5 * count, count)
            assert seen["tokens_per_window"] == 2  # 5 s of 30 s, of 8
            assert seen["rtfx"] == pytest.approx(5 * count / seen["wall_s"])
            continue
        assert seen["windows_per_s"] == pytest.approx(size / seen["forward_s"])
        assert [made["tokens"] for made in seen["generate"]] == [4, TOKENS]
        for made in seen["generate"]:
            assert made["tokens_per_s"] == pytest.approx(size * made["tokens"] / made["generate_s"])
    chosen = result["recommended"]["tiny-random"]
    ours = {size: seen["rtfx"] for (way, size), seen in found.items() if way == OURS}
    assert chosen["rtfx"] == {"short": ours[chosen["batch_size"]]}
    assert chosen["rtfx"]["short"] == pytest.approx(max(ours.values()), rel=1e-3)


def test_what_was_not_measured_or_is_not_known_is_not_claimed(dry: Path) -> None:
    text = (dry / "gpu_bench.md").read_text(encoding="utf-8")
    result = answer(dry)
    assert dict(result["facts"])["device"].startswith("cpu (")
    assert dict(result["facts"])["peak"] == "not known"
    assert "of_roofline" not in json.dumps(result["cells"])
    assert "NVIDIA" not in text
    assert "large-v3" not in text
    assert "Not measured" not in text


@pytest.mark.parametrize("size", [1, 2])
def test_every_way_decodes_the_same_number_of_tokens(dry: Path, size: int) -> None:
    import faster_whisper
    import numpy as np

    folder = dry / "models" / "tiny-random"
    reference = models.describe("tiny-random", folder)
    given = {"language": "en", "batch_size": size, "vad_method": "none", "beam_size": 1}
    options, _ = resolve_decoding(given, preset=None, model_defaults=reference.defaults)
    recognizer = open_engine("faster-whisper").load(
        LoadRequest(model=reference, device=CPU, slots=1, batch_size=size, cpu_threads=1)
    )
    heard = recognizer.transcribe(np.zeros(64_000, np.float32), options, lambda _: None)
    assert [len(segment.text.split()) for segment in heard.segments] == [TOKENS]

    model = faster_whisper.WhisperModel(
        str(folder), device="cpu", cpu_threads=1, local_files_only=True
    )
    pipeline: Any = model if size == 1 else faster_whisper.BatchedInferencePipeline(model)
    windows = {} if size == 1 else {"batch_size": size, "clip_timestamps": [{"start": 0, "end": 4}]}
    segments, _ = pipeline.transcribe(
        np.zeros(64_000, np.float32),
        language="en",
        beam_size=1,
        temperature=0.0,
        without_timestamps=True,
        no_speech_threshold=None,
        max_new_tokens=max_new_tokens(TOKENS),
        **windows,
    )
    assert [len(segment.tokens) for segment in segments] == [TOKENS]


def test_the_same_command_goes_on_and_another_is_refused(dry: Path) -> None:
    times = {path: path.stat().st_mtime_ns for path in (dry / "cells").glob("*.json")}
    peaks = ("--peak-tflops", "1", "--bandwidth-gbs", "20")
    done = bench("--out", dry, *DRY, *peaks)
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in times} == times
    for cell in answer(dry)["cells"]:
        made = cell["found"].get("generate", [cell["found"]])
        assert all(0 < one["of_roofline"] < 1 for one in made)

    refused = bench("--out", dry, *DRY, "--tokens", "5")
    assert refused.returncode == 2
    assert "results of another tokens" in refused.stderr


def test_without_time_everything_is_listed_as_left_out(tmp_path: Path) -> None:
    done = bench("--out", tmp_path, *DRY, "--minutes", "0")
    assert done.returncode == 0, done.stderr
    result = answer(tmp_path)
    assert {cell["state"] for cell in result["cells"]} == {"left out"}
    assert result["recommended"] == {}
    assert "No time was left for: tiny-random_faster-whisper_short_b1, " in done.stdout


@pytest.mark.slow
def test_a_cell_that_fails_costs_only_itself(stub_dir: Path, tmp_path: Path) -> None:
    env = stub_nvml.environment(stub_dir, [stub_nvml.gpu(0)])  # CTranslate2 finds no GPU there
    done = bench(
        *("--out", tmp_path, *DRY, "--device", "cuda:0", "--compute-type", "float16"),
        *("--batch-sizes", "2"),
        env=env,
    )
    assert done.returncode == 1, done.stderr
    result = answer(tmp_path)
    assert dict(result["facts"])["device"] == "NVIDIA GeForce RTX 3090"
    assert dict(result["facts"])["peak"] == "71 TFLOPS, 936 GB/s"
    assert [cell["state"] for cell in result["cells"]] == ["failed"] * 4
    assert all("ended with code " in cell["problem"] for cell in result["cells"])
    assert result["recommended"] == {}
    assert "RTFx |" not in done.stdout


def test_load_and_memory_of_a_gpu_are_watched(
    stub_dir: Path, gpu_watch: Callable[[dict[str, str]], dict[str, Any]]
) -> None:
    gpu = stub_nvml.gpu(0, utilization_pct=45, free_bytes=12 << 30)
    found = gpu_watch(stub_nvml.environment(stub_dir, [gpu]))
    assert found["device_busy_share"] == 0.45
    assert found["peak_vram_bytes"] == 8 << 30


@pytest.fixture
def gpu_watch() -> Callable[[dict[str, str]], dict[str, Any]]:
    """What `Watch` finds in an environment, 20 GiB of GPU memory having been free before."""
    code = (
        "import json, os, time; from machine import Gpu; from watching import Watch\n"
        "watch = Watch(Gpu(0, os.environ), 20 << 30)\n"
        "with watch: time.sleep(0.4)\n"
        "print(json.dumps(watch.found()))"
    )
    scripts = PROJECT / "scripts"

    def run(env: dict[str, str]) -> dict[str, Any]:
        python_path = f"{scripts / 'gpu_common'}:{scripts / 'gpu_bench'}:{PROJECT}"
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**env, "PYTHONPATH": python_path},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    return run


def test_where_nothing_is_installed_it_says_what_to_install() -> None:
    done = bench(python=("-S",))
    assert done.returncode == 5
    assert "ctranslate2, faster-whisper" in done.stderr
    assert f"-m pip install {PROJECT}" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    done = bench("--out", tmp_path, "--device", "cuda:7")
    assert done.returncode == 5
    assert "cpu" in done.stderr
    assert not (tmp_path / "gpu_bench.json").exists()
