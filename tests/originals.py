"""Flawless recordings of every kind, from which damaged ones are made; all by PyAV's encoders."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from recordings import encode, sweep


@dataclass(frozen=True)
class Encoding:
    """What `recordings.encode` needs for one kind of recording."""

    codec: str
    container: str
    suffix: str
    rate_hz: int = 16_000
    duration_s: float = 20.0
    video_s: float = 0.0
    bit_rate: int | None = None
    options: dict[str, str] = field(default_factory=dict)


FRAGMENTS = {"movflags": "frag_keyframe+empty_moov", "frag_duration": "1000000"}
ENCODINGS = {
    "wav": Encoding("pcm_s16le", "wav", ".wav"),
    "w64": Encoding("pcm_s16le", "w64", ".w64"),
    "caf": Encoding("pcm_s16be", "caf", ".caf"),
    "flac": Encoding("flac", "flac", ".flac"),
    "mp3": Encoding("libmp3lame", "mp3", ".mp3", duration_s=60.0),
    "mp3 44k": Encoding("libmp3lame", "mp3", ".mp3", 44_100),
    "mp3 uncounted": Encoding("libmp3lame", "mp3", ".mp3", 44_100, options={"write_xing": "0"}),
    "mp2": Encoding("mp2", "mp2", ".mp2", 48_000, bit_rate=64_000),
    "m4a": Encoding("aac", "ipod", ".m4a"),
    "m4a index first": Encoding("aac", "ipod", ".m4a", options={"movflags": "faststart"}),
    "aac": Encoding("aac", "adts", ".aac"),
    "aac 44k": Encoding("aac", "adts", ".aac", 44_100),
    "ac3": Encoding("ac3", "ac3", ".ac3", 48_000),
    "eac3": Encoding("eac3", "eac3", ".eac3", 48_000),
    "opus": Encoding("libopus", "ogg", ".opus", 48_000),
    "ogg flac": Encoding("flac", "ogg", ".ogg"),
    "ogg flac 44k": Encoding("flac", "ogg", ".ogg", 44_100),
    "wma": Encoding("wmav2", "asf", ".wma", 44_100, bit_rate=64_000),
    "webm": Encoding("libopus", "webm", ".webm", 48_000),
    "webm live": Encoding("libopus", "webm", ".webm", 48_000, options={"live": "1"}),
    "mp4 film": Encoding("aac", "mp4", ".mp4", 44_100, video_s=20.0),
    "mp4 in fragments": Encoding("aac", "mp4", ".mp4", 44_100, options=FRAGMENTS),
    "mkv film": Encoding("aac", "matroska", ".mkv", 44_100, video_s=20.0),
    "wmv film": Encoding("wmav2", "asf", ".wmv", 44_100, video_s=20.0, bit_rate=64_000),
    "avi": Encoding("libmp3lame", "avi", ".avi"),
    "vob": Encoding("mp2", "vob", ".vob", 48_000, bit_rate=64_000),
    "ts": Encoding("aac", "mpegts", ".ts", 48_000),
}


@cache
def original(name: str) -> bytes:
    """The recording `name` of `ENCODINGS`: a rising tone."""
    encoding = ENCODINGS[name]
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"original{encoding.suffix}"
        encode(
            path,
            encoding.codec,
            [sweep(encoding.duration_s, encoding.rate_hz)],
            encoding.rate_hz,
            container=encoding.container,
            bit_rate=encoding.bit_rate,
            options=encoding.options,
            video_s=encoding.video_s,
        )
        return path.read_bytes()
