"""From segments to what can be shown: utterances of one speaker, and cues of a few short lines.

Pure functions over a `Transcript`; any thread. Times are whole milliseconds from here on, so that
every format rounds alike. Speakers have the names that people read (`Speaker.shown`): labels that
are shown alike are one speaker.

Where a segment has words, their times and speakers are used. Where it has none, or where its text
was corrected afterwards and no longer equals its words, the text wins and its words get times in
proportion to their lengths: good enough to split a cue, never to highlight a word.
"""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from rich.cells import cell_len

from audio_batch.text import for_document
from audio_batch.transcript import Segment, Transcript

LINE_WIDTH = 42
"""Columns of a subtitle line unless told otherwise, as broadcasters and streaming services have it;
a wide East Asian character takes two columns."""
LINE_COUNT = 2
"""Lines of a cue unless told otherwise."""
MAX_CUE_MS = 7_000
"""The longest that one cue stands; the same guides' figure."""
PAUSE_MS = 3_000
"""A longer silence always ends a cue; the figure of Whisper's own subtitle writer."""
SHORTEST_CUE_MS = 100
"""A shorter cue is dropped by players or seen by nobody, and is widened."""
WIDENED_CUE_MS = 500
"""How long a widened cue stands, where the next one leaves it the time."""

_MAX_TIME_S = 1e9
_SENTENCE_ENDS = tuple(".?!…。？！؟।")
_CLAUSE_ENDS = tuple(",;:、，；：،؛–—")
_BREATH_MS = 250

# Scripts without blanks between words: a line may break between any two of their characters, save
# beside the marks that must not begin or end one.
_SOLID = "\u3001-\u30ff\u3400-\u9fff\uf900-\ufaff\uff01-\uff65\U00020000-\U0003ffff"
_NEVER_FIRST = "、。，．！？：；…ー々」』）】》〉〕｝’”"
_NEVER_LAST = "「『（【《〈〔｛“‘"
_STARTS_SOLID = re.compile(f"[{_SOLID}]")
_UNIT = re.compile(f"[{_NEVER_LAST}]*(?:[{_SOLID}]|[^ {_SOLID}]+)[{_NEVER_FIRST}]*")

_T = TypeVar("_T")
_Namer = Callable[[str | None], str | None]


@dataclass(frozen=True, slots=True)
class Token:
    """A word as it is shown; `blank_before` says whether a blank parts it from the one before."""

    text: str
    start_ms: int
    end_ms: int
    speaker: str | None
    blank_before: bool
    timed: bool


@dataclass(frozen=True, slots=True)
class Utterance:
    """A segment, or the part of one that one speaker says; it has at least one token."""

    start_ms: int
    end_ms: int
    speaker: str | None
    tokens: tuple[Token, ...]


@dataclass(frozen=True, slots=True)
class Cue:
    """One subtitle: its lines of tokens, who says them, and when it stands (end after start)."""

    start_ms: int
    end_ms: int
    speaker: str | None
    lines: tuple[tuple[Token, ...], ...]


def span_ms(start_s: float, end_s: float, after_ms: int = 0) -> tuple[int, int]:
    """A stretch of time in milliseconds that is always usable: 0 ≤ start ≤ end, both finite.

    Aligners return NaN for words they cannot place, and engines have returned ends before starts:
    a start that is no number becomes `after_ms`, an end that is none or too early the start.
    """
    start_ms = _ms(start_s, after_ms)
    return start_ms, max(start_ms, _ms(end_s, start_ms))


def _ms(time_s: float, otherwise_ms: int) -> int:
    if not math.isfinite(time_s):
        return otherwise_ms
    return round(min(max(time_s, 0), _MAX_TIME_S) * 1000)


def runs(items: Iterable[_T], breaks: Callable[[_T, _T], bool]) -> Iterator[tuple[_T, ...]]:
    """`items` in order, cut wherever `breaks(one, next)` holds."""
    run: list[_T] = []
    for item in items:
        if run and breaks(run[-1], item):
            yield tuple(run)
            run = []
        run.append(item)
    if run:
        yield tuple(run)


def join(tokens: Iterable[Token]) -> str:
    """The tokens' text in one line, with blanks where the language has them."""
    return "".join(
        f" {token.text}" if index and token.blank_before else token.text
        for index, token in enumerate(tokens)
    )


def utterances(transcript: Transcript) -> list[Utterance]:
    """What was said by whom, in the order of the start times; segments without text are left out.

    A segment whose words have several speakers becomes one utterance for each change of speaker;
    the first begins and the last ends with the segment.
    """
    name = speaker_namer(transcript)
    found: list[Utterance] = []
    after_ms = 0
    for segment in transcript.segments:
        start_ms, end_ms = span_ms(segment.start_s, segment.end_s, after_ms)
        after_ms = end_ms
        tokens = _tokens(segment, start_ms, end_ms, name)
        parts = list(runs(tokens, lambda one, two: one.speaker != two.speaker))
        for index, part in enumerate(parts):
            begin_ms = part[0].start_ms if index else start_ms
            finish_ms = end_ms if index == len(parts) - 1 else max(t.end_ms for t in part)
            found.append(Utterance(begin_ms, max(begin_ms, finish_ms), part[0].speaker, part))
    return sorted(found, key=lambda utterance: utterance.start_ms)


