"""Every measure against cases worked out by hand, and against real references."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audio_batch.accuracy import (
    Errors,
    TimedWord,
    cpwer,
    pooled,
    score_boundaries,
    score_characters,
    score_diarization,
    score_words,
)
from audio_batch.accuracy.comparison import bootstrap
from audio_batch.accuracy.evaluation import Rules, score_transcript
from audio_batch.accuracy.normalization import Normalization, is_spaceless, normalized
from audio_batch.accuracy.reference_files import read_rttm, read_seglst, read_uem
from audio_batch.accuracy.references import Reference
from audio_batch.transcript import Segment, Transcript, Turn, Word

NONE = Normalization.NONE


def kinds(errors: Errors) -> tuple[float, float, float, float]:
    """Substitutions, deletions, insertions, total."""
    three = (errors.kinds[kind] for kind in ("substitutions", "deletions", "insertions"))
    return (*three, errors.total)  # type: ignore[return-value]


# ---- Words and characters


@pytest.mark.parametrize(
    ("reference", "hypothesis", "expected"),
    [
        ("the cat sat", "the cat sat", (0, 0, 0, 3)),
        ("the cat sat", "the bat sat", (1, 0, 0, 3)),
        ("the cat sat", "the sat", (0, 1, 0, 3)),
        ("the cat sat", "oh the cat sat down", (0, 0, 2, 3)),
        ("the cat sat", "", (0, 3, 0, 3)),
        ("", "hello there", (0, 0, 2, 0)),
        ("", "", (0, 0, 0, 0)),
        ("The cat; sat!", "the  CAT\nsat", (0, 0, 0, 3)),
        ("twenty-one", "twenty one", (0, 0, 0, 2)),
        ("don’t ‘quote’ it", "don't quote it", (0, 0, 0, 3)),
    ],
)
def test_words(
    reference: str, hypothesis: str, expected: tuple[float, float, float, float]
) -> None:
    assert kinds(score_words(reference, hypothesis)) == expected


def test_a_rate_is_errors_over_the_reference() -> None:
    assert score_words("a b c d", "a x c").rate == 0.5
    assert score_words("a", "a b c d").rate == 3.0
    assert score_words("", "").rate == 0.0
    assert score_words("", "a").rate == math.inf


def test_rates_are_pooled_over_counts_and_not_averaged() -> None:
    total = pooled([score_words("a b c d e f g h i", "a b c d e f g h i"), score_words("a", "b")])
    assert (total.count, total.total, total.rate) == (1, 10, 0.1)
    assert pooled([]).rate == 0.0


def test_characters() -> None:
    assert kinds(score_characters("abc", "adc")) == (1, 0, 0, 3)
    assert kinds(score_characters("a b", "ab")) == (0, 1, 0, 3)  # the blank counts
    assert kinds(score_characters("", "")) == (0, 0, 0, 0)


def test_scripts_without_blanks_are_counted_in_characters_whatever_the_blanks() -> None:
    assert kinds(score_characters("今日は、いい天気。", "今日 は いい 電気")) == (1, 0, 0, 7)
    assert kinds(cpwer({"A": "你好吗"}, {"1": "你 好"})) == (0, 1, 0, 3)


@pytest.mark.parametrize(
    ("text", "spaceless"),
    [
        ("今日はいい天気", True),
        ("我爱 Python 和北京的天气", True),
        ("Python 的 list", False),
        ("สวัสดีครับ", True),
        ("안녕하세요 여러분", False),
        ("hello", False),
        ("!?", False),
        ("", False),
    ],
)
def test_which_scripts_have_no_blanks(text: str, spaceless: bool) -> None:
    assert is_spaceless(text) is spaceless


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello, World!", "hello world"),
        ("it's 'fine', isn’t it?", "it's fine isn't it"),
        ("ＡＢＣ　１２", "abc 12"),
        ("e\u0301te\u0301", "été"),
        ("3,000.5 $ 50%", "3 000 5 50"),
        ("नमस्ते दुनिया", "नमस्ते दुनिया"),
        ("a\u200db\u202e c\ufeff", "ab c"),
        ("well\ufe0f 👍\ufe0f🏽 done", "well done"),
        ("İstanbul", "i\u0307stanbul"),
        ("snake_case\ttab\x07bell", "snake case tab bell"),
        ("...", ""),
    ],
)
def test_basic_normalization(text: str, expected: str) -> None:
    assert normalized(text, Normalization.BASIC) == expected


def test_no_normalization_only_joins_blanks() -> None:
    assert normalized(" The\n Cat,  sat. ", NONE) == "The Cat, sat."
    assert score_words("The cat.", "the cat", normalization=NONE).rate == 1.0


@settings(max_examples=200, deadline=None)
@given(st.text(), st.text())
def test_any_texts_can_be_compared(reference: str, hypothesis: str) -> None:
    for score in (score_words, score_characters):
        assert score(reference, reference).count == 0
        errors = score(reference, hypothesis)
        assert 0 <= errors.kinds["substitutions"] + errors.kinds["deletions"] <= errors.total
    once = normalized(reference, Normalization.BASIC)
    assert normalized(once, Normalization.BASIC) == once


# ---- Who said what


def test_names_of_speakers_do_not_matter() -> None:
    found = cpwer({"Anna": "a b c", "Ben": "d e"}, {"S1": "d e", "S0": "a b c"})
    assert kinds(found) == (0, 0, 0, 5)


def test_a_word_of_the_wrong_speaker_is_an_error_on_both_sides() -> None:
    """All words are right, one is the other's: deleted here, inserted there."""
    found = cpwer({"A": "the cat", "B": "sat on"}, {"1": "the cat sat", "2": "on"})
    assert kinds(found) == (0, 1, 1, 4)
    assert found.rate == 0.5


