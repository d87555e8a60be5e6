"""`speakers link | list | rename`, as commands."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import Result
from program import environment
from typer.testing import CliRunner
from voice_folders import add_run, content, speakers, transcript, voices

from audio_batch.cli.speakers import app
from audio_batch.errors import ExitCode, LockedError, UsageError
from audio_batch.output_folder import OutputFolder


def run(*arguments: object) -> Result:
    """The exit code is the result's `return_value`, as `run_app` takes it."""
    texts = [str(argument) for argument in arguments]
    result = CliRunner().invoke(app, texts, standalone_mode=False)
    if result.exception:
        raise result.exception
    return result


@pytest.fixture
def out(tmp_path: Path) -> Path:
    people = {"a": [0, 1], "b": [0], "c": [2, 0]}
    add_run(tmp_path / "out", [transcript(asset, who) for asset, who in people.items()])
    return tmp_path / "out"


def test_link_name_link_again(out: Path) -> None:
    first = run("link", out)
    assert first.return_value == ExitCode.OK
    assert "5 voices in 3 recordings are 3 people's, 3 of them new" in first.stderr
    assert "3 transcripts were written anew" in first.stderr
    assert first.stdout == ""
    renamed = run("rename", out, "VOICE_0001", "Alice [b]\x1b[31m")
    assert "VOICE_0001 is now Alice [b][31m." in renamed.stderr
    listed = run("list", out)
    assert "Alice [b]" in listed.stdout
    assert "0:30" in listed.stdout
    assert "\x1b[31m" not in listed.stdout
    assert "3 transcripts were written anew" in run("link", out).stderr
    assert speakers(out, "b")[0].shown == "Alice [b][31m"
    assert "0 transcripts were written anew" in run("link", out).stderr


def test_everything_is_there_as_json(out: Path) -> None:
    before = content(out)
    dry = json.loads(run("link", out, "--json", "--dry-run").stdout)
    assert content(out) == before
    real = json.loads(run("link", out, "--json").stdout)
    assert dry == {**real, "dry_run": True}
    assert real["new"] == ["VOICE_0001", "VOICE_0002", "VOICE_0003"]
    assert real["changed"] == ["a", "b", "c"]
    assert real["voices"]["VOICE_0001"]["heard_in"] == ["a", "b", "c"]
    listed = json.loads(run("list", out, "--json").stdout)
    assert listed["voices"][0] == {
        "voice": "VOICE_0001",
        "name": None,
        "recordings": 3,
        "talk_s": 30.0,
        "heard_in": ["a", "b", "c"],
    }


def test_a_threshold_parts_and_relink_joins_again(out: Path) -> None:
    run("link", out, "--link-threshold", "0.999")
    assert voices(out, "a")[0] != voices(out, "b")[0]
    run("link", out)
    assert voices(out, "a")[0] != voices(out, "b")[0]
    run("link", out, "--relink")
    assert voices(out, "a")[0] == voices(out, "b")[0]


def test_a_run_at_work_is_not_disturbed(out: Path) -> None:
    before = content(out)
    run("link", out, "--dry-run")
    with OutputFolder(out).locked():
        for arguments in (("link", out), ("link", out, "--dry-run")):
            with pytest.raises(LockedError) as caught:
                run(*arguments)
            assert caught.value.exit_code == ExitCode.LOCKED == 11
    assert content(out) == before


def test_transcripts_that_cannot_be_read_are_named(out: Path) -> None:
    (out / "b.json").write_text("[]")
    result = run("link", out)
    assert result.return_value == ExitCode.SOME_FAILED
    assert "left out: b.json is not the file that was published" in result.stderr
    assert voices(out, "a")[0] == "VOICE_0001"


def test_what_cannot_be_done_is_said(out: Path, tmp_path: Path) -> None:
    for arguments, told in (
        (("link", tmp_path / "nowhere"), "holds no journal"),
        (("list", out), "speakers link"),
        (("rename", out, "VOICE_0001", "A"), "speakers link"),
        (("rename", tmp_path, "VOICE_0001", "A"), "holds no journal"),
        (("link", out, "--link-threshold", "7"), "between 0 and 1"),
        (("link", out, "--link-threshold", "nan"), "between 0 and 1"),
    ):
        with pytest.raises(UsageError, match=told):
            run(*arguments)
    run("link", out)
    with pytest.raises(UsageError, match="no voice 'VOICE_0077'"):
        run("rename", out, "VOICE_0077", "A")
    (out / "speakers.json").write_text('{"voices": {"VOICE_0001": {"name": 5}}}')
    before = content(out)
    for arguments in (("list", out), ("link", out), ("rename", out, "VOICE_0001", "A")):
        with pytest.raises(UsageError, match=r"speakers\.json.*voices\.VOICE_0001\.name"):
            run(*arguments)
    assert content(out) == before


def test_without_voices_it_says_why(tmp_path: Path) -> None:
    add_run(tmp_path, [transcript("a", [])])
    result = run("link", tmp_path)
    assert result.return_value == ExitCode.OK
    assert "hold no voices to link: they were made without --diarize" in result.stderr


def test_a_killed_writers_leavings_are_swept(out: Path) -> None:
    (out / ".audio-batch-tmp-1-abc").write_text("half")
    run("link", out)
    assert not list(out.glob(".audio-batch-tmp-*"))


HEAVY = ["torch", "ctranslate2", "faster_whisper", "pyannote", "whisperx", "transformers", "av"]

SCRIPT = """
import json, sys
from audio_batch.cli.speakers import app
for arguments in json.loads(sys.argv[1]):
    try:
        app(arguments, standalone_mode=False)
    except SystemExit:
        pass
    print("\\n" + json.dumps([n for n in json.loads(sys.argv[2]) if n in sys.modules]))
"""


def test_no_speech_library_and_no_gpu_is_asked_for(out: Path) -> None:
    commands = [
        ["--help"],
        ["link", "--help"],
        ["link", str(out)],
        ["rename", str(out), "VOICE_0001", "Ann"],
        ["link", str(out), "--relink"],
        ["list", str(out)],
    ]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(commands), json.dumps([*HEAVY, "numpy"])],
        env=environment(CUDA_VISIBLE_DEVICES=""),
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=True,
    )
    imported = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    assert imported == [[], [], *[["numpy"]] * 4]
    assert speakers(out, "b")[0].name == "Ann"
