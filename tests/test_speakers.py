"""Who said what: the rule, word by word, and nothing of the text lost on the way."""

from __future__ import annotations

import dataclasses
import json
import math
import random
from collections import defaultdict
from itertools import accumulate, pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audio_batch.speakers import NEAR_MS, assign
from audio_batch.transcript import Segment, Turn, Word

NEAR_S = NEAR_MS / 1000


def timed(*words: tuple[str, float, float], text: str | None = None) -> Segment:
    made = tuple(Word(*word) for word in words)
    text = " " + " ".join(word.text for word in made) if text is None else text
    return Segment(text, made[0].start_s, made[-1].end_s, made)


def even(text: str, start_s: float = 0.0) -> Segment:
    """A segment of words that take a second each."""
    return timed(*((word, start_s + i, start_s + i + 1) for i, word in enumerate(text.split())))


def told(segments: tuple[Segment, ...]) -> list[tuple[str | None, str]]:
    return [(segment.speaker, segment.text) for segment in segments]


def speakers(segments: tuple[Segment, ...]) -> list[str | None]:
    return [word.speaker for segment in segments for word in segment.words]


def by(segment: Segment, *turns: Turn, exclusive: tuple[Turn, ...] = ()) -> list[str | None]:
    """The words' speakers."""
    return speakers(assign([segment], turns, exclusive))


# --- whose word it is --------------------------------------------------------------------------


def test_a_word_is_of_the_speaker_who_talks_longest_during_it() -> None:
    turns = (Turn("A", 0, 1.4), Turn("B", 1.4, 2.6), Turn("A", 2.6, 3))
    assert by(even("one two three"), *turns) == ["A", "B", "B"]


def test_several_turns_of_a_speaker_count_together() -> None:
    turns = (Turn("A", 0, 0.3), Turn("B", 0.3, 0.7), Turn("A", 0.7, 1))
    assert by(even("one"), *turns) == ["A"]


def test_exclusive_turns_decide_where_turns_overlap() -> None:
    turns = (Turn("A", 0, 3), Turn("B", 1, 2))
    exclusive = (Turn("A", 0, 1), Turn("B", 1, 2), Turn("A", 2, 3))
    assert by(even("one two three"), *turns, exclusive=exclusive) == ["A", "B", "A"]


def test_a_word_that_no_exclusive_turn_touches_falls_to_the_overlapping_ones() -> None:
    turns = (Turn("A", 0, 1), Turn("B", 1, 2))
    assert by(even("one two"), *turns, exclusive=(Turn("A", 0, 1),)) == ["A", "B"]


def test_a_tie_goes_to_the_speaker_of_the_word_before() -> None:
    both = (Turn("A", 0, 9), Turn("B", 1, 9))
    assert by(even("one", 2), *both) == ["A"]  # who began first
    assert by(even("one", 2), *reversed(both)) == ["A"]
    first = timed(("b", 0.5, 1.0), ("tie", 3, 4))
    exclusive = (Turn("B", 0.5, 1.0),)
    assert by(first, *both, exclusive=exclusive) == ["B", "B"]


def test_the_word_before_is_of_the_same_segment() -> None:
    segments = [timed(("b", 0.5, 1.0)), timed(("tie", 3, 4))]
    both = (Turn("A", 0, 9), Turn("B", 1, 9))
    assert speakers(assign(segments, both, (Turn("B", 0.5, 1.0),))) == ["B", "A"]


def test_equal_halves_are_equal_whatever_the_floats() -> None:
    turns = (Turn("A", 0.1, 0.1 + 0.2), Turn("B", 0.1 + 0.2, 0.5))
    assert by(timed(("x", 0.1, 0.5)), *turns) == ["A"]
    assert by(timed(("b", 0.45, 0.5), ("x", 0.1, 0.5)), *turns) == ["B", "B"]


def test_a_word_of_no_length_counts_at_its_point() -> None:
    turns = (Turn("A", 0, 1), Turn("B", 1, 2))
    assert by(timed(("x", 0.9, 0.9)), *turns) == ["A"]
    assert by(timed(("x", 1.0, 1.0)), *turns) == ["B"]
    assert by(timed(("x", 2.0, 2.0)), *turns) == ["B"]


