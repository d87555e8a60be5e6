"""What pyannote says of its progress while it works."""

from __future__ import annotations

from audio_batch.engines.base import StepProgress
from audio_batch.engines.pyannote_pipeline import allow_tf32
from audio_batch.gpu.devices import Device

_SHARES = {
    "segmentation": (0.0, 0.2),
    "speaker_counting": (0.2, 0.2),
    "embeddings": (0.2, 0.95),
    "discrete_diarization": (1.0, 1.0),
}
"""Each step's part of the whole, about as long as it takes; clustering is what is left before 1."""


class Steps:
    """pyannote's hook: progress that never goes back, told at each call.

    It is called before the first and after each batch of the segmentation and of the embeddings,
    when the embeddings are there and clustering begins, and when that is done. So nothing but
    clustering, which the length of a piece bounds, takes longer than a batch without a word.
    """

    def __init__(self, progress: StepProgress, device: Device) -> None:
        self.batched = True
        """Whether what is done now goes in batches; clustering does not."""
        self._progress = progress
        self._device = device
        self._reached = 0.0

    def __call__(
        self,
        step: str,
        *_: object,
        total: int | None = None,
        completed: int | None = None,
        **__: object,
    ) -> None:
        """Take pyannote's word; `completed` of `total` batches or windows, None at a step's end."""
        allow_tf32(self._device)
        self.batched = step != "discrete_diarization" and (
            step != "embeddings" or completed is not None
        )
        begin, end = _SHARES.get(step, (self._reached, self._reached))
        done = 1.0 if completed is None or not total else min(1.0, float(completed) / total)
        self._reached = max(self._reached, begin + (end - begin) * done)
        self._progress(step, round(self._reached, 4))
