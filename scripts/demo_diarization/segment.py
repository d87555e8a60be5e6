"""Teach pyannote's segmentation model turns of single words.

The model that the whisperx package carries (pyannote/segmentation, MIT licence) was made for
conversations: of words spoken one by one it often takes two voices for one.  It goes on learning
here, for a short while and at a low rate, from composed chunks of words and of read sentences, with
its filters kept; the loss is pyannote's own, invariant to the order of the speakers.
"""

from __future__ import annotations

import importlib.util
import itertools
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pyannote.audio import Model
from recordings import RATE, Audio, Speaker, alter, background

LENGTH = 5 * RATE
STEPS, CHUNKS, RATE_MOST = 1200, 16, 5e-4
ORDERS = tuple(itertools.permutations(range(3)))


def whisperx_checkpoint() -> Path:
    """The segmentation model in the installed whisperx package."""
    spec = importlib.util.find_spec("whisperx")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / "assets" / "pytorch_model.bin"


def _sounding(audio: Audio) -> NDArray[np.bool_]:
    """For each sample whether it belongs to speech: all but quiet stretches of half a second."""
    hop = RATE // 50
    count = -(-len(audio) // hop)
    power = (np.pad(audio, (0, count * hop - len(audio))).reshape(count, hop) ** 2).mean(1)
    loud = power > 0.003 * np.percentile(power, 95)
    near = np.convolve(loud, np.ones(25), "same") > 0.5
    return np.repeat(near, hop)[: len(audio)]


class Chunks:
    """Composed chunks of 5 s: audio, and who of up to three speaks in each frame."""

    def __init__(self, speakers: list[Speaker], centres: NDArray[np.float64], seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        kinds = ("fsdd", "libri", "commands")
        self.pools = [[s for s in speakers if s.kind == kind] for kind in kinds]
        self.centres = np.minimum((centres * RATE).astype(int), LENGTH - 1)

    def _said(self, speaker: Speaker, speed: float, seconds: float) -> Audio:
        """A turn of about that length."""
        rng = self.rng
        if not speaker.words:
            clip = speaker.clips[rng.integers(len(speaker.clips))]
            size = int(seconds * speed * RATE)
            start = int(rng.integers(max(1, len(clip) - size)))
            said = clip[start : start + size]
        else:
            parts: list[Audio] = []
            pause = rng.uniform(0.05, 0.4)
            while sum(map(len, parts)) < seconds * RATE:
                clip = speaker.clips[rng.integers(len(speaker.clips))]
                level = 0.06 / (np.sqrt((clip**2).mean()) + 1e-6) * 10 ** (rng.uniform(-2, 2) / 20)
                parts += [clip * np.float32(level)]
                parts += [np.zeros(int(rng.uniform(0.02, pause) * RATE), dtype=np.float32)]
            said = np.concatenate(parts[:-1])
        said = said * np.float32(0.06 / (np.sqrt((said**2).mean()) + 1e-6))
        at = np.arange(int(len(said) / speed)) * speed
        return np.interp(at, np.arange(len(said)), said).astype(np.float32)

    def _chunk(self) -> tuple[Audio, NDArray[np.float32]]:
        rng = self.rng
        pool = self.pools[rng.choice(3, p=(0.45, 0.4, 0.15))]
        count = int(rng.choice((1, 2, 3), p=(0.2, 0.5, 0.3)))
        chosen = [pool[i] for i in rng.choice(len(pool), count, replace=False)]
        speeds = [float(rng.choice((1.0, 1.0, 0.9, 1.1))) for _ in chosen]
        levels = 10 ** (rng.uniform(-4, 4, count) / 20)
        total = LENGTH + 3 * RATE  # the chunk is cut out of this
        audio = np.zeros(total, dtype=np.float32)
        active = np.zeros((3, total), dtype=np.float32)
        at, who = int(rng.uniform(0, 1.5) * RATE), 0
        overlaps = rng.random() < 0.4
        while at < total - RATE // 4:
            said = self._said(chosen[who], speeds[who], rng.uniform(0.6, 3.5))[: total - at]
            audio[at : at + len(said)] += said * np.float32(levels[who])
            heard = active[who, at : at + len(said)]
            np.maximum(heard, _sounding(said) if not chosen[who].words else 1.0, out=heard)
            gap = (
                rng.uniform(-1.0, 0.0)
                if overlaps and rng.random() < 0.4
                else rng.uniform(0.05, 1.2)
            )
            at = max(at + RATE // 5, at + len(said) + int(gap * RATE))
            others = [i for i in range(count) if i != who]
            who = int(rng.choice(others)) if others else who
        start = int(rng.integers(0, total - LENGTH))
        audio, active = audio[start : start + LENGTH], active[:, start : start + LENGTH]
        if rng.random() < 0.5:
            audio = alter(rng, audio)
        if rng.random() < 0.6:
            level = float(np.sqrt((audio**2).mean())) * 10 ** (-rng.uniform(8, 45) / 20)
            audio = audio + background(rng, LENGTH) * np.float32(level)
        audio = audio * np.float32(10 ** (rng.uniform(-12, 12) / 20))
        return np.clip(audio, -1, 1), active[:, self.centres].T

    def __call__(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Audio (count, 1, samples) and activity (count, frames, 3)."""
        made = [self._chunk() for _ in range(count)]
        audio, active = (np.stack(part) for part in zip(*made, strict=True))
        return torch.from_numpy(audio)[:, None], torch.from_numpy(active.astype(np.float32))


def order_free_loss(scores: torch.Tensor, active: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy under the best order of the speakers, both (chunks, frames, 3)."""
    losses = [
        F.binary_cross_entropy(scores, active[..., list(order)], reduction="none").mean((1, 2))
        for order in ORDERS
    ]
    return torch.stack(losses).min(0).values.mean()


def learn_segmentation(speakers: list[Speaker], seed: int, steps: int = STEPS) -> Model:
    """The segmentation model after ``steps`` steps."""
    torch.manual_seed(seed)
    model = Model.from_pretrained(whisperx_checkpoint())
    frames = model.receptive_field
    count = model.num_frames(LENGTH)
    chunks = Chunks(speakers, np.array([frames[i].middle for i in range(count)]), seed)
    model.train()
    model.sincnet.requires_grad_(False)
    model.sincnet.eval()
    params = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(params, lr=RATE_MOST, weight_decay=0.01)
    mean = {k: v.detach().clone() for k, v in model.state_dict().items()}
    began, losses = time.monotonic(), []
    for step in range(steps):
        rate = min(1.0, (step + 1) / 20) * 0.5 * (1 + math.cos(math.pi * step / steps))
        optimiser.param_groups[0]["lr"] = RATE_MOST * rate
        audio, active = chunks(CHUNKS)
        loss = order_free_loss(model(audio), active)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimiser.step()
        losses.append(loss.item())
        decay = min(0.98, (step + 1) / (step + 5))
        for key, value in model.state_dict().items():
            if value.dtype.is_floating_point:
                mean[key].lerp_(value.detach(), 1 - decay)
        if (step + 1) % 20 == 0:
            seconds = time.monotonic() - began
            print(f"segmentation {step + 1} after {seconds:.0f} s: {np.mean(losses[-20:]):.3f}",
                  flush=True)  # fmt: skip
    model.load_state_dict(mean)
    return model.eval()
