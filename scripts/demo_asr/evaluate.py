"""Measure the demonstration model against its bars, as the program runs it.

    python scripts/demo_asr/evaluate.py --model audio_batch/demo/whisper --data ../shared/data

prints a table, writes JSON if asked for, and ends with status 1 if a bar is missed.  Nothing it
plays to the model was trained on.  ``espeak-ng`` must be installed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import av
import numpy as np
from data import DIGITS, WORDS, Clip, Window, colour_noise, hum, load_an4, load_fsdd, music
from synth import RATE, Audio, Espeak

from audio_batch import models
from audio_batch.engines import LoadRequest, open_engine
from audio_batch.gpu.devices import CPU
from audio_batch.media import decode
from audio_batch.options import resolve_decoding
from audio_batch.transcript import Segment

KNOWN = {"george", "jackson", "lucas", "nicolas"}
VOICES = ("en-us", "en", "en-us+f3", "en-us+m3", "en+f2", "en+m1")  # "en" is espeak's British
MODES = ("sequential", "batched 2", "batched 8")


@dataclass
class Row:
    """One line of the table: a figure, its bar (None: only reported) and whether it is met."""

    what: str
    mode: str
    value: float
    unit: str
    bar: float | None

    @property
    def met(self) -> bool:
        """Whether the figure is within its bar."""
        return self.bar is None or bool(self.value <= self.bar)


class Listener:
    """The shipped folder, heard as the program hears it, in each of faster-whisper's two ways."""

    def __init__(self, folder: Path, threads: int) -> None:
        self.reference = models.find(str(folder))
        self.recognizers = {
            mode: open_engine("faster-whisper").load(
                LoadRequest(
                    self.reference, CPU, 1, cpu_threads=threads, batch_size=batch_size(mode)
                )
            )
            for mode in MODES
        }

    def hear(
        self, audio: Audio | str, mode: str, *, word_timestamps: bool = False, vad: bool = True
    ) -> Sequence[Segment]:
        """The segments of a recording, unjoined, with the model's own decoding defaults."""
        given = {
            "batch_size": batch_size(mode),
            "word_timestamps": word_timestamps,
            "vad_method": None if vad else "none",
        }
        defaults = dict(self.reference.defaults)
        if not vad:
            defaults = {k: v for k, v in defaults.items() if not k.startswith("vad_")}
        options, _ = resolve_decoding(given, preset=None, model_defaults=defaults)
        options = dataclasses.replace(options, join_gap_s=None)
        samples = decode(Path(audio)).samples if isinstance(audio, str) else audio
        return self.recognizers[mode].transcribe(samples, options, lambda _: None).segments


def batch_size(mode: str) -> int:
    """What `--batch-size` is in a mode: 1 means the sequential one, so batches begin at 2."""
    return 1 if mode == "sequential" else max(2, int(mode.split()[1]))


def text_of(segments: Iterable[Any]) -> list[str]:
    """The words of some segments."""
    return " ".join(s.text for s in segments).split()


def errors(wanted: Sequence[str], heard: Sequence[str]) -> int:
    """Least number of wrong, missing and added words."""
    row = list(range(len(heard) + 1))
    for i, word in enumerate(wanted, 1):
        before, row[0] = row[0], i
        for j, other in enumerate(heard, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (word != other))
    return row[-1]


def string_of(rng: random.Random, clips: list[Clip], seconds: float) -> Window:
    """Recordings of single words as they are, with pauses of 0.1-1.0 s, for about ``seconds``."""
    parts: list[Audio] = []
    words: list[tuple[int, float, float]] = []
    at = 0
    while at < seconds * RATE:
        pause = np.zeros(int(rng.uniform(0.1, 1.0) * RATE), dtype=np.float32)
        clip = rng.choice(clips)
        word, first, last = clip.words[0]
        at += len(pause)
        words.append((word, (at + first) / RATE, (at + last) / RATE))
        at += len(clip.audio)
        parts += [pause, clip.audio]
    return Window(np.concatenate(parts), words)


