"""Batches across recordings: who shares one, in which turn, and what a failure costs the others."""

from __future__ import annotations

import dataclasses
import gc
import os
import platform
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from program import PROJECT, SHARED

from audio_batch import models
from audio_batch.cpu_gate import CpuGate
from audio_batch.engines import Recognition
from audio_batch.engines.batcher import Batcher, Stream
from audio_batch.engines.cuda import default_lanes
from audio_batch.engines.whisper import WhisperRecognizer
from audio_batch.errors import AssetError, DeviceError, ErrorKind
from audio_batch.media import decode
from audio_batch.options import DecodingOptions, resolve_decoding

PATIENT_S = 60.0
"""Longer than any test takes: what waits so long waits for good."""


class Bench:
    """Work of a batcher that is held up until it is told to go on, and keeps what it was given."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.begun = threading.Semaphore(0)
        self.go_on = threading.Semaphore(0)

    def __call__(self, key: Hashable, pieces: Sequence[str]) -> list[str]:
        self.batches.append(list(pieces))
        self.begun.release()
        assert self.go_on.acquire(timeout=PATIENT_S)
        for piece in pieces:
            if piece.startswith("bad"):
                raise ValueError(piece)
            if piece == "lost":
                raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return [f"{key}: {piece}" for piece in pieces]

    def release(self, batches: int = 1000) -> None:
        """Let some batches be done."""
        self.go_on.release(batches)


def named(error: Exception) -> Exception:
    text = str(error)
    return DeviceError(text) if "CUDA" in text else AssetError(ErrorKind.MODEL, text)


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.release()


def batcher_of(bench: Bench, size: int = 4, **more: Any) -> Batcher[str, str]:
    more.setdefault("patience_s", 0.0)
    return Batcher(bench, size=lambda: size, lower=lambda *_: False, error_of=named, **more)


def unheard() -> None:
    """Nobody wants to know."""


def put(stream: Stream[str, str], *pieces: str, key: str = "k") -> None:
    """Submit all of a stream's pieces."""
    for number, piece in enumerate(pieces, 1):
        stream.submit(key, piece, last=number == len(pieces))


def held(batcher: Batcher[str, str], bench: Bench) -> Stream[str, str]:
    """A stream whose only piece is at work, held up: what is submitted meanwhile waits."""
    stream = open_stream(batcher)
    put(stream, "first")
    assert bench.begun.acquire(timeout=PATIENT_S)
    return stream


_open: list[Any] = []


def open_stream(batcher: Batcher[str, str]) -> Stream[str, str]:
    context = batcher.stream()
    _open.append(context)
    return context.__enter__()


def wait_until_it_waits(stream: Stream[str, str]) -> None:
    """Until another thread waits in `take`, and has seen how many batches were done before."""
    until_s = time.monotonic() + PATIENT_S
    while not stream.answered._waiters:  # type: ignore[attr-defined]
        assert time.monotonic() < until_s
        time.sleep(0.001)


# -- turns ----------------------------------------------------------------------------------------


def test_neither_a_long_asset_nor_many_short_ones_keep_the_others_waiting(bench: Bench) -> None:
    batcher = batcher_of(bench)
    held(batcher, bench)
    long = open_stream(batcher)
    put(long, *(f"L{number}" for number in range(8)))
    shorts = [open_stream(batcher) for _ in range(9)]
    for number, short in enumerate(shorts):
        put(short, f"s{number}")
    bench.release()
    assert [short.take(unheard) for short in shorts] == [f"k: s{number}" for number in range(9)]
    assert [long.take(unheard) for _ in range(8)] == [f"k: L{number}" for number in range(8)]
    assert bench.batches[1:] == [
        ["L0", "s0", "s1", "s2"],
        ["s3", "s4", "s5", "s6"],
        ["s7", "s8", "L1", "L2"],
        ["L3", "L4", "L5", "L6"],
        ["L7"],
    ]


def test_a_long_asset_goes_on_while_short_ones_keep_coming(bench: Bench) -> None:
    batcher = batcher_of(bench, size=2)
    held(batcher, bench)
    long = open_stream(batcher)
    put(long, *(f"L{number}" for number in range(20)))
    for number in range(30):
        # Two come for each batch that is done: without turns they would fill all of them.
        for _ in range(2):
            put(open_stream(batcher), f"s{number}")
        bench.release(1)
        assert bench.begun.acquire(timeout=PATIENT_S)
    done = [piece for batch in bench.batches[1:] for piece in batch]
    assert sum(piece.startswith("L") for piece in done) >= 6
    assert sum(piece.startswith("s") for piece in done) >= 30


