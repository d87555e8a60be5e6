"""Train the models of the demonstration diarization, and write its pipeline folder.

    python scripts/demo_diarization/train.py --data ../shared/data \\
        --teacher ../shared/models/dvector-lstm-librispeech --out audio_batch/demo/diarization

takes less than 40 minutes on one processor core.
"""

from __future__ import annotations

import os

os.environ["PYANNOTE_METRICS_ENABLED"] = "false"  # before pyannote is imported: it reports usage

import argparse
import ctypes
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from export import write_embedding, write_plda, write_segmentation
from mixing import Batch, Mixer, make_voices
from recordings import load
from segment import learn_segmentation
from teacher import Teacher
from torch import nn
from trial import trial
from tune import tune

from audio_batch.demo.voice import VoiceNet

STEPS, CHUNKS, FRAMES = 3000, 20, 400
RATE_MOST = 2e-3
PULL, NAMING = 12.0, 0.25  # weights of the teacher and of the names


def keep_memory() -> None:
    """Let glibc keep freed memory: giving it back and asking anew costs a third of the time."""
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-4, 0)  # M_MMAP_MAX
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
    except OSError:
        pass


class Names(nn.Module):
    """Which voice is it: softmax over all voices with an additive angular margin.

    Deng et al.: ArcFace (2019), formula 3. The voices begin where the teacher puts them.
    """

    def __init__(self, targets: torch.Tensor, scale: float = 30.0) -> None:
        super().__init__()
        self.centres = nn.Parameter(targets.clone())
        self.scale = scale

    def forward(self, voices: torch.Tensor, numbers: torch.Tensor, margin: float) -> torch.Tensor:
        """The loss of (n, dimension) embeddings of length 1."""
        cosine = voices @ F.normalize(self.centres).T
        angle = torch.acos(cosine.clamp(-1 + 1e-6, 1 - 1e-6))
        at = F.one_hot(numbers, len(self.centres)).bool()
        cosine = torch.where(at, torch.cos((angle + margin).clamp(max=math.pi)), cosine)
        return F.cross_entropy(self.scale * cosine, numbers, label_smoothing=0.05)


class Trainer:
    """The network, what it is measured by, and the running mean of its weights."""

    def __init__(self, net: VoiceNet, targets: torch.Tensor, steps: int) -> None:
        self.net, self.steps = net, steps
        self.names = Names(targets)
        self.params = [*net.parameters(), *self.names.parameters()]
        self.optimiser = torch.optim.AdamW(self.params, lr=RATE_MOST, weight_decay=0.05)
        self.mean = {k: v.detach().clone() for k, v in net.state_dict().items()}
        self.done = 0

    def step(self, batch: Batch) -> tuple[float, float]:
        """One update; the cosine to the teacher, and the loss of the names."""
        done = self.done / self.steps
        rate = RATE_MOST * min(1.0, done / 0.08, 0.5 * (1 + math.cos(math.pi * done)) + 0.004)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        pooled = self.net.pool(self.net.moments(batch.power), batch.masks)
        voices = F.normalize(self.net.out(pooled[batch.heard]))
        likeness = (voices * batch.targets).sum(1).mean()
        named = self.names(voices, batch.numbers, 0.15 * min(1.0, done / 0.3))
        loss = PULL * (1 - likeness) + NAMING * named
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.params, 3.0)
        self.optimiser.step()
        self.done += 1
        decay = min(0.997, self.done / (self.done + 20))
        with torch.no_grad():
            for key, value in self.net.state_dict().items():
                if value.dtype.is_floating_point:
                    self.mean[key].lerp_(value, 1 - decay)
        return float(likeness.detach()), float(named.detach())


def learn(data: Path, teacher: Path, seed: int, steps: int) -> tuple[VoiceNet, Mixer]:
    """A network that has learnt for ``steps`` steps, and what it learnt from."""
    torch.manual_seed(seed)
    net = VoiceNet()
    began = time.monotonic()
    with torch.no_grad():
        voices = make_voices(load(data, "learn"), Teacher(teacher), net, seed)
        mixer = Mixer(voices, net, FRAMES, seed)
    targets = torch.from_numpy(np.stack([v.target for kind in voices for v in kind]))
    print(f"{len(targets)} voices after {time.monotonic() - began:.0f} s", flush=True)
    chosen = load(data, "choose")
    trainer = Trainer(net, targets, steps)
    net.train()
    likeness, named = [], []
    for step in range(steps):
        a, b = trainer.step(mixer(CHUNKS))
        likeness.append(a)
        named.append(b)
        if (step + 1) % 100 == 0:
            print(
                f"{step + 1} after {time.monotonic() - began:.0f} s: likeness "
                f"{np.mean(likeness[-100:]):.3f} names {np.mean(named[-100:]):.3f}",
                flush=True,
            )
        if (step + 1) % 600 == 0 or step + 1 == steps:
            print("  " + trial(net, trainer.mean, chosen), flush=True)
    net.load_state_dict(trainer.mean)
    net.eval()
    return net, mixer


def heard(net: VoiceNet, mixer: Mixer, chunks: int) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings of the voices in so many chunks, and the voices' numbers."""
    voices, numbers = [], []
    with torch.inference_mode():
        for _ in range(chunks // CHUNKS):
            batch = mixer(CHUNKS)
            voices.append(net.embed(net.moments(batch.power), batch.masks)[batch.heard].numpy())
            numbers.append(batch.numbers.numpy())
    return np.concatenate(voices), np.concatenate(numbers)


def main() -> None:
    """Learn, choose the thresholds, write the folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with librispeech/, digits/"
    )
    parser.add_argument("--teacher", type=Path, required=True, help="folder of the d-vector")
    parser.add_argument("--out", type=Path, required=True, help="the pipeline's folder")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=STEPS, help="fewer for a trial")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    keep_memory()
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    began = time.monotonic()
    net, mixer = learn(args.data, args.teacher, args.seed, args.steps)
    write_embedding(net, args.out)
    write_plda(*heard(net, mixer, 3000), args.out)
    write_segmentation(learn_segmentation(load(args.data, "learn"), args.seed), args.out)
    print(f"learnt after {(time.monotonic() - began) / 60:.1f} min", flush=True)
    tune(args.data, args.out, args.seed)
    print(f"all in {(time.monotonic() - began) / 60:.1f} min")


if __name__ == "__main__":
    main()
