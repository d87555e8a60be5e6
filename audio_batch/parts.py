"""A long recording in parts, for several devices: where it is cut, and how it is joined again.

The parts' borders lie on a grid of equal lengths. The cut itself is made in a pause near the
border: either neighbour finds the same one, since it looks at the same samples, so that no sample
is heard twice or not at all and nothing has to be gone through before. Everything here is pure.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from audio_batch.options import DecodingOptions
from audio_batch.outcome import StageRecord
from audio_batch.stages import Transcribed
from audio_batch.transcript import Segment

SHORTEST_S = 300.0
"""No part is made shorter: what each costs by itself (a decoding of the whole file, a batch that is
not full at its end) would outweigh what it gains."""

MARGIN_S = 30.0
MARGIN_SHARE = 0.25
"""How far from its border a part may be cut, and at most which share of a part that is."""

PAUSES = (0.1, 0.35)
"""Likelihoods of speech below which it is a pause: surely, and by Silero's own lower threshold."""
LEAST_PAUSE_S = 0.3
"""What is shorter lies within words as often as between them."""

_SAMPLE_RATE_HZ = 16_000
_WINDOW = 512
"""Samples that a likelihood of speech stands for."""
_LEAST = round(LEAST_PAUSE_S * _SAMPLE_RATE_HZ / _WINDOW)
_ENDLESS = 1 << 62
_VERSION = 1
"""Of how cuts are found: parts of different ones do not fit together."""

Likely = Callable[[NDArray[np.float32]], Iterable[float]]
"""How likely each window of 512 samples is speech (`engines.silero.probabilities`)."""


