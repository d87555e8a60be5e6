"""Long recordings diarized in pieces: where they are cut, who is who in them, what comes out.

The rules with pieces told beforehand; the whole with the demonstration's pipeline, where what one
go finds is the reference.
"""

from __future__ import annotations

import csv
import itertools
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hungry_voice
import numpy as np
import pytest
from numpy.typing import NDArray
from program import environment

from audio_batch.diarization_models import demo_path, find_diarization
from audio_batch.engines.base import Diarization, StepProgress
from audio_batch.engines.long_diarization import diarize_in_pieces, next_cut
from audio_batch.engines.long_speakers import link_speakers
from audio_batch.engines.pyannote import load_diarizer
from audio_batch.errors import AssetError, ErrorKind
from audio_batch.gpu.devices import CPU
from audio_batch.media import decode
from audio_batch.options import SpeakerLimits
from audio_batch.transcript import Speaker, Turn

ANY = SpeakerLimits()
RATE_HZ = 16_000
E1, E2, E3 = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
NEAR_E1 = (0.8, 0.6, 0.0)
BESIDE_SAMPLES_BYTES = 2_500_000_000
"""The libraries and the model (1.1 GB), the distances of a piece of 45 min (0.6 GB), and room."""


def voice(label: str, talk_s: float, embedding: tuple[float, ...] | None) -> Speaker:
    return Speaker(label, talk_s, embedding)


def linked(
    pieces: Sequence[Sequence[Speaker]], limits: SpeakerLimits = ANY, threshold: float = 0.7
) -> set[frozenset[tuple[int, str]]]:
    return {frozenset(s.members) for s in link_speakers(pieces, limits, threshold)}


def same(*members: tuple[int, str]) -> frozenset[tuple[int, str]]:
    return frozenset(members)


def test_cuts_are_even_and_in_the_quiet_spot_near_by() -> None:
    sound = np.random.default_rng(0).normal(size=250 * RATE_HZ).astype(np.float32)
    sound[80 * RATE_HZ : 81 * RATE_HZ] = 0  # the even cut of three pieces is at 83.3 s
    cuts = [0]
    while cuts[-1] < len(sound):
        cuts.append(next_cut(sound, cuts[-1], 100))
    assert 80 * RATE_HZ < cuts[1] < 81 * RATE_HZ
    assert len(cuts) == 4
    assert [cut % 320 for cut in cuts[:-1]] == [0] * 3
    assert all(50 < (b - a) / RATE_HZ <= 100 for a, b in itertools.pairwise(cuts))


@pytest.mark.parametrize("extra", [1, 319, 321, 16_001, 1_600_000])
@pytest.mark.parametrize("piece_s", [1.0, 7.77, 100.0])
def test_no_piece_is_longer_than_it_may_be(extra: int, piece_s: float) -> None:
    sound = np.zeros(int(piece_s * RATE_HZ) + extra, np.float32)
    begin = 0
    while begin < len(sound):
        end = next_cut(sound, begin, piece_s)
        assert 0 < end - begin <= piece_s * RATE_HZ
        begin = end


def test_speakers_of_pieces_are_linked_but_never_two_of_one_piece() -> None:
    pieces = [
        [voice("a", 20, E1), voice("b", 9, NEAR_E1), voice("c", 5, None)],
        [],
        [voice("d", 20, E1), voice("e", 3, E3), voice("f", 2, None)],
    ]
    assert linked(pieces) == {
        same((0, "a"), (2, "d")),
        same((0, "b")),
        same((0, "c")),
        same((2, "e")),
        same((2, "f")),
    }
    first = next(s for s in link_speakers([[voice("a", 3, E1)], [voice("b", 1, NEAR_E1)]], ANY, 0))
    assert first.mean == pytest.approx([0.95, 0.15, 0])


def test_bounds_hold_for_the_whole_where_they_can() -> None:
    pieces = [[voice("a", 20, E1), voice("b", 9, E2)], [voice("c", 9, NEAR_E1)]]
    apart = {same((0, "a")), same((0, "b")), same((1, "c"))}
    together = {same((0, "a"), (1, "c")), same((0, "b"))}
    assert linked(pieces) == together
    assert linked(pieces, SpeakerLimits(num_speakers=3)) == apart
    assert linked(pieces, SpeakerLimits(min_speakers=3)) == apart
    assert linked(pieces, SpeakerLimits(min_speakers=4)) == together
    assert linked(pieces, threshold=0.9) == apart
    assert linked(pieces, SpeakerLimits(num_speakers=2), 0.9) == together
    assert linked(pieces, SpeakerLimits(max_speakers=2), 0.9) == together