def test_the_pairing_is_the_best_of_all_and_not_the_greedy_one() -> None:
    """Of texts of one word over and over the edits are the difference of their lengths."""
    reference = {"A": "a " * 4, "B": "a"}
    hypothesis = {"1": "a " * 3, "2": "a " * 6}
    # The nearest are A and 1 (1 edit), which leaves B and 2 (5); A and 2, B and 1 need 2 + 2.
    assert cpwer(reference, hypothesis).count == 4


@pytest.mark.parametrize(
    ("reference", "hypothesis", "expected"),
    [
        ({"A": "a b"}, {"1": "a b", "2": "c"}, (0, 0, 1, 2)),
        ({"A": "a b", "B": "c"}, {"1": "a b"}, (0, 1, 0, 3)),
        ({"A": "a b", "B": "c"}, {"1": "a b c"}, (0, 1, 1, 3)),
        ({"A": "a", "B": "b", "C": "c"}, {}, (0, 3, 0, 3)),
        ({}, {"1": "a b"}, (0, 0, 2, 0)),
        ({}, {}, (0, 0, 0, 0)),
    ],
)
def test_speakers_too_many_and_too_few(
    reference: dict[str, str], hypothesis: dict[str, str], expected: tuple[float, ...]
) -> None:
    assert kinds(cpwer(reference, hypothesis)) == expected


SAYINGS = st.lists(st.text("abc ", max_size=8), max_size=3)


@settings(max_examples=100, deadline=None)
@given(SAYINGS, SAYINGS)
def test_cpwer_is_the_least_over_all_pairings(reference: list[str], hypothesis: list[str]) -> None:
    size = max(len(reference), len(hypothesis))
    left = reference + [""] * (size - len(reference))
    right = hypothesis + [""] * (size - len(hypothesis))
    least = min(
        sum(score_words(one, other).count for one, other in zip(left, order, strict=True))
        for order in itertools.permutations(right)
    )
    found = cpwer(
        {str(n): text for n, text in enumerate(reference)},
        {str(n): text for n, text in enumerate(hypothesis)},
    )
    assert found.count == least
    assert found.total == len(" ".join(reference).split())


