"""Why a finished transcript may not be the whole truth: pure, from the words and the VAD's answer.

A model can leave off in the middle, go round in circles, or hear nothing where people talk, and
say so in no other way. A suspicion is a flag for a person, never a failure. What is looked at:

- speech that goes on after the last word, or that lies where there are no words,
- words that come faster than anybody talks, or far too rarely,
- the same words again and again, and text that zlib makes much smaller than it makes any talk:
  numbers apart, since people read out long strings of digits,
- what Whisper itself takes for failed by its mean log probability.

Fluent words at a common rate that were never said cannot be told from those that were.
"""

from __future__ import annotations

import math
import re
import unicodedata
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from audio_batch.transcript import Segment

TAIL_S = 10.0
"""Speech after the last word that is let pass: a cough, a jingle. The VAD takes both for speech."""
TAIL_SHARE = 0.05
TAIL_CAP_S = 60.0
"""A longer recording may have a longer tail, by this share of its speech, up to a minute."""

HOLE_S = 30.0
HOLE_SHARE = 0.3
"""Speech without words that is let pass: 30 s (one window of Whisper's) or this share of it all.
Singing and crowds are speech to the VAD."""

WORD_REACH_S = 1.0
"""How far around its word speech counts as heard: the VAD adds 0.4 s on either side of a span
(faster-whisper's default) and, in sequential decoding, takes a pause below 2 s for speech."""

NO_WORDS_S = 30.0
"""Speech without a single word that is let pass: the VAD takes some noises for voices."""

FASTEST_WORDS_PER_S = 8.0
"""Conversation has 2 to 4 words a second, fast debate 6 to 7; nobody keeps up more."""
FASTEST_CHARACTERS_PER_S = 25.0
"""The same for scripts without blanks. Syllables come at 5 to 8 a second in any language
(Pellegrino et al. 2011); one is a character in Chinese, three and more in Thai."""
FAST_WORDS = 50
"""Fewer words tell no rate."""

SLOWEST_WORDS_PER_S = 0.3
"""A VAD that closes pauses of 2 s lets through 0.4 words a second of words read one by one."""
SLOW_SPEECH_S = 60.0
"""Less speech tells no such rate."""

LOOP_REPEATS = 8
"""A refrain comes three or four times on end, a model that is caught in a loop fills its window."""
LOOP_WORDS = 24
"""Words (or characters) of the whole loop: "no, no, no" and laughter end before."""
LOOP_LONGEST = 40
"""The longest run of words (or characters) that is looked for; a window of 30 s holds about 100."""

COMPRESSION_RATIO = 2.4
"""Whisper's own mark of a failed window (Radford et al. 2022, section 4.5)."""
PIECE_CHARACTERS = 600
"""Of a segment's text at a time, about a window's worth: all prose compresses well at length."""
LEAST_CHARACTERS = 200

LOGPROB = -1.0
"""Whisper's other mark of a failed window (ibid.), here of more than half of at least so many
words."""
LOGPROB_WORDS = 24

_NUMBER_WORDS = frozenset(
    ("zero", "oh", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
)
"""Recognizers write numbers as figures in most languages, and as words in English."""
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Tibetan, Burmese, Khmer
    "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"  # kana, Han
)
"""Characters of scripts that are written without blanks between words: each is counted by itself.
It is the text that tells, not the language: a translation from the Chinese is English."""


@dataclass(frozen=True, slots=True)
class _Unit:
    """A word, or a character of a script without blanks, as it is compared."""

    text: str
    start_s: float
    unspaced: bool
    is_number: bool


def suspicions(
    segments: Sequence[Segment], *, speech_s: float | None, last_speech_s: float | None
) -> tuple[str, ...]:
    """A phrase for each reason to doubt that `segments` are what was said; () where there is none.

    Args:
        segments: as the recognizer heard them, times in seconds of the recording.
        speech_s: how much speech the VAD let through; None is unknown.
        last_speech_s: where the last of it ends; None where no VAD was asked. How much of the
            speech has words can then not be told, and only the words themselves are judged.
    """
    units = [unit for segment in segments for unit in _units(segment)]
    found: list[str] = []
    if speech_s is not None and last_speech_s is not None:
        if not units:
            found += [f"no words in {speech_s:.0f} s of speech"] * (speech_s > NO_WORDS_S)
            return tuple(found)
        found += _unheard(segments, speech_s, last_speech_s)
        found += _too_slow(units, speech_s)
    if speech_s is not None:
        found += _too_fast(units, speech_s)
    found += _loop(units) or _compressible(segments)
    found += _unsure(segments)
    return tuple(found)


def _unheard(segments: Sequence[Segment], speech_s: float, last_speech_s: float) -> list[str]:
    """Speech behind the last word, else speech without words anywhere."""
    spans = sorted(_spans(segments))
    last_word_s = max((end_s for _, end_s in spans), default=0.0)
    # One late cough makes a long gap, but little speech: both have to be long.
    without_words_s = speech_s - _covered_s(spans)
    tail_s = min(last_speech_s - last_word_s, without_words_s)
    if tail_s > max(TAIL_S, min(TAIL_SHARE * speech_s, TAIL_CAP_S)):
        return [
            f"the last word ends at {last_word_s:.0f} s, speech goes on until {last_speech_s:.0f} s"
        ]
    if without_words_s > max(HOLE_S, HOLE_SHARE * speech_s):
        return [f"{without_words_s:.0f} s of {speech_s:.0f} s of speech have no words"]
    return []


def _spans(segments: Iterable[Segment]) -> Iterator[tuple[float, float]]:
    """Where something was heard: by words, else by segments. Times that are none are left out."""
    for segment in segments:
        for heard in segment.words or (segment,):
            if math.isfinite(heard.start_s) and math.isfinite(heard.end_s):
                yield heard.start_s, max(heard.start_s, heard.end_s)


