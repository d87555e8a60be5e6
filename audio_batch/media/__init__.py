"""Recordings in, samples out: any container or video with sound becomes 16 kHz mono, or a reason.

Our own decoding over PyAV (FFmpeg's libraries; the ffmpeg program is not needed), because what the
recognisers bring stops at the first bad packet and says nothing. `probe` reads the headers,
`decode` the sound; both raise only `AssetError`.

How a file is taken:

- `source` opens regular files only and never blocks; FFmpeg sees a file object, so no name is ever
  a protocol, a playlist or a pattern, and no other file can be opened.
- `container` admits real media containers, picks the audio stream and checks the limits.
- `headers` reads what the file says of its own length where FFmpeg is silent about it.
- `tails` looks at how the file ends where nothing declares a length.
- `decode` goes on after bad packets, keeps the timeline right and says what was lost.
"""

from audio_batch.media.container import probe
from audio_batch.media.decode import decode
from audio_batch.media.types import (
    DEFAULT_LIMITS,
    SAMPLE_RATE_HZ,
    Audio,
    AudioState,
    MediaInfo,
    MediaLimits,
)

__all__ = [
    "DEFAULT_LIMITS",
    "SAMPLE_RATE_HZ",
    "Audio",
    "AudioState",
    "MediaInfo",
    "MediaLimits",
    "decode",
    "probe",
]
