"""What a person is told of suspect transcripts: by `status`, by the closing table, in JSON."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from program import Answer
from rich.console import Console

from audio_batch import summary
from audio_batch.errors import ErrorKind, ExitCode
from audio_batch.journal import Journal
from audio_batch.outcome import Outcome, RunResult, Stage, StageRecord, State
from audio_batch.storage import OutputFolder, PublishedFile

OUTPUT = PublishedFile(format="json", path="a.json", size_bytes=3, sha256="0" * 64)
DOUBTS = ("no words in 312 s of speech", "the same [b]word[/b] 40 times on end")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A folder in which one transcript is sound, two are suspect, and one asset failed."""
    folder = OutputFolder(tmp_path / "out")
    folder.create()
    journal = Journal(folder.journal_path)
    run = journal.begin_run(version="0", request={"manifest": "m.json"})
    for asset_id in ("sound", "suspect", "redone", "failed"):
        journal.start(
            asset_id,
            name=asset_id.title(),
            source="1:1",
            fingerprint="f",
            rendering="r",
            device="cpu",
            run_id=run,
        )
        heard = StageRecord(asset_id, Stage.TRANSCRIBE, "1:1", "f", OUTPUT, "cpu", 1.0)
        done = Outcome(
            asset_id,
            State.DONE,
            "f",
            "cpu",
            outputs=(OUTPUT,),
            notes=("clipped",) if asset_id == "suspect" else (),
            suspicions=DOUBTS if asset_id in ("suspect", "redone") else (),
            stages=(heard,),
        )
        failed = Outcome(
            asset_id,
            State.FAILED,
            "f",
            "cpu",
            error_kind=ErrorKind.NOT_MEDIA,
            error_text="no media",
        )
        journal.finish(failed if asset_id == "failed" else done, redo=asset_id == "redone")
    journal.end_run(run, 0)
    journal.close()
    return tmp_path / "out"


def ids(answer: Answer) -> set[str]:
    assert answer.code == 0
    return {asset["asset_id"] for asset in json.loads(answer.out)["assets"]}


def test_status_lists_the_suspects(cli: Callable[..., Answer], out: Path) -> None:
    assert ids(cli("status", out, "--json", "--suspect")) == {"suspect", "redone"}
    assert ids(cli("status", out, "--json", "--suspect", "--failed")) == {
        "suspect",
        "redone",
        "failed",
    }
    body = json.loads(cli("status", out, "--json").out)
    assert (len(body["assets"]), body["suspect"], body["counts"]["done"]) == (4, 2, 3)
    told = {asset["asset_id"]: (asset["suspicions"], asset["redone"]) for asset in body["assets"]}
    assert told["suspect"] == (list(DOUBTS), 0)
    assert told["redone"] == (list(DOUBTS), 1)
    assert told["sound"] == ([], 0)


def test_status_shows_them_as_text(cli: Callable[..., Answer], out: Path) -> None:
    shown = cli("status", out, "--suspect", env={"COLUMNS": "200"}).out
    assert "3 done, 1 failed, 2 of them suspect" in shown
    assert "suspect: no words in 312 s of speech; suspect: the same [b]word[/b] 40 times" in shown
    assert "clipped" in shown
    assert "Sound" not in shown


def test_nothing_runs_after_the_last_run_has_ended(cli: Callable[..., Answer], out: Path) -> None:
    """A run that leaves work behind in native code ends without a word on that work."""
    journal = Journal(OutputFolder(out).journal_path)
    run = journal.begin_run(version="0", request={})
    journal.start(
        "left", name="Left", source="1", fingerprint="f", rendering="r", device="cpu", run_id=run
    )
    at_work = json.loads(cli("status", out, "--json").out)["counts"]
    assert (at_work["running"], at_work["interrupted"]) == (1, 0)
    journal.end_run(run, 130)
    journal.close()
    ended = json.loads(cli("status", out, "--json").out)
    assert (ended["counts"]["running"], ended["counts"]["interrupted"]) == (0, 1)
    assert "running" not in {asset["state"] for asset in ended["assets"]}


@pytest.mark.parametrize(
    ("result", "ended_by", "words"),
    [
        (RunResult(out_of_time=True), "time_limit", "The time was up (--until, --max-runtime)"),
        (RunResult(interrupted=True), "signal", "It was interrupted"),
        (RunResult(stopped_by_failure=True), "failure", "It was ended after a failure"),
    ],
)
def test_what_left_assets_to_the_next_run_is_told(
    out: Path, result: RunResult, ended_by: str, words: str
) -> None:
    one = summed_up(out, "sound", "never begun", result=result)
    assert one.to_json()["ended_by"] == ended_by
    assert words.lower() in summary.line(one).lower()
    assert f"{words}: 1 asset is left; run the same command again to go on." in shown(one)
    whole = summed_up(out, "sound", result=result)
    assert whole.to_json()["ended_by"] is None
    assert words not in shown(whole)


def summed_up(out: Path, *ids: str, result: RunResult | None = None) -> summary.Summary:
    journal = Journal(OutputFolder(out).journal_path, read_only=True)
    return summary.summarise(
        manifest="m.json",
        output_folder=str(out),
        asset_ids=ids,
        entries=journal.entries(),
        run_id=1,
        result=result or RunResult(),
    )


def shown(one: summary.Summary) -> str:
    text = io.StringIO()
    summary.show(one, Console(file=text, width=200))
    return text.getvalue()


def test_a_suspicion_is_told_and_changes_no_exit_code(out: Path) -> None:
    one = summed_up(out, "sound", "suspect", "redone")
    assert (one.exit_code, one.done) == (ExitCode.OK, 3)
    assert one.to_json()["suspect"] == [
        {"id": "redone", "name": "Redone", "suspicions": list(DOUBTS), "redone": 1},
        {"id": "suspect", "name": "Suspect", "suspicions": list(DOUBTS), "redone": 0},
    ]
    assert "3 done now, 0 before, 0 failed, 2 suspect, 0 not done" in summary.line(one)
    text = shown(one)
    assert "of these suspect │    2" in text
    assert "suspect, though done again: Redone (redone): no words in 312 s of speech" in text
    assert "Perhaps not the whole truth: 1; --redo-suspect does them again, once" in text


def test_a_sound_night_says_nothing_of_suspicions(out: Path) -> None:
    one = summed_up(out, "sound")
    assert one.to_json()["suspect"] == []
    assert "suspect" not in shown(one) + summary.line(one)