def test_only_pieces_of_one_key_share_a_batch_and_each_stream_keeps_its_order(
    bench: Bench,
) -> None:
    batcher = batcher_of(bench)
    held(batcher, bench)
    mixed, other = open_stream(batcher), open_stream(batcher)
    mixed.submit("a", "1")
    mixed.submit("b", "2")
    mixed.submit("a", "3", last=True)
    put(other, "4", "5", key="a")
    bench.release()
    assert [mixed.take(unheard) for _ in range(3)] == ["a: 1", "b: 2", "a: 3"]
    assert [other.take(unheard) for _ in range(2)] == ["a: 4", "a: 5"]
    assert bench.batches[1:] == [["1", "4", "5"], ["2"], ["3"]]


def test_a_batch_that_is_not_full_waits_for_who_prepares_and_for_nobody_else(
    bench: Bench,
) -> None:
    bench.release()
    batcher = batcher_of(bench, patience_s=PATIENT_S)
    quick, slow = open_stream(batcher), open_stream(batcher)
    put(quick, "quick")
    threading.Timer(0.2, lambda: put(slow, "slow")).start()
    assert quick.take(unheard) == "k: quick"
    assert slow.take(unheard) == "k: slow"
    assert bench.batches == [["quick", "slow"]]


def test_a_stream_is_to_wait_where_it_has_two_batches_under_way(bench: Bench) -> None:
    batcher = batcher_of(bench, size=8)
    streams = [open_stream(batcher)]
    assert batcher.room() == 16
    streams += [open_stream(batcher) for _ in range(3)]
    assert batcher.room() == 4
    streams += [open_stream(batcher) for _ in range(60)]
    assert batcher.room() == 2


# -- trouble --------------------------------------------------------------------------------------


def test_only_the_asset_at_fault_fails(bench: Bench) -> None:
    batcher = batcher_of(bench, size=16)
    held(batcher, bench)
    good, bad, other = (open_stream(batcher) for _ in range(3))
    put(good, "g1", "g2")
    put(bad, "fine", "bad", "late")
    put(other, "o1")
    bench.release()
    assert [good.take(unheard) for _ in range(2)] == ["k: g1", "k: g2"]
    assert other.take(unheard) == "k: o1"
    with pytest.raises(AssetError, match="bad"):
        bad.take(unheard)
    assert len(bench.batches[1]) == 6
    assert sorted(bench.batches[2:]) == [["fine", "bad", "late"], ["g1", "g2"], ["o1"]]


def test_a_failed_device_fails_all_and_is_asked_no_more(bench: Bench) -> None:
    batcher = batcher_of(bench, size=2)
    held(batcher, bench)
    streams = [open_stream(batcher) for _ in range(5)]
    for stream, piece in zip(streams, ["lost", *"abcd"], strict=True):
        put(stream, piece)
    bench.release()
    for stream in streams:
        with pytest.raises(DeviceError, match="illegal memory"):
            stream.take(unheard)
    assert bench.batches == [["first"], ["lost", "a"]]


def test_what_is_given_up_is_not_done(bench: Bench) -> None:
    batcher = batcher_of(bench, size=2, beat_s=0.02)

    def give_up() -> None:
        raise AssetError(ErrorKind.TIMEOUT, "It was given up meanwhile.")

    held(batcher, bench)
    busy = open_stream(batcher)
    put(busy, *(f"b{number}" for number in range(4)))
    with batcher.stream() as left:
        put(left, *(f"x{number}" for number in range(9)))

        def do_the_first() -> None:
            wait_until_it_waits(left)
            bench.release(1)

        with ThreadPoolExecutor(1) as pool:
            pool.submit(do_the_first)
            with pytest.raises(AssetError, match="given up"):
                left.take(give_up)  # it waits while the first is done
    bench.release()
    assert [busy.take(unheard) for _ in range(4)] == [f"k: b{number}" for number in range(4)]
    done = [piece for batch in bench.batches for piece in batch]
    assert [piece for piece in done if piece.startswith("x")] == ["x0"]  # it was at work already


