"""Sound recordings made on the spot with PyAV's encoders, and WAV files made byte by byte."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

PCM, FLOAT = 1, 3


def sweep(seconds: float, rate_hz: int, channels: int = 1) -> NDArray[np.float32]:
    """A rising tone in a little noise, shaped (channels, samples)."""
    t = np.arange(round(seconds * rate_hz)) / rate_hz
    noise = np.random.default_rng(1).standard_normal(t.size)
    x = 0.3 * np.sin(2 * np.pi * (200 * t + 10 * t * t / max(seconds, 1))) + 0.02 * noise
    return np.tile(x.astype(np.float32), (channels, 1))


def with_beep(sound: NDArray[np.float32], at_s: float, rate_hz: int) -> NDArray[np.float32]:
    """The sound at a tenth of its level, with 0.2 s at full level from `at_s` on."""
    quiet = sound * 0.1
    first, last = round(at_s * rate_hz), round((at_s + 0.2) * rate_hz)
    quiet[:, first:last] = sound[:, first:last] * 2
    return quiet


def beep_time_s(samples: NDArray[np.float32], rate_hz: int = 16_000) -> float:
    """When the beep of `with_beep` begins."""
    return float(np.argmax(np.abs(samples) > 0.25)) / rate_hz


def encode(
    path: Path,
    codec: str,
    sounds: list[NDArray[np.float32]],
    rate_hz: int,
    *,
    container: str,
    layout: str = "mono",
    bit_rate: int | None = None,
    options: dict[str, str] | None = None,
    codec_options: dict[str, str] | None = None,
    starts_s: float = 0.0,
    pause_after_s: tuple[float, float] | None = None,
    video_s: float = 0.0,
    default: int | None = None,
) -> None:
    """Write a media file.

    Args:
        sounds: one array (channels, samples) for each audio stream.
        starts_s: when the sound begins on the file's clock.
        pause_after_s: (when, how long) the clock runs on while nothing is stored.
        video_s: length of a small film beside the sound.
        default: which audio stream is the default one.
    """
    with av.open(str(path), "w", format=container, options=options or {}) as out:
        film = out.add_stream("mpeg4", rate=10) if video_s else None
        streams = []
        for number in range(len(sounds)):
            stream = out.add_stream(codec, rate=rate_hz, layout=layout)
            stream.codec_context.options = codec_options or {}
            if bit_rate is not None:
                stream.bit_rate = bit_rate
            if default is not None:
                kinds = av.stream.Disposition
                stream.disposition = kinds.default if number == default else kinds(0)
            streams.append(stream)
        if film is not None:
            film.width = film.height = 64
            film.pix_fmt = "yuv420p"
            for number in range(round(video_s * 10)):
                picture = av.VideoFrame.from_ndarray(np.full((64, 64, 3), number % 256, np.uint8))
                picture.pts = number
                out.mux(film.encode(picture))
            out.mux(film.encode(None))
        for stream, sound in zip(streams, sounds, strict=True):
            resampler = av.AudioResampler(stream.codec_context.format.name, layout, rate_hz)
            for first in range(0, sound.shape[1], 4096):
                part = np.ascontiguousarray(sound[:, first : first + 4096])
                frame = av.AudioFrame.from_ndarray(part, format="fltp", layout=layout)
                frame.sample_rate = rate_hz
                frame.pts = first + round(starts_s * rate_hz)
                for ready in resampler.resample(frame):
                    out.mux([_late(p, pause_after_s) for p in stream.encode(ready)])
            out.mux([_late(p, pause_after_s) for p in stream.encode(None)])


def _late(packet: Any, pause_after_s: tuple[float, float] | None) -> Any:
    if pause_after_s and packet.pts * float(packet.time_base) >= pause_after_s[0]:
        packet.pts += round(pause_after_s[1] / float(packet.time_base))
        packet.dts = packet.pts
    return packet


def pcm16(sound: NDArray[np.float32]) -> bytes:
    """(channels, samples) as interleaved little-endian 16-bit samples."""
    return (np.clip(sound.T, -1, 1) * 32767).astype("<i2").tobytes()


def wav(
    data: bytes,
    *,
    rate_hz: int = 16_000,
    channels: int = 1,
    bits: int = 16,
    kind: int = PCM,
    size: int | None = None,
) -> bytes:
    """A RIFF WAV with this header, true or not; `size` is what it declares for the data."""
    frame = channels * bits // 8
    header = struct.pack(
        *("<IHHIIHH", 16, kind, channels, rate_hz, rate_hz * frame & 0xFFFFFFFF, frame & 0xFFFF),
        bits,
    )
    body = b"WAVEfmt " + header + b"data"
    body += struct.pack("<I", len(data) if size is None else size) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


def caf(data: bytes, labels: list[int], *, rate_hz: int = 16_000) -> bytes:
    """A Core Audio file of big-endian 16-bit samples; the labels name its channels (2: right)."""
    count = len(labels)
    desc = struct.pack(">d4sIIIII", rate_hz, b"lpcm", 0, 2 * count, 1, count, 16)
    chan = struct.pack(">III", 0, 0, count)
    chan += b"".join(struct.pack(">IIfff", label, 0, 0, 0, 0) for label in labels)
    parts = ((b"desc", desc), (b"chan", chan), (b"data", bytes(4) + data))
    chunks = b"".join(name + struct.pack(">q", len(body)) + body for name, body in parts)
    return b"caff" + struct.pack(">HH", 1, 0) + chunks
