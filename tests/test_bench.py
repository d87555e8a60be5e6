"""The bench: real runs of the demonstration model, real peers, real processes measured."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from program import PROJECT, SHARED
from typer.testing import CliRunner

from audio_batch import media
from audio_batch.bench import assets, comparison, contestants, grid, ours, peers, scoring
from audio_batch.bench.environments import CannotInstall, Environments
from audio_batch.bench.machine import folder_name
from audio_batch.bench.measuring import run_commands
from audio_batch.bench.results import PeersReport, RunReport, load, schema
from audio_batch.cli.bench import app
from audio_batch.errors import UsageError
from audio_batch.transcript import Segment, Transcript

DIGITS = {"zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"}


def bench(*arguments: object) -> Any:
    """What the command returned; its standard output is that of the result."""
    result = CliRunner().invoke(app, [str(part) for part in arguments], standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    return result


def make_corpus(out: Path, *more: str) -> Path:
    script = PROJECT / "scripts" / "make_bench_corpus.py"
    few = ("--short", "4", "--medium", "1", "--minutes", "0.2", "0.2", "--long-minutes", "0.3")
    subprocess.run([sys.executable, str(script), str(out), *few, *more], check=True)
    return out


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four clips, a dialogue and a longer recording, made of the examples' voices."""
    return make_corpus(tmp_path_factory.mktemp("bench") / "corpus")