def test_who_waits_tells_so_only_while_batches_are_done(bench: Bench) -> None:
    batcher = batcher_of(bench, size=1, beat_s=0.02)
    first = held(batcher, bench)
    told = threading.Semaphore(0)
    with ThreadPoolExecutor(1) as pool:
        waiting = open_stream(batcher)
        ahead = open_stream(batcher)
        put(ahead, "ahead")
        put(waiting, "waits")
        answer = pool.submit(waiting.take, told.release)
        try:
            wait_until_it_waits(waiting)
            # The device hangs: nothing is heard, and the watchdog sees it.
            assert not told.acquire(timeout=0.3)
            bench.release(1)
            assert first.take(unheard) == "k: first"
            assert told.acquire(timeout=PATIENT_S)
        finally:
            bench.release()
        assert answer.result() == "k: waits"


def test_out_of_memory_puts_the_pieces_back_in_their_order(bench: Bench) -> None:
    size = 8

    def work(key: Hashable, pieces: Sequence[str]) -> list[str]:
        if len(pieces) > 3:
            raise MemoryError
        return bench(key, pieces)

    def lower(count: int, error: Exception) -> bool:
        nonlocal size
        assert isinstance(error, MemoryError)
        assert error.__traceback__ is None  # it would hold what the batch allocated
        size = count // 2
        return True

    batcher = Batcher(work, size=lambda: size, lower=lower, error_of=named, patience_s=0.0)
    held(batcher, bench)
    streams = [open_stream(batcher) for _ in range(2)]
    for name, stream in zip("ab", streams, strict=True):
        put(stream, *(f"{name}{number}" for number in range(4)))
    bench.release()
    for name, stream in zip("ab", streams, strict=True):
        assert [stream.take(unheard) for _ in range(4)] == [f"k: {name}{n}" for n in range(4)]
    assert bench.batches[1:3] == [["a0", "b0"], ["a1", "b1"]]
    assert size == 2


def test_memory_that_a_neighbour_took_is_nobodys_fault() -> None:
    """Two lanes: the small batch finds no room beside the large one, and waits for its end."""
    at_work, lowered = threading.Semaphore(0), list[int]()
    met = threading.Event()
    lock, inside = threading.Lock(), 0

    def work(key: Hashable, pieces: Sequence[str]) -> list[str]:
        nonlocal inside
        with lock:
            inside += 1
            beside = inside > 1
        try:
            if beside:
                met.set()
                raise MemoryError
            at_work.release()
            assert met.wait(PATIENT_S)
            return [f"{key}: {piece}" for piece in pieces]
        finally:
            with lock:
                inside -= 1

    def lower(count: int, _error: Exception) -> bool:
        lowered.append(count)
        return count > 1

    batcher: Batcher[str, str] = Batcher(
        work,
        size=lambda: 4,
        lower=lower,
        error_of=named,
        lacks_memory=lambda error: isinstance(error, MemoryError),
        lanes=2,
        patience_s=PATIENT_S,  # else a lane might begin before the batch is whole
    )
    large, small = open_stream(batcher), open_stream(batcher)
    put(large, "a", "b", "c", "d", key="one")
    assert at_work.acquire(timeout=PATIENT_S)
    put(small, "e", key="other")
    assert small.take(unheard) == "other: e"
    assert [large.take(unheard) for _ in range(4)] == [f"one: {piece}" for piece in "abcd"]
    # What was too much is the larger of the two, not the one that met with it.
    assert lowered == [4]
    # Both lanes go on afterwards.
    put(large, "f", key="one")
    assert large.take(unheard) == "one: f"


def test_an_error_of_a_device_that_goes_on_is_the_assets_alone() -> None:
    def work(key: Hashable, pieces: Sequence[str]) -> list[str]:
        if "bad" in pieces:
            raise RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED")
        return [f"{key}: {piece}" for piece in pieces]

    batcher: Batcher[str, str] = Batcher(
        work,
        size=lambda: 4,
        lower=lambda *_: False,
        error_of=named,
        for_all=lambda error: "illegal" in str(error),
        patience_s=1.0,
    )
    bad, good = open_stream(batcher), open_stream(batcher)
    put(bad, "bad")
    put(good, "good")
    assert good.take(unheard) == "k: good"
    with pytest.raises(DeviceError):
        bad.take(unheard)


# -- the gate -------------------------------------------------------------------------------------


