"""Windows of speech composed for training, and their Mel features and targets."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import torch
from data import FRAME, WORDS, Clip, Corpus, Window, alter, background
from faster_whisper.feature_extractor import FeatureExtractor
from synth import RATE, Audio

SILENCE = len(WORDS)  # the frame class of frames without a word


@dataclass
class Batch:
    """Windows ready for the model; T encoder frames, all times in encoder frames."""

    mel: torch.Tensor  # (B, 80, 2 T)
    frames: torch.Tensor  # (B, T) frame class
    ordinal: torch.Tensor  # (B, T) number of the word in its window, -100 outside words
    words: list[list[tuple[int, int, int]]]  # (word, first frame, end frame)
    content: list[int]  # frames of audio; what follows is padding
    cut: list[int]  # first frame of a last word that the window cuts, or -1
    encoded: torch.Tensor | None = None  # (B, T, width), once the encoder no longer learns


def _pieces(rng: random.Random, corpus: Corpus, digits: bool) -> list[list[Clip]]:
    """Pools to draw the words of one window from: mostly one voice, at times several."""
    if not digits:
        return [corpus.commands, corpus.commands, corpus.crowd, *corpus.fsdd.values()]
    kind = rng.random()
    if kind < 0.32:
        return [corpus.fsdd[rng.choice(sorted(corpus.fsdd))]]
    if kind < 0.60:
        return [corpus.espeak]
    if kind < 0.80:
        return [corpus.crowd]
    return [*corpus.fsdd.values(), corpus.crowd, corpus.espeak]


def _stretch(audio: Audio, factor: float) -> Audio:
    """Play faster by ``factor``: tempo, pitch and formants rise together."""
    at = np.arange(int(len(audio) / factor)) * factor
    return np.interp(at, np.arange(len(audio)), audio).astype(np.float32)


def _cut_piece(
    rng: random.Random, clip: Clip, most: int, tight: bool
) -> tuple[Audio, list[tuple[int, int, int]]]:
    """Some words in a row of a clip, with a random part of what surrounds them."""
    count = len(clip.words)
    take = 1 if count == 1 else rng.randint(1, min(count, most))
    first = rng.randint(0, count - take)
    words = clip.words[first : first + take]
    lowest = clip.words[first - 1][2] if first else 0
    highest = clip.words[first + take][1] if first + take < count else len(clip.audio)
    whole = rng.random() < 0.4 and not tight
    margin = 10**9 if whole else rng.randint(0, 400) if tight else rng.randint(160, 2400)
    start = max(lowest, words[0][1] - margin)
    end = min(highest, words[-1][2] + margin)
    return clip.audio[start:end], [(w, a - start, b - start) for w, a, b in words]


def compose(
    rng: random.Random, corpus: Corpus, seconds: float, max_words: int, digits: bool
) -> Window:
    """One clean string of words that fills about ``seconds``."""
    limit = int(seconds * RATE)
    audio = np.zeros(limit, dtype=np.float32)
    pools = _pieces(rng, corpus, digits)
    pace = rng.random()
    speed = rng.uniform(0.85, 1.18)
    level = 10 ** (rng.uniform(-24, -1) / 20)
    voice = rng.choice(pools[0]).speaker if pools[0] is corpus.espeak else None
    same = [c for c in corpus.espeak if c.speaker == voice] if voice else []
    words: list[tuple[int, float, float]] = []
    at = int(RATE * rng.choice((0.0, rng.uniform(0, 0.5), rng.uniform(0, 0.5), rng.uniform(0, 2))))
    abrupt = rng.random() < 0.3
    if abrupt:
        at = 0
    elif rng.random() < 0.1:
        # faster-whisper may begin a window a moment before a word it already has has ended.
        clip = rng.choice(same or rng.choice(pools))
        end = clip.words[-1][2]
        rest = clip.audio[max(0, end - rng.randint(100, 1100)) : end + 800][: limit // 2]
        audio[: len(rest)] = rest * (level / (float(np.abs(clip.audio).max()) + 1e-6))
        at = max(at, len(rest) + rng.randint(0, 4800))
    while len(words) < max_words:
        clip = rng.choice(same or rng.choice(pools))
        piece, spans = _cut_piece(rng, clip, 8, pace < 0.2 or (abrupt and not words))
        factor = speed * rng.uniform(0.96, 1.04)
        piece = _stretch(piece, factor)
        if at + len(piece) > limit or len(words) + len(spans) > max_words:
            break
        loudest = float(np.abs(piece).max()) + 1e-6
        audio[at : at + len(piece)] += piece * (level * 10 ** (rng.uniform(-4, 2) / 20) / loudest)
        words += [(w, (at + a / factor) / RATE, (at + b / factor) / RATE) for w, a, b in spans]
        if pace < 0.4:
            gap = rng.uniform(-0.02, 0.15)
        elif pace < 0.9:
            gap = rng.uniform(0.1, 1.0)
        else:
            gap = rng.uniform(0.1, 2.5)
        # A gap is counted from the end of the recording or from the end of the word.
        tail = at + len(piece) if rng.random() < 0.7 else int(words[-1][2] * RATE)
        at = max(tail + int(gap * RATE), int(words[-1][2] * RATE) - 320)
    end = min(limit, at if rng.random() < 0.7 else limit)
    if words:
        last = int(words[-1][2] * RATE)
        end = last + rng.randint(0, 800) if rng.random() < 0.35 else max(end, last)
    return Window(audio[: max(end, RATE // 2)], words)


def training_window(
    rng: random.Random, noise: np.random.Generator, corpus: Corpus, seconds: float, max_words: int
) -> tuple[Window, int]:
    """An altered window, and the sample at which its cut last word begins (-1: none is cut)."""
    kind = rng.random()
    if kind < 0.07:
        window = Window(np.zeros(int(rng.uniform(0.5, seconds) * RATE), dtype=np.float32))
        if rng.random() < 0.8:
            level = 10 ** (rng.uniform(-75, -6) / 20)
            window.audio = (background(noise, len(window.audio)) * level).astype(np.float32)
        return window, -1
    window = compose(rng, corpus, seconds, max_words, digits=kind < 0.87)
    if rng.random() < 0.75:
        window.audio = alter(noise, window.audio)
    if rng.random() < 0.6:
        power = float(np.sqrt((window.audio**2).mean())) + 1e-6
        gain = power * 10 ** (-rng.uniform(4, 45) / 20)
        window.audio = window.audio + background(noise, len(window.audio)) * gain
    cut = -1
    if len(window.words) > 1 and rng.random() < 0.15:
        place = rng.randrange(1, len(window.words))
        _, a, b = window.words[place]
        part = rng.uniform(0.0, 0.75)
        window.audio = window.audio[: int((a + part * (b - a)) * RATE)]
        window.words = window.words[:place]
        cut = int(a * RATE) if part > 0.15 else -1
    peak = float(np.abs(window.audio).max())
    if peak > 1.0:
        window.audio = window.audio / peak
    return window, cut


class MelMaker:
    """faster-whisper's log-Mel features, for a batch of windows with torch."""

    def __init__(self) -> None:
        self.filters = torch.from_numpy(FeatureExtractor().mel_filters)
        self.hann = torch.hann_window(400)

    def __call__(self, audio: list[Audio], frames: int, lift: list[float]) -> torch.Tensor:
        """(B, 80, frames): zeros follow each window's end as faster-whisper pads.

        ``lift`` (log10 units) raises a window's floor, as a louder part elsewhere in the same
        recording would.
        """
        batch = torch.zeros(len(audio), frames * 160 + 160)
        for row, wave in zip(batch, audio, strict=True):
            count = min(len(wave), len(row))
            row[:count] = torch.from_numpy(wave[:count])
        spectrum = torch.stft(batch, 400, 160, window=self.hann, return_complex=True)
        power = spectrum[..., :frames].abs() ** 2
        mel = torch.log10((self.filters @ power).clamp(min=1e-10))
        for i, wave in enumerate(audio):
            used = min(len(wave) // 160, frames)
            floor = mel[i, :, :used].max() - 8.0 + lift[i]
            mel[i] = (torch.maximum(mel[i], floor) + 4.0) / 4.0
            mel[i, :, used:] = 0.0
        return mel


def mask_features(rng: random.Random, mel: torch.Tensor, content: list[int]) -> None:
    """SpecAugment in place: some Mel bands, few short times."""
    for i, used in enumerate(content):
        if rng.random() < 0.5:
            mean = float(mel[i, :, : 2 * used].mean())
            for _ in range(2):
                low = rng.randrange(0, 72)
                mel[i, low : low + rng.randint(1, 10), : 2 * used] = mean
            for _ in range(rng.randint(0, 4)):
                start = rng.randrange(0, max(1, 2 * used))
                mel[i, :, start : min(2 * used, start + rng.randint(2, 8))] = mean


def make_batch(
    rng: random.Random,
    noise: np.random.Generator,
    corpus: Corpus,
    mels: MelMaker,
    size: int,
    seconds: tuple[float, float],
    frames: int,
    max_words: int,
) -> Batch:
    """``size`` windows with ``seconds`` (least, most) of content in ``frames`` encoder frames."""
    audio, words, content, cuts, lift = [], [], [], [], []
    target = torch.full((size, frames), SILENCE)
    ordinal = torch.full((size, frames), -100)
    for i in range(size):
        least, most = seconds
        share = rng.random() ** (2 if most > 15 else 1)  # few of the longest, which are the dearest
        length = min(least + (most - least) * share, frames * FRAME / RATE)
        window, cut = training_window(rng, noise, corpus, length, max_words)
        used = min(len(window.audio) // FRAME, frames)
        spans = []
        last = 0
        for number, (word, a, b) in enumerate(window.words):
            first = max(round(a * RATE / FRAME), last)
            last = max(round(b * RATE / FRAME), first + 1)
            spans.append((word, first, min(last, frames - 1)))
            target[i, first:last] = word
            ordinal[i, first:last] = min(number, 47)
        if cut >= 0:
            target[i, cut // FRAME : used] = -100
        audio.append(window.audio)
        words.append(spans)
        content.append(used)
        cuts.append(max(cut // FRAME, last) if cut >= 0 else -1)
        lift.append(rng.uniform(0, 1.0) if rng.random() < 0.4 else 0.0)
    mel = mels(audio, 2 * frames, lift)
    mask_features(rng, mel, content)
    return Batch(mel, target, ordinal, words, content, cuts)
