"""A journal that is lost, or another run's: nothing is done twice, nothing false is believed."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from attempt_rows import count_attempts
from forked import completed
from program import Answer, environment, write_manifest, write_tone

from audio_batch.formats import FormatOptions, render
from audio_batch.journal import Journal, JournalEntry
from audio_batch.manifest import Asset
from audio_batch.options import DecodingOptions, RunOptions, WantedStages
from audio_batch.output_folder import OutputFolder
from audio_batch.outputs import LocalOutputs, intact
from audio_batch.plan import Planned, plan
from audio_batch.recovery import Recovery
from audio_batch.seal import opened, seal, sealed_again
from audio_batch.storage import STATE_FOLDER, PublishedFile
from audio_batch.transcript import Segment, Transcript

RUN = ("run", "manifest.json", "--engine", "null", "--isolation", "thread", "-o", "out")


def go(folder: Path, *more: object, code: int = 0) -> Answer:
    answer = completed([*RUN, *more], folder, environment())
    assert answer.code == code, answer.err
    return answer


def rows(out: Path, shard: str = "") -> dict[str, JournalEntry]:
    journal = Journal(OutputFolder.at(str(out), shard=shard or None).journal_path, read_only=True)
    try:
        return {entry.asset_id: entry for entry in journal.entries()}
    finally:
        journal.close()


def attempts(out: Path) -> int:
    return count_attempts(OutputFolder(out).journal_path)


def stamps(out: Path) -> dict[str, tuple[int, bytes]]:
    """When each output was written, and what it holds."""
    return {
        path.relative_to(out).as_posix(): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(out.rglob("*"))
        if path.is_file() and STATE_FOLDER not in path.parts and path.name != "summary.json"
    }


def done_again(folder: Path, before: dict[str, tuple[int, bytes]]) -> set[str]:
    """The outputs that are not the files any more that they were."""
    after = stamps(folder / "out")
    assert after.keys() == before.keys()
    return {name for name in after if after[name][0] != before[name][0]}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A night of three tones."""
    folder = tmp_path_factory.mktemp("night")
    write_manifest(folder, 3)
    go(folder)
    return folder


