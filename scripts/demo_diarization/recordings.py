"""Who speaks in the corpora, and which recordings are for learning, choosing and measuring.

* learning: most speakers of LibriSpeech train-clean-100 and of Speech Commands, and takes 10-49 of
  the five speakers of the Free Spoken Digit Dataset;
* choosing (thresholds, steps): every eighth speaker of the first two, takes 5-9 of the third;
* measuring: LibriSpeech test-other and takes 0-4, which nothing else here ever reads.

Audio is float32 mono at 16 kHz everywhere.
"""

from __future__ import annotations

import csv
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.signal import resample_poly

sys.path.append(str(Path(__file__).resolve().parents[1] / "demo_asr"))
from data import alter, background, read_audio, speech_span

__all__ = ["RATE", "Audio", "Part", "Speaker", "alter", "background", "load", "read_audio"]

Audio = NDArray[np.float32]
RATE = 16_000
Part = Literal["learn", "choose", "measure"]
EIGHTH = 8  # one speaker in this many is kept for choosing


@dataclass
class Speaker:
    """A speaker's recordings: sentences (``words`` false) or single words without their edges."""

    name: str
    kind: Literal["libri", "commands", "fsdd"]
    clips: list[Audio] = field(default_factory=list)

    @property
    def words(self) -> bool:
        """Whether each clip is one word."""
        return self.kind != "libri"


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as rows:
        return list(csv.DictReader(rows))


def _cut(folder: Path, rows: list[dict[str, str]]) -> list[tuple[dict[str, str], Audio]]:
    whole: dict[str, Audio] = {}
    made = []
    for row in rows:
        if row["file"] not in whole:
            whole[row["file"]] = read_audio(folder / row["file"])
        wave = whole[row["file"]][int(row["start_sample"]) : int(row["end_sample"])]
        made.append((row, wave))
    return made


def _word(wave: Audio) -> Audio:
    """A recording of a word without the quiet before and after it."""
    first, end = speech_span(wave)
    return wave[max(0, first - 320) : end + 320]


def _libri(data: Path, part: Part) -> list[Speaker]:
    folder = data / "librispeech"
    rows = _rows(folder / ("test_other.csv" if part == "measure" else "train_clean_100.csv"))
    if part != "measure":
        names = sorted({row["speaker"] for row in rows})
        kept = set(names[::EIGHTH])
        rows = [row for row in rows if (row["speaker"] in kept) == (part == "choose")]
    speakers: dict[str, Speaker] = {}
    for row, wave in _cut(folder, rows):
        name = row["speaker"]
        speakers.setdefault(name, Speaker(name, "libri")).clips.append(wave)
    return list(speakers.values())


def _commands(data: Path, part: Part) -> list[Speaker]:
    if part == "measure":
        return []
    rows = _rows(data / "digits" / "speech_commands_index.csv")
    kept = set(sorted({row["speaker"] for row in rows})[::EIGHTH])
    rows = [row for row in rows if (row["speaker"] in kept) == (part == "choose")]
    speakers: dict[str, Speaker] = {}
    for row, wave in _cut(data / "digits", rows):
        if float(np.abs(wave).max()) > 0.01:
            name = "sc-" + row["speaker"]
            speakers.setdefault(name, Speaker(name, "commands")).clips.append(_word(wave))
    return list(speakers.values())


def _fsdd(data: Path, part: Part) -> list[Speaker]:
    takes = {"learn": range(10, 50), "choose": range(5, 10), "measure": range(5)}[part]
    rows = _rows(data / "digits" / "fsdd_index.csv")
    rows = [row for row in rows if int(row["take"]) in takes]
    clips = defaultdict(list)
    for row, wave in _cut(data / "digits", rows):
        if len(wave) > 1000:
            clips[row["speaker"]].append(_word(resample_poly(wave, 2, 1).astype(np.float32)))
    return [Speaker(name, "fsdd", waves) for name, waves in clips.items()]


def load(data: Path, part: Part) -> list[Speaker]:
    """The speakers of a part, with their recordings."""
    return [*_libri(data, part), *_commands(data, part), *_fsdd(data, part)]
