# ruff: noqa: ARG002 - stand-ins have the arguments of what they stand for
"""A long recording in parts: no word lost or doubled, each at its time, whatever goes wrong."""

from __future__ import annotations

import csv
import dataclasses
import gzip
import json
import pickle
import wave
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from program import SHARED, write_tone
from test_plan import entry
from test_runner import planned as runner_planned

from audio_batch import models, parts, stages
from audio_batch.engines import LoadRequest, Recognizer, open_engine
from audio_batch.engines.base import Diarization, Recognition
from audio_batch.engines.silero import probabilities
from audio_batch.errors import AssetError, DeviceError, ErrorKind
from audio_batch.events import AssetProgress
from audio_batch.gpu.devices import CPU
from audio_batch.manifest import Asset
from audio_batch.media import MediaLimits, decode
from audio_batch.options import DecodingOptions, RunOptions, SpeakerLimits, resolve_decoding
from audio_batch.outcome import Outcome, Stage, StageRecord, State
from audio_batch.outputs import LocalOutputs
from audio_batch.partings import Partings
from audio_batch.parts import Part, join, middle_of_pause, split
from audio_batch.pipeline import Context, Job, process, source_identity
from audio_batch.remote.downloads import UNKNOWN
from audio_batch.stages import Transcribed
from audio_batch.storage import STATE_FOLDER, PublishedFile
from audio_batch.transcript import Segment, Speaker, Turn, Word

RATE_HZ = 16_000
WINDOW = 512

Samples = NDArray[np.float32]

# -- where to cut ---------------------------------------------------------------------------------


def test_parts_are_equal_and_cover_the_recording() -> None:
    grid = split(3600.0, 4)
    assert [part.label for part in grid] == ["1of4", "2of4", "3of4", "4of4"]
    assert [part.length_s for part in grid] == [900.0] * 4
    assert grid[0].span == (0, 930 * RATE_HZ)
    first, last = grid[1].span
    assert 869.9 <= first / RATE_HZ <= 870
    assert last == 1830 * RATE_HZ
    assert grid[3].span[1] > 1e12  # however long it turns out to be


@pytest.mark.parametrize(
    ("duration_s", "devices", "count"), [(3600, 4, 4), (3600, 100, 12), (299, 8, 1), (700, 8, 2)]
)
def test_no_part_is_too_short(duration_s: float, devices: int, count: int) -> None:
    assert parts.how_many(duration_s, devices) == count


