"""Cues: what a viewer can read, and nothing lost on the way."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from audio_batch.subtitles import (
    LINE_COUNT,
    LINE_WIDTH,
    MAX_CUE_MS,
    PAUSE_MS,
    SHORTEST_CUE_MS,
    Cue,
    cues,
    highlights,
    join,
    span_ms,
    utterances,
)
from audio_batch.text import for_document
from audio_batch.transcript import Segment, Transcript, Word

PROSE = (
    "Good morning, everyone. Today we will look at how the river changed its course over the "
    "last two hundred years, and why nobody at all in the valley noticed it for so very long."
)


def transcript(*segments: Segment) -> Transcript:
    return Transcript("id", "a.wav", "A", "en", 60.0, segments)


def spoken(
    text: str, start_s: float = 0.0, word_s: float = 0.3, speaker: str | None = None
) -> Segment:
    """A segment whose words follow each other without a pause."""
    texts = text.split()
    words = tuple(
        Word(word, start_s + i * word_s, start_s + (i + 1) * word_s, speaker=speaker)
        for i, word in enumerate(texts)
    )
    return Segment(text, start_s, start_s + len(texts) * word_s, words, speaker)


def lines(cue: Cue) -> list[str]:
    return [join(line) for line in cue.lines]


def texts(made: list[Cue]) -> list[str]:
    return [" / ".join(lines(cue)) for cue in made]


def times(made: list[Cue]) -> list[tuple[int, int]]:
    return [(cue.start_ms, cue.end_ms) for cue in made]


# --- defaults ----------------------------------------------------------------------------------


def test_a_short_segment_is_one_cue_at_its_words_times() -> None:
    segment = Segment("Hello there.", 0, 5, (Word("Hello", 1, 1.4), Word("there.", 1.5, 2)))
    made = cues(transcript(segment))
    assert texts(made) == ["Hello there."]
    assert times(made) == [(1000, 2000)]


def test_a_segment_without_words_is_a_cue_at_its_own_times() -> None:
    made = cues(transcript(Segment("Hello there.", 1, 30)))
    assert (texts(made), times(made)) == (["Hello there."], [(1000, 30000)])


def test_a_long_segment_is_cut_where_the_text_pauses() -> None:
    made = cues(transcript(spoken(PROSE)))
    assert texts(made) == [
        "Good morning, everyone. Today / we will look at how the",
        "river changed its course over / the last two hundred years,",
        "and why nobody at all in the valley / noticed it for so very long.",
    ]


def test_a_cut_prefers_the_end_of_a_sentence() -> None:
    text = "This is the first of them. " + "And the second sentence is a good deal longer than it."
    made = cues(transcript(spoken(text + " It is too long.")))
    assert texts(made)[0] == "This is the first of them."


def test_slow_speech_is_cut_by_time() -> None:
    made = cues(transcript(spoken("one two three four five six", word_s=2.0)))
    assert texts(made) == ["one two three", "four five six"]


def test_a_long_silence_within_a_segment_ends_a_cue() -> None:
    words = (Word("one", 0, 0.5), Word("two", 1, 1.5), Word("three", 4.6, 5))
    made = cues(transcript(Segment("one two three", 0, 5, words)))
    assert texts(made) == ["one two", "three"]
    assert times(made) == [(0, 1500), (4600, 5000)]


def test_text_without_word_times_is_cut_in_proportion_to_its_length() -> None:
    made = cues(transcript(Segment(PROSE, 10, 20)))
    assert len(made) == 3
    assert (made[0].start_ms, made[-1].end_ms) == (10_000, 20_000)
    assert all(one.end_ms == two.start_ms for one, two in itertools.pairwise(made))
    shares = [sum(len(text) for text in lines(cue)) for cue in made]
    for cue, share in zip(made, shares, strict=True):
        assert cue.end_ms - cue.start_ms == pytest.approx(10_000 * share / len(PROSE), rel=0.1)


def test_a_word_wider_than_a_line_stands_alone() -> None:
    made = cues(transcript(spoken(f"a {'x' * 100} b")))
    assert [line for cue in made for line in lines(cue)] == ["a", "x" * 100, "b"]


# --- line width and count ----------------------------------------------------------------------


def test_width_alone_keeps_to_the_segments() -> None:
    made = cues(transcript(spoken("one two"), spoken("three four", 0.6)), max_line_width=20)
    assert texts(made) == ["one two", "three four"]


def test_count_alone_keeps_to_the_segments() -> None:
    made = cues(transcript(spoken(PROSE), spoken("Yes.", 20)), max_line_count=1)
    assert all(len(cue.lines) == 1 for cue in made)
    assert texts(made)[-1] == "Yes."


def test_width_and_count_let_words_flow_over_segments_as_in_whisper() -> None:
    made = cues(
        transcript(spoken("one two"), spoken("three four", 0.6), spoken("five", 1.2)),
        max_line_width=9,
        max_line_count=2,
    )
    assert texts(made) == ["one two / three", "four five"]


def test_flowing_words_stop_at_a_silence_and_at_a_speaker() -> None:
    made = cues(
        transcript(
            spoken("one"),
            spoken("two", 0.4 + PAUSE_MS / 1000),
            spoken("three", 4, speaker="Ann"),
            spoken("four", 4.3, speaker="Bob"),
        ),
        max_line_width=80,
        max_line_count=2,
    )
    assert [(cue.speaker, *lines(cue)) for cue in made] == [
        (None, "one"),
        (None, "two"),
        ("Ann", "three"),
        ("Bob", "four"),
    ]


def test_words_flow_only_between_segments_with_word_times() -> None:
    made = cues(
        transcript(spoken("one"), Segment("two", 0.3, 1), Segment("three", 1, 2)),
        max_line_width=80,
        max_line_count=2,
    )
    assert texts(made) == ["one", "two", "three"]


def test_flowing_words_of_overlapping_segments_stay_within_the_time_of_a_cue() -> None:
    late = Segment("late", 0, 7, (Word("late", 6, 7),))
    early = (Word("a", 1, 2), Word("b", 4, 5), Word("c", 7.5, 8.5))
    made = cues(
        transcript(late, Segment("a b c", 1, 8.5, early)), max_line_width=80, max_line_count=2
    )
    assert sorted(" ".join(texts(made)).split()) == ["a", "b", "c", "late"]
    assert all(cue.end_ms - cue.start_ms <= MAX_CUE_MS for cue in made)


def test_names_in_lines_take_room_from_the_first_line() -> None:
    segment = spoken("one two three four", speaker="A long name")
    made = cues(transcript(segment), max_line_width=20, max_line_count=2, names_in_lines=True)
    for cue in made:
        assert len(f"A long name: {lines(cue)[0]}") <= 20


def test_a_wide_character_takes_two_columns_and_japanese_needs_no_blanks() -> None:
    text = "今日は天気がいいから、散歩しましょう。" * 3
    made = cues(transcript(Segment(text, 0, 12)))
    assert "".join(line for cue in made for line in lines(cue)) == text
    assert all(cell_len(line) <= LINE_WIDTH for cue in made for line in lines(cue))
    assert not any(line.startswith(("、", "。")) for cue in made for line in lines(cue))


# --- blanks ------------------------------------------------------------------------------------


def test_blanks_between_words_are_those_of_the_text() -> None:
    words = tuple(Word(t, i, i + 0.5) for i, t in enumerate(["ice", "-cream", "(", "yes", ")"]))
    assert texts(cues(transcript(Segment(" ice-cream (yes)", 0, 5, words)))) == ["ice-cream (yes)"]


def test_chinese_words_have_no_blanks_between_them() -> None:
    words = tuple(Word(t, i, i + 0.5) for i, t in enumerate(["今天", "天气", "很好"]))
    both = transcript(Segment("今天天气很好", 0, 3, words), Segment("谢谢", 3, 4))
    assert texts(cues(both)) == ["今天天气很好", "谢谢"]


def test_a_corrected_spelling_keeps_the_words_times() -> None:
    words = (Word("helo", 1, 1.4), Word("wrld", 1.5, 2))
    made = cues(transcript(Segment("Hello, world!", 0, 9, words)))
    assert (texts(made), times(made)) == (["Hello, world!"], [(1000, 2000)])
    assert [token.timed for token in made[0].lines[0]] == [True, True]


def test_a_rewritten_text_wins_over_its_words() -> None:
    words = (Word("hello", 1, 1.4), Word("world", 1.5, 2))
    made = cues(transcript(Segment("Something else was said", 0, 9, words)))
    assert (texts(made), times(made)) == (["Something else was said"], [(0, 9000)])


def test_words_without_a_segment_text_are_shown() -> None:
    assert texts(cues(transcript(Segment("", 0, 1, (Word("hi", 0, 1),))))) == ["hi"]


# --- speakers ----------------------------------------------------------------------------------


def test_a_segment_of_two_speakers_is_two_cues() -> None:
    words = (
        Word("Ready?", 0, 1, speaker="Ann"),
        Word("Yes,", 1.2, 1.5, speaker="Bob"),
        Word("go.", 1.5, 2, speaker="Bob"),
        Word("Fine.", 2.5, 3),
    )
    segment = Segment("Ready? Yes, go. Fine.", 0, 3.5, words, speaker="Ann")
    made = utterances(transcript(segment))
    assert [(one.speaker, join(one.tokens), one.start_ms, one.end_ms) for one in made] == [
        ("Ann", "Ready?", 0, 1000),
        ("Bob", "Yes, go.", 1200, 2000),
        ("Ann", "Fine.", 2500, 3500),
    ]
    assert [cue.speaker for cue in cues(transcript(segment))] == ["Ann", "Bob", "Ann"]


def test_overlapping_speakers_are_kept_in_the_order_of_their_starts() -> None:
    both = transcript(spoken("a b c d", 1, 1.0, "Ann"), spoken("x", 0.5, 1.0, "Bob"))
    assert [(cue.speaker, cue.start_ms, cue.end_ms) for cue in cues(both)] == [
        ("Bob", 500, 1500),
        ("Ann", 1000, 5000),
    ]


# --- times -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start_s", "end_s", "expected"),
    [
        (1.0004, 2.0006, (1000, 2001)),
        (-1, 2, (0, 2000)),
        (5, 4, (5000, 5000)),
        (math.nan, 9, (3000, 9000)),
        (math.nan, math.nan, (3000, 3000)),
        (1, math.inf, (1000, 1000)),
        (-math.inf, 4, (3000, 4000)),
        (0, 1e300, (0, 1_000_000_000_000)),
    ],
)
def test_span_is_always_usable(start_s: float, end_s: float, expected: tuple[int, int]) -> None:
    assert span_ms(start_s, end_s, 3000) == expected


def test_a_cue_of_no_length_is_widened_into_the_silence_after_it() -> None:
    made = cues(transcript(Segment("a", 1, 1), Segment("b", 1.3, 1.3), Segment("c", 1.31, 1.31)))
    assert times(made) == [(1000, 1300), (1300, 1400), (1310, 1810)]


# --- highlights --------------------------------------------------------------------------------


def test_highlights_cover_the_cue_word_by_word() -> None:
    words = (Word("one", 1, 1.5), Word("two", 1.5, 2), Word("three", 2.5, 3))
    (cue,) = cues(transcript(Segment("one two three", 1, 3, words)))
    assert list(highlights(cue)) == [
        (1000, 1500, 0),
        (1500, 2000, 1),
        (2000, 2500, None),
        (2500, 3000, 2),
    ]


def test_highlights_need_word_times() -> None:
    (cue,) = cues(transcript(Segment("one two three", 1, 3)))
    assert list(highlights(cue)) == [(1000, 3000, None)]


def test_overlapping_words_are_highlighted_one_at_a_time() -> None:
    words = (Word("one", 0, 2), Word("two", 1, 3), Word("none", 3, 3))
    (cue,) = cues(transcript(Segment("one two none", 0, 3, words)))
    assert list(highlights(cue)) == [(0, 1000, 0), (1000, 3000, 1)]


# --- properties --------------------------------------------------------------------------------

ANY_TIME = st.floats() | st.floats(0, 100)
ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=12) | st.sampled_from(
    ["hello.", "well, yes", "日本語。", "x" * 50, "", " ", "a b c d e f g h i j k l m n o p"]
)
SPEAKERS = st.sampled_from([None, None, "Ann", "Bob", ""])


@st.composite
def segments(draw: st.DrawFn) -> Segment:
    words = tuple(
        Word(draw(ANY_TEXT), draw(ANY_TIME), draw(ANY_TIME), speaker=draw(SPEAKERS))
        for _ in range(draw(st.integers(0, 8)))
    )
    text = draw(st.just(" ".join(word.text for word in words)) | ANY_TEXT)
    return Segment(text, draw(ANY_TIME), draw(ANY_TIME), words, draw(SPEAKERS))


TRANSCRIPTS = st.lists(segments(), max_size=5).map(lambda made: transcript(*made))
LIMITS = st.none() | st.integers(1, 60)


@settings(deadline=None)
@given(TRANSCRIPTS, LIMITS, st.none() | st.integers(1, 4), st.booleans())
def test_cues_keep_every_character_and_every_limit(
    given_transcript: Transcript, width: int | None, count: int | None, names: bool
) -> None:
    made = cues(given_transcript, max_line_width=width, max_line_count=count, names_in_lines=names)

    kept = sorted("".join(line for cue in made for line in lines(cue)).replace(" ", ""))
    said = [
        for_document(segment.text) or " ".join(for_document(word.text) for word in segment.words)
        for segment in given_transcript.segments
    ]
    assert kept == sorted("".join(said).replace(" ", ""))

    assert made == sorted(made, key=lambda cue: cue.start_ms)
    for cue in made:
        assert 0 <= cue.start_ms <= cue.end_ms - SHORTEST_CUE_MS
        assert 1 <= len(cue.lines) <= (count or LINE_COUNT)
        tokens = [token for line in cue.lines for token in line]
        assert all(token.speaker == cue.speaker for token in tokens)
        assert len(tokens) == 1 or not tokens[0].timed or cue.end_ms - cue.start_ms <= MAX_CUE_MS
        for line in cue.lines[1 if names else 0 :]:
            assert len(line) == 1 or cell_len(join(line)) <= (width or LINE_WIDTH)
        stretches = list(highlights(cue))
        assert stretches[0][0] == cue.start_ms
        assert stretches[-1][1] == cue.end_ms
        assert all(one[1] == two[0] for one, two in itertools.pairwise(stretches))
        assert all(start < end for start, end, _ in stretches)


@settings(deadline=None)
@given(st.text("ab .,", min_size=1, max_size=300), st.integers(1, 50), st.integers(1, 4))
def test_the_lines_of_a_cue_are_as_even_as_its_words_allow(
    text: str, width: int, count: int
) -> None:
    """No narrower width would hold the cue in as many lines."""
    for cue in cues(transcript(Segment(text, 0, 5)), max_line_width=width, max_line_count=count):
        widest = max(len(line) for line in lines(cue))
        words = [token.text for line in cue.lines for token in line]
        if max(len(word) for word in words) < widest:
            filled, used = 1, 0
            for word in words:
                if used and used + 1 + len(word) > widest - 1:
                    filled, used = filled + 1, 0
                used += len(word) + bool(used)
            assert filled > len(cue.lines)


def test_a_day_of_speech_in_one_segment_is_no_trouble() -> None:
    made = cues(transcript(spoken("word " * 20_000, word_s=0.25)))
    assert sum(len(line) for cue in made for line in cue.lines) == 20_000
