"""What a file says of its own length in places where FFmpeg keeps silent.

FFmpeg shortens a WAV whose header declares more than the file holds, takes an Ogg file that was cut
for one that ends there, and estimates the length of an MP3 without saying so. Each format is known
by its first bytes, so a wrong extension changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from audio_batch.media.source import Source

_MAX_CHUNKS = 1_000
_MP3_WINDOW_BYTES = 4_096
_OGG_WINDOW_BYTES = 2 * 65_307  # the largest Ogg page (RFC 3533) fits whole into one half
_ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_W64_RIFF = bytes.fromhex("726966662e91cf11a5d628db04c10000")
_W64_DATA = bytes.fromhex("64617461f3acd3118cd100c04f8edb8a")


@dataclass(frozen=True, slots=True)
class Headers:
    """What the file's own bytes tell.

    `declared_bytes` is the size of the sound in a WAV-like file when the file is too short for it,
    else None. `cut` says that the file ends in the middle of a page or chunk, or is shorter than it
    says; `unmarked` that it lacks the mark which its format wants at the end. `estimated` says that
    FFmpeg's idea of the length would come from the bit rate.
    """

    declared_bytes: int | None = None
    cut: bool = False
    unmarked: bool = False
    estimated: bool = False


def read_headers(source: Source) -> Headers:
    """Read the headers of a file that FFmpeg has not begun to read; leaves it at its beginning."""
    magic = source.head
    headers = Headers()
    if magic[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64") and magic[8:12] == b"WAVE":
        headers = Headers(declared_bytes=_missing_wav(source))
    elif magic[:4] == b"RIFF" and magic[8:12] == b"AVI ":
        size = int.from_bytes(magic[4:8], "little")
        headers = Headers(cut=not _is_placeholder(size) and size + 8 > source.size_bytes)
    elif magic[:16] == _W64_RIFF:
        headers = Headers(declared_bytes=_missing_w64(source))
    elif magic[:16] == _ASF_HEADER:
        headers = Headers(cut=_is_cut_asf(source))
    elif magic[:4] == b"caff":
        headers = Headers(declared_bytes=_missing_caf(source))
    elif magic[:4] == b"OggS":
        headers = _ogg_end(source)
    elif magic[:3] == b"ID3" or (magic[:1] == b"\xff" and magic[1:2] >= b"\xe0"):
        headers = Headers(estimated=not _mp3_counts_frames(source))
    source.seek(0)
    return headers


def _missing_wav(source: Source) -> int | None:
    """The declared size of a WAV's sound, if it is more than the file holds (RIFF, EBU Tech 3306).

    Programs that write to a pipe cannot know the size: they leave 0, or one of the placeholders of
    `_is_placeholder`; RF64 keeps the true size in `ds64`.
    """
    order: Literal["big", "little"] = "big" if source.head[:4] == b"RIFX" else "little"
    true_bytes: int | None = None
    offset = 12
    for _ in range(_MAX_CHUNKS):
        header = source.read_at(offset, 8)
        if len(header) < 8:
            return None
        name, size = header[:4], int.from_bytes(header[4:], order)
        start = offset + 8
        if name == b"ds64":
            true_bytes = int.from_bytes(source.read_at(start + 8, 8), "little")
        elif name == b"data":
            if true_bytes is not None and size == 0xFFFFFFFF:
                size = true_bytes
            elif _is_placeholder(size):
                return None
            return size if start + size > source.size_bytes else None
        offset = start + size + (size & 1)
    return None


def _is_placeholder(size: int) -> bool:
    """Whether a 32-bit size means "until the end": what ffmpeg, sox and arecord write to pipes."""
    return size == 0 or size >= 0xFFFFFF00 or 0x7FFFF000 <= size <= 0x80000100


def _missing_w64(source: Source) -> int | None:
    """The same for Sony Wave64: 16-byte names, 64-bit sizes that include the 24-byte header."""
    offset = 40
    for _ in range(_MAX_CHUNKS):
        header = source.read_at(offset, 24)
        if len(header) < 24:
            return None
        size = int.from_bytes(header[16:], "little")
        if header[:16] == _W64_DATA:
            return size - 24 if 24 < size < 2**62 and offset + size > source.size_bytes else None
        if size < 24:
            return None
        offset += (size + 7) & ~7
    return None


def _missing_caf(source: Source) -> int | None:
    """The same for Apple's Core Audio Format: 64-bit big-endian sizes, -1 for "until the end"."""
    offset = 8
    for _ in range(_MAX_CHUNKS):
        header = source.read_at(offset, 12)
        if len(header) < 12:
            return None
        size = int.from_bytes(header[4:], "big", signed=True)
        if size < 0:
            return None
        offset += 12 + size
        if header[:4] == b"data":
            return size - 4 if offset > source.size_bytes else None
    return None


def _is_cut_asf(source: Source) -> bool:
    """Whether a Windows Media file is shorter than it says (ASF specification, 3.2).

    A broadcast, as its flag calls it, was sent before its size was known.
    """
    offset = 30
    for _ in range(_MAX_CHUNKS):
        header = source.read_at(offset, 92)
        size = int.from_bytes(header[16:24], "little")
        if len(header) < 92 or size < 24:
            return False
        if header[:16] == _ASF_PROPERTIES:
            is_broadcast = header[88] & 1
            return not is_broadcast and int.from_bytes(header[40:48], "little") > source.size_bytes
        offset += size
    return False


def _ogg_end(source: Source) -> Headers:
    """How an Ogg file ends (RFC 3533, section 6): whether its last page is longer than what is left
    of the file, and whether that page is marked as a stream's last one."""
    start = max(0, source.size_bytes - _OGG_WINDOW_BYTES)
    tail = source.read_at(start, _OGG_WINDOW_BYTES)
    page = tail.rfind(b"OggS\x00")
    if page < 0:
        return Headers()
    if len(tail) < page + 27:
        return Headers(cut=True)
    segments = tail[26 + page]
    lengths = tail[27 + page : 27 + page + segments]
    is_cut = page + 27 + segments + sum(lengths) > len(tail)
    return Headers(cut=is_cut, unmarked=not tail[5 + page] & 4)


def _mp3_counts_frames(source: Source) -> bool:
    """Whether an MP3's first frame counts the frames (a Xing, Info or VBRI header), believably.

    Like FFmpeg, a count is not believed when the file is far longer than the header's byte count:
    several files were joined.
    """
    offset = 0
    for _ in range(_MAX_CHUNKS):
        tag = source.read_at(offset, 10)
        if tag[:3] != b"ID3" or len(tag) < 10:
            break
        syncsafe = (b & 0x7F for b in tag[6:10])
        offset += 10 + int("".join(f"{b:07b}" for b in syncsafe), 2)
    frame = source.read_at(offset, _MP3_WINDOW_BYTES)
    for name, flags_needed, bytes_at in ((b"Xing", 3, 12), (b"Info", 3, 12), (b"VBRI", 0, 10)):
        place = frame.find(name)
        if place < 0:
            continue
        flags = int.from_bytes(frame[place + 4 : place + 8], "big")
        if flags_needed and not flags & 1:
            return False
        if flags_needed and not flags & 2:
            return True
        counted = int.from_bytes(frame[place + bytes_at : place + bytes_at + 4], "big")
        return source.size_bytes - offset <= counted + counted // 16
    return False
