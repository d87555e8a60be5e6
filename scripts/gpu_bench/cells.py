"""What is measured: one cell for each way, load, batch size and number of slots."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

MODEL, OURS, PLAIN, BATCHED = "model", "ours", "faster-whisper", "faster-whisper-batched"
LOADS = ("short", "long", "mixed")

SHORT_S = 5.0
_WINDOW_S = 30.0

_CENTRE = 16
"""The batch size about which most is learnt first."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One measurement, in a process of its own.

    Attributes:
        shape: of the model; a key of `whisper_shapes.SHAPES`, or what a real model is called.
        way: MODEL (the encoder and the decoder alone), OURS, PLAIN (`WhisperModel.transcribe`
            in a loop) or BATCHED (`BatchedInferencePipeline` in a loop).
        load: one of LOADS; empty for MODEL, which hears noise.
        batch_size: windows of 30 s in a batch; 1 means window after window.
        slots: of OURS, how many batches are at the model at once; with a batch size of 1 how many
            recordings. The loops have one.
    """

    shape: str
    way: str
    load: str
    batch_size: int
    slots: int = 1

    @property
    def name(self) -> str:
        """Of its file and in messages."""
        parts = [self.shape, self.way, self.load, f"b{self.batch_size}"]
        if self.way == OURS:
            parts.append(f"s{self.slots}")
        return "_".join(part for part in parts if part)


def plan(
    shapes: Sequence[str],
    batch_sizes: Sequence[int],
    slots: Sequence[int],
    loads: Sequence[str],
) -> list[Cell]:
    """Every cell, the most telling ones first: batch sizes near 16 and one slot, all ways and
    loads; then what is further off, step by step.
    """
    cells: list[Cell] = []
    for shape in shapes:
        cells += [Cell(shape, MODEL, "", size) for size in batch_sizes]
        for load in loads:
            cells.append(Cell(shape, PLAIN, load, 1))
            cells += [Cell(shape, BATCHED, load, size) for size in batch_sizes if size > 1]
            cells += [Cell(shape, OURS, load, size, n) for size in batch_sizes for n in slots]
    order = {cell: place for place, cell in enumerate(cells)}
    return sorted(cells, key=lambda cell: (_distance(cell), order[cell]))


def _distance(cell: Cell) -> int:
    """Doublings away from what is looked at first; a second slot counts as two."""
    if cell.way == PLAIN:
        return 0
    doublings = abs(round(math.log2(cell.batch_size / _CENTRE)))
    return doublings + 2 * (cell.slots - 1)


def durations_s(load: str, clips: int, long_s: float) -> list[float]:
    """How long the recordings of a load are: `clips` of 5 s, or fewer and longer ones."""
    if load == "short":
        return [SHORT_S] * clips
    if load == "long":
        return [long_s] * max(1, clips // 20)
    few, some, many = max(1, clips // 100), max(1, clips // 20), max(1, clips // 2)
    mixed = [long_s] * few + [60.0] * some
    # Short ones between the longer ones, as a manifest has them.
    apart = max(1, many // len(mixed))
    found = [length for long in mixed for length in (long, *[5.0] * apart)]
    return found + [SHORT_S] * (many - apart * len(mixed))


def tokens_of(load: str, tokens: int) -> int:
    """How many a window of a load is made to have, where a full one has `tokens`.

    Short ones have their share, at least two. In a mixed load all have as many as a full one:
    models here cannot tell them apart, and a batch takes as long as its longest text.
    """
    return max(2, math.ceil(tokens * SHORT_S / _WINDOW_S)) if load == "short" else tokens
