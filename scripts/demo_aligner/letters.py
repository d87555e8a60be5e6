"""Windows of speech and what the aligner has to say about each of their frames.

The recordings, the pauses and the alterations are those of `scripts/demo_asr`.  A word lasts from
the first to the last loud sample of its recording (`data.speech_span`), at the place where the
recording was put; that is the boundary which is trained and measured.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import torch
from compose import training_window
from data import FRAME, WORDS, Corpus
from synth import RATE, Audio
from torch import Tensor

VOCABULARY = ("<pad>", "<s>", "</s>", "<unk>", "|", *"abcdefghijklmnopqrstuvwxyz'")
CODE = {symbol: code for code, symbol in enumerate(VOCABULARY)}
BLANK, SEPARATOR, IGNORED = CODE["<pad>"], CODE["|"], -100
EDGE_SAMPLES = 40
"""Added at both ends of a window: frame k of the model then covers samples 320 k to 320 (k + 1)."""

Span = tuple[int, float, float]


@dataclass
class Batch:
    """Windows of one length, T frames each."""

    audio: Tensor  # (B, 320 T + 80)
    symbols: Tensor  # (B, T) index into VOCABULARY, -100 where a word is cut
    weights: Tensor  # (B, T) what a frame counts


def frame_symbols(words: list[Span], frames: int) -> list[int]:
    """The symbol of each frame: where whisperX's alignment looks for it.

    Its paths stay in a letter by blanks only (`whisperx.alignment.get_trellis`), so that a letter
    which is held over many frames has no place.  Each letter therefore has one frame: the first
    letter the frame in which the word begins, the last letter the frame in which it ends, the
    separator the frame after that.  Everything else is blank, as with any CTC model.
    """
    symbols = [BLANK] * frames
    spans = []
    last = 0
    for word, start_s, end_s in words:
        first = max(round(start_s * RATE / FRAME), last)
        last = max(round(end_s * RATE / FRAME), first + 2)
        spans.append((WORDS[word], first, last))
    for number, (word, first, end) in enumerate(spans):
        following = spans[number + 1][1] if number + 1 < len(spans) else frames
        # Words that touch: the separator takes the last frame of the first one.
        close = min(end, following - 1)
        for place, letter in zip(np.linspace(first, close - 1, len(word)), word, strict=True):
            if 0 <= round(place) < frames:
                symbols[round(place)] = CODE[letter]
        if 0 <= close < frames:
            symbols[close] = SEPARATOR
    return symbols


def frame_weights(symbols: list[int]) -> list[float]:
    """What each frame counts: symbols at the edges of words more than blanks."""
    return [0.4 if symbol == BLANK else 1.0 for symbol in symbols]


def squeeze(rng: np.random.Generator, audio: Audio) -> Audio:
    """What a low bit rate does to a recording: weak parts of the spectrum go, others grow coarse.

    A stand-in for MP3's coder: frames of 1152 samples, whatever lies under a threshold that
    follows each frame's loudest part becomes zero, the rest keeps about 20 levels.
    """
    size, hop = 1152, 576
    window = np.sin(np.pi * (np.arange(size) + 0.5) / size).astype(np.float32)
    padded = np.concatenate([np.zeros(hop, "f4"), audio, np.zeros(size, "f4")])
    count = (len(padded) - size) // hop + 1
    parts = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop][:count] * window
    spectrum = np.fft.rfft(parts)
    size_of = np.abs(spectrum)
    loudest = size_of.max(1, keepdims=True) + 1e-9
    floor = loudest * 10 ** (-rng.uniform(30, 55) / 20)
    step = floor * rng.uniform(0.5, 1.5)
    kept = np.where(size_of < floor, 0.0, np.round(size_of / step) * step)
    parts = np.fft.irfft(spectrum * kept / (size_of + 1e-12), size).astype(np.float32) * window
    made = np.zeros(hop * (count + 1), np.float32)
    made[: hop * count] += parts[:, :hop].reshape(-1)
    made[hop:] += parts[:, hop:].reshape(-1)
    return made[hop : hop + len(audio)]


def make_batch(
    rng: random.Random, noise: np.random.Generator, corpus: Corpus, size: int, seconds: float
) -> Batch:
    """``size`` windows of ``seconds``; what a window has less is digital silence at either end."""
    frames = int(seconds * RATE / FRAME)
    audio = torch.zeros(size, frames * FRAME + 2 * EDGE_SAMPLES)
    symbols, weights = [], []
    for row in audio:
        window, cut = training_window(rng, noise, corpus, seconds, 100)
        wave = window.audio[: frames * FRAME]
        if noise.random() < 0.2:
            wave = squeeze(noise, wave)
        shift = rng.randint(0, frames * FRAME - len(wave)) if rng.random() < 0.5 else 0
        row[EDGE_SAMPLES + shift :][: len(wave)] = torch.from_numpy(wave)
        late = shift / RATE
        made = frame_symbols([(w, a + late, b + late) for w, a, b in window.words], frames)
        if cut >= 0:
            first = (cut + shift) // FRAME
            made[first:] = [IGNORED] * len(made[first:])
        symbols.append(made)
        weights.append(frame_weights(made))
    return Batch(audio, torch.tensor(symbols), torch.tensor(weights))
