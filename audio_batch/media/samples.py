"""Decoded frames to one long run of 16 kHz mono samples, in little more memory than they need.

Of the run a part alone can be kept; what is strange about the sound is told of the whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from audio_batch.media.pages import zeros
from audio_batch.media.types import SAMPLE_RATE_HZ

_SCAN_SAMPLES = 1024 * 1024

_SILENT_DBFS = -80
"""A recording that never gets louder is silent: the noise of 16-bit dither lies below."""

_FULL_SCALE = 0.99
"""From -0.1 dBFS on a sample is at full scale: resampling rounds a cut-off wave's corners."""

_CLIPPED_RUN = 3
"""So many samples in a row at full scale, all above or all below zero, are a wave cut off."""

_CLIPPED_SHARE = 0.001
"""Loud speech that is not clipped has less than a tenth of this share at full scale."""

_OVERSHOOT = 2.0
"""Beyond this a sample is no codec's overshoot, and counts as clipped by itself."""


class Mixer:
    """Frames of one format to 16 kHz mono. A change of format needs a new one.

    Two channels become their mean. Channels that the file names (5.1, 7.1) go through
    libswresample's matrix, scaled so that it never clips; unnamed ones are averaged, since any of
    them may be somebody's microphone.
    """

    def __init__(self, frame: Any) -> None:
        self._format = _format_of(frame)
        self._channels = int(frame.layout.nb_channels)
        # FFmpeg calls channels without names "6 channels", and would take the fourth for an LFE.
        self._average = self._channels > 2 and bool(re.match(r"\d+ channels", frame.layout.name))
        # Without a maximum libswresample adds float channels up beyond full scale. Averaging is
        # done on packed samples: PyAV reads past the end of more than eight planes.
        self._resampler = av.AudioResampler(
            format="flt",
            layout=frame.layout if self._average else "mono",
            rate=SAMPLE_RATE_HZ,
            options={"rematrix_maxval": "1.0"},
        )

    def takes(self, frame: Any) -> bool:
        """Whether the frame has the format this mixer was made for."""
        return _format_of(frame) == self._format

    def mix(self, frame: Any) -> Iterator[NDArray[np.float32]]:
        """What is ready after this frame; None hands out the rest."""
        if frame is not None:
            frame.pts = None  # the timeline is the decoder's business; the filter must not mind it
        for mixed in self._resampler.resample(frame):
            samples = mixed.to_ndarray()[0]
            if self._average:
                with np.errstate(invalid="ignore", over="ignore"):  # infinite samples; see `clean`
                    samples = samples.reshape(-1, self._channels).mean(axis=1)
            yield samples


def _format_of(frame: Any) -> tuple[str, str, int]:
    return frame.format.name, frame.layout.name, frame.sample_rate