def speaker_namer(transcript: Transcript) -> _Namer:
    """From a speaker's label to one clean line to show for it; None for nobody."""
    shown = {speaker.label: speaker.shown for speaker in transcript.speakers}

    @functools.cache
    def name(label: str | None) -> str | None:
        return for_document(shown.get(label or "", "")) or for_document(label or "") or None

    return name


def _tokens(segment: Segment, start_ms: int, end_ms: int, name: _Namer) -> list[Token]:
    words = [(shown, word) for word in segment.words if (shown := for_document(word.text))]
    text = for_document(segment.text) or " ".join(shown for shown, _ in words)
    spellings = [shown for shown, _ in words]
    if _compact(text) != _compact("".join(spellings)):
        spellings = text.split(" ")  # corrected by hand, if one word for one
    if not words or len(spellings) != len(words):
        speakers = {name(word.speaker) for word in segment.words}
        speaker = name(segment.speaker) or (speakers.pop() if len(speakers) == 1 else None)
        return _spread(text, start_ms, end_ms, speaker)

    tokens: list[Token] = []
    last_start_ms, last_end_ms = 0, start_ms
    for (_, word), shown, blank in zip(words, spellings, _blanks(text, spellings), strict=True):
        word_start_ms, word_end_ms = span_ms(word.start_s, word.end_s, last_end_ms)
        last_start_ms = max(word_start_ms, last_start_ms)
        last_end_ms = max(word_end_ms, last_start_ms)
        speaker = name(word.speaker) or name(segment.speaker)
        tokens.append(Token(shown, last_start_ms, last_end_ms, speaker, blank, timed=True))
    return tokens


