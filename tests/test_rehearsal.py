"""Runs that publish nothing (`--output-format none`): the program by itself."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

from forked import completed
from program import environment, write_manifest

from audio_batch.journal import Journal, JournalEntry
from audio_batch.outcome import State
from audio_batch.output_folder import OutputFolder


def run(folder: Path, model: str, *more: str) -> tuple[int, str]:
    night = ("run", "manifest.json", "--engine", "null", "--model", model, "-o", "out")
    answer = completed([*night, "--output-format", "none", *more], folder, environment())
    return answer.code, answer.err


def entries(out: Path) -> dict[str, JournalEntry]:
    with closing(Journal(OutputFolder(out).journal_path, read_only=True)) as journal:
        return {entry.asset_id: entry for entry in journal.entries()}


def left(folder: Path) -> set[str]:
    """The names of the files that a run has left."""
    return {path.name for path in (folder / "out").rglob("*") if path.is_file()}


def test_nothing_is_opened_kept_or_published_and_all_is_journalled(tmp_path: Path) -> None:
    write_manifest(tmp_path, 12)
    (tmp_path / "audio/tone-003.wav").write_bytes(b"no sound")
    code, said = run(tmp_path, "null:0")
    assert code == 0, said
    assert {entry.state for entry in entries(tmp_path / "out").values()} == {State.DONE}
    assert len(entries(tmp_path / "out")) == 12
    assert left(tmp_path) == {"summary.json", "journal.sqlite3", "run.lock"}
    summary = json.loads((tmp_path / "out/summary.json").read_text(encoding="utf-8"))
    assert (summary["done"], summary["rendered"]) == (12, 0)
    before = entries(tmp_path / "out")
    code, said = run(tmp_path, "null:0")
    assert code == 0 and "Nothing to do" in said, said
    assert entries(tmp_path / "out") == before


def test_an_engine_that_takes_time_hears_the_recordings(tmp_path: Path) -> None:
    write_manifest(tmp_path, 3)
    (tmp_path / "audio/tone-001.wav").write_bytes(b"no sound")
    code, said = run(tmp_path, "null:1")
    assert code == 3, said
    found = entries(tmp_path / "out")
    assert [found[f"tone-00{n}"].state for n in range(3)] == [
        State.DONE,
        State.FAILED,
        State.DONE,
    ]
    assert not list((tmp_path / "out").rglob("*.txt"))
