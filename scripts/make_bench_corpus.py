"""Make the recordings that `audio-batch bench` is tried with, and their manifests.

    python scripts/make_bench_corpus.py OUT [--speech ../shared/data]

    OUT/short.json   200 clips of 3 to 10 s, one voice each
    OUT/mix.json     20 recordings of 1 to 10 minutes, two or three voices taking turns
    OUT/long.json    one recording of 30 minutes

Spoken digits are strung together with pauses: with `--speech` real ones (the Free Spoken Digit
Dataset, takes that the demonstration model was not taught with), else those of `examples/`. FLAC,
WAV and MP3 take turns. Each entry has its `text` and its `reference_seglst`. The same seed, speech
and PyAV make the same recordings; all lengths are of speech and pauses, before encoding.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.codec.context import Flags
from numpy.typing import NDArray

Samples = NDArray[np.int16]

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
RATE_HZ = 16_000
KNOWN_SPEAKERS = ("george", "jackson", "lucas", "nicolas")
"""Those whose other takes the demonstration model was taught with."""
HELD_OUT_TAKES = range(5)
SAMPLE_COLUMNS = ("start_sample", "end_sample")
DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
LONGEST_GAP_S = 0.6  # within a turn
NOISE = 12.0
"""Standard deviation of the noise under everything, of 32,768: digital silence is rare."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """How a recording is stored."""

    suffix: str
    codec: str
    rate_hz: int
    bit_rate: int | None = None


ENCODINGS = (
    Encoding(".flac", "flac", 16_000),
    Encoding(".wav", "pcm_s16le", 44_100),
    Encoding(".mp3", "libmp3lame", 44_100, 64_000),
)


@dataclass(frozen=True, slots=True)
class Saying:
    """Something said without a pause: mono samples at `RATE_HZ`."""

    samples: Samples
    text: str


@dataclass(slots=True)
class Scene:
    """A recording on its way: what is heard, and who says what when."""

    id: str
    parts: list[Samples] = field(default_factory=list)
    count: int = 0
    segments: list[dict[str, Any]] = field(default_factory=list)

    def wait(self, seconds: float) -> None:
        """Add silence."""
        self.add(np.zeros(round(seconds * RATE_HZ), dtype=np.int16))

    def add(self, samples: Samples) -> None:
        """Add sound."""
        self.parts.append(samples)
        self.count += len(samples)

    @property
    def seconds(self) -> float:
        """How long it is so far."""
        return self.count / RATE_HZ

    @property
    def text(self) -> str:
        """All words in order."""
        return " ".join(segment["words"] for segment in self.segments)


def decoded(path: Path) -> Samples:
    """A whole file as mono samples at `RATE_HZ`."""
    with av.open(str(path)) as container:
        resampler = av.AudioResampler("s16", "mono", RATE_HZ)
        frames = itertools.chain(container.decode(audio=0), (None,))
        parts = [out.to_ndarray()[0] for frame in frames for out in resampler.resample(frame)]
    return np.concatenate(parts)


def real_voices(data: Path) -> dict[str, list[Saying]]:
    """Real digits by speaker, from `data/digits/fsdd`."""
    with (data / "digits" / "fsdd_index.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["speaker"] in KNOWN_SPEAKERS]
    voices: dict[str, list[Saying]] = {}
    for name, of_file in itertools.groupby(rows, key=lambda row: row["file"]):
        path = data / "digits" / name
        samples = decoded(path)
        with av.open(str(path)) as container:
            factor = RATE_HZ / container.streams.audio[0].rate
        for row in of_file:
            if int(row["take"]) in HELD_OUT_TAKES:
                start, end = (round(int(row[key]) * factor) for key in SAMPLE_COLUMNS)
                saying = Saying(samples[start:end], DIGITS[int(row["digit"])])
                voices.setdefault(row["speaker"], []).append(saying)
    return voices


def example_voices() -> dict[str, list[Saying]]:
    """The turns of the examples' recordings, by speaker; made by a synthesizer."""
    manifest = json.loads((EXAMPLES / "manifest.json").read_text(encoding="utf-8"))
    paths = {entry["id"]: EXAMPLES / entry["path"] for entry in manifest["assets"]}
    segments = json.loads((EXAMPLES / "references.json").read_text(encoding="utf-8"))
    voices: dict[str, list[Saying]] = {}
    for name, of_file in itertools.groupby(segments, key=lambda segment: segment["session_id"]):
        samples = decoded(paths[name])
        for segment in of_file:
            start, end = (round(segment[key] * RATE_HZ) for key in ("start_time", "end_time"))
            # What the encoding smears over the edges belongs to the words.
            said = samples[max(0, start - 400) : end + 800]
            voices.setdefault(segment["speaker"], []).append(Saying(said, segment["words"]))
    return voices


def speak(scene: Scene, speaker: str, sayings: Sequence[Saying], random: Any) -> None:
    """Add one turn of a speaker, with pauses of 0.1 to 0.6 s between what is said."""
    begun, words = scene.seconds, []
    for number, saying in enumerate(sayings):
        if number:
            scene.wait(random.uniform(0.1, LONGEST_GAP_S))
        scene.add(saying.samples)
        words.append(saying.text)
    scene.segments.append(
        {
            "session_id": scene.id,
            "speaker": speaker,
            "start_time": round(begun, 3),
            "end_time": round(scene.seconds, 3),
            "words": " ".join(words),
        }
    )


