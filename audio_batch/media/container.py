"""Opening a recording with FFmpeg, safely: which containers, which stream, which limits."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import av
import av.logging

from audio_batch.errors import AssetError, ErrorKind
from audio_batch.media.failures import over_limit, translate
from audio_batch.media.headers import Headers, read_headers
from audio_batch.media.source import Source, shown
from audio_batch.media.types import DEFAULT_LIMITS, MediaInfo, MediaLimits

FORMATS = (
    *("aac", "ac3", "aiff", "amr", "ape", "asf", "au", "avi", "caf", "dsf", "dss", "dts", "dtshd"),
    *("dv", "eac3", "flac", "flv", "gsm", "iff", "ircam", "loas", "matroska", "mlp", "mov", "mp3"),
    *("mpc", "mpc8", "mpeg", "mpegts", "mxf", "nistsphere", "nut", "ogg", "oma", "qcp", "rm"),
    *("sox", "tak", "truehd", "tta", "voc", "w64", "wav", "wtv", "wv"),
)
"""The demuxers that may open a recording: each holds its sound itself and is known by its content.

Left out on purpose: whatever names other files (hls, concat, dash, sdp, image sequences), and raw
streams that any text would pass for."""

_OPTIONS = {
    "format_whitelist": ",".join(FORMATS),
    "protocol_whitelist": "none",
    # How far into a film FFmpeg looks for sound that sets in late; at most 5 MB (its probesize).
    "analyzeduration": "30000000",
}

# Until PyAV 19 a tag that is no UTF-8 raises unless told otherwise; since then it never does.
_OPEN_ARGUMENTS: dict[str, Any] = (
    {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
)

_ESTIMATED = frozenset(
    {"aac", "ac3", "amr", "dts", "dtshd", "dv", "eac3", "gsm", "loas", "mlp", "mpeg", "mpegts"}
    | {"truehd"}
)
"""Containers that declare no length: FFmpeg guesses it from the bit rate or from time stamps."""

_ONE_DURATION_FOR_ALL = frozenset({"asf", "flv", "matroska", "webm"})
"""Containers whose declared length is that of the longest stream, not of the sound."""

# PyAV's default, kept from being changed by others before us: FFmpeg itself would print to stderr,
# and PyAV warns of handing FFmpeg's lines to Python's logging where there are several threads.
av.logging.set_level(None)


@dataclass(frozen=True, slots=True)
class OpenMedia:
    """A recording that is open for decoding, in one thread.

    `start_s` is the clock at the file's first stream. `declared_s` is the length from there to the
    end of the sound, if the container truly declares one that the decoded one can be held against;
    `longest_s` is that, or else the declared length of the film that the sound goes with.
    """

    source: Source
    container: Any
    stream: Any
    info: MediaInfo
    headers: Headers
    start_s: float | None
    declared_s: float | None
    longest_s: float | None


def probe(
    path: Path, limits: MediaLimits = DEFAULT_LIMITS, *, audio_stream: int | None = None
) -> MediaInfo:
    """What the headers of a recording say, without decoding it. Runs in any thread.

    Args:
        path: the recording.
        limits: what is refused.
        audio_stream: which audio stream, from 0; None for the default one.

    Raises:
        AssetError: as `decode`, except for what only decoding finds.
    """
    with open_media(path, limits, audio_stream) as media:
        return media.info


@contextmanager
def open_media(path: Path, limits: MediaLimits, audio_stream: int | None) -> Iterator[OpenMedia]:
    """Open a recording; errors of PyAV and of the file are translated in the whole `with` block.

    Raises:
        AssetError: see `decode`.
    """
    source = Source(path)
    try:
        with _translated(source):
            if source.size_bytes == 0:
                raise AssetError(
                    ErrorKind.EMPTY_AUDIO,
                    f"{shown(path)} is empty (0 bytes).",
                    remedy="Copy it again from its origin.",
                )
            headers = read_headers(source)
            source.check()
            # FFmpeg is given the open file and no protocol: it cannot open any other one.
            with av.open(source, "r", container_options=_OPTIONS, **_OPEN_ARGUMENTS) as container:
                source.check()
                yield _chosen(source, container, headers, limits, audio_stream)
                source.check()
    finally:
        source.close()


@contextmanager
def _translated(source: Source) -> Iterator[None]:
    try:
        yield
    except AssetError:
        raise
    except (av.FFmpegError, OSError, MemoryError, ValueError, RuntimeError, ArithmeticError) as e:
        # The disk's own error is the cause of whatever FFmpeg made of it.
        source.check()
        raise translate(e, source.path, source.head) from e


def _chosen(
    source: Source, container: Any, headers: Headers, limits: MediaLimits, index: int | None
) -> OpenMedia:
    path = source.path
    streams = list(container.streams.audio)
    has_video = any(_is_moving(s) for s in container.streams.video)
    if not streams and not has_video:  # an index that breaks off after its first entries
        raise translate(ValueError("no streams"), path, source.head)
    number = _choose(path, streams, index)
    stream = streams[number]
    for other in container.streams:
        if other is not stream:
            other.discard = av.stream.Discard.all
    channels = _settle_layout(stream)
    rate_hz = int(stream.codec_context.sample_rate)
    check_limits(path, rate_hz, channels, limits)
    start = container.start_time
    start_s = None if start is None else start / av.time_base
    duration_s, of = _duration(container, stream, headers, start_s or 0.0, has_video)
    info = MediaInfo(
        container=str(container.format.name),
        codec=str(stream.codec_context.codec.canonical_name),
        sample_rate_hz=rate_hz,
        channels=channels,
        duration_s=duration_s,
        audio_streams=len(streams),
        audio_stream=number,
        has_video=has_video,
    )
    declared_s = duration_s if of == "sound" else None
    longest_s = duration_s if of else None
    return OpenMedia(source, container, stream, info, headers, start_s, declared_s, longest_s)


def check_limits(path: Path, rate_hz: int, channels: int, limits: MediaLimits) -> None:
    """Refuse a sample rate or a number of channels, declared or met while decoding.

    Raises:
        AssetError: MEDIA_LIMIT.
    """
    if not limits.min_sample_rate_hz <= rate_hz <= limits.max_sample_rate_hz:
        raise over_limit(
            path,
            f"has a sample rate of {rate_hz} Hz, outside {limits.min_sample_rate_hz} to "
            f"{limits.max_sample_rate_hz} Hz",
            "Its header is probably damaged; otherwise convert it to 16 kHz.",
        )
    if not 1 <= channels <= limits.max_channels:
        raise over_limit(
            path,
            f"has {channels} channels, outside 1 to {limits.max_channels}",
            "Its header is probably damaged; otherwise mix it down first.",
        )


def _is_moving(stream: Any) -> bool:
    """Whether a video stream is a film: cover art and stills are stored as video streams too."""
    kinds = av.stream.Disposition
    still = kinds.attached_pic | kinds.timed_thumbnails | kinds.still_image
    return not stream.disposition & still


def _choose(path: Path, streams: list[Any], index: int | None) -> int:
    """The number of the stream to decode: the asked one, the default one, the first decodable."""
    name = shown(path)
    if not streams:
        raise AssetError(
            ErrorKind.NO_AUDIO_STREAM,
            f"{name} holds video but no sound.",
            remedy="Leave it out of the manifest.",
        )
    if index is not None and not 0 <= index < len(streams):
        have = "one audio stream" if len(streams) == 1 else f"{len(streams)} audio streams"
        raise AssetError(
            ErrorKind.OPTION,
            f"{name} has {have}, so audio stream {index} does not exist.",
            remedy=f"Choose 0 to {len(streams) - 1}." if len(streams) > 1 else "Choose 0.",
        )
    wanted = range(len(streams)) if index is None else [index]
    decodable = [i for i in wanted if streams[i].codec_context is not None]
    if not decodable:
        raise AssetError(
            ErrorKind.NO_AUDIO_STREAM,
            f"{name} holds sound of a kind that this program cannot decode.",
            remedy="Convert it to WAV, FLAC or MP3.",
        )
    default = av.stream.Disposition.default
    return next((i for i in decodable if streams[i].disposition & default), decodable[0])


def _settle_layout(stream: Any) -> int:
    """The stream's number of channels; makes an unusual order of channels harmless.

    PyAV before 19.0.2 frees the list of a custom channel order (a file whose first channel is the
    right one, say) twice and takes the process down with it. Naming a layout without such a list
    before the decoder opens avoids that; reading the layout frees the list, so both go together.
    """
    context = stream.codec_context
    layout = context.layout
    channels = int(layout.nb_channels)
    if re.match(r"\d+ channels \(", layout.name):
        context.layout = f"{channels} channels"
    return channels


def _duration(
    container: Any, stream: Any, headers: Headers, start_s: float, has_video: bool
) -> tuple[float | None, Literal["sound", "film"] | None]:
    """The length up to the end of the stream in seconds, and of what the container declares it."""
    names = set(str(container.format.name).split(","))
    bit_rate = stream.codec_context.bit_rate
    if headers.declared_bytes is not None and bit_rate:
        return headers.declared_bytes * 8 / bit_rate, "sound"
    if stream.duration is not None and stream.time_base:
        duration_s = float(stream.duration * stream.time_base)
        if stream.start_time is not None:
            duration_s += max(0.0, float(stream.start_time * stream.time_base) - start_s)
    elif (tagged_s := _tagged_duration(stream.metadata)) is not None:
        duration_s, has_video = tagged_s, False
    elif container.duration is not None:
        duration_s = container.duration / av.time_base
    else:
        return None, None
    if duration_s <= 0:
        return None, None
    if headers.estimated or names & _ESTIMATED:
        return duration_s, None
    return duration_s, "film" if has_video and names & _ONE_DURATION_FOR_ALL else "sound"


def _tagged_duration(metadata: dict[str, str]) -> float | None:
    """A Matroska track's own length, as ffmpeg and mkvmerge tag it: 00:00:35.015000000."""
    match = re.fullmatch(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)", metadata.get("DURATION", "").strip())
    if match is None:
        return None
    hours, minutes, seconds = match.groups()
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
