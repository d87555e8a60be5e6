"""Linking on real voices: the recordings of LibriSpeech readers by a small real speaker model.

The model is not the program's; it stands for whatever embedding a diarization brings.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from audio_batch.errors import AssetError
from audio_batch.media import decode
from audio_batch.transcript import Speaker
from audio_batch.voices.enrolment import embed_references, identify, read
from audio_batch.voices.linking import VoiceSample, link

THRESHOLD = 0.70
"""The model's own, as its description gives it for whole utterances."""

Samples = NDArray[np.float32]


class DVector:
    """The model as its description says: MFCC of 32 ms, windows of 3.2 s, mean, norm 1."""

    def __init__(self, folder: Path) -> None:
        runtime = pytest.importorskip("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = runtime.InferenceSession(
            str(folder / "dvector.onnx"), options, providers=["CPUExecutionProvider"]
        )
        self._filters = np.load(folder / "mel_filters.npy")
        self._window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(2048) / 2048)
        k, n = np.mgrid[0:40, 0:128]
        self._dct = np.cos(np.pi * k * (2 * n + 1) / 256) * np.sqrt(2 / 128)
        self._dct[0] /= np.sqrt(2)

    def features(self, samples: Samples) -> Samples:
        padded = np.pad(samples.astype(np.float64), 1024)
        frames = np.lib.stride_tricks.sliding_window_view(padded, 2048)[::512]
        power = np.abs(np.fft.rfft(frames * self._window)) ** 2
        level = 10 * np.log10(np.maximum(power @ self._filters.T, 1e-10))
        level = np.maximum(level, level.max() - 80)
        return (level @ self._dct.T).astype(np.float32)

    def embed(self, samples: Samples) -> tuple[float, ...]:
        rows = self.features(samples)
        starts = range(0, max(1, len(rows) - 99), 50)
        windows = np.stack([rows[start : start + 100] for start in starts])
        mean = self._session.run(["embedding"], {"mfcc": windows})[0].mean(axis=0)
        return tuple((mean / np.linalg.norm(mean)).tolist())


@pytest.fixture(scope="module")
def model(shared: Path) -> DVector:
    folder = shared / "models/dvector-lstm-librispeech"
    if not folder.is_dir():
        pytest.skip(f"no speaker model at {folder}")
    return DVector(folder)


@pytest.fixture(scope="module")
def utterances(shared: Path) -> list[tuple[str, str, Samples]]:
    """Utterance, speaker and samples: 7 readers with 10 utterances each."""
    folder, whole = shared / "data/librispeech", {}
    found = []
    with (folder / "test_other.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["file"] not in whole:
                whole[row["file"]] = decode(folder / row["file"]).samples
            part = whole[row["file"]][int(row["start_sample"]) : int(row["end_sample"])]
            found.append((row["utterance"], row["speaker"], part))
    return found


def rand_index(one: Sequence[object], other: Sequence[object]) -> float:
    """The adjusted Rand index (Hubert & Arabie 1985), by counting pairs."""
    alike = [(a == b, c == d) for (a, c), (b, d) in combinations(zip(one, other, strict=True), 2)]
    both = sum(a and b for a, b in alike)
    first, second = sum(a for a, _ in alike), sum(b for _, b in alike)
    expected = first * second / len(alike)
    return (both - expected) / ((first + second) / 2 - expected)


def test_the_model_is_the_one_described(model: DVector, shared: Path, utterances: object) -> None:
    assert isinstance(utterances, list)
    told = json.loads((shared / "models/dvector-lstm-librispeech/check.json").read_text())
    expected = next(value for value in told.values() if np.shape(value) == (128,))
    expected = np.asarray(expected) / np.linalg.norm(expected)
    name, _, samples = utterances[0]
    assert name == "1688-142285-0000"
    assert float(np.dot(model.embed(samples), expected)) > 0.999


def test_readers_are_told_apart_and_found_again(
    model: DVector, utterances: list[tuple[str, str, Samples]]
) -> None:
    """70 recordings of 7 readers: the bar of the project is 0.9."""
    voices = [
        VoiceSample(name, "SPEAKER_00", np.float32(model.embed(samples)), len(samples) / 16000)
        for name, _, samples in utterances
    ]
    readers = [speaker for _, speaker, _ in utterances]
    linking = link(voices, {}, THRESHOLD, first_number=1)
    ids = [linking.assigned.get(voice.key, voice.key) for voice in voices]
    index = rand_index(readers, ids)
    print(f"ARI {index:.3f}, {len(linking.new)} voices for 7 readers")
    assert index >= 0.9

    # The second half of the recordings comes a night later.
    early = link(voices[::2], {}, THRESHOLD, first_number=1)
    told = [
        VoiceSample(v.asset_id, v.label, v.embedding, v.talk_s, early.assigned.get(v.key))
        for v in voices
    ]
    late = link(told, early.voices, THRESHOLD, first_number=len(early.new) + 1)
    assert {key: late.assigned[key] for key in early.assigned} == early.assigned
    assert rand_index(readers, [late.assigned.get(v.key, v.key) for v in voices]) >= 0.9


def test_enrolled_readers_are_named(
    model: DVector, utterances: list[tuple[str, str, Samples]], tmp_path: Path
) -> None:
    """Two utterances each enrol four of the readers; the rest of the recordings are put to them."""
    by_reader: dict[str, list[Samples]] = {}
    for _, speaker, samples in utterances:
        by_reader.setdefault(speaker, []).append(samples)
    known = sorted(by_reader)[:4]
    clips = {}
    for speaker in known:
        for i in (0, 1):
            (tmp_path / f"{speaker}-{i}.wav").write_bytes(b"x")
            clips[f"{speaker}-{i}.wav"] = by_reader[speaker][i]
    names = {speaker: [f"{speaker}-0.wav", f"{speaker}-1.wav"] for speaker in known}
    (tmp_path / "enrolled.json").write_text(json.dumps(names))
    enrolment = read(tmp_path / "enrolled.json")
    enrolled = embed_references(enrolment, model.embed, lambda path: clips[path.name])
    right = wrong = 0
    for speaker, recordings in by_reader.items():
        for samples in recordings[2:]:
            voice = Speaker("SPEAKER_00", len(samples) / 16000, model.embed(samples))
            (told,) = identify([voice], enrolled, THRESHOLD)
            expected = speaker if speaker in known else None
            right, wrong = right + (told.name == expected), wrong + (told.name != expected)
            assert (told.score is None) == (told.name is None)
    print(f"{right} of {right + wrong} right")
    assert right >= 0.9 * (right + wrong)


def test_a_clip_that_is_no_recording_is_named(tmp_path: Path, model: DVector) -> None:
    (tmp_path / "noise.wav").write_bytes(b"no recording")
    (tmp_path / "enrolled.json").write_text('{"Ann": "noise.wav"}')
    enrolment = read(tmp_path / "enrolled.json")
    with pytest.raises(Exception, match=r"Ann: noise\.wav: ") as caught:
        embed_references(enrolment, model.embed, lambda path: decode(path).samples)
    assert not isinstance(caught.value, AssetError)