def strings(clips: list[Clip], count: int, seed: int) -> list[Window]:
    """Strings of 10-60 s, one speaker each, half of them with a low noise."""
    rng, noise = random.Random(seed), np.random.default_rng(seed)
    speakers = sorted({c.speaker for c in clips})
    made = []
    for i in range(count):
        mine = [c for c in clips if c.speaker == speakers[i % len(speakers)]]
        window = string_of(rng, mine, (10, 20, 40, 60, 30)[i % 5])
        if i % 2:
            hiss = colour_noise(noise, len(window.audio), 1.0)
            window.audio = (window.audio + hiss * 10 ** (rng.uniform(-65, -45) / 20)).astype("f4")
        made.append(window)
    return made


def compress(audio: Audio, path: Path, codec: str) -> str:
    """Write ``audio`` as MP3 or AAC of 48 kbit/s."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=RATE, layout="mono")
        stream.bit_rate = 48_000
        frame = av.AudioFrame.from_ndarray(audio[None].astype(np.float32), "fltp", "mono")
        frame.sample_rate = RATE
        resampler = av.AudioResampler(format=stream.format, layout="mono", rate=RATE)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return str(path)


def synthetic(count: int, seed: int) -> list[tuple[Audio, list[str]]]:
    """Strings of digits spoken by espeak-ng's usual voices, with commas between the words."""
    rng, espeak = random.Random(seed), Espeak()
    made = []
    for i in range(count):
        words = [rng.choice(DIGITS) for _ in range(rng.randint(3, 12))]
        said = espeak.say(", ".join(words), VOICES[i % len(VOICES)], rng.randint(130, 160), 50)
        if said is None:
            raise RuntimeError("espeak-ng lacks a voice")
        made.append((said[0], words))
    return made


def wordless(seed: int) -> dict[str, Audio]:
    """Half minutes without a word."""
    rng, size = np.random.default_rng(seed), 30 * RATE
    made = {"digital silence": np.zeros(size, dtype=np.float32)}
    for level in (-70, -50, -35, -20):
        made[f"white noise {level} dBFS"] = colour_noise(rng, size, 0) * 10 ** (level / 20)
    for slope, name in ((1.0, "pink"), (2.0, "brown")):
        made[f"{name} noise -30 dBFS"] = colour_noise(rng, size, slope) * 10 ** (-30 / 20)
    made["hum -30 dBFS"] = hum(rng, size) * 10 ** (-30 / 20)
    for i, level in enumerate((-35, -25, -25, -18, -18, -14)):
        made[f"music {i + 1} {level} dBFS"] = music(rng, size) * 10 ** (level / 20)
    return {name: np.clip(wave, -1, 1).astype(np.float32) for name, wave in made.items()}


def word_errors(
    listener: Listener,
    pieces: list[tuple[Audio, list[str]]],
    what: str,
    bar: float | None,
    show: bool,
    modes: Sequence[str] = MODES,
) -> list[Row]:
    """Word error rates of recordings in each mode; batches of 1 and 8 must agree."""
    rows, heard = [], {}
    for mode in modes:
        heard[mode] = [text_of(listener.hear(audio, mode)) for audio, _ in pieces]
        wrong = sum(errors(w, h) for (_, w), h in zip(pieces, heard[mode], strict=True))
        total = sum(len(w) for _, w in pieces)
        rows.append(Row(what, mode, 100 * wrong / total, "% WER", bar))
        if show:
            for (_, wanted), got in zip(pieces, heard[mode], strict=True):
                if wanted != got:
                    print(f"  {what} {mode}\n   - {' '.join(wanted)}\n   + {' '.join(got)}")
    if "batched 2" in heard and "batched 8" in heard:
        unlike = sum(a != b for a, b in zip(heard["batched 2"], heard["batched 8"], strict=True))
        rows.append(Row(what + ": other text with batches of 8", "both", unlike, "texts", 0))
    return rows