def test_the_number_is_kept_where_each_two_groups_share_a_piece() -> None:
    """Every pair of the three that are alike has a piece in common, yet two can be had."""
    pieces = [
        [voice("a", 30, E1), voice("b", 20, E2)],
        [voice("c", 10, E3), voice("d", 30, E1)],
        [voice("e", 20, E2), voice("f", 10, E3)],
    ]
    assert len(linked(pieces)) == 3
    two = linked(pieces, SpeakerLimits(num_speakers=2))
    assert len(two) == 2
    for members in two:
        assert sorted(piece for piece, _ in members) == [0, 1, 2]


def told_beforehand(
    length_s: float, pieces: dict[float, Diarization], most_s: float = 1e9
) -> tuple[Any, list[tuple[float, SpeakerLimits]]]:
    """A stand-in for a pipeline: knows a piece by its first sample, and what it was asked."""
    asked: list[tuple[float, SpeakerLimits]] = []

    def diarize(
        sound: NDArray[np.float32], limits: SpeakerLimits, progress: StepProgress
    ) -> Diarization:
        asked.append((len(sound) / RATE_HZ, limits))
        progress("embeddings", 0.5)
        if len(sound) > most_s * RATE_HZ:
            raise AssetError(ErrorKind.OUT_OF_MEMORY, "No memory.", transient=True)
        progress("discrete_diarization", 1.0)
        begin_s = round(float(sound[0]) * length_s, 1)
        return pieces.get(begin_s, Diarization((), (), ()))

    return diarize, asked


def ramp(length_s: float) -> NDArray[np.float32]:
    """Sound whose samples tell their time."""
    time_s = np.arange(round(length_s * RATE_HZ)) / RATE_HZ
    return (time_s / length_s).astype(np.float32)


def of(*turns: tuple[str, float, float], voices: dict[str, tuple[float, ...]]) -> Diarization:
    records = tuple(Turn(*turn) for turn in turns)
    talk = {v: sum(t.end_s - t.start_s for t in records if t.speaker == v) for v in voices}
    return Diarization(
        records, records, tuple(Speaker(v, talk[v], e) for v, e in voices.items()), ("wider",)
    )


def test_a_recording_that_is_not_long_is_left_as_it_is() -> None:
    whole = of(("SPEAKER_00", 0, 3), voices={"SPEAKER_00": E1})
    diarize, asked = told_beforehand(10, {0: whole})
    limits = SpeakerLimits(min_speakers=2, max_speakers=3)
    shares: list[float] = []
    found = diarize_in_pieces(
        ramp(10), limits, lambda _, share: shares.append(share), diarize, piece_s=10
    )
    assert found is whole
    assert (asked, shares) == ([(10, limits)], [0.5, 1.0])


def test_pieces_become_one_diarization() -> None:
    sound = ramp(40)
    sound[20 * RATE_HZ - 4000 : 20 * RATE_HZ + 4000] = 0
    cut_s = next_cut(sound, 0, 25) / RATE_HZ
    assert cut_s == pytest.approx(20, abs=0.3)
    first = of(
        ("SPEAKER_00", 1, 5),
        ("SPEAKER_01", 4, cut_s - 0.08),
        ("SPEAKER_00", cut_s - 0.05, cut_s),
        voices={"SPEAKER_00": E1, "SPEAKER_01": E2},
    )
    second = of(
        ("SPEAKER_00", 0.06, 2),
        ("SPEAKER_01", 3, 6),
        ("SPEAKER_02", 5, 7),
        voices={"SPEAKER_00": E2, "SPEAKER_01": E3, "SPEAKER_02": NEAR_E1},
    )
    whole = {0.0: first, round(cut_s, 1): second}

    def diarize(
        piece: NDArray[np.float32], limits: SpeakerLimits, progress: StepProgress
    ) -> Diarization:
        assert limits == SpeakerLimits(max_speakers=7)
        progress("embeddings", 1.0)
        return whole[0.0 if piece[1] < 0.1 and piece[-1] < 0.6 else round(cut_s, 1)]

    shares: list[float] = []
    found = diarize_in_pieces(
        sound,
        SpeakerLimits(min_speakers=2, max_speakers=7),
        lambda _, share: shares.append(share),
        diarize,
        piece_s=25,
    )
    at = [round(cut_s + s, 3) for s in (2, 3, 5, 6, 7)]
    assert found.turns == (
        Turn("SPEAKER_00", 1, 5),
        Turn("SPEAKER_01", 4, at[0]),
        Turn("SPEAKER_00", round(cut_s - 0.05, 3), cut_s),
        Turn("SPEAKER_02", at[1], at[3]),
        Turn("SPEAKER_00", at[2], at[4]),
    )
    for one, two in itertools.pairwise(found.exclusive_turns):
        assert one.end_s <= two.start_s
    assert [s.label for s in found.speakers] == ["SPEAKER_00", "SPEAKER_01", "SPEAKER_02"]
    for speaker in found.speakers:
        spoken = [t.end_s - t.start_s for t in found.turns if t.speaker == speaker.label]
        assert speaker.talk_s == round(sum(spoken), 3)
    mean = (4.05 * np.array(E1) + 2 * np.array(NEAR_E1)) / 6.05
    assert found.speakers[0].embedding == pytest.approx(mean / np.linalg.norm(mean), abs=1e-6)
    assert found.notes[:2] == ("wider", "diarized in 2 pieces")
    assert "0.5 is used" in found.notes[2]
    assert shares == [pytest.approx(cut_s / 40, abs=1e-3), 1.0, 1.0]


