"""The recordings the demonstration model learns from, and windows composed of them.

A *clip* is a stretch of speech with the times of its words.  A *window* strings clips together
with pauses, then alters the voice, the room, the line and the level.  Since the strings are
composed, the time of every word is known.  Seconds and 16 kHz samples everywhere.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import av
import numpy as np
from scipy.signal import resample_poly
from synth import RATE, Audio, cached_utterances

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
COMMANDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
WORDS = DIGITS + COMMANDS
FRAME = 320  # samples of an encoder frame (20 ms), which is also the step of the time stamps


@dataclass
class Clip:
    """Speech with its words: (index into WORDS, first sample, end sample)."""

    audio: Audio
    words: list[tuple[int, int, int]]
    speaker: str


@dataclass
class Window:
    """A composed recording: audio and its words as (index into WORDS, start s, end s)."""

    audio: Audio
    words: list[tuple[int, float, float]] = field(default_factory=list)


def read_audio(path: Path) -> Audio:
    """All samples of a mono file at its own rate."""
    blocks = []
    with av.open(str(path)) as container:
        for frame in container.decode(audio=0):
            block = frame.to_ndarray().reshape(-1)
            scale = 32768.0 if block.dtype == np.int16 else 2147483648.0
            blocks.append(block.astype(np.float32) / (scale if block.dtype.kind == "i" else 1.0))
    return np.concatenate(blocks)


def speech_span(audio: Audio) -> tuple[int, int]:
    """First and end sample of the word in a recording of one word, by its energy."""
    hop = RATE // 200
    count = len(audio) // hop
    level = np.sqrt((audio[: count * hop].reshape(count, hop) ** 2).mean(1))
    level = np.convolve(level, np.ones(3) / 3, "same")
    threshold = max(0.07 * level.max(), 2.5 * float(np.percentile(level, 10)))
    loud = np.flatnonzero(level > min(threshold, 0.4 * level.max()))
    # The stop consonants of "six" and "eight" are quiet for up to 0.15 s; clicks are farther off.
    groups = np.split(loud, np.flatnonzero(np.diff(loud) > 30) + 1)
    best = max(groups, key=lambda g: float((level[g[0] : g[-1] + 1] ** 2).sum()))
    return int(best[0] * hop), int((best[-1] + 1) * hop)


def _single(audio: Audio, word: str, speaker: str) -> Clip:
    first, end = speech_span(audio)
    return Clip(audio, [(WORDS.index(word), first, end)], speaker)


def load_fsdd(folder: Path, split: str, speakers: set[str] | None, held: set[str]) -> list[Clip]:
    """Free Spoken Digit Dataset: one digit a clip, of ``split``, of these speakers (None: all)."""
    whole: dict[str, Audio] = {}
    clips = []
    with (folder / "fsdd_index.csv").open(encoding="utf-8") as rows:
        for row in csv.DictReader(rows):
            name = row["speaker"]
            if row["split"] != split or name in held or (speakers and name not in speakers):
                continue
            if row["file"] not in whole:
                whole[row["file"]] = read_audio(folder / row["file"])
            part = whole[row["file"]][int(row["start_sample"]) : int(row["end_sample"])]
            wave = resample_poly(part, 2, 1).astype(np.float32)
            if len(wave) > RATE // 8:
                clips.append(_single(wave, DIGITS[int(row["digit"])], name))
    return clips


def load_speech_commands(folder: Path) -> list[Clip]:
    """Speech Commands: the clips of the words in WORDS, one word each."""
    whole: dict[str, Audio] = {}
    clips = []
    with (folder / "speech_commands_index.csv").open(encoding="utf-8") as rows:
        for row in csv.DictReader(rows):
            if row["word"] not in WORDS:
                continue
            if row["file"] not in whole:
                whole[row["file"]] = read_audio(folder / row["file"])
            part = whole[row["file"]][int(row["start_sample"]) : int(row["end_sample"])]
            if float(np.abs(part).max()) > 0.005:
                clips.append(_single(part, row["word"], "sc-" + row["speaker"]))
    return clips


def load_espeak(count: int, seed: int, cache: Path) -> list[Clip]:
    """Synthesised strings of digits."""
    clips = []
    for audio, words, voice in cached_utterances(DIGITS, count, seed, cache):
        spans = [(WORDS.index(w), int(a * RATE), int(b * RATE)) for w, a, b in words]
        clips.append(Clip(audio, spans, "espeak-" + voice))
    return clips


class Corpus:
    """The training clips by kind and speaker."""

    def __init__(self, data: Path, cache: Path, held: set[str], espeak: int, seed: int) -> None:
        digits = data / "digits"
        self.fsdd: dict[str, list[Clip]] = defaultdict(list)
        for clip in load_fsdd(digits, "train", None, held):
            self.fsdd[clip.speaker].append(clip)
        spoken = load_speech_commands(digits)
        self.crowd = [c for c in spoken if c.words[0][0] < len(DIGITS)]
        self.commands = [c for c in spoken if c.words[0][0] >= len(DIGITS)]
        self.espeak = load_espeak(espeak, seed, cache)


def colour_noise(rng: np.random.Generator, samples: int, slope: float) -> Audio:
    """Noise of unit RMS whose power falls with frequency to the ``slope`` (0 white, 2 brown)."""
    spectrum = np.fft.rfft(rng.standard_normal(samples).astype(np.float32))
    spectrum *= np.maximum(np.arange(len(spectrum)), 20.0) ** (-slope / 2)
    noise = np.fft.irfft(spectrum, samples).astype(np.float32)
    return noise / (np.sqrt((noise**2).mean()) + 1e-9)


def hum(rng: np.random.Generator, samples: int) -> Audio:
    """Mains hum of unit RMS with harmonics."""
    t = np.arange(samples, dtype=np.float32) / RATE
    base = rng.choice([50.0, 60.0, 100.0, 120.0])
    wave = sum(
        rng.random() / k * np.sin(2 * np.pi * base * k * t + rng.random() * 7) for k in range(1, 9)
    )
    wave = np.asarray(wave, dtype=np.float32)
    return wave / (np.sqrt((wave**2).mean()) + 1e-9)


def music(rng: np.random.Generator, samples: int) -> Audio:
    """Music-like sound of unit RMS: chords of harmonic tones that change, melody and drums."""
    wave = np.zeros(samples, dtype=np.float32)
    beat = int(RATE * rng.uniform(0.2, 0.7))
    for start in range(0, samples, beat):
        length = min(int(beat * rng.uniform(0.6, 1.6)), samples - start)
        if length < 200:
            break
        t = np.arange(length, dtype=np.float32) / RATE
        envelope = np.minimum(t / 0.01, 1) * np.exp(-t * rng.uniform(0.5, 8))
        root = 110.0 * 2 ** (rng.integers(0, 30) / 12)
        for step in rng.choice([0, 3, 4, 7, 10, 12, 16], size=rng.integers(1, 4), replace=False):
            pitch = root * 2 ** (step / 12)
            vibrato = 0.003 * np.sin(2 * np.pi * 5.5 * t) if rng.random() < 0.3 else 0.0
            for k in range(1, int(rng.integers(2, 9))):
                if pitch * k < 7500:
                    tone = np.sin(2 * np.pi * pitch * k * (t + vibrato / 10))
                    wave[start : start + length] += envelope * tone / k ** rng.uniform(0.7, 2)
        if rng.random() < 0.6:
            drum = (
                rng.standard_normal(length)
                if rng.random() < 0.5
                else np.sin(2 * np.pi * (40 + 80 * np.exp(-t * 30)) * t)
            )
            wave[start : start + length] += 2 * drum * np.exp(-t * rng.uniform(15, 60))
    return wave / (np.sqrt((wave**2).mean()) + 1e-9)


def background(rng: np.random.Generator, samples: int) -> Audio:
    """Something without words, of unit RMS."""
    kind = rng.random()
    if kind < 0.6:
        return colour_noise(rng, samples, rng.uniform(0, 2))
    if kind < 0.75:
        return hum(rng, samples) + 0.1 * colour_noise(rng, samples, 1)
    return music(rng, samples)


def alter(rng: np.random.Generator, audio: Audio) -> Audio:
    """A random line and room: reverberation, equaliser and band limits, in one filtering."""
    size = len(audio) + RATE // 2
    spectrum = np.fft.rfft(audio, size)
    hertz = np.linspace(0, RATE / 2, len(spectrum))
    if rng.random() < 0.35:  # a room: an exponentially falling tail of noise
        length = int(RATE * rng.uniform(0.1, 0.45))
        t = np.arange(length) / RATE
        tail = rng.standard_normal(length) * np.exp(-t * rng.uniform(6.9, 35) / t[-1] / 2)
        tail *= rng.uniform(0.02, 0.25) / np.sqrt((tail**2).sum())
        tail[0] = 1.0
        spectrum = spectrum * np.fft.rfft(tail, size)
    if rng.random() < 0.8:  # a smooth equaliser curve of some decibels
        knots = np.cumsum(rng.normal(0, 2.5, 9))
        curve = np.interp(np.log1p(hertz / 200), np.linspace(0, 3.8, 9), knots - knots.mean())
        spectrum = spectrum * 10 ** (np.clip(curve, -12, 12) / 20)
    if rng.random() < 0.45:  # the telephone's 4 kHz and the like
        high = rng.choice([3400.0, 3900.0, 4000.0, 4000.0, 5500.0, 7000.0])
        spectrum = spectrum / np.sqrt(1 + (hertz / high) ** rng.choice([16, 40, 80]))
    if rng.random() < 0.25:
        low = rng.uniform(60, 300)
        spectrum = spectrum / np.sqrt(1 + (low / np.maximum(hertz, 1)) ** 8)
    return np.fft.irfft(spectrum, size)[: len(audio)].astype(np.float32)


def load_an4(folder: Path) -> list[tuple[Audio, list[str]]]:
    """AN4's utterances of digits alone (never trained on): audio and words."""
    whole = read_audio(folder / "an4.flac")
    made = []
    with (folder / "an4_index.csv").open(encoding="utf-8") as rows:
        for row in csv.DictReader(rows):
            words = row["text"].lower().split()
            if len(words) > 1 and set(words) <= set(DIGITS):
                part = whole[int(row["start_sample"]) : int(row["end_sample"])]
                made.append((part, words))
    return made
