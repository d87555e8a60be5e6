"""The demonstration model on real speech it was never trained on, heard as the program hears it.

A sample of what `scripts/demo_asr/evaluate.py` measures in full; the bars are the same.
"""

from __future__ import annotations

import csv
import random
from pathlib import Path

import jiwer
import numpy as np
import pytest
from numpy.typing import NDArray

from audio_batch import models
from audio_batch.engines import LoadRequest, Recognizer, open_engine
from audio_batch.gpu.devices import CPU
from audio_batch.media import decode
from audio_batch.options import DecodingOptions, resolve_decoding

NAMES = "zero one two three four five six seven eight nine".split()  # noqa: SIM905
RATE_HZ = 16_000
KNOWN = ("george", "jackson", "lucas", "nicolas")


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    request = LoadRequest(models.find("demo"), CPU, 1, cpu_threads=2)
    return open_engine("faster-whisper").load(request)


@pytest.fixture(scope="module")
def options() -> DecodingOptions:
    return resolve_decoding({}, preset=None, model_defaults=models.find("demo").defaults)[0]


def strings(
    data: Path, speaker: str, seconds: list[int], seed: int
) -> list[tuple[str, NDArray[np.float32]]]:
    """Held-out takes (0-4) of a speaker with pauses of 0.1-1.0 s, for about that long each."""
    with (data / "fsdd_index.csv").open(newline="", encoding="utf-8") as file:
        rows = [
            row
            for row in csv.DictReader(file)
            if row["speaker"] == speaker and row["split"] == "test"
        ]
    whole = decode(data / rows[0]["file"]).samples  # 8 kHz in the file, 16 kHz here
    chance, made = random.Random(seed), []
    for length_s in seconds:
        words: list[str] = []
        parts = [np.zeros(RATE_HZ // 2, np.float32)]
        while sum(map(len, parts)) < length_s * RATE_HZ:
            row = chance.choice(rows)
            words.append(NAMES[int(row["digit"])])
            parts.append(whole[2 * int(row["start_sample"]) : 2 * int(row["end_sample"])])
            parts.append(np.zeros(int(chance.uniform(0.1, 1.0) * RATE_HZ), np.float32))
        made.append((" ".join(words), np.concatenate(parts)))
    return made


def heard(recognizer: Recognizer, options: DecodingOptions, samples: NDArray[np.float32]) -> str:
    recognition = recognizer.transcribe(samples, options, lambda _: None)
    return " ".join(segment.text for segment in recognition.segments)


def test_held_out_takes_of_known_speakers(
    recognizer: Recognizer, options: DecodingOptions, shared: Path
) -> None:
    said = [
        pair
        for number, speaker in enumerate(KNOWN)
        for pair in strings(shared / "data/digits", speaker, [12, 25, 50], 100 + number)
    ]
    texts = [heard(recognizer, options, samples) for _, samples in said]
    assert jiwer.wer([text for text, _ in said], texts) <= 0.05


def test_a_speaker_who_was_never_heard(
    recognizer: Recognizer, options: DecodingOptions, shared: Path
) -> None:
    said = strings(shared / "data/digits", "theo", [12, 25, 40, 55], 200)
    texts = [heard(recognizer, options, samples) for _, samples in said]
    assert jiwer.wer([text for text, _ in said], texts) <= 0.20


def test_word_times_are_where_the_words_are(
    recognizer: Recognizer, options: DecodingOptions, shared: Path
) -> None:
    """In a string with pauses of silence, no word lies in a pause."""
    ((text, samples),) = strings(shared / "data/digits", "jackson", [20], 300)
    recognition = recognizer.transcribe(samples, options, lambda _: None)
    words = [word for segment in recognition.segments for word in segment.words]
    assert len(words) >= 0.9 * len(text.split())
    assert all(word.start_s <= word.end_s for word in words)
    spans = [(int(w.start_s * RATE_HZ), int(w.end_s * RATE_HZ)) for w in words]
    assert not [s for s in spans if s[0] < s[1] and np.abs(samples[s[0] : s[1]]).max() < 1e-4]


def noises() -> dict[str, NDArray[np.float32]]:
    chance = np.random.default_rng(5)
    time_s = np.arange(30 * RATE_HZ) / RATE_HZ
    chord = np.zeros_like(time_s)
    for beat in range(60):  # a new chord each half second, with overtones, fading
        at = slice(beat * RATE_HZ // 2, (beat + 1) * RATE_HZ // 2)
        for note in chance.choice([220, 247, 262, 294, 330, 349, 392, 440], 3, replace=False):
            for overtone in range(1, 6):
                tone = np.sin(2 * np.pi * note * overtone * time_s[at]) / overtone
                chord[at] += tone * np.exp(-3 * (time_s[at] - time_s[at][0]))
    return {
        "silence": np.zeros(30 * RATE_HZ, np.float32),
        "noise": (0.05 * chance.standard_normal(30 * RATE_HZ)).astype(np.float32),
        "music": (0.2 * chord / np.abs(chord).max()).astype(np.float32),
    }


@pytest.mark.parametrize("name", ["silence", "noise", "music"])
def test_nothing_is_heard_where_nobody_speaks(
    recognizer: Recognizer, options: DecodingOptions, name: str
) -> None:
    assert heard(recognizer, options, noises()[name]) == ""
