"""Linking a whole output folder: what is written, what is left alone, and what a kill leaves."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from program import environment
from voice_folders import (
    SPACE,
    add_run,
    content,
    journalled,
    speakers,
    transcript,
    unlike_the_journal,
    voices,
)

from audio_batch.errors import SetupError, UsageError
from audio_batch.journal import Journal
from audio_batch.output_folder import OutputFolder
from audio_batch.seal import opened
from audio_batch.storage import STATE_FOLDER
from audio_batch.transcript import Transcript
from audio_batch.voices import memory, names
from audio_batch.voices.folder import LinkReport, link_output, settle


def linked(root: Path, **how: object) -> LinkReport:
    journal = Journal(OutputFolder(root).journal_path)
    try:
        return link_output(root, journal, **how)  # type: ignore[arg-type]
    finally:
        journal.close()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three recordings of three people, the first of whom is in all of them."""
    people = {"a": [0, 1], "b": [0], "c": [2, 0]}
    add_run(tmp_path / "out", [transcript(asset, who) for asset, who in people.items()])
    return tmp_path / "out"


def test_the_same_voice_has_the_same_id_everywhere(root: Path) -> None:
    report = linked(root)
    assert voices(root, "a") == ["VOICE_0001", "VOICE_0002"]
    assert voices(root, "b") == ["VOICE_0001"]
    assert voices(root, "c") == ["VOICE_0003", "VOICE_0001"]
    assert report.changed == ("a", "b", "c")
    assert (report.recordings, report.unlinked, report.spaces) == (3, 0, {SPACE: 5})
    assert "VOICE_0001: hello there" in (root / "b.srt").read_text()
    assert unlike_the_journal(root) == []
    document = json.loads((root / "speakers.json").read_text())
    assert document["voices"]["VOICE_0001"] == {
        "name": None,
        "recordings": 3,
        "talk_s": 30.0,
        "heard_in": ["a", "b", "c"],
    }


def test_what_is_written_anew_vouches_for_itself_again(root: Path) -> None:
    linked(root)
    for asset_id, outputs in journalled(root).items():
        sealed = opened((root / f"{asset_id}.json").read_bytes())
        assert sealed is not None
        assert sealed.outputs == tuple(file for file in outputs if file.format != "json")


def test_linking_again_changes_nothing(root: Path) -> None:
    linked(root)
    times = {path: path.stat().st_mtime_ns for path in root.rglob("*.*") if path.is_file()}
    again = linked(root)
    assert (again.changed, again.new) == ((), ())
    memory_file, journal = memory.memory_path(root / STATE_FOLDER), OutputFolder(root).journal_path
    left = set(times) - {memory_file, journal}
    assert {path: path.stat().st_mtime_ns for path in left} == {p: times[p] for p in left}


def test_a_dry_run_says_it_all_and_writes_nothing(root: Path) -> None:
    before = content(root)
    report = linked(root, dry_run=True)
    assert content(root) == before
    assert not memory.memory_path(root / STATE_FOLDER).exists()
    real = linked(root)
    assert report == real


def test_names_of_the_file_are_written_into_every_format(root: Path) -> None:
    linked(root)
    names.rename(root, "VOICE_0001", "Alice")
    report = linked(root)
    assert report.changed == ("a", "b", "c")
    assert [(s.name, s.score) for s in speakers(root, "b")] == [("Alice", None)]
    assert "Alice: hello there" in (root / "b.srt").read_text()
    names.rename(root, "VOICE_0001", "")
    linked(root)
    assert [s.name for s in speakers(root, "b")] == [None]
    assert "VOICE_0001: hello there" in (root / "b.srt").read_text()
    assert unlike_the_journal(root) == []


def test_only_what_changes_is_written(root: Path) -> None:
    linked(root)
    names.rename(root, "VOICE_0002", "Bob")
    before = {path: path.stat().st_mtime_ns for path in root.glob("?.*")}
    assert linked(root).changed == ("a",)
    touched = {path.name for path, at in before.items() if path.stat().st_mtime_ns != at}
    assert touched == {"a.json", "a.srt", "a.txt"}