def test_the_gate_lets_as_many_in_as_there_are_permits_and_nobody_twice() -> None:
    gate = CpuGate(2)
    inside, most = 0, 0
    lock = threading.Lock()

    def enter(_: int) -> None:
        nonlocal inside, most
        with gate, gate:
            with lock:
                inside += 1
                most = max(most, inside)
            threading.Event().wait(0.01)
            with lock:
                inside -= 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(enter, range(24)))
    assert most == 2


@pytest.mark.parametrize(
    ("cores", "asked", "expected"),
    [
        (1, None, (1, 1)),
        (2, None, (2, 1)),
        (8, None, (4, 2)),
        (64, None, (16, 4)),
        (8, 8, (1, 8)),
        (2, 4, (1, 4)),
    ],
)
def test_the_lanes_of_a_cpu_share_its_cores(
    cores: int, asked: int | None, expected: tuple[int, int]
) -> None:
    assert default_lanes("cpu", cores, asked) == expected


HEAP = """
import resource
import numpy as np
from audio_batch.engines.heap import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        np.ones(10_000_000, np.float32)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
before = faults()
changed = keep_freed_memory()
faults()
print(before, faults(), changed)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
@pytest.mark.parametrize("theirs", [{}, {"MALLOC_ARENA_MAX": "2"}])
def test_large_buffers_are_reused_unless_the_user_has_settings_of_his_own(
    theirs: dict[str, str],
) -> None:
    plain = {name: text for name, text in os.environ.items() if not name.startswith("MALLOC_")}
    plain.pop("GLIBC_TUNABLES", None)
    done = subprocess.run(
        [sys.executable, "-c", HEAP],
        env={**plain, **theirs},
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )
    before, after, changed = done.stdout.split()
    assert changed == str(not theirs)
    assert (int(after) < int(before) / 10) == (not theirs)


# -- real models ----------------------------------------------------------------------------------


def recognizer_of(path: Path | str, batch_size: int, lanes: int = 1) -> WhisperRecognizer:
    import faster_whisper

    reference = models.find(str(path))
    model = faster_whisper.WhisperModel(
        str(reference.path), device="cpu", compute_type="int8", cpu_threads=1, num_workers=lanes
    )
    about = {"multilingual": model.model.is_multilingual}
    return WhisperRecognizer(model, reference, batch_size, about, (), lanes=lanes, cpu=CpuGate(2))


def options(recognizer: WhisperRecognizer, **given: Any) -> DecodingOptions:
    defaults = recognizer.reference.defaults
    return resolve_decoding(given, preset=None, model_defaults=defaults)[0]


def silent(position_s: float) -> None:
    """Progress that nobody watches."""


def timed(heard: Recognition) -> list[tuple[str, float, float]]:
    words = [word for segment in heard.segments for word in segment.words]
    return [(part.text, part.start_s, part.end_s) for part in (*heard.segments, *words)]


def leaves(value: Any) -> Iterator[Any]:
    """All that records hold, in order. Scores may differ in the last place between batches."""
    if dataclasses.is_dataclass(value):
        value = [getattr(value, field.name) for field in dataclasses.fields(value)]
    if isinstance(value, dict):
        value = list(value.items())
    if isinstance(value, list | tuple):
        for part in value:
            yield from leaves(part)
    else:
        yield value


Assets = list[tuple[NDArray[np.float32], DecodingOptions]]


def together(recognizer: WhisperRecognizer, assets: Assets) -> list[Recognition]:
    """All at the same time, each in its thread."""
    with ThreadPoolExecutor(len(assets)) as pool:
        return list(pool.map(lambda asset: recognizer.transcribe(*asset, silent), assets))


def real_speech() -> list[NDArray[np.float32]]:
    """Clips of a few seconds and one of 40 s, of several speakers."""
    folder = SHARED / "data" / "digits" / "fsdd"
    files = sorted(folder.glob("*.flac"))
    if not files:
        pytest.skip("the recorded digits of ../shared are not there")
    spoken = [decode(path).samples for path in files]
    clips = [
        samples[start * 16_000 : (start + 3 + number) * 16_000]
        for number, samples in enumerate(spoken)
        for start in (5, 60)
    ]
    return [*clips[:7], spoken[0][: 40 * 16_000]]


def test_results_are_those_of_each_asset_alone_whatever_shares_its_batches() -> None:
    recordings = real_speech()
    alone = recognizer_of("demo", batch_size=1)
    mixed = recognizer_of("demo", batch_size=16, lanes=2)
    chosen = options(alone)
    # Another prompt is another key: its windows are batches of their own.
    prompted = options(alone, initial_prompt="one two three")
    assets = [(samples, chosen) for samples in recordings] + [(recordings[0], prompted)]
    expected = [alone.transcribe(*asset, silent) for asset in assets]
    assert sum(bool(heard.segments) for heard in expected) >= 8
    heard = together(mixed, assets)
    assert [timed(one) for one in heard] == [timed(one) for one in expected]
    assert list(leaves(heard)) == pytest.approx(list(leaves(expected)), abs=1e-3)


class Counting:
    """A CTranslate2 model that counts what it encodes."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.batches: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def encode(self, features: Any, to_cpu: bool) -> Any:
        self.batches.append(features.shape[0])
        return self._model.encode(features, to_cpu=to_cpu)


