"""What the network learns from: chunks of Mel power in which several voices take turns.

A *voice* is a speaker played at one speed: faster is higher and smaller, so each speed counts as
another person.  Voices are kept as Mel powers; mixing, rooms, lines and noise are then cheap
operations on powers, except for those that each voice's second copy got as a waveform.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from numpy.typing import NDArray
from recordings import RATE, Audio, Speaker, alter, background
from scipy.signal import resample_poly
from teacher import Space, Teacher, unit

from audio_batch.demo.voice import VoiceNet

Power = NDArray[np.float32]  # (bands, frames of 10 ms)
SPEEDS = (Fraction(4, 5), Fraction(9, 10), Fraction(1), Fraction(10, 9), Fraction(5, 4))
BANDS = 64
KINDS = (("libri", 0.55), ("commands", 0.3), ("fsdd", 0.15))


@dataclass
class Voice:
    """A voice: its number, its pieces as half-precision log powers, where the teacher puts it."""

    number: int
    words: bool
    pieces: list[list[NDArray[np.float16]]]  # copies of each clip: plain, altered
    target: NDArray[np.float32]

    def piece(self, rng: np.random.Generator, copy: int, frames: int) -> Power:
        """Power of up to ``frames`` frames: a part of a sentence, or words with pauses."""
        if not self.words:
            found = self.pieces[rng.integers(len(self.pieces))][copy]
            start = rng.integers(max(1, found.shape[1] - frames + 1))
            return np.exp(found[:, start : start + frames].astype(np.float32))
        made = np.full((BANDS, frames), 1e-9, dtype=np.float32)
        at, pause = 0, rng.choice((4, 15, 40))
        while at < frames:
            found = self.pieces[rng.integers(len(self.pieces))][copy][:, : frames - at]
            made[:, at : at + found.shape[1]] = np.exp(found.astype(np.float32))
            at += found.shape[1] + int(rng.integers(0, pause))
        return made


def played(audio: Audio, speed: Fraction) -> Audio:
    """Audio played faster by ``speed``."""
    if speed == 1:
        return audio
    return resample_poly(audio, speed.denominator, speed.numerator).astype(np.float32)


def make_voices(
    speakers: list[Speaker], teacher: Teacher, net: VoiceNet, seed: int
) -> list[list[Voice]]:
    """The voices of each kind of ``KINDS``, numbered from 0 throughout."""
    short = []  # windows of 1.6 s of each speaker, which say what varies within a voice
    for speaker in speakers:
        if speaker.kind != "fsdd":
            short.append(teacher.windows(np.concatenate(speaker.clips), 50))
    space = Space.of(short, shrink=0.1)
    rng = np.random.default_rng(seed)
    voices: dict[str, list[Voice]] = {kind: [] for kind, _ in KINDS}
    number = 0
    for speaker in speakers:
        for speed in SPEEDS:
            clips = [played(c, speed) for c in speaker.clips]
            whole = np.concatenate(clips)[: 40 * RATE]
            target = space(unit(teacher.windows(whole)).mean(0))
            # The altered copies share a line and a room within some words, as in a recording.
            pieces = [[_log_power(net, c), _log_power(net, alter(rng, c))] for c in clips]
            voices[speaker.kind].append(Voice(number, speaker.words, pieces, target))
            number += 1
    return [voices[kind] for kind, _ in KINDS]


def _log_power(net: VoiceNet, audio: Audio) -> NDArray[np.float16]:
    level = float(np.sqrt((audio**2).mean())) + 1e-6
    power = net.mel_power(
        torch.from_numpy(np.pad(audio, (0, max(0, 400 - len(audio)))) / level)[None]
    )
    return torch.log(power[0] + 1e-9).numpy().astype(np.float16)


@dataclass
class Batch:
    """Chunks, and the voices heard in them."""

    power: torch.Tensor  # (chunks, bands, frames)
    masks: torch.Tensor  # (chunks, 3, frames of 20 ms)
    heard: torch.Tensor  # (chunks, 3): whether there is such a voice, heard for long enough
    numbers: torch.Tensor  # (voices heard,)
    targets: torch.Tensor  # (voices heard, 128)


class Mixer:
    """Makes chunks of ``frames`` frames, each with one to three voices."""

    def __init__(self, voices: list[list[Voice]], net: VoiceNet, frames: int, seed: int) -> None:
        self.voices, self.frames = voices, frames
        self.rng = np.random.default_rng(seed)
        self.share = [share for _, share in KINDS]
        self.noise = [
            np.exp(_log_power(net, background(self.rng, 8 * RATE)).astype(np.float32))
            for _ in range(150)
        ]

    def _turns(self, chosen: list[Voice]) -> tuple[Power, NDArray[np.float32]]:
        """Voices taking turns: the power, and the frames (voices, frames) of each."""
        rng, total = self.rng, self.frames
        power = np.full((BANDS, total), 1e-9, dtype=np.float32)
        masks = np.zeros((len(chosen), total), dtype=np.float32)
        copy = [int(rng.random() < 0.5)] * len(chosen)
        level = 10 ** (rng.uniform(-5, 5, len(chosen)) / 10)
        at = int(rng.integers(0, 60)) if rng.random() < 0.6 else 0
        speaking = int(rng.integers(len(chosen)))
        while at < total - 20:
            longest = total if len(chosen) == 1 else 220
            length = min(int(rng.integers(40, longest)), total - at)
            voice = chosen[speaking]
            said = voice.piece(rng, copy[speaking], length)
            length = said.shape[1]
            power[:, at : at + length] += said * (level[speaking] * 10 ** (rng.uniform(-2, 2) / 10))
            edge = rng.integers(-6, 7, 2)
            masks[speaking, max(0, at + edge[0]) : at + length + edge[1]] = 1.0
            if len(chosen) > 1 and rng.random() < 0.15:
                at += max(20, length - int(rng.integers(10, 60)))  # the next speaks at once
            else:
                at += length + int(rng.integers(0, 60))
            if len(chosen) == 1 and rng.random() < 0.5:
                break
            others = [i for i in range(len(chosen)) if i != speaking]
            speaking = int(rng.choice(others)) if others else speaking
        return power, masks

    def _altered(self, power: Power) -> Power:
        """A room, a line and noise."""
        rng = self.rng
        if rng.random() < 0.3:  # a room's tail, of powers
            decay = 10 ** (-6 * 0.01 / rng.uniform(0.15, 0.6))
            tail = np.float32(rng.uniform(0.02, 0.15))
            kept = np.zeros(BANDS, dtype=np.float32)
            for i in range(power.shape[1]):
                kept = kept * np.float32(decay) + power[:, i] * tail
                power[:, i] += kept
        if rng.random() < 0.6:
            noise = self.noise[rng.integers(len(self.noise))]
            start = int(rng.integers(noise.shape[1] - self.frames))
            noise = noise[:, start : start + self.frames]
            ratio = power.mean() / noise.mean() * 10 ** (-rng.uniform(5, 40) / 10)
            power = power + noise * np.float32(ratio)
        if rng.random() < 0.7:
            knots = np.cumsum(rng.normal(0, 2.2, 8))
            curve = np.interp(np.arange(BANDS), np.linspace(0, BANDS, 8), knots - knots.mean())
            power = power * (10 ** (np.clip(curve, -12, 12) / 10)).astype(np.float32)[:, None]
        if rng.random() < 0.3:  # 4 kHz is at band 47
            high = int(rng.choice((44, 47, 47, 48, 55)))
            power[high:] *= np.float32(10 ** -rng.uniform(3, 6))
        if rng.random() < 0.15:
            power[: int(rng.integers(1, 6))] *= np.float32(10 ** -rng.uniform(1, 4))
        if rng.random() < 0.25:
            low = int(rng.integers(0, BANDS - 8))
            power[low : low + int(rng.integers(2, 9))] *= np.float32(1e-3)
        return power

    def __call__(self, chunks: int) -> Batch:
        """The next ``chunks`` chunks."""
        rng = self.rng
        powers, numbers, targets = [], [], []
        masks = torch.zeros(chunks, 3, self.frames // 2)
        heard = torch.zeros(chunks, 3, dtype=torch.bool)
        for chunk in range(chunks):
            pool = self.voices[rng.choice(len(self.voices), p=self.share)]
            count = int(rng.choice((1, 2, 3), p=(0.35, 0.45, 0.2)))
            chosen = [pool[i] for i in rng.choice(len(pool), count, replace=False)]
            power, spoken = self._turns(chosen)
            for i, (voice, mask) in enumerate(zip(chosen, spoken, strict=True)):
                if mask.sum() >= 40:
                    masks[chunk, i] = torch.from_numpy(mask[::2])
                    heard[chunk, i] = True
                    numbers.append(voice.number)
                    targets.append(voice.target)
            powers.append(self._altered(power))
        return Batch(
            torch.from_numpy(np.stack(powers)),
            masks,
            heard,
            torch.tensor(numbers),
            torch.from_numpy(np.stack(targets)),
        )
