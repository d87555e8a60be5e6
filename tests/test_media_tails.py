"""Recordings that declare no length: a cut within a frame is noticed, and nothing else is."""

from __future__ import annotations

import time
from pathlib import Path

import av
import pytest
from mutants import UNDECLARED
from originals import ENCODINGS, original

from audio_batch.media import decode
from audio_batch.media.source import Source
from audio_batch.media.tails import broken_end

FRAMES = ("mp3 uncounted", "mp2", "aac", "aac 44k", "ac3", "eac3", "ts", "vob")
NESTED = ("webm live", "mp4 in fragments", "mkv film")
MP3_HEAD = b"\xff\xfb\x50"
ID3V1 = b"TAG" + b"a title".ljust(125, b"\0")
APE_ITEM = (7).to_bytes(4, "little") + bytes(4) + b"Title\0a title"


def ape(count: int = 40) -> bytes:
    """An APEv2 tag with a header and a footer."""
    items = APE_ITEM * count
    size = (len(items) + 32).to_bytes(4, "little")
    mark = b"APETAGEX" + (2000).to_bytes(4, "little") + size + count.to_bytes(4, "little")
    header, footer = mark + b"\0\0\0\xa0" + bytes(8), mark + b"\0\0\0\x80" + bytes(8)
    return header + items + footer


def notes(data: bytes, name: str, folder: Path) -> tuple[str, ...]:
    path = folder / f"recording{ENCODINGS[name].suffix}"
    path.write_bytes(data)
    return decode(path).notes


@pytest.mark.parametrize("name", FRAMES + NESTED)
def test_nothing_is_wrong_with_a_whole_recording(name: str, tmp_path: Path) -> None:
    assert notes(original(name), name, tmp_path) == ()


@pytest.mark.parametrize("missing_bytes", [1, 3, 20, 150])
@pytest.mark.parametrize("name", FRAMES)
def test_a_last_frame_that_is_not_whole(name: str, missing_bytes: int, tmp_path: Path) -> None:
    data = original(name)[:-missing_bytes]
    (note,) = notes(data, name, tmp_path)
    assert note.startswith("truncated: the file breaks off within a frame, after ")


@pytest.mark.parametrize("kept_bytes", [1, 2, 3])
@pytest.mark.parametrize("name", ["mp3 uncounted", "mp2", "aac", "ac3", "vob"])
def test_a_last_frame_of_which_only_a_part_of_the_header_is_there(
    name: str, kept_bytes: int, tmp_path: Path
) -> None:
    data = original(name)
    head = MP3_HEAD if name == "mp3 uncounted" else data
    (note,) = notes(data + head[:kept_bytes], name, tmp_path)
    assert "within a frame" in note


@pytest.mark.parametrize("name", ["mp3 uncounted", "mp2", "aac", "ac3"])
def test_a_cut_between_frames_cannot_be_seen(name: str, tmp_path: Path) -> None:
    data = original(name)
    with av.open(str(_written(data, name, tmp_path))) as container:
        places = [p.pos for p in container.demux(audio=0) if p.size and p.pos is not None]
    assert notes(data[: places[len(places) // 2]], name, tmp_path) == ()


def _written(data: bytes, name: str, folder: Path) -> Path:
    path = folder / f"whole{ENCODINGS[name].suffix}"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("end", [ID3V1, ape(), ape() + ID3V1, bytes(2048)], ids=len)
@pytest.mark.parametrize("name", ["mp3 uncounted", "mp2"])
def test_a_tag_behind_the_sound_is_no_frame(name: str, end: bytes, tmp_path: Path) -> None:
    assert notes(original(name) + end, name, tmp_path) == ()
    (note,) = notes(original(name)[:-50] + end, name, tmp_path) if any(end) else ("within a frame",)
    assert "within a frame" in note


@pytest.mark.parametrize("share", [0.2, 0.5, 0.7, 0.98])
@pytest.mark.parametrize("name", NESTED)
def test_a_nested_file_that_is_cut(name: str, share: float, tmp_path: Path) -> None:
    data = original(name)
    (note,) = notes(data[: int(len(data) * share)], name, tmp_path)
    assert note.startswith(("truncated", "damaged", "ends early"))


@pytest.mark.parametrize("name", NESTED)
def test_a_nested_file_that_is_broken_within(name: str, tmp_path: Path) -> None:
    data = original(name)
    place = len(data) // 2
    assert notes(data[:place] + b"noise" * 600 + data[place:], name, tmp_path)
    assert notes(data[:place] + data[place + 3_000 :], name, tmp_path)


@pytest.mark.parametrize("name", UNDECLARED)
def test_a_short_recording(name: str, tmp_path: Path) -> None:
    """Hardly more than a header is told apart by nothing; it must not stop the look either."""
    data = original(name)
    for size in (300, 1_000, 3_000):
        path = _written(data[:size], name, tmp_path)
        try:
            assert decode(path).duration_s < 1
        except Exception as error:
            assert type(error).__name__ == "AssetError"


@pytest.mark.parametrize(
    ("unit", "containers"),
    [
        (b"\x78", {"amr"}),
        (b"\0\0\1\xb9", {"mpeg"}),
        (b"\xff\xf1\x50\x80\x01\x1f\xfc\0", {"aac"}),
        (b"\x81\x80", {"matroska"}),
        (b"\0\0\0\x08free", {"mov"}),
    ],
    ids=str,
)
def test_a_crafted_file_costs_no_more_than_another(
    unit: bytes, containers: set[str], tmp_path: Path
) -> None:
    """The smallest units there are, then a byte that fits none: every place looks like a start."""
    path = tmp_path / "crafted"
    path.write_bytes(unit * (65_000 // len(unit)) + b"\xfe" * 20)
    source = Source(path)
    try:
        begun_s = time.process_time()
        broken_end(source, containers)
        assert time.process_time() - begun_s < 5
    finally:
        source.close()