def test_pieces_are_halved_when_memory_runs_out_and_what_is_done_stays() -> None:
    diarize, asked = told_beforehand(100, {}, most_s=15)
    shares: list[float] = []
    found = diarize_in_pieces(
        ramp(100),
        ANY,
        lambda _, share: shares.append(share),
        diarize,
        piece_s=60,
        min_piece_s=5,
        link_threshold=0.7,
    )
    lengths = [length_s for length_s, _ in asked]
    failed = [length_s for length_s in lengths if length_s > 15]
    assert lengths[: len(failed)] == failed == sorted(failed, reverse=True)
    assert len(failed) == 2
    assert sum(lengths[len(failed) :]) == pytest.approx(100)
    assert found.notes == (f"diarized in {len(lengths) - len(failed)} pieces",)
    assert shares == sorted(shares)


def test_the_shortest_piece_without_memory_is_a_failure_that_may_pass() -> None:
    diarize, asked = told_beforehand(100, {}, most_s=15)
    with pytest.raises(AssetError, match="No memory") as caught:
        diarize_in_pieces(ramp(100), ANY, lambda _, __: None, diarize, min_piece_s=30)
    assert (caught.value.kind, caught.value.transient) == (ErrorKind.OUT_OF_MEMORY, True)
    assert min(length_s for length_s, _ in asked) <= 30
    assert len(asked) == 3


def test_another_failure_of_a_piece_is_the_recordings() -> None:
    def diarize(*_: object) -> Diarization:
        raise AssetError(ErrorKind.DIARIZATION, "No.")

    with pytest.raises(AssetError, match=r"No\."):
        diarize_in_pieces(ramp(20), ANY, lambda _, __: None, diarize, piece_s=5, min_piece_s=1)


@pytest.fixture(scope="module")
def demo() -> Any:
    """The demonstration's pipeline, for pieces of 40 s."""
    return load_demo(piece_s=40)


def load_demo(folder: Path | None = None, *, piece_s: float) -> Any:
    reference = find_diarization(str(folder or "demo"), model_dir=None, offline=True, token=None)
    return load_diarizer(reference, CPU, slots=1, cpu_threads=1, free_bytes=None, piece_s=piece_s)


@pytest.fixture(scope="module")
def readers(shared: Path) -> dict[str, list[NDArray[np.float32]]]:
    """Sentences of two readers, whom the model never heard."""
    found: dict[str, list[NDArray[np.float32]]] = {}
    table = shared / "data" / "librispeech" / "test_other.csv"
    with table.open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["speaker"] in ("1688", "3005")]
    sounds = {row["file"]: decode(table.parent / row["file"]).samples for row in rows}
    for row in rows:
        part = sounds[row["file"]][int(row["start_sample"]) : int(row["end_sample"])]
        found.setdefault(row["speaker"], []).append(part * np.float32(0.1 / part.std()))
    return found


