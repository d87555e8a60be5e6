"""Train the demonstration model that hears English digits, and write its folder.

    python scripts/demo_asr/train.py --data ../shared/data --out audio_batch/demo/whisper

takes less than an hour on two processor cores.  ``espeak-ng`` must be installed.
"""

from __future__ import annotations

import argparse
import ctypes
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from compose import SILENCE, Batch, MelMaker, make_batch
from data import FRAME, Corpus
from export import write_folder
from model import PAUSE0, POSITIONS, STAMP0, STAMPS, DigitWhisper
from synth import RATE
from targets import attention_loss, frame_losses, make_targets, token_loss
from torch.utils.data import DataLoader, IterableDataset


@dataclass(frozen=True)
class Stage:
    """A part of the course: what the windows are and how fast the model learns."""

    name: str
    steps: int
    size: int  # windows a step
    seconds: tuple[float, float]  # least and most content of a window
    frames: int  # encoder frames of a window, padding included
    rate: tuple[float, float]  # learning rate at its start and end
    plain: float  # share of windows without time stamps
    shift: float  # share of batches placed anywhere in the 30 s
    max_words: int = 100
    reuse: int = 0  # 0: all learns; else the decoder alone, each window this many times


COURSE = (
    Stage("short", 1000, 32, (1.0, 3.9), 200, (3e-3, 1.9e-3), 0.25, 0.5),
    Stage("medium", 750, 12, (2.0, 9.8), 500, (1.9e-3, 1e-3), 0.3, 0.4),
    Stage("long", 160, 6, (2.0, 30.0), POSITIONS, (9e-4, 2e-4), 0.3, 0.0),
    Stage("decoder", 1000, 8, (2.0, 30.0), POSITIONS, (8e-4, 3e-5), 0.45, 0.0, reuse=4),
)


class Windows(IterableDataset[Batch]):
    """Endless batches of one stage."""

    def __init__(self, corpus: Corpus, stage: Stage, seed: int) -> None:
        self.corpus, self.stage, self.seed = corpus, stage, seed

    def __iter__(self) -> Iterator[Batch]:
        torch.set_num_threads(1)
        rng, noise = random.Random(self.seed), np.random.default_rng(self.seed)
        mels, stage = MelMaker(), self.stage
        while True:
            yield make_batch(
                rng,
                noise,
                self.corpus,
                mels,
                stage.size,
                stage.seconds,
                stage.frames,
                stage.max_words,
            )


def keep_memory() -> None:
    """Let glibc keep freed memory: giving it back and asking anew costs a third of the time."""
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-4, 0)  # M_MMAP_MAX
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
    except OSError:
        pass


def report(logits: torch.Tensor, labels: torch.Tensor, frames: torch.Tensor, batch: Batch) -> str:
    """Shares that are right: frames of words, next words and ends, time stamps within 60 ms."""
    guess = logits.argmax(-1)
    pause = (labels >= PAUSE0) & (labels < PAUSE0 + STAMPS)
    stamp = pause | (labels >= STAMP0)
    near = (guess - labels).abs() <= 3
    spoken = (batch.frames >= 0) & (batch.frames != SILENCE)
    right = frames.argmax(-1) == batch.frames
    return (
        f"frames {right[spoken].float().mean():.3f} quiet "
        f"{right[batch.frames == SILENCE].float().mean():.3f} "
        f"text {(guess == labels)[~stamp].float().mean():.3f} "
        f"stamps {near[stamp].float().mean():.3f}"
    )


class Threads:
    """Chooses how many threads to use: on a busy machine one is faster than waiting for two."""

    def __init__(self, most: int) -> None:
        self.most, self.steps, self.count = most, 0, most
        self.took = {n: [0.0] for n in range(1, most + 1)}

    def timed(self, seconds: float) -> None:
        """Note a step's time and set the threads of the next: mostly the best, each in turn."""
        self.took[self.count] = [*self.took[self.count][-3:], seconds]
        self.steps += 1
        place = self.steps % 32
        if place < 4 * self.most and self.most > 1:
            self.count = 1 + place // 4
        else:
            self.count = min(self.took, key=lambda n: sum(self.took[n]) / len(self.took[n]))
        torch.set_num_threads(self.count)


