"""Nothing that stands under a name is written over: no other asset's transcript, nobody's file."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from pathlib import Path

import pytest
from forked import completed
from program import Answer, environment, write_tone
from stores.s3 import S3

from audio_batch.outputs import LocalOutputs
from audio_batch.seal import owner_of
from audio_batch.storage import STATE_FOLDER

slow = pytest.mark.slow
FLAGS = ("--engine", "null", "--isolation", "thread", "-y")


def manifest(folder: Path, name: str, *entries: dict[str, object]) -> str:
    for entry in entries:
        path = folder / f"{entry['id']}.wav"
        if not path.exists():
            write_tone(path, 0.5 + len(str(entry["id"])) / 100)
    listed = [{"path": f"{entry['id']}.wav", **entry} for entry in entries]
    (folder / name).write_text(json.dumps(listed), encoding="utf-8")
    return name


def go(folder: Path, *more: object, code: int = 0) -> Answer:
    answer = completed(["run", *more, *FLAGS], folder, environment())
    assert answer.code == code, answer.err
    return answer


def owners(out: Path) -> dict[str, str]:
    """Whose transcript each JSON is."""
    found = ((path.name, json.loads(path.read_text())) for path in sorted(out.glob("*.json")))
    return {name: body["asset_id"] for name, body in found if "asset_id" in body}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (("--shard", "1/2"), ("--shard", "2/2")),
        pytest.param(("--state-dir", "state-1"), ("--state-dir", "state-2"), marks=slow),
    ],
)
def test_an_asset_of_another_manifest_keeps_its_transcript(
    tmp_path: Path, first: tuple[str, ...], second: tuple[str, ...]
) -> None:
    # Their ids are of the first of two parts and of the second.
    one = manifest(tmp_path, "one.json", {"id": "a0", "name": "Interview"})
    two = manifest(tmp_path, "two.json", {"id": "b1", "name": "Interview"})
    by_name = ("-o", "out", "--output-template", "{name}", "-f", "txt")
    go(tmp_path, one, *by_name, *first)
    before = (tmp_path / "out/Interview.json").read_bytes()
    go(tmp_path, two, *by_name, *second)
    found = owners(tmp_path / "out")
    assert sorted(found.values()) == ["a0", "b1"]
    assert found["Interview.json"] == "a0"
    for name, flags in ((one, first), (two, (*second, "--overwrite"))):
        go(tmp_path, name, *by_name, *flags)
        assert owners(tmp_path / "out") == found
    assert (tmp_path / "out/Interview.json").read_bytes() == before


def test_a_transcript_that_another_has_replaced_is_made_again_beside_it(tmp_path: Path) -> None:
    one = manifest(tmp_path, "one.json", {"id": "a0", "name": "Interview"})
    by_name = ("-o", "out", "--output-template", "{name}")
    go(tmp_path, one, *by_name)
    path = tmp_path / "out/Interview.json"
    theirs = path.read_text().replace('"a0"', '"b1-of-another-manifest"')
    path.write_text(theirs)
    go(tmp_path, one, *by_name)
    assert sorted(owners(tmp_path / "out").values()) == ["a0", "b1-of-another-manifest"]
    assert path.read_text() == theirs


def test_a_reference_is_never_written_over(tmp_path: Path) -> None:
    name = manifest(tmp_path, "m.json", {"id": "talk", "reference_text": "talk.txt"})
    (tmp_path / "talk.txt").write_text("What was said.\n")
    for more in ((), ("--overwrite",)):
        refused = go(tmp_path, name, "-o", ".", "-f", "txt", *more, code=5)
        assert "talk.txt" in refused.err and "--output-dir" in refused.err
    doctor = completed(["doctor", name, "-o", "."], tmp_path, environment())
    assert "over what is read" in doctor.out + doctor.err
    assert (tmp_path / "talk.txt").read_text() == "What was said.\n"
    assert not (tmp_path / "talk.json").exists()
    go(tmp_path, name, "-o", ".", "-f", "srt")


@pytest.mark.parametrize(
    "theirs",
    [
        "talk.txt",
        pytest.param("talk.json", marks=slow),
        pytest.param("summary.json", marks=slow),
        pytest.param("sub/deep.json", marks=slow),
    ],
)
def test_a_file_that_no_run_has_written_ends_the_run_before_it_begins(
    tmp_path: Path, theirs: str
) -> None:
    name = manifest(tmp_path, "m.json", {"id": "talk", "sub": ""}, {"id": "deep", "sub": "sub"})
    (tmp_path / "out/sub").mkdir(parents=True)
    (tmp_path / "out" / theirs).write_text("[1, 2]")
    rest = ("-o", "out", "--output-template", "{sub}/{id}")
    for _ in range(2):
        refused = go(tmp_path, name, *rest, code=5)
        assert f"1 file in {tmp_path / 'out'}" in refused.err and f": {theirs}." in refused.err
        assert "--overwrite" in refused.err
    doctor = completed(["doctor", name, *rest], tmp_path, environment())
    assert "1 file in" in doctor.out + doctor.err
    assert (tmp_path / "out" / theirs).read_text() == "[1, 2]"
    assert not list(tmp_path.glob("out/**/*.srt"))
    go(tmp_path, name, *rest, "--overwrite")
    assert (tmp_path / "out" / theirs).read_text() != "[1, 2]"


def test_what_runs_and_exports_have_written_is_written_again(tmp_path: Path) -> None:
    name = manifest(tmp_path, "m.json", {"id": "talk"})
    rest = (name, "-o", "out")
    for formats in ("txt", "srt", "txt"):
        go(tmp_path, *rest, "-f", formats)
    for template in ("of-{id}", "{id}"):
        go(tmp_path, *rest, "--output-template", template)
    shutil.rmtree(tmp_path / "out" / STATE_FOLDER)
    go(tmp_path, *rest, "-f", "txt")  # the JSON says whose the texts are
    for path in (tmp_path / "out").glob("talk.*"):
        if path.suffix not in (".json", ".txt"):
            path.unlink()
    assert completed(["export", "out", "-f", "vtt"], tmp_path, environment()).code == 0
    go(tmp_path, *rest, "-f", "vtt")
    (tmp_path / "out/talk.lrc").write_text("A person's.")
    journal = sqlite3.connect(tmp_path / "out" / STATE_FOLDER / "journal.sqlite3")
    # Not of those rows that were made from JSON, of which nobody knows what else was written.
    with journal:
        journal.execute("UPDATE assets SET started_at = 1")
    journal.close()
    go(tmp_path, *rest, "-f", "lrc", code=5)
    assert (tmp_path / "out/talk.lrc").read_text() == "A person's."


@pytest.mark.parametrize("by", [pytest.param("itself", marks=slow), "a part"])
def test_what_a_killed_publication_left_is_written_again(tmp_path: Path, by: str) -> None:
    name = manifest(tmp_path, "m.json", {"id": "talk", "formats": ["lrc"]})
    rest = (name, "-o", "out")
    part = ("--shard", "1/1") if by == "a part" else ()
    go(tmp_path, *rest, *part)
    (tmp_path / "out/talk.json").unlink()
    state = tmp_path / "out" / STATE_FOLDER / ("shards/1-of-1" if part else "")
    journal = sqlite3.connect(state / "journal.sqlite3")
    with journal:
        journal.execute("UPDATE assets SET state = 'running', outputs = '[]'")
    journal.close()
    (tmp_path / "out/talk.lrc").write_text("What was left.")
    go(tmp_path, *rest)
    assert (tmp_path / "out/talk.lrc").read_text() != "What was left."
    assert owners(tmp_path / "out") == {"talk.json": "talk"}


@pytest.mark.skipif(os.name == "nt", reason="needs a link, which not everybody may make there")
def test_in_a_folder_that_cannot_be_listed_anything_may_be(tmp_path: Path) -> None:
    (tmp_path / "round").symlink_to("round")
    outputs = LocalOutputs(tmp_path)
    assert outputs.has_any("round/talk")
    assert not outputs.has_any("none/talk")


def test_a_bucket_says_what_is_ours(tmp_path: Path, s3: S3) -> None:
    name = manifest(tmp_path, "m.json", {"id": "talk"}, {"id": "lecture"})
    rest = (name, "-o", s3.url("night"), "--s3-endpoint", s3.endpoint, "-f", "txt")
    go(tmp_path, *rest, "--state-dir", "one")
    s3.delete("night/talk.json")  # as a kill before it was published leaves it
    s3.trouble.clear()
    go(tmp_path, *rest, "--state-dir", "two")
    counts = s3.counts()
    # One look at the text; the other's JSON and the summary are read. Two outputs, summary, probe.
    assert (counts["HEAD"], counts["GET"], counts["LIST"], counts["PUT"]) == (1, 2, 1, 4)
    for theirs in ("talk.txt", "talk.json", "summary.json"):
        for key in s3.keys("night/"):
            s3.delete(key)
        s3.put(f"night/{theirs}", b"A person's.")
        refused = go(tmp_path, *rest, "--state-dir", f"not-{theirs}", code=5)
        assert f": {theirs}." in refused.err
        assert s3.objects("night/") == {theirs: b"A person's."}


@pytest.mark.parametrize(
    ("text", "owner"),
    [
        ('{"schema_version": 1, "asset_id": "a\\"b", "segments": [], "x": 1}', 'a"b'),
        ('{"segments": [], "asset_id": "a"}', "a"),
        ('{\n  "schema_version": 12,\n  "asset_id": "a",\n  "segm', "a"),
        ('{"asset_id": "a"}', None),
        ('{"asset_id": 1, "segments": []}', None),
        ('["asset_id"]', None),
        ("[" * 100_000, None),
        ("\x00\xff", None),
        ("", None),
    ],
)
def test_a_json_says_whose_it_is(text: str, owner: str | None) -> None:
    assert owner_of(text.encode("latin-1")) == owner