@dataclass(frozen=True, slots=True)
class Part:
    """One of `count` parts of equal length, but for the cuts; `index` counts from 0.

    `duration_s` is the recording's length as it was known beforehand. Should it turn out to be
    longer, so is the last part; should it be shorter, the last parts may be empty.
    """

    index: int
    count: int
    duration_s: float

    @property
    def label(self) -> str:
        """What the journal and file names call it: "2of8"."""
        return f"{self.index + 1}of{self.count}"

    @property
    def length_s(self) -> float:
        """About how long it is."""
        return self.duration_s / self.count

    @property
    def span(self) -> tuple[int, int]:
        """The samples that have to be looked at for its cuts and words, the second one excluded."""
        first, last = self._near(self.index)[0], self._near(self.index + 1)[1]
        return (first if self.index else 0, last if self.index + 1 < self.count else _ENDLESS)

    def _near(self, border: int) -> tuple[int, int]:
        """The samples around a border in which the cut is made.

        They begin, as the part will, where a window of the VAD would begin in the whole recording:
        so the VAD finds the same spans of speech in the part, to the sample.
        """
        margin_s = min(MARGIN_S, MARGIN_SHARE * self.length_s)
        at_s = border * self.length_s
        first = int((at_s - margin_s) * _SAMPLE_RATE_HZ) // _WINDOW * _WINDOW
        return first, int((at_s + margin_s) * _SAMPLE_RATE_HZ)

    def fingerprint(self, words: str, decoding: DecodingOptions) -> str:
        """Name of everything that decides what is heard in it.

        Args:
            words: that of the whole recording's words.
            decoding: what it is really heard with, which for a redo is not what `words` names.
        """
        parts = [_VERSION, words, dataclasses.asdict(decoding), dataclasses.astuple(self)]
        text = json.dumps(parts, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
        return hashlib.sha256(text.encode("ascii")).hexdigest()[:16]

    def cut(
        self, samples: NDArray[np.float32], first_sample: int, total: int, likely: Likely
    ) -> tuple[int, int]:
        """Its first sample in the recording, and the one after its last.

        Args:
            samples: those of `span`, as far as the recording goes.
            first_sample: where in the recording they begin.
            total: how many the recording has.
        """

        def at(border: int) -> int:
            if border in (0, self.count):
                return total if border else 0
            first, last = self._near(border)
            if first >= total:
                return total
            near = samples[first - first_sample : min(last, total) - first_sample]
            return min(first + _WINDOW * middle_of_pause(list(likely(near))), total)

        return at(self.index), at(self.index + 1)


def split(duration_s: float, count: int) -> tuple[Part, ...]:
    """A recording in `count` parts of equal length."""
    return tuple(Part(index, count, duration_s) for index in range(count))


def how_many(duration_s: float, devices: int) -> int:
    """In how many parts a recording is worth cutting for so many devices (or slots)."""
    return max(1, min(devices, int(duration_s // SHORTEST_S)))


def begun(
    records: Iterable[StageRecord],
    duration_s: float,
    source: str,
    words: str,
    decoding: DecodingOptions,
) -> Mapping[Part, StageRecord]:
    """The parts that an earlier run has heard of this very recording with these very options.

    Of several divisions, that of which there is most. It is the one to go on with, whatever number
    of parts would be chosen now.
    """
    found: dict[int, dict[Part, StageRecord]] = {}
    for record in records:
        index, _, count = record.part.partition("of")
        if record.source == source and index.isdecimal() and count.isdecimal():
            part = Part(int(index) - 1, int(count), duration_s)
            if record.fingerprint == part.fingerprint(words, decoding):
                found.setdefault(part.count, {})[part] = record
    return max(found.values(), key=lambda parts: len(parts) / next(iter(parts)).count, default={})


def middle_of_pause(likely: Sequence[float]) -> int:
    """The window in the middle of the longest pause; of equals, the one nearest to the middle.

    Where there is no pause, where speech is least likely.
    """
    centre = len(likely) / 2
    for below in PAUSES:
        runs = [run for run in _runs(likely, below) if run[1] - run[0] >= _LEAST]
        if runs:
            start, end = max(
                runs, key=lambda run: (run[1] - run[0], -abs((run[0] + run[1]) / 2 - centre))
            )
            return (start + end) // 2
    width = min(_LEAST, len(likely))
    sums = np.convolve(likely, np.ones(width), "valid")
    return min(range(len(sums)), key=lambda at: (sums[at], abs(at - centre))) + width // 2


def _runs(likely: Sequence[float], below: float) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.array(likely) < below, prepend=False, append=False))
    return [(int(start), int(end)) for start, end in edges.reshape(-1, 2)]


# -- joining ----------------------------------------------------------------------------------


def placed(segments: Iterable[Segment], span: tuple[int, int]) -> tuple[Segment, ...]:
    """Segments of a part that was heard by itself, at their times in the recording."""
    start_s, end_s = span[0] / _SAMPLE_RATE_HZ, span[1] / _SAMPLE_RATE_HZ

    def at(time_s: float) -> float:
        return round(min(time_s + start_s, end_s), 3)  # a model may hear on beyond the end

    return tuple(
        dataclasses.replace(
            segment,
            start_s=at(segment.start_s),
            end_s=at(segment.end_s),
            words=tuple(
                dataclasses.replace(word, start_s=at(word.start_s), end_s=at(word.end_s))
                for word in segment.words
            ),
        )
        for segment in segments
    )


def language_of(heard: Sequence[Transcribed]) -> str | None:
    """The language of most of the speech."""
    spoken_s: dict[str | None, float] = {}
    for part in heard:
        spoken_s[part.language] = spoken_s.get(part.language, 0.0) + _speech_s(part)
    return max(spoken_s, key=lambda language: spoken_s[language])


def misheard(heard: Sequence[Transcribed]) -> list[int]:
    """Which parts with speech in them were taken for another language than the recording's.

    Uncut it would have been heard in one.
    """
    language = language_of(heard)
    return [n for n, part in enumerate(heard) if part.language != language and _speech_s(part) > 0]


def _speech_s(part: Transcribed) -> float:
    if part.speech_s is not None:
        return part.speech_s
    return sum(segment.end_s - segment.start_s for segment in part.segments)


def join(heard: Sequence[Transcribed]) -> Transcribed:
    """The whole recording's words of those of its parts, which are in order.

    Raises:
        ValueError: they do not fit together: they are not of one decoding and one division.
    """
    first = heard[0]
    spans = [part.span for part in heard if part.span is not None]
    ends = [0, *(end for _, end in spans)]
    starts = [*(start for start, _ in spans), round(first.duration_s * _SAMPLE_RATE_HZ)]
    if len(spans) < len(heard) or starts != ends:
        raise ValueError("the parts leave something out or overlap")
    if any((part.duration_s, part.media) != (first.duration_s, first.media) for part in heard):
        raise ValueError("the parts are not of the same recording")
    language = language_of(heard)
    same = [part for part in heard if part.language == language]
    speech_s = [part.speech_s for part in heard]
    devices = dict.fromkeys(str(part.about.get("device", "")) for part in heard)
    return dataclasses.replace(
        first,
        segments=tuple(segment for part in heard for segment in part.segments),
        language=language,
        language_probability=_mean_probability(same),
        speech_s=None if None in speech_s else round(sum(s or 0.0 for s in speech_s), 3),
        notes=tuple(_notes(heard)),
        about={
            **first.about,
            "device": ", ".join(devices),
            "parts": [_about(part, first) for part in heard],
        },
        last_speech_s=_last_speech_s(heard),
        span=None,
    )


def _mean_probability(heard: Sequence[Transcribed]) -> float | None:
    known = [part for part in heard if part.language_probability is not None]
    weight_s = sum(_speech_s(part) for part in known)
    if not weight_s:
        return known[0].language_probability if known else None
    total = sum((part.language_probability or 0.0) * _speech_s(part) for part in known)
    return round(total / weight_s, 4)


def _last_speech_s(heard: Sequence[Transcribed]) -> float | None:
    if any(part.last_speech_s is None for part in heard):
        return None
    return max(part.last_speech_s or 0.0 for part in heard)


def _notes(heard: Sequence[Transcribed]) -> Iterable[str]:
    """What is said of all of them once, what of some with the times of each."""
    for note in dict.fromkeys(note for part in heard for note in part.notes):
        of = [part for part in heard if note in part.notes]
        if len(of) == len(heard):
            yield note
            continue
        for part in of:
            start_s, end_s = _times_s(part)
            yield f"{note} (from {start_s:.0f} s to {end_s:.0f} s)"


def _about(part: Transcribed, first: Transcribed) -> dict[str, object]:
    """Where a part was cut, and what made it where that is not what made the first."""
    start_s, end_s = _times_s(part)
    other = {key: value for key, value in part.about.items() if first.about.get(key) != value}
    return {"start_s": start_s, "end_s": end_s, "device": part.about.get("device"), **other}


def _times_s(part: Transcribed) -> tuple[float, float]:
    start, end = part.span or (0, 0)
    return round(start / _SAMPLE_RATE_HZ, 3), round(end / _SAMPLE_RATE_HZ, 3)