# ---- Who spoke when


def turns(*spans: tuple[str, float, float]) -> list[Turn]:
    return [Turn(*span) for span in spans]


TWO = turns(("A", 0, 10), ("B", 10, 20))


def test_der_by_hand() -> None:
    """B begins a second late: that second is A's on one side and B's on the other."""
    score = score_diarization(TWO, turns(("x", 0, 11), ("y", 11, 20)), collar_s=0)
    assert score.der.kinds == {"missed": 0, "false alarm": 0, "confusion": 1}
    assert score.der.total == 20
    # JER: A 1 - 10/11, B 1 - 9/10, over two speakers
    assert score.jer.rate == pytest.approx((1 / 11 + 1 / 10) / 2)
    assert (score.speakers, score.speakers_found) == (2, 2)


def test_the_collar_is_on_each_side() -> None:
    """0.25 leaves 0.25 s out after 0, 0.5 s around 10 and 0.25 s before 20, as NIST's does.

    Of the second of confusion from 10 to 11 the first quarter is forgiven. pyannote.metrics means
    the whole width by its collar and would forgive an eighth.
    """
    score = score_diarization(TWO, turns(("x", 0, 11), ("y", 11, 20)), collar_s=0.25)
    assert score.der.total == pytest.approx(19)
    assert score.der.count == pytest.approx(0.75)
    just = score_diarization(TWO, turns(("x", 0, 10.25), ("y", 10.25, 20)), collar_s=0.25)
    assert just.der.count == pytest.approx(0)
    beyond = score_diarization(TWO, turns(("x", 0, 10.3), ("y", 10.3, 20)), collar_s=0.25)
    assert beyond.der.count == pytest.approx(0.05)


def test_overlap_counts_for_each_who_speaks_unless_skipped() -> None:
    both = turns(("A", 0, 5), ("B", 3, 8))
    alone = turns(("x", 0, 5))
    score = score_diarization(both, alone, collar_s=0)
    assert (score.der.kinds["missed"], score.der.total) == (5, 10)
    skipped = score_diarization(both, alone, collar_s=0, skip_overlap=True)
    assert (skipped.der.kinds["missed"], skipped.der.total) == (3, 6)
    assert score_diarization(both, both, collar_s=0).der.rate == 0
    assert (score.speakers, score.speakers_found) == (2, 1)


def test_nobody_and_nothing() -> None:
    nothing = score_diarization(TWO, [], collar_s=0)
    assert nothing.der.kinds == {"missed": 20, "false alarm": 0, "confusion": 0}
    assert nothing.jer.rate == 1
    noise = score_diarization([], turns(("x", 0, 3)), collar_s=0)
    assert (noise.der.kinds["false alarm"], noise.der.rate) == (3, math.inf)
    silence = score_diarization([], [])
    assert (silence.der.rate, silence.jer.rate, silence.speakers) == (0, 0, 0)


def test_only_the_region_is_scored() -> None:
    found = turns(("x", 0, 10), ("y", 10, 20), ("z", 30, 40))
    assert score_diarization(TWO, found, collar_s=0).der.rate == 0.5
    inside = score_diarization(TWO, found, region=[(0, 10), (10, 20)], collar_s=0)
    assert (inside.der.rate, inside.speakers_found) == (0, 2)
    assert score_diarization(TWO, found, region=[], collar_s=0).der.total == 0


def test_turns_of_a_speaker_that_touch_are_one_turn() -> None:
    """No collar within them, and what one says twice at once counts once."""
    pieces = turns(("A", 0, 4), ("A", 4, 7), ("A", 6, 10), ("B", 10, 20), ("B", 12, 12))
    score = score_diarization(pieces, TWO, collar_s=0.25)
    assert (score.der.total, score.der.count) == (pytest.approx(19), 0)
    assert score_diarization(TWO, pieces, collar_s=0).der.rate == 0


LENGTH_S = 12


