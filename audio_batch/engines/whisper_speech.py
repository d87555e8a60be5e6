"""The speech of a recording put together without the rest, and cut into windows."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from audio_batch.engines.silero import Span


def windows(spans: Sequence[Span], longest: int) -> list[tuple[int, int]]:
    """Start and end, in samples of `Speech`, of the windows that batches are made of.

    Each holds as many whole spans as fit into `longest` samples, as faster-whisper's
    `collect_chunks` groups them (which copies the audio of all of them).
    """
    made: list[tuple[int, int]] = []
    start = end = 0
    for span in spans:
        length = span["end"] - span["start"]
        if end + length - start > longest:
            made.append((start, end))
            start = end
        end += length
    made.append((start, end))
    return [window for window in made if window[0] < window[1]]


def grid(length: int, width: int) -> list[tuple[int, int]]:
    """Windows side by side over `length` samples, for batches without VAD."""
    return [(start, min(start + width, length)) for start in range(0, length, width)]


class Speech:
    """The spans of a recording one after the other, read where they are: no copy of the whole.

    Args:
        samples: the recording, shape (n,).
        spans: in order, not overlapping.
    """

    def __init__(self, samples: NDArray[np.float32], spans: Sequence[Span]) -> None:
        self._samples = samples
        self._spans = spans
        self._ends = list(accumulate(span["end"] - span["start"] for span in spans))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def read(self, start: int, end: int) -> NDArray[np.float32]:
        """Samples `start` to `end` (excluded) of the speech; what lies outside is left out."""
        parts = list(self._parts(max(0, start), min(end, len(self))))
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)

    def _parts(self, start: int, end: int) -> Iterator[NDArray[np.float32]]:
        index = bisect_right(self._ends, start)
        while start < end:
            span, span_end = self._spans[index], self._ends[index]
            until = min(end, span_end)
            shift = span["end"] - span_end
            yield self._samples[start + shift : until + shift]
            start = until
            index += 1