def test_a_word_beside_the_turns_goes_to_the_nearest() -> None:
    turns = (Turn("A", 0, 1), Turn("B", 2, 3))
    assert by(timed(("x", 1.1, 1.6)), *turns) == ["A"]
    assert by(timed(("x", 1.4, 1.9)), *turns) == ["B"]
    assert by(timed(("x", 1.25, 1.75)), *turns) == ["A"]
    assert by(timed(("b", 2, 2.2), ("x", 1.25, 1.75)), *turns) == ["B", "B"]


def test_the_nearest_of_a_speakers_turns_counts() -> None:
    turns = (Turn("A", 0, 1), Turn("A", 1.6, 3), Turn("B", 1.6, 3))
    assert by(
        timed(("b", 2.9, 3.1), ("x", 1.1, 1.3)), *turns, exclusive=(Turn("B", 2.9, 3.1),)
    ) == [
        "B",
        "A",
    ]


def test_the_nearest_turn_is_not_a_far_one() -> None:
    turn = Turn("A", 5, 6)
    assert by(timed(("x", 6 + NEAR_S, 7)), turn) == ["A"]
    assert by(timed(("x", 6.001 + NEAR_S, 7)), turn) == [None]
    assert by(timed(("x", 4, 5 - NEAR_S)), turn) == ["A"]
    assert by(timed(("x", 4, 4.999 - NEAR_S)), turn) == [None]


def test_a_word_far_from_all_turns_goes_with_the_nearer_word_of_its_segment() -> None:
    turns = (Turn("A", 0, 1), Turn("B", 9, 10))
    words = timed(("a", 0, 1), ("x", 2, 3), ("y", 6, 7), ("b", 9, 10))
    assert by(words, *turns) == ["A", "A", "B", "B"]
    middle = timed(("a", 0, 1), ("x", 4, 6), ("b", 9, 10))
    assert by(middle, *turns) == ["A", "A", "B"]  # as near to the one as to the other
    assert by(timed(("x", 3, 4), ("b", 9, 10)), *turns) == ["B", "B"]


def test_nobody_speaks_where_there_are_no_turns() -> None:
    before = dataclasses.replace(even("one two"), speaker="OLD")
    before = dataclasses.replace(
        before, words=tuple(dataclasses.replace(word, speaker="OLD") for word in before.words)
    )
    assert assign([before, Segment("x", 5, 6, speaker="OLD")], (), ()) == (
        even("one two"),
        Segment("x", 5, 6),
    )


def test_turns_that_hold_nothing_are_no_turns() -> None:
    empty = (Turn("A", 1, 1), Turn("A", 2, 1), Turn("A", math.nan, 2), Turn("A", 0, math.nan))
    assert by(even("one two"), *empty) == [None, None]


def test_words_that_no_clock_placed_count_after_the_word_before() -> None:
    turns = (Turn("A", 0, 1), Turn("B", 1, 2))
    unplaced = ("x", math.nan, math.nan)
    assert by(timed(("b", 1, 1.5), unplaced, ("a", 0, 1)), *turns) == ["B", "B", "A"]
    first = dataclasses.replace(timed(unplaced, ("a", 0, 1)), start_s=1.2)
    assert by(first, *turns) == ["B", "A"]


# --- segments ----------------------------------------------------------------------------------


def test_a_segment_is_cut_where_the_speaker_changes() -> None:
    segment = dataclasses.replace(
        timed(("Ready?", 0, 1), ("Yes,", 1.2, 1.5), ("go.", 1.5, 2), ("Fine.", 2.5, 3)),
        start_s=0.0,
        end_s=2.9,
        avg_logprob=-0.25,
        no_speech_prob=0.125,
        compression_ratio=1.5,
        temperature=0.2,
    )
    made = assign([segment], (Turn("A", 0, 1), Turn("B", 1.1, 2.1), Turn("A", 2.4, 3)), ())
    assert told(made) == [("A", " Ready?"), ("B", " Yes, go."), ("A", " Fine.")]
    assert [(piece.start_s, piece.end_s) for piece in made] == [(0, 1), (1.2, 2), (2.5, 2.9)]
    assert [[word.text for word in piece.words] for piece in made] == [
        ["Ready?"],
        ["Yes,", "go."],
        ["Fine."],
    ]
    assert {piece.avg_logprob for piece in made} == {-0.25}
    assert {piece.no_speech_prob for piece in made} == {0.125}
    assert {piece.compression_ratio for piece in made} == {1.5}
    assert {piece.temperature for piece in made} == {0.2}


