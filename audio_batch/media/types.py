"""What callers hold of a recording: the limits it must keep, what it says it is, its samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE_HZ = 16_000
"""The rate at which every recogniser and every voice model here listens."""

AudioState = Literal["complete", "damaged", "truncated"]


@dataclass(frozen=True, slots=True)
class MediaLimits:
    """What a recording may be before it is refused: small files can hold huge recordings.

    The lowest rate is half the telephone's 8 kHz (old dictation and computer formats); a 1 Hz
    header, which turns kilobytes into hours, is below it. `max_duration_s` is counted in decoded
    samples: it bounds the memory of one recording to 64 kB a second (5.5 GB for the default).
    """

    min_sample_rate_hz: int = 4_000
    max_sample_rate_hz: int = 384_000
    max_channels: int = 32
    max_duration_s: float = 24 * 3600.0


DEFAULT_LIMITS = MediaLimits()


@dataclass(frozen=True, slots=True)
class MediaInfo:
    """What the file's headers say.

    `container` and `codec` are FFmpeg's names. `duration_s` is the chosen stream's length as
    declared, an estimate where the container declares none (an MP3 without a frame count), None
    where nothing can be said. `audio_stream` counts the audio streams only, from 0.
    """

    container: str
    codec: str
    sample_rate_hz: int
    channels: int
    duration_s: float | None
    audio_streams: int
    audio_stream: int
    has_video: bool


@dataclass(frozen=True, slots=True)
class Audio:
    """A decoded recording.

    `samples` are float32, mono, `sample_rate_hz`, within -1..1 and finite. `duration_s` is the
    recording's length: theirs, unless a span of it alone was asked for, which begins at
    `first_sample`. `state` is "damaged" when something between the first and the last sound was
    lost, "truncated" when nothing was but the end is missing. `notes` are plain phrases about
    anything a reader of the transcript should know ("damaged: 599.7 s of 600.0 s decoded",
    "silent").
    """

    samples: NDArray[np.float32]
    sample_rate_hz: int
    duration_s: float
    info: MediaInfo
    state: AudioState
    notes: tuple[str, ...]
    first_sample: int = 0
