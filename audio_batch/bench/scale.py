"""Cost against work: many assets, and one long one. Real runs, each in a process of its own.

What costs by the asset is measured with the null engine, which hears nothing: seconds to the first
task, milliseconds an asset, the journal, and memory; or, with nothing published (`many`), what the
program itself does in a second. What costs by the hour is measured with a real model on one
recording that grows. `ScaleReport` is the schema of the JSON that comes of it.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from audio_batch import __version__
from audio_batch.bench import many, ours
from audio_batch.bench.machine import Machine, look
from audio_batch.bench.many import ManyCost
from audio_batch.bench.measuring import Ran
from audio_batch.bench.results import SCHEMA_VERSION, OurRun, StageTime
from audio_batch.errors import UsageError
from audio_batch.output_folder import OutputFolder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SCALE_FILE = "bench-scale.json"
COUNTS = (10, 100, 1_000, 10_000)
FULL_COUNT = 100_000
HOURS = (1 / 60, 1 / 6, 1.0, 4.0, 12.0)

_RATE_HZ = 16_000
_SAMPLE_BYTES = 2
_SHORT_S = 0.1
_CLIP_S, _EVERY_S = 20.0, 60.0
_LINKS = 1000  # NTFS has 1,023 names for a file, ext4 65,000

_LOADING = """
import sys, psutil
from pathlib import Path
from audio_batch.config import Settings
from audio_batch.request import Request, read_manifest
import audio_batch.session
before = psutil.Process().memory_info().rss
manifest = read_manifest(Request(Path(sys.argv[1]), Settings()))
print(psutil.Process().memory_info().rss - before)
"""


@dataclass(frozen=True, slots=True)
class CountCost:
    """A run of the null engine over `assets` recordings of 0.1 s.

    `first_task_s` is from the process's start to the first asset's. `ms_per_asset` is from the
    first asset's start to the last one's end, without the null engine's own time, by the number of
    assets: reading, decoding, publishing and journalling are in it. `between_ms` is what of it no
    stage of an asset was at work for: the scheduler, the journal, and the hand-over; below zero
    where assets were read ahead meanwhile. `cpu_ms_per_asset` is processor time of all threads,
    beyond that of the smallest run. Bytes an asset are what the run has more than the smallest one,
    by the assets that it has more; `manifest_bytes_per_asset` is the part of them that reading the
    manifest takes. None where there is nothing to compare with.
    """

    assets: int
    exit_code: int
    wall_s: float
    first_task_s: float | None
    ms_per_asset: float | None
    between_ms: float | None
    cpu_ms_per_asset: float | None
    journal_bytes: int
    peak_rss_bytes: int
    rss_bytes_per_asset: int | None
    manifest_bytes_per_asset: int | None
    stages: tuple[StageTime, ...]


@dataclass(frozen=True, slots=True)
class LengthCost:
    """A run over one recording. `rtfx` is audio seconds per wall second of the run, its start and
    the model's loading included. `samples_bytes` are those of the recording as float32 at 16 kHz,
    `beyond_samples_bytes` is the peak beyond them.
    """

    duration_s: float
    exit_code: int
    wall_s: float
    rtfx: float
    cpu_s: float
    peak_rss_bytes: int
    samples_bytes: int
    beyond_samples_bytes: int
    stages: tuple[StageTime, ...]


@dataclass(frozen=True, slots=True)
class ScaleReport:
    """What `bench scale` found. Times in seconds if not said otherwise, sizes in bytes."""

    made_at: str
    program: str
    machine: Machine
    model: str
    clip: str
    counts: tuple[CountCost, ...]
    lengths: tuple[LengthCost, ...]
    unpublished: tuple[ManyCost, ...] = ()
    schema_version: int = SCHEMA_VERSION
    kind: Literal["bench-scale"] = "bench-scale"


def measure(
    work: Path,
    *,
    counts: Sequence[int],
    hours: Sequence[float],
    model: str,
    clip: Path | None,
    flags: Sequence[str] = (),
    publish: bool = True,
    say: Callable[[str], None],
) -> ScaleReport:
    """Measure all of it, one run after the other.

    Args:
        work: an empty folder for recordings, outputs and logs; each run's are removed after it.
        clip: speech, of which the long recordings are made; None makes up something like it.
        flags: more flags of `run` for the long recordings.
        publish: whether the many are published; see `many`.
        say: is told what is being done.

    Raises:
        UsageError: the clip cannot be read.
    """
    sound = _speech_like() if clip is None else _read_clip(clip)
    machine = look()
    found: list[CountCost] = []
    smallest: tuple[int, Ran] | None = None
    unpublished: list[ManyCost] = []
    for count in () if publish else sorted(set(counts)):
        say(f"{count:,} assets, nothing published")
        unpublished.append(_unpublished(work / "assets", count))
    for count in sorted(set(counts)) if publish else ():
        say(f"{count:,} assets, null engine")
        cost, ran = _by_count(work / "assets", count, smallest)
        smallest = smallest or (count, ran)
        found.append(cost)
    lengths = []
    for hour in sorted(set(hours)):
        say(f"{duration_text(hour * 3600)} of audio, model {model}")
        lengths.append(_by_length(work / "long", hour * 3600, sound, ("--model", model, *flags)))
    return ScaleReport(
        made_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        program=f"audio-batch {__version__}",
        machine=machine,
        model=model,
        clip="made up" if clip is None else clip.name,
        counts=tuple(found),
        lengths=tuple(lengths),
        unpublished=tuple(unpublished),
    )


def write_short_recordings(folder: Path, count: int) -> Path:
    """`count` recordings of 0.1 s and their manifest, as JSON Lines without lengths; its path."""
    manifest = folder / "manifest.jsonl"
    folder.mkdir(parents=True)
    original = folder
    with manifest.open("w", encoding="utf-8") as lines:
        for number in range(count):
            relative = f"audio/{number // _LINKS:04d}/recording-{number:06d}.wav"
            path = folder / relative
            if number % _LINKS == 0:
                path.parent.mkdir(parents=True)
                original = write_wav(path, _SHORT_S)
            else:
                _linked(original, path)
            entry = {"id": f"recording-{number:06d}", "path": relative}
            lines.write(json.dumps(entry) + "\n")
    return manifest


def _linked(original: Path, path: Path) -> None:
    try:
        os.link(original, path)
    except OSError:  # a file system without hard links
        shutil.copyfile(original, path)


def write_wav(
    path: Path, duration_s: float, clip: bytes = b"", *, every_s: float = _EVERY_S
) -> Path:
    """A WAV file (mono, 16 bits, 16 kHz) of silence with a clip (samples as bytes) every so often.

    Silence takes no space where the file system knows sparse files.
    """
    size = round(duration_s * _RATE_HZ) * _SAMPLE_BYTES
    header = struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        *(b"RIFF", 36 + size, b"WAVE", b"fmt ", 16, 1, 1, _RATE_HZ),
        *(_RATE_HZ * _SAMPLE_BYTES, _SAMPLE_BYTES, 8 * _SAMPLE_BYTES, b"data", size),
    )
    step = round(every_s * _RATE_HZ) * _SAMPLE_BYTES
    with path.open("wb") as file:
        file.write(header)
        for at in range(0, size, step) if clip else ():
            file.seek(len(header) + at)
            file.write(clip[: min(len(clip), size - at)])
        file.truncate(len(header) + size)
    return path


def _by_count(folder: Path, count: int, smallest: tuple[int, Ran] | None) -> tuple[CountCost, Ran]:
    manifest = write_short_recordings(folder, count)
    flags = ("--engine", "null", "--model", "null", "--device", "cpu", "--output-format", "json")
    try:
        ran, told = _run(manifest, flags)
        journal = OutputFolder(folder / "out").journal_path
        journal_bytes = journal.stat().st_size if journal.is_file() else 0
        loading_bytes = _loading_bytes(manifest)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    wall_s, start_s, end_s = ran.usage.wall_s, told.start_s, told.end_s
    own_s = {stage.name: stage.total_s for stage in told.stages}
    each_ms = between_ms = None
    if start_s is not None and end_s is not None:
        at_work_s = wall_s - start_s - end_s
        each_ms = round(1000 * (at_work_s - own_s.get("transcribe", 0.0)) / count, 3)
        between_ms = round(1000 * (at_work_s - sum(own_s.values())) / count, 3)
    more = count - smallest[0] if smallest else 0
    cpu_ms = rss = None
    if smallest and more:
        before = smallest[1].usage
        cpu_ms = round(1000 * (ran.usage.cpu_s - before.cpu_s) / more, 3)
        rss = round((ran.usage.peak_rss_bytes - before.peak_rss_bytes) / more)
    cost = CountCost(
        assets=count,
        exit_code=told.exit_code,
        wall_s=wall_s,
        first_task_s=start_s,
        ms_per_asset=each_ms,
        between_ms=between_ms,
        cpu_ms_per_asset=cpu_ms,
        journal_bytes=journal_bytes,
        peak_rss_bytes=ran.usage.peak_rss_bytes,
        rss_bytes_per_asset=rss,
        manifest_bytes_per_asset=round(loading_bytes / count) if more else None,
        stages=told.stages,
    )
    return cost, ran


def _unpublished(folder: Path, count: int) -> ManyCost:
    manifest = write_short_recordings(folder, count)
    try:
        return many.measure(manifest, count, folder.parent / "runs.log")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _by_length(folder: Path, duration_s: float, clip: bytes, flags: Sequence[str]) -> LengthCost:
    folder.mkdir(parents=True)
    try:
        write_wav(folder / "long.wav", duration_s, clip)
        manifest = folder / "manifest.json"
        manifest.write_text(json.dumps([{"id": "long", "path": "long.wav"}]), encoding="utf-8")
        ran, told = _run(manifest, flags)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    samples_bytes = round(duration_s * _RATE_HZ) * 4
    return LengthCost(
        duration_s=round(duration_s, 3),
        exit_code=told.exit_code,
        wall_s=ran.usage.wall_s,
        rtfx=round(duration_s / ran.usage.wall_s, 1),
        cpu_s=ran.usage.cpu_s,
        peak_rss_bytes=ran.usage.peak_rss_bytes,
        samples_bytes=samples_bytes,
        beyond_samples_bytes=ran.usage.peak_rss_bytes - samples_bytes,
        stages=told.stages,
    )


def _run(manifest: Path, flags: Sequence[str]) -> tuple[Ran, OurRun]:
    folder = manifest.parent
    output = folder / "out"
    ran = ours.measure(
        manifest, output, flags, cache=folder / "cache", log=folder.parent / "runs.log"
    )
    return ran, ours.told(ran, output)


_LOADED_S = 600.0


def _loading_bytes(manifest: Path) -> int:
    done = subprocess.run(
        [sys.executable, "-c", _LOADING, str(manifest)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
        timeout=_LOADED_S,
    )
    return int(done.stdout)


def _speech_like() -> bytes:
    """Syllables: a buzz of 120 Hz through the resonances of vowels, four a second."""
    import numpy as np

    vowels_hz = ((730, 1090, 2440), (270, 2290, 3010), (570, 840, 2410), (530, 1840, 2480))
    seconds = np.arange(round(_CLIP_S * _RATE_HZ)) / _RATE_HZ
    sound = np.zeros_like(seconds)
    syllables = (seconds * 4).astype(int)
    for number, formants_hz in enumerate(vowels_hz):
        pitch_hz = 120 + 10 * np.sin(2 * np.pi * 0.5 * seconds)
        phase = 2 * np.pi * np.cumsum(pitch_hz) / _RATE_HZ
        vowel = sum(
            np.sin(k * phase) * sum(1 / (1 + ((120 * k - f) / 80) ** 2) for f in formants_hz)
            for k in range(1, 30)
        )
        sound += np.where(syllables * 7 % len(vowels_hz) == number, vowel, 0.0)
    sound *= np.sin(np.pi * (seconds * 4 % 1)) ** 0.5
    return _as_bytes(0.3 * sound / np.abs(sound).max())


def _read_clip(path: Path) -> bytes:
    from audio_batch import media
    from audio_batch.errors import AssetError

    try:
        return _as_bytes(media.decode(path).samples)
    except AssetError as error:
        raise UsageError(f"The clip {path} cannot be used: {error.message}") from error


def _as_bytes(samples: NDArray[np.floating]) -> bytes:
    import numpy as np

    data: bytes = (np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()
    return data[: round(_EVERY_S * _RATE_HZ) * _SAMPLE_BYTES]


def duration_text(seconds: float) -> str:
    """A length for people."""
    return f"{seconds / 3600:g} h" if seconds >= 3600 else f"{seconds / 60:g} min"
