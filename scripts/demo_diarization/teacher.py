"""The trained d-vector that teaches: its features, its embeddings, and the space taught in.

Features and windows are those of the model's README.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from recordings import Audio
from scipy.fft import dct

_SIZE, _HOP, _WINDOW = 2048, 512, 100


class Teacher:
    """Embeddings of (samples,) audio at 16 kHz: 128 numbers of length 1."""

    def __init__(self, folder: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(folder / "dvector.onnx"), options)
        self._filters = np.load(folder / "mel_filters.npy").T
        self._hann = np.hanning(_SIZE + 1)[:-1].astype(np.float32)

    def _mfcc(self, audio: Audio) -> NDArray[np.float32]:
        padded = np.pad(audio, _SIZE // 2)
        frames = np.lib.stride_tricks.sliding_window_view(padded, _SIZE)[::_HOP] * self._hann
        mel = (np.abs(np.fft.rfft(frames)) ** 2).astype(np.float32) @ self._filters
        decibels = 10 * np.log10(np.maximum(mel, 1e-10))
        decibels = np.maximum(decibels, decibels.max() - 80)
        return np.asarray(dct(decibels, type=2, norm="ortho")[:, :40], dtype=np.float32)

    def windows(self, audio: Audio, frames: int = _WINDOW) -> NDArray[np.float32]:
        """One embedding per window of ``frames`` (32 ms each), half overlapping."""
        mfcc = self._mfcc(audio)
        count = max(1, 1 + (len(mfcc) - frames) * 2 // frames)
        at = [mfcc[i * frames // 2 :][:frames] for i in range(count)]
        return np.asarray(self._session.run(None, {"mfcc": np.stack(at)})[0])

    def __call__(self, audio: Audio) -> NDArray[np.float32]:
        """The embedding of a recording: the mean of its windows."""
        return unit(self.windows(audio).mean(0))


def unit(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Vectors scaled to length 1."""
    return np.asarray(x / (np.linalg.norm(x, axis=-1, keepdims=True) + 1e-9), dtype=np.float32)


@dataclass
class Space:
    """Where the teacher's embeddings tell voices apart best by their cosine.

    Centred, and divided by what varies within a voice (within-class covariance normalisation:
    Hatch, Kajarekar, Stolcke 2006).
    """

    mean: NDArray[np.float32]
    whiten: NDArray[np.float32]

    @classmethod
    def of(cls, groups: list[NDArray[np.float32]], shrink: float) -> Space:
        """From the embeddings of short windows, one array a voice."""
        groups = [unit(g) for g in groups if len(g) > 1]
        mean = np.stack([g.mean(0) for g in groups]).mean(0)
        spread = np.concatenate([g - g.mean(0) for g in groups])
        within = spread.T @ spread / len(spread)
        within += shrink * np.trace(within) / len(within) * np.eye(len(within))
        values, vectors = np.linalg.eigh(within)
        return cls(mean, (vectors / np.sqrt(values)).astype(np.float32) @ vectors.T)

    def __call__(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        """The same embeddings in the space, of length 1."""
        return unit((embeddings - self.mean) @ self.whiten)
