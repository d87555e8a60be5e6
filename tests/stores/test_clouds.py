"""Whole nights in Azure's and Google's stores: emulators on loopback, the program as it is."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from program import PROJECT, Answer, command, environment, text_outputs, write_tone

from audio_batch.errors import AssetError, ErrorKind
from audio_batch.journal import Journal
from audio_batch.outcome import State
from audio_batch.outputs import OutputPlace
from audio_batch.remote import stores
from audio_batch.remote.access import Access
from audio_batch.remote.blobs import RANGE_BYTES
from audio_batch.remote.downloads import Patience, download
from audio_batch.remote.failures import trouble
from stores.clouds import Cloud
from stores.faults import Rule
from stores.servers import Asked

pytestmark = pytest.mark.slow

Cli = Callable[..., Answer]
STATE = ("--state-dir", "state")
NULL = ("--engine", "null", "--isolation", "thread", *STATE)
NAMES = ("plain", "a b", "ä/ü ß", "50%20+1", "a#b?c&d=e", "q?", "h#", "{0}[1]", "d//e")
HASTY = Patience(first_s=0.01)


@pytest.fixture(params=["azure", "google"])
def cloud(request: pytest.FixtureRequest) -> Cloud:
    found: Cloud = request.getfixturevalue(request.param)
    return found


class Watcher:
    def look(self) -> None: ...
    def room(self, total_bytes: int | None, have_bytes: int) -> None: ...
    def began(self, identity: str) -> None: ...
    def moved(self, have_bytes: int, total_bytes: int | None) -> None: ...


def stored(cloud: Cloud, folder: Path, count: int) -> None:
    """Recordings with strange names, and the manifest of them."""
    tone = write_tone(folder / "tone.wav", 0.5)
    assets = [
        {"id": f"tone-{n:03d}", "uri": cloud.put(f"in/{NAMES[n % len(NAMES)]}-{n}.wav", tone)}
        for n in range(count)
    ]
    (folder / "manifest.json").write_text(json.dumps({"assets": assets}), encoding="utf-8")


def states(folder: Path) -> dict[str, State]:
    journal = Journal(folder / "state/journal.sqlite3", read_only=True)
    try:
        return {entry.asset_id: entry.state for entry in journal.entries()}
    finally:
        journal.close()


def reasons(folder: Path) -> dict[str, tuple[str, str]]:
    """Of what failed: its kind, and what the user is told."""
    summary = json.loads((folder / "out/summary.json").read_text(encoding="utf-8"))
    return {it["id"]: (it["kind"], it["reason"]) for it in summary["failures"]}


def looks(cloud: Cloud) -> int:
    """Requests that asked what an object is."""
    return cloud.counts()["HEAD" if cloud.scheme == "az" else "LOOK"]


def bring(url: str, target: Path, planned: str, part_of: str = "") -> None:
    download(
        *(stores.store(url, Access()), url, target),
        planned=planned,
        part_of=part_of,
        most_bytes=10**9,
        watcher=Watcher(),
        patience=HASTY,
    )


def test_a_night_gives_what_a_local_one_gives(cli: Cli, tmp_path: Path, cloud: Cloud) -> None:
    audio = PROJECT / "examples/audio"
    names = ("phone_number.wav", "door_code.mp3")
    here = [{"id": name[:5], "path": str(audio / name)} for name in names]
    there = [{"id": name[:5], "uri": cloud.put(f"in/{name}", audio / name)} for name in names]
    for name, assets in (("here", here), ("there", there)):
        (tmp_path / f"{name}.json").write_text(json.dumps({"assets": assets}), encoding="utf-8")
    flags = ("--model", "demo", "--no-diarize")
    done = cli("run", "here.json", *flags, "-o", "out")
    assert done.code == 0, done.err
    done = cli("run", "there.json", *flags, "-o", cloud.url("out"), *STATE)
    assert done.code == 0, done.err
    texts = {n: d for n, d in cloud.objects("out/").items() if not n.endswith(".json")}
    assert texts == text_outputs(tmp_path / "out")
    assert b"five five five zero" in texts["phone.txt"]
    done = cli("verify", cloud.url("out"), *STATE)
    assert (done.code, "6 outputs" in done.err + done.out) == (0, True), done.err


def test_a_night_and_what_it_asks(cli: Cli, tmp_path: Path, cloud: Cloud) -> None:
    count = len(NAMES)
    stored(cloud, tmp_path, count)
    flags = ("run", "manifest.json", *NULL, "-o", cloud.url("ü b/out"))
    done = cli(*flags)
    assert done.code == 0, done.err
    assert set(states(tmp_path).values()) == {State.DONE}
    # Three outputs of each, the summary and the probe; a look before the run and one to fetch.
    counts = cloud.counts()
    assert (counts["PUT"], counts["LIST"]) == (3 * count + 2, 1)
    assert (counts["GET"], looks(cloud)) == (count, 2 * count)
    first = cloud.objects("ü b/out/")
    cloud.proxy.trouble.clear()
    done = cli(*flags)
    assert "Nothing to do" in done.err
    assert cloud.counts().total() == count + 1
    assert (looks(cloud), cloud.counts()["LIST"]) == (count, 1)

    shutil.rmtree(tmp_path / "state")
    cloud.proxy.trouble.clear()
    done = cli(*flags)
    assert f"{count} assets done" in done.err
    # Each JSON; and the summary that is there, for whose it is.
    assert (cloud.counts()["GET"] - count in (0, 1), cloud.counts()["PUT"]) == (True, 1)
    again = cloud.objects("ü b/out/")
    del first["summary.json"], again["summary.json"]
    assert again == first

    cloud.put(f"in/{NAMES[0]}-0.wav", write_tone(tmp_path / "other.wav", 0.7))
    done = cli(*flags)
    assert "1 done now" in done.err, done.err


@pytest.mark.parametrize(("after", "is_done"), [(1, False), (2, True), (4, True), (7, False)])
def test_a_kill_in_the_middle_is_survived(
    cli: Cli, tmp_path: Path, cloud: Cloud, after: int, is_done: bool
) -> None:
    stored(cloud, tmp_path, 3)
    flags = ("run", "manifest.json", *NULL, "-o", cloud.url("out"))
    rule = Rule("lost" if is_done else "hang", kind="PUT", after=after, times=1)
    cloud.proxy.rule(rule)
    talk = tmp_path / "stderr"
    with talk.open("wb") as said:
        process = subprocess.Popen(command(*flags), cwd=tmp_path, env=environment(), stderr=said)
    ends_s = time.monotonic() + 120
    while rule.times == 1 and process.poll() is None and time.monotonic() < ends_s:
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert rule.times != 1, f"it never came so far: {talk.read_text()}"
    cloud.proxy.trouble.rules.clear()
    done = cli(*flags)
    assert done.code == 0, done.err
    assert set(states(tmp_path).values()) == {State.DONE}
    names = {f"tone-{n:03d}.{suffix}" for n in range(3) for suffix in ("json", "srt", "txt")}
    assert set(cloud.keys("out/")) - {"out/.audio-batch-probe"} == {
        f"out/{name}" for name in {*names, "summary.json"}
    }
    done = cli("verify", cloud.url("out"), *STATE)
    assert (done.code, " 0 damaged" in done.err + done.out) == (0, True), done.err


def test_a_download_goes_on_where_it_was(tmp_path: Path, cloud: Cloud) -> None:
    data = bytes(range(256)) * (RANGE_BYTES * 5 // 2 // 256)
    url, target = cloud.put("in/long.wav", data), tmp_path / "part"
    seen = stores.store(url, Access()).look(url)
    assert (seen.size_bytes, seen.md5 is not None) == (len(data), True)
    target.write_bytes(data[:RANGE_BYTES])
    cloud.proxy.trouble.clear()
    bring(url, target, seen.identity, seen.identity)
    assert target.read_bytes() == data
    assert (looks(cloud), cloud.counts()["GET"]) == (1, 2)
    assert cloud.proxy.trouble.seen[-1].range.startswith(f"bytes={RANGE_BYTES * 2}-") or (
        cloud.scheme == "az"  # which says it in a header of its own
    )
    for fault in ("truncated", "error", "reset"):
        cloud.proxy.rule(Rule(fault, kind="GET", after=1, times=2))  # type: ignore[arg-type]
        target.unlink()
        bring(url, target, seen.identity)
        assert target.read_bytes() == data, fault


def test_of_what_changes_meanwhile_no_two_are_put_together(tmp_path: Path, cloud: Cloud) -> None:
    old, new = (bytes([value]) * (RANGE_BYTES + 1000) for value in (1, 2))
    url = cloud.put("in/a.wav", old)
    store, chunks = stores.store(url, Access()), []
    with store.reading(url) as body, pytest.raises(Exception) as caught:
        for chunk in body.chunks(lambda: None):
            chunks.append(chunk)
            cloud.put("in/a.wav", new)
    assert (len(chunks), trouble(caught.value).kind) == (1, ErrorKind.INPUT_CHANGED)
    with pytest.raises(AssetError) as failed:
        bring(url, tmp_path / "part", body.seen.identity)
    assert failed.value.kind is ErrorKind.INPUT_CHANGED
    # A beginning of the old is dropped.
    (tmp_path / "part").write_bytes(old[:5000])
    seen = store.look(url)
    bring(url, tmp_path / "part", seen.identity, body.seen.identity)
    assert (tmp_path / "part").read_bytes() == new


def test_what_is_damaged_on_its_way_is_not_taken(tmp_path: Path, cloud: Cloud) -> None:
    url = cloud.put("in/a.wav", b"x" * 100_000)
    seen = stores.store(url, Access()).look(url)
    answer = cloud.proxy.answer

    def damaging(asked: Any) -> Any:
        found = answer(asked)
        if cloud.proxy.kind(asked) == "GET":
            object.__setattr__(found, "body", b"!" + found.body[1:])
        return found

    cloud.proxy.answer = damaging  # type: ignore[method-assign]
    try:
        with pytest.raises(AssetError, match="not what the store says") as caught:
            bring(url, tmp_path / "part", seen.identity)
    finally:
        cloud.proxy.answer = answer  # type: ignore[method-assign]
    assert (caught.value.kind, caught.value.transient) == (ErrorKind.NETWORK, True)


@pytest.mark.parametrize("fault", ["error", "reset", "lost"])
def test_what_passes_is_outlasted(cloud: Cloud, fault: Any) -> None:
    outputs = OutputPlace(cloud.url("out"), Access()).open()
    cloud.proxy.rule(Rule(fault, kind="PUT", times=1))
    outputs.publish(PurePosixPath("a.txt"), b"12345", format_name="txt")
    assert cloud.objects("out/") == {"a.txt": b"12345"}
    assert cloud.counts() == {"PUT": 2}


def test_what_a_store_did_not_keep_whole_is_not_published(cloud: Cloud) -> None:
    answer = cloud.proxy.answer

    def damaging(asked: Asked) -> Any:
        return answer(dataclasses.replace(asked, body=asked.body.replace(b"12345", b"12346")))

    outputs = OutputPlace(cloud.url("out"), Access()).open()
    cloud.proxy.answer = damaging  # type: ignore[method-assign]
    try:
        with pytest.raises(AssetError, match="other bytes than were sent") as caught:
            outputs.publish(PurePosixPath("a.txt"), b"12345", format_name="txt")
    finally:
        cloud.proxy.answer = answer  # type: ignore[method-assign]
    assert (caught.value.kind, caught.value.transient) == (ErrorKind.OUTPUT, True)


def test_what_is_missing_or_forbidden_fails_at_once(cli: Cli, tmp_path: Path, cloud: Cloud) -> None:
    stored(cloud, tmp_path, 2)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest["assets"] += [
        {"id": "missing", "uri": cloud.url("in/nothing.wav")},
        {"id": "nowhere", "uri": f"{cloud.scheme}://no-such-place/a.wav"},
        {"id": "secret", "uri": cloud.put("in/secret.wav", b"x")},
    ]
    (tmp_path / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    cloud.proxy.rule(Rule("error", path="*secret.wav", status=403))
    flags = ("--allow-missing", *STATE)
    done = cli("run", "manifest.json", "--model", "demo", "-o", "out", "--yes", *flags)
    assert done.code == 3, done.err
    assert states(tmp_path) == {
        **{f"tone-{n:03d}": State.DONE for n in range(2)},
        **dict.fromkeys(("missing", "nowhere", "secret"), State.FAILED),
    }
    said = reasons(tmp_path)
    assert said["missing"][0] == said["nowhere"][0] == "input_missing"
    assert "there is no such object" in said["missing"][1]
    assert said["secret"][0] == "input_forbidden"
    assert "access is denied" in said["secret"][1]
    # One look before the run, one for each attempt's fetch; none is tried again.
    asked = [seen for seen in cloud.proxy.trouble.seen if seen.path.endswith("secret.wav")]
    assert len(asked) <= 3


def test_outputs_that_cannot_be_written_end_the_run(cli: Cli, tmp_path: Path, cloud: Cloud) -> None:
    stored(cloud, tmp_path, 1)
    place = f"{cloud.scheme}://no-such-place/out"
    done = cli("run", "manifest.json", *NULL, "-o", place)
    assert done.code == 5, done.err
    assert f"{place} cannot be listed: there is no such" in done.err
    cloud.proxy.rule(Rule("error", kind="PUT", status=403))
    done = cli("run", "manifest.json", "-o", cloud.url("out"), *NULL[:-1], "other")
    assert done.code == 5, done.err
    assert "access is denied. See to the credentials" in " ".join(done.err.split())
    assert "Nothing can be written to" in done.err
    assert cloud.counts()["PUT"] == 1


def test_the_doctor_says_who_a_run_would_be(cli: Cli, tmp_path: Path, cloud: Cloud) -> None:
    stored(cloud, tmp_path, 1)
    done = cli("doctor", "manifest.json", "-o", cloud.url("out"), "--json")
    found = [it for it in json.loads(done.out)["checks"] if it["name"] in ("stores", "clouds")]
    assert {it["status"] for it in found} == {"ok"}
    by = "a connection string" if cloud.scheme == "az" else "the emulator"
    assert any(by in it["message"] for it in found)
