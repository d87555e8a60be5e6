"""pyannote's diarization with less work a window, for the same turns.

What pyannote does window by window and this does not:

- It hands the embedding a window once for each of the (up to three or four) voices that the
  segmentation can tell in it, though only the mask of the last, cheap layer differs. Here the
  network hears a window once and is given all masks. WeSpeaker's networks and the x-vectors take
  them so; whether a model does, with the same result, is tried when it is loaded.
- It asks for the embedding of silence. A mask without a frame gives the same vector whatever the
  sound (tried too): windows without a voice get that one and are not heard.
- It computes every batch with all cores, one small operation after the other, where threads that
  wait for each other keep cores busy that other work needs: 310 s of sound that took one thread 16
  to 53 s on a busy machine took two threads 114 and 369 s. Here, on a CPU, each thread does a batch
  of its own alone.

Several recordings' batches are not gathered: on a CPU the best batches are of a few windows, which
any recording has; on a GPU one of some minutes fills batches of 128.

Imports pyannote.audio: reached by way of its `Pipeline.from_pretrained`, as its own pipelines are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from pyannote.audio.pipelines import SpeakerDiarization
from pyannote.core import SlidingWindow, SlidingWindowFeature

from audio_batch.engines.pyannote_sincnet import share_first_layer

_TOLERANCE = 1e-5
"""Of an embedding's largest number: what rounding may change, by another batch's shape."""
_PROBE_FRAMES = 50

_T = TypeVar("_T")
_R = TypeVar("_R")


class WindowedDiarization(SpeakerDiarization):  # type: ignore[misc]
    """`SpeakerDiarization` with the two loops over windows replaced; see the module's docstring.

    `embedding_batch_size` counts windows where the network shares them, and a window's voices one
    by one where it does not. `workers` is how many batches are computed at a time, each in a thread
    of its own; more than one on a CPU alone.
    """

    workers: int = 1
    shares_windows: bool = False
    """Whether the embedding hears a window once for all of its voices."""
    _nobody: NDArray[np.float32] | None = None
    """The embedding of an empty mask, shape (dimension,), where it is the same for any sound."""

    def prepare(self) -> None:
        """Find out what this pipeline's models can share. Once, on the device they will run on."""
        if self._segmentation.device.type == "cpu":
            share_first_layer(self._segmentation.model)
        try:
            self.shares_windows, self._nobody = what_it_shares(self._embedding)
        except Exception:  # of whatever kind: pyannote's own way remains
            self.shares_windows, self._nobody = False, None

    def get_segmentations(self, file: Any, hook: Any = None) -> Any:
        """See `SpeakerDiarization`: raw scores, (windows, frames, voices)."""
        slide = self._segmentation
        waveform, rate_hz = slide.model.audio(file)
        window = slide.model.audio.get_num_samples(slide.duration)
        step = round(slide.step * rate_hz)
        length = waveform.shape[1]
        whole = (length - window) // step + 1 if length >= window else 0
        firsts = range(0, whole, slide.batch_size)
        if self.workers == 1 or len(firsts) < 2:
            return super().get_segmentations(file, hook=hook)
        total = whole + ((length - window) % step > 0)

        def scores(first: int) -> NDArray[np.float32]:
            """Those of a batch's stretch of the recording; the last has its padded end too."""
            last = first + slide.batch_size >= whole
            end = length if last else (first + slide.batch_size - 1) * step + window
            part = {**file, "waveform": waveform[:, first * step : end], "sample_rate": rate_hz}
            found: NDArray[np.float32] = slide(part).data
            return found

        if hook is not None:
            hook("segmentation", None, total=total, completed=0)
        parts = []
        with closing(self._in_order(scores, firsts)) as made:
            for first, part in zip(firsts, made, strict=True):
                parts.append(part)
                if hook is not None:
                    hook("segmentation", None, total=total, completed=first + len(part))
        windows = SlidingWindow(start=0.0, duration=slide.duration, step=slide.step)
        return SlidingWindowFeature(np.vstack(parts), windows)

    def get_embeddings(
        self,
        file: Any,
        binary_segmentations: Any,
        exclude_overlap: bool = False,
        hook: Any = None,
    ) -> Any:
        """See `SpeakerDiarization`: embeddings, (windows, voices, dimension)."""
        if not self.shares_windows:
            return super().get_embeddings(
                file, binary_segmentations, exclude_overlap=exclude_overlap, hook=hook
            )
        spans = binary_segmentations.sliding_window
        masks = self._masks(binary_segmentations, exclude_overlap)
        heard = np.arange(len(masks))
        if self._nobody is not None:
            heard = np.flatnonzero(masks.any(axis=(1, 2)))
        size = self.embedding_batch_size
        batches = [heard[first : first + size] for first in range(0, len(heard), size)]

        def embed(batch: NDArray[np.intp]) -> NDArray[np.float32]:
            sound = [self._audio.crop(file, spans[int(i)], mode="pad")[0] for i in batch]
            made: NDArray[np.float32] = self._embedding(
                torch.stack(sound), masks=torch.from_numpy(masks[batch].transpose(0, 2, 1).copy())
            )
            return made

        if hook is not None:
            hook("embeddings", None, total=len(batches), completed=0)
        found = np.zeros((len(masks), masks.shape[2], self._embedding.dimension), np.float32)
        if self._nobody is not None:
            found[:] = self._nobody
        with closing(self._in_order(embed, batches)) as vectors:
            for number, (batch, made) in enumerate(zip(batches, vectors, strict=True), 1):
                found[batch] = made
                if hook is not None:
                    hook("embeddings", made, total=len(batches), completed=number)
        return found

    def _masks(self, binary: Any, exclude_overlap: bool) -> NDArray[np.float32]:
        """The frames of each voice that its embedding is made of, (windows, frames, voices).

        Its frames; without those where others speak too, if enough are left.
        """
        voices: NDArray[np.float32] = np.nan_to_num(binary.data, nan=0.0).astype(np.float32)
        if not exclude_overlap:
            return voices
        samples = binary.sliding_window.duration * self._embedding.sample_rate
        fewest = math.ceil(voices.shape[1] * self._embedding.min_num_samples / samples)
        alone = voices * (voices.sum(axis=2, keepdims=True) < 2)
        long = alone.sum(axis=1, keepdims=True) > fewest
        used: NDArray[np.float32] = np.where(long, alone, voices)
        return used

    def _in_order(
        self, work: Callable[[_T], _R], batches: Sequence[_T]
    ) -> Generator[_R, None, None]:
        """What `work` makes of each of the batches, in their order; closed, it ends the work."""
        if self.workers == 1 or len(batches) < 2:
            yield from map(work, batches)
            return
        with ThreadPoolExecutor(
            self.workers, "diarization", initializer=torch.set_num_threads, initargs=(1,)
        ) as threads:
            yield from threads.map(work, batches)