def compose(
    name: str, seconds: float, voices: dict[str, list[Saying]], speakers: int, random: Any
) -> Scene:
    """A recording of `seconds` or a little more: turns of some of the voices, then silence."""
    scene = Scene(name)
    some = list(random.permutation(sorted(voices))[:speakers])
    scene.wait(random.uniform(0.2, 0.5))
    for turn in itertools.count():
        left_s = seconds - scene.seconds
        turn_s = min(left_s, random.uniform(2.0, 7.0))
        speaker = some[turn % len(some)]
        chosen, length_s = list[Saying](), 0.0
        while length_s < turn_s:
            saying = voices[speaker][int(random.integers(len(voices[speaker])))]
            length_s += len(saying.samples) / RATE_HZ + LONGEST_GAP_S
            if length_s > left_s:
                break
            chosen.append(saying)
        if not chosen:
            break
        speak(scene, speaker, chosen, random)
        scene.wait(min(random.uniform(0.4, 1.4), max(0.0, seconds - scene.seconds)))
    scene.wait(max(0.0, seconds - scene.seconds))
    return scene


def encode(path: Path, samples: Samples, encoding: Encoding) -> None:
    """Write samples at `RATE_HZ` to a file, without the time of day or versions in it."""
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream(encoding.codec, encoding.rate_hz, layout="mono")
        stream.codec_context.flags |= Flags.bitexact
        if encoding.bit_rate is not None:
            stream.codec_context.bit_rate = encoding.bit_rate
        container.start_encoding()  # only now is the size of the codec's frames known
        size = stream.codec_context.frame_size or None
        resampler = av.AudioResampler(stream.format, "mono", encoding.rate_hz, size)
        for begin in range(0, len(samples), 60 * RATE_HZ):  # not hours in one frame
            piece = np.ascontiguousarray(samples[np.newaxis, begin : begin + 60 * RATE_HZ])
            frame = av.AudioFrame.from_ndarray(piece, format="s16", layout="mono")
            frame.sample_rate, frame.pts = RATE_HZ, begin
            for part in resampler.resample(frame):
                container.mux(stream.encode(part))
        for part in (*resampler.resample(None), None):
            container.mux(stream.encode(part))


def write(out: Path, kind: str, scenes: Iterator[tuple[Scene, int]], random: Any) -> float:
    """Write the recordings of one manifest, and it; return its seconds of audio."""
    folder = out / kind
    folder.mkdir(parents=True, exist_ok=True)
    entries, segments = list[dict[str, Any]](), list[dict[str, Any]]()
    for number, (scene, speakers) in enumerate(scenes):
        encoding = ENCODINGS[number % len(ENCODINGS)]
        clean = np.concatenate(scene.parts).astype(np.float32)
        clean += random.normal(0.0, NOISE, len(clean)).astype(np.float32)
        path = folder / (scene.id + encoding.suffix)
        encode(path, clean.clip(-32768, 32767).astype(np.int16), encoding)
        entries.append(
            {
                "id": scene.id,
                "uri": f"{kind}/{path.name}",
                "duration_s": round(scene.seconds, 3),
                "num_speakers": speakers,
                "text": scene.text,
                "reference_seglst": f"{kind}.references.json",
            }
        )
        segments += scene.segments
    content = {"defaults": {"language": "en"}, "assets": entries}
    (out / f"{kind}.json").write_bytes((json.dumps(content, indent=1) + "\n").encode())
    references = json.dumps(segments, indent=0) + "\n"
    (out / f"{kind}.references.json").write_bytes(references.encode())
    return sum(entry["duration_s"] for entry in entries)


def make(out: Path, voices: dict[str, list[Saying]], options: argparse.Namespace) -> None:
    """Write the three manifests and their recordings below `out`."""
    most = min(3, len(voices))

    def short(random: Any) -> Iterator[tuple[Scene, int]]:
        for number in range(options.short):
            seconds = float(random.uniform(3.0, 10.0))
            yield compose(f"clip-{number:03d}", seconds, voices, 1, random), 1

    def medium(random: Any) -> Iterator[tuple[Scene, int]]:
        # Evenly spread on a scale of ratios: most recordings are short, some are long.
        lengths = np.geomspace(*options.minutes, options.medium) * 60
        for number, seconds in enumerate(random.permutation(lengths)):
            speakers = min(most, 2 + number % 2)
            scene = compose(f"meeting-{number:02d}", float(seconds), voices, speakers, random)
            yield scene, speakers

    def long(random: Any) -> Iterator[tuple[Scene, int]]:
        seconds = options.long_minutes * 60
        yield compose("long-0", seconds, voices, most, random), most

    for kind, scenes in (("short", short), ("mix", medium), ("long", long)):
        random = np.random.default_rng([options.seed, len(kind)])
        total_s = write(out, kind, scenes(random), random)
        print(f"{out / kind}.json: {total_s / 60:.1f} min of audio")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--speech", type=Path, help="folder with digits/fsdd and its index")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--short", type=int, default=200, help="how many short clips")
    parser.add_argument("--medium", type=int, default=20, help="how many medium recordings")
    parser.add_argument("--minutes", type=float, nargs=2, default=(1.0, 10.0), metavar="MIN")
    parser.add_argument("--long-minutes", type=float, default=30.0)
    options = parser.parse_args()
    make(options.out, real_voices(options.speech) if options.speech else example_voices(), options)


if __name__ == "__main__":
    main()
