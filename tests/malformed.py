"""Malformed and unusual recordings by name, each with what has to come of it.

`CASES[name].make(path)` creates it at `path` (whose suffix should be `CASES[name].suffix`). Used by
the tests of decoding, by those of whole runs, and by `scripts/make_malformed.py`.
"""

from __future__ import annotations

import base64
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from originals import ENCODINGS, original
from recordings import FLOAT, encode, pcm16, sweep, wav

from audio_batch.errors import ErrorKind

POSIX = os.name == "posix"
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
EIGHT_BIT = {"bits": 8, "rate_hz": 8_000}


@dataclass(frozen=True)
class Case:
    """How to make a file, and what decoding it must give.

    `kind` is the failure, or None if it decodes: then to `seconds` (None: not fixed), with `state`
    and with `note` in its notes (None: no notes at all). `max_duration_s` is the limit it is tried
    with.
    """

    make: Callable[[Path], object]
    suffix: str = ".wav"
    kind: ErrorKind | None = None
    state: str = "complete"
    seconds: float | None = None
    note: str | None = None
    posix_only: bool = False
    file_name: bytes | None = None
    max_duration_s: float = 24 * 3600.0

    def path(self, folder: Path, stem: str) -> Path:
        """Where to make it in a folder: under `stem`, unless the name is what is strange."""
        if self.file_name is not None:
            return folder / os.fsdecode(self.file_name)
        return folder / f"{stem}{self.suffix}"


def _bytes(content: Callable[[], bytes]) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content())


def _cut(name: str, share: float) -> Callable[[Path], object]:
    return _bytes(lambda: original(name)[: int(len(original(name)) * share)])


def _burst(name: str, at: float = 0.3, count: int = 2048) -> Callable[[Path], object]:
    def content() -> bytes:
        data = bytearray(original(name))
        first = int(len(data) * at)
        data[first : first + count] = np.random.default_rng(5).bytes(count)
        return bytes(data)

    return _bytes(content)


def _scattered(name: str, count: int = 200) -> Callable[[Path], object]:
    def content() -> bytes:
        data = bytearray(original(name))
        draw = np.random.default_rng(6)
        for place in draw.integers(2_000, len(data), count):
            data[place] = draw.integers(256)
        return bytes(data)

    return _bytes(content)


def _wav(**header: int) -> Callable[[Path], object]:
    """2 s of 16-bit, 16 kHz mono samples under any header."""
    return _bytes(lambda: wav(pcm16(sweep(2, 16_000)), **header))


def _channels(count: int) -> Callable[[Path], object]:
    return _bytes(lambda: wav(pcm16(sweep(2, 16_000, count)), channels=count))


def _floats(strange: float, dtype: str = "<f4") -> Callable[[Path], object]:
    def content() -> bytes:
        values = sweep(2, 16_000)[0].astype(dtype)
        values[::50] = strange
        return wav(values.tobytes(), bits=8 * values.itemsize, kind=FLOAT)

    return _bytes(content)


