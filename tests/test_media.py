"""Decoding: the right samples at the right times, and a plain reason where there are none."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import re
import subprocess
import sys
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from malformed import CASES, POSIX
from mutants import DECLARED, UNDECLARED, mutant
from originals import ENCODINGS, original
from program import PROJECT, environment
from recordings import FLOAT, beep_time_s, caf, encode, pcm16, sweep, wav, with_beep

from audio_batch.errors import AssetError, ErrorKind
from audio_batch.media import SAMPLE_RATE_HZ, MediaLimits, decode, probe
from audio_batch.media.container import FORMATS
from audio_batch.media.failures import translate
from audio_batch.media.samples import SampleStore
from audio_batch.media.source import Source, os_failure

FOUND_BY_DECODING = {
    "header only": None,
    "m4a, index first, cut before its sound": 20.0,
    "silent flac that is too long": 720.0,
}


def made(name: str, folder: Path) -> Path:
    case = CASES[name]
    if case.posix_only and not POSIX:
        pytest.skip("no such file on this system")
    path = case.path(folder, "recording")
    case.make(path)
    return path


# ---------------------------------------------------------------- malformed and unusual files


@pytest.mark.parametrize("name", CASES)
def test_malformed_and_unusual_files(name: str, tmp_path: Path) -> None:
    case, path = CASES[name], made(name, tmp_path)
    limits = MediaLimits(max_duration_s=case.max_duration_s)
    if case.kind is not None:
        with pytest.raises(AssetError) as caught:
            decode(path, limits)
        assert caught.value.kind is case.kind
        assert caught.value.message.startswith(str(path))
        assert caught.value.message.endswith(".")
        assert "Errno" not in str(caught.value)
        assert not caught.value.transient
        return
    audio = decode(path, limits)
    assert audio.state == case.state, audio.notes
    assert case.seconds is None or audio.duration_s == pytest.approx(
        case.seconds, abs=max(0.1, 0.01 * case.seconds)
    )
    if case.note is None:
        assert audio.notes == ()
    else:
        assert any(case.note in note for note in audio.notes)
    assert audio.samples.dtype == np.float32
    assert audio.samples.ndim == 1
    assert audio.sample_rate_hz == SAMPLE_RATE_HZ
    assert audio.duration_s == audio.samples.size / SAMPLE_RATE_HZ
    assert np.isfinite(audio.samples).all()
    assert np.abs(audio.samples).max() <= 1.0


@pytest.mark.parametrize("name", CASES)
def test_probe_refuses_what_decoding_refuses(name: str, tmp_path: Path) -> None:
    case, path = CASES[name], made(name, tmp_path)
    if case.kind is None:
        assert probe(path) == decode(path).info
    elif name in FOUND_BY_DECODING:
        assert probe(path).duration_s == FOUND_BY_DECODING[name]
    else:
        with pytest.raises(AssetError) as caught:
            probe(path)
        assert caught.value.kind is case.kind


def own_length_s(path: Path) -> float | None:
    """What the container declares, read without any of our own code."""
    with av.open(str(path), metadata_errors="replace") as container:
        stream = container.streams.audio[0]
        if stream.duration is not None and stream.time_base is not None:
            return float(stream.duration * stream.time_base)
        return None if container.duration is None else container.duration / av.time_base


@pytest.mark.parametrize("name", DECLARED + UNDECLARED)
@pytest.mark.parametrize(
    "seeds", [range(6), pytest.param(range(6, 100), marks=pytest.mark.slow)], ids=len
)
def test_no_mutation_goes_unnoticed(name: str, seeds: range, tmp_path: Path) -> None:
    """What is shorter or longer than it was comes with a note, or as a failure.

    A broken header may declare another length, with which the rest of the file then agrees.
    """
    path = tmp_path / f"mutant{ENCODINGS[name].suffix}"
    counts, worst_s = Counter[str](), 0.0
    for seed in seeds:
        data, what = mutant(name, seed)
        path.write_bytes(data)
        try:
            audio = decode(path)
        except AssetError:
            counts["failed"] += 1
            continue
        counts["flagged" if audio.notes else "done"] += 1
        if audio.notes:
            continue
        off_s = abs(audio.duration_s - ENCODINGS[name].duration_s)
        if what == "header" and off_s > 1 and (declared_s := own_length_s(path)):
            off_s = abs(audio.duration_s - declared_s)
        assert off_s <= 1, (seed, what)
        worst_s = max(worst_s, off_s)
    print(f"{name}: {dict(counts)}, at most {worst_s:.3f} s off unnoticed")
    assert counts["flagged"] + counts["done"] > len(seeds) / 4


# ---------------------------------------------------------------- samples


def test_16_khz_mono_is_handed_through_exactly(tmp_path: Path) -> None:
    path = tmp_path / "exact.wav"
    data = pcm16(sweep(1, 16_000))
    path.write_bytes(wav(data))
    expected = np.frombuffer(data, "<i2").astype(np.float32) / 32768
    assert np.array_equal(decode(path).samples, expected)


@pytest.mark.parametrize("rate_hz", [4_000, 8_000, 11_025, 22_050, 44_100, 48_000, 192_000])
def test_resampling_keeps_length_pitch_and_level(rate_hz: int, tmp_path: Path) -> None:
    path = tmp_path / "tone.wav"
    t = np.arange(2 * rate_hz) / rate_hz
    path.write_bytes(wav(pcm16(0.5 * np.sin(2 * np.pi * 440 * t)[None]), rate_hz=rate_hz))
    samples = decode(path).samples
    assert samples.size == pytest.approx(32_000, abs=2)
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(samples.size)))
    assert np.argmax(spectrum) / 2 == pytest.approx(440, abs=1)
    assert np.sqrt(np.mean(samples**2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.01)


def test_two_channels_become_their_mean(tmp_path: Path) -> None:
    left, right = sweep(1, 16_000)[0], sweep(1, 16_000)[0][::-1] * 0.5
    path = tmp_path / "two.wav"
    path.write_bytes(wav(pcm16(np.stack([left, right])), channels=2))
    assert np.allclose(decode(path).samples, (left + right) / 2, atol=1e-4)


def test_loud_channels_together_do_not_clip(tmp_path: Path) -> None:
    path = tmp_path / "loud.mka"
    loud = np.full((6, 16_000), 0.9, np.float32)
    encode(path, "flac", [loud], 16_000, container="matroska", layout="5.1")
    audio = decode(path)
    assert audio.notes == ()
    assert 0.8 < np.median(audio.samples) <= 0.91


@pytest.mark.parametrize("channels", [4, 6, 9, 32])
def test_no_channel_without_a_name_is_lost(channels: int, tmp_path: Path) -> None:
    """FFmpeg would take the fourth of six for the LFE, and drop it."""
    for speaker in (0, 3, channels - 1):
        sound = np.zeros((channels, 16_000), np.float32)
        sound[speaker] = 0.8
        path = tmp_path / "meeting.wav"
        path.write_bytes(wav(pcm16(sound), channels=channels))
        assert np.median(decode(path).samples) == pytest.approx(0.8 / channels, rel=0.01)


def test_infinite_samples_of_many_channels_make_no_noise(tmp_path: Path) -> None:
    sound = sweep(1, 16_000, 3)
    sound[0, ::50], sound[1, ::50] = np.inf, -np.inf
    path = tmp_path / "infinite.wav"
    path.write_bytes(wav(sound.T.astype("<f4").tobytes(), channels=3, bits=32, kind=FLOAT))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        audio = decode(path)
    assert audio.notes == ("NaN or infinite: 320 samples replaced by silence",)


@pytest.mark.parametrize(
    ("gain", "clipped"), [(0.9, False), (1.0, False), (2.0, True), (8.0, True)]
)
@pytest.mark.parametrize("rate_hz", [16_000, 44_100])
def test_speech_is_clipped_or_merely_loud(
    gain: float, clipped: bool, rate_hz: int, tmp_path: Path
) -> None:
    """Noise has the crest of speech: at a gain of 1 its highest sample is at full scale."""
    noise = np.random.default_rng(2).laplace(size=30_000)
    slow = np.interp(np.arange(30 * rate_hz) * 1_000 / rate_hz, np.arange(30_000), noise)
    path = tmp_path / "loud.wav"
    path.write_bytes(wav(pcm16(gain * slow[None] / np.abs(slow).max()), rate_hz=rate_hz))
    notes = decode(path).notes
    assert [note[:9] for note in notes] == (["clipped: "] if clipped else [])


@pytest.mark.parametrize(("peak", "notes"), [(2, ("silent",)), (8, ())])
def test_silence_is_a_peak_below_80_db(peak: int, notes: tuple[str, ...], tmp_path: Path) -> None:
    """Two steps of 16 bits are -84 dBFS: what dither leaves of silence."""
    path = tmp_path / "quiet.wav"
    draw = np.random.default_rng(3).integers(-peak, peak + 1, 32_000)
    path.write_bytes(wav(draw.astype("<i2").tobytes()))
    assert decode(path).notes == notes


def test_less_than_one_sample_is_nothing(tmp_path: Path) -> None:
    path = tmp_path / "short.wav"
    path.write_bytes(wav(pcm16(sweep(1, 192_000)[:, :3]), rate_hz=192_000))
    with pytest.raises(AssetError) as caught:
        decode(path)
    assert caught.value.kind is ErrorKind.EMPTY_AUDIO


@pytest.mark.parametrize("labels", [[2, 1], [1, 1, 2]], ids=["right first", "left twice"])
def test_an_unusual_channel_order_does_not_end_the_process(
    labels: list[int], tmp_path: Path
) -> None:
    """PyAV before 19.0.2 frees such an order twice; in a process of its own, as it would die."""
    path = tmp_path / "order.caf"
    data = sweep(1, 16_000, len(labels)) * 32767
    path.write_bytes(caf(data.T.astype(">i2").tobytes(), labels))
    code = (
        "import sys; from pathlib import Path; from audio_batch.media import decode, probe\n"
        "for _ in range(3): probe(Path(sys.argv[1])); a = decode(Path(sys.argv[1]))\n"
        "print(a.duration_s, abs(a.samples).max())"
    )
    duration_s, peak = run_python(code, path).split()
    assert float(duration_s) == 1.0
    assert float(peak) > 0.25


def run_python(code: str, *arguments: object) -> str:
    """What a Python process prints; it must end well and say nothing on stderr."""
    done = subprocess.run(
        [sys.executable, "-c", code, *(str(argument) for argument in arguments)],
        env=environment(PYTHONPATH=str(PROJECT)),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("codec", ["flac", "wavpack"])
def test_a_damaged_frame_is_silence_and_not_noise(codec: str, tmp_path: Path) -> None:
    path = tmp_path / "damaged"
    sound = sweep(20, 16_000)
    encode(path, codec, [sound], 16_000, container="matroska")
    intact = decode(path).samples
    data = bytearray(path.read_bytes())
    for place in random.Random(3).sample(range(2_000, len(data) - 2_000), 5):
        data[place : place + 4] = b"\xaa\x55\xaa\x55"
    path.write_bytes(data)
    audio = decode(path)
    assert audio.state == "damaged"
    size = min(intact.size, audio.samples.size)
    wrong = np.abs(audio.samples[:size] - intact[:size]) > 0.01
    assert wrong.any()
    assert np.abs(audio.samples[:size][wrong]).max() == 0


# ---------------------------------------------------------------- times


@pytest.mark.parametrize(
    ("codec", "container", "rate_hz"),
    [
        ("libmp3lame", "mp3", 44_100),
        ("aac", "ipod", 44_100),
        ("aac", "matroska", 44_100),
        ("aac", "mpegts", 44_100),
        ("libopus", "webm", 48_000),
        ("libopus", "ogg", 48_000),
        ("flac", "flac", 16_000),
        ("wmav2", "asf", 44_100),
    ],
)
def test_words_after_damage_keep_their_times(
    codec: str, container: str, rate_hz: int, tmp_path: Path
) -> None:
    path = tmp_path / "damaged"
    sound = with_beep(sweep(30, rate_hz), 25.0, rate_hz)
    encode(path, codec, [sound], rate_hz, container=container, bit_rate=64_000)
    data = bytearray(path.read_bytes())
    first = int(len(data) * 0.3)
    data[first : first + 4096] = random.Random(1).randbytes(4096)
    path.write_bytes(data)
    audio = decode(path)
    assert audio.state == "damaged"
    assert audio.duration_s == pytest.approx(30, abs=0.15)
    assert beep_time_s(audio.samples) == pytest.approx(25.0, abs=0.15)


@pytest.mark.parametrize("name", [pytest.param("mp3", marks=pytest.mark.slow), "m4a"])
def test_a_burst_in_ten_minutes_costs_less_than_a_second(name: str, tmp_path: Path) -> None:
    """faster-whisper's own decoding ends at 180 s here, and says nothing."""
    path = tmp_path / f"long.{name}"
    codec, container = ("libmp3lame", "mp3") if name == "mp3" else ("aac", "ipod")
    sound = np.tile(sweep(60, 16_000), 10)
    fast = {"compression_level": "9"} if name == "mp3" else {}
    encode(path, codec, [sound], 16_000, container=container, codec_options=fast)
    data = bytearray(path.read_bytes())
    first = int(len(data) * 0.3)
    data[first : first + 2048] = random.Random(4).randbytes(2048)
    path.write_bytes(data)
    audio = decode(path)
    assert audio.state == "damaged"
    assert audio.duration_s == pytest.approx(600, abs=0.1)
    said = re.fullmatch(r"damaged: ([\d.]+) s of 600\.0 s decoded.*", audio.notes[0])
    assert said is not None, audio.notes
    assert 599 <= float(said[1]) < 600


