"""How well the network tells apart voices that it did not learn, while it learns."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from recordings import RATE, Speaker

from audio_batch.demo.voice import VoiceNet


def equal_error(scores: NDArray[np.float32], same: NDArray[np.bool_]) -> tuple[float, float]:
    """Equal error rate of pairs, and the score at which it is."""
    true, false = np.sort(scores[same]), np.sort(scores[~same])
    missed = np.arange(len(true)) / len(true)
    taken = 1 - np.searchsorted(false, true) / len(false)
    at = int(np.argmin(np.maximum(missed, taken)))
    return float(max(missed[at], taken[at])), float(true[at])


def pairs(voices: NDArray[np.float32], names: list[str]) -> tuple[NDArray[np.float32], ...]:
    """Cosines of all pairs of unit vectors, and whether each is of one name."""
    above = np.triu_indices(len(voices), 1)
    number = np.unique(names, return_inverse=True)[1]
    return (voices @ voices.T)[above], (number[:, None] == number)[above]


def trial(net: VoiceNet, weights: dict[str, torch.Tensor], speakers: list[Speaker]) -> str:
    """Equal error rates for pieces of 1.6 s and 3.2 s of each kind, with other weights."""
    own = {k: v.clone() for k, v in net.state_dict().items()}
    net.load_state_dict(weights)
    net.eval()
    found = []
    for kind in ("libri", "commands", "fsdd"):
        for seconds in (1.6, 3.2):
            size = int(seconds * RATE)
            voices, names = [], []
            for speaker in (s for s in speakers if s.kind == kind):
                whole = np.concatenate(speaker.clips)[: 12 * RATE]
                for at in range(0, len(whole) - size + 1, size):
                    with torch.inference_mode():
                        wave = torch.from_numpy(whole[at : at + size])
                        voices.append(net(wave[None, None])[0].numpy())
                    names.append(speaker.name)
            rate, at_cosine = equal_error(*pairs(np.stack(voices), names))
            found.append(f"{kind} {seconds} s {100 * rate:.1f} % ({at_cosine:.2f})")
    net.load_state_dict(own)
    net.train()
    return "EER " + ", ".join(found)