def boundary_errors(listener: Listener, windows: list[Window], mode: str) -> list[Row]:
    """Median error of word times, where the text is right; ms, of both ends of each word."""
    by_words: list[float] = []
    by_segments: list[float] = []
    for window in windows:
        wanted = [WORDS[w] for w, _, _ in window.words]
        timed = listener.hear(window.audio, mode, word_timestamps=True)
        plain = listener.hear(window.audio, mode)
        words = [w for s in timed for w in s.words]
        if [w.text for w in words] == wanted:
            for word, (_, a, b) in zip(words, window.words, strict=True):
                by_words += [abs(word.start_s - a), abs(word.end_s - b)]
        if [s.text for s in plain] == wanted:
            for segment, (_, a, b) in zip(plain, window.words, strict=True):
                by_segments += [abs(segment.start_s - a), abs(segment.end_s - b)]
    rows = []
    for what, found in (("word times", by_words), ("segment times", by_segments)):
        value = 1000 * median(found) if found else float("inf")
        rows.append(Row(f"{what}, median of {len(found)} edges", mode, value, "ms", 100))
    return rows


def main() -> int:
    """Measure all, print the table; 1 if a bar is missed."""
    parser = argparse.ArgumentParser(description="Measure the demonstration model.")
    parser.add_argument("--model", type=Path, required=True, help="folder of the model")
    parser.add_argument("--data", type=Path, required=True, help="folder with digits/")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--held-out", default="theo", help="FSDD speaker never trained on")
    parser.add_argument("--strings", type=int, default=16, help="strings of digits a set")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--show", action="store_true", help="print texts that are wrong")
    args = parser.parse_args()
    began = time.monotonic()
    listener = Listener(args.model, args.threads)
    digits = args.data / "digits"
    known = strings(load_fsdd(digits, "test", KNOWN, set()), args.strings, args.seed)
    mine = {args.held_out}
    unheard = strings(
        load_fsdd(digits, "test", mine, set()) + load_fsdd(digits, "train", mine, set()),
        args.strings,
        args.seed + 1,
    )
    rows: list[Row] = []
    for what, windows, bar in (
        ("known speakers, held-out takes", known, 5.0),
        (f"unheard speaker {args.held_out}", unheard, 20.0),
    ):
        pieces = [(w.audio, [WORDS[i] for i, _, _ in w.words]) for w in windows]
        rows += word_errors(listener, pieces, what, bar, args.show)
    spoken = synthetic(20, args.seed)
    rows += word_errors(listener, spoken, "espeak-ng", 0.0, args.show)
    with tempfile.TemporaryDirectory() as folder:
        for codec, ending in (("libmp3lame", "mp3"), ("aac", "m4a")):
            wrong = total = 0
            for i, (audio, words) in enumerate(spoken):
                path = compress(audio, Path(folder) / f"{i}.{ending}", codec)
                wrong += errors(words, text_of(listener.hear(path, "batched 8")))
                total += len(words)
            what = f"espeak-ng as {ending}"
            rows.append(Row(what, "batched 8", 100 * wrong / total, "% WER", 0.0))
    rows += word_errors(
        listener, load_an4(digits), "AN4 digit strings, real, unheard", None, args.show, MODES[:2]
    )
    for vad in (True, False):
        for mode in MODES[:2]:
            found = 0
            for name, audio in wordless(args.seed).items():
                heard = text_of(listener.hear(audio, mode, vad=vad))
                found += len(heard)
                if heard and args.show:
                    print(f"  {name} {mode} {'with' if vad else 'no'} VAD: {' '.join(heard)}")
            what = f"14 x 30 s without speech, {'with' if vad else 'no'} VAD"
            rows.append(Row(what, mode, found, "words", 0 if vad else None))
    for mode in MODES[:2]:
        rows += boundary_errors(listener, known, mode)
    for row in rows:
        bar = "" if row.bar is None else f"<= {row.bar:g}"
        state = "missed" if not row.met else ("ok" if row.bar is not None else "")
        print(f"{row.what:<58}{row.mode:<12}{row.value:8.2f} {row.unit:<7}{bar:<8}{state}")
    print(f"measured in {time.monotonic() - began:.0f} s")
    if args.json:
        figures = [row.__dict__ | {"met": row.met} for row in rows]
        args.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return 0 if all(row.met for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
