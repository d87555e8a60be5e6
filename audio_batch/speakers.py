"""Who said what: words to the turns of a diarization, and segments cut where the speaker changes.

Pure functions without a model; any thread. What counts is whole milliseconds, so that equal is
equal whatever the rounding of the engines.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from bisect import bisect, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from audio_batch.subtitles import runs, span_ms
from audio_batch.transcript import Segment, Turn, Word

NEAR_MS = 500
"""How far from a turn a word may lie that touches none. Scorers forgive 250 ms at each boundary of
a turn (NIST's collar), and word times read off Whisper's cross-attention stray about as far."""

_Span = tuple[int, int]


def assign(
    segments: Sequence[Segment], turns: Sequence[Turn], exclusive_turns: Sequence[Turn]
) -> tuple[Segment, ...]:
    """The segments with their speakers, words first; what `segments` said of speakers is dropped.

    A word has the speaker, by the first of these that names one:

    1. who talks longest during it in `exclusive_turns`;
    2. who talks longest during it in `turns`, which may overlap;
    3. whose turn is the nearest to it, within `NEAR_MS`;
    4. who has the nearest word of its segment, the earlier of two that are as near;
    5. nobody.

    Of speakers who tie in 1 to 3, it is the one who has the word before it in the segment, else the
    one who began first. A word of no length counts as the millisecond that it begins. Words that
    the text writes as one ("ice" and "-cream") count as one.

    A segment is cut where the speaker changes. Each piece has its words, their stretch of the
    segment's text (all pieces in a row are that text, character by character), their times within
    the segment's, and a copy of the segment's scores, which the engine gave for the whole of it.
    A segment whose text is not that of its words cannot be cut: its words have their speakers, and
    it has the one with the most of their time. A segment without words is given as if it were one.
    """
    exclusive = _Timeline(exclusive_turns)
    everyone = _Timeline((*exclusive_turns, *turns))
    made: list[Segment] = []
    after_ms = 0
    for segment in segments:
        start_ms, after_ms = span_ms(segment.start_s, segment.end_s, after_ms)
        if segment.words:
            made.extend(_cut(segment, (start_ms, after_ms), exclusive, everyone))
        else:
            speaker = _speaker((start_ms, after_ms), None, exclusive, everyone)
            made.append(replace(segment, speaker=speaker))
    return tuple(made)


# --- the evidence ----------------------------------------------------------------------------


class _Timeline:
    """Turns as stretches in the order of time that share nothing, each with all who talk in it.

    The speakers of a stretch are in the order in which they began. Looking a span up takes the
    logarithm of the turns' number, and as many steps as it has stretches.
    """

    def __init__(self, turns: Iterable[Turn]) -> None:
        events: list[tuple[int, int, str]] = []
        for turn in turns:
            if turn.start_s < turn.end_s:  # else, or if one is no number, it holds nothing
                start_ms, end_ms = span_ms(turn.start_s, turn.end_s)
                events.append((start_ms, 1, turn.speaker))
                events.append((max(end_ms, start_ms + 1), -1, turn.speaker))
        self._starts_ms: list[int] = []
        self._ends_ms: list[int] = []
        self._speakers: list[tuple[str, ...]] = []
        talking: dict[str, int] = {}
        at_ms = 0
        for time_ms, change, speaker in sorted(events, key=lambda event: event[0]):
            if talking and time_ms > at_ms:
                self._starts_ms.append(at_ms)
                self._ends_ms.append(time_ms)
                self._speakers.append(tuple(talking))
            at_ms = time_ms
            talking[speaker] = talking.get(speaker, 0) + change
            if not talking[speaker]:
                del talking[speaker]

    def during(self, span: _Span) -> dict[str, int]:
        """Milliseconds that each speaker talks within the span, who began first coming first."""
        start_ms, end_ms = span
        found: dict[str, int] = {}
        index = bisect_right(self._ends_ms, start_ms)
        while index < len(self._starts_ms) and self._starts_ms[index] < end_ms:
            shared_ms = min(end_ms, self._ends_ms[index]) - max(start_ms, self._starts_ms[index])
            for speaker in self._speakers[index]:
                found[speaker] = found.get(speaker, 0) + shared_ms
            index += 1
        return found

    def beside(self, span: _Span) -> dict[str, int]:
        """Who talks at most `NEAR_MS` before or after a span without turns: minus the distance."""
        found: dict[str, int] = {}
        following = bisect_right(self._ends_ms, span[0])
        for index in range(max(0, following - 1), min(following + 1, len(self._starts_ms))):
            distance_ms = _distance_ms((self._starts_ms[index], self._ends_ms[index]), span)
            if distance_ms <= NEAR_MS:
                for speaker in self._speakers[index]:
                    found[speaker] = max(-distance_ms, found.get(speaker, -NEAR_MS))
        return found


def _distance_ms(one: _Span, two: _Span) -> int:
    return max(0, two[0] - one[1], one[0] - two[1])


def _speaker(
    span: _Span, before: str | None, exclusive: _Timeline, everyone: _Timeline
) -> str | None:
    """Rules 1 to 3 of `assign`; `before` has the word before."""
    span = (span[0], max(span[1], span[0] + 1))
    evidence = exclusive.during(span) or everyone.during(span) or everyone.beside(span)
    return _first(evidence, before)


def _first(evidence: Mapping[str, int], before: str | None) -> str | None:
    if not evidence:
        return None
    best = max(evidence.values())
    ahead = [speaker for speaker, value in evidence.items() if value == best]
    return before if before in ahead else ahead[0]


# --- segments --------------------------------------------------------------------------------


def _cut(
    segment: Segment, within: _Span, exclusive: _Timeline, everyone: _Timeline
) -> Iterator[Segment]:
    words = segment.words
    spans: list[_Span] = []
    for word in words:
        spans.append(span_ms(word.start_s, word.end_s, spans[-1][1] if spans else within[0]))
    seams = _seams(segment.text, words)
    units = list(runs(range(len(words)), lambda _, two: seams is None or seams[two] is not None))
    unit_spans = [_hull(spans[index] for index in unit) for unit in units]

    given: list[str | None] = []
    for span in unit_spans:
        given.append(_speaker(span, given[-1] if given else None, exclusive, everyone))
    given = _filled(given, unit_spans)

    speakers = [speaker for unit, speaker in zip(units, given, strict=True) for _ in unit]
    spoken = tuple(
        replace(word, speaker=speaker) for word, speaker in zip(words, speakers, strict=True)
    )
    if seams is None or len(set(speakers)) == 1:
        yield replace(segment, words=spoken, speaker=_most(speakers, spans))
        return
    changes = (i for i in range(1, len(words)) if speakers[i - 1] != speakers[i])
    for first, end in itertools.pairwise((0, *changes, len(words))):
        start_ms, end_ms = _hull(spans[first:end])
        start_ms = min(max(start_ms, within[0]), within[1])
        yield replace(
            segment,
            text=segment.text[seams[first] : seams[end]],
            start_s=start_ms / 1000,
            end_s=max(start_ms, min(end_ms, within[1])) / 1000,
            words=spoken[first:end],
            speaker=speakers[first],
        )


def _hull(spans: Iterable[_Span]) -> _Span:
    starts_ms, ends_ms = zip(*spans, strict=True)
    return min(starts_ms), max(ends_ms)


def _filled(speakers: list[str | None], spans: Sequence[_Span]) -> list[str | None]:
    """Rule 4 of `assign`: nobody's words go to the nearest of those that have a speaker."""
    known = [index for index, speaker in enumerate(speakers) if speaker is not None]
    filled = list(speakers)
    for index, speaker in enumerate(speakers):
        if speaker is None and known:
            at = bisect(known, index)
            beside = known[max(0, at - 1) : at + 1]
            nearest = min(beside, key=lambda other: _distance_ms(spans[other], spans[index]))
            filled[index] = speakers[nearest]
    return filled


def _most(speakers: Sequence[str | None], spans: Sequence[_Span]) -> str | None:
    """Who has the most time of these words; either all of them have a speaker, or none."""
    times_ms: dict[str, int] = {}
    for speaker, (start_ms, end_ms) in zip(speakers, spans, strict=True):
        if speaker is not None:
            times_ms[speaker] = times_ms.get(speaker, 0) + end_ms - start_ms
    return _first(times_ms, None)


_OPENING = ("Ps", "Pi")


def _seams(text: str, words: Sequence[Word]) -> list[int | None] | None:
    """Where `text` can be cut before each word, and its end; None if it is not the words' text.

    A seam is None where the text writes the word and the one before it as one. What stands between
    two words is parted at its first blank, else before the brackets and quotes that open there.
    """
    seams: list[int | None] = []
    at = 0
    for word in words:
        spelling = word.text.strip()
        begin = text.find(spelling, at)
        if begin < 0:
            return None
        seams.append(_seam(text, at, begin) if spelling else None)
        at = begin + len(spelling)
    return [0, *seams[1:], len(text)]


def _seam(text: str, after: int, begin: int) -> int | None:
    if blank := re.search(r"\s", text[after:begin]):
        return after + blank.start()
    seam = begin
    while seam > after and unicodedata.category(text[seam - 1]) in _OPENING:
        seam -= 1
    if not seam:
        return None
    left, right = unicodedata.category(text[seam - 1]), unicodedata.category(text[seam])
    # Scripts that write words without blanks have letters without case (Lo).
    apart = right in _OPENING or (right[0] in "LN" and "Lo" in (left, right))
    return seam if apart else None