def test_an_enrolled_name_stands_before_the_files(tmp_path: Path) -> None:
    one = transcript("a", [0])
    (speaker,) = one.speakers
    enrolled = dataclasses.replace(speaker, name="Zoe", score=0.9)
    add_run(tmp_path, [dataclasses.replace(one, speakers=(enrolled,)), transcript("b", [0])])
    linked(tmp_path)
    names.rename(tmp_path, "VOICE_0001", "Alice")
    linked(tmp_path)
    assert [(s.name, s.score, s.voice) for s in speakers(tmp_path, "a")] == [
        ("Zoe", 0.9, "VOICE_0001")
    ]
    assert [s.name for s in speakers(tmp_path, "b")] == ["Alice"]


def test_each_run_keeps_its_own_layout(tmp_path: Path) -> None:
    long = dataclasses.replace(
        transcript("a", [0]),
        segments=tuple(
            dataclasses.replace(transcript("a", [0]).segments[0], text="many words " * 8, words=())
            for _ in range(1)
        ),
    )
    add_run(tmp_path, [long], settings={"max_line_width": 20})
    add_run(tmp_path, [transcript("b", [0])])
    linked(tmp_path)
    lines = (tmp_path / "a.srt").read_text().splitlines()
    assert any("VOICE_0001" in line for line in lines)
    assert max(len(line) for line in lines if "-->" not in line) <= 20


def test_late_recordings_join_and_ids_are_never_given_twice(root: Path) -> None:
    linked(root)
    add_run(root, [transcript("d", [1]), transcript("e", [3])])
    report = linked(root)
    assert report.changed == ("d", "e")
    assert (voices(root, "d"), voices(root, "e")) == (["VOICE_0002"], ["VOICE_0004"])
    # `e` is diarized anew and is somebody else: VOICE_0004 is nobody's, but stays taken.
    add_run(root, [transcript("e", [4])])
    linked(root)
    assert voices(root, "e") == ["VOICE_0005"]
    assert "VOICE_0004" not in names.read(root)["voices"]


def test_ids_survive_a_recording_that_is_published_anew(root: Path) -> None:
    """Another aligner, other formats, the same voices: the run writes it without ids."""
    linked(root)
    names.rename(root, "VOICE_0003", "Carol")
    add_run(root, [transcript("c", [2, 0])])
    assert voices(root, "c") == [None, None]
    remembered = memory.recall(root / STATE_FOLDER)
    again = remembered.applied(transcript("c", [2, 0]))
    assert [s.voice for s in again.speakers] == ["VOICE_0003", "VOICE_0001"]
    assert names.applied(again, names.load(root)).speakers[0].shown == "Carol"
    report = linked(root)
    assert report.changed == ("c",)
    assert voices(root, "c") == ["VOICE_0003", "VOICE_0001"]


def test_without_its_memory_the_ids_in_the_transcripts_count(root: Path) -> None:
    linked(root)
    before = content(root)
    memory.memory_path(root / STATE_FOLDER).unlink()
    assert linked(root).changed == ()
    assert content(root) == before


def test_gathering_anew_keeps_the_names_with_the_people(root: Path) -> None:
    linked(root, threshold=0.999)
    assert len(names.listed(root)) == 5
    names.rename(root, voices(root, "b")[0] or "", "Alice")
    report = linked(root, relink=True)
    assert len(report.voices) == 3
    assert report.new == ()
    ids = {voices(root, "a")[0], voices(root, "b")[0], voices(root, "c")[1]}
    assert len(ids) == 1
    assert {v.voice for v in names.listed(root) if v.recordings} == set(report.voices)
    assert "Alice" in {v.name for v in names.listed(root)}


def test_spaces_are_not_compared(tmp_path: Path) -> None:
    add_run(tmp_path, [transcript("a", [0]), transcript("b", [0], space="other-model")])
    report = linked(tmp_path)
    assert report.spaces == {SPACE: 1, "other-model": 1}
    assert voices(tmp_path, "a") != voices(tmp_path, "b")
    assert len(report.voices) == 2


