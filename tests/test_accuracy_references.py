"""References of every kind, sound and broken, as manifests give them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from audio_batch.accuracy.references import Reference, References
from audio_batch.accuracy.words import TimedWord
from audio_batch.manifest import Asset
from audio_batch.transcript import Turn

RTTM = """; a comment
SPKR-INFO talk 1 <NA> <NA> <NA> adult_male anna <NA>
SPEAKER talk 1 0.0 2.5 <NA> <NA> anna <NA> <NA>
SPEAKER talk 1 2.0 1 <NA> <NA> ben <NA> <NA>

SPEAKER other 1 0 1 <NA> <NA> cleo <NA> <NA>
"""
SEGLST = [
    {"session_id": "talk", "speaker": "b", "words": "third", "start_time": "4.0", "end_time": "5"},
    {"session_id": "talk", "speaker": "a", "words": "first one", "start_time": 0, "end_time": 2},
    {"session_id": "talk", "speaker": "b", "words": "second", "start_time": 1.5, "end_time": 3},
    {"session_id": "more", "speaker": 7, "words": "else", "start_time": 0, "end_time": 1},
]


def asset(id_: str = "a1", uri: str = "calls/talk.wav", **metadata: Any) -> Asset:
    return Asset(id=id_, uri=uri, path=None, name=id_, position=0, metadata=metadata)


def only(folder: Path, **metadata: Any) -> Reference:
    one = asset(**metadata)
    reference = References([one], folder).of(one)
    assert reference is not None
    return reference


def problem(folder: Path, **metadata: Any) -> str:
    (text,) = only(folder, **metadata).problems
    return text


def write(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return name


# ---- Text


def test_text_in_the_entry(tmp_path: Path) -> None:
    assert only(tmp_path, reference_text="Hello you.") == Reference(text="Hello you.")
    assert only(tmp_path, text="of NeMo").text == "of NeMo"
    assert only(tmp_path, transcription="of a dataset").text == "of a dataset"
    assert only(tmp_path, text="no", reference_text="yes").text == "yes"


def test_an_empty_reference_text_says_that_nothing_is_said(tmp_path: Path) -> None:
    assert only(tmp_path, reference_text="").text == ""
    for unknown in ({"text": ""}, {"text": "-"}, {"text": None}, {"reference_text": None}, {}):
        one = asset(**unknown)
        references = References([one], tmp_path)
        assert references.of(one) is None
        assert not references.has(one)


def test_text_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "ref").mkdir()
    write(tmp_path, "ref/Größe.txt", "\ufeffzwei Zeilen\nText\n")
    assert only(tmp_path, reference_text="ref/Größe.txt").text == "zwei Zeilen\nText\n"
    assert only(tmp_path, reference_text="ref\\Größe.txt").text == "zwei Zeilen\nText\n"
    absolute = (tmp_path / "ref" / "Größe.txt").as_uri()
    assert only(tmp_path / "ref", reference_text=absolute).text == "zwei Zeilen\nText\n"
    assert only(tmp_path, text="open readme.txt").text == "open readme.txt"


def test_text_that_cannot_be_had(tmp_path: Path) -> None:
    assert "there is no file" in problem(tmp_path, reference_text="gone.txt")
    assert problem(tmp_path, reference_text=5) == "reference_text must be text"
    (tmp_path / "folder.txt").mkdir()
    assert "is a folder" in problem(tmp_path, reference_text="folder.txt")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    assert problem(tmp_path, reference_text="latin.txt") == "reference_text is no UTF-8 text"
    assert "s3:// is not supported" in problem(tmp_path, reference_text="s3://bucket/a.txt")


# ---- Turns


def test_turns_by_the_name_of_the_audio_file_or_the_id(tmp_path: Path) -> None:
    name = write(tmp_path, "all.rttm", RTTM)
    expected = (Turn("anna", 0.0, 2.5), Turn("ben", 2.0, 3.0))
    assert only(tmp_path, reference_rttm=name).turns == expected
    assert only(tmp_path, id_="other", reference_rttm=name).turns == (Turn("cleo", 0.0, 1.0),)
    assert only(tmp_path, rttm_filepath=name).turns == expected
    text = problem(tmp_path, id_="x y", uri="z.wav", reference_rttm=name)
    assert text == "reference_rttm (all.rttm) says nothing of x y or z or x_y"


def test_one_recording_in_a_file_of_ones_own_needs_no_name(tmp_path: Path) -> None:
    name = write(tmp_path, "one.rttm", "SPEAKER whatever 1 0 1 <NA> <NA> s <NA> <NA>\n")
    mine, yours = asset("mine", reference_rttm=name), asset("yours", reference_rttm=name)
    alone = References([mine], tmp_path).of(mine)
    assert alone is not None
    assert alone.turns == (Turn("s", 0.0, 1.0),)
    shared = References([mine, yours], tmp_path).of(mine)
    assert shared is not None
    assert "says nothing of mine" in shared.problems[0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is no RTTM"),
        ("\x00\x01garbage\x1b[31m\n\nmore", "is no RTTM"),
        ("SPEAKER talk 1 0 1\n", "fewer than 8 fields: line 1"),
        ("\nSPEAKER talk 1 zero 1 <NA> <NA> s <NA> <NA>\n", "number 2 a time that is none: 'zero'"),
        ("SPEAKER talk 1 0 -1 <NA> <NA> s <NA> <NA>\n", "time that is none: '-1'"),
        ("SPEAKER talk 1 nan 1 <NA> <NA> s <NA> <NA>\n", "time that is none: 'nan'"),
        ("SPEAKER talk 1 0 1e999 <NA> <NA> s <NA> <NA>\n", "time that is none: '1e999'"),
    ],
)
def test_garbage_for_turns(tmp_path: Path, text: str, said: str) -> None:
    name = write(tmp_path, "bad.rttm", text)
    found = problem(tmp_path, reference_rttm=name, reference_text="still good")
    assert found.startswith("reference_rttm (bad.rttm) ")
    assert said in found
    assert "\x1b" not in found
    assert only(tmp_path, reference_rttm=name, reference_text="still good").text == "still good"


def test_the_part_that_turns_are_good_for(tmp_path: Path) -> None:
    rttm = write(tmp_path, "all.rttm", RTTM)
    uem = write(tmp_path, "all.uem", "talk NA 0.0 1.5\ntalk 1 2 2.5\n")
    found = only(tmp_path, reference_rttm=rttm, reference_uem=uem)
    assert found.region == ((0.0, 1.5), (2.0, 2.5))


@pytest.mark.parametrize("text", ["talk NA 5 1\n", "talk 0 1\n", "talk NA a b\n", ""])
def test_turns_without_their_map_are_not_used(tmp_path: Path, text: str) -> None:
    rttm, uem = write(tmp_path, "all.rttm", RTTM), write(tmp_path, "bad.uem", text)
    found = only(tmp_path, reference_rttm=rttm, reference_uem=uem)
    assert found.turns is None
    assert found.region is None
    assert len(found.problems) == 1


# ---- Words with speakers and times


@pytest.mark.parametrize("lines", [True, False])
def test_seglst(tmp_path: Path, lines: bool) -> None:
    text = "\n".join(map(json.dumps, SEGLST)) if lines else json.dumps(SEGLST, indent=1)
    found = only(tmp_path, reference_seglst=write(tmp_path, "s.json", text))
    assert found.text == "first one second third"
    assert found.speakers == {"a": "first one", "b": "second third"}
    assert found.turns == (Turn("a", 0.0, 2.0), Turn("b", 1.5, 3.0), Turn("b", 4.0, 5.0))


def test_seglst_without_times_gives_words_and_no_turns(tmp_path: Path) -> None:
    text = json.dumps([{"session_id": "a1", "speaker": "x", "words": "hi"}])
    found = only(tmp_path, reference_seglst=write(tmp_path, "s.json", text))
    assert (found.speakers, found.turns, found.problems) == ({"x": "hi"}, None, ())


def test_what_is_given_itself_goes_before_what_seglst_says(tmp_path: Path) -> None:
    seglst = write(tmp_path, "s.json", json.dumps(SEGLST))
    rttm = write(tmp_path, "all.rttm", RTTM)
    found = only(tmp_path, reference_seglst=seglst, reference_rttm=rttm, text="the text")
    assert found.text == "the text"
    assert found.turns is not None
    assert {turn.speaker for turn in found.turns} == {"anna", "ben"}


@pytest.mark.parametrize(
    "text",
    [
        "not json",
        "[1]",
        "[",
        '{"session_id": "talk", "speaker": "a"}',
        '{"session_id": "talk", "speaker": true, "words": "w"}',
        '{"session_id": "talk", "speaker": "a", "words": "w", "start_time": 1}',
        '{"session_id": "talk", "speaker": "a", "words": "w", "start_time": "x", "end_time": 1}',
        "[" * 100_000,
        "",
    ],
)
def test_garbage_for_seglst(tmp_path: Path, text: str) -> None:
    found = problem(tmp_path, reference_seglst=write(tmp_path, "s.json", text))
    assert found.startswith("reference_seglst (s.json) ")
    assert len(found) < 200


def test_words_with_times(tmp_path: Path) -> None:
    inline = only(tmp_path, reference_words=[["two", 1, 2.5], ["one", 0, 1]])
    assert inline.words == (TimedWord("one", 0.0, 1.0), TimedWord("two", 1.0, 2.5))
    assert inline.text == "one two"
    ctm = write(tmp_path, "w.ctm", ";; c\ntalk 1 0.0 1.0 one 0.99\ntalk 1 1.0 1.5 two\n")
    assert only(tmp_path, ctm_filepath=ctm) == inline
    assert only(tmp_path, reference_words=[], reference_text="one").words == ()


@pytest.mark.parametrize(
    "words",
    [[["one", 0]], [["one", 0, "x"]], [["one", 0, None]], [[1, 0, 1]], ["one"], {"a": 1}, 3],
)
def test_garbage_for_words(tmp_path: Path, words: Any) -> None:
    assert problem(tmp_path, reference_words=words).startswith("reference_words ")


def test_a_shared_file_is_read_once_for_all(tmp_path: Path) -> None:
    """10,000 assets of one RTTM: quadratic reading would take hours."""
    count = 10_000
    lines = (f"SPEAKER r{n} 1 0 1 <NA> <NA> s{n} <NA> <NA>\n" for n in range(count))
    name = write(tmp_path, "all.rttm", "".join(lines))
    assets = [asset(f"r{n}", reference_rttm=name) for n in range(count)]
    references = References(assets, tmp_path)
    for n, one in enumerate(assets):
        found = references.of(one)
        assert found is not None
        assert found.turns == (Turn(f"s{n}", 0.0, 1.0),)
