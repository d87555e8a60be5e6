"""`audio-batch run` as a process: outputs, resume, exit codes, talk; with the null engine."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from attempt_rows import count_attempts
from program import Answer, text_outputs, write_manifest, write_tone

from audio_batch.formats import FORMATS

Cli = Callable[..., Answer]
NULL = ("--engine", "null")
LINE = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d - \[[^\]]+\] - (DEBUG|INFO|WARNING|ERROR) - .+")


def attempts(folder: Path) -> int:
    return count_attempts(folder / ".audio-batch/journal.sqlite3")


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of every output."""
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file() and ".audio-batch" not in path.parts
    }


def test_a_manifest_becomes_transcripts_and_a_rerun_touches_nothing(
    cli: Cli, tmp_path: Path
) -> None:
    manifest = write_manifest(tmp_path, 5)
    first = cli("run", manifest, *NULL, "-o", "out", "-f", "all")
    assert first.code == 0, first.err
    assert first.out == ""
    out = tmp_path / "out"
    names = {f"tone-00{n}.{suffix}" for n in range(5) for suffix in FORMATS}
    assert {path.name for path in out.iterdir()} == names | {"summary.json", ".audio-batch"}
    document = json.loads((out / "tone-002.json").read_text(encoding="utf-8"))
    assert document["metadata"] == {"shelf": 2}
    assert document["provenance"]["device"] == "cpu"
    assert document["media"]["state"] == "complete"
    assert document["duration_s"] == pytest.approx(0.502)
    assert (out / "tone-002.txt").read_text() == "0.502 seconds of audio\n"
    before = stamps(out)
    again = cli("run", manifest, *NULL, "-o", "out", "-f", "all")
    assert again.code == 0
    assert "done before" in again.err
    assert stamps(out) == before
    assert attempts(out) == 5


def test_a_changed_input_or_option_does_exactly_what_it_affects(cli: Cli, tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path, 5)
    cli("run", manifest, *NULL, "-o", "out")
    before = stamps(tmp_path / "out")
    write_tone(tmp_path / "audio/tone-001.wav", 0.9)
    entries = json.loads(manifest.read_text())
    entries["assets"][3]["language"] = "de"
    manifest.write_text(json.dumps(entries))
    assert cli("run", manifest, *NULL, "-o", "out").code == 0
    changed = {
        name for name, stamp in stamps(tmp_path / "out").items() if before.get(name) != stamp
    }
    assert {name.split(".")[0] for name in changed} == {"tone-001", "tone-003", "summary"}
    assert attempts(tmp_path / "out") == 7


def test_other_formats_are_rendered_without_the_recordings(cli: Cli, tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path, 2)
    cli("run", manifest, *NULL, "-o", "out", "-f", "txt")
    words = json.loads((tmp_path / "out/tone-001.json").read_text())
    more = cli("run", manifest, *NULL, "-o", "out", "-f", "txt,vtt")
    assert more.code == 0
    assert "written again" in more.err
    assert (tmp_path / "out/tone-001.vtt").read_text().startswith("WEBVTT")
    again = json.loads((tmp_path / "out/tone-001.json").read_text())
    for sealed in (words, again):  # it vouches for the files beside it, of which there are more
        for key in ("rendering", "outputs", "sha256"):
            del sealed["provenance"][key]
    assert again == words


def test_a_missing_file_is_exit_4_or_with_leave_that_assets_failure(
    cli: Cli, tmp_path: Path
) -> None:
    manifest = write_manifest(tmp_path, 3)
    (tmp_path / "audio/tone-001.wav").unlink()
    refused = cli("run", manifest, *NULL, "-o", "out")
    assert refused.code == 4
    assert "/assets/1" in refused.err
    assert not (tmp_path / "out").exists()
    answer = cli("run", manifest, *NULL, "-o", "out", "--allow-missing")
    assert answer.code == 3
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert (summary["done"], summary["failed"]) == (2, 1)
    assert summary["failures"][0]["kind"] == "input_missing"
    assert cli("run", manifest, *NULL, "-o", "out", "--allow-missing").code == 3
    write_tone(tmp_path / "audio/tone-001.wav")
    assert cli("run", manifest, *NULL, "-o", "out").code == 0