def test_a_threshold_is_needed_and_must_be_one(tmp_path: Path) -> None:
    one = transcript("a", [0])
    about = {"diarization": {"embedding_identity": "foreign"}}
    add_run(tmp_path, [dataclasses.replace(one, provenance=about)])
    with pytest.raises(UsageError, match=r"foreign.*--link-threshold"):
        linked(tmp_path)
    for bad in (0, 1, -1, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="must lie between 0 and 1"):
            linked(tmp_path, threshold=bad)
    assert linked(tmp_path, threshold=0.7).new == ("VOICE_0001",)


def test_what_is_not_the_published_file_is_left_out_and_named(root: Path) -> None:
    (root / "a.json").write_text((root / "a.json").read_text().replace("hello", "hallo", 1))
    (root / "c.json").unlink()
    report = linked(root)
    assert report.changed == ("b",)
    assert [line.split(" is not ")[0] for line in report.left_out] == ["a.json", "c.json"]
    assert "hallo" in (root / "a.json").read_text()


def test_recordings_without_voices_are_no_matter(tmp_path: Path) -> None:
    silent = dataclasses.replace(transcript("a", []), provenance={})
    unheard = transcript("b", [0])
    (speaker,) = unheard.speakers
    unheard = dataclasses.replace(unheard, speakers=(dataclasses.replace(speaker, embedding=None),))
    add_run(tmp_path, [silent, unheard])
    report = linked(tmp_path)
    assert (report.recordings, report.voices, report.unlinked) == (2, {}, 1)
    assert not (tmp_path / "speakers.json").exists()


def test_a_damaged_memory_is_said(root: Path) -> None:
    linked(root)
    for text in ("{", "[]", '{"schema_version": 1}', '{"schema_version": 2}', "null"):
        memory.memory_path(root / STATE_FOLDER).write_text(text)
        with pytest.raises(SetupError, match=r"voices\.json"):
            linked(root)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="permissions do not bind us")
def test_a_file_that_cannot_be_written_leaves_its_asset_whole(root: Path) -> None:
    root.chmod(0o500)
    try:
        with pytest.raises(SetupError):
            linked(root)
    finally:
        root.chmod(0o700)
    assert unlike_the_journal(root) == []


def test_a_target_that_cannot_be_replaced_is_reported(root: Path) -> None:
    (root / "b.srt").unlink()
    (root / "b.srt").mkdir()
    report = linked(root)
    assert report.changed == ("a", "c")
    assert "b.srt" in report.left_out[0]
    (root / "b.srt").rmdir()
    assert linked(root).changed == ("b",)
    assert unlike_the_journal(root) == []


DIES = """
import os, sys
from pathlib import Path
from audio_batch.journal import Journal
from audio_batch.output_folder import OutputFolder
from audio_batch.voices.folder import link_output
class Dying(Journal):
    def replace_outputs(self, asset_id, outputs):
        if asset_id == "b":
            os._exit(9)
        super().replace_outputs(asset_id, outputs)
root = Path(sys.argv[1])
link_output(root, Dying(OutputFolder(root).journal_path))
"""


def test_a_json_published_but_not_journalled_is_journalled_by_the_next(root: Path) -> None:
    """Killed between the two; else a run would take the file for a foreign one."""
    before = journalled(root)
    assert subprocess.run([sys.executable, "-c", DIES, str(root)], check=False).returncode == 9
    assert voices(root, "b") == ["VOICE_0001"]
    assert unlike_the_journal(root) == ["b.srt", "b.txt", "b.json"]
    journal = Journal(OutputFolder(root).journal_path)
    settle(root, journal)
    journal.close()
    assert unlike_the_journal(root) == []
    assert journalled(root)["b"] != before["b"]
    assert journalled(root)["c"] == before["c"]
    report = linked(root)
    assert (report.changed, report.left_out) == (("c",), ())
    assert not (root / ".audio-batch/relinking.json").exists()