@given(st.lists(st.floats(0, 1), min_size=1, max_size=300))
def test_the_cut_is_in_the_middle_of_the_longest_pause(likely: list[float]) -> None:
    at = middle_of_pause(likely)
    assert 0 <= at < len(likely)
    below = "".join("." if value < 0.1 else "x" for value in likely)
    longest = max(map(len, below.split("x")))
    if longest >= 10:
        assert below[at - longest // 2 : at - longest // 2 + longest] == "." * longest


def test_of_equal_pauses_the_nearest_is_taken() -> None:
    likely = [0.9] * 200
    for at in (10, 120, 170):
        likely[at : at + 12] = [0.0] * 12
    assert middle_of_pause(likely) == 126


def test_where_everybody_talks_the_least_likely_speech_is_cut() -> None:
    likely = [0.99] * 300
    assert 140 <= middle_of_pause(likely) <= 160
    likely[30:37] = [0.5] * 7
    assert 27 <= middle_of_pause(likely) <= 40
    likely[250:262] = [0.2] * 12  # no sure pause, but one to Silero
    assert middle_of_pause(likely) == 256


def loud(samples: Samples) -> Iterator[float]:
    """As many answers as Silero gives, from the level alone."""
    for at in range(0, len(samples) + 1, WINDOW):
        block = samples[at : at + WINDOW]
        yield float(np.abs(block).max() > 0.1) if len(block) else 0.0


def cuts(
    samples: Samples, said_s: float, count: int, likely: parts.Likely = loud
) -> list[tuple[int, int]]:
    """What each part finds that sees no other samples than its own."""
    found = []
    for part in split(said_s, count):
        first, last = part.span
        found.append(part.cut(samples[first:last], first, len(samples), likely))
    return found


@settings(deadline=None, max_examples=60)
@given(
    length=st.integers(1, 40 * RATE_HZ),
    said_s=st.floats(0.5, 60),
    count=st.integers(1, 7),
    seed=st.integers(0, 1000),
)
def test_neighbours_find_the_same_cut(length: int, said_s: float, count: int, seed: int) -> None:
    """Whatever length was said beforehand, all samples belong to one part."""
    chance = np.random.default_rng(seed)
    samples = chance.choice(np.array([0, 0.5], np.float32), size=length // 4000 + 1).repeat(4000)[
        :length
    ]
    found = cuts(samples, said_s, count)
    assert found[0][0] == 0
    assert found[-1][1] == length
    assert all(one[1] == other[0] for one, other in pairwise(found))
    assert all(start <= end for start, end in found)
    assert cuts(samples, said_s, count) == found


@pytest.mark.parametrize("name", ["lj001_chapter", "panel_a", "panel_overlap_b"])
def test_real_speech_is_cut_where_nobody_talks(name: str) -> None:
    path = SHARED / "data" / "long" / f"{name}.flac"
    if not path.is_file():
        pytest.skip("needs ../shared/data")
    samples = decode(path).samples
    level = float(np.sqrt(np.mean(samples**2)))
    found = cuts(samples, len(samples) / RATE_HZ, 5, probabilities)
    assert found[-1][1] == len(samples)
    for (start, end), (later, _) in pairwise(found):
        assert start < end == later
        near = samples[end - RATE_HZ // 10 : end + RATE_HZ // 10]
        assert float(np.sqrt(np.mean(near**2))) < 0.1 * level


# -- joining --------------------------------------------------------------------------------------

MEDIA = {"codec": "flac", "state": "complete", "notes": ["silent"]}


def heard(start_s: float, end_s: float, text: str = "a", **more: Any) -> Transcribed:
    values: dict[str, Any] = {
        "segments": (Segment(text, start_s, end_s),) if text else (),
        "language": "en",
        "language_probability": 0.5,
        "speech_s": end_s - start_s if text else 0.0,
        "duration_s": 30.0,
        "media": MEDIA,
        "notes": ("silent",),
        "about": {"device": "cuda:0", "compute_type": "int8"},
        "last_speech_s": end_s if text else 0.0,
        "span": (round(start_s * RATE_HZ), round(end_s * RATE_HZ)),
    }
    return Transcribed(**{**values, **more})


def test_parts_become_one() -> None:
    joined = join(
        [
            heard(0, 10, "a"),
            heard(10, 21, "b", language_probability=1.0, about={"device": "cuda:1"}),
            heard(21, 30, "", language=None, notes=("silent", "no speech found")),
        ]
    )
    assert [segment.text for segment in joined.segments] == ["a", "b"]
    assert (joined.speech_s, joined.last_speech_s, joined.span) == (21.0, 21.0, None)
    assert (joined.language, joined.language_probability) == ("en", 0.7619)
    assert joined.notes == ("silent", "no speech found (from 21 s to 30 s)")
    assert joined.about["device"] == "cuda:0, cuda:1"
    assert [about["start_s"] for about in joined.about["parts"]] == [0.0, 10.0, 21.0]
    assert json.loads(json.dumps(joined.about)) == joined.about


def test_a_recording_has_the_language_of_most_of_its_speech() -> None:
    found = [heard(0, 3, language="cy"), heard(3, 20), heard(20, 30, "", language="la")]
    assert parts.language_of(found) == "en"
    assert parts.misheard(found) == [0]
    assert parts.language_of([heard(0, 30, "", language=None)]) is None


@pytest.mark.parametrize(
    "others",
    [
        [heard(10, 20)],
        [heard(10, 19), heard(20, 30)],
        [heard(9, 20), heard(20, 30)],
        [heard(10, 20), heard(20, 30, span=None)],
        [heard(10, 20), heard(20, 30, media={**MEDIA, "state": "damaged"})],
        [heard(10, 20), heard(20, 30, duration_s=31.0)],
    ],
)
def test_what_does_not_fit_is_not_joined(others: list[Transcribed]) -> None:
    with pytest.raises(ValueError, match="the parts"):
        join([heard(0, 10), *others])


def test_words_do_not_reach_beyond_their_part() -> None:
    words = (Word("a", 0.0, 0.5), Word("b", 9.9, 10.4))
    (placed,) = parts.placed([Segment("a b", 0.0, 10.4, words)], (160_000, 320_000))
    assert (placed.start_s, placed.end_s) == (10.0, 20.0)
    assert [(word.start_s, word.end_s) for word in placed.words] == [(10.0, 10.5), (19.9, 20.0)]


def record(part: Part, *, words: str = "w", source: str = "1:1") -> StageRecord:
    file = PublishedFile("transcribe", "x", 1, "0")
    fingerprint = part.fingerprint(words, DecodingOptions())
    return StageRecord(
        "a", Stage.TRANSCRIBE, source, fingerprint, file, "cpu", 1.0, part=part.label
    )


def test_the_division_that_was_begun_is_gone_on_with() -> None:
    two, three = split(900.0, 2), split(900.0, 3)
    records = [record(two[0]), record(three[0]), record(three[2])]
    others = [record(two[1], words="other"), record(two[1], source="2:2"), record(split(9.0, 2)[1])]
    found = parts.begun([*records, *others], 900.0, "1:1", "w", DecodingOptions())
    assert found == {three[0]: records[1], three[2]: records[2]}
    safer = DecodingOptions(sequential=True)  # a redo's, which the words' name does not tell
    assert parts.begun(records, 900.0, "1:1", "w", safer) == {}
    odd = dataclasses.replace(records[0], part="1of0")
    assert parts.begun([odd], 900.0, "1:1", "w", DecodingOptions()) == {}


@pytest.mark.parametrize(("words", "source", "begun"), [("w", "1:1", 1), ("other", UNKNOWN, 2)])
def test_what_was_heard_of_what_cannot_be_looked_at_now_is_gone_on_with(
    tmp_path: Path, words: str, source: str, begun: int
) -> None:
    first, _ = split(900.0, 2)
    (planned,) = runner_planned(1)
    asset = Asset("a", "https://one/a.wav", None, "a", 0, duration_s=900.0, seen=UNKNOWN)
    stages = {Stage.TRANSCRIBE: "w"}
    planned = dataclasses.replace(
        planned, asset=asset, source=UNKNOWN, stages=stages, entry=entry(tmp_path)
    )
    partings = Partings(longest_s=60.0, slots=2, heard={"a": [record(first, words=words)]})
    found = list(partings.cut(planned))
    assert len(found) == begun
    assert {one.source for one in found} == {source}


# -- in the pipeline ------------------------------------------------------------------------------


@dataclass
class Bench:
    """One recording, and attempts at it and its parts."""

    root: Path
    path: Path
    recognizer: Recognizer
    decoding: DecodingOptions
    damaged: Any = "flag"
    told: list[AssetProgress] = field(default_factory=list)
    journalled: list[StageRecord] = field(default_factory=list)

    def job(self, **more: Any) -> Job:
        values: dict[str, Any] = {
            "asset": Asset(id="a", uri="a.wav", path=self.path, name="A", position=0),
            "decoding": self.decoding,
            "formats": ("json",),
            "output_name": "a",
            "source": source_identity(self.path),
            "rendering": "r",
            "fingerprint": "f",
            "device": "cpu",
            "attempt": 1,
            "position": 1,
            "total": 1,
            "stages": {Stage.TRANSCRIBE: "w"},
            "limits": SpeakerLimits(),
            "kept": {},
        }
        return pickle.loads(pickle.dumps(Job(**{**values, **more})))  # type: ignore[no-any-return]

    def attempt(self, **more: Any) -> Outcome:
        bench = self

        class Models:
            def recognizer(self, device: str) -> Recognizer:
                return bench.recognizer

            def aligner(self, device: str, language: str) -> None:
                return None

            def diarizer(self, device: str) -> Any:
                return bench.recognizer

        context = Context(
            outputs=LocalOutputs(self.root),
            state=self.root / STATE_FOLDER,
            options=RunOptions(model="m", engine="e", decoding=self.decoding, damaged=self.damaged),
            model_name="m",
            model_identity="i",
            models=Models(),
            limits=MediaLimits(),
            progress=self.told.append,
            stage_done=self.journalled.append,
            published=lambda _published: None,
            named=lambda transcript: transcript,
        )
        return process(self.job(**more), context)

    def parts(self, grid: Sequence[Part]) -> dict[Part, StageRecord]:
        records = {}
        for part in grid:
            outcome = self.attempt(part=part)
            assert outcome.state is State.DONE, outcome.error_text
            (records[part],) = outcome.stages
        return records

    def kept(self, record: StageRecord) -> Transcribed:
        found = stages.load(self.root / ".audio-batch", "a", record.stage, record.file)
        assert isinstance(found, Transcribed)
        return found

    def document(self) -> dict[str, Any]:
        body: dict[str, Any] = json.loads((self.root / "a.json").read_text())
        return body


@dataclass
class Stand:
    """Hears a word a second, and says what it was given. `faults` are what the next calls raise."""

    heard_s: list[float] = field(default_factory=list)
    languages: list[str | None] = field(default_factory=list)
    faults: list[Exception] = field(default_factory=list)
    detects: list[str] = field(default_factory=list)
    description: dict[str, Any] = field(default_factory=lambda: {"compute_type": "int8"})
    warnings: tuple[str, ...] = ()
    embedding_identity: str = "e"
    link_threshold: float | None = None

    def check(self, options: DecodingOptions) -> None:
        pass

    def transcribe(self, samples: Samples, options: DecodingOptions, progress: Any) -> Recognition:
        length_s = len(samples) / RATE_HZ
        self.heard_s.append(length_s)
        self.languages.append(options.language)
        if self.faults:
            raise self.faults.pop(0)
        progress(length_s)
        language = options.language or (self.detects.pop(0) if self.detects else "en")
        segment = Segment(language, 0.0, length_s, (Word(language, 0.0, length_s),))
        return Recognition((segment,), language, 0.9, length_s, (), length_s)

    def diarize(self, samples: Samples, limits: SpeakerLimits, progress: Any) -> Diarization:
        length_s = len(samples) / RATE_HZ
        turns = (Turn("SPEAKER_00", 0.0, length_s / 2), Turn("SPEAKER_01", length_s / 2, length_s))
        voices = (Speaker("SPEAKER_00", length_s / 2), Speaker("SPEAKER_01", length_s / 2))
        return Diarization(turns, turns, voices)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    path = write_tone(tmp_path / "a.wav", 24.0)
    return Bench(tmp_path / "out", path, Stand(), DecodingOptions())


def stand(bench: Bench) -> Stand:
    assert isinstance(bench.recognizer, Stand)
    return bench.recognizer


def test_a_part_publishes_nothing_and_its_asset_everything(bench: Bench) -> None:
    grid = split(24.0, 3)
    outcome = bench.attempt(part=grid[1])
    assert (outcome.state, outcome.part, outcome.outputs) == (State.DONE, "2of3", ())
    assert outcome.duration_s == outcome.speech_s == stand(bench).heard_s[0]
    assert not (bench.root / "a.json").exists()
    (kept,) = outcome.stages
    assert kept.part == "2of3"
    assert kept.file.path.endswith(".transcribe.2of3.json.gz")
    assert kept.fingerprint == grid[1].fingerprint("w", bench.decoding)
    assert [event.asset_share for event in bench.told] == [0.0, 1.0]
    assert bench.told[-1].duration_s == outcome.duration_s
    assert bench.job(part=grid[1]).key != bench.job(part=grid[2]).key != bench.job().key

    records = bench.parts(grid)
    stand(bench).heard_s.clear()
    outcome = bench.attempt(parts=records)
    assert (outcome.state, outcome.part) == (State.DONE, "")
    assert stand(bench).heard_s == []
    (whole,) = outcome.stages
    assert (whole.part, whole.fingerprint) == ("", "w")
    assert whole.seconds >= sum(record.seconds for record in records.values())
    body = bench.document()
    assert body["duration_s"] == 24.0
    times = [(segment["start_s"], segment["end_s"]) for segment in body["segments"]]
    assert times[0][0] == 0.0
    assert times[-1][1] == 24.0
    assert all(one[1] == other[0] for one, other in pairwise(times))
    assert [about["end_s"] for about in body["provenance"]["parts"]] == [end for _, end in times]
    assert bench.kept(whole).span is None


def test_voices_are_told_apart_over_all_parts(bench: Bench) -> None:
    names = {Stage.TRANSCRIBE: "w", Stage.DIARIZE: "d"}
    grid = split(24.0, 4)
    records = {part: bench.attempt(part=part, stages=names).stages[0] for part in grid}
    assert bench.journalled == []  # with its outcome, as what is the last stage
    outcome = bench.attempt(parts=records, stages=names)
    assert outcome.state is State.DONE, outcome.error_text
    assert [record.stage for record in outcome.stages] == [Stage.TRANSCRIBE, Stage.DIARIZE]
    assert bench.journalled == [outcome.stages[0]]
    segments = bench.document()["segments"]
    assert [segment["speaker"] for segment in segments[::3]] == ["SPEAKER_00", "SPEAKER_01"]
    assert bench.document()["turns"][-1]["end_s"] == 24.0


def test_a_part_that_cannot_be_read_is_heard_again_and_no_other(bench: Bench) -> None:
    grid = split(24.0, 3)
    records = bench.parts(grid)
    (bench.root / ".audio-batch" / records[grid[1]].file.path).write_bytes(gzip.compress(b"{}"))
    del records[grid[2]]
    before = list(stand(bench).heard_s)
    assert bench.attempt(parts=records).state is State.DONE
    assert stand(bench).heard_s == [*before, before[1], before[2]]
    assert len(bench.document()["segments"]) == 3


def test_a_part_that_was_taken_for_another_language_is_heard_again(bench: Bench) -> None:
    stand(bench).detects = ["en", "cy", "en"]
    records = bench.parts(split(24.0, 3))
    assert bench.attempt(parts=records).language == "en"
    assert stand(bench).languages == [None, None, None, "en"]
    assert bench.document()["text"] == "en en en"


def test_parts_of_other_divisions_are_not_joined(bench: Bench) -> None:
    """Should the library decode another length than it did for the parts, say."""
    grid = split(24.0, 3)
    records = bench.parts(grid)
    other = bench.parts(split(20.0, 3))
    assert bench.attempt(parts={**records, grid[1]: other[split(20.0, 3)[1]]}).state is State.DONE
    assert stand(bench).heard_s[-1] == 24.0
    assert "parts" not in bench.document()["provenance"]


def test_a_recording_that_is_shorter_than_was_said(bench: Bench) -> None:
    records = bench.parts(split(240.0, 5))
    assert stand(bench).heard_s == [24.0]  # what is not there is not asked for
    assert bench.attempt(parts=records).state is State.DONE
    assert bench.document()["segments"][0]["end_s"] == 24.0


def test_a_part_fails_as_an_asset_does(bench: Bench) -> None:
    part = split(24.0, 3)[1]
    stand(bench).faults = [
        AssetError(ErrorKind.OUT_OF_MEMORY, "full.", transient=True),
        DeviceError("cuDNN is at odds."),
        ValueError("a bug"),
    ]
    outcomes = [bench.attempt(part=part) for _ in range(3)]
    assert {(outcome.state, outcome.part) for outcome in outcomes} == {(State.FAILED, "2of3")}
    assert outcomes[0].transient
    assert outcomes[1].device_failed
    assert outcomes[2].error_kind is ErrorKind.INTERNAL
    bench.path.unlink()
    gone = bench.attempt(part=part)
    assert gone.error_kind is ErrorKind.INPUT_MISSING


def test_what_is_damaged_is_refused_by_each_part(bench: Bench) -> None:
    data = bench.path.read_bytes()
    bench.path.write_bytes(data[: len(data) // 2])
    grid = split(24.0, 3)
    records = bench.parts(grid)
    assert "truncated" in bench.kept(records[grid[0]]).notes[0]
    bench.damaged = "fail"
    assert bench.attempt(part=grid[0]).error_kind is ErrorKind.MEDIA_DAMAGED
    assert bench.attempt(parts=records).error_kind is ErrorKind.MEDIA_DAMAGED


# -- with real speech and a real model ------------------------------------------------------------

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

Spoken = list[tuple[str, float, float]]


def compose(path: Path, length_s: float, sentence_s: float, gap_s: float) -> Spoken:
    """Digits of five men: sentences of one speaker with pauses between them, over faint noise."""
    folder = SHARED / "data" / "digits"
    if not (folder / "fsdd_index.csv").is_file():
        pytest.skip("needs ../shared/data")
    rows: dict[str, list[dict[str, str]]] = {}
    for row in csv.DictReader((folder / "fsdd_index.csv").open(encoding="utf-8")):
        rows.setdefault(row["file"], []).append(row)
    sounds = {name: decode(folder / name).samples for name in sorted(rows)}
    chance = np.random.default_rng(1)
    samples = (5e-4 * chance.standard_normal(round(length_s * RATE_HZ))).astype(np.float32)
    spoken: Spoken = []
    at = RATE_HZ // 2
    while at < len(samples) - 12 * RATE_HZ:
        name = list(sounds)[chance.integers(len(sounds))]
        until = at + round(sentence_s * RATE_HZ)
        while at < until:
            row = rows[name][chance.integers(len(rows[name]))]
            sound = sounds[name][2 * int(row["start_sample"]) : 2 * int(row["end_sample"])]
            samples[at : at + len(sound)] += 0.3 * sound / np.abs(sound).max()
            end = at + len(sound)
            spoken.append((DIGITS[int(row["digit"])], at / RATE_HZ, end / RATE_HZ))
            at = end + round(gap_s * RATE_HZ)
        at += round(chance.uniform(1.2, 2.5) * RATE_HZ)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE_HZ)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return spoken


@pytest.fixture(scope="module")
def demo() -> tuple[Recognizer, DecodingOptions]:
    reference = models.describe("demo", models.demo_path())
    decoding, batch = resolve_decoding({}, preset=None, model_defaults=reference.defaults)
    request = LoadRequest(reference, CPU, slots=1, batch_size=batch, cpu_threads=1)
    return open_engine("faster-whisper").load(request), decoding


def words_of(found: Transcribed) -> Spoken:
    return [(w.text, w.start_s, w.end_s) for s in found.segments for w in s.words]


def off_by_s(word: tuple[str, float, float], other: tuple[str, float, float]) -> float:
    return max(abs(word[1] - other[1]), abs(word[2] - other[2]))


def wrong(spoken: Iterable[str], found: Iterable[str]) -> int:
    """Edit distance."""
    found = list(found)
    row = list(range(len(found) + 1))
    for n, word in enumerate(spoken, 1):
        before, row[0] = row[0], n
        for m, other in enumerate(found, 1):
            before, row[m] = row[m], min(row[m] + 1, row[m - 1] + 1, before + (word != other))
    return row[-1]


@pytest.mark.parametrize(
    ("length_s", "count"), [(100.0, 3), pytest.param(600.0, 4, marks=pytest.mark.slow)]
)
def test_parts_are_heard_as_the_whole_is(
    length_s: float, count: int, tmp_path: Path, demo: tuple[Recognizer, DecodingOptions]
) -> None:
    """Word for word, and at the same times, where what else is in a window is the same.

    So each sentence has a window of its own here, cut or not. The VAD's memory reaches back beyond
    a cut: after it a span may begin or end 32 ms earlier or later, which costs a word in hundreds.
    """
    spoken = compose(tmp_path / "a.wav", length_s, 4.3, 0.05)
    recognizer, decoding = demo
    decoding = dataclasses.replace(decoding, vad_min_silence_ms=900)  # below it: between words
    bench = Bench(tmp_path / "out", tmp_path / "a.wav", recognizer, decoding)
    outcome = bench.attempt()
    assert outcome.state is State.DONE, outcome.error_text
    whole = bench.kept(outcome.stages[0])
    outcome = bench.attempt(parts=bench.parts(split(length_s, count)))
    assert outcome.state is State.DONE, outcome.error_text
    joined = bench.kept(outcome.stages[0])

    found, found_whole = words_of(joined), words_of(whole)
    texts, expected = [text for text, *_ in found], [text for text, *_ in found_whole]
    assert len(spoken) > 0.4 * length_s
    assert wrong(expected, texts) <= len(spoken) // 400
    assert wrong([text for text, *_ in spoken], texts) < 0.05 * len(spoken)
    off_s = [
        off_by_s(found[at + n], found_whole[to + n])
        for at, to, size in SequenceMatcher(None, texts, expected, False).get_matching_blocks()
        for n in range(size)
    ]
    assert np.quantile(off_s, 0.9) < 0.021
    assert np.quantile(off_s, 0.97) < 0.1
    assert joined.speech_s == pytest.approx(whole.speech_s, rel=0.01)
    assert joined.last_speech_s == pytest.approx(whole.last_speech_s, abs=0.1)
    assert joined.media == whole.media
    ends = [about["end_s"] for about in joined.about["parts"]]
    for end_s in ends[:-1]:  # no cut within a word
        assert not any(start_s < end_s < till_s for _, start_s, till_s in spoken)


def test_no_word_is_lost_or_doubled_at_a_cut(
    tmp_path: Path, demo: tuple[Recognizer, DecodingOptions]
) -> None:
    """Many cuts in speech with short pauses only, whatever windows come of it."""
    spoken = compose(tmp_path / "a.wav", 90.0, 20.0, 0.45)
    bench = Bench(tmp_path / "out", tmp_path / "a.wav", *demo)
    outcome = bench.attempt(parts=bench.parts(split(90.0, 6)))
    assert outcome.state is State.DONE, outcome.error_text
    joined = bench.kept(outcome.stages[0])
    found = words_of(joined)
    for about in joined.about["parts"][:-1]:
        near = (about["end_s"] - 4, about["end_s"] + 4)
        there, expected = (
            [text for text, start_s, end_s in words if near[0] < (start_s + end_s) / 2 < near[1]]
            for words in (found, spoken)
        )
        assert wrong(expected, there) <= 1, (near, expected, there)
    assert wrong([text for text, *_ in spoken], [text for text, *_ in found]) <= 3
