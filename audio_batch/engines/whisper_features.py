"""Log-mel features of a recording of any length, computed where and when they are asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from audio_batch.engines.whisper_speech import Speech

_DYNAMIC_RANGE = 2.0
"""What is further below the loudest frame is lifted up to there: 80 dB, over 40 (the features'
scale), as in Whisper's `log_mel_spectrogram`."""
_MARGIN = 4
"""Frames on either side of those asked for whose samples (640) reach beyond half an FFT (200)."""
_STEP_S = 60


class LogMel:
    """What `FeatureExtractor(speech)` would give, shape (mels, frames), without holding it.

    It has what faster-whisper's window loop uses of an array: `shape`, and slices of frames.
    The loudest frame of the whole sets the floor of all, so all are computed once beforehand.

    Args:
        extractor: faster-whisper's `FeatureExtractor`.
        speech: what to compute the features of.
        chunk_length: seconds of a window; None keeps the extractor's own.
    """

    def __init__(self, extractor: Any, speech: Speech, chunk_length: int | None) -> None:
        self._extractor = extractor
        self._speech = speech
        self._chunk_length = chunk_length
        self._hop = int(extractor.hop_length)
        frames = len(speech) // self._hop + 1
        self.shape = (int(extractor.mel_filters.shape[0]), frames)
        step = _STEP_S * int(extractor.sampling_rate) // self._hop
        loudest = max(
            float(self._frames(start, min(start + step, frames)).max())
            for start in range(0, frames, step)
        )
        self._floor = np.float32(loudest - _DYNAMIC_RANGE)

    def __getitem__(self, key: tuple[slice, slice]) -> NDArray[np.float32]:
        mels, frames = key
        start, end, _ = frames.indices(self.shape[1])
        features: NDArray[np.float32] = np.maximum(self._frames(start, end), self._floor)
        return features[mels]

    def _frames(self, start: int, end: int) -> NDArray[np.float32]:
        """Frames `start` to `end` (excluded), with a floor below the loudest of them alone."""
        first = max(0, start - _MARGIN)
        samples = self._speech.read(first * self._hop, (end + _MARGIN) * self._hop)
        # The extractor appends a frame of silence: the last of the whole, else within the margin.
        features: NDArray[np.float32] = self._extractor(samples, chunk_length=self._chunk_length)
        return features[:, start - first : end - first]


def log_mel(
    extractor: Any, speech: Speech, chunk_length: int | None, whole_s: float
) -> NDArray[np.float32] | LogMel:
    """The features of `speech`: at once up to `whole_s` seconds of it, beyond on demand."""
    if len(speech) > whole_s * extractor.sampling_rate:
        return LogMel(extractor, speech, chunk_length)
    features: NDArray[np.float32] = extractor(
        speech.read(0, len(speech)), chunk_length=chunk_length
    )
    return features