def test_failures_are_left_until_asked_for(cli: Cli, tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path, 2)
    (tmp_path / "audio/tone-000.wav").write_text("this is no recording")
    assert cli("run", manifest, *NULL, "-o", "out").code == 3
    again = cli("run", manifest, *NULL, "-o", "out")
    assert again.code == 3
    assert "--retry-failed" in again.err
    assert attempts(tmp_path / "out") == 2
    status = json.loads(cli("status", "out", "--json").out)
    assert status["counts"] == {
        "running": 0,
        "done": 1,
        "incomplete": 0,
        "failed": 1,
        "interrupted": 0,
        "quarantined": 0,
    }
    assert status["stages_done"] == {"transcribe": 1}
    assert "tone-000" in cli("status", "out", "--failed").out
    retried = cli("retry", "out", "--yes")
    assert retried.code == 3
    assert attempts(tmp_path / "out") == 3


def test_retry_works_from_another_folder_and_after_a_move(cli: Cli, tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path / "there", 2)
    (tmp_path / "there/audio/tone-000.wav").write_text("this is no recording")
    assert cli("run", "there/manifest.json", *NULL, "-o", "out", "-f", "vtt").code == 3
    (tmp_path / "out").rename(tmp_path / "moved")
    write_tone(tmp_path / "there/audio/tone-000.wav")
    assert manifest.is_file()
    assert cli("retry", "moved").code == 0
    assert (tmp_path / "moved/tone-000.vtt").is_file()
    assert not (tmp_path / "out").exists()