def _rf64(keep: float) -> bytes:
    data = pcm16(sweep(4, 16_000))
    sizes = struct.pack("<IQQQI", 28, len(data) + 72, len(data), len(data) // 2, 0)
    plain = wav(data, size=0xFFFFFFFF)
    head = b"RF64" + b"\xff" * 4 + b"WAVE" + b"ds64" + sizes + plain[12:44]
    return head + data[: int(len(data) * keep)]


def _video_only(path: Path) -> None:
    encode(path, "aac", [], 48_000, container="mp4", video_s=2)


def _uncounted(path: Path) -> None:
    """Of variable bit rate: what FFmpeg estimates from the first frames is wrong."""
    sound = sweep(20, 16_000)
    sound[:, : 10 * 16_000] *= 0.001
    options = {"write_xing": "0"}
    quality = {"global_quality": "500", "flags": "+qscale"}
    encode(
        path,
        "libmp3lame",
        [sound],
        16_000,
        container="mp3",
        options=options,
        codec_options=quality,
    )


def _silent_flac(hours: float) -> Callable[[Path], object]:
    def make(path: Path) -> None:
        minutes = [np.zeros((1, 60 * 16_000), np.float32)] * round(60 * hours)
        encode(path, "flac", [np.concatenate(minutes, axis=1)], 16_000, container="flac")

    return make


def _unknown_length() -> bytes:
    """A FLAC that was written to a pipe: 0 samples in all, which means nobody knows."""
    data = bytearray(original("flac"))
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    return bytes(data)


def _amr(share: float) -> Callable[[Path], object]:
    """20 s of noise in the frames of a telephone."""
    draw = np.random.default_rng(7)
    frames = b"".join(b"\x04" + draw.bytes(12) for _ in range(1000))
    return _bytes(lambda: b"#!AMR\n" + frames[: int(len(frames) * share)])


def _lost_chunks(path: Path) -> None:
    """Two entries of the index point beyond the end of the file."""
    encode(path, "aac", [sweep(20, 16_000)], 16_000, container="mp4", video_s=20)
    data = bytearray(path.read_bytes())
    table = data.rindex(b"stco")
    count = int.from_bytes(data[table + 8 : table + 12], "big")
    for entry in range(count // 3, count // 3 + 2):
        struct.pack_into(">I", data, table + 12 + 4 * entry, 0x7FFFFF00)
    path.write_bytes(data)


def _wrong_clock(path: Path) -> None:
    """The second of four blocks of 5 s says that it begins at 13 s; the third is right again."""
    data = bytearray(original("webm"))
    cluster = data.index(b"\x1f\x43\xb6\x75", data.index(b"\x1f\x43\xb6\x75") + 4)
    clock = data.index(b"\xe7", cluster + 5)
    width = data[clock + 1] & 0x7F
    data[clock + 2 : clock + 2 + width] = (13_000).to_bytes(width, "big")
    path.write_bytes(data)


def _no_index(path: Path) -> None:
    data = original("m4a")
    path.write_bytes(data[: data.rindex(b"moov") - 4])


def _tagged(path: Path) -> None:
    size = 16 * 1024 * 1024
    frame = b"APIC" + struct.pack(">I", size) + b"\0\0" + b"\0image/jpeg\0\3\0" + b"\xd8" * size
    tag_bytes = len(frame)
    syncsafe = bytes((tag_bytes >> shift) & 0x7F for shift in (21, 14, 7, 0))
    path.write_bytes(b"ID3\3\0\0" + syncsafe + frame + original("mp3"))


def _two_streams(path: Path) -> None:
    sounds = [sweep(3, 48_000), sweep(3, 48_000) * 0.1]
    encode(path, "aac", sounds, 48_000, container="mp4", default=1)


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _zeros(path: Path) -> None:
    path.symlink_to("/dev/zero")


BAD, GONE = ErrorKind.MEDIA_DAMAGED, ErrorKind.INPUT_MISSING
CASES: dict[str, Case] = {
    # no recording at all
    "missing": Case(lambda _: None, kind=GONE),
    "folder": Case(Path.mkdir, kind=ErrorKind.INPUT_NOT_A_FILE),
    "pipe": Case(_fifo, kind=ErrorKind.INPUT_NOT_A_FILE, posix_only=True),
    "device": Case(_zeros, kind=ErrorKind.INPUT_NOT_A_FILE, posix_only=True),
    "0 bytes": Case(_bytes(lambda: b""), kind=ErrorKind.EMPTY_AUDIO),
    "1 byte": Case(_bytes(lambda: b"R"), kind=ErrorKind.NOT_MEDIA),
    "text": Case(_bytes(lambda: b"Dear diary,\n" * 400), kind=ErrorKind.NOT_MEDIA),
    "zeros": Case(_bytes(lambda: bytes(100_000)), kind=ErrorKind.NOT_MEDIA),
    "text that any raw decoder takes": Case(
        _bytes(lambda: b"Dear diary,\n" * 400), ".g722", kind=ErrorKind.NOT_MEDIA
    ),
    "picture": Case(_bytes(lambda: PNG), kind=ErrorKind.NOT_MEDIA),
    "subtitles": Case(
        _bytes(lambda: b"1\n00:00:01,000 --> 00:00:02,000\nHello\n\n" * 9), kind=ErrorKind.NOT_MEDIA
    ),
    "playlist of itself": Case(
        lambda path: path.write_text(
            "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:10\n"
            f"#EXTINF:10,\n{path.name}\n#EXT-X-ENDLIST\n",
            encoding="utf-8",
        ),
        kind=ErrorKind.NOT_MEDIA,
    ),
    "playlist of itself, by its own name": Case(
        lambda path: path.write_text(
            f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{path.name}\n", encoding="utf-8"
        ),
        *(".m3u8", ErrorKind.NOT_MEDIA),
    ),
    "list of other files": Case(
        lambda path: path.write_text("ffconcat version 1.0\nfile '/dev/zero'\n" * 20, "utf-8"),
        kind=ErrorKind.NOT_MEDIA,
    ),
    "video only": Case(_video_only, ".mp4", kind=ErrorKind.NO_AUDIO_STREAM),
    # cut off
    "header only": Case(_bytes(lambda: wav(b"")), kind=ErrorKind.EMPTY_AUDIO),
    "wav cut at 1 %": Case(_cut("wav", 0.01), state="truncated", seconds=0.2, note="of 20.0 s"),
    "wav cut at 50 %": Case(_cut("wav", 0.5), state="truncated", seconds=10.0, note="of 20.0 s"),
    "wav cut at 99 %": Case(_cut("wav", 0.985), seconds=19.7, note="ends early: 19.7 s of 20.0 s"),
    "w64 cut at 50 %": Case(_cut("w64", 0.5), ".w64", state="truncated", seconds=10, note="20.0 s"),
    "caf cut at 50 %": Case(_cut("caf", 0.5), ".caf", state="truncated", seconds=10, note="20.0 s"),
    "rf64": Case(_bytes(lambda: _rf64(1)), seconds=4.0),
    "rf64 cut": Case(_bytes(lambda: _rf64(0.5)), state="truncated", seconds=2.0, note="of 4.0 s"),
    "mp3 cut at 1 %": Case(_cut("mp3", 0.01), ".mp3", state="truncated", note="of 60.0 s"),
    "mp3 cut at 50 %": Case(_cut("mp3", 0.5), ".mp3", state="truncated", seconds=30, note="60.0 s"),
    "mp3 cut at 99 %": Case(_cut("mp3", 0.99), ".mp3", seconds=59.4, note="ends early: 59.4 s"),
    "flac cut at 1 %": Case(_cut("flac", 0.01), ".flac", kind=BAD),
    "flac cut at 50 %": Case(_cut("flac", 0.5), ".flac", state="truncated", note="of 20.0 s"),
    "flac cut at 99 %": Case(_cut("flac", 0.99), ".flac", note="ends early"),
    "m4a cut at 1 %": Case(_cut("m4a", 0.01), ".m4a", kind=BAD),
    "m4a cut at 50 %": Case(_cut("m4a", 0.5), ".m4a", kind=BAD),
    "m4a cut at 99 %": Case(_cut("m4a", 0.99), ".m4a", kind=BAD),
    "m4a, index first, cut before its sound": Case(
        _bytes(
            lambda: original("m4a index first")[: original("m4a index first").index(b"mdat") + 4]
        ),
        *(".m4a", BAD),
    ),
    "m4a, index first, cut at 50 %": Case(
        _cut("m4a index first", 0.5), ".m4a", state="truncated", note="of 20.0 s"
    ),
    "opus cut at 50 %": Case(_cut("opus", 0.5), ".opus", state="truncated", note="breaks off"),
    "webm cut at 50 %": Case(_cut("webm", 0.5), ".webm", state="truncated", note="of 20.0 s"),
    "opus cut between two pages": Case(
        _bytes(lambda: original("opus")[: original("opus").index(b"OggS", 60_000)]),
        *(".opus", None, "complete", None, "may be cut off"),
    ),
    "wma cut at 50 %": Case(_cut("wma", 0.5), ".wma", state="truncated", note="breaks off"),
    "wmv film cut at 50 %": Case(
        _cut("wmv film", 0.5), ".wmv", state="truncated", note="breaks off"
    ),
    "mkv film cut at 50 %": Case(
        _cut("mkv film", 0.5), ".mkv", state="truncated", note="of 20.0 s"
    ),
    "mp4 film cut at 50 %": Case(_cut("mp4 film", 0.5), ".mp4", kind=BAD),
    "mp4 in fragments": Case(_bytes(lambda: original("mp4 in fragments")), ".mp4", seconds=20),
    "mp4 in fragments, cut": Case(
        _cut("mp4 in fragments", 0.5), ".mp4", state="truncated", note="breaks off"
    ),
    "live webm": Case(_bytes(lambda: original("webm live")), ".webm", seconds=20),
    "live webm, cut": Case(_cut("webm live", 0.5), ".webm", state="truncated", note="breaks off"),
    **{
        f"{name} cut at 50 %": Case(
            _cut(name, 0.5001),
            *(ENCODINGS[name].suffix, None, "truncated", None, "breaks off within a frame"),
        )
        for name in ("aac", "ac3", "eac3", "mp2", "mp3 uncounted", "ts", "vob")
    },
    "amr": Case(_amr(1), ".amr", seconds=20.0),
    "amr cut at 50 %": Case(_amr(0.5004), ".amr", state="truncated", seconds=10.0, note="a frame"),
    "flac of unknown length": Case(_bytes(_unknown_length), ".flac", seconds=20),
    "flac of unknown length, cut": Case(
        _bytes(lambda: _unknown_length()[:240_000]), ".flac", state="truncated", note="a frame"
    ),
    "avi cut at 50 %": Case(_cut("avi", 0.5), ".avi", state="truncated", note="breaks off"),
    "mp4 without its index": Case(_no_index, ".mp4", kind=BAD),
    # damaged within
    "mp3 burst": Case(_burst("mp3"), ".mp3", state="damaged", seconds=60, note="s of 60.0 s"),
    "m4a burst": Case(_burst("m4a"), ".m4a", state="damaged", seconds=20, note="s of 20.0 s"),
    "flac burst": Case(_burst("flac"), ".flac", state="damaged", seconds=20, note="s of 20.0 s"),
    "webm burst": Case(_burst("webm"), ".webm", state="damaged", seconds=20, note="s of 20.0 s"),
    "opus burst": Case(_burst("opus"), ".opus", state="damaged", seconds=20, note="s of 20.0 s"),
    "mp3 scattered": Case(_scattered("mp3"), ".mp3", state="damaged", seconds=60, note="packets"),
    "flac scattered": Case(_scattered("flac"), ".flac", state="damaged", seconds=20, note="s of"),
    "m4a scattered": Case(
        _scattered("m4a index first"), ".m4a", state="damaged", seconds=20, note="packets"
    ),
    "opus scattered": Case(
        _scattered("opus", 4), ".opus", state="damaged", seconds=20, note="s of 20.0 s"
    ),
    "chained ogg": Case(
        _bytes(lambda: original("opus") + original("opus")),
        ".ogg",
        seconds=40,
        note="longer than declared",
    ),
    "chained ogg with a rate change": Case(
        _bytes(lambda: original("ogg flac") + original("ogg flac 44k")),
        *(".ogg", None, "damaged", 20.0, "packets failed"),
    ),
    "mp4 with lost chunks": Case(
        _lost_chunks, ".mp4", state="damaged", seconds=20, note="packets failed"
    ),
    "webm with a wrong clock": Case(_wrong_clock, ".webm", seconds=20, note="contradict"),
    # headers that lie
    "data size 0": Case(_wav(size=0), seconds=2.0),
    "data size odd": Case(_wav(size=63_999), seconds=2.0),
    "data size unknown": Case(_wav(size=0xFFFFFFFF), seconds=2.0),
    "data size of sox": Case(_wav(size=0x7FFFF000), seconds=2.0),
    "silent flac that is too long": Case(
        _silent_flac(0.2), ".flac", kind=ErrorKind.MEDIA_LIMIT, max_duration_s=300
    ),
    "rate 0": Case(_wav(rate_hz=0), kind=BAD),
    "rate 1": Case(_wav(rate_hz=1), kind=ErrorKind.MEDIA_LIMIT),
    "rate 1 million": Case(_wav(rate_hz=1_000_000), kind=ErrorKind.MEDIA_LIMIT),
    "rate 2^32-1": Case(_wav(rate_hz=2**32 - 1), kind=BAD),
    "channels 0": Case(_wav(channels=0), kind=ErrorKind.MEDIA_LIMIT),
    "channels 255": Case(_wav(channels=255), kind=ErrorKind.MEDIA_LIMIT),
    "channels 65535": Case(_wav(channels=65_535), kind=ErrorKind.MEDIA_LIMIT),
    "bits 0": Case(_wav(bits=0), kind=ErrorKind.NO_AUDIO_STREAM),
    "bits 12": Case(_wav(bits=12), seconds=2.0),
    "bits 64": Case(_wav(bits=64), seconds=0.5),
    "damaged header": Case(
        _bytes(lambda: wav(pcm16(sweep(2, 16_000))).replace(b"fmt ", b"ffff")), kind=BAD
    ),
    "mp3 without a frame count": Case(_uncounted, ".mp3", seconds=20),
    "large tag": Case(_tagged, ".mp3", seconds=60),
    # strange sound
    "nan": Case(_floats(np.nan), seconds=2.0, note="NaN"),
    "infinite": Case(_floats(np.inf), seconds=2.0, note="infinite"),
    "huge floats": Case(_floats(3e38), seconds=2.0, note="clipped"),
    "silence": Case(_bytes(lambda: wav(bytes(64_000))), seconds=2.0, note="silent"),
    "clipped": Case(
        _bytes(lambda: wav(pcm16(sweep(2, 16_000) * 9))), seconds=2.0, note="full scale"
    ),
    # unusual and sound
    "a name that is no UTF-8": Case(
        _bytes(lambda: original("wav")), seconds=20, posix_only=True, file_name=b"caf\xe9.wav"
    ),
    "a name of 255 bytes": Case(
        _bytes(lambda: original("wav")), seconds=20, posix_only=True, file_name=b"x" * 251 + b".wav"
    ),
    "10 ms": Case(_bytes(lambda: wav(pcm16(sweep(0.01, 16_000)))), seconds=0.01),
    "wrong extension": Case(_bytes(lambda: original("flac")), ".mp3", seconds=20),
    "8 bit": Case(
        _bytes(lambda: wav((sweep(2, 8_000)[0] * 127 + 128).astype("u1").tobytes(), **EIGHT_BIT)),
        seconds=2.0,
    ),
    "64-bit floats": Case(
        _bytes(lambda: wav(sweep(2, 16_000)[0].astype("<f8").tobytes(), bits=64, kind=FLOAT)),
        seconds=2.0,
    ),
    "192 kHz": Case(_bytes(lambda: wav(pcm16(sweep(1, 192_000)), rate_hz=192_000)), seconds=1.0),
    "8 channels": Case(_channels(8), seconds=2.0),
    "11 channels": Case(_channels(11), seconds=2.0),
    "32 channels": Case(_channels(32), seconds=2.0),
    "two audio streams": Case(_two_streams, ".mp4", seconds=3.0),
    "rate change": Case(
        _bytes(lambda: original("aac") + original("aac 44k")), ".aac", seconds=40.2
    ),
}
"""By name: every kind of TARGETS' list of malformed inputs, and the unusual that must just work."""

LONG = {"12 h of audio": Case(_silent_flac(12), ".flac", seconds=43_200.0, note="silent")}
"""What takes a minute to make and to decode."""