@pytest.fixture(scope="module")
def result(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The result file of two cells over the four clips, one round."""
    folder = tmp_path_factory.mktemp("run")
    flags = ("--model", "demo", "--no-diarize", "--device", "cpu")
    answer = bench(
        *("run", corpus / "short.json", "--batch-size", "2,8", "--repeats", "1"),
        *("-o", folder / "results", "--work-dir", folder / "work", "--", *flags),
    )
    assert answer.return_value == 0, answer.output
    (path,) = (folder / "results").glob("*/bench-run.json")
    return path


def test_the_corpus_is_what_its_manifests_say(corpus: Path) -> None:
    lengths = {"short": (3.0, 10.0), "mix": (12.0, 12.0), "long": (18.0, 18.0)}
    for name, (low_s, high_s) in lengths.items():
        material = assets.read(corpus / f"{name}.json")
        for one in material.recordings:
            assert low_s - 0.01 <= one.duration_s <= high_s + 1.0
            assert abs(media.decode(one.path).duration_s - one.duration_s) < 0.1
            text = material.references[one.id].text
            assert text is not None and set(text.split()) <= DIGITS
    suffixes = {path.suffix for path in (corpus / "short").iterdir()}
    assert suffixes == {".flac", ".wav", ".mp3"}
    segments = json.loads((corpus / "mix.references.json").read_text())
    assert len({segment["speaker"] for segment in segments}) == 2


def test_the_corpus_is_the_same_again(corpus: Path, tmp_path: Path) -> None:
    again = make_corpus(tmp_path / "again")
    for path in sorted(path for path in corpus.rglob("*") if path.is_file()):
        assert (again / path.relative_to(corpus)).read_bytes() == path.read_bytes(), path
    other = make_corpus(tmp_path / "other", "--seed", "2")
    assert (other / "short.json").read_bytes() != (corpus / "short.json").read_bytes()


@pytest.mark.skipif(not (SHARED / "data" / "digits").is_dir(), reason="no real digits here")
def test_the_corpus_of_real_digits(tmp_path: Path) -> None:
    out = make_corpus(tmp_path, "--speech", str(SHARED / "data"))
    segments = json.loads((out / "long.references.json").read_text())
    assert {segment["speaker"] for segment in segments} <= {"george", "jackson", "lucas", "nicolas"}


def test_a_grid_is_every_combination() -> None:
    cells = grid.cells_of({"batch_size": "1, 8", "max_per_gpu": "1;2,1", "policy": None})
    assert [grid.title(cell) for cell in cells] == [
        "batch-size 1, max-per-gpu 1",
        "batch-size 1, max-per-gpu 2,1",
        "batch-size 8, max-per-gpu 1",
        "batch-size 8, max-per-gpu 2,1",
    ]
    assert [grid.title(cell) for cell in grid.cells_of({"policy": None})] == ["defaults"]
    with pytest.raises(UsageError, match="--batch-size"):
        grid.cells_of({"batch_size": "1,,2"})


def test_a_run_through_two_cells(result: Path, corpus: Path) -> None:
    jsonschema.validate(json.loads(result.read_text()), schema(RunReport))
    report = load(result, RunReport)
    assert result.parent.name == folder_name(report.devices)
    assert report.assets == 4 and report.arguments[:2] == ("--model", "demo")
    assert report.audio_s == pytest.approx(assets.read(corpus / "short.json").audio_s, abs=0.01)
    assert [cell.name for cell in report.cells] == ["batch-size 2", "batch-size 8"]
    for cell in report.cells:
        assert cell.problem is None and cell.runs[0].done == 4
        usage = cell.runs[0].usage
        assert usage.cpu_s > 0 and usage.samples > 2 and usage.peak_rss_bytes > 50e6
        assert cell.rtfx == pytest.approx(report.audio_s / cell.wall_s, rel=0.01)
        assert {"decode", "transcribe"} <= {stage.name for stage in cell.stages}
        assert sum(stage.share_pct for stage in cell.stages) == pytest.approx(100, abs=1)
        assert cell.assets is not None and cell.assets.min_s <= cell.assets.max_s
        assert cell.start_s is not None and 0 < cell.start_s < cell.wall_s
    first, second = report.cells
    assert first.differs is None and second.differs is not None
    assert (second.differs.texts, second.differs.missing) == ((), ())


def test_a_run_that_fails_is_a_failed_cell(corpus: Path, tmp_path: Path) -> None:
    flags = ("--engine", "null", "--device", "cpu", "--no-diarize")
    answer = bench(
        *("run", corpus / "short.json", "--policy", "first-come,no-such", "--repeats", "1"),
        *("-o", tmp_path / "results", "--", *flags),
    )
    assert answer.return_value == 3
    (path,) = (tmp_path / "results").glob("*/bench-run.json")
    sound, failed = load(path, RunReport).cells
    assert sound.problem is None
    assert failed.problem is not None and "no-such" in failed.problem and failed.rtfx is None


def test_results_of_two_devices_side_by_side(result: Path, tmp_path: Path) -> None:
    shutil.copytree(result.parent, tmp_path / "all" / "a_slow_gpu")
    body = json.loads(result.read_text())
    body["devices"] = ["A fast GPU"]
    for cell in body["cells"]:
        cell["wall_s"] /= 2
    (tmp_path / "all" / "b_fast_gpu").mkdir()
    (tmp_path / "all" / "b_fast_gpu" / "bench-run.json").write_text(json.dumps(body))
    table = tmp_path / "table.md"
    answer = bench("compare", tmp_path / "all", "--markdown", table, "--json")
    told = json.loads(answer.stdout)
    jsonschema.validate(told, schema(comparison.ComparisonReport))
    assert told["folders"] == ["a_slow_gpu", "b_fast_gpu"] and told["notes"] == []
    lines = {(line["folder"], line["cell"]): line for line in told["lines"]}
    assert len(lines) == 4
    assert lines["a_slow_gpu", "batch-size 8"]["speed"] == 1.0
    assert lines["b_fast_gpu", "batch-size 8"]["speed"] == pytest.approx(2.0, abs=0.01)
    assert table.read_text().count("b_fast_gpu") == 2
    assert "b_fast_gpu" in bench("compare", *sorted((tmp_path / "all").iterdir())).stdout


def test_what_is_no_result_is_refused(result: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"There is no bench-run\.json"):
        bench("compare", tmp_path)
    newer = {**json.loads(result.read_text()), "schema_version": 2}
    (tmp_path / "bench-run.json").write_text(json.dumps(newer))
    with pytest.raises(UsageError, match="schema version 2"):
        bench("compare", tmp_path)
    (tmp_path / "bench-run.json").write_text('{"schema_version": 1, "cells": 3}')
    with pytest.raises(UsageError, match="no result of this bench"):
        bench("compare", tmp_path)


def test_ours_beside_a_faster_whisper_loop(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "peers.json"
    answer = bench(
        *("peers", corpus / "short.json", "--model", "demo", "--limit", "3", "--repeats", "1"),
        *("--peer", "faster-whisper-batched", "--peer", "process-each", "--loop-sample", "1"),
        *("--reuse-environment", "-o", out, "--work-dir", tmp_path / "work"),
    )
    assert answer.return_value == 0, answer.output
    jsonschema.validate(json.loads(out.read_text()), schema(PeersReport))
    report = load(out, PeersReport)
    us, batched, each = report.contestants
    assert (us.name, us.ratio, us.transcripts, us.cannot) == ("audio-batch", 1.0, 3, None)
    assert (batched.transcripts, batched.files, batched.scaled) == (3, 3, False)
    assert batched.ratio is not None and batched.ratio > 0 and batched.peak_rss_bytes
    # The voices are a synthesizer's: all sides hear every digit.
    assert (us.wer, batched.wer, batched.comparable) == (0.0, 0.0, True)
    assert (each.files, each.transcripts, each.scaled) == (1, 1, True)
    assert each.wall_s == pytest.approx(3 * each.runs[0].wall_s, rel=0.01)
    assert (report.best_all, report.best_loop) == ("faster-whisper-batched", "process-each")
    assert "process-each" in report.notes[0]
    # All sides were told what the model's folder asks for.
    (job,) = (tmp_path / "work" / "faster-whisper-batched").rglob("job.json.in")
    told = json.loads(job.read_text())["options"]
    assert (told["chunk_length"], told["vad_parameters"]["threshold"]) == (8, 0.25)
    assert (told["beam_size"], told["without_timestamps"]) == (5, False)
    assert "--beam-size 5" in us.command and "--no-word-timestamps" in us.command


def test_a_peer_that_fails_has_no_figures(corpus: Path, tmp_path: Path) -> None:
    flags = ("--language", "xx", "--peer", "faster-whisper", "--reuse-environment")
    with pytest.raises(UsageError, match="Our own run ended with exit code"):
        bench(
            *("peers", corpus / "short.json", "--model", "demo", "--limit", "1", "--repeats", "1"),
            *(*flags, "-o", tmp_path / "peers.json"),
        )
    (broken := tmp_path / "model").mkdir()
    (broken / "model.bin").write_bytes(b"no model")
    plan = peers.Plan(
        manifest=corpus / "short.json",
        recordings=(contestants.Recording("a", corpus / "short" / "clip-000.flac", 5.0),),
        references={},
        settings=contestants.Settings(broken, "en", "cpu", "int8", 5, 16, 2),
        peers=("faster-whisper",),
        repeats=1,
        work=tmp_path / "work",
        our_flags=("--model", "demo"),
    )
    report = peers.measure(plan, Environments(tmp_path, reuse=True, tell=print), print)
    us, failed = report.contestants
    assert us.cannot is None and report.best_all is None
    assert failed.cannot is not None and failed.cannot.startswith("exit code 1: ")
    assert (failed.wall_s, failed.ratio, failed.wer) == (None, None, None)


def test_what_a_peer_needs_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (whisperx,) = (peer for peer in contestants.PEERS if peer.name == "whisperx")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert whisperx.cannot() == "it needs the program ffmpeg, which is not on PATH"


def test_peers_are_chosen_by_name_and_ability() -> None:
    assert peers.chosen(None, loops=False, diarize=False) == (
        *("faster-whisper-batched", "faster-whisper", "whisper-ctranslate2", "whisperx"),
    )
    assert peers.chosen(None, loops=True, diarize=True) == ("whisperx", "whisperx-loop")
    with pytest.raises(UsageError, match="There is no peer 'wispa'"):
        peers.chosen(["wispa"], loops=True, diarize=False)
    with pytest.raises(UsageError, match="does not tell speakers apart"):
        peers.chosen(["faster-whisper"], loops=True, diarize=True)
    twice = [contestants.Recording(name, Path(name) / "talk.wav", 1.0) for name in "ab"]
    with pytest.raises(UsageError, match="more than one is called talk"):
        peers.check_names(twice)


def test_every_peer_gets_the_same_model_beams_and_cores(tmp_path: Path) -> None:
    settings = contestants.Settings(
        *(tmp_path / "model", "en", "cuda:1", "float16", 4, 32, 6), diarization=tmp_path / "voices"
    )
    files = [contestants.Recording(name, tmp_path / f"{name}.wav", 1.0) for name in ("a", "b")]
    here = Environments(tmp_path, reuse=True, tell=print).of("faster-whisper")
    assert "ctranslate2" in here.versions
    job = contestants.Job(settings, files, tmp_path, here)
    for peer in contestants.PEERS:
        commands = peer.commands(job)
        assert len(commands) == (1 if peer.kind == "all" else 2), peer.name
        if peer.package == "faster-whisper":
            told = json.loads((tmp_path / "job.json.in").read_text())
            assert (told["device"], told["device_index"], told["threads"]) == ("cuda", 1, 6)
            assert (told["options"]["beam_size"], told["compute_type"]) == (4, "float16")
            continue
        line = " ".join(commands[0])
        for part in ("--beam_size 4", "--threads 6", "--batch_size 32", "--compute_type float16"):
            assert part in line, (peer.name, part)
        assert "--device cuda --device_index 1" in line and str(tmp_path / "model") in line
        assert ("--diarize" in line) == peer.diarizes


def test_scores_count_what_is_missing(tmp_path: Path) -> None:
    from audio_batch.accuracy.references import Reference

    (tmp_path / "a.json").write_text(
        json.dumps({"segments": [{"text": " One two", "speaker": "S1"}, {"text": "three."}]})
    )
    heard = scoring.read(tmp_path / "a.json")
    assert heard is not None and heard.speakers == {"S1": "One two", "": "three."}
    truth = Reference(text="one two three", speakers={"x": "one two", "y": "three"})
    assert scoring.score([(truth, heard)], with_speakers=True) == scoring.Score(0.0, 0.0)
    missing = scoring.score([(truth, heard), (truth, None)], with_speakers=True)
    assert (missing.wer, missing.cpwer) == (0.5, 0.5)
    assert scoring.score([(None, heard)], with_speakers=False) == scoring.Score(None, None)
    assert scoring.read(tmp_path / "no.json") is None


def test_differences_are_words_then_times() -> None:
    def heard(asset_id: str, *segments: tuple[str, float, float]) -> Transcript:
        pieces = tuple(Segment(*segment) for segment in segments)
        return Transcript(asset_id, "", "", "en", 9.0, pieces)

    one = {
        "same": heard("same", ("a b", 0.0, 1.0)),
        "near": heard("near", ("a b", 0.0, 1.0)),
        "late": heard("late", ("a b", 0.0, 1.0)),
        "parts": heard("parts", ("a b", 0.0, 1.0)),
        "other": heard("other", ("a b", 0.0, 1.0)),
        "gone": heard("gone", ("a b", 0.0, 1.0)),
    }
    other = {
        "same": one["same"],
        "near": heard("near", ("a b", 0.02, 1.0)),
        "late": heard("late", ("a b", 0.0, 1.25)),
        "parts": heard("parts", ("a", 0.0, 0.5), ("b", 0.5, 1.0)),
        "other": heard("other", ("a c", 0.0, 1.0)),
    }
    found = ours.differences("first", one, other)
    assert (found.texts, found.times, found.missing) == (("other",), ("late", "parts"), ("gone",))
    assert found.largest_time_difference_s == 0.25


@pytest.fixture
def looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A GPU as `nvidia-smi` shows it, and a file with a line for each time that it was asked.

    That is once before anything runs, and then once a sample. More memory is taken from then on.
    """
    if os.name == "nt":
        pytest.skip("the simulated nvidia-smi is a shell script")
    script, count = tmp_path / "nvidia-smi", tmp_path / "looks"
    script.write_text(
        "#!/bin/sh\n"
        f'echo x >> "{count}"\n'
        f'if [ $(wc -l < "{count}") -gt 1 ]; then free=14000; else free=20000; fi\n'
        'echo "8.6, 0, GPU-11111111-1111-4222-8333-000000000000, 00000000:01:00.0, 24576, '
        '$free, 45, NVIDIA GeForce RTX 3090"\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setitem(sys.modules, "pynvml", None)  # a GPU of this machine would be asked by it
    return count


WAIT = (
    "import subprocess, sys, time\n"
    "from pathlib import Path\n"
    "until = time.monotonic() + 60\n"
    "def wait(path, size):\n"
    "    while not path.exists() or path.stat().st_size < size:\n"
    "        if time.monotonic() > until: raise SystemExit('in vain')\n"
    "        time.sleep(0.02)\n"
)
BURN = (
    f"{WAIT}"
    "looks = Path(sys.argv[1])\n"
    "block = bytearray(80_000_000)\n"
    "end = time.process_time() + 0.4\n"
    "while time.process_time() < end: pass\n"
    "if len(sys.argv) > 2: subprocess.run([sys.executable, '-c', sys.argv[2], str(looks)])\n"
    # Seven samples more: new processes are looked for at every fifth one.
    "else: wait(looks, looks.stat().st_size + 14)\n"
    "raise SystemExit(7)\n"
)


def test_processes_are_measured_with_their_children(looks: Path, tmp_path: Path) -> None:
    nested = [sys.executable, "-c", BURN, str(looks), BURN]
    ran = run_commands([nested, [sys.executable, "-c", "pass"]], log=tmp_path / "log")
    assert ran.codes == (7, 0)
    assert ran.usage.wall_s >= 0.8
    assert ran.usage.cpu_s >= 0.8
    assert ran.usage.peak_rss_bytes > 160_000_000  # both blocks at once
    assert ran.usage.samples >= 7 and ran.usage.middle_cpu_pct is not None


def test_two_at_a_time_are_measured_together(tmp_path: Path) -> None:
    """Each waits for the other, or, one after the other, finds that nobody is at work."""
    meet = f"{WAIT}Path(sys.argv[1]).write_text('here'); wait(Path(sys.argv[2]), 4)"
    pair = [[sys.executable, "-c", meet, *names] for names in ("ab", "ba")]
    paths = [[*line[:3], *(str(tmp_path / name) for name in line[3:])] for line in pair]
    together = run_commands(paths, log=tmp_path / "log", at_once=2)
    assert together.codes == (0, 0), (tmp_path / "log").read_text()
    alone = f"{WAIT}here = Path(sys.argv[1]); here.mkdir(); time.sleep(0.2); here.rmdir()"
    line = [sys.executable, "-c", alone, str(tmp_path / "c")]
    one_by_one = run_commands([line, line], log=tmp_path / "log")
    assert one_by_one.codes == (0, 0), (tmp_path / "log").read_text()
    assert one_by_one.usage.wall_s >= 0.4


def test_gpus_are_sampled(looks: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", f"{WAIT}wait(Path(sys.argv[1]), 6)", str(looks)]
    (gpu,) = run_commands([command], log=tmp_path / "log").usage.devices
    assert (gpu.name, gpu.mean_utilization_pct) == ("NVIDIA GeForce RTX 3090", 45.0)
    assert gpu.peak_used_bytes is not None and gpu.used_before_bytes is not None
    assert gpu.peak_used_bytes - gpu.used_before_bytes == 6000 * 1024 * 1024
    assert folder_name(["NVIDIA H200", "NVIDIA H200", "cpu"]) == "2x_nvidia_h200+cpu"


@pytest.mark.slow
def test_a_peer_that_cannot_be_installed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(CannotInstall, match="pip cannot install whisper-ctranslate2: "):
        Environments(tmp_path, reuse=True, tell=print).of("whisper-ctranslate2")


@pytest.mark.slow
def test_speakers_beside_whisperx(corpus: Path, tmp_path: Path) -> None:
    if shutil.which("ffmpeg") is None:
        pytest.skip("whisperx needs the program ffmpeg")
    out = tmp_path / "peers.json"
    answer = bench(
        *("peers", corpus / "mix.json", "--model", "demo", "--repeats", "1", "--diarize"),
        *("--peer", "whisperx", "--reuse-environment", "-o", out),
    )
    assert answer.return_value == 0, answer.output
    us, whisperx = load(out, PeersReport).contestants
    assert us.cannot is None and whisperx.cannot is None
    assert us.cpwer is not None and us.wer == 0.0
    assert whisperx.cpwer is not None and whisperx.ratio is not None


def test_reports_are_plain_values(result: Path) -> None:
    report = load(result, RunReport)
    assert json.loads(json.dumps(asdict(report))) == json.loads(result.read_text())
