"""Decoded frames to one long run of 16 kHz mono samples, in little more memory than they need."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from audio_batch.media.types import SAMPLE_RATE_HZ

_BLOCK_SAMPLES = 16 * 1024 * 1024
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
    """A growing run of samples.

    Blocks of 64 MiB are above every allocator's threshold for giving memory back at once, so
    joining them, each freed as it is copied, never holds the recording twice.
    """

    def __init__(self) -> None:
        self.count = 0
        self._blocks: list[NDArray[np.float32]] = []

    def append(self, samples: NDArray[np.float32]) -> None:
        """Add samples at the end."""
        done = 0
        while done < samples.size:
            used = self.count % _BLOCK_SAMPLES
            if used == 0:
                self._blocks.append(np.empty(_BLOCK_SAMPLES, np.float32))
            step = min(samples.size - done, _BLOCK_SAMPLES - used)
            self._blocks[-1][used : used + step] = samples[done : done + step]
            self.count += step
            done += step

    def join(self, gaps: Sequence[tuple[int, int]]) -> NDArray[np.float32]:
        """All samples in one array, with silence put in; the store must not be used afterwards.

        Args:
            gaps: (before which sample, how many zeros), in rising order.
        """
        whole = np.zeros(self.count + sum(length for _, length in gaps), np.float32)
        ahead = list(reversed(gaps))
        shift = 0
        for first in range(0, self.count, _BLOCK_SAMPLES):
            block = self._blocks.pop(0)
            start, stop = first, min(first + _BLOCK_SAMPLES, self.count)
            while start < stop:
                while ahead and ahead[-1][0] <= start:
                    shift += ahead.pop()[1]
                end = min(stop, ahead[-1][0]) if ahead else stop
                whole[start + shift : end + shift] = block[start - first : end - first]
                start = end
        return whole


def clean(samples: NDArray[np.float32]) -> list[str]:
    """Make samples finite and within -1..1, in place; answers what was strange about them.

    The rules: "silent" below -80 dBFS throughout; "clipped" when more than 0.1 % of the samples
    stand at full scale in runs of three and more, or far beyond it. Both are measured after mixing,
    so what is clipped in one of several channels may go unmentioned.
    """
    strange = clipped = 0
    peak = 0.0
    for start in range(0, samples.size, _SCAN_SAMPLES):
        part = samples[start : start + _SCAN_SAMPLES]
        finite = np.isfinite(part)
        if not finite.all():
            strange += int(part.size - np.count_nonzero(finite))
            part[~finite] = 0.0
        peak = max(peak, float(part.max()), -float(part.min()))
        clipped += _clipped(part)
        np.clip(part, -1.0, 1.0, out=part)
    notes = []
    if strange:
        what = "1 sample" if strange == 1 else f"{strange} samples"
        notes.append(f"NaN or infinite: {what} replaced by silence")
    if peak < 10 ** (_SILENT_DBFS / 20):
        notes.append("silent")
    elif clipped > _CLIPPED_SHARE * samples.size:
        notes.append(f"clipped: {clipped / samples.size:.1%} of the samples at full scale")
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