class SampleStore:
    """A growing run of samples with silence between them, made finite and within -1..1.

    Blocks of 64 MiB, in pages of their own: joining them, each freed as it is copied, never holds
    the recording twice. Of blocks outside the span that is kept there is one at a time.

    Args:
        span: which samples of the run are wanted, the second one excluded; None is all.
    """

    block_samples = 16 * 1024 * 1024

    def __init__(self, span: tuple[int, int] | None = None) -> None:
        self.count = 0
        self.gaps_samples = 0
        self.heard = Heard()
        self._span = span
        self._gaps: list[tuple[int, int]] = []
        self._blocks: dict[int, NDArray[np.float32]] = {}

    def append(self, samples: NDArray[np.float32]) -> None:
        """Add samples at the end."""
        done = 0
        while done < samples.size:
            number, used = divmod(self.count, self.block_samples)
            if used == 0:
                self._end_block(number - 1)
                self._blocks[number] = zeros(self.block_samples)
            step = min(samples.size - done, self.block_samples - used)
            self._blocks[number][used : used + step] = samples[done : done + step]
            self.count += step
            done += step

    def gap(self, length: int) -> None:
        """Leave room for so many zeros before the next sample."""
        self._gaps.append((self.count, length))
        self.gaps_samples += length

    def _end_block(self, number: int) -> None:
        """Measure a block that is full, or the last one, and drop it where nobody wants it."""
        block = self._blocks.get(number)
        if block is None:
            return
        first = number * self.block_samples
        self.heard.clean(block[: self.count - first])
        if self._span is None:
            return
        # Whether gaps count is not known before the end: what either case needs is kept.
        if self.count + self.gaps_samples <= self._span[0] or first >= self._span[1]:
            del self._blocks[number]

    def join(self, *, with_gaps: bool) -> NDArray[np.float32]:
        """The samples that are wanted in one array; the store must not be used afterwards.

        Args:
            with_gaps: whether the silence between them is put in, or the gaps are closed.
        """
        self._end_block((self.count - 1) // self.block_samples)
        ahead = list(reversed(self._gaps)) if with_gaps else []
        total = self.count + sum(length for _, length in ahead)
        first, last = self._span or (0, total)
        first = min(first, total)
        wanted = zeros(max(0, min(last, total) - first))
        shift = -first
        for number in sorted(self._blocks):
            block, begin = self._blocks.pop(number), number * self.block_samples
            start, stop = begin, min(begin + self.block_samples, self.count)
            while start < stop:
                while ahead and ahead[-1][0] <= start:
                    shift += ahead.pop()[1]
                end = min(stop, ahead[-1][0]) if ahead else stop
                low, high = max(start, -shift), min(end, wanted.size - shift)
                if low < high:
                    wanted[low + shift : high + shift] = block[low - begin : high - begin]
                start = end
        return wanted


@dataclass(slots=True)
class Heard:
    """What is strange about samples, counted piece by piece."""

    strange: int = 0
    clipped: int = 0
    peak: float = 0.0

    def clean(self, samples: NDArray[np.float32]) -> None:
        """Make samples finite and within -1..1, in place, and count what was not."""
        for start in range(0, samples.size, _SCAN_SAMPLES):
            part = samples[start : start + _SCAN_SAMPLES]
            finite = np.isfinite(part)
            if not finite.all():
                self.strange += int(part.size - np.count_nonzero(finite))
                part[~finite] = 0.0
            self.peak = max(self.peak, float(part.max()), -float(part.min()))
            self.clipped += _clipped(part)
            np.clip(part, -1.0, 1.0, out=part)

    def notes(self, total: int) -> list[str]:
        """Phrases about what was strange in `total` samples.

        "silent": below -80 dBFS throughout. "clipped": more than 0.1 % of the samples stand at full
        scale in runs of three and more, or far beyond it. Both are measured after mixing, so what
        is clipped in one of several channels may go unmentioned.
        """
        notes = []
        if self.strange:
            what = "1 sample" if self.strange == 1 else f"{self.strange} samples"
            notes.append(f"NaN or infinite: {what} replaced by silence")
        if self.peak < 10 ** (_SILENT_DBFS / 20):
            notes.append("silent")
        elif self.clipped > _CLIPPED_SHARE * total:
            notes.append(f"clipped: {self.clipped / total:.1%} of the samples at full scale")
        return notes


def _clipped(part: NDArray[np.float32]) -> int:
    """How many samples are clipped. Runs that go on beyond the part's ends lose a sample or two."""
    count = 0
    for side in (part, -part):
        full = side >= _FULL_SCALE
        if not full.any():
            continue
        # Where a long enough run may begin, and all that belong to one.
        begins = full[: 1 - _CLIPPED_RUN].copy()
        for later in range(1, _CLIPPED_RUN):
            begins &= full[later : full.size + later + 1 - _CLIPPED_RUN]
        in_runs = np.zeros_like(full)
        for later in range(_CLIPPED_RUN):
            in_runs[later : begins.size + later] |= begins
        count += int(np.count_nonzero(in_runs | (side >= _OVERSHOOT)))
    return count