def _covered_s(spans: Sequence[tuple[float, float]]) -> float:
    """Length of the union of the spans (in order), each widened by `WORD_REACH_S`."""
    covered_s, until_s = 0.0, 0.0
    for start_s, end_s in spans:
        start_s, end_s = max(start_s - WORD_REACH_S, until_s), end_s + WORD_REACH_S
        covered_s += max(0.0, end_s - start_s)
        until_s = max(until_s, end_s)
    return covered_s


def _too_slow(units: Sequence[_Unit], speech_s: float) -> list[str]:
    if speech_s < SLOW_SPEECH_S:
        return []
    # "0123456789" is ten words to say.
    spoken = sum(max(1, sum(c.isdigit() for c in unit.text)) for unit in units)
    rate = spoken / speech_s
    return [f"{_rate(units, rate)}: much is missing"] if rate < SLOWEST_WORDS_PER_S else []


def _too_fast(units: Sequence[_Unit], speech_s: float) -> list[str]:
    characters = sum(unit.unspaced for unit in units)
    words = len(units) - characters
    needed_s = words / FASTEST_WORDS_PER_S + characters / FASTEST_CHARACTERS_PER_S
    if len(units) < FAST_WORDS or needed_s <= speech_s:
        return []
    return [_rate(units, len(units) / speech_s)] if speech_s > 0 else ["words without any speech"]


def _rate(units: Sequence[_Unit], per_s: float) -> str:
    return f"{per_s:.1f} {_called(units)} a second of speech"


def _called(units: Sequence[_Unit]) -> str:
    return "characters" if 2 * sum(unit.unspaced for unit in units) > len(units) else "words"


def _units(segment: Segment) -> Iterator[_Unit]:
    """The words of a segment, without punctuation and case."""
    timed = [(word.text, word.start_s) for word in segment.words]
    for text, start_s in timed or [(segment.text, segment.start_s)]:
        for token in text.casefold().split():
            bare = "".join(c for c in token if unicodedata.category(c)[0] in "LNM")
            if not bare:
                continue
            if not _UNSPACED.search(bare):
                yield _Unit(bare, start_s, False, _is_number(bare))
                continue
            for character in bare:
                if unicodedata.category(character)[0] != "M":
                    yield _Unit(character, start_s, True, character.isnumeric())


def _loop(units: Sequence[_Unit]) -> list[str]:
    """The longest stretch in which the same words follow each other again and again."""
    texts = [unit.text for unit in units]
    longest, begin, period = 0, 0, 0
    for n in range(1, min(LOOP_LONGEST, len(texts) // LOOP_REPEATS) + 1):
        for first, length in _stretches(texts, n):
            if length < max(LOOP_REPEATS * n, LOOP_WORDS) or length <= longest:
                continue
            if not all(unit.is_number for unit in units[first : first + n]):
                longest, begin, period = length, first, n
    if not longest:
        return []
    found = units[begin : begin + period]
    what = (
        f"the same {period} {_called(found)}" if period > 1 else f"the same {_called(found)[:-1]}"
    )
    return [f"{what} {longest // period} times on end{_from(found[0].start_s)}"]


def _stretches(texts: Sequence[str], n: int) -> Iterator[tuple[int, int]]:
    """Begin and length of each stretch in which every text is that of `n` places before."""
    same = 0
    for at, (text, before) in enumerate(zip(texts[n:], texts, strict=False), n):
        if text == before:
            same += 1
            continue
        if same:
            yield at - same - n, same + n
        same = 0
    if same:
        yield len(texts) - same - n, same + n


def _compressible(segments: Sequence[Segment]) -> list[str]:
    """Text that repeats itself, if not to the letter: the first piece of it.

    Segment by segment, as Whisper does: the refrains of a song are many.
    """
    for segment in segments:
        text = " ".join(token for token in segment.text.split() if not _is_number(token))
        for at in range(0, len(text), PIECE_CHARACTERS):
            piece = text[at : at + PIECE_CHARACTERS]
            ratio = _compression_ratio(piece) if len(piece) >= LEAST_CHARACTERS else 0.0
            if ratio > COMPRESSION_RATIO:
                where = _from(segment.start_s)
                return [f"words that go round in circles{where} (they compress {ratio:.1f}:1)"]
    return []


def _unsure(segments: Sequence[Segment]) -> list[str]:
    words = bad = 0
    for segment in segments:
        if segment.avg_logprob is not None:
            count = sum(1 for _ in _units(segment))
            words += count
            bad += count * (segment.avg_logprob < LOGPROB)
    if words < LOGPROB_WORDS or 2 * bad <= words:
        return []
    return [f"the model took {100 * bad / words:.0f} % of its words for failed"]


def _is_number(token: str) -> bool:
    bare = "".join(c for c in token.casefold() if c.isalnum())
    return bare.isnumeric() or bare in _NUMBER_WORDS


def _compression_ratio(text: str) -> float:
    """Whisper's measure: length over length after zlib.

    Whisper takes the length in UTF-8, where a letter of Thai or Hindi is three bytes of which two
    are always alike. Here each letter is a byte, as in the Latin scripts that 2.4 was found on;
    where there are more than 256, two.
    """
    codes = {character: code for code, character in enumerate(sorted(set(text)))}
    if len(codes) <= 256:
        data = bytes(codes[character] for character in text)
    else:
        data = text.encode("utf-16-le", "surrogatepass")
    return len(data) / len(zlib.compress(data))


def _from(start_s: float) -> str:
    return f" from {start_s:.1f} s on" if math.isfinite(start_s) else ""
