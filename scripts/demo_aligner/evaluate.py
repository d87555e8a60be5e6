"""Measure the demonstration aligner, beside the word times of Whisper's cross-attention.

    python scripts/demo_aligner/evaluate.py --aligner audio_batch/demo/aligner --data ../shared/data

prints a table, writes JSON if asked for, and ends with status 1 if a bar is missed.  The strings
are those of `scripts/demo_asr/evaluate.py`, of takes that neither model was trained on; a word
lasts from the first to the last loud sample of its take, where the take was put
(`data.speech_span`).  Both ends of each word count.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "demo_asr"))

import numpy as np
import torch
from data import WORDS, Window, load_fsdd
from evaluate import KNOWN, strings  # demo_asr's: its folder comes first
from synth import RATE

from audio_batch import models
from audio_batch.engines import LoadRequest, Recognizer, open_engine
from audio_batch.engines.alignment import Aligner, find_aligner, load_aligner
from audio_batch.gpu.devices import CPU
from audio_batch.options import DecodingOptions, resolve_decoding
from audio_batch.transcript import Segment

BAR_MS = 80.0
PAUSE_S = 0.6
"""Given words with a longer pause between them are two segments, as the demo Whisper's are."""


@dataclasses.dataclass
class Row:
    """One line of the table, in milliseconds; `bar` None: only reported."""

    strings: str
    words: str
    times: str
    edges: int
    median_ms: float
    p90_ms: float
    worst_ms: float
    starts_late_ms: float
    ends_late_ms: float
    bar: float | None = None

    @property
    def met(self) -> bool:
        """Whether the median is within its bar."""
        return self.bar is None or self.median_ms <= self.bar


def as_given(window: Window) -> tuple[Segment, ...]:
    """The text of a string in segments without words, as a subtitle file would have it."""
    runs: list[list[tuple[int, float, float]]] = []
    for word in window.words:
        if not runs or word[1] - runs[-1][-1][2] > PAUSE_S or word[2] - runs[-1][0][1] > 29:
            runs.append([])
        runs[-1].append(word)
    return tuple(
        Segment(" ".join(WORDS[w] for w, _, _ in run), run[0][1], run[-1][2]) for run in runs
    )


def row(which: tuple[str, str, str], pairs: Iterable[tuple[Iterable[Segment], Window]]) -> Row:
    """The errors of word times whose words are those of the windows."""
    starts: list[float] = []
    ends: list[float] = []
    for segments, window in pairs:
        words = [word for segment in segments for word in segment.words]
        for word, (_, start_s, end_s) in zip(words, window.words, strict=True):
            starts.append(1000 * (word.start_s - start_s))
            ends.append(1000 * (word.end_s - end_s))
    errors = np.abs([*starts, *ends])
    return Row(
        *which,
        edges=len(errors),
        median_ms=round(float(np.median(errors)), 2),
        p90_ms=round(float(np.percentile(errors, 90)), 1),
        worst_ms=round(float(errors.max()), 1),
        starts_late_ms=round(statistics.median(starts), 1),
        ends_late_ms=round(statistics.median(ends), 1),
    )


def measure(
    name: str,
    windows: list[Window],
    recognizer: Recognizer,
    options: DecodingOptions,
    aligner: Aligner,
) -> list[Row]:
    """Cross-attention and aligner on the same strings: words as recognised, words as given."""
    heard, aligned, given = [], [], []
    for window in windows:
        found = recognizer.transcribe(window.audio, options, lambda _: None).segments
        better = aligner.align(window.audio, found, "en", lambda _: None).segments
        # Words that were misheard have no true times: such a string is left out for both.
        if " ".join(s.text for s in found).split() == [WORDS[w] for w, _, _ in window.words]:
            heard.append((found, window))
            aligned.append((better, window))
        text = aligner.align(window.audio, as_given(window), "en", lambda _: None).segments
        given.append((text, window))
    rows = [
        row((name, "recognised", "cross-attention"), heard),
        row((name, "recognised", "aligner"), aligned),
        row((name, "given", "aligner"), given),
    ]
    rows[1].bar = min(BAR_MS, rows[0].median_ms)
    rows[2].bar = BAR_MS
    return rows


def main() -> int:
    """Measure all, print the table; 1 if a bar is missed."""
    parser = argparse.ArgumentParser(description="Measure the demonstration aligner.")
    parser.add_argument("--aligner", type=Path, required=True, help="folder of the aligner")
    parser.add_argument("--data", type=Path, required=True, help="folder with digits/")
    parser.add_argument("--model", default="demo", help="Whisper model to compare with")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--held-out", default="theo", help="FSDD speaker never trained on")
    parser.add_argument("--strings", type=int, default=16, help="strings of digits a set")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    reference = find_aligner("en", align_model=str(args.aligner), model_dir=None, offline=True)
    assert reference is not None
    aligner = load_aligner(reference, "en", CPU)
    model = models.find(args.model, offline=True)
    recognizer = open_engine("faster-whisper").load(
        LoadRequest(model, CPU, 1, cpu_threads=args.threads)
    )
    options, _ = resolve_decoding(
        {"word_timestamps": True}, preset=None, model_defaults=model.defaults
    )
    digits, mine = args.data / "digits", {args.held_out}
    held = strings(load_fsdd(digits, "test", KNOWN, set()), args.strings, args.seed)
    unheard = strings(
        load_fsdd(digits, "test", mine, set()) + load_fsdd(digits, "train", mine, set()),
        args.strings,
        args.seed + 1,
    )
    rows = measure("known speakers, held-out takes", held, recognizer, options, aligner)
    rows += measure(f"unheard speaker {args.held_out}", unheard, recognizer, options, aligner)
    print(f"{'strings':<32}{'words':<12}{'times':<17}edges  median     p90   worst  bar (ms)")
    for one in rows:
        bar = "" if one.bar is None else f"<= {one.bar:g} " + ("ok" if one.met else "missed")
        print(
            f"{one.strings:<32}{one.words:<12}{one.times:<17}{one.edges:5}"
            f"{one.median_ms:8.1f}{one.p90_ms:8.1f}{one.worst_ms:8.0f}  {bar}"
        )
    began = time.monotonic()
    for window in held:
        aligner.align(window.audio, as_given(window), "en", lambda _: None)
    seconds = sum(len(window.audio) for window in held) / RATE
    speed = seconds / (time.monotonic() - began)
    print(f"aligner alone: {speed:.0f}x real time with {args.threads} thread(s)")
    if args.json:
        figures = {
            "rows": [dataclasses.asdict(one) | {"met": one.met} for one in rows],
            "real_time_factor_x": round(speed, 1),
        }
        args.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return 0 if all(one.met for one in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