@pytest.fixture(scope="module")
def polyglot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model of many languages with weights of no meaning: it decodes as many tokens."""
    sys.path.append(str(PROJECT / "scripts" / "gpu_common"))
    from random_whisper import build
    from whisper_shapes import SHAPES

    folder = tmp_path_factory.mktemp("models") / "polyglot"
    return build(folder, SHAPES["tiny-random"], tokens_per_window=8)


def test_languages_may_differ_in_a_batch_and_are_told_in_the_same_pass(polyglot: Path) -> None:
    chance = np.random.default_rng(7)
    recordings = [0.1 * chance.standard_normal(16_000 * s).astype(np.float32) for s in (4, 9, 12)]
    alone = recognizer_of(polyglot, batch_size=2)
    given = {"vad_method": "none", "word_timestamps": True}
    assets = [
        (samples, options(alone, language=language, **given))
        for samples in recordings
        for language in (None, "de", "ja")
    ]
    expected = [alone.transcribe(*asset, silent) for asset in assets]
    assert all(one.segments and one.segments[0].words for one in expected)
    by_language = [[timed(one) for one in expected[first : first + 3]] for first in (0, 3, 6)]
    assert all(of_de != of_ja for _, of_de, of_ja in by_language)  # else they would prove nothing
    mixed = recognizer_of(polyglot, batch_size=16)
    counting = mixed.model.model = Counting(mixed.model.model)
    heard = together(mixed, assets)
    assert [timed(one) for one in heard] == [timed(one) for one in expected]
    assert list(leaves(heard)) == pytest.approx(list(leaves(expected)), abs=1e-3)
    assert sum(counting.batches) == len(assets)
    assert [one.language for one in heard[1:3]] == ["de", "ja"]
    assert 0 < (heard[0].language_probability or 0) < 1


def test_the_language_of_a_long_recording_is_told_from_its_first_half_minute(
    polyglot: Path,
) -> None:
    recognizer = recognizer_of(polyglot, batch_size=4)
    counting = recognizer.model.model = Counting(recognizer.model.model)
    samples = 0.1 * np.random.default_rng(8).standard_normal(16_000 * 70).astype(np.float32)
    whole = options(recognizer, vad_method="none")
    heard = recognizer.transcribe(samples, whole, silent)
    assert sum(counting.batches) == 3  # the first window holds what tells the language
    counting.batches.clear()
    short = options(recognizer, vad_method="none", chunk_length_s=10)
    again = recognizer.transcribe(samples, short, silent)
    assert sum(counting.batches) == 8  # here it does not: half a minute is encoded for it
    assert again.language == heard.language
    assert again.language_probability == pytest.approx(heard.language_probability, abs=1e-3)


def test_the_sequential_mode_shares_no_batches() -> None:
    recognizer = recognizer_of("demo", batch_size=4)
    assert recognizer.shares_batches(options(recognizer))
    assert not recognizer.shares_batches(options(recognizer, batch_size=1))


def test_a_recognizer_that_nobody_uses_lets_go_of_its_model() -> None:
    before = threading.enumerate()
    recognizer = recognizer_of("demo", batch_size=4)
    recognizer.transcribe(np.zeros(16_000, np.float32), options(recognizer), silent)
    lanes = [
        thread
        for thread in threading.enumerate()
        if thread.name.startswith("whisper-") and thread not in before
    ]
    model = weakref.ref(recognizer.model)
    assert lanes
    del recognizer
    gc.collect()
    for lane in lanes:
        lane.join(PATIENT_S)
    assert not any(lane.is_alive() for lane in lanes)
    gc.collect()
    assert model() is None