def test_an_announcement_is_forgotten_once_its_recording_is_done_anew(root: Path) -> None:
    subprocess.run([sys.executable, "-c", DIES, str(root)], check=False)
    add_run(root, [transcript("b", [5])])
    standing = journalled(root)["b"]
    journal = Journal(OutputFolder(root).journal_path)
    settle(root, journal)
    journal.close()
    assert journalled(root)["b"] == standing
    assert linked(root).left_out == ()
    assert voices(root, "b") == ["VOICE_0004"]


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"asset_id": "c", "outputs": [{}]}', "\0"])
def test_an_announcement_that_tells_nothing_does_no_harm(root: Path, text: str) -> None:
    linked(root)
    before = journalled(root)
    (root / ".audio-batch/relinking.json").write_text(text)
    assert linked(root).changed == ()
    assert journalled(root) == before
    assert not (root / ".audio-batch/relinking.json").exists()


LINK = """
import os, signal, sys
from pathlib import Path
from audio_batch.journal import Journal
from audio_batch.output_folder import OutputFolder
from audio_batch.voices.folder import link_output
root, left, writing = Path(sys.argv[1]), int(sys.argv[2]), False

def dies(event, arguments):
    global left, writing
    if event in ("open", "os.rename") and str(root) in str(arguments[0]):
        writing = writing or "-tmp-" in str(arguments[0])
        left -= writing
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

with OutputFolder(root).locked():
    OutputFolder(root).sweep()
    journal = Journal(OutputFolder(root).journal_path)
    sys.addaudithook(dies)
    link_output(root, journal, relink=len(sys.argv) > 3)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_killed_at_any_time_it_ends_as_if_never_killed(tmp_path: Path) -> None:
    """Doubtful voices, so that a plan made anew from half of the files would be another one."""
    people = [[n % 5, (n + 1) % 5] for n in range(30)]
    made = tmp_path / "made"
    add_run(made, [transcript(f"call-{n:02d}", who) for n, who in enumerate(people)])
    linked(made, threshold=0.9)
    whole = tmp_path / "whole"
    shutil.copytree(made, whole)
    linked(whole, relink=True)
    expected = content(whole)
    assert expected != content(made)

    out = tmp_path / "out"
    shutil.copytree(made, out)
    torn: list[str] = []
    # Into the midst of the writing, before another step each time: an output, the announcement of a
    # transcript, the transcript itself, and what follows upon it.
    for attempt, steps in enumerate((60, 63, 66, 67)):
        more = ["relink"] if attempt == 0 else []
        line = [sys.executable, "-c", LINK, str(out), str(steps), *more]
        done = subprocess.run(line, env=environment(), capture_output=True, text=True, check=False)
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert 0 < _rewritten(made, out) < 30
        torn += unlike_the_journal(out)
        assert len(unlike_the_journal(out)) <= 3
        if attempt == 0:
            assert (
                memory.memory_path(out / STATE_FOLDER).read_bytes()
                == memory.memory_path(whole / STATE_FOLDER).read_bytes()
            )
    assert {Path(name).suffix for name in torn} == {".srt", ".txt", ".json"}
    OutputFolder(out).sweep()
    assert linked(out).left_out == ()
    assert content(out) == expected
    assert unlike_the_journal(out) == []


def _rewritten(made: Path, out: Path) -> int:
    return sum(
        path.read_bytes() != (made / path.name).read_bytes() for path in out.glob("call-*.json")
    )


def test_transcripts_are_read_back_as_they_were(root: Path) -> None:
    """All but the speakers' ids, and the seal over them, is untouched by the rewriting."""
    before = Transcript.from_json(json.loads((root / "a.json").read_text()))
    linked(root)
    after = Transcript.from_json(json.loads((root / "a.json").read_text()))
    bare = tuple(dataclasses.replace(s, voice=None) for s in after.speakers)
    sealed = {key: after.provenance[key] for key in ("outputs", "sha256")}
    assert dataclasses.replace(after, speakers=bare) == dataclasses.replace(
        before, provenance={**before.provenance, **sealed}
    )