def second_by_second(
    reference: list[Turn], hypothesis: list[Turn], collar: int, skip_overlap: bool
) -> tuple[float, float]:
    """DER's errors and total, where everything begins and ends at whole seconds."""

    def heard(spoken: list[Turn], second: int) -> frozenset[str]:
        return frozenset(turn.speaker for turn in spoken if turn.start_s <= second < turn.end_s)

    pairs = []
    for second in range(LENGTH_S):
        here, before, after = (heard(reference, second + step) for step in (0, -1, 1))
        at_an_edge = here != before or here != after
        if (collar and at_an_edge) or (skip_overlap and len(here) > 1):
            continue
        pairs.append((here, heard(hypothesis, second)))
    names = sorted({turn.speaker for turn in hypothesis})
    pairings = [
        dict(zip(names, order, strict=True))
        for order in itertools.permutations(["A", "B", *names], len(names))
    ]
    right = max(
        sum(len({pairing[name] for name in found} & here) for here, found in pairs)
        for pairing in pairings
    )
    errors = sum(max(len(here), len(found)) for here, found in pairs) - right
    return errors, sum(len(here) for here, _ in pairs)


def some_turns(speakers: str) -> st.SearchStrategy[list[Turn]]:
    second = st.integers(0, LENGTH_S)
    turn = st.tuples(st.sampled_from(speakers), second, second)
    return st.lists(turn, max_size=5).map(
        lambda found: [Turn(who, min(a, b), max(a, b)) for who, a, b in found]
    )


@settings(max_examples=150, deadline=None)
@given(some_turns("AB"), some_turns("xyz"), st.integers(0, 1), st.booleans())
def test_der_is_what_counting_seconds_finds(
    reference: list[Turn], hypothesis: list[Turn], collar: int, skip_overlap: bool
) -> None:
    """With a collar of 1 s every second that touches a boundary of the reference goes."""
    score = score_diarization(
        reference, hypothesis, region=[(0, LENGTH_S)], collar_s=collar, skip_overlap=skip_overlap
    )
    expected = second_by_second(reference, hypothesis, collar, skip_overlap)
    assert (score.der.count, score.der.total) == pytest.approx(expected, abs=1e-6)


# ---- When words are said


def timed(*words: tuple[str, float, float]) -> list[TimedWord]:
    return [TimedWord(*word) for word in words]


def test_boundaries_of_the_words_that_are_right() -> None:
    reference = timed(("one", 0, 1), ("Two,", 1, 2), ("three", 2, 3))
    found = timed(("one", 0.1, 1.2), ("too", 1.2, 2), ("three", 1.9, 3.4), ("four", 4, 5))
    score = score_boundaries(reference, found)
    assert score.start_errors_s == pytest.approx((0.1, 0.1))
    assert score.end_errors_s == pytest.approx((0.2, 0.4))


def test_a_word_that_one_side_splits_counts_at_its_outer_boundaries() -> None:
    score = score_boundaries(
        timed(("ice-cream", 1, 2), ("!", 2, 3)), timed(("ice", 1.1, 1.5), ("cream", 1.5, 2.3))
    )
    assert score.start_errors_s == pytest.approx((0.1,))
    assert score.end_errors_s == pytest.approx((0.3,))
    assert score_boundaries([], []).start_errors_s == ()


# ---- Two runs


def test_the_interval_of_a_difference() -> None:
    assert bootstrap([1], [10]) is None
    assert bootstrap([0, 0], [0, 0]) is None
    assert bootstrap([1] * 50, [10] * 50) == pytest.approx((0.1, 0.1))
    low, high = bootstrap([2, 0] * 50, [10] * 100) or (0, 0)
    # the mean of 100 draws of 0.2 or 0: 0.1 with a standard error of 0.01
    assert (low, high) == pytest.approx((0.08, 0.12), abs=0.004)
    assert bootstrap([2, 0] * 50, [10] * 100) == (low, high)


# ---- Real references


