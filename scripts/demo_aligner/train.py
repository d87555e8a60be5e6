"""Train the demonstration aligner of English digits, and write its folder.

    python scripts/demo_aligner/train.py --data ../shared/data --out audio_batch/demo/aligner

takes 25 to 40 minutes on one processor core.  ``espeak-ng`` must be installed.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "demo_asr"))

from aligner import new_model, write_folder
from data import Corpus
from letters import BLANK, IGNORED, SEPARATOR, Batch, make_batch
from train import keep_memory  # demo_asr: its folder comes first

STEPS = 2000
WARM_UP = 100
RATE_HIGH, RATE_LOW = 2e-3, 2e-5
SECONDS = (2.0, 4.0, 4.0, 6.0, 8.0, 16.0)
BATCH_SECONDS = 64


def frame_loss(logits: Tensor, batch: Batch) -> Tensor:
    """Weighted cross-entropy of the frames; logits (B, T, V)."""
    each = F.cross_entropy(
        logits.transpose(1, 2), batch.symbols, ignore_index=IGNORED, reduction="none"
    )
    used = batch.weights * (batch.symbols != IGNORED)
    return (each * used).sum() / used.sum()


def report(logits: Tensor, batch: Batch) -> str:
    """Shares of letters, separators and blanks that come out in their very frame."""
    right = logits.argmax(-1) == batch.symbols
    letter = (batch.symbols != BLANK) & (batch.symbols != SEPARATOR) & (batch.symbols != IGNORED)
    shares = (
        ("letters", letter),
        ("separators", batch.symbols == SEPARATOR),
        ("blanks", batch.symbols == BLANK),
    )
    return " ".join(f"{name} {right[which].float().mean():.3f}" for name, which in shares)


def main() -> None:
    """Run the whole course and write the model's folder."""
    parser = argparse.ArgumentParser(description="Train the demonstration aligner.")
    parser.add_argument("--data", type=Path, required=True, help="folder with digits/")
    parser.add_argument("--out", type=Path, required=True, help="folder of the model")
    parser.add_argument("--cache", type=Path, default=Path("/tmp/demo_asr_cache"))
    parser.add_argument("--held-out", nargs="*", default=["theo"], help="FSDD speakers left out")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=STEPS, help="fewer for trials")
    args = parser.parse_args()
    began = time.monotonic()
    keep_memory()
    torch.set_flush_denormal(True)
    torch.set_num_threads(1)
    args.cache.mkdir(parents=True, exist_ok=True)
    corpus = Corpus(args.data, args.cache, set(args.held_out), 1500, args.seed)
    rng, noise = random.Random(args.seed), np.random.default_rng(args.seed)
    model = new_model(args.seed).train()
    mean = {name: value.detach().clone() for name, value in model.state_dict().items()}
    optimiser = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.01)
    for step in range(args.steps):
        part = step / args.steps
        rate = RATE_LOW + (RATE_HIGH - RATE_LOW) * (1 + math.cos(math.pi * part)) / 2
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / WARM_UP)
        seconds = rng.choice(SECONDS)
        batch = make_batch(rng, noise, corpus, round(BATCH_SECONDS / seconds), seconds)
        logits = model(batch.audio).logits
        loss = frame_loss(logits, batch)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        decay = min(0.995, step / (step + 20))
        with torch.no_grad():
            for name, value in model.state_dict().items():
                mean[name].lerp_(value, 1 - decay)
        if (step + 1) % 50 == 0:
            print(
                f"{step + 1} {time.monotonic() - began:.0f} s: loss {loss.item():.3f} "
                + report(logits.detach(), batch),
                flush=True,
            )
    model.load_state_dict(mean)
    write_folder(model.eval(), args.out, args.cache / "aligner")
    print(f"all in {(time.monotonic() - began) / 60:.1f} min")


if __name__ == "__main__":
    main()
