"""How much pyannote is asked to do at a time, by the memory that there is."""

from __future__ import annotations

import logging
import math
import threading
from typing import Any

from audio_batch.errors import AssetError, ErrorKind
from audio_batch.gpu.devices import Device

_log = logging.getLogger("audio_batch.diarization")


def batch_sizes(kind: str, free_bytes: int | None, slots: int = 1) -> tuple[int, int]:
    """Windows per batch of the segmentation and of the embedding.

    On a CPU what one core is fastest with: WeSpeaker's ResNet34 takes 0.57 s for a window of 10 s
    in batches of 1 or 2, 0.68 s in batches of 4 and 0.81 s in batches of 8. On a GPU pyannote's own
    32 where the free memory is not known; else as many as half of a slot's part of it holds, 4 to
    128. A window of the embedding takes up to 0.3 GB (pyannote-audio#1963 reports 9.5 GB in batches
    of 32), one of the segmentation less. Embeddings differ with it in their sixth digit.
    """
    if kind == "cpu":
        return 8, 2
    if free_bytes is None:
        return 32, 32
    fits = 0.5 * free_bytes / max(1, slots) / 0.3e9
    size = next((size for size in (128, 64, 32, 16, 8) if size <= fits), 4)
    return size, size


class Batches:
    """The batch sizes of a device's pipelines; once lowered, they stay so. Any thread.

    Args:
        about: the diarizer's description, where the present sizes are told.
    """

    def __init__(self, sizes: tuple[int, int], device: Device, about: dict[str, Any]) -> None:
        self._lock = threading.Lock()
        self._device = device
        self._about = about
        self._set(sizes)

    def use(self, pipeline: Any) -> tuple[int, int]:
        """Have a pipeline take the present sizes, which are returned."""
        sizes = self._sizes
        pipeline.segmentation_batch_size, pipeline.embedding_batch_size = sizes
        return sizes

    def halve(self, tried: tuple[int, int]) -> None:
        """What did not fit once would not fit the next time: smaller from now on."""
        with self._lock:
            # Another thread may have done it a moment before.
            a, b = (max(1, size // 2) for size in tried)
            self._set((min(self._sizes[0], a), min(self._sizes[1], b)))
        _log.warning(
            "%s ran out of memory while telling speakers apart: batches of %d and %d from now on.",
            self._device.id,
            *self._sizes,
        )

    def _set(self, sizes: tuple[int, int]) -> None:
        self._sizes = sizes
        self._about["segmentation_batch_size"] = sizes[0]
        self._about["embedding_batch_size"] = sizes[1]


def window_step(duration_s: float, window_s: float, step: float, room_bytes: float) -> float:
    """How far windows lie apart, as a share of one, so that clustering has room in memory.

    Clustering compares the voices of all windows, about 1.5 in each, pair by pair: 16 bytes a
    pair, for the distances and SciPy's copy of them. Where memory is short a recording gets
    windows up to half their length apart, in tenths; any other keeps the model's own `step`.

    Raises:
        AssetError: there is no room even so; OUT_OF_MEMORY, transient.
    """
    widest = max(step, 0.5)
    voices = 1.5 * duration_s / window_s
    needed = voices / max(1.0, math.sqrt(2 * room_bytes / 16))
    if needed > widest:
        raise AssetError(
            ErrorKind.OUT_OF_MEMORY,
            f"There is too little memory to tell voices apart: {duration_s / 3600:.1f} hours at a "
            f"time need {8 * (voices / widest) ** 2 / 1e9:.1f} GB, and {room_bytes / 1e9:.1f} GB "
            "are free.",
            remedy="Run fewer at a time, or use a machine with more memory.",
            transient=True,
        )
    return step if needed <= step else min(widest, math.ceil(10 * needed) / 10)