def test_selection_and_template(cli: Cli, tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path, 6)
    answer = cli(
        "run", manifest, *NULL, "-o", "out", "--where", "shelf=[01]", "--exclude", "id=tone-003",
        "--order", "reverse", "--skip", "1", "--limit", "1", "--output-template", "{shelf}/{name}",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    written = {
        path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.txt")
    }
    assert written == {"1/tone-001.txt"}
    nothing = cli("run", manifest, *NULL, "-o", "out", "--where", "shelf=9")
    assert nothing.code == 2
    assert "none is left" in nothing.err


def test_an_asset_called_summary_keeps_clear_of_the_runs_own_file(cli: Cli, tmp_path: Path) -> None:
    write_tone(tmp_path / "a.wav")
    ids = ["summary", "SUMMARY.json", ".audio-batch"]
    entries = [{"id": id_, "path": "a.wav"} for id_ in ids]
    (tmp_path / "m.json").write_text(json.dumps(entries))
    assert cli("run", "m.json", *NULL, "-o", "out").code == 0
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["done"] == 3
    assert len(list((tmp_path / "out").glob("*.json"))) == 4


def test_plain_lines_for_cron_and_the_same_in_the_log_file(cli: Cli, tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path, 2)
    answer = cli("run", manifest, *NULL, "-o", "out", "--log-file", "logs/run.log")
    log = (tmp_path / "logs/run.log").read_text(encoding="utf-8").splitlines()
    assert all(LINE.match(line) for line in log), log
    told = [line for line in answer.err.splitlines() if LINE.match(line)]
    assert any(re.search(r"\[Worker-\d\] - INFO - \[1/2\] Processing: tone-000", t) for t in told)
    assert any("GPU Balancer Status: CPU: 1/" in line for line in told)
    assert any("INFO - ID: tone-000" in line for line in told)
    assert any("INFO - Device: cpu" in line for line in told)
    quiet = cli("run", manifest, *NULL, "-o", "other", "-q")
    assert (quiet.code, quiet.err) == (0, "")


def test_json_lines_on_request(cli: Cli, tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path, 1)
    answer = cli("run", manifest, *NULL, "-o", "out", "--log-format", "json", "--log-file", "log")
    records = [json.loads(line) for line in answer.err.splitlines() if line.startswith("{")]
    finished = [record for record in records if record.get("event") == "AssetFinished"]
    assert len(records) == len(answer.err.splitlines())
    for lines in (answer.err, (tmp_path / "log").read_text()):
        told = [json.loads(line) for line in lines.splitlines()]
        assert not [one for one in told if one["message"].startswith(("ID:", "Thread:", "Device:"))]
        (begun,) = [one for one in told if one.get("event") == "AssetStarted"]
        assert (begun["event"], begun["asset_id"]) == ("AssetStarted", "tone-000")
        assert begun["balancer_status"].startswith("GPU Balancer Status")
        assert begun["worker"] == "Worker-1" and begun["device"] == "cpu"
    assert records[-1]["event"] == "RunFinished"
    assert [record["asset_id"] for record in finished] == ["tone-000"]
    assert finished[0]["state"] == "done"


def test_why_a_run_ended_stands_in_its_log(cli: Cli, tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path, 1)
    none = {"CUDA_VISIBLE_DEVICES": ""}
    wish = ("run", manifest, *NULL, "-o", "out", "-d", "cuda:9")
    answer = cli(*wish, "--log-file", "run.log", env=none)
    assert answer.code == 5
    assert "CUDA sees no GPU" in (tmp_path / "run.log").read_text()
    in_json = cli(*wish, "--log-format", "json", env=none)
    assert "CUDA sees no GPU" in json.loads(in_json.err.splitlines()[-1])["message"]
    assert cli("retry", "out").code == 2


def test_variables_lie_between_the_file_and_the_flags(cli: Cli, tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path, 4)
    (tmp_path / "audio-batch.toml").write_text('engine = "null"\nlimit = 3\noutput-dir = "out"\n')
    cli("run", manifest)
    assert attempts(tmp_path / "out") == 3
    cli("run", manifest, "--overwrite", env={"AUDIO_BATCH_LIMIT": "2"})
    assert attempts(tmp_path / "out") == 5
    cli("run", manifest, "--overwrite", "--limit", "1", env={"AUDIO_BATCH_LIMIT": "2"})
    assert attempts(tmp_path / "out") == 6


def test_names_from_a_manifest_are_shown_clean(cli: Cli, tmp_path: Path) -> None:
    write_tone(tmp_path / "a.wav")
    name = "evil \x1b[31m[red]\u202egnp.exe"
    (tmp_path / "m.json").write_text(json.dumps([{"id": "a", "path": "a.wav", "name": name}]))
    answer = cli("run", "m.json", *NULL, "-o", "out", "--log-file", "run.log")
    assert answer.code == 0
    for text in (answer.err, (tmp_path / "run.log").read_text(), cli("status", "out").out):
        assert "\x1b" not in text
        assert "\u202e" not in text
        assert "[red]" in text


def test_export_writes_other_formats_without_touching_the_json(cli: Cli, tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path, 3)
    cli("run", manifest, *NULL, "-o", "out", "-f", "txt", "--output-template", "{shelf}/{name}")
    before = stamps(tmp_path / "out")
    answer = cli("export", "out", "-f", "vtt,srt")
    assert answer.code == 0, answer.err
    after = stamps(tmp_path / "out")
    assert {name: after[name] for name in before} == before
    assert {Path(name).suffix for name in after.keys() - before.keys()} == {".vtt", ".srt"}
    (tmp_path / "out/0/tone-000.json").write_text("{}")
    assert cli("export", "out", "-f", "vtt", "--to", "elsewhere").code == 3
    assert len(text_outputs(tmp_path / "elsewhere")) == 2
    assert cli("export", "nowhere", "-f", "vtt").code == 2