class Trainer:
    """The model, its optimiser and the running mean of its weights, which is what is kept."""

    def __init__(self, seed: int) -> None:
        self.model = DigitWhisper(seed)
        self.params = [p for p in self.model.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(self.params, betas=(0.9, 0.98), weight_decay=0.01)
        self.mean = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        self.rng = random.Random(seed)
        self.done = 0

    def save(self, path: Path) -> None:
        """Keep everything that going on needs."""
        state = {
            "model": self.model.state_dict(),
            "mean": self.mean,
            "optimiser": self.optimiser.state_dict(),
            "done": self.done,
        }
        torch.save(state, path)

    def load(self, path: Path) -> None:
        """Go on from what ``save`` kept."""
        kept = torch.load(path, weights_only=True)
        self.model.load_state_dict(kept["model"])
        self.mean, self.done = kept["mean"], kept["done"]
        self.optimiser.load_state_dict(kept["optimiser"])

    def encoded(self, stage: Stage, batch: Batch, offset: int) -> torch.Tensor:
        """What the encoder makes of a batch: kept with the batch once it no longer learns."""
        if not stage.reuse:
            return self.model.encode(batch.mel, offset)
        if batch.encoded is None:
            with torch.no_grad():
                batch.encoded = self.model.encode(batch.mel, offset)
        return batch.encoded

    def step(self, stage: Stage, batch: Batch, rate: float) -> tuple[torch.Tensor, str]:
        """One update; the loss and, at times, a report."""
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        offset = 0
        if self.rng.random() < stage.shift:
            offset = self.rng.randint(1, POSITIONS - stage.frames)
        made = make_targets(self.rng, batch, offset, stage.plain, 0.06)
        encoded = self.encoded(stage, batch, offset)
        hidden, weights = self.model.decode(made.inputs, encoded)
        keep = made.labels >= 0
        logits, labels = self.model.logits(hidden[keep]), made.labels[keep]
        frames = self.model.frame_head(encoded)
        heads = frames.new_zeros(())
        if not stage.reuse:
            heads = frame_losses(
                frames, self.model.ordinal_head(encoded), self.model.edge_head(encoded), batch
            )
        words = token_loss(logits, labels)
        seen = attention_loss(weights, made.spans, even=stage.reuse > 0)
        loss = words + 0.3 * seen + heads
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.params, 1.0)
        self.optimiser.step()
        self.done += 1
        decay = min(0.997, self.done / (self.done + 20))
        with torch.no_grad():
            for key, value in self.model.state_dict().items():
                self.mean[key].lerp_(value, 1 - decay)
        line = ""
        if self.done % 50 == 0:
            line = (
                f"token {words.item():.3f} attention {seen.item():.3f} heads {heads.item():.3f} "
                + report(logits.detach(), labels, frames.detach(), batch)
            )
        return loss.detach(), line

    def run(self, stage: Stage, corpus: Corpus, seed: int, folder: Path) -> None:
        """A whole stage; ``seed`` makes it the same after a pause as without one."""
        self.rng = random.Random(seed)
        loader = iter(
            DataLoader(
                Windows(corpus, stage, seed), batch_size=None, num_workers=1, prefetch_factor=6
            )
        )
        if stage.reuse:
            # The encoder stays as it is in the running mean, which is the one that is kept.
            state = self.model.state_dict()
            state.update({k: v for k, v in self.mean.items() if "decoder" not in k})
            self.model.load_state_dict(state)
        for name, parameter in self.model.named_parameters():
            if "embed_positions" not in name or "decoder" in name:
                parameter.requires_grad_(not stage.reuse or "model.decoder" in name)
        pool: list[Batch] = []
        began = time.monotonic()
        threads = Threads(torch.get_num_threads())
        for i in range(stage.steps):
            high, low = stage.rate
            part = i / stage.steps
            rate = high * (low / high) ** part * min(1.0, (self.done + 1) / 80)
            if stage.reuse and i % stage.reuse:
                batch = self.rng.choice(pool)
            else:
                batch = next(loader)
                pool = [*pool[-40:], batch] if stage.reuse else []
            start = time.monotonic()
            loss, line = self.step(stage, batch, rate)
            threads.timed(time.monotonic() - start)
            if i + 1 == stage.steps:
                torch.set_num_threads(threads.most)
            if self.done % 250 == 0:
                self.save(folder / "last.pt")
            if line:
                pace = (time.monotonic() - began) / (i + 1)
                print(
                    f"{stage.name} {i + 1} {pace:.2f} s a step, {threads.count} threads: "
                    f"loss {loss:.3f} {line}",
                    flush=True,
                )


def main() -> None:
    """Run the whole course and write the model's folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="folder with digits/")
    parser.add_argument("--out", type=Path, required=True, help="folder of the model")
    parser.add_argument("--cache", type=Path, default=Path("/tmp/demo_asr_cache"))
    parser.add_argument("--held-out", nargs="*", default=["theo"], help="FSDD speakers left out")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the steps (trials)")
    parser.add_argument("--resume", type=Path, help="checkpoint to go on from")
    parser.add_argument("--stages", nargs="*", help="names of the stages to run (all)")
    args = parser.parse_args()
    began = time.monotonic()
    keep_memory()
    # Sharp attention makes denormal numbers, which are slow; threads started later inherit this.
    torch.set_flush_denormal(True)
    torch.set_num_threads(args.threads)
    args.cache.mkdir(parents=True, exist_ok=True)
    corpus = Corpus(args.data, args.cache, set(args.held_out), 1500, args.seed)
    trainer = Trainer(args.seed)
    if args.resume:
        trainer.load(args.resume)
    for number, stage in enumerate(COURSE):
        if args.stages and stage.name not in args.stages:
            continue
        steps = max(1, int(stage.steps * args.scale))
        trainer.run(
            Stage(**{**stage.__dict__, "steps": steps}),
            corpus,
            args.seed * 1000 + number,
            args.cache,
        )
        trainer.save(args.cache / f"{stage.name}.pt")
        print(f"{stage.name} ended after {time.monotonic() - began:.0f} s", flush=True)
    trainer.model.load_state_dict(trainer.mean)
    write_folder(trainer.model, args.out, args.cache / "hf")
    print(f"all in {(time.monotonic() - began) / 60:.1f} min; {FRAME / RATE} s a frame")


if __name__ == "__main__":
    main()
