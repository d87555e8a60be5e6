"""`audio-batch verify`: what it finds, what the next run makes again, what is left alone."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from program import text_outputs, write_manifest
from shim import Disk, entries, memory_folder, torn

from audio_batch.outcome import State
from audio_batch.output_folder import OutputFolder

NIGHT = ("run", "manifest.json", "--engine", "null", "-o", "out")


@pytest.fixture(scope="module")
def disk() -> Iterator[Disk]:
    with Disk(None) as disk:
        yield disk


@pytest.fixture(scope="module")
def night(disk: Disk) -> Iterator[Path]:
    """A folder with three recordings that are done."""
    with memory_folder() as folder:
        write_manifest(folder, 3)
        assert disk.run(folder, *NIGHT).code == 0
        yield folder


@pytest.fixture
def place(night: Path) -> Iterator[Path]:
    """A copy of it."""
    with memory_folder() as folder:
        yield shutil.copytree(night, folder, dirs_exist_ok=True)


def flip(path: Path) -> None:
    """Another byte, the same size."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def kept_result(place: Path) -> Path:
    """The file of tone-001's words."""
    with sqlite3.connect(place / "out/.audio-batch/journal.sqlite3") as db:
        (path,) = db.execute("SELECT path FROM stages WHERE asset_id = 'tone-001'").fetchone()
    return place / "out/.audio-batch" / path


def stamps(place: Path) -> dict[str, float | None]:
    return {id_: entry.finished_at for id_, entry in entries(place / "out").items()}


def test_what_is_sound_is_said_and_nothing_is_written(place: Path, disk: Disk) -> None:
    before = {path: path.stat().st_mtime_ns for path in place.rglob("*") if path.is_file()}
    answer = disk.run(place, "verify", "out")
    assert (answer.code, answer.out) == (0, "")
    assert "9 outputs and 3 kept results read, 0 damaged." in answer.err
    after = {path: path.stat().st_mtime_ns for path in before}
    assert {path for path in before if after[path] != before[path]} <= {
        place / "out.captured",
        place / "err.captured",
    }


DAMAGES = [
    ("txt", Path.unlink, "is missing"),
    ("txt", truncate, "has 16 bytes instead of 23"),
    ("txt", flip, "has other bytes than were written"),
    ("json", Path.unlink, "is missing"),
    ("json", truncate, "bytes instead of"),
    ("json", flip, "has other bytes than were written"),
]


@pytest.mark.parametrize(("suffix", "damage", "problem"), DAMAGES)
def test_a_damaged_output_is_named_and_the_next_run_makes_it_again(
    place: Path, disk: Disk, suffix: str, damage: Callable[[Path], None], problem: str
) -> None:
    path = place / f"out/tone-001.{suffix}"
    whole, before = text_outputs(place / "out", (".txt", ".srt")), stamps(place)
    damage(path)
    answer = disk.run(place, "verify", "out")
    assert answer.code == 3
    assert answer.out.startswith(f"tone-001 {suffix}: tone-001.{suffix} ")
    assert answer.out.count("\n") == 1
    assert problem in answer.out
    assert entries(place / "out")["tone-001"].state is State.INTERRUPTED
    again = disk.run(place, *NIGHT)
    assert again.code == 0, again.err
    assert again.err.count("Processing:") == 1
    assert not torn(place / "out")
    assert text_outputs(place / "out", (".txt", ".srt")) == whole
    after = stamps(place)
    assert {id_ for id_ in before if after[id_] != before[id_]} == {"tone-001"}
    assert disk.run(place, "verify", "out").code == 0


def test_a_sound_transcript_is_only_written_again(place: Path, disk: Disk) -> None:
    (place / "out/tone-001.txt").unlink()
    json_before = (place / "out/tone-001.json").read_bytes()
    disk.run(place, "verify", "out")
    kept_result(place).unlink()  # not needed for a rendering
    again = disk.run(place, *NIGHT)
    assert "Rendered: tone-001" in again.err
    assert (place / "out/tone-001.json").read_bytes() == json_before


def test_a_run_alone_sees_sizes_only(place: Path, disk: Disk) -> None:
    """What `verify` is for; and why it has to say so to the journal."""
    flip(place / "out/tone-001.txt")
    assert "Nothing to do" in disk.run(place, *NIGHT).err
    assert torn(place / "out") == ["tone-001: tone-001.txt"]


@pytest.mark.parametrize("damage", [Path.unlink, flip])
def test_a_damaged_kept_result_is_made_again_when_it_is_needed(
    place: Path, disk: Disk, damage: Callable[[Path], None]
) -> None:
    path = kept_result(place)
    whole = path.read_bytes()
    damage(path)
    found = disk.run(place, "verify", "out")
    assert found.code == 3
    assert found.out.startswith("tone-001 transcribe: .audio-batch/stages/")
    # The outputs are sound, and nothing is to be made of the result for now.
    assert "Nothing to do" in disk.run(place, *NIGHT).err
    assert disk.run(place, "verify", "out").code == 0
    (place / "out/tone-001.json").unlink()
    assert disk.run(place, "verify", "out").code == 3
    again = disk.run(place, *NIGHT)
    assert again.code == 0, again.err
    assert path.read_bytes() == whole
    assert not torn(place / "out")
    assert disk.run(place, "verify", "out").code == 0


