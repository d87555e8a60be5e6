"""`bench scale` by real runs at sizes that take seconds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from program import environment
from typer.testing import CliRunner

from audio_batch.bench.scale import write_short_recordings, write_wav
from audio_batch.cli.bench_scale import scale
from audio_batch.config import Settings
from audio_batch.errors import UsageError
from audio_batch.request import Request, read_manifest

app = typer.Typer()
app.command("scale")(scale)
app.command("other")(lambda: None)


def test_what_many_assets_and_a_long_one_cost(tmp_path: Path) -> None:
    work = tmp_path / "work"
    given = ["scale", "--counts", "30,3", "--max-hours", "0.005", "--json"]
    given += ["-o", str(tmp_path / "results"), "--work-dir", str(work)]
    answer = CliRunner().invoke(app, given, standalone_mode=False)
    if answer.exception is not None:
        raise answer.exception
    assert answer.return_value == 0
    (path,) = (tmp_path / "results").glob("*/bench-scale.json")
    report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    assert json.loads(answer.stdout) == report
    assert (report["schema_version"], report["kind"], report["model"]) == (1, "bench-scale", "demo")
    assert report["machine"]["cores"] > 0 and report["machine"]["ram_bytes"] > 0
    few, many = report["counts"]
    assert [few["assets"], many["assets"]] == [3, 30]
    for cost in (few, many):
        assert cost["exit_code"] == 0
        assert 0 < cost["first_task_s"] < cost["wall_s"]
        assert cost["ms_per_asset"] * cost["assets"] < 1000 * cost["wall_s"]
        assert cost["peak_rss_bytes"] > 10_000_000
        assert {stage["name"] for stage in cost["stages"]} >= {"decode", "transcribe", "publish"}
    assert many["journal_bytes"] > few["journal_bytes"] > 0
    assert few["rss_bytes_per_asset"] is None and many["manifest_bytes_per_asset"] is not None
    (long,) = report["lengths"]
    assert (long["exit_code"], long["duration_s"], long["samples_bytes"]) == (0, 18.0, 1_152_000)
    assert long["rtfx"] == pytest.approx(18 / long["wall_s"], abs=0.06)
    assert long["beyond_samples_bytes"] == long["peak_rss_bytes"] - long["samples_bytes"] > 0
    assert list(work.iterdir()) == []


def test_the_pace_of_the_program_itself(tmp_path: Path) -> None:
    given = ["scale", "--counts", "40", "--nothing-published", "--json"]
    given += ["-o", str(tmp_path / "results"), "--work-dir", str(tmp_path / "work")]
    answer = CliRunner().invoke(app, given, standalone_mode=False)
    if answer.exception is not None:
        raise answer.exception
    assert answer.return_value == 0
    report: dict[str, Any] = json.loads(answer.stdout)
    assert report["counts"] == report["lengths"] == []
    (cost,) = report["unpublished"]
    assert (cost["assets"], cost["done"], cost["exit_code"]) == (40, 40, 0)
    assert cost["assets_per_s"] > cost["overall_per_s"] > 0
    assert 0 < cost["first_task_s"] < cost["wall_s"]
    assert cost["resume_s"] > 0 and cost["status_s"] > 0
    assert min(cost["peak_rss_bytes"], cost["resume_peak_rss_bytes"]) > 10_000_000
    assert cost["journal_bytes"] > 0
    assert list((tmp_path / "work").iterdir()) == []


def test_a_clip_comes_again_and_again_in_silence(tmp_path: Path) -> None:
    clip = np.arange(1, 1601, dtype="<i2")
    path = write_wav(tmp_path / "a.wav", 2.05, clip.tobytes(), every_s=1.0)
    with wave.open(str(path)) as file:
        shape = (file.getnchannels(), file.getsampwidth(), file.getframerate())
        assert shape == (1, 2, 16_000)
        samples = np.frombuffer(file.readframes(-1), "<i2")
    assert samples.size == 32_800
    assert (samples[:1600] == clip).all() and (samples[16_000:17_600] == clip).all()
    assert (samples[32_000:] == clip[:800]).all()
    assert not samples[1600:16_000].any() and not samples[17_600:32_000].any()


def test_the_manifest_names_recordings_that_are_there(tmp_path: Path) -> None:
    manifest = write_short_recordings(tmp_path / "new", 1003)
    assets = read_manifest(Request(manifest, Settings())).assets
    assert len({asset.path for asset in assets}) == 1003
    assert all(asset.seen and asset.seen.startswith("3244:") for asset in assets)


@pytest.mark.parametrize("counts", [",", "x", "10,0", "1,-2", "2000000"])
def test_counts_that_are_none(counts: str) -> None:
    answer = CliRunner().invoke(app, ["scale", "--counts", counts], standalone_mode=False)
    assert isinstance(answer.exception, UsageError)


SLOW = """
import sys
from pathlib import Path
from audio_batch.bench import scale
from tempfile import TemporaryDirectory

with TemporaryDirectory(dir=sys.argv[1]) as work:
    scale.measure(Path(work), counts=[100000], hours=[], model="demo", clip=None, say=print)
"""


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT")
def test_an_interruption_leaves_nothing(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, str(tmp_path)],
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline_s = time.monotonic() + 240
    while not list(tmp_path.glob("*/assets/audio/0003")):
        assert process.poll() is None and time.monotonic() < deadline_s
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(240) != 0
    assert list(tmp_path.iterdir()) == []
