"""RTTM and UEM: what pyannote's own readers make of them, whatever names are in them."""

from __future__ import annotations

import dataclasses
import io
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audio_batch.formats import FormatOptions, render
from audio_batch.text import for_document
from audio_batch.transcript import Speaker, Transcript, Turn

Row = tuple[float, float, str]
EMPTY = Transcript("talk-1", "t.wav", "Talk", "en", 30.5, ())


@pytest.fixture(scope="module")
def pyannote() -> Any:
    return pytest.importorskip("pyannote.database.util")


def transcript(*turns: Turn, speakers: tuple[Speaker, ...] = (), **more: Any) -> Transcript:
    return dataclasses.replace(EMPTY, turns=turns, speakers=speakers, **more)


def rttm(made: Transcript) -> str:
    return render("rttm", made, FormatOptions()).decode()


def uem(made: Transcript) -> str:
    return render("uem", made, FormatOptions()).decode()


def rows(text: str) -> list[Row]:
    """Start, end and speaker of each line, read as dscore does: at any blank."""
    fields = [line.split() for line in text.split("\n")[:-1]]
    assert {len(line) for line in fields} <= {10}
    starts = [(float(line[3]), float(line[4]), line[7]) for line in fields]
    return [(start, round(start + length, 3), speaker) for start, length, speaker in starts]


def read(pyannote: Any, text: str) -> dict[str, list[Row]]:
    loaded = pyannote.load_rttm(io.StringIO(text))
    return {
        file: [
            (round(segment.start, 3), round(segment.end, 3), speaker)
            for segment, _, speaker in annotation.itertracks(yield_label=True)
        ]
        for file, annotation in loaded.items()
    }


def test_overlapping_turns_are_kept_and_read_back(pyannote: Any) -> None:
    made = transcript(
        Turn("SPEAKER_00", 0.0312, 4.5), Turn("SPEAKER_01", 2.0, 3.0006), Turn("SPEAKER_00", 5, 6)
    )
    assert rttm(made).splitlines() == [
        "SPEAKER talk-1 1 0.031 4.469 <NA> <NA> SPEAKER_00 <NA> <NA>",
        "SPEAKER talk-1 1 2.000 1.001 <NA> <NA> SPEAKER_01 <NA> <NA>",
        "SPEAKER talk-1 1 5.000 1.000 <NA> <NA> SPEAKER_00 <NA> <NA>",
    ]
    assert read(pyannote, rttm(made)) == {
        "talk-1": [
            (0.031, 4.5, "SPEAKER_00"),
            (2.0, 3.001, "SPEAKER_01"),
            (5.0, 6.0, "SPEAKER_00"),
        ]
    }


def test_the_uem_reads_back(pyannote: Any) -> None:
    assert uem(EMPTY) == "talk-1 1 0.000 30.500\n"
    (timeline,) = pyannote.load_uem(io.StringIO(uem(EMPTY))).values()
    assert timeline.uri == "talk-1"
    assert [(segment.start, segment.end) for segment in timeline] == [(0.0, 30.5)]


def test_without_turns_or_length_the_files_are_empty() -> None:
    assert rttm(EMPTY) == ""
    assert rttm(transcript(Turn("A", 1.0, 1.0), Turn("A", 2.0, 1.0), Turn("A", 3, math.nan))) == ""
    assert uem(transcript(duration_s=0.0)) == uem(transcript(duration_s=math.nan)) == ""


def test_two_labels_of_one_person_are_one_speaker() -> None:
    both = (Speaker("A", 3.0, name="Ann Öz"), Speaker("B", 3.0, voice="v", name="Ann Öz"))
    made = transcript(
        Turn("A", 0, 2), Turn("B", 1, 3), Turn("A", 3, 4), Turn("C", 1, 2), speakers=both
    )
    assert rows(rttm(made)) == [(0, 3, "Ann_Öz"), (1, 2, "C"), (3, 4, "Ann_Öz")]


def test_two_persons_are_two_speakers_however_they_are_spelt() -> None:
    names = ("A B", "A_B", "A_B_2", "A\tB\u3000")
    speakers = tuple(Speaker(f"S{i}", 1.0, name=name) for i, name in enumerate(names))
    turns = (Turn(f"S{i}", i, i + 1) for i in range(len(names)))
    assert rows(rttm(transcript(*turns, speakers=speakers))) == [
        (0, 1, "A_B"),
        (1, 2, "A_B_2"),
        (2, 3, "A_B_2_2"),
        (3, 4, "A_B"),  # the same name, once it is one line
    ]


NO_VALUES = ["NA", "<NA>", "nan", "-NaN", "null", "None", "N/A", "1.#IND", "#N/A", "", "\u202e"]
HARD = [
    *NO_VALUES,
    '"',
    '"a',
    'a"b',
    "a b",
    "a\xa0b",
    "a\u2003b",
    ";;x",
    "#x",
    "\ufeffx",
    "12",
    "\\",
]


@pytest.mark.parametrize("name", HARD)
def test_any_name_is_one_field_that_readers_take_for_a_name(pyannote: Any, name: str) -> None:
    made = transcript(
        Turn("A", 0, 1),
        Turn("B", 1, 2),
        speakers=(Speaker("A", 1.0, name=name),),
        asset_id=name,
    )
    ((file, found),) = read(pyannote, rttm(made)).items()
    assert found == rows(rttm(made))
    assert [speaker for *_, speaker in found][1] == "B"
    ((other, timeline),) = pyannote.load_uem(io.StringIO(uem(made))).items()
    assert other == file
    assert timeline.duration() == 30.5


NAMES = st.text(st.characters(exclude_categories=()), max_size=5) | st.sampled_from(HARD)
TIMES = st.integers(0, 30_000).map(lambda time_ms: time_ms / 1000)


@settings(deadline=None, max_examples=50)
@given(NAMES, st.lists(st.tuples(NAMES, TIMES, TIMES), min_size=1, max_size=5))
def test_pyannote_reads_what_was_written(
    pyannote: Any, asset_id: str, turns: list[tuple[str, float, float]]
) -> None:
    made = transcript(*(Turn(*turn) for turn in turns), asset_id=asset_id)
    written = rows(rttm(made))
    if written:
        ((_, found),) = read(pyannote, rttm(made)).items()
        assert sorted(found) == sorted(written)
    talking = {for_document(speaker) for speaker, start_s, end_s in turns if start_s < end_s}
    assert len({speaker for *_, speaker in written}) == len(talking)
