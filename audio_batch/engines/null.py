"""An engine that hears nothing: it ships for dry runs of scheduling, journal and publication.

The model's name carries its only setting: `null` or `null:50` (milliseconds an asset).
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from audio_batch.engines.base import LoadRequest, Progress, Recognition, Recognizer
from audio_batch.options import DecodingOptions
from audio_batch.transcript import Segment


class NullEngine:
    """See the module's docstring."""

    name = "null"

    def load(self, request: LoadRequest) -> Recognizer:
        """A recognizer that sleeps as long as the model's name says."""
        _, _, milliseconds = request.model.name.partition(":")
        return NullRecognizer(delay_s=float(milliseconds or 0) / 1000.0)


class NullRecognizer:
    """Sleeps, then answers one segment that names the recording's length."""

    warnings: tuple[str, ...] = ()

    def __init__(self, delay_s: float) -> None:
        self.delay_s = delay_s
        self.description: dict[str, Any] = {"compute_type": "none", "mode": "null"}

    def check(self, options: DecodingOptions) -> None:
        """See `Recognizer.check`: nothing is beyond it."""

    def transcribe(
        self, samples: NDArray[np.float32], options: DecodingOptions, progress: Progress
    ) -> Recognition:
        """See `Recognizer.transcribe`."""
        duration_s = len(samples) / 16_000
        time.sleep(self.delay_s)
        progress(duration_s)
        text = f"{duration_s:.3f} seconds of audio"
        return Recognition(
            segments=(Segment(text=text, start_s=0.0, end_s=duration_s),),
            language=options.language,
            speech_s=duration_s,
        )
