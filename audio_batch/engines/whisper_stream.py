"""One recording's windows on their way through the shared batches, in the recording's thread."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from audio_batch.cpu_gate import CpuGate
from audio_batch.engines.base import Progress
from audio_batch.engines.batcher import Batcher, Stream
from audio_batch.engines.failures import first_line, is_out_of_memory
from audio_batch.engines.silero import SAMPLE_RATE_HZ
from audio_batch.engines.whisper_batches import (
    LANGUAGE,
    Heard,
    Replies,
    Window,
    WindowDecoder,
    batch_key,
    beginning,
)
from audio_batch.engines.whisper_speech import Speech
from audio_batch.options import DecodingOptions

TELLING_S = 25.0
"""Seconds of speech in the first window from which the language is told while it is decoded.
faster-whisper tells it from the first 30 s, however they are cut: where the first window is shorter
and others follow, those 30 s are encoded for it beforehand."""

_log = logging.getLogger("audio_batch.transcription")


class WindowStream:
    """Has the windows of one recording decoded; for one thread.

    Args:
        batcher, stream: where, and the recording's part in it.
        decoder: the batcher's work.
        cpu: entered for each window's features.
        alive: see `Stream.take`.
    """

    def __init__(
        self,
        batcher: Batcher[Window, Heard],
        stream: Stream[Window, Heard],
        decoder: WindowDecoder,
        cpu: CpuGate,
        alive: Callable[[], None],
    ) -> None:
        self._batcher, self._stream = batcher, stream
        self._decoder = decoder
        self._cpu, self._alive = cpu, alive

    def segments(
        self, speech: Speech, cut: Sequence[tuple[int, int]], options: DecodingOptions
    ) -> tuple[Iterator[Any], str, float]:
        """faster-whisper's segments in speech time, the language and its probability.

        The work is done as the segments are asked for.

        Args:
            cut: start and end, in samples of `speech`, of the windows.

        Raises:
            AssetError, DeviceError: then and now.
        """
        key = batch_key(options)
        model = self._decoder.model
        made = self._windows(speech, cut)
        language, probability = options.language, 1.0
        heard: Iterator[tuple[Window, Heard]]
        if language is not None or not model.model.is_multilingual:
            language = language or "en"
            heard = self._all(key, made, len(cut), language)
        elif len(cut) == 1 or cut[0][1] - cut[0][0] >= TELLING_S * SAMPLE_RATE_HZ:
            ((window, answer),) = self._all(key, itertools.islice(made, 1), len(cut), None)
            language, probability = answer.language, answer.language_probability
            others = self._all(key, made, len(cut) - 1, language)
            heard = itertools.chain([(window, answer)], others)
        else:
            kept: list[Window] = []
            features = beginning(window.features for window in _keeping(made, kept))
            self._stream.submit(LANGUAGE, Window(features, 0.0, 0.0, None))
            answer = self._stream.take(self._alive)
            language, probability = answer.language, answer.language_probability
            heard = self._all(key, itertools.chain(kept, made), len(cut), language)
        replies = Replies(self._decoder, key)
        segments = (
            segment
            for window, answer in heard
            for segment in replies.segments(window.start_s, window.length_s, answer)
        )
        return segments, language, probability

    def _windows(self, speech: Speech, cut: Sequence[tuple[int, int]]) -> Iterator[Window]:
        """The windows with their features, each computed when it is asked for."""
        extractor = self._decoder.model.feature_extractor
        for start, end in cut:
            with self._cpu:
                features = extractor(speech.read(start, end))[..., :-1]
            yield Window(features, start / SAMPLE_RATE_HZ, (end - start) / SAMPLE_RATE_HZ, None)

    def _all(
        self,
        key: DecodingOptions,
        windows: Iterator[Window],
        count: int,
        language: str | None,
    ) -> Iterator[tuple[Window, Heard]]:
        """The answer for each window of `count`, in order; some windows are under way meanwhile."""
        sent: deque[Window] = deque()
        for number, window in enumerate(windows, 1):
            while self._stream.outstanding >= self._batcher.room():
                yield sent.popleft(), self._stream.take(self._alive)
            asked = dataclasses.replace(window, language=language)
            self._stream.submit(key, asked, last=number == count)
            sent.append(dataclasses.replace(window, features=_NONE))
        while sent:
            yield sent.popleft(), self._stream.take(self._alive)


class Told:
    """Progress that can be told again: an asset that waits for others' batches is alive."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._position_s = 0.0

    def __call__(self, position_s: float) -> None:
        """Tell a new position."""
        self._position_s = position_s
        self._progress(position_s)

    def again(self) -> None:
        """Tell the last position."""
        self._progress(self._position_s)


class BatchSize:
    """Windows in a batch, as the recognizer's description has them; any thread.

    Args:
        description: what was resolved; has `batch_size`, gets `batch_size_lowered_to`.
    """

    def __init__(self, description: dict[str, Any]) -> None:
        self._description = description
        self._lock = threading.Lock()

    def now(self) -> int:
        """The size for the next batch."""
        size: int = self._description["batch_size"]
        return size

    def lower(self, failed: int, error: Exception) -> bool:
        """Make batches smaller than the one of `failed` windows, if that ran out of memory.

        False if smaller ones would be no help.
        """
        if failed == 1 or not is_out_of_memory(error):
            return False
        with self._lock:
            if self._description["batch_size"] >= failed:  # else another lane has been here
                self._description["batch_size"] = failed // 2
                self._description["batch_size_lowered_to"] = failed // 2
                _log.warning(
                    "Out of memory with %d windows in a batch, going on with %d: %s.",
                    failed,
                    failed // 2,
                    first_line(error),
                )
        return True


_NONE = np.zeros((0, 0), np.float32)


def _keeping(windows: Iterator[Window], kept: list[Window]) -> Iterator[Window]:
    for window in windows:
        kept.append(window)
        yield window
