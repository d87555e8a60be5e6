"""The cache of fetched recordings: shared, bounded, resumed after a kill. Real processes."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from program import environment
from stores.faults import Rule
from stores.servers import WebServer

from audio_batch.errors import AssetError, ErrorKind, SetupError
from audio_batch.fetching import Fetching
from audio_batch.manifest import Asset
from audio_batch.remote import looks
from audio_batch.remote.access import Access
from audio_batch.remote.cache import Busy, Cache, Mine, Whole
from audio_batch.remote.downloads import UNKNOWN, Patience
from audio_batch.remote.inputs import InputPlace, PlacedInputs

MB = 1_000_000
OPEN = Access(allow_http=True, allow_private=True)


def kept(cache: Cache, key: str, size_bytes: int, *, ahead: bool = False) -> Whole | None:
    """Fetch something without a network."""
    mine = cache.take(key, pin=not ahead)
    assert isinstance(mine, Mine)
    if not cache.reserve(mine, size_bytes, ahead=ahead):
        cache.leave(mine)
        return None
    mine.path.write_bytes(bytes(size_bytes))
    return cache.finish(mine, pin=not ahead)


def names(cache: Cache) -> set[str]:
    return {path.name for path in (cache.folder / "files").iterdir()}


def used_bytes(folder: Path) -> int:
    """What is taken of the bound, with what is reserved, as the index has it."""
    index = sqlite3.connect(folder / "index.sqlite3")
    return int(index.execute("SELECT coalesce(sum(size_bytes), 0) FROM entry").fetchone()[0])


def asset(uri: str, seen: str | None = None) -> Asset:
    return Asset(id=uri.rpartition("/")[2], uri=uri, path=None, name="x", position=0, seen=seen)


def deaf(_share: float | None = None) -> None: ...


def until(true: Callable[[], bool], timeout_s: float = 120.0) -> None:
    until_s = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < until_s, "it did not come to pass"
        time.sleep(0.02)


def test_what_was_used_longest_ago_goes_first_and_what_is_pinned_stays(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", 10 * MB)
    first = kept(cache, "a", 3 * MB)
    second = kept(cache, "b", 3 * MB)
    third = kept(cache, "c", 3 * MB)
    assert first and second and third
    cache.release(second.pin)
    cache.release(third.pin)
    again = cache.take("b")
    assert isinstance(again, Whole)
    cache.release(again.pin)  # now c is the one that was used longest ago
    assert kept(cache, "d", 3 * MB)
    assert names(cache) == {"a", "b", "d"}
    assert kept(cache, "e", 5 * MB) is None  # a and d are in use
    assert names(cache) == {"a", "b", "d"}  # and nothing was removed in vain
    assert used_bytes(cache.folder) == 9 * MB


def test_what_is_fetched_ahead_takes_the_room_of_nobody(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", 10 * MB)
    used = kept(cache, "used", 4 * MB)
    assert used
    cache.release(used.pin)
    assert kept(cache, "one", 4 * MB, ahead=True) is None
    assert kept(cache, "two", 3 * MB, ahead=True) is None
    assert names(cache) == {"one", "two"}  # what was used had to go
    kept(cache, "three", 2 * MB, ahead=True)
    assert names(cache) == {"one", "two"}  # 9 MB are more than 80 %
    assert isinstance(cache.take("one"), Whole)
    assert cache.take("two", pin=False) is None  # nothing to be done
    needed = kept(cache, "now", 6 * MB)
    assert needed
    assert names(cache) == {"one", "now"}  # who needs it now goes before


def test_a_dead_process_holds_nothing(tmp_path: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; from audio_batch.remote.cache import Cache\n"
        "cache = Cache(Path(sys.argv[1]), 10_000_000)\n"
        "for key in ('whole', 'part'):\n"
        "    mine = cache.take(key); cache.reserve(mine, 4_000_000)\n"
        "    cache.began(mine, '4000000:tag'); mine.path.write_bytes(bytes(1_000_000))\n"
        "    key == 'whole' and cache.finish(mine)\n"
        "print('ready', flush=True); sys.stdin.read()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "cache")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout and child.stdin
    assert child.stdout.readline() == "ready\n"
    cache = Cache(tmp_path / "cache", 10 * MB)
    assert isinstance(cache.take("part"), Busy)
    assert kept(cache, "big", 8 * MB) is None
    child.kill()
    child.communicate()
    taken = cache.take("part")
    assert isinstance(taken, Mine)
    assert taken.part_of == "4000000:tag"
    assert taken.path.stat().st_size == MB
    cache.leave(taken)
    assert kept(cache, "big", 9 * MB)
    assert names(cache) == {"big", "part.part"}


def test_what_no_entry_knows_is_swept_and_a_lost_file_fetched_again(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", 10 * MB)
    assert kept(cache, "a", MB)
    cache.close()
    (cache.folder / "files/stray.part").write_bytes(b"x")
    (cache.folder / "files/a").write_bytes(b"short")
    again = Cache(tmp_path / "cache", 10 * MB)
    assert names(again) == {"a"}
    assert isinstance(again.take("a"), Mine)


def test_a_damaged_index_begins_anew(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", 10 * MB)
    assert kept(cache, "a", MB)
    cache.close()
    index = tmp_path / "cache/index.sqlite3"
    index.write_bytes(b"this is no database" * 1000)
    for other in ("-wal", "-shm"):
        Path(f"{index}{other}").unlink(missing_ok=True)
    again = Cache(tmp_path / "cache", 10 * MB)
    assert names(again) == set()
    assert kept(again, "a", MB)


def test_a_folder_that_cannot_be_used_is_told(tmp_path: Path, nobody_listens: int) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError, match="--cache-dir"):
        Cache(tmp_path / "file/cache", MB)
    inputs = InputPlace(tmp_path / "file/cache", MB, OPEN).opened()
    with pytest.raises(AssetError) as caught:  # in a worker: the asset's failure, not the device's
        inputs.fetch(f"http://127.0.0.1:{nobody_listens}/x", UNKNOWN, deaf, deaf)
    assert caught.value.kind is ErrorKind.INPUT_UNREADABLE


def _placed(folder: Path, cache_bytes: int = 100 * MB, **more: object) -> PlacedInputs:
    return PlacedInputs(
        InputPlace(folder, cache_bytes, Access(allow_http=True, allow_private=True, **more)),  # type: ignore[arg-type]
        Patience(first_s=0.01),
    )


def test_a_recording_is_fetched_once_and_kept_while_it_is_needed(
    web: WebServer, tmp_path: Path
) -> None:
    (web.folder / "x.wav").write_bytes(b"abc" * 1000)
    inputs = _placed(tmp_path / "cache")
    url = f"{web.url}/x.wav"
    with inputs.recording(asset(url), UNKNOWN) as recording:
        assert web.trouble.counts() == {}  # nobody has needed it yet
        path = recording.path(deaf, deaf)
        assert path.read_bytes() == b"abc" * 1000
        assert recording.path(deaf, deaf) == path
        with inputs.recording(asset(url), UNKNOWN) as other:
            assert other.path(deaf, deaf) == path
    assert web.trouble.counts() == {"GET": 1}
    pins = sqlite3.connect(tmp_path / "cache/index.sqlite3").execute("SELECT * FROM pin")
    assert pins.fetchall() == []


def test_one_that_could_not_be_looked_at_is_fetched_anew_in_the_next_run(
    web: WebServer, tmp_path: Path
) -> None:
    (web.folder / "x.wav").write_bytes(b"abc")
    for run in ("one", "one", "two"):
        inputs = PlacedInputs(InputPlace(tmp_path / "cache", MB, OPEN, run=run))
        inputs.fetch(f"{web.url}/x.wav", UNKNOWN, deaf, deaf)
        inputs.close()
    assert web.trouble.counts() == {"GET": 2}


def test_larger_than_the_cache_is_told_with_the_remedy(web: WebServer, tmp_path: Path) -> None:
    (web.folder / "x.wav").write_bytes(bytes(3 * MB))
    for lengths in (True, False):
        web.lengths = lengths
        with pytest.raises(AssetError, match=r"may take 2 MB") as caught:
            _placed(tmp_path / "cache", 2 * MB).fetch(f"{web.url}/x.wav", UNKNOWN, deaf, deaf)
        assert caught.value.kind is ErrorKind.MEDIA_LIMIT
        assert "--cache-size" in caught.value.remedy
    assert not any((tmp_path / "cache/files").glob("*[!t]"))  # .part alone, if anything


def _fetch_many(folder: str, url: str, numbers: list[int], bound: int, out: str) -> None:
    inputs = InputPlace(Path(folder), bound, OPEN).opened()
    said = {}
    for number in numbers:
        one = asset(f"{url}/{number}.wav")
        with inputs.recording(one, UNKNOWN) as recording:
            path = recording.path(deaf, deaf)
            time.sleep(0.01)
            said[number] = len(path.read_bytes())
    Path(out).write_text(json.dumps(said))


def test_processes_share_the_cache_and_keep_to_its_bound(web: WebServer, tmp_path: Path) -> None:
    count, size, bound = 12, 300_000, MB
    for number in range(count):
        (web.folder / f"{number}.wav").write_bytes(bytes([number]) * (size + number))
    folder = tmp_path / "cache"
    Cache(folder, bound).close()
    spawn = multiprocessing.get_context("spawn")
    workers = [
        spawn.Process(
            target=_fetch_many,
            args=(
                *(str(folder), web.url),
                list(range(count))[:: 1 if own else -1],
                *(bound, str(tmp_path / f"{own}.json")),
            ),
        )
        for own in range(2)
    ]
    for worker in workers:
        worker.start()
    largest, alive = 0, True
    while alive:
        alive = any(worker.is_alive() for worker in workers)  # what is there at the end counts too
        taken = 0
        for path in (folder / "files").iterdir():
            try:
                taken += path.stat().st_size
            except FileNotFoundError:
                continue
        largest = max(largest, taken)
        time.sleep(0.005)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert 0 < largest <= bound
    for own in range(2):
        said = json.loads((tmp_path / f"{own}.json").read_text())
        assert said == {str(number): size + number for number in range(count)}


def test_several_who_need_the_same_fetch_it_once(web: WebServer, tmp_path: Path) -> None:
    (web.folder / "x.wav").write_bytes(bytes(2 * MB))
    web.rule(Rule("slow", slow_s=0.6))
    inputs = [_placed(tmp_path / "cache") for _ in range(4)]
    found: list[Whole] = []
    threads = [
        threading.Thread(
            target=lambda one=one: found.append(one.fetch(f"{web.url}/x.wav", UNKNOWN, deaf, deaf))
        )
        for one in inputs
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({whole.path for whole in found}) == 1
    assert len(found) == 4
    assert web.trouble.counts() == {"GET": 1}


FETCH = """
import sys
from pathlib import Path
from audio_batch.remote.access import Access
from audio_batch.remote.inputs import InputPlace
access = Access(allow_http=True, allow_private=True)
inputs = InputPlace(Path(sys.argv[1]), 100_000_000, access).opened()
inputs.fetch(sys.argv[2], sys.argv[3], lambda share: None, lambda: None)
"""


def test_a_download_that_was_killed_is_gone_on_with(web: WebServer, tmp_path: Path) -> None:
    data = os.urandom(6 * MB)
    (web.folder / "x.wav").write_bytes(data)
    url, folder = f"{web.url}/x.wav", tmp_path / "cache"
    from audio_batch.remote.web import WebStore

    seen = WebStore(OPEN).look(url).identity
    web.rule(Rule("slow", kind="GET", times=1, slow_s=20))
    child = subprocess.Popen(
        [sys.executable, "-c", FETCH, str(folder), url, seen], env=environment()
    )
    try:
        until(lambda: sum(p.stat().st_size for p in folder.glob("files/*.part")) > 0)
    finally:
        child.send_signal(getattr(signal, "SIGKILL", signal.SIGTERM))
        child.wait()
    (part,) = folder.glob("files/*.part")
    have = part.stat().st_size
    web.trouble.clear()
    whole = _placed(folder).fetch(url, seen, deaf, deaf)
    assert whole.path.read_bytes() == data
    assert [request.range for request in web.trouble.seen] == [f"bytes={have}-"]


def test_a_lengthless_one_grows_as_far_as_there_is_room(web: WebServer, tmp_path: Path) -> None:
    (web.folder / "x.wav").write_bytes(bytes(5 * MB))
    web.lengths = False
    inputs = _placed(tmp_path / "cache", 8 * MB)
    whole = inputs.fetch(f"{web.url}/x.wav", UNKNOWN, deaf, deaf)
    assert whole.path.stat().st_size == 5 * MB
    assert used_bytes(tmp_path / "cache") == 5 * MB


def test_who_finds_no_room_waits_and_tells_so(web: WebServer, tmp_path: Path) -> None:
    for name in "ab":
        (web.folder / f"{name}.wav").write_bytes(bytes(MB))
    inputs = _placed(tmp_path / "cache", 1_500_000)
    held = inputs.fetch(f"{web.url}/a.wav", UNKNOWN, deaf, deaf)
    beats: list[float | None] = []
    thread = threading.Thread(
        target=lambda: inputs.fetch(f"{web.url}/b.wav", UNKNOWN, beats.append, deaf)
    )
    thread.start()
    until(lambda: len(beats) > 2)
    assert held.path.exists()
    inputs.cache().release(held.pin)
    thread.join(timeout=120)
    assert not thread.is_alive()
    assert not held.path.exists()


def test_whoever_gives_up_breaks_off_at_once_and_the_part_stays(
    web: WebServer, tmp_path: Path
) -> None:
    (web.folder / "x.wav").write_bytes(bytes(4 * MB))
    web.rule(Rule("slow", kind="GET", slow_s=20))
    inputs = _placed(tmp_path / "cache")
    stop = AssetError(ErrorKind.TIMEOUT, "given up")

    def look() -> None:
        if any(p.stat().st_size for p in (tmp_path / "cache").glob("files/*.part")):
            raise stop

    with pytest.raises(AssetError, match="given up"):
        inputs.fetch(f"{web.url}/x.wav", UNKNOWN, deaf, look)
    (part,) = (tmp_path / "cache").glob("files/*.part")
    assert part.stat().st_size < 4 * MB, "the rest of it was waited for"
    assert isinstance(inputs.cache().take(inputs._key(f"{web.url}/x.wav", UNKNOWN)), Mine)


def test_who_only_looks_whether_it_is_there_waits_for_no_other_process(tmp_path: Path) -> None:
    one, other = Cache(tmp_path / "cache", MB), Cache(tmp_path / "cache", MB)
    mine = one.take("a")
    assert isinstance(mine, Mine)
    mine.path.write_bytes(b"1")
    one.finish(mine, pin=False)
    with ThreadPoolExecutor(1) as pool, one._change():  # what another process may do for long
        stuck = pool.submit(other.take, "b")
        until(other._guard.locked)
        assert other.has("a") and not other.has("b")
        assert not stuck.done()
        assert one.has("a")
    assert isinstance(stuck.result(), Mine)
    one.close()
    other.close()


def test_the_next_ones_are_fetched_ahead_and_the_end_breaks_it_off(
    web: WebServer, tmp_path: Path
) -> None:
    for number in range(6):
        (web.folder / f"{number}.wav").write_bytes(bytes(MB))
    place = InputPlace(tmp_path / "cache", 100 * MB, OPEN, downloads=2)
    ahead = Fetching(place, Patience(first_s=0.01))
    answered: list[str] = []
    ahead.answered = lambda uri, _begun_s: answered.append(uri)
    assets = [asset(f"{web.url}/{number}.wav") for number in (0, 1, 7, 2)]  # there is no 7
    gone = asset(f"{web.url}/8.wav", looks.MISSING)  # not even asked for
    ahead.offer([gone, *assets])
    ahead.offer(assets)  # what is on its way is not begun twice
    until(lambda: web.trouble.counts()["GET"] == 4)
    until(lambda: len(list((tmp_path / "cache/files").glob("*[!t]"))) == 3)
    inputs = place.opened()
    for one in (assets[0], assets[1], assets[3]):
        inputs.fetch(one.uri, UNKNOWN, deaf, deaf)
    assert web.trouble.counts()["GET"] == 4
    until(lambda: len(answered) == 4)  # a refusal is an answer
    assert sorted(answered) == sorted(one.uri for one in assets)
    web.rule(Rule("slow", kind="GET", slow_s=1200))
    ahead.offer([asset(f"{web.url}/{number}.wav") for number in (3, 4)])
    until(lambda: web.trouble.counts()["GET"] == 6)
    ahead.close()
    until(lambda: not any(one.name.startswith("fetch-") for one in threading.enumerate()))


def test_fetching_ahead_leaves_a_fifth_of_the_cache(web: WebServer, tmp_path: Path) -> None:
    for number in range(10):
        (web.folder / f"{number}.wav").write_bytes(bytes(MB))
    ahead = Fetching(InputPlace(tmp_path / "cache", 5 * MB, OPEN, downloads=1))
    ahead.offer([asset(f"{web.url}/{number}.wav") for number in range(10)])
    until(lambda: web.trouble.counts()["GET"] == 5)  # the fifth finds no room
    time.sleep(0.3)
    assert web.trouble.counts()["GET"] == 5
    ahead.close()
    assert used_bytes(tmp_path / "cache") == 4 * MB