def _spread(text: str, start_ms: int, end_ms: int, speaker: str | None) -> list[Token]:
    """Tokens of a segment without usable word times, spread over it by their lengths."""
    units = _UNIT.findall(text)
    edges = [0, *itertools.accumulate(len(unit) for unit in units)]
    at_ms = [start_ms + (end_ms - start_ms) * edge // max(1, edges[-1]) for edge in edges]
    return [
        Token(unit, at_ms[i], at_ms[i + 1], speaker, blank, timed=False)
        for i, (unit, blank) in enumerate(zip(units, _blanks(text, units), strict=True))
    ]


def _blanks(text: str, spellings: Sequence[str]) -> Iterator[bool]:
    """For each word of `text` whether a blank comes before it there.

    The engines' words have lost it, and it cannot be guessed: "ice-cream" is two words of Whisper's
    without a blank between them. The first answers for the seam to the segment before.
    """
    blanks_at = set(itertools.accumulate(len(part) for part in text.split(" ")))
    at = 0
    for spelling in spellings:
        yield at in blanks_at if at else not _STARTS_SOLID.match(spelling)
        at += len(_compact(spelling))


def _compact(text: str) -> str:
    return text.replace(" ", "")


def cues(
    transcript: Transcript,
    *,
    max_line_width: int | None = None,
    max_line_count: int | None = None,
    names_in_lines: bool = False,
) -> list[Cue]:
    """Subtitles in the order of their start times; those of two speakers may overlap.

    No cue holds two speakers, a silence over `PAUSE_MS`, more than the given lines (`LINE_COUNT`)
    of the given columns (`LINE_WIDTH`), or, with word times, more than `MAX_CUE_MS`; a single word
    that is wider or longer stands alone. As in Whisper's own writer, cues keep to the segments
    unless width and count are both given: then words flow from one segment into the next. A
    passage is cut into as few cues as will do, preferably where a sentence or clause ends or the
    speaker breathes, and the lines of a cue are made about equally long.

    Args:
        max_line_width: columns, at least 1.
        max_line_count: at least 1.
        names_in_lines: leave room for "Name: " at the beginning of each cue.
    """
    width = max_line_width or LINE_WIDTH
    count = max_line_count or LINE_COUNT
    flowing = max_line_width is not None and max_line_count is not None

    def parted(one: Utterance, two: Utterance) -> bool:
        timed = one.tokens[0].timed and two.tokens[0].timed
        return not (flowing and timed and one.speaker == two.speaker)

    made: list[Cue] = []
    for passage in runs(utterances(transcript), parted):
        speaker = passage[0].speaker
        indent = cell_len(f"{speaker}: ") if speaker and names_in_lines else 0
        spoken = itertools.chain.from_iterable(utterance.tokens for utterance in passage)
        for block in runs(spoken, lambda one, two: two.start_ms - one.end_ms > PAUSE_MS):
            for part in _split(block, width, count, indent):
                start_ms = min(token.start_ms for token in part)
                end_ms = max(token.end_ms for token in part)
                made.append(Cue(start_ms, end_ms, speaker, _lines(part, width, indent)))
    return _widened(sorted(made, key=lambda cue: cue.start_ms))


def _widened(ordered: Sequence[Cue]) -> list[Cue]:
    wide: list[Cue] = []
    for cue, following in itertools.zip_longest(ordered, ordered[1:]):
        if cue.end_ms - cue.start_ms < SHORTEST_CUE_MS:
            room_ms = following.start_ms - cue.start_ms if following else WIDENED_CUE_MS
            shown_ms = max(SHORTEST_CUE_MS, min(WIDENED_CUE_MS, room_ms))
            cue = replace(cue, end_ms=cue.start_ms + shown_ms)
        wide.append(cue)
    return wide


def _split(
    tokens: tuple[Token, ...], width: int, count: int, indent: int
) -> Iterator[tuple[Token, ...]]:
    """The cheapest division into cues that fit: dynamic programming over the places to cut.

    A cue costs 1 plus the square of how full it is (which evens out the lengths), a cut up to 1/2
    more the less it is wanted.
    """
    sizes = _sizes(tokens)
    edges = [0, *itertools.accumulate(columns + blank for columns, blank in sizes)]
    cut_costs = [_cut_cost(one, two) for one, two in itertools.pairwise(tokens)] + [0.0]
    costs = [0.0] + [math.inf] * len(tokens)
    cuts = [0] * (len(tokens) + 1)
    for first, token in enumerate(tokens):
        from_ms, to_ms = token.start_ms, token.end_ms
        for last, line in _line_numbers(sizes, width, indent, first):
            # Words of overlapping segments need not be in the order of their times.
            from_ms = min(from_ms, tokens[last].start_ms)
            to_ms = max(to_ms, tokens[last].end_ms)
            too_long = token.timed and to_ms - from_ms > MAX_CUE_MS
            if last > first and (line >= count or too_long):
                break
            fullness = (indent + edges[last + 1] - edges[first]) / (width * count)
            cost = costs[first] + 1 + fullness**2 + cut_costs[last]
            if cost < costs[last + 1]:
                costs[last + 1], cuts[last + 1] = cost, first
        else:
            if first == 0:  # all of it fits, which no cut can beat
                break
    ends = [len(tokens)]
    while ends[-1]:
        ends.append(cuts[ends[-1]])
    for first, end in itertools.pairwise(reversed(ends)):
        yield tokens[first:end]


def _cut_cost(one: Token, two: Token) -> float:
    """How little a cut between the two is wanted."""
    if one.text.endswith(_SENTENCE_ENDS):
        return 0.0
    breath = two.start_ms - one.end_ms >= _BREATH_MS
    return 0.25 if breath or one.text.endswith(_CLAUSE_ENDS) else 0.5


def _lines(tokens: tuple[Token, ...], width: int, indent: int) -> tuple[tuple[Token, ...], ...]:
    """The tokens in as few lines as `width` allows, and these as narrow as they can be."""
    sizes = _sizes(tokens)
    numbers = [line for _, line in _line_numbers(sizes, width, indent)]
    total = indent + sum(columns + blank for columns, blank in sizes)
    for narrow in range(total // (numbers[-1] + 1), width):
        tried = [line for _, line in _line_numbers(sizes, narrow, indent)]
        if tried[-1] == numbers[-1]:
            numbers = tried
            break
    return tuple(
        tuple(token for token, _ in line)
        for line in runs(zip(tokens, numbers, strict=True), lambda one, two: one[1] != two[1])
    )


def _sizes(tokens: Iterable[Token]) -> list[tuple[int, int]]:
    """Each token's columns (one at least, which bounds the search) and those of its blank."""
    return [(max(1, cell_len(token.text)), int(token.blank_before)) for token in tokens]


def _line_numbers(
    sizes: Sequence[tuple[int, int]], width: int, indent: int, first: int = 0
) -> Iterator[tuple[int, int]]:
    """From the token `first` on: its index, and its line when lines are filled one by one."""
    line, used = 0, indent
    for index in range(first, len(sizes)):
        columns, blank = sizes[index]
        if index == first:
            used += columns
        elif used + blank + columns <= width:
            used += blank + columns
        else:
            line, used = line + 1, columns
        yield index, line


def highlights(cue: Cue) -> Iterator[tuple[int, int, int | None]]:
    """The cue's time in consecutive stretches: start and end in ms, and the word then spoken.

    The word is an index into the cue's tokens, None in the pauses between them. A cue without word
    times is one stretch.
    """
    tokens = [token for line in cue.lines for token in line]
    at_ms = cue.start_ms
    for index, token in enumerate(tokens if tokens[0].timed else ()):
        start_ms = max(at_ms, token.start_ms)
        until_ms = tokens[index + 1].start_ms if index + 1 < len(tokens) else cue.end_ms
        end_ms = min(token.end_ms, until_ms)
        if end_ms <= start_ms:
            continue
        if start_ms > at_ms:
            yield at_ms, start_ms, None
        yield start_ms, end_ms, index
        at_ms = end_ms
    if at_ms < cue.end_ms:
        yield at_ms, cue.end_ms, None
