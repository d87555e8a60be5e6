"""Whether a recording whose container declares no length breaks off, told from how the file ends.

Bare streams of frames (ADTS, AC-3, AMR, GSM, MP3 without a frame count), MPEG program and transport
streams, and Matroska and MP4 files that were written live say nowhere how long they are. What is
cut off within a frame, a packet or a box can be told all the same: each says how long it is.

A cut exactly between two frames leaves a flawless, shorter recording: there is nothing to compare
with, and nobody can notice it. The same holds for DTS, TrueHD, LOAS, NUT and VOC, whose ends are
not looked at.
"""

from __future__ import annotations

from collections.abc import Callable

from audio_batch.media.source import Source

_WINDOW_BYTES = 64 * 1024
_MIN_FRAMES = 3
"""So many frames in a row, each ending where the next begins, are no coincidence."""

_MAX_BLOCKS = 10_000_000
"""More than a day of live video has; a crafted file could hold a thousand million."""

_WITHIN_A_FRAME = "the file breaks off within a frame"
_WITHIN_A_BLOCK = "the file breaks off, or is broken, within a block"

_FrameSize = Callable[[bytes, int], int | None]
"""The size of the frame that begins at a place: 0 if its header is cut off, None if none does."""


def broken_end(source: Source, containers: set[str]) -> str | None:
    """A phrase for a file that does not end where its last frame does; None where nothing is wrong.

    Reads the file by itself: only when FFmpeg is done with it. A file that FFmpeg knows the length
    of needs no such look, but for an MP4 in fragments, whose length FFmpeg adds up from what it
    finds.

    Args:
        source: the recording.
        containers: FFmpeg's names for its container.
    """
    if "mov" in containers:
        return _WITHIN_A_BLOCK if _ends_within_fragment(source) else None
    if "matroska" in containers:
        return _WITHIN_A_BLOCK if _ends_within_element(source) else None
    start = max(0, source.size_bytes - _WINDOW_BYTES)
    tail = source.read_at(start, _WINDOW_BYTES)
    if start + len(tail) != source.size_bytes:
        return None
    tail = _without_tags(tail)
    if "amr" in containers:
        wide = source.head.startswith(b"#!AMR-WB")
        size_of = _amr_wide_frame if wide else _amr_frame
        return _WITHIN_A_FRAME if _ends_within_frame(tail, size_of, False) else None
    for name, sizes in _FRAME_SIZES.items():
        if name in containers and any(_ends_within_frame(tail, size, start == 0) for size in sizes):
            return _WITHIN_A_FRAME
    return None


def _ends_within_frame(tail: bytes, size_of: _FrameSize, is_whole: bool) -> bool:
    """Whether the last frame is longer than what is left of the file.

    The first place from which frames follow each other up to the end decides. No place is looked at
    twice, so that a crafted file costs no more than any other.
    """
    seen = set[int]()
    for first in range(len(tail)):
        at, frames, size = first, 0, None
        while at < len(tail) and at not in seen:
            seen.add(at)
            size = size_of(tail, at)
            if not size or at + size > len(tail):
                break
            at += size
            frames += 1
        else:
            if at < len(tail):  # from here on it is known to lead nowhere
                continue
        if frames < _MIN_FRAMES and not (is_whole and first == 0 and frames):
            continue
        if at == len(tail):
            return False
        if size is not None:
            return True
        if not any(tail[at:]):  # some recorders fill the last sector with zeros
            return False
    return False


def _without_tags(tail: bytes) -> bytes:
    """The end of a file without the ID3v1 and APEv2 tags that may stand behind the sound."""
    if tail[-128:-125] == b"TAG":
        tail = tail[:-128]
    if tail[-32:-24] == b"APETAGEX":
        size = int.from_bytes(tail[-20:-16], "little")
        has_header = tail[-9] & 0x80
        tail = tail[: -size - (32 if has_header else 0)]
    return tail


# ---------------------------------------------------------------- frames, each with its own length


def _adts_frame(data: bytes, at: int) -> int | None:
    """ISO 13818-7, 6.2: 13 bits of length."""
    header = data[at : at + 6]
    if header[0] != 0xFF or (len(header) > 1 and header[1] & 0xF6 != 0xF0):
        return None
    if len(header) < 6:
        return 0
    size = (header[3] & 3) << 11 | header[4] << 3 | header[5] >> 5
    return size if size > 7 else None