def as_transcript(
    reference: Reference, spans: Sequence[tuple[str, str, float, float]]
) -> Transcript:
    """What a perfect program would publish: a segment for each (speaker, words, start, end)."""
    segments = []
    for speaker, said, start_s, end_s in spans:
        parts = said.split()
        step_s = (end_s - start_s) / len(parts)
        words = tuple(
            Word(part, start_s + n * step_s, start_s + (n + 1) * step_s, speaker=speaker)
            for n, part in enumerate(parts)
        )
        segments.append(Segment(said, start_s, end_s, words, speaker))
    return Transcript(
        "x", "x.wav", "x", "en", 1e4, tuple(segments), turns=tuple(reference.turns or ())
    )


@pytest.mark.parametrize("folder", ["overlap2", "long"])
def test_a_reference_has_no_error_against_itself(shared: Path, folder: str) -> None:
    spoken = read_seglst(shared / "data" / folder / "reference.seglst.jsonl")
    rttm = read_rttm(shared / "data" / folder / "reference.rttm")
    assert spoken.keys() == rttm.keys()
    for name, said in spoken.items():
        reference = Reference(
            text=" ".join(one.words for one in said),
            speakers={
                who: " ".join(one.words for one in said if one.speaker == who)
                for who in {one.speaker for one in said}
            },
            turns=rttm[name],
        )
        spans = [(one.speaker, one.words, *one.times_s) for one in said if one.times_s]
        score = score_transcript(reference, as_transcript(reference, spans), Rules(collar_s=0))
        assert set(score.errors) == {"wer", "cer", "cpwer", "der", "jer", "speakers"}
        counts = {measure: errors.count for measure, errors in score.errors.items()}
        assert counts == pytest.approx(dict.fromkeys(counts, 0), abs=1e-9), name
        assert score.notes == ()


def test_turns_of_a_panel_that_come_late(shared: Path) -> None:
    """36 turns, 0.2 s late, at least 0.2 s apart: 7.2 s missed and 7.2 s of false alarm."""
    reference = read_rttm(shared / "data" / "long" / "reference.rttm")["panel_a"]
    late = [Turn(turn.speaker, turn.start_s + 0.2, turn.end_s + 0.2) for turn in reference]
    strict = score_diarization(reference, late, collar_s=0)
    assert strict.der.kinds["missed"] == pytest.approx(7.2, abs=0.01)
    assert strict.der.kinds["false alarm"] == pytest.approx(7.2, abs=0.01)
    assert strict.der.kinds["confusion"] == pytest.approx(0, abs=0.01)
    forgiven = score_diarization(reference, late, collar_s=0.25)
    assert forgiven.der.count == pytest.approx(0, abs=1e-6)


def test_swapped_speakers_of_a_panel(shared: Path) -> None:
    """Words are all right; every turn of one speaker is given to another."""
    spoken = read_seglst(shared / "data" / "long" / "reference.seglst.jsonl")["panel_a"]
    first, second, *_ = sorted({one.speaker for one in spoken})
    said = {
        s: " ".join(o.words for o in spoken if o.speaker == s) for s in {o.speaker for o in spoken}
    }
    merged = {**said, first: f"{said[first]} {said[second]}"}
    del merged[second]
    errors = cpwer(said, merged)
    smaller = min(len(said[first].split()), len(said[second].split()))
    assert (errors.kinds["deletions"], errors.kinds["insertions"]) == (smaller, smaller)


def test_meetings_against_themselves_within_their_maps(shared: Path) -> None:
    rttm = read_rttm(shared / "data" / "ami" / "reference.rttm")
    uem = read_uem(shared / "data" / "ami" / "reference.uem")
    assert rttm.keys() <= uem.keys()
    for name, region in uem.items():
        score = score_diarization(rttm[name], rttm[name], region=region)
        assert score.der.count == pytest.approx(0, abs=1e-9)
        assert score.der.total > 0
        assert score.speakers == score.speakers_found