@pytest.mark.parametrize("container", ["mp4", "matroska", "mpegts"])
def test_sound_that_sets_in_after_the_picture(container: str, tmp_path: Path) -> None:
    path = tmp_path / "film"
    sound = with_beep(sweep(4, 48_000), 1.0, 48_000)
    encode(path, "aac", [sound], 48_000, container=container, starts_s=1.5, video_s=5.5)
    audio = decode(path)
    assert audio.info.has_video
    assert (audio.state, audio.notes) == ("complete", ())
    assert audio.duration_s == pytest.approx(5.5, abs=0.1)
    assert beep_time_s(audio.samples) == pytest.approx(2.5, abs=0.06)


@pytest.mark.parametrize(("codec", "container"), [("libopus", "webm"), ("aac", "ipod")])
def test_a_muted_recorder_is_no_damage(codec: str, container: str, tmp_path: Path) -> None:
    path = tmp_path / "muted"
    sound = with_beep(sweep(6, 48_000), 5.0, 48_000)
    encode(path, codec, [sound], 48_000, container=container, pause_after_s=(3.0, 20.0))
    audio = decode(path)
    assert audio.state == "complete"
    assert audio.notes == ("nothing was recorded for 20.0 s within, left silent",)
    assert beep_time_s(audio.samples) == pytest.approx(25.0, abs=0.06)
    assert np.abs(audio.samples[4 * 16_000 : 22 * 16_000]).max() == 0