@pytest.fixture
def night(finished: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    shutil.copytree(finished, tmp_path / "night")
    return tmp_path / "night"


def lose(night: Path) -> None:
    shutil.rmtree(night / "out" / STATE_FOLDER)


def test_a_lost_journal_costs_nothing(night: Path) -> None:
    known, before = rows(night / "out"), stamps(night / "out")
    lose(night)
    answer = go(night)
    assert "3 assets done" in answer.err
    assert "Nothing to do" in answer.err
    assert stamps(night / "out") == before
    assert attempts(night / "out") == 0

    def told(entry: JournalEntry) -> JournalEntry:
        # The JSON is written before anybody knows when and how fast it was.
        timings_s = {name: s for name, s in entry.timings_s.items() if name != "publish"}
        return dataclasses.replace(
            entry, started_at=None, finished_at=None, timings_s=timings_s, run_id=0
        )

    found = rows(night / "out")
    assert {name: told(entry) for name, entry in found.items()} == {
        name: told(entry) for name, entry in known.items()
    }
    assert "Taken over" not in go(night).err
    summary = json.loads((night / "out/summary.json").read_text())
    assert (summary["done"], summary["done_before"]) == (0, 3)


def tamper(path: Path) -> None:
    text = path.read_text()
    assert '"language"' in text
    path.write_text(text.replace('"language"', '"lanquage"', 1))


def forget_seal(path: Path) -> None:
    """As a version without seals has written it."""
    body = json.loads(path.read_text())
    for key in ("source_identity", "rendering", "outputs", "sha256"):
        del body["provenance"][key]
    path.write_text(json.dumps(body, indent=2) + "\n")


def test_what_does_not_vouch_for_the_asset_is_done_again(tmp_path: Path) -> None:
    write_manifest(tmp_path, 7)
    go(tmp_path)
    lose(tmp_path)
    names = [tmp_path / f"out/tone-{number:03d}.json" for number in range(7)]
    tamper(names[0])
    shutil.copy(names[6], names[1])
    names[2].write_bytes(names[2].read_bytes()[:1000])
    names[3].write_bytes(b"")
    forget_seal(names[4])
    write_tone(tmp_path / "audio/tone-005.wav", 0.7)  # another recording than was heard
    before = stamps(tmp_path / "out")
    answer = go(tmp_path)
    assert "1 assets done" in answer.err
    kept = {name for name in before if name.startswith("tone-006")}
    assert done_again(tmp_path, before) == before.keys() - kept
    assert attempts(tmp_path / "out") == 6


def test_a_text_that_is_lost_too_is_written_from_the_json(night: Path) -> None:
    before = stamps(night / "out")
    lose(night)
    (night / "out/tone-001.srt").unlink()
    (night / "out/tone-002.json").unlink()  # its texts are what a kill leaves of a publication
    answer = go(night)
    assert "2 assets done" in answer.err
    assert {n: data for n, (_, data) in stamps(night / "out").items() if "json" not in n} == {
        n: data for n, (_, data) in before.items() if "json" not in n
    }
    assert json.loads((night / "out/summary.json").read_text())["rendered"] == 1


@pytest.mark.slow
def test_other_formats_cost_no_transcription_either(night: Path) -> None:
    lose(night)
    go(night, "-f", "json,txt,vtt")
    assert json.loads((night / "out/summary.json").read_text())["rendered"] == 3


@pytest.mark.slow
def test_other_options_are_another_matter(night: Path) -> None:
    lose(night)
    answer = go(night, "--language", "de")
    assert "Taken over" not in answer.err
    assert attempts(night / "out") == 3


@pytest.mark.slow
def test_overwrite_believes_nothing(night: Path) -> None:
    lose(night)
    assert "Taken over" not in go(night, "--overwrite").err
    assert attempts(night / "out") == 3


def test_what_shards_did_is_taken_over_by_the_whole(tmp_path: Path) -> None:
    write_manifest(tmp_path, 4)
    for part in ("1/2", "2/2"):
        go(tmp_path, "--shard", part)
    by_shards = {**rows(tmp_path / "out", "1/2"), **rows(tmp_path / "out", "2/2")}
    assert len(by_shards) == 4
    before = stamps(tmp_path / "out")
    answer = go(tmp_path)
    assert "4 assets done" in answer.err
    assert stamps(tmp_path / "out") == before
    assert attempts(tmp_path / "out") == 0


# -- the seal, and what it cannot vouch for -------------------------------------------------------

OPTIONS = RunOptions(model="m", engine="null", decoding=DecodingOptions(), formats=("json", "txt"))


def planned(folder: Path) -> Planned:
    (found,) = plan(
        [Asset(id="a", uri="a.wav", path=folder / "a.wav", name="A", position=0)],
        [],
        OPTIONS,
        wanted=WantedStages("id"),
        output_names={"a": "a"},
        state=folder / STATE_FOLDER,
        stands=lambda file: intact(LocalOutputs(folder), file),
        source_identity=lambda _: "1:1",
    )
    return found


def transcript(item: Planned, **more: Any) -> Transcript:
    about = {"fingerprint": item.fingerprint, "speech_s": 1.5, "device": "cpu"}
    values: dict[str, Any] = {
        "asset_id": "a",
        "source": "a.wav",
        "name": "A",
        "language": "en",
        "duration_s": 2.0,
        "segments": (Segment('"sha256": "' + "0" * 64 + '"', 0.0, 1.0),),
        "provenance": about,
    }
    return Transcript(**{**values, **more})


def taken_over(folder: Path, data: bytes, item: Planned) -> JournalEntry | None:
    """What the journal has after a recovery from this JSON."""
    outputs = LocalOutputs(folder / "out")
    outputs.publish(PurePosixPath("a.json"), data, format_name="json")
    output_folder = OutputFolder(folder / "out")
    output_folder.create()
    journal = Journal(output_folder.journal_path)
    try:
        recovery = Recovery(outputs, journal, lambda: journal.begin_run(version="0", request={}))
        count = recovery.take_over([item])
        found = list(journal.entries())
        assert count == recovery.count == len(found)
        return found[0] if found else None
    finally:
        journal.close()


def test_a_row_says_what_the_transcript_says(tmp_path: Path) -> None:
    item = planned(tmp_path)
    text = PublishedFile("txt", "a.txt", 5, "ab" * 32)
    body = transcript(item, suspicions=("loops",), media={"notes": ["damaged"]})
    data = seal(body, [text], source="1:1", rendering="r")
    row = taken_over(tmp_path, data, item)
    assert row is not None
    assert (row.outputs[0], row.outputs[1].path) == (text, "a.json")
    assert (row.suspicions, row.notes) == (("loops",), ("damaged",))
    assert (row.duration_s, row.speech_s, row.language, row.device) == (2.0, 1.5, "en", "cpu")


@pytest.mark.parametrize(
    "path", ["../a.txt", "/etc/passwd", "b.txt", "a.json", "a.srt"], ids=lambda path: path
)
def test_files_of_others_are_not_claimed(tmp_path: Path, path: str) -> None:
    item = planned(tmp_path)
    data = seal(
        transcript(item), [PublishedFile("txt", path, 5, "ab" * 32)], source="1:1", rendering="r"
    )
    assert opened(data) is not None
    assert taken_over(tmp_path, data, item) is None


def test_an_incomplete_transcript_is_not_done(tmp_path: Path) -> None:
    item = planned(tmp_path)
    data = seal(transcript(item, missing=("diarize",)), [], source="1:1", rendering="r")
    assert taken_over(tmp_path, data, item) is None


def test_a_seal_holds_for_every_byte(tmp_path: Path) -> None:
    data = seal(transcript(planned(tmp_path)), [], source="1:1", rendering="r")
    assert opened(data) is not None
    assert opened(b"") is None
    assert opened(b"[]") is None
    assert opened(data + b"\n") is None
    for place in range(0, len(data), 7):
        other = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        assert opened(other) is None, data[place - 20 : place + 20]


def test_a_seal_outlives_a_change_that_is_ours(tmp_path: Path) -> None:
    data = seal(transcript(planned(tmp_path)), [], source="1:1", rendering="r")
    found = opened(data)
    assert found is not None
    assert sealed_again(found.transcript, []) == data
    text = PublishedFile("txt", "a.txt", 5, "ab" * 32)
    renamed = dataclasses.replace(found.transcript, name="B")
    again = opened(sealed_again(renamed, [text]))
    assert again is not None
    assert (again.outputs, again.source, again.rendering) == ((text,), "1:1", "r")
    plain = transcript(planned(tmp_path))
    assert sealed_again(plain, [text]) == render("json", plain, FormatOptions())
