"""From faster-whisper's segments to ours."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from audio_batch.engines.base import Progress
from audio_batch.transcript import Segment, Word


def collect(
    segments: Iterable[Any], join_gap_s: float | None, progress: Progress
) -> tuple[Segment, ...]:
    """Consume the lazy generator, which is where the work happens."""
    collected: list[Segment] = []
    for raw in segments:
        segment = _segment(raw)
        progress(segment.end_s)
        if segment.text:
            _append(collected, segment, join_gap_s)
    return tuple(collected)


def _segment(raw: Any) -> Segment:
    words = tuple(
        Word(
            text=word.word.strip(),
            start_s=round(float(word.start), 3),
            end_s=round(float(word.end), 3),
            probability=round(float(word.probability), 4),
        )
        for word in raw.words or ()
        if word.word.strip()
    )
    return Segment(
        text=raw.text.strip(),
        start_s=round(float(raw.start), 3),
        end_s=round(max(float(raw.end), float(raw.start)), 3),
        words=words,
        avg_logprob=_rounded(raw.avg_logprob),
        no_speech_prob=_rounded(raw.no_speech_prob),
        compression_ratio=_rounded(raw.compression_ratio),
        temperature=_rounded(raw.temperature),
    )


def _rounded(value: Any) -> float | None:
    return None if value is None else round(float(value), 4)


def _append(collected: list[Segment], segment: Segment, join_gap_s: float | None) -> None:
    """Add a segment, or make it part of the one before where the model asks for joining."""
    last = collected[-1] if collected else None
    if last is None or join_gap_s is None or segment.start_s - last.end_s > join_gap_s:
        collected.append(segment)
        return
    weights = (max(1, len(last.text.split())), max(1, len(segment.text.split())))
    collected[-1] = Segment(
        text=f"{last.text} {segment.text}",
        start_s=last.start_s,
        end_s=max(last.end_s, segment.end_s),
        words=last.words + segment.words,
        avg_logprob=_mean(last.avg_logprob, segment.avg_logprob, weights),
        no_speech_prob=last.no_speech_prob,
        compression_ratio=last.compression_ratio,
        temperature=last.temperature,
    )


def _mean(first: float | None, second: float | None, weights: tuple[int, int]) -> float | None:
    if first is None or second is None:
        return None
    return round((first * weights[0] + second * weights[1]) / sum(weights), 4)