def what_it_shares(embedding: Any) -> tuple[bool, NDArray[np.float32] | None]:
    """Whether an embedding takes a window with several masks; what it makes of an empty mask.

    Tried with two seconds of noise: a voice in the first half, one in the second, and nobody.
    """
    generator = torch.Generator().manual_seed(0)
    sounds = torch.randn(2, 1, 1, embedding.sample_rate, generator=generator) * 0.1
    masks = torch.zeros(1, 3, _PROBE_FRAMES)
    masks[0, 0, : _PROBE_FRAMES // 2] = masks[0, 1, _PROBE_FRAMES // 2 :] = 1
    together = [embedding(sound, masks=masks) for sound in sounds]
    one_by_one = embedding(sounds[0].expand(3, -1, -1), masks=masks[0])
    if together[0].shape != (1, *one_by_one.shape):
        return False, None
    if not _alike(together[0][0], one_by_one):
        return False, None
    empty = together[0][0, 2]
    return True, empty.copy() if _alike(together[1][0, 2], empty) else None


def _alike(one: NDArray[np.float32], other: NDArray[np.float32]) -> bool:
    """Whether vectors differ by no more than rounding; NaN is like NaN."""
    atol = _TOLERANCE * float(np.nanmax(np.abs(other), initial=0))
    return bool(np.allclose(one, other, rtol=0, atol=atol, equal_nan=True))