def test_a_long_gap_in_a_film_that_declares_its_own_length_only(tmp_path: Path) -> None:
    """The film's length vouches for the gap, though it says nothing of how long the sound is."""
    path = tmp_path / "film.mkv"
    sound = with_beep(sweep(6, 48_000), 5.0, 48_000)
    pause = (3.0, 20.0)
    encode(path, "aac", [sound], 48_000, container="matroska", pause_after_s=pause, video_s=26)
    path.write_bytes(path.read_bytes().replace(b"DURATION", b"XURATION"))
    audio = decode(path)
    assert audio.state == "damaged"
    assert audio.duration_s == pytest.approx(26, abs=0.1)
    assert beep_time_s(audio.samples) == pytest.approx(25.0, abs=0.06)


def test_a_clock_that_restarts_makes_no_gap(tmp_path: Path) -> None:
    """Two transport streams after each other, the second from time 0, then far ahead."""
    parts = []
    for start_s in (0.0, 0.0, 5_000.0):
        path = tmp_path / "part.ts"
        encode(path, "aac", [sweep(4, 48_000)], 48_000, container="mpegts", starts_s=start_s)
        parts.append(path.read_bytes())
    path = tmp_path / "joined.ts"
    path.write_bytes(b"".join(parts))
    audio = decode(path)
    assert audio.state == "complete"
    assert audio.duration_s == pytest.approx(12, abs=0.2)
    assert audio.notes == ("its clock was set anew 2 times: times count the sound alone",)