_V1_KBPS = (
    (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
)
_V2_KBPS = (
    (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
)


def _mpeg_audio_frame(data: bytes, at: int) -> int | None:
    """MPEG-1, 2 and 2.5 audio of layers I to III (ISO 11172-3 and 13818-3, 2.4.2.3)."""
    header = data[at : at + 4]
    if header[0] != 0xFF or (len(header) > 1 and header[1] & 0xE0 != 0xE0):
        return None
    if len(header) < 4:
        return 0
    version, layer = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3)  # versions: 3 is 1, 2 is 2, 0 2.5
    bit_rate, rate, padding = header[2] >> 4, header[2] >> 2 & 3, header[2] >> 1 & 1
    if version == 1 or layer == 4 or bit_rate in (0, 15) or rate == 3:
        return None
    first = version == 3
    bits_per_s = 1000 * (_V1_KBPS if first else _V2_KBPS)[layer - 1][bit_rate - 1]
    rate_hz = (44_100, 48_000, 32_000)[rate] >> (0 if first else 1 if version == 2 else 2)
    if layer == 1:
        return 4 * (12 * bits_per_s // rate_hz + padding)
    samples = 1152 if first or layer == 2 else 576
    return samples // 8 * bits_per_s // rate_hz + padding


_AC3_KBPS = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 576, 640)


def _ac3_frame(data: bytes, at: int) -> int | None:
    """AC-3 and E-AC-3 (ETSI TS 102 366, 4.4.1 and E.1.3.1)."""
    header = data[at : at + 6]
    if header[:2] != b"\x0b\x77"[: len(header)]:
        return None
    if len(header) < 6:
        return 0
    if header[5] >> 3 > 10:
        return 2 * (((header[2] & 7) << 8 | header[3]) + 1)
    rate, size_code = header[4] >> 6, header[4] & 0x3F
    if rate == 3 or size_code >= 2 * len(_AC3_KBPS):
        return None
    kbps = _AC3_KBPS[size_code >> 1]
    return 2 * (2 * kbps, kbps * 320 // 147 + (size_code & 1), 3 * kbps)[rate]


def _program_packet(data: bytes, at: int) -> int | None:
    """A pack header, or a packet, of an MPEG program stream (ISO 13818-1, 2.5.3)."""
    header = data[at : at + 14]
    if header[:3] != b"\0\0\1"[: len(header)] or (len(header) > 3 and header[3] < 0xB9):
        return None
    if len(header) >= 4 and header[3] == 0xB9:
        return 4
    if len(header) >= 4 and header[3] != 0xBA:
        return 6 + int.from_bytes(header[4:6], "big") if len(header) >= 6 else 0
    if len(header) < 14:
        return 0
    return 14 + (header[13] & 7) if header[4] & 0xC0 == 0x40 else 12


def _transport_packets(size_bytes: int, sync_at: int) -> _FrameSize:
    def size_of(data: bytes, at: int) -> int | None:
        sync = data[at + sync_at : at + sync_at + 1]
        return size_bytes if sync == b"\x47" else None if sync else 0

    return size_of


_AMR_BYTES = (13, 14, 16, 18, 20, 21, 27, 32, 6)
_AMR_WIDE_BYTES = (18, 24, 33, 37, 41, 47, 51, 59, 61, 6)


def _amr_frame(data: bytes, at: int) -> int | None:
    """Speech frames of telephones (RFC 4867, 5.3), with their byte of header."""
    return _of_amr(data[at], _AMR_BYTES)


def _amr_wide_frame(data: bytes, at: int) -> int | None:
    return _of_amr(data[at], _AMR_WIDE_BYTES)


def _of_amr(header: int, sizes: tuple[int, ...]) -> int | None:
    kind = header >> 3
    if header & 0x83:
        return None
    return sizes[kind] if kind < len(sizes) else 1 if kind >= 14 else None


def _gsm_frame(data: bytes, at: int) -> int | None:
    return 33 if data[at] >> 4 == 0xD else None


_FRAME_SIZES: dict[str, tuple[_FrameSize, ...]] = {
    "aac": (_adts_frame,),
    "mp3": (_mpeg_audio_frame,),
    "ac3": (_ac3_frame,),
    "eac3": (_ac3_frame,),
    "gsm": (_gsm_frame,),
    "mpeg": (_program_packet,),
    # Plain, with the time stamps of camcorders and Blu-ray discs, with error correction.
    "mpegts": (_transport_packets(188, 0), _transport_packets(192, 4), _transport_packets(204, 0)),
}


# ---------------------------------------------------------------- files made of nested boxes


def _ends_within_fragment(source: Source) -> bool:
    """Whether the boxes of an MP4 in fragments (ISO 14496-12, 8.8) do not end with the file."""
    at, in_fragments = 0, False
    for _ in range(_MAX_BLOCKS):
        if at >= source.size_bytes:
            break
        header = source.read_at(at, 16)
        if len(header) < min(16, source.size_bytes - at):
            return False
        size, kind = int.from_bytes(header[:4], "big"), header[4:8]
        in_fragments = in_fragments or kind == b"moof"
        if size == 1:
            size = int.from_bytes(header[8:], "big")
        elif size == 0 and any(header):
            return False  # up to the end of the file, whatever that is
        if size < 8 or len(kind) < 4 or not kind.isascii():
            return in_fragments and any(header)
        at += size
    return in_fragments and at > source.size_bytes


_SEGMENT, _CLUSTER = 0x18538067, 0x1F43B675
_ELEMENT_BYTES = 12
"""The longest name and the longest size of an element."""


def _ends_within_element(source: Source) -> bool:
    """Whether the elements of a Matroska file (RFC 8794, RFC 9559) do not end with its segment.

    A live recording knows the size neither of the segment nor, often, of its clusters: then their
    content is gone through element by element.
    """
    at, end = 0, source.size_bytes
    window_at, window = 0, b""
    for _ in range(_MAX_BLOCKS):
        if at >= end:
            break
        if not window_at <= at <= window_at + len(window) - _ELEMENT_BYTES:
            window_at, window = at, source.read_at(at, _WINDOW_BYTES)
            if len(window) < min(_ELEMENT_BYTES, source.size_bytes - at):
                return False
        header = window[at - window_at :][:_ELEMENT_BYTES]
        name_bytes = 9 - header[0].bit_length()
        size_bytes = 9 - header[name_bytes].bit_length() if len(header) > name_bytes else 9
        if name_bytes > 4 or size_bytes > 8 or len(header) < name_bytes + size_bytes:
            return any(header)
        name = int.from_bytes(header[:name_bytes], "big")
        unknown = (1 << 7 * size_bytes) - 1
        size = int.from_bytes(header[name_bytes : name_bytes + size_bytes], "big") & unknown
        at += name_bytes + size_bytes
        if name == _SEGMENT:
            end = end if size == unknown else at + size
            if end > source.size_bytes:
                return True
        elif size != unknown:
            at += size
        elif name != _CLUSTER:
            return False
    return at > end
