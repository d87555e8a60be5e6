"""Token sequences and losses for composed windows."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from compose import SILENCE, Batch
from model import (
    EOT,
    MOST_TOKENS,
    NO_SPEECH,
    NO_STAMPS,
    PAUSE0,
    POSITIONS,
    PREVIOUS,
    SOT,
    STAMP0,
    WORD_IDS,
)
from torch import Tensor

FIRST_LIMIT = 50  # Whisper's rule: the first time stamp is at most 1.0 s (50 frames)


@dataclass
class Targets:
    """Inputs (B, L), labels (B, L; -100 none), attention spans (B, L, 2; -1 none) in frames."""

    inputs: Tensor
    labels: Tensor
    spans: Tensor


def _row(
    rng: random.Random,
    words: list[tuple[int, int, int]],
    content: int,
    cut: int,
    offset: int,
    stamps: bool,
) -> tuple[list[int], list[int], list[tuple[int, int]]]:
    """Inputs, labels and attention spans of one window without its prompt."""
    tokens, spans = [], []
    for i, (word, first, last) in enumerate(words):
        following = words[i + 1][1] if i + 1 < len(words) else min(content, last + 15)
        gap = (last, following) if following > last + 1 else (last - 1, last + 1)
        if stamps:
            start = first + offset
            tokens.append(STAMP0 + (min(start, FIRST_LIMIT) if i == 0 and not offset else start))
            spans.append((max(0, first - 2), first + 3))
        tokens += [WORD_IDS[word], PAUSE0 + last + offset]
        spans += [(first, last), gap]
        if stamps:
            tokens.append(STAMP0 + last + offset)
            spans.append((max(0, last - 3), last + 2))
    if stamps and (cut >= 0 or not words):
        # Any first time stamp can come where nothing is said, and has to end the text.
        start = cut if words else rng.randint(0, FIRST_LIMIT)
        tokens.append(STAMP0 + start + offset)
        spans.append((-1, -1))
    tokens.append(EOT)
    after = min(words[-1][2] + 15, content - 3) if words else 0
    spans.append((max(0, after), content + 2) if words and not stamps else (-1, -1))
    return tokens[:-1], tokens, spans


def make_targets(
    rng: random.Random, batch: Batch, offset: int, plain: float, prompted: float
) -> Targets:
    """Targets of a batch whose first frame stands at ``offset``.

    ``plain`` is the share of windows without time stamps, ``prompted`` of those with a prompt.
    """
    rows = []
    for words, content, cut in zip(batch.words, batch.content, batch.cut, strict=True):
        stamps = rng.random() >= plain
        before = [SOT]
        if rng.random() < prompted:
            before = [PREVIOUS, *_prompt(rng), SOT]
        inputs, labels, spans = _row(rng, words, content, cut, offset, stamps)
        if not words:
            labels[0] = NO_SPEECH  # the probability that faster-whisper reads after SOT
            if not stamps:
                labels = [NO_SPEECH, EOT]
        if not stamps:
            # After SOT nothing is learned here but whether there is speech.
            labels = [labels[0] if not words else -100, *(labels if words else [EOT])]
            spans = [(-1, -1), *spans]
            before.append(NO_STAMPS)
            if not words:
                spans = [(-1, -1)] * 2
            quiet = len(before) - 2
        else:
            quiet = len(before) - 1
        # The rows of the prompt have no labels.
        tokens = before + inputs
        labels = [-100] * quiet + labels
        spans = [(-1, -1)] * quiet + spans
        rows.append((tokens[:MOST_TOKENS], labels[:MOST_TOKENS], spans[:MOST_TOKENS]))
    length = max(len(tokens) for tokens, _, _ in rows)
    made = Targets(
        torch.full((len(rows), length), EOT),
        torch.full((len(rows), length), -100),
        torch.full((len(rows), length, 2), -1),
    )
    for i, (tokens, labels, spans) in enumerate(rows):
        assert len(tokens) == len(labels) == len(spans)
        made.inputs[i, : len(tokens)] = torch.tensor(tokens)
        made.labels[i, : len(labels)] = torch.tensor(labels)
        made.spans[i, : len(spans)] = torch.tensor(spans)
    return made


def _prompt(rng: random.Random) -> list[int]:
    """A text before the window: words with or without time stamps, or other text."""
    kind, count = rng.random(), min(rng.randint(1, 30), rng.randint(1, 30))
    if kind < 0.4:
        return [rng.choice(WORD_IDS) for _ in range(count)]
    if kind < 0.6:
        return [rng.randrange(256) for _ in range(count)]
    tokens, at = [], 0
    for _ in range(count):
        first = at + rng.randint(1, 30)
        at = first + rng.randint(8, 30)
        if at >= POSITIONS:
            break
        tokens += [STAMP0 + first, rng.choice(WORD_IDS), PAUSE0 + at, STAMP0 + at]
    return tokens


def token_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy; a time stamp shares its label with its neighbours (one frame is nothing)."""
    scores, wanted = F.log_softmax(logits, -1), labels
    pause = (wanted >= PAUSE0) & (wanted <= PAUSE0 + POSITIONS)
    timed = pause | (wanted >= STAMP0)
    first = torch.where(pause, PAUSE0, STAMP0)
    hit = -scores.gather(1, wanted[:, None])[:, 0]
    low = torch.where(timed, torch.maximum(wanted - 1, first), wanted)
    high = torch.where(timed, torch.minimum(wanted + 1, first + POSITIONS), wanted)
    near = -scores.gather(1, low[:, None])[:, 0] - scores.gather(1, high[:, None])[:, 0]
    return torch.where(timed, 0.6 * hit + 0.2 * near, hit).mean()


def attention_loss(weights: Tensor, spans: Tensor, even: bool) -> Tensor:
    """Negative log of the attention that lies within the spans; weights (B, H, L, T).

    With ``even`` the attention has to be spread evenly over the span: the alignment of words
    then gives all of a word to the word and all of a pause to the pause.
    """
    frames = torch.arange(weights.shape[-1])
    inside = (frames >= spans[..., :1]) & (frames < spans[..., 1:])
    keep = inside.any(-1)
    if even:
        seen = (weights.transpose(1, 2)[keep] + 1e-5).log().mean(1)  # (kept, T)
        within = inside[keep]
        return -((seen * within).sum(-1) / within.sum(-1)).mean()
    mass = (weights * inside[:, None]).sum(-1).mean(1)[keep]
    return -(mass + 1e-4).log().mean()


def frame_losses(
    frame_logits: Tensor, ordinal_logits: Tensor, edge_logits: Tensor, batch: Batch
) -> Tensor:
    """Losses of the heads on the encoder: word, number of the word, edges of words."""
    weight = torch.ones(frame_logits.shape[-1])
    weight[SILENCE] = 0.3
    word = F.cross_entropy(frame_logits.transpose(1, 2), batch.frames, weight, ignore_index=-100)
    number = ordinal_logits.new_zeros(())
    if bool((batch.ordinal >= 0).any()):
        number = F.cross_entropy(ordinal_logits.transpose(1, 2), batch.ordinal, ignore_index=-100)
    edges = torch.zeros_like(edge_logits)
    for i, words in enumerate(batch.words):
        for _, first, last in words:
            edges[i, max(0, first - 1) : first + 2, 0] = 1.0
            edges[i, max(0, last - 2) : last + 1, 1] = 1.0
    edge = F.binary_cross_entropy_with_logits(edge_logits, edges)
    return word + 0.15 * number + edge
