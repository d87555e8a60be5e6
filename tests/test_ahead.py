"""What is read ahead, how gates keep it out of a stage, and how long recordings are taken to be."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from audio_batch.ahead import MOST, MOST_FREE, Ahead
from audio_batch.gates import Gates
from audio_batch.lengths import Lengths
from audio_batch.manifest import Asset
from audio_batch.options import DecodingOptions, SpeakerLimits
from audio_batch.outcome import Stage
from audio_batch.plan import Action, Planned

PATIENT_S = 30.0


def short(count: int) -> list[float | None]:
    return [5.0] * count


def test_short_recordings_are_read_ahead_until_two_batches_are_full() -> None:
    ahead = Ahead(asked=None, shared=True, batch_size=lambda _: 4)
    assert ahead.room("cuda:0", 2, short(2)) > 0
    assert ahead.room("cuda:0", 2, short(7)) > 0
    assert ahead.room("cuda:0", 2, short(8)) == 0


def test_one_is_read_ahead_of_long_recordings_too() -> None:
    ahead = Ahead(asked=None, shared=True, batch_size=lambda _: 4)
    assert ahead.room("cuda:0", 2, [3600.0, 3600.0]) > 0
    assert ahead.room("cuda:0", 2, [3600.0] * 3) == 0


def test_what_takes_no_time_is_read_ahead_for_the_time_of_a_commit() -> None:
    ahead = Ahead(asked=None, shared=False)
    assert ahead.room("cpu", 1, short(1)) == 1  # nothing is known of it
    assert ahead.room("cpu", 1, short(1), each_s=0.01) == 25
    assert ahead.room("cpu", 1, short(1), each_s=60.0) == 1
    assert ahead.room("cpu", 1, short(1), each_s=0.002) == MOST
    assert ahead.room("cpu", 4, short(4), each_s=0.0) == MOST_FREE


@pytest.mark.parametrize(("asked", "flying", "room"), [(0, 2, 0), (3, 2, 3), (3, 4, 1), (3, 5, 0)])
def test_who_asks_for_a_number_gets_it(asked: int, flying: int, room: int) -> None:
    assert Ahead(asked=asked, shared=True).room("cuda:0", 2, short(flying)) == room


def test_a_device_that_ran_short_of_memory_reads_nothing_ahead() -> None:
    ahead = Ahead(asked=5, shared=True, eased=lambda device: device == "cuda:0")
    assert ahead.room("cuda:0", 2, []) == 0
    assert ahead.room("cuda:1", 2, []) == 5


# -- gates ----------------------------------------------------------------------------------------


def test_no_more_than_the_slots_are_in_a_stage_of_a_device() -> None:
    gates = Gates(lambda device: {"cuda:0": 2, "cuda:1": 1}[device])
    lock, inside, most = threading.Lock(), {}, {}
    full = threading.Event()

    def work(number: int) -> None:
        device = f"cuda:{number % 2}"
        with gates.enter(device, "diarize", waiting=lambda: None, entered=_nothing, gone=_never):
            with lock:
                inside[device] = inside.get(device, 0) + 1
                most[device] = max(most.get(device, 0), inside[device])
                if inside.get("cuda:0", 0) == 2:
                    full.set()
            full.wait(PATIENT_S if device == "cuda:0" else 0.01)
            threading.Event().wait(0.01)  # others might come in
            with lock:
                inside[device] -= 1

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(work, range(40)))
    assert most == {"cuda:0": 2, "cuda:1": 1}


def test_one_that_is_given_up_makes_room_though_it_never_comes_back() -> None:
    gates = Gates(lambda _: 1)
    given_up, within, told = threading.Event(), threading.Event(), list[str]()
    for_ever = threading.Event()

    def hang() -> None:
        with gates.enter(
            "cpu", "transcribe", waiting=_nothing, entered=_nothing, gone=given_up.is_set
        ):
            within.set()
            for_ever.wait(PATIENT_S)

    threading.Thread(target=hang, daemon=True).start()
    assert within.wait(PATIENT_S)

    def waiting() -> None:
        told.append("waiting")
        given_up.set()

    with gates.enter(
        "cpu",
        "transcribe",
        waiting=waiting,
        entered=lambda: told.append("entered"),
        gone=_never,
    ):
        assert told == ["waiting", "entered"]
    for_ever.set()


def test_one_that_is_given_up_while_it_waits_is_told_so_and_leaves_the_line() -> None:
    gates = Gates(lambda _: 1)
    gone = threading.Event()

    class GivenUp(Exception):
        pass

    def waiting() -> None:
        if gone.is_set():
            raise GivenUp
        gone.set()

    with (
        gates.enter("cpu", "align", waiting=_nothing, entered=_nothing, gone=_never),
        pytest.raises(GivenUp),
        gates.enter("cpu", "align", waiting=waiting, entered=_nothing, gone=gone.is_set),
    ):
        pytest.fail("there is no room")
    with gates.enter("cpu", "align", waiting=_nothing, entered=_nothing, gone=_never):
        pass


def _nothing() -> None:
    pass


def _never() -> bool:
    return False


# -- lengths --------------------------------------------------------------------------------------


def planned(name: str, size_bytes: int, duration_s: float | None = None) -> Planned:
    return Planned(
        asset=Asset(
            id=name, uri=name, path=Path(name), name=name, position=0, duration_s=duration_s
        ),
        action=Action.PROCESS,
        decoding=DecodingOptions(),
        limits=SpeakerLimits(),
        formats=("json",),
        output_name=name,
        source=f"{size_bytes}:1",
        fingerprint="f",
        rendering="r",
        stages={Stage.TRANSCRIBE: "f"},
    )


def test_lengths_come_from_the_manifest_else_from_sizes_as_recordings_of_the_kind_teach() -> None:
    lengths = Lengths()
    assert lengths.of(planned("a.mp3", 16_000, 7.0)) == 7.0
    assert lengths.of(planned("a.mp3", 160_000)) == 10.0
    lengths.told(planned("b.mp3", 80_000), 10.0)
    assert lengths.of(planned("a.mp3", 160_000)) == 20.0
    assert lengths.of(planned("a.wav", 640_000)) == 10.0  # of another kind nothing is learnt
    assert lengths.of(planned("a.xyz", 0)) == 0.0