def test_a_segment_of_one_speaker_keeps_its_own_times() -> None:
    segment = dataclasses.replace(even("one two"), start_s=-0.00012, end_s=7.00056)
    (made,) = assign([segment], (Turn("A", 0, 2),), ())
    assert (made.start_s, made.end_s, made.speaker) == (-0.00012, 7.00056, "A")


@pytest.mark.parametrize(
    ("text", "words", "pieces"),
    [
        ("Hello, (yes) no", ("Hello", "yes"), ["Hello,", " (yes) no"]),
        (" one  two ", ("one", "two"), [" one", "  two "]),
        ("one — two", ("one", "two"), ["one", " — two"]),
        ("今天「天气」", ("今天", "天气"), ["今天", "「天气」"]),
        ("今天。天气", ("今天", "天气"), ["今天。", "天气"]),
        ("我用Python", ("我用", "Python"), ["我用", "Python"]),
        ("สวัสดีครับ", ("สวัสดี", "ครับ"), ["สวัสดี", "ครับ"]),
    ],
)
def test_punctuation_stays_where_it_belongs(
    text: str, words: tuple[str, str], pieces: list[str]
) -> None:
    segment = timed((words[0], 0, 1), (words[1], 1, 2), text=text)
    made = assign([segment], (Turn("A", 0, 1), Turn("B", 1, 2)), ())
    assert told(made) == [("A", pieces[0]), ("B", pieces[1])]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ice-cream", ("ice", "-cream")),
        ("l'eau", ("l'", "eau")),
        ("3.5", ("3", ".5")),
        ("wholeword", ("whole", "word")),
        ("今天。", ("今天", "。")),
    ],
)
def test_what_the_text_writes_as_one_is_of_one_speaker(text: str, words: tuple[str, str]) -> None:
    segment = timed((words[0], 0, 1), (words[1], 1, 2), ("x", 2, 3), text=f"{text} x")
    made = assign([segment], (Turn("A", 0, 0.9), Turn("B", 0.9, 2), Turn("A", 2, 3)), ())
    assert told(made) == [("B", text), ("A", " x")]


def test_a_rewritten_text_is_not_cut() -> None:
    segment = timed(("helo", 0, 1), ("wrld", 1, 3), text="Hello, world!")
    (made,) = assign([segment], (Turn("A", 0, 1), Turn("B", 1, 3)), ())
    assert (made.text, made.speaker) == ("Hello, world!", "B")
    assert speakers((made,)) == ["A", "B"]


def test_a_segment_without_words_is_of_one_speaker() -> None:
    turns = (Turn("A", 0, 4), Turn("B", 4, 10))
    made = assign([Segment("a b c", 0, 9), Segment("d", 10.2, 11), Segment("e", 20, 21)], turns, ())
    assert told(made) == [("B", "a b c"), ("B", "d"), (None, "e")]


# --- properties --------------------------------------------------------------------------------

ANY_TIME = st.floats() | st.floats(0, 20) | st.integers(0, 20).map(float)
ANY_TEXT = st.text(max_size=6) | st.sampled_from(
    ["yes.", "-no", "「はい", "(x", " a", "", "好", "'s"]
)
BETWEEN = st.sampled_from(["", " ", "  ", ", ", " (", "。", "\u3000", " - "])
TURNS = st.lists(st.builds(Turn, st.sampled_from("ABC"), ANY_TIME, ANY_TIME), max_size=8)


@st.composite
def segments(draw: st.DrawFn) -> Segment:
    words = draw(st.lists(st.builds(Word, ANY_TEXT, ANY_TIME, ANY_TIME), max_size=8))
    joined = "".join(draw(BETWEEN) + word.text for word in words) + draw(BETWEEN)
    return Segment(draw(st.just(joined) | ANY_TEXT), draw(ANY_TIME), draw(ANY_TIME), tuple(words))