def test_an_asset_that_was_done_at_the_third_attempt_has_three_more(
    place: Path, disk: Disk
) -> None:
    """Its earlier deaths must not set it aside: it was done once."""
    with sqlite3.connect(place / "out/.audio-batch/journal.sqlite3") as db:
        db.execute("UPDATE assets SET attempts = 3, deaths = 3 WHERE asset_id = 'tone-002'")
    (place / "out/tone-002.json").unlink()
    assert disk.run(place, "verify", "out").code == 3
    assert disk.run(place, *NIGHT).code == 0
    assert entries(place / "out")["tone-002"].state is State.DONE


def test_what_it_has_queued_is_not_sound_before_it_is_made_again(place: Path, disk: Disk) -> None:
    (place / "out/tone-001.json").unlink()
    first = disk.run(place, "verify", "out")
    assert (first.code, "1 asset has damaged outputs" in first.err) == (3, True)
    for _ in range(2):
        second = disk.run(place, "verify", "out", "--json")
        assert second.code == 3
        body = json.loads(second.out)
        assert (body["ok"], body["waiting"], body["unfinished"]) == (False, ["tone-001"], 0)
    said = disk.run(place, "verify", "out")
    assert "1 asset waits to be made again; run again for that." in said.err
    assert disk.run(place, *NIGHT).code == 0
    assert json.loads(disk.run(place, "verify", "out", "--json").out)["ok"] is True


def test_it_can_only_look(place: Path, disk: Disk) -> None:
    flip(place / "out/tone-000.srt")
    for _ in range(2):
        answer = disk.run(place, "verify", "out", "--no-fix", "--json")
        assert answer.code == 3
    body = json.loads(answer.out)
    assert (body["ok"], body["outputs"], body["stages"], body["requeued"]) == (False, 9, 3, [])
    (damage,) = body["damages"]
    assert (damage["asset_id"], damage["format"], damage["stage"]) == ("tone-000", "srt", None)
    assert entries(place / "out")["tone-000"].state is State.DONE
    assert json.loads(disk.run(place, "verify", "out", "--json").out)["requeued"] == ["tone-000"]


def test_foreign_files_are_left_and_ours_are_named(place: Path, disk: Disk) -> None:
    left = place / "out/.audio-batch-tmp-1-abc"
    left.write_bytes(b"torn")
    (place / "out/notes.txt").write_text("mine")
    answer = disk.run(place, "verify", "out")
    assert answer.code == 0
    assert answer.out == f"{left.name} is left of a killed run; the next run removes it.\n"
    assert left.read_bytes() == b"torn"


def test_what_is_no_file_is_not_read(place: Path, disk: Disk) -> None:
    """A pipe would keep it waiting for ever; a path out of the folder is not ours to read."""
    if not hasattr(os, "mkfifo"):
        pytest.skip("no pipes with names here")
    (place / "out/tone-000.txt").unlink()
    os.mkfifo(place / "out/tone-000.txt")
    with sqlite3.connect(place / "out/.audio-batch/journal.sqlite3") as db:
        db.execute(
            "UPDATE assets SET outputs = replace(outputs, 'tone-001.txt', '../manifest.json')"
        )
    answer = disk.run(place, "verify", "out", "--no-fix")
    assert answer.code == 3
    assert "tone-000 txt: tone-000.txt is not a file any more" in answer.out
    assert "leaves the output folder" in answer.out
    assert len(answer.out.splitlines()) == 2


def test_an_unfinished_asset_is_the_next_runs_business(place: Path, disk: Disk) -> None:
    with sqlite3.connect(place / "out/.audio-batch/journal.sqlite3") as db:
        db.execute("UPDATE assets SET state = 'running' WHERE asset_id = 'tone-000'")
    flip(place / "out/tone-000.json")
    answer = disk.run(place, "verify", "out")
    assert answer.code == 0
    assert "1 asset is not finished" in answer.err
    assert disk.run(place, *NIGHT).code == 0
    assert not torn(place / "out")


def test_a_damaged_journal_and_no_journal_are_told_apart(place: Path, disk: Disk) -> None:
    assert disk.run(place, "verify", "audio").code == 2
    journal = place / "out/.audio-batch/journal.sqlite3"
    whole = journal.read_bytes()
    # A page of an index that no command reads.
    with sqlite3.connect(journal) as db:
        query = "SELECT rootpage FROM sqlite_master WHERE name = 'assets_by_state'"
        (page,) = db.execute(query).fetchone()
    at = (page - 1) * 4096
    journal.write_bytes(whole[:at] + b"\x0a" + b"\0" * 4095 + whole[at + 4096 :])
    assert disk.run(place, "status", "out").code == 0
    answer = disk.run(place, "verify", "out")
    assert (answer.code, answer.out) == (5, "")
    assert "the file is damaged" in answer.err
    assert "Your outputs are untouched" in answer.err
    assert answer.err.count("\n") == 1


def test_a_run_at_work_is_left_alone(place: Path, disk: Disk) -> None:
    with OutputFolder(place / "out").locked():
        answer = disk.run(place, "verify", "out")
    assert answer.code == 11
    assert "Another run is at work" in answer.err
