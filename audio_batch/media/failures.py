"""The seam where FFmpeg's errors become ours: one function, total over PyAV's error classes."""

from __future__ import annotations

from pathlib import Path

import av

from audio_batch.errors import AssetError, ErrorKind
from audio_batch.media.source import os_failure, shown

_MAGIC = (
    (8, b"WAVE", "a WAV file"),
    (8, b"AVI ", "an AVI file"),
    (0, b"riff\x2e", "a Wave64 file"),
    (0, b"fLaC", "a FLAC file"),
    (0, b"OggS", "an Ogg file"),
    (0, b"ID3", "an MP3 file"),
    (0, b"FORM", "an AIFF file"),
    (0, b"caff", "a CAF file"),
    (0, b".snd", "an AU file"),
    (0, b"NIST_1A", "a SPHERE file"),
    (0, b"\x1a\x45\xdf\xa3", "a Matroska or WebM file"),
    (0, b"\x30\x26\xb2\x75", "a Windows Media file"),
    (0, b"FLV", "an FLV file"),
    (0, b"wvPk", "a WavPack file"),
    (4, b"ftyp", "an MP4 or M4A file"),
    (4, b"moov", "a QuickTime file"),
    (4, b"mdat", "a QuickTime file"),
)
_PLAYLISTS = (b"#EXTM3U", b"ffconcat", b"[playlist]", b"<MPD", b"<ASX", b"<asx")
_NOT_BUILT_IN = (
    av.error.DecoderNotFoundError,
    av.error.BSFNotFoundError,
    av.error.FilterNotFoundError,
    av.error.NotImplementedError,
    av.error.PatchWelcomeError,
    av.error.ExperimentalError,
)
_COPY_AGAIN = "Copy it again from its origin, or convert it with a tool that repairs recordings."


def translate(error: Exception, path: Path, head: bytes = b"") -> AssetError:
    """What PyAV, numpy or the operating system raised over a recording, as its failure.

    FFmpeg never opens a file here (`source.Source` does), so its own "no such file" or
    "input/output error" speaks of the recording's content, never of the disk.

    Args:
        error: whatever was raised.
        path: the recording, to be named.
        head: its first bytes; they tell a damaged recording from a file that is none.
    """
    name = shown(path)
    if isinstance(error, MemoryError):
        return AssetError(
            ErrorKind.OUT_OF_MEMORY,
            f"There is not enough memory to decode {name}, or its header is damaged and asks for "
            "too much.",
            remedy="Run fewer tasks at once (--threads), or copy the file again.",
            transient=True,
        )
    if isinstance(error, _NOT_BUILT_IN):
        return AssetError(
            ErrorKind.NO_AUDIO_STREAM,
            f"{name} holds sound of a kind that this program cannot decode ({_reason(error)}).",
            remedy="Convert it to WAV, FLAC or MP3.",
        )
    if isinstance(error, OSError) and not isinstance(error, av.FFmpegError):
        return os_failure(error, path)
    lead = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if lead.startswith(_PLAYLISTS):
        return AssetError(
            ErrorKind.NOT_MEDIA,
            f"{name} is a playlist: it names other files and holds no sound.",
            remedy="List those files in the manifest instead.",
        )
    for offset, magic, what in _MAGIC:
        if head[offset:].startswith(magic):
            missing = " (its index is missing or broken)" if magic in (b"ftyp", b"mdat") else ""
            return AssetError(
                ErrorKind.MEDIA_DAMAGED,
                f"{name} begins like {what}, but is damaged or cut off{missing}.",
                remedy=_COPY_AGAIN,
            )
    return AssetError(
        ErrorKind.NOT_MEDIA,
        f"{name} is not a recording in a format that this program reads.",
        remedy="Check that the file is what its name says.",
    )


def without_sound(path: Path, failed_packets: int, declared_s: float | None) -> AssetError:
    """A recording that opened, but of which not one sample came out."""
    name = shown(path)
    if failed_packets:
        what = "its only packet is" if failed_packets == 1 else f"all {failed_packets} packets are"
        message = f"{name} cannot be decoded: {what} damaged or copy-protected."
    elif declared_s:
        message = f"{name} is cut off: none of the {declared_s:.1f} s that it declares are there."
    else:
        return AssetError(
            ErrorKind.EMPTY_AUDIO,
            f"{name} holds no audio samples.",
            remedy="It has a header and no sound: record or copy it again.",
        )
    return AssetError(ErrorKind.MEDIA_DAMAGED, message, remedy=_COPY_AGAIN)


def over_limit(path: Path, what: str, remedy: str) -> AssetError:
    """A recording outside `MediaLimits`."""
    return AssetError(ErrorKind.MEDIA_LIMIT, f"{shown(path)} {what}.", remedy=remedy)


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or type(error).__name__
    return str(text)