def talk(parts: Sequence[NDArray[np.float32]], length_s: float) -> NDArray[np.float32]:
    """Sentences one after the other with pauses, over and over, for that long."""
    pause = np.zeros(RATE_HZ // 2, np.float32)
    once = np.concatenate([sound for part in parts for sound in (part, pause)])
    return np.resize(once, round(length_s * RATE_HZ))


def run(diarizer: Any, samples: NDArray[np.float32], limits: SpeakerLimits = ANY) -> Diarization:
    done: Diarization = diarizer.diarize(samples, limits, lambda _step, _share: None)
    return done


def error_rate(reference: Diarization, found: Diarization) -> float:
    """DER, no collar."""
    from pyannote.core import Annotation, Segment, Timeline
    from pyannote.metrics.diarization import DiarizationErrorRate

    both = []
    for turns in (reference.turns, found.turns):
        annotation = Annotation()
        for number, turn in enumerate(turns):
            annotation[Segment(turn.start_s, turn.end_s), number] = turn.speaker
        both.append(annotation)
    end_s = max(turn.end_s for turn in (*reference.turns, *found.turns))
    return float(DiarizationErrorRate()(*both, uem=Timeline([Segment(0, end_s)])))


def test_pieces_find_the_same_speakers_as_one_go(
    demo: Any, readers: dict[str, list[NDArray[np.float32]]]
) -> None:
    """Both, then one alone, then both: who was silent for a piece keeps the name."""
    one, other = readers["1688"], readers["3005"]
    both = talk([p for pair in zip(one, other, strict=False) for p in pair], 32)
    sound = np.concatenate([both, talk(one[3:], 32), both])
    at_once = run(load_demo(piece_s=len(sound)), sound)
    assert len(at_once.speakers) == 2
    shares: list[float] = []
    found = demo.diarize(sound, ANY, lambda _, share: shares.append(share))
    assert found.notes == ("diarized in 3 pieces",)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert error_rate(at_once, found) < 0.03
    assert [s.label for s in found.speakers] == ["SPEAKER_00", "SPEAKER_01"]
    for first, second in zip(at_once.speakers, found.speakers, strict=True):
        assert first.embedding is not None
        assert second.embedding is not None
        assert float(np.dot(first.embedding, second.embedding)) > 0.95
    silent = [t for t in found.turns if 36 < t.start_s < 60]
    assert {t.speaker for t in silent} == {"SPEAKER_00"}


def test_the_number_of_speakers_is_that_of_the_whole_and_memory_that_of_the_model(
    readers: dict[str, list[NDArray[np.float32]]], tmp_path: Path
) -> None:
    """Two pieces by a model that has memory for one window, whatever it is asked first."""
    folder = tmp_path / "hungry"
    shutil.copytree(demo_path(), folder)
    hungry_voice.make_hungry(folder)
    hungry = load_demo(folder, piece_s=15)
    sound = np.concatenate([talk(readers["1688"], 12), talk(readers["3005"], 12)])
    sizes = ("segmentation_batch_size", "embedding_batch_size")
    assert [hungry.description[size] for size in sizes] == [8, 2]
    two = run(hungry, sound, SpeakerLimits(num_speakers=2))
    assert [s.label for s in two.speakers] == ["SPEAKER_00", "SPEAKER_01"]
    assert [hungry.description[size] for size in sizes] == [4, 1]
    alone = run(hungry, sound, SpeakerLimits(num_speakers=1))
    assert [s.label for s in alone.speakers] == ["SPEAKER_00"]
    assert alone.notes == ("diarized in 2 pieces",)


LONG = """
import json, re, sys, time
from pathlib import Path
import numpy as np
import psutil
from audio_batch.diarization_models import find_diarization
from audio_batch.engines.pyannote import load_diarizer
from audio_batch.gpu.devices import CPU
from audio_batch.media import decode
from audio_batch.options import SpeakerLimits

def peak_bytes():
    if hasattr(info := psutil.Process().memory_info(), "peak_wset"):
        return info.peak_wset
    # Not getrusage: a process begins there with the peak of the one that has begun it.
    found = re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024

reference = find_diarization("demo", model_dir=None, offline=True, token=None)
diarizer = load_diarizer(reference, CPU, slots=1, cpu_threads=None, free_bytes=None)
panel = decode(Path(sys.argv[1])).samples
sound = np.resize(panel, round(float(sys.argv[2]) * 16_000))
longest_s, last = 0.0, time.monotonic()

def progress(step, share):
    global longest_s, last
    longest_s, last = max(longest_s, time.monotonic() - last), time.monotonic()

found = diarizer.diarize(sound, SpeakerLimits(), progress)
print(json.dumps({
    "peak_bytes": peak_bytes(), "samples_bytes": sound.nbytes, "longest_silence_s": longest_s,
    "talk_s": [s.talk_s for s in found.speakers], "notes": found.notes,
    "end_s": found.turns[-1].end_s,
}))
"""


@pytest.mark.slow
def test_hours_take_the_memory_of_a_piece_beside_their_samples(shared: Path) -> None:
    """Four readers for an hour and a half, in a process of its own that tells its peak."""
    hours_s = 5400
    panel = shared / "data" / "long" / "panel_a.flac"
    done = subprocess.run(
        [sys.executable, "-c", LONG, str(panel), str(hours_s)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=3600,
        check=True,
    )
    told = json.loads(done.stdout)
    print(told)
    assert told["peak_bytes"] < told["samples_bytes"] + BESIDE_SAMPLES_BYTES
    assert told["longest_silence_s"] < 120
    assert told["notes"] == ["diarized in 2 pieces"]
    *others, first, second, third, fourth = sorted(told["talk_s"])
    assert first > 0.1 * hours_s
    assert sum(others) < 0.01 * (first + second + third + fourth)
    assert hours_s - 30 < told["end_s"] <= hours_s
