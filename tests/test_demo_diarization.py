"""The demonstration diarization's own folder and voice model, loaded as pyannote loads them.

A sample of what `scripts/demo_diarization/evaluate.py` measures in full.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

import audio_batch
from audio_batch.media import decode

FOLDER = Path(audio_batch.__file__).parent / "demo" / "diarization"
RATE_HZ = 16_000
CHUNK = 5 * RATE_HZ
FRAMES = 293
"""Frames of a mask: what the segmentation model makes of a chunk."""


@pytest.fixture(scope="module")
def pipeline() -> Iterator[Any]:
    """The whole pipeline of the folder."""
    os.environ["PYANNOTE_METRICS_ENABLED"] = "false"
    import torch
    from pyannote.audio import Pipeline
    from pyannote.audio.core.pipeline import expand_subfolders

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    config = yaml.safe_load((FOLDER / "config.yaml").read_text(encoding="utf-8"))
    expand_subfolders(config, FOLDER)
    yield Pipeline.from_pretrained(config)
    torch.set_num_threads(before)


def buzz(pitch_hz: float, formants_hz: tuple[float, ...], samples: int) -> NDArray[np.float32]:
    """A voice-like sound: harmonics under formants, swelling four times a second."""
    t = np.arange(samples) / RATE_HZ
    wave = np.zeros(samples)
    for hertz in np.arange(pitch_hz, 7000, pitch_hz):
        strength = sum(np.exp(-(((hertz - f) / 150) ** 2)) for f in formants_hz) + 0.01
        wave += strength * np.sin(2 * np.pi * hertz * t + hertz)
    return (0.1 * wave * (1 + np.sin(8 * np.pi * t)) / np.abs(wave).max()).astype(np.float32)


def embeddings(pipeline: Any, waves: list[NDArray[np.float32]], masks: Any = None) -> Any:
    """As the pipeline asks for them: waveforms (n, 1, samples), masks (n, frames)."""
    import torch

    batch = torch.from_numpy(np.stack(waves))[:, None]
    chosen = None if masks is None else torch.from_numpy(np.stack(masks).astype(np.float32))
    return pipeline._embedding(batch, masks=chosen)


def utterances(shared: Path, speaker: str) -> list[NDArray[np.float32]]:
    """Sentences of a LibriSpeech test-other reader, whom the model never heard."""
    with (shared / "data/librispeech/test_other.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["speaker"] == speaker]
    whole = decode(shared / "data/librispeech" / rows[0]["file"]).samples
    return [whole[int(row["start_sample"]) : int(row["end_sample"])] for row in rows]


def test_folder_is_small_and_whole() -> None:
    files = {p.relative_to(FOLDER).as_posix(): p.stat().st_size for p in FOLDER.rglob("*.*")}
    wanted = {"config.yaml", "voices.json", "README.md", "embedding/pytorch_model.bin"}
    wanted |= {"segmentation/pytorch_model.bin", "plda/plda.npz", "plda/xvec_transform.npz"}
    assert files.keys() == wanted
    assert sum(files.values()) <= 6_000_000
    voices = json.loads((FOLDER / "voices.json").read_text(encoding="utf-8"))
    assert voices.keys() == {"embedding", "link_threshold", "enrol_threshold"}
    assert 0 < voices["link_threshold"] < 1 and 0 < voices["enrol_threshold"] < 1
    assert isinstance(voices["embedding"], str)


def test_nothing_is_reported_while_it_loads(pipeline: Any) -> None:
    from pyannote.audio.telemetry import metrics

    assert pipeline is not None
    assert not metrics.is_metrics_enabled()


def test_embeddings_have_length_one_and_ignore_the_gain(pipeline: Any) -> None:
    wave = buzz(120, (500, 1500, 2500), CHUNK)
    found = embeddings(pipeline, [wave, 0.05 * wave])
    assert found.shape == (2, pipeline._embedding.dimension)
    assert np.linalg.norm(found, axis=1) == pytest.approx(1, abs=1e-4)
    assert found[0] @ found[1] > 0.99


def test_same_chunk_with_several_masks_is_as_one_by_one(pipeline: Any) -> None:
    first = buzz(110, (500, 1500, 2500), CHUNK)
    second = buzz(220, (700, 1800, 3000), CHUNK)
    waves = [first, first, second, first, second, second]
    masks = [np.random.default_rng(i).random(FRAMES) > 0.5 for i in range(6)]
    together = embeddings(pipeline, waves, masks)
    alone = np.vstack([embeddings(pipeline, [w], [m]) for w, m in zip(waves, masks, strict=True)])
    assert together == pytest.approx(alone, abs=1e-4)


def test_silence_and_an_empty_mask_give_finite_numbers(pipeline: Any) -> None:
    waves = [np.zeros(CHUNK, np.float32), buzz(150, (600, 1600), CHUNK)]
    found = embeddings(pipeline, waves, [np.ones(FRAMES), np.zeros(FRAMES)])
    assert np.isfinite(found).all()


def test_audio_too_short_is_refused(pipeline: Any) -> None:
    assert 400 <= pipeline._embedding.min_num_samples < 0.1 * RATE_HZ
    with pytest.raises(ValueError, match="400 samples"):
        embeddings(pipeline, [np.zeros(399, np.float32)])


def test_a_mask_picks_its_speaker_out_of_a_dialogue(pipeline: Any, shared: Path) -> None:
    one, other = utterances(shared, "1688"), utterances(shared, "3005")
    half = CHUNK // 2
    mixed = np.concatenate([one[0][:half], other[0][:half]])
    early = np.arange(FRAMES) < FRAMES // 2
    first, second = embeddings(pipeline, [mixed, mixed], [early, ~early])
    own, foreign = embeddings(pipeline, [one[1][:CHUNK], other[1][:CHUNK]])
    assert first @ own > first @ foreign + 0.2
    assert second @ foreign > second @ own + 0.2


def test_two_unheard_voices_are_told_apart(pipeline: Any, shared: Path) -> None:
    import torch

    one, other = utterances(shared, "1998"), utterances(shared, "2609")
    turns = [one[0], other[0], one[1], other[1]]
    audio = np.concatenate([turn[: 5 * RATE_HZ] for turn in turns])
    file = {"waveform": torch.from_numpy(audio)[None], "sample_rate": RATE_HZ, "uri": "talk"}
    output = pipeline(file)
    turns_heard = output.exclusive_speaker_diarization
    assert len(turns_heard.labels()) == 2
    said = [turns_heard.argmax(_segment(5.0 * i + 1, 5.0 * i + 4)) for i in range(4)]
    assert said[0] == said[2] != said[1] == said[3]
    assert output.speaker_embeddings.shape == (2, pipeline._embedding.dimension)


def _segment(start_s: float, end_s: float) -> Any:
    from pyannote.core import Segment

    return Segment(start_s, end_s)