# ---------------------------------------------------------------- what a file says of itself


def test_info_is_what_the_headers_say(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    encode(path, "aac", [sweep(3, 48_000, 2)], 48_000, container="mp4", layout="stereo", video_s=3)
    info = probe(path)
    assert "mp4" in info.container.split(",")
    assert (info.codec, info.sample_rate_hz, info.channels) == ("aac", 48_000, 2)
    assert (info.audio_streams, info.audio_stream, info.has_video) == (1, 0, True)
    assert info.duration_s == pytest.approx(3, abs=0.05)


def test_a_cover_picture_is_no_video(tmp_path: Path) -> None:
    info = probe(made("large tag", tmp_path))
    assert not info.has_video
    assert info.duration_s == pytest.approx(60, abs=0.1)


def test_the_default_stream_is_taken_unless_another_is_asked_for(tmp_path: Path) -> None:
    path = made("two audio streams", tmp_path)
    levels = {
        index: float(np.abs(decode(path, audio_stream=index).samples).max()) for index in (0, 1)
    }
    assert levels[0] > 5 * levels[1]
    default = decode(path)
    assert (default.info.audio_streams, default.info.audio_stream) == (2, 1)
    assert float(np.abs(default.samples).max()) == levels[1]


@pytest.mark.parametrize("index", [2, -1])
def test_a_stream_that_does_not_exist(index: int, tmp_path: Path) -> None:
    path = made("two audio streams", tmp_path)
    for call in (probe, decode):
        with pytest.raises(AssetError, match="has 2 audio streams") as caught:
            call(path, audio_stream=index)
        assert caught.value.kind is ErrorKind.OPTION


def test_a_film_longer_than_its_sound_is_complete(tmp_path: Path) -> None:
    for container in ("mp4", "matroska"):
        path = tmp_path / f"film.{container}"
        encode(path, "aac", [sweep(3, 48_000)], 48_000, container=container, video_s=10)
        audio = decode(path)
        assert (audio.state, audio.notes) == ("complete", ())
        assert audio.duration_s == pytest.approx(3, abs=0.1)


def test_a_tag_that_is_no_utf8(tmp_path: Path) -> None:
    path = tmp_path / "tagged.wav"
    name = b"Caf\xe9\xff\0"
    tag = b"INFOINAM" + len(name).to_bytes(4, "little") + name
    plain = wav(pcm16(sweep(1, 16_000)))
    path.write_bytes(plain[:36] + b"LIST" + len(tag).to_bytes(4, "little") + tag + plain[36:])
    assert decode(path).duration_s == 1


# ---------------------------------------------------------------- limits


def test_the_duration_limit_counts_samples(tmp_path: Path) -> None:
    path = tmp_path / "long.flac"
    encode(path, "flac", [np.zeros((1, 16_000 * 120), np.float32)], 16_000, container="flac")
    with pytest.raises(AssetError, match="longer than the limit of 90 s") as caught:
        decode(path, MediaLimits(max_duration_s=90))
    assert caught.value.kind is ErrorKind.MEDIA_LIMIT
    assert decode(path, MediaLimits(max_duration_s=120)).duration_s == 120


@pytest.mark.parametrize(
    "limits",
    [MediaLimits(max_sample_rate_hz=8_000), MediaLimits(max_channels=1)],
    ids=["rate", "channels"],
)
def test_limits_hold_for_a_format_met_midway(limits: MediaLimits, tmp_path: Path) -> None:
    first, second = tmp_path / "first.aac", tmp_path / "second.aac"
    encode(first, "aac", [sweep(2, 8_000)], 8_000, container="adts")
    encode(second, "aac", [sweep(2, 16_000, 2)], 16_000, container="adts", layout="stereo")
    path = tmp_path / "changing.aac"
    path.write_bytes(first.read_bytes() + second.read_bytes())
    assert decode(path).duration_s == pytest.approx(4, abs=0.4)
    with pytest.raises(AssetError) as caught:
        decode(path, limits)
    assert caught.value.kind is ErrorKind.MEDIA_LIMIT


# ---------------------------------------------------------------- names and files


@pytest.mark.parametrize(
    "name",
    [
        "concat:a.wav|b.wav",
        "file:a.wav",
        "http:a.wav",
        "-i.wav",
        "%03d.wav",
        "*.wav",
        "line\nbreak.wav",
        "\u202egnp.wav",
        "日本語 – Пример.wav",
        "no extension",
        "x" * 251 + ".wav",
        b"latin-1 \xe9.wav".decode("utf-8", "surrogateescape"),
    ],
    ids=ascii,
)
def test_a_name_is_only_a_name(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    try:
        path.write_bytes(original("wav"))
    except OSError:
        pytest.skip("this file system does not take the name")
    assert decode(path).duration_s == 20
    path.write_bytes(b"no sound" * 100)
    with pytest.raises(AssetError) as caught:
        decode(path)
    caught.value.message.encode("utf-8")
    assert caught.value.message.replace(" ", "").isprintable()


@pytest.mark.parametrize("name", ["nul\0name.wav", "y" * 300, "there/is/nothing.wav"], ids=ascii)
def test_a_name_that_cannot_be(name: str, tmp_path: Path) -> None:
    with pytest.raises(AssetError) as caught:
        decode(tmp_path / name)
    assert caught.value.kind is ErrorKind.INPUT_MISSING


def test_a_file_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(AssetError) as caught:
        decode(tmp_path / "file" / "a.wav")
    assert caught.value.kind is ErrorKind.INPUT_MISSING


@pytest.mark.skipif(not POSIX, reason="symbolic links need a privilege on Windows")
def test_links_are_followed_and_loops_are_not(tmp_path: Path) -> None:
    (tmp_path / "real.wav").write_bytes(original("wav"))
    (tmp_path / "link.wav").symlink_to("real.wav")
    (tmp_path / "loop.wav").symlink_to("loop.wav")
    assert decode(tmp_path / "link.wav").duration_s == 20
    with pytest.raises(AssetError) as caught:
        decode(tmp_path / "loop.wav")
    assert caught.value.kind is ErrorKind.INPUT_MISSING


@pytest.mark.skipif(not POSIX or os.geteuid() == 0, reason="needs a user who can be denied a file")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = tmp_path / "secret.wav"
    path.write_bytes(original("wav"))
    path.chmod(0)
    with pytest.raises(AssetError) as caught:
        decode(path)
    assert caught.value.kind is ErrorKind.INPUT_UNREADABLE
    assert not caught.value.transient


@pytest.mark.parametrize(
    ("number", "kind", "transient"),
    [
        (errno.ENOENT, ErrorKind.INPUT_MISSING, False),
        (errno.ENOTDIR, ErrorKind.INPUT_MISSING, False),
        (errno.EISDIR, ErrorKind.INPUT_NOT_A_FILE, False),
        (errno.EACCES, ErrorKind.INPUT_UNREADABLE, False),
        (errno.EIO, ErrorKind.INPUT_UNREADABLE, True),
        (errno.ETIMEDOUT, ErrorKind.INPUT_UNREADABLE, True),
        (errno.EMFILE, ErrorKind.INPUT_UNREADABLE, True),
    ],
)
def test_errors_of_the_system_are_told_apart(number: int, kind: ErrorKind, transient: bool) -> None:
    failure = os_failure(OSError(number, os.strerror(number)), Path("a.wav"))
    assert (failure.kind, failure.transient) == (kind, transient)
    assert failure.message.startswith("a.wav ")


@pytest.mark.skipif(not POSIX, reason="an open file cannot be deleted on Windows")
@pytest.mark.parametrize("change", [pytest.param("delete", marks=pytest.mark.slow), "cut"])
def test_a_file_that_changes_while_it_is_read(change: str, tmp_path: Path) -> None:
    """What is deleted can be read to its end all the same; what is cut is said to be."""
    path = tmp_path / "changing.wav"
    size = 3600 * 32_000
    head = wav(b"", size=size)
    with path.open("wb") as file:
        file.write(head)
        file.truncate(len(head) + size)

    def change_it(frame: FrameType, event: str, _: object) -> None:
        """Well within its samples: what it says of itself has been read by then."""
        if event != "call" or frame.f_code is not Source.read.__code__:
            return
        if frame.f_locals["self"].tell() < 4_000_000:
            return
        sys.setprofile(None)
        if change == "delete":
            path.unlink()
        else:
            os.truncate(path, 1_000_000)

    sys.setprofile(change_it)
    try:
        audio = decode(path)
    finally:
        sys.setprofile(None)
    if change == "delete":
        assert not path.exists()
        assert (audio.duration_s, audio.state, audio.notes) == (3600, "complete", ("silent",))
    else:
        assert audio.duration_s < 3500
        assert audio.state == "truncated"
        assert "of 3600.0 s" in audio.notes[0]


def test_an_error_of_the_disk_is_no_damage() -> None:
    """Address 0 of a process's own memory is the one read error to be had at will."""
    path = Path("/proc/self/mem")
    if not path.is_file():
        pytest.skip("needs /proc")
    with pytest.raises(AssetError, match="cannot be read: Input/output error") as caught:
        decode(path)
    assert caught.value.kind is ErrorKind.INPUT_UNREADABLE
    assert caught.value.transient


# ---------------------------------------------------------------- PyAV and FFmpeg


@pytest.mark.parametrize(
    "error_class", sorted({*av.error.classes.values(), av.error.UndefinedError}, key=str), ids=str
)
def test_the_map_of_errors_is_total(error_class: type[Exception]) -> None:
    code = next((c for c, k in av.error.classes.items() if k is error_class), -1)
    error = error_class(code, "reason", "input.wav")
    for head, fallback in ((b"\0" * 64, ErrorKind.NOT_MEDIA), (b"OggS", ErrorKind.MEDIA_DAMAGED)):
        failure = translate(error, Path("a.wav"), head)
        expected = {fallback, ErrorKind.NO_AUDIO_STREAM}
        if issubclass(error_class, MemoryError):
            expected = {ErrorKind.OUT_OF_MEMORY}
        assert failure.kind in expected
        assert "a.wav" in failure.message
        assert failure.remedy


def test_every_admitted_container_exists_and_none_names_other_files() -> None:
    available = {name for entry in av.formats_available for name in entry.split(",")}
    assert set(FORMATS) <= available
    assert not set(FORMATS) & {"hls", "concat", "dash", "sdp", "image2", "lavfi", "rtsp", "imf"}


def test_nothing_reaches_the_terminal(tmp_path: Path) -> None:
    paths = [made(name, tmp_path) for name in ("mp3 burst", "m4a burst", "opus burst")]
    code = (
        "import sys; from pathlib import Path; from audio_batch.media import decode\n"
        "for path in sys.argv[1:]: print(decode(Path(path)).state)"
    )
    assert run_python(code, *paths).split() == ["damaged"] * 3


def test_many_threads_decode_the_same(tmp_path: Path) -> None:
    paths = []
    for name in ("mp3 burst", "flac burst", "webm burst", "8 channels", "large tag", "192 kHz"):
        folder = tmp_path / name
        folder.mkdir()
        paths.append(made(name, folder))

    def digest(path: Path) -> str:
        return hashlib.sha256(decode(path).samples.tobytes()).hexdigest()

    alone = [digest(path) for path in paths]
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(digest, paths * 6))
    assert together == alone * 6


MEASURE = """
import json, re, sys
from pathlib import Path
import psutil
from audio_batch.engines.heap import keep_freed_memory
from audio_batch.media import decode

keep_freed_memory()  # as in a run on a CPU

def peak_bytes():
    if hasattr(info := psutil.Process().memory_info(), "peak_wset"):
        return info.peak_wset
    # Not getrusage: a process begins there with the peak of the one that has begun it.
    found = re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024

before = peak_bytes()
audio = decode(Path(sys.argv[1]))
print(json.dumps([audio.duration_s, audio.samples.nbytes, peak_bytes() - before]))
"""


@pytest.mark.parametrize(
    ("codec", "container"),
    [("flac", "flac"), pytest.param("pcm_s16le", "wav", marks=pytest.mark.slow)],
)
def test_an_hour_needs_little_more_memory_than_its_samples(
    codec: str, container: str, tmp_path: Path
) -> None:
    path = tmp_path / f"hour.{container}"
    sound = np.zeros((1, 8_000 * 3_600), np.float32)
    sound[0, :8_000] = sweep(1, 8_000)[0]
    encode(path, codec, [sound], 8_000, container=container)
    duration_s, samples_bytes, growth_bytes = json.loads(run_python(MEASURE, path))
    print(f"{growth_bytes / 1e6:.0f} MB for {samples_bytes / 1e6:.0f} MB of samples")
    assert duration_s == 3_600
    # A block that is joined on, and the decoder; held twice it would be 470e6.
    assert growth_bytes < samples_bytes + 160e6


SPAN_OF = """
import json, re, sys
from pathlib import Path
import psutil
from audio_batch.media import decode

def peak_bytes():
    if hasattr(info := psutil.Process().memory_info(), "peak_wset"):
        return info.peak_wset
    # Not getrusage: a process begins there with the peak of the one that has begun it.
    found = re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024

path, first, last = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
before = peak_bytes()
audio = decode(path, span=(first, last))
print(json.dumps([audio.duration_s, audio.samples.nbytes, peak_bytes() - before]))
"""


def silent_hours(path: Path, hours: int) -> Path:
    """A recording of 8 kHz, written without holding it."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8_000, layout="mono")
        for minute in range(60 * hours):
            sound = np.zeros((1, 8_000 * 60), np.int16)
            sound[0, :8_000] = minute + 1
            frame = av.AudioFrame.from_ndarray(sound, format="s16", layout="mono")
            frame.sample_rate = 8_000
            frame.pts = minute * 8_000 * 60
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("hours", "lengths_min"), [(1, (2,)), pytest.param(6, (2, 20), marks=pytest.mark.slow)]
)
def test_memory_grows_with_the_span_and_not_with_the_recording(
    hours: int, lengths_min: tuple[int, ...], tmp_path: Path
) -> None:
    path = silent_hours(tmp_path / "hours.wav", hours)
    first = 30 * 60 * SAMPLE_RATE_HZ
    for minutes in lengths_min:
        last = first + minutes * 60 * SAMPLE_RATE_HZ
        answer = run_python(SPAN_OF, path, str(first), str(last))
        duration_s, samples_bytes, growth_bytes = json.loads(answer)
        assert duration_s == hours * 3_600
        print(f"{growth_bytes / 1e6:.0f} MB for {samples_bytes / 1e6:.0f} MB of samples")
        assert samples_bytes == 4 * (last - first)
        assert growth_bytes < 2 * samples_bytes + 200e6  # an hour as a whole takes 310e6


def test_a_span_holds_the_samples_that_the_whole_has_there(tmp_path: Path) -> None:
    """With everything that is told of the whole, whether or not silence fills what was lost."""
    names = ("mp3 burst", "flac burst", "webm burst", "8 channels", "large tag", "opus burst")
    for number, name in enumerate(names):
        folder = tmp_path / str(number)
        folder.mkdir()
        path = made(name, folder)
        whole = decode(path)
        total = whole.samples.size
        for first, last in ((0, total), (total // 3, total // 2), (total // 2, 10 * total)):
            part = decode(path, span=(first, last))
            assert np.array_equal(part.samples, whole.samples[first:last]), name
            assert part.first_sample == first
            told = (part.duration_s, part.info, part.state, part.notes)
            assert told == (whole.duration_s, whole.info, whole.state, whole.notes)
        assert decode(path, span=(total, 2 * total)).samples.size == 0


@given(
    lengths=st.lists(st.tuples(st.integers(0, 50), st.integers(1, 60)), min_size=1, max_size=8),
    first=st.integers(0, 500),
    size=st.integers(1, 300),
    with_gaps=st.booleans(),
)
def test_a_store_keeps_a_span_of_its_samples_and_gaps(
    lengths: list[tuple[int, int]], first: int, size: int, with_gaps: bool
) -> None:
    """Blocks are made so small that most of them are dropped."""

    class SmallStore(SampleStore):
        block_samples = 16

    whole: list[float] = []
    store = SmallStore((first, first + size))
    for gap, length in lengths:
        if gap:
            store.gap(gap)
            whole += [0.0] * (gap if with_gaps else 0)
        samples = np.linspace(0.1, 0.9, length, dtype=np.float32)
        store.append(samples)
        whole += samples.tolist()
    wanted = store.join(with_gaps=with_gaps)
    assert wanted.tolist() == whole[first : first + size]


def test_a_file_is_not_read_without_end(tmp_path: Path) -> None:
    """An allowance of bytes ends a demuxer that a crafted file sends round in circles."""
    path = tmp_path / "circle.wav"
    path.write_bytes(original("wav"))
    source = Source(path)
    try:
        rounds = 0
        while source.read_at(0, 1 << 20):
            rounds += 1
            assert rounds < 1_000
    finally:
        source.close()
    assert rounds * path.stat().st_size > 2 * path.stat().st_size
