"""What comes under an output's name while a run is at work stays; what is a run's own does not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import faulty_engine
import pytest
from forked import completed
from program import Answer, command, environment, write_manifest
from stores.faults import Rule
from stores.s3 import S3

from audio_batch import storage
from audio_batch.errors import AssetError, ErrorKind
from audio_batch.outputs import LocalOutputs, OutputPlace, Outputs
from audio_batch.publishing import Publisher
from audio_batch.remote.access import Access

JSON_OF_A = {"schema_version": 1, "asset_id": "a", "segments": []}
PERSONS = b"A person's.\n"


def transcript(asset_id: str, *paths: str) -> bytes:
    outputs = [{"path": path} for path in paths]
    body = {**JSON_OF_A, "asset_id": asset_id, "provenance": {"outputs": outputs}}
    return json.dumps(body).encode()


@pytest.fixture(params=["local", "s3"])
def outputs(request: pytest.FixtureRequest, tmp_path: Path) -> Outputs:
    if request.param == "local":
        return LocalOutputs(tmp_path)
    s3: S3 = request.getfixturevalue("s3")
    return OutputPlace(s3.url("out"), Access(s3_endpoint=s3.endpoint)).open()


def put(outputs: Outputs, name: str, data: bytes) -> None:
    outputs.publish(PurePosixPath(name), data, format_name="")


def refused(publisher: Publisher, format_name: str, data: bytes) -> bool:
    try:
        publisher.publish(format_name, data)
    except AssetError as error:
        assert error.kind is ErrorKind.OUTPUT_EXISTS
        return True
    assert publisher.outputs.read(publisher.path(format_name)) == data
    return False


def test_only_what_is_an_assets_own_is_written_over(outputs: Outputs) -> None:
    publisher = Publisher(outputs, "a", "x", ())
    put(outputs, "x.txt", b"words")
    assert not refused(publisher, "txt", b"words"), "left by an attempt that was killed"
    assert refused(publisher, "txt", b"other words")
    put(outputs, "x.json", transcript("a", "x.srt"))
    assert refused(publisher, "txt", b"other words"), "no transcript names it"
    put(outputs, "x.json", transcript("b", "x.txt"))
    assert refused(publisher, "txt", b"other words"), "another asset's transcript names it"
    assert refused(publisher, "json", transcript("a"))
    put(outputs, "x.json", transcript("a", "x.txt"))
    assert not refused(publisher, "txt", b"other words")
    assert not refused(publisher, "json", transcript("a"))
    put(outputs, "x.json", PERSONS)
    assert refused(publisher, "json", transcript("a"))
    assert not refused(Publisher(outputs, "a", "x", ("json",)), "json", transcript("a"))


def test_a_folder_says_at_once_that_a_name_is_taken(tmp_path: Path) -> None:
    publisher = Publisher(LocalOutputs(tmp_path), "a", "x", ())
    publisher.see("txt", b"words")
    (tmp_path / "x.txt").write_bytes(PERSONS)
    with pytest.raises(AssetError, match=r"x\.txt is there"):
        publisher.see("txt", b"words")
    publisher.see("txt", PERSONS)
    (tmp_path / "x.json").mkdir()
    with pytest.raises(AssetError, match=r"x\.json is there"):
        publisher.see("json")


def test_an_answer_that_was_lost_is_no_other_programs_file(s3: S3) -> None:
    outputs = OutputPlace(s3.url("out"), Access(s3_endpoint=s3.endpoint)).open()
    s3.rule(Rule("lost", kind="PUT", times=1))
    assert not refused(Publisher(outputs, "a", "x", ()), "txt", b"words")


@pytest.mark.skipif(os.name == "nt", reason="there a rename refuses by itself")
def test_without_links_a_name_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")  # as on FAT

    monkeypatch.setattr(os, "link", link)
    (tmp_path / "x.txt").write_bytes(PERSONS)
    for name in ("x.txt", "y.txt"):
        try:
            storage.publish(
                tmp_path, PurePosixPath(name), b"words", format_name="txt", replace=False
            )
        except AssetError as error:
            assert (name, error.kind) == ("x.txt", ErrorKind.OUTPUT_EXISTS)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {
        "x.txt": PERSONS,
        "y.txt": b"words",
    }


# -- whole nights ---------------------------------------------------------------------------------


def night(
    folder: Path,
    *more: object,
    meanwhile: Callable[[], Any] = lambda: None,
    code: int = 0,
    isolation: str = "thread",
    **faults: object,
) -> Answer:
    """A run, and what is done while its last asset is at work, before any other is published."""
    begins, gate = folder / "begins", folder / "gate"
    gate.unlink(missing_ok=True)
    before = begins.read_text().count("begins") if begins.exists() else 0
    over = threading.Event()

    def wait() -> None:
        while not over.is_set():
            if begins.exists() and begins.read_text().count("begins") > before:
                meanwhile()
                break
            time.sleep(0.02)
        gate.touch()

    other = threading.Thread(target=wait)
    other.start()
    faults = {"wait": [0, 1, 2], "gate": str(gate), "begins": str(begins), **faults}
    env = environment(**faulty_engine.install(folder / "plugin"), FAULTY_ENGINE=json.dumps(faults))
    flags = ("--engine", "faulty", "--isolation", isolation, "-f", "txt,srt", "-y")
    try:
        answer = completed(["run", "manifest.json", *more, *flags], folder, env)
    finally:
        over.set()
        other.join()
    assert answer.code == code, answer.err
    return answer


def names(out: Path) -> list[str]:
    return sorted(path.name for path in out.iterdir() if path.name.startswith("tone-"))


def heard(folder: Path) -> int:
    return (folder / "begins").read_text().count("begins")


def test_a_file_that_comes_during_a_night_stays_and_its_asset_fails(tmp_path: Path) -> None:
    write_manifest(tmp_path, 4)
    out = tmp_path / "out"

    def others() -> None:
        (out / "tone-000.srt").write_bytes(PERSONS)
        (out / "tone-001.json").write_bytes(PERSONS)
        (out / "summary.json").write_bytes(PERSONS)

    def untouched() -> None:
        assert names(out) == sorted(
            ["tone-000.srt", "tone-001.json", *(f"tone-002.{s}" for s in ("json", "srt", "txt"))]
        )
        for name in ("tone-000.srt", "tone-001.json", "summary.json"):
            assert (out / name).read_bytes() == PERSONS

    answer = night(tmp_path, "-o", "out", "--limit", 3, meanwhile=others, code=3)
    assert "tone-000.srt is there, and is another's" in answer.err
    assert "summary.json" in answer.err
    untouched()
    kept = json.loads((out / storage.STATE_FOLDER / "summary.json").read_text())
    assert {one["id"]: one["kind"] for one in kept["failures"]} == {
        "tone-000": "output_exists",
        "tone-001": "output_exists",
    }
    (out / "summary.json").unlink()
    # As long as there is one nothing changes; the rest of a night is done.
    (out / "tone-000.srt").rename(out / "tone-000.txt")
    begun = heard(tmp_path)
    answer = night(tmp_path, "-o", "out", code=3)
    assert heard(tmp_path) == begun + 1
    assert "Left as they were, failed in an earlier run: 2" in answer.err
    failures = json.loads((out / "summary.json").read_text())["failures"]
    reasons = {one["id"]: one["reason"] for one in failures}
    assert reasons["tone-000"].startswith("tone-000.txt is there, and is another's")
    assert (out / "tone-003.txt").exists()
    doctor = completed(["doctor", "manifest.json", "-o", "out"], tmp_path, environment())
    assert "known to have written" not in doctor.out + doctor.err
    # And when they are gone, what was heard is written.
    (out / "tone-000.txt").unlink()
    (out / "tone-001.json").unlink()
    begun = heard(tmp_path)
    night(tmp_path, "-o", "out")
    assert heard(tmp_path) == begun
    assert len(names(out)) == 12


@pytest.mark.slow
def test_a_format_that_is_new_is_written_over_nothing_that_comes_meanwhile(tmp_path: Path) -> None:
    write_manifest(tmp_path, 1)
    out = tmp_path / "out"
    night(tmp_path, "-o", "out")
    (tmp_path / "begins").unlink()

    def other() -> None:
        (out / "tone-000.vtt").write_bytes(PERSONS)

    # Heard once more, and so published over what stood there before, but over nothing else.
    more = ("-o", "out", "-f", "txt,vtt", "--language", "en")
    night(tmp_path, *more, meanwhile=other, code=3)
    assert (out / "tone-000.vtt").read_bytes() == PERSONS
    (out / "tone-000.vtt").unlink()
    night(tmp_path, *more)


@pytest.mark.slow
def test_what_an_attempt_that_died_may_have_left_is_written_again(tmp_path: Path) -> None:
    write_manifest(tmp_path, 1)
    (tmp_path / "once").mkdir()
    left = tmp_path / "out/tone-000.txt"
    night(
        tmp_path,
        *("-o", "out", "--retry-delay", "0.01"),
        meanwhile=lambda: left.write_bytes(b"Other words.\n"),
        isolation="process",
        killed=[0],
        once=str(tmp_path / "once"),
    )
    assert left.read_bytes() != b"Other words.\n"


@pytest.mark.slow
def test_what_stood_there_goes_where_that_was_asked_for(tmp_path: Path) -> None:
    write_manifest(tmp_path, 1)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/tone-000.srt").write_bytes(PERSONS)

    def other() -> None:
        (tmp_path / "out/tone-000.txt").write_bytes(PERSONS)

    night(tmp_path, "-o", "out", code=5)
    night(tmp_path, "-o", "out", "--overwrite", meanwhile=other, code=3)
    assert (tmp_path / "out/tone-000.txt").read_bytes() == PERSONS
    (tmp_path / "out/tone-000.txt").unlink()
    night(tmp_path, "-o", "out", "--overwrite")
    assert (tmp_path / "out/tone-000.srt").read_bytes() != PERSONS


def test_an_object_that_comes_during_a_night_stays(tmp_path: Path, s3: S3) -> None:
    write_manifest(tmp_path, 2)
    where = ("-o", s3.url("night"), "--s3-endpoint", s3.endpoint, "--state-dir", "state")

    def other() -> None:
        s3.put("night/tone-000.json", PERSONS)
        s3.put("night/summary.json", PERSONS)

    answer = night(tmp_path, *where, meanwhile=other, code=3)
    assert "tone-000.json is there" in answer.err
    objects = s3.objects("night/")
    assert objects["tone-000.json"] == objects["summary.json"] == PERSONS
    assert {"tone-001.json", "tone-001.srt", "tone-001.txt"} < set(objects)
    # Three outputs of each asset, the summary and the probe: no request more for each.
    assert s3.counts()["PUT"] == 2 * 3 + 2
    s3.delete("night/tone-000.json", "night/summary.json")
    night(tmp_path, *where)
    assert json.loads(s3.get("night/tone-000.json"))["asset_id"] == "tone-000"
    assert json.loads(s3.get("night/summary.json"))["program"].startswith("audio-batch ")


# -- export ---------------------------------------------------------------------------------------


def test_an_export_writes_over_its_own_and_over_nothing_else(tmp_path: Path) -> None:
    write_manifest(tmp_path, 2)
    out = tmp_path / "out"
    null = ("--engine", "null", "--isolation", "thread", "-o", "out", "-f", "txt", "-y")
    assert completed(["run", "manifest.json", *null], tmp_path, environment()).code == 0
    (out / "tone-001.vtt").write_bytes(PERSONS)
    (out / "tone-001.md").write_bytes(PERSONS)

    def export(*more: str, code: int) -> str:
        answer = completed(["export", *more], tmp_path, environment())
        assert answer.code == code, answer.err
        return answer.err

    for width in ("40", "20"):  # what it has left to others it leaves to them the next time too
        err = export("out", "-f", "txt,vtt", "--max-line-width", width, code=3)
        assert "left out: tone-001.vtt: it is there, and no run or export is known" in err
    assert export("out", code=0).startswith("2 transcripts written as txt, vtt")
    assert (out / "tone-001.vtt").read_bytes() == PERSONS
    # A run for that format says so too, as long as it is there.
    again = completed(["run", "manifest.json", *null, "-f", "vtt"], tmp_path, environment())
    assert again.code == 5 and ": tone-001.vtt." in again.err
    # A copy without the journal knows what the transcripts say, and no more.
    shutil.copytree(out, tmp_path / "copy", ignore=shutil.ignore_patterns(storage.STATE_FOLDER))
    (tmp_path / "copy/tone-000.lrc").write_bytes(PERSONS)
    export("copy", "-f", "lrc,txt", code=3)
    assert (tmp_path / "copy/tone-000.lrc").read_bytes() == PERSONS
    assert (tmp_path / "copy/tone-001.lrc").exists()
    export("out", "-f", "vtt", "--overwrite", code=0)
    assert (out / "tone-001.vtt").read_bytes() != PERSONS
    assert (out / "tone-001.md").read_bytes() == PERSONS
    export("out", "-f", "vtt", "--max-line-width", "30", code=0)
    # What it may write below another folder is for the person to say.
    export("out", "-f", "vtt", "--to", "copy", code=0)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with a name here")
def test_what_a_killed_export_has_written_is_its_own_and_nothing_else_is(tmp_path: Path) -> None:
    write_manifest(tmp_path, 3)
    out = tmp_path / "out"
    null = ("--engine", "null", "--isolation", "thread", "-o", "out", "-f", "txt", "-y")
    assert completed(["run", "manifest.json", *null], tmp_path, environment()).code == 0
    (out / "tone-002.vtt").write_bytes(PERSONS)
    canonical = (out / "tone-001.json").read_bytes()
    (out / "tone-001.json").unlink()
    os.mkfifo(out / "tone-001.json")  # there it waits
    with subprocess.Popen(
        command("export", "out", "-f", "vtt"), cwd=tmp_path, env=environment()
    ) as export:
        while not (out / "tone-000.vtt").exists():
            assert export.poll() is None
            time.sleep(0.02)
        export.kill()
    (out / "tone-001.json").unlink()
    (out / "tone-001.json").write_bytes(canonical)
    before = (out / "tone-000.vtt").read_bytes()
    again = ["export", "out", "-f", "vtt", "--max-line-width", "12"]
    answer = completed(again, tmp_path, environment())
    assert answer.err.count("left out: ") == answer.err.count("left out: tone-002.vtt") == 1
    assert (out / "tone-000.vtt").read_bytes() != before
    assert (out / "tone-002.vtt").read_bytes() == PERSONS
    (out / "tone-002.vtt").unlink()
    answer = completed(["run", "manifest.json", *null, "-f", "vtt"], tmp_path, environment())
    assert answer.code == 0, answer.err