@settings(deadline=None)
@given(st.lists(segments(), max_size=4), TURNS, TURNS)
def test_nothing_is_lost_and_every_piece_has_one_speaker(
    given_segments: list[Segment], turns: list[Turn], exclusive: list[Turn]
) -> None:
    known = {turn.speaker for turn in (*turns, *exclusive)}
    for segment in given_segments:
        made = assign([segment], turns, exclusive)
        assert "".join(piece.text for piece in made) == segment.text
        words = [word for piece in made for word in piece.words]
        assert repr([dataclasses.replace(word, speaker=None) for word in words]) == repr(
            list(segment.words)
        )
        assert {piece.speaker for piece in made} <= known | {None}
        if len(made) > 1:
            assert all(one.speaker != two.speaker for one, two in pairwise(made))
            assert all({word.speaker for word in x.words} == {x.speaker} for x in made)
            assert all(0 <= piece.start_s <= piece.end_s for piece in made)
            assert len({piece.speaker for piece in made} & {None}) == 0
    together = assign(given_segments, turns, exclusive)
    assert "".join(x.text for x in together) == "".join(x.text for x in given_segments)


MS = st.integers(0, 300)


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from("ABC"), MS, MS), max_size=8), MS, st.integers(1, 100))
def test_the_sweep_finds_what_looking_at_every_turn_finds(
    given_turns: list[tuple[str, int, int]], start_ms: int, length_ms: int
) -> None:
    end_ms = start_ms + length_ms
    covered: dict[str, set[int]] = defaultdict(set)
    for speaker, begin, end in given_turns:
        covered[speaker].update(range(max(begin, start_ms), min(end, end_ms)))
    times = {speaker: len(covered_ms) for speaker, covered_ms in covered.items() if covered_ms}

    turns = [Turn(speaker, begin / 1000, end / 1000) for speaker, begin, end in given_turns]
    (found,) = by(timed(("x", start_ms / 1000, end_ms / 1000)), *turns)
    if times:
        assert found is not None
        assert times[found] == max(times.values())


def test_ten_hours_of_words_and_turns() -> None:
    """Looking every word up among all turns would take hours."""
    chance = random.Random(3)
    edges = list(accumulate((chance.uniform(0.3, 3.3) for _ in range(20_000)), initial=0.0))
    turns = [Turn(chance.choice("ABCD"), a, b + 0.2) for a, b in pairwise(edges)]
    turns.append(Turn("HUM", 0, edges[-1]))
    step_s = edges[-1] / 100_000
    spoken = [
        timed(*((f"w{i}", i * step_s, (i + 0.9) * step_s) for i in range(first, first + 50)))
        for first in range(0, 100_000, 50)
    ]
    exclusive = [
        Turn(turn.speaker, a, b) for turn, (a, b) in zip(turns, pairwise(edges), strict=False)
    ]
    made = assign(spoken, turns, exclusive)
    assert sum(len(segment.words) for segment in made) == 100_000
    assert {segment.speaker for segment in made} == set("ABCD")


# --- real speech -------------------------------------------------------------------------------


@pytest.mark.parametrize("session", ["panel_a", "panel_overlap_b"])
def test_words_of_composed_panels(shared: Path, session: str) -> None:
    """True turns and words spread evenly over each sentence, cut into segments anyhow."""
    lines = (shared / "data/long/reference.seglst.jsonl").read_text(encoding="utf-8").splitlines()
    said = [line for line in map(json.loads, lines) if line["session_id"] == session]
    turns = [Turn(one["speaker"], one["start_time"], one["end_time"]) for one in said]
    words: list[tuple[Word, str]] = []
    for one in said:
        texts = one["words"].split()
        step_s = (one["end_time"] - one["start_time"]) / len(texts)
        for i, text in enumerate(texts):
            start_s = one["start_time"] + i * step_s
            words.append((Word(text, start_s, start_s + step_s), one["speaker"]))
    words.sort(key=lambda pair: pair[0].start_s)
    chunks = [words[i : i + 25] for i in range(0, len(words), 25)]
    spoken = [timed(*((w.text, w.start_s, w.end_s) for w, _ in chunk)) for chunk in chunks]

    given_speakers = speakers(assign(spoken, turns, ()))
    wrong = sum(a != b for a, (_, b) in zip(given_speakers, words, strict=True))
    assert wrong <= len(words) * (0 if session == "panel_a" else 0.02)
