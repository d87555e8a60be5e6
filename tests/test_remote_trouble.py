"""What befalls the cache and downloads on a bad day: full disks, torn parts, terse servers."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from program import command, environment
from stores.faults import Rule
from stores.s3 import S3
from stores.servers import Answer, Asked, WebServer

from audio_batch.errors import AssetError, ErrorKind
from audio_batch.manifest import Asset
from audio_batch.remote import stores
from audio_batch.remote.access import Access
from audio_batch.remote.cache import Cache, Mine, Whole
from audio_batch.remote.downloads import SYNCED_BYTES, UNKNOWN, Patience, download
from audio_batch.remote.failures import trouble
from audio_batch.remote.inputs import InputPlace, PlacedInputs
from audio_batch.remote.object_outputs import ObjectOutputs
from audio_batch.remote.stores import Seen
from audio_batch.remote.web import WebStore

MB = 1_000_000
OPEN = Access(allow_http=True, allow_private=True)


def deaf(_share: float | None = None) -> None: ...


def until(true: Callable[[], bool]) -> None:
    ends_s = time.monotonic() + 120
    while not true():
        assert time.monotonic() < ends_s, "it did not come to pass"
        time.sleep(0.02)


def placed(folder: Path, cache_bytes: int = 100 * MB, run: str = "one") -> PlacedInputs:
    return PlacedInputs(InputPlace(folder, cache_bytes, OPEN, run=run), Patience(first_s=0.01))


def begun(inputs: PlacedInputs, url: str, data: bytes) -> str:
    """Leave a beginning of a recording in the cache; its identity."""
    seen = WebStore(OPEN).look(url).identity
    mine = inputs.cache().take(inputs._key(url, seen))
    assert isinstance(mine, Mine)
    inputs.cache().began(mine, seen)
    mine.path.write_bytes(data)
    inputs.cache().leave(mine)
    return seen


def test_an_index_that_cannot_be_written_holds_nothing_for_ever(tmp_path: Path) -> None:
    cache, other = (Cache(tmp_path / "cache", 10 * MB) for _ in range(2))
    tasks = [cache.take(key) for key in ("whole", "left", "torn")]
    for task in tasks:
        assert isinstance(task, Mine)
        task.path.write_bytes(bytes(MB))
    whole, left, torn = tasks
    assert isinstance(whole, Mine) and isinstance(left, Mine) and isinstance(torn, Mine)
    pinned = cache.finish(whole)
    assert pinned
    cache._index.execute("PRAGMA query_only = 1")  # every change fails, as on a full disk
    cache.release(pinned.pin)
    cache.leave(left)
    with pytest.raises(Exception, match="readonly"):
        cache.finish(torn)
    cache._index.execute("PRAGMA query_only = 0")
    again = cache.take("left")
    assert isinstance(again, Mine)
    cache.leave(again)
    theirs = other.take("torn")
    assert isinstance(theirs, Mine)
    assert other.reserve(theirs, 10 * MB)  # nothing is pinned any more


@contextmanager
def small_disk(folder: Path, size_bytes: int) -> Iterator[Path]:
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder)]
    if os.name == "nt" or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a disk of its own cannot be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_is_smaller_than_the_cache_may_be(web: WebServer, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 20 * MB) as disk:
        inputs = placed(disk / "cache", 1000 * MB)
        for number in range(5):
            (web.folder / f"{number}.wav").write_bytes(os.urandom(6 * MB))
            found = inputs.fetch(f"{web.url}/{number}.wav", UNKNOWN, deaf, deaf)
            assert found.path.stat().st_size == 6 * MB
            inputs.cache().release(found.pin)
        with suppress(OSError), (disk / "others").open("wb") as others:
            others.write(bytes(7 * MB))  # somebody else takes what is left
        web.lengths = False  # and nobody can say before how much is needed
        found = inputs.fetch(f"{web.url}/0.wav", UNKNOWN, deaf, deaf)
        assert found.path.stat().st_size == 6 * MB
        inputs.close()


def test_what_nobody_uses_makes_room_on_a_full_disk(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", 10 * MB)
    pins = []
    for key in ("used", "unused"):
        mine = cache.take(key)
        assert isinstance(mine, Mine)
        mine.path.write_bytes(bytes(MB))
        found = cache.finish(mine)
        assert found
        pins.append(found.pin)
    assert not cache.make_room(MB)
    cache.release(pins[1])
    assert cache.make_room(100 * MB)
    assert [path.name for path in (cache.folder / "files").iterdir()] == ["used"]


def test_two_that_hold_beginnings_do_not_wait_for_each_other(
    web: WebServer, tmp_path: Path
) -> None:
    urls = [f"{web.url}/{name}.wav" for name in "ab"]
    for name in "ab":
        (web.folder / f"{name}.wav").write_bytes(os.urandom(5 * MB))
    earlier = placed(tmp_path / "cache")
    seen = [begun(earlier, url, (web.folder / url[-5:]).read_bytes()[: 3 * MB]) for url in urls]
    earlier.close()
    inputs = placed(tmp_path / "cache", 7 * MB)
    both, done = threading.Barrier(2), []

    def fetch(url: str, identity: str) -> None:
        both.wait()
        found = inputs.fetch(url, identity, deaf, deaf)
        done.append(found.path.read_bytes() == (web.folder / url[-5:]).read_bytes())
        inputs.cache().release(found.pin)

    threads = [
        threading.Thread(target=fetch, args=pair, daemon=True)
        for pair in zip(urls, seen, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert done == [True, True]


def test_a_beginning_outlives_fetching_ahead_without_room(web: WebServer, tmp_path: Path) -> None:
    url = f"{web.url}/a.wav"
    (web.folder / "a.wav").write_bytes(bytes(5 * MB))
    inputs = placed(tmp_path / "cache", 5_500_000)
    seen = begun(inputs, url, bytes(4 * MB))
    asset = Asset(id="a", uri=url, path=None, name="a", position=0, seen=seen)
    assert not inputs.warm(asset, lambda: None)
    (part,) = (tmp_path / "cache/files").iterdir()
    assert part.stat().st_size == 4 * MB


class ByToken(WebServer):
    """Sends what a parameter names: without any tag, or with one and without a length in a HEAD."""

    is_terse = False

    def answer(self, asked: Asked) -> Answer:
        body = asked.query.get("token", ["none"])[0].encode() * 1000
        headers = [("ETag", '"x"')] if self.is_terse else []
        return Answer(200, headers, b"" if asked.method == "HEAD" and self.is_terse else body)


def test_without_a_tag_nothing_is_taken_for_another(tmp_path: Path) -> None:
    with ByToken(tmp_path) as web:
        inputs = placed(tmp_path / "cache")
        kept = {}
        for token in ("aaa", "bbb"):
            url = f"{web.url}/get?token={token}"
            seen = WebStore(OPEN).look(url).identity
            assert seen == "3000:-"
            kept[token] = inputs.fetch(url, seen, deaf, deaf)
            assert kept[token].path.read_bytes() == token.encode() * 1000
        next_run = placed(tmp_path / "cache", run="two")
        again = next_run.fetch(f"{web.url}/get?token=aaa", "3000:-", deaf, deaf)
        assert again.path != kept["aaa"].path


def test_after_a_head_without_a_length_one_byte_is_asked_for(tmp_path: Path) -> None:
    with ByToken(tmp_path) as web:
        web.is_terse = True
        assert WebStore(OPEN).look(f"{web.url}/get?token=aaa").identity == "3000:x"


def test_an_empty_file_is_empty(web: WebServer) -> None:
    (web.folder / "empty.wav").write_bytes(b"")
    assert WebStore(OPEN).look(f"{web.url}/empty.wav").size_bytes == 0


def test_a_failure_says_its_sentence_once(web: WebServer, tmp_path: Path) -> None:
    (web.folder / "a.wav").write_bytes(b"12345")
    with pytest.raises(AssetError) as caught:
        placed(tmp_path / "cache").fetch(f"{web.url}/a.wav", "5:other", deaf, deaf)
    assert caught.value.kind is ErrorKind.INPUT_CHANGED
    assert caught.value.message.count("cannot be fetched") == 1


@pytest.mark.skipif(os.name == "nt", reason="a signal ends a process of Windows at once")
def test_a_signal_ends_a_look(web: WebServer, tmp_path: Path) -> None:
    web.rule(Rule("error", kind="HEAD", status=503, retry_after_s=100))
    (tmp_path / "m.json").write_text(f'[{{"id": "a", "uri": "{web.url}/a.wav"}}]')
    flags = ("--engine", "null", "--allow-http", "--allow-private-addresses", "-o", "out")
    process = subprocess.Popen(
        command("run", "m.json", *flags), cwd=tmp_path, env=environment(), stderr=subprocess.PIPE
    )
    until(lambda: web.trouble.counts()["HEAD"] > 0)
    time.sleep(0.3)  # in the wait before its next try
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=120)
    assert process.returncode == 130, told
    assert web.trouble.counts() == {"HEAD": 1}, "the next try was waited for"


class Nobody:
    """A store whose host no name server knows. See `stores.Store`."""

    def __init__(self, code: int) -> None:
        self.code, self.tries = code, 0

    def look(self, uri: str, look: Callable[[], None] = lambda: None) -> Seen:
        raise NotImplementedError

    def look_at_many(self, uris: Any) -> dict[str, Seen | None]:
        raise NotImplementedError

    def reading(self, uri: str, **_: Any) -> Any:
        del uri
        self.tries += 1
        try:
            raise socket.gaierror(self.code, "no answer")
        except socket.gaierror as error:
            raise ConnectionError("cannot connect") from error


class Watcher:
    def look(self) -> None: ...
    def room(self, total_bytes: int | None, have_bytes: int) -> None: ...
    def began(self, identity: str) -> None: ...
    def moved(self, have_bytes: int, total_bytes: int | None) -> None: ...


@pytest.mark.parametrize(("code", "tries"), [(socket.EAI_NONAME, 2), (socket.EAI_AGAIN, 5)])
def test_a_name_that_nobody_knows_is_tried_twice(tmp_path: Path, code: int, tries: int) -> None:
    store = Nobody(code)
    with pytest.raises(AssetError) as caught:
        download(
            store,
            "https://no.example/a.wav",
            tmp_path / "part",
            planned=UNKNOWN,
            part_of="",
            most_bytes=MB,
            watcher=Watcher(),
            patience=Patience(first_s=0.001),
        )
    assert (store.tries, caught.value.kind) == (tries, ErrorKind.NETWORK)
    assert caught.value.transient


def test_what_a_power_failure_may_have_taken_is_fetched_again(
    web: WebServer, tmp_path: Path
) -> None:
    url = f"{web.url}/a.wav"
    data = os.urandom(SYNCED_BYTES + 2 * MB)
    (web.folder / "a.wav").write_bytes(data)
    inputs = placed(tmp_path / "cache")
    torn = data[:SYNCED_BYTES] + bytes(MB)  # a length that came onto the disk before its bytes
    seen = begun(inputs, url, torn)
    (part,) = (tmp_path / "cache/files").iterdir()
    os.utime(part, (1, 1))  # before this machine was started
    web.trouble.clear()
    found = inputs.fetch(url, seen, deaf, deaf)
    assert isinstance(found, Whole)
    assert found.path.read_bytes() == data
    assert [request.range for request in web.trouble.seen] == [f"bytes={SYNCED_BYTES}-"]


def test_a_store_that_says_nothing_is_asked_as_often_as_is_said(s3: S3) -> None:
    access = Access(s3_endpoint=s3.endpoint)
    files = stores.filesystem("s3://", access, tries=2, read_s=0.3)
    outputs = ObjectOutputs("a store", f"{s3.bucket}/out", files)
    s3.rule(Rule("hang", kind="PUT"))
    with pytest.raises(AssetError, match="could not be written") as caught:
        outputs.publish(PurePosixPath("a.txt"), b"x", format_name="txt")
    assert caught.value.transient
    until(lambda: s3.counts()["PUT"] >= 2)  # what was sent, though nobody waited for its reading
    assert s3.counts()["PUT"] == 2


def test_a_body_of_a_store_that_breaks_off_is_asked_for_once_more(s3: S3) -> None:
    s3.put("out/a.txt", b"12345" * 1000)
    outputs = ObjectOutputs.at(s3.url("out"), Access(s3_endpoint=s3.endpoint))
    s3.rule(Rule("truncated", kind="GET", times=1))
    assert outputs.read(PurePosixPath("a.txt")) == b"12345" * 1000


def test_a_bucket_that_is_not_there_is_named(s3: S3, tmp_path: Path) -> None:
    place = InputPlace(tmp_path / "cache", MB, Access(s3_endpoint=s3.endpoint))
    with pytest.raises(AssetError) as caught:
        place.opened().fetch("s3://no-such-bucket/a.wav", UNKNOWN, deaf, deaf)
    assert "there is no such bucket" in str(caught.value)
    assert "See to the bucket's name and its region." in str(caught.value)
    assert trouble(caught.value).kind is ErrorKind.INPUT_MISSING
