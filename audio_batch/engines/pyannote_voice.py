"""One voice's embedding by a pipeline's own parts."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from audio_batch.engines.pyannote_pipeline import SAMPLE_RATE_HZ, as_file
from audio_batch.engines.pyannote_steps import Steps

MIN_VOICE_S = 0.5
"""Below this a voice is not told by its sound."""

_ACTIVE_SHARE = 0.2
"""How much of a window a voice must fill to count in its mean (pyannote's own choice)."""


def voice(pipeline: Any, sound: NDArray[np.float32], hook: Steps) -> NDArray[np.float32]:
    """The mean embedding of the windows with speech, shape (dimension,); zeros without any."""
    import torch

    slide = pipeline._segmentation
    slide.step = 0.5 * slide.duration
    heard = pipeline.get_segmentations(as_file(sound), hook=hook).data
    speech = (heard > 0.5).any(axis=2)  # (windows, frames)
    window, hop = (round(s * SAMPLE_RATE_HZ) for s in (slide.duration, slide.step))
    if not speech.any():
        return np.zeros(1, np.float32)
    frame_s = slide.duration / speech.shape[1]
    if np.count_nonzero(speech) * frame_s < MIN_VOICE_S:
        begins_s = np.arange(len(speech))[:, None] * slide.step
        speech = begins_s + np.arange(speech.shape[1]) * frame_s < len(sound) / SAMPLE_RATE_HZ
    share = speech.mean(axis=1)
    chosen = np.flatnonzero(share >= min(_ACTIVE_SHARE, share.max()))
    vectors = []
    for first in range(0, len(chosen), pipeline.embedding_batch_size):
        batch = chosen[first : first + pipeline.embedding_batch_size]
        pieces = [sound[i * hop : i * hop + window] for i in batch]
        waves = np.stack([np.pad(piece, (0, window - len(piece))) for piece in pieces])
        masks = torch.from_numpy(speech[batch].astype(np.float32))
        vectors.append(pipeline._embedding(torch.from_numpy(waves)[:, None], masks=masks))
    found = np.concatenate(vectors)
    found = found[np.isfinite(found).all(axis=1)]
    return found.mean(axis=0) if len(found) else np.zeros(1, np.float32)
