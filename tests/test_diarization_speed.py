"""The quick diarization says what pyannote's own says, of real speech, with less work."""

from __future__ import annotations

import copy
import itertools
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stubborn_voice
from numpy.typing import NDArray

from audio_batch.diarization_models import demo_path, find_diarization
from audio_batch.engines.pyannote_pipeline import as_file, import_pyannote, load_pipeline
from audio_batch.engines.pyannote_sincnet import SCORE_TOLERANCE, share_first_layer
from audio_batch.gpu.devices import CPU
from audio_batch.media import decode

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
RATE_HZ = 16_000
FRAME_S = 0.02
"""Scores may differ by rounding, and a turn's edge by the one frame whose score is at the
threshold: with the models and recordings here none was seen to."""
RECORDINGS = {
    "panel": ("long/panel_a.flac", 24),
    "meeting": ("ami/dev00.flac", 20),
    "two at once": ("overlap2/*.flac", 12),
    "short": ("long/panel_a.flac", 3),
}


@pytest.fixture(scope="module", autouse=True)
def torch_threads() -> None:
    """One, as the diarizer has it on a CPU: more wait for each other, beside other tests most."""
    import_pyannote().set_num_threads(1)


@pytest.fixture(scope="module")
def own() -> Any:
    """The demonstration's pipeline as pyannote alone loads and runs it."""
    from pyannote.audio import Pipeline

    return Pipeline.from_pretrained(str(demo_path()))


@pytest.fixture(scope="module")
def quick() -> Any:
    return load(demo_path())


def load(folder: Path, workers: int = 1) -> Any:
    reference = find_diarization(str(folder), model_dir=None, offline=True, token=None)
    pipeline = load_pipeline(reference, CPU, workers)
    pipeline.segmentation_batch_size, pipeline.embedding_batch_size = 8, 2
    return pipeline


@pytest.fixture(scope="module")
def sounds(shared: Path) -> dict[str, NDArray[np.float32]]:
    """Real speech; the panel with a pause in which nobody can be heard."""
    found = {}
    for name, (pattern, most_s) in RECORDINGS.items():
        path = min((shared / "data").glob(pattern))
        found[name] = decode(path).samples[: most_s * RATE_HZ]
    middle = len(found["panel"]) // 2
    pause = np.zeros(12 * RATE_HZ, np.float32)
    found["panel"] = np.concatenate([found["panel"][:middle], pause, found["panel"][middle:]])
    return found


def turns(output: Any) -> list[tuple[str, float, float]]:
    tracks = output.speaker_diarization.itertracks(yield_label=True)
    return [(label, span.start, span.end) for span, _, label in tracks]


def assert_same(one: Any, other: Any) -> None:
    assert [who for who, _, _ in turns(one)] == [who for who, _, _ in turns(other)]
    times = [np.array([(a, b) for _, a, b in turns(output)]) for output in (one, other)]
    assert np.abs(times[0] - times[1]).max(initial=0) <= FRAME_S
    np.testing.assert_allclose(one.speaker_embeddings, other.speaker_embeddings, atol=1e-3)


def segments(pipeline: Any, sound: NDArray[np.float32]) -> Any:
    """What the pipeline's `apply` hands to its embedding step."""
    from pyannote.audio.utils.signal import binarize

    scores = pipeline.get_segmentations(as_file(sound))
    return binarize(scores, onset=pipeline.segmentation.threshold, initial_state=False)


class Heard:
    """Counts the windows that an embedding network hears."""

    def __init__(self, pipeline: Any) -> None:
        self.windows = 0
        self.net = pipeline._embedding.model_
        self.net.register_forward_pre_hook(self)

    def __call__(self, _: Any, given: tuple[Any, ...]) -> None:
        self.windows += len(given[0])


@pytest.mark.parametrize("name", RECORDINGS)
def test_turns_and_voices_are_those_of_pyannote(
    own: Any, quick: Any, sounds: dict[str, NDArray[np.float32]], name: str
) -> None:
    expected, found = (pipeline.apply(as_file(sounds[name])) for pipeline in (own, quick))
    assert turns(expected)
    assert_same(found, expected)


@pytest.mark.parametrize("exclude_overlap", [True, False])
def test_embeddings_of_the_same_masks_are_pyannotes_own(
    own: Any, quick: Any, sounds: dict[str, NDArray[np.float32]], exclude_overlap: bool
) -> None:
    sound = sounds["two at once"]
    file, masks = as_file(sound), segments(own, sound)
    assert (masks.data.sum(axis=2) > 1).any()
    expected = own.get_embeddings(file, masks, exclude_overlap=exclude_overlap)
    found = quick.get_embeddings(file, masks, exclude_overlap=exclude_overlap)
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_windows_without_a_voice_are_not_heard(
    own: Any, quick: Any, sounds: dict[str, NDArray[np.float32]]
) -> None:
    sound = sounds["panel"]
    file, masks = as_file(sound), segments(own, sound)
    empty = ~masks.data.any(axis=(1, 2))
    assert empty.sum() > 5
    heard = Heard(quick)
    told: list[tuple[int, int]] = []
    found = quick.get_embeddings(
        file, masks, hook=lambda *_, total, completed: told.append((completed, total))
    )
    assert heard.windows == (~empty).sum()
    assert told == [(n, len(told) - 1) for n in range(len(told))]
    np.testing.assert_allclose(found, own.get_embeddings(file, masks), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["panel", "short"])
def test_batches_side_by_side_change_nothing(
    quick: Any, sounds: dict[str, NDArray[np.float32]], name: str
) -> None:
    """Lengths with and without a last window that is padded."""
    threads = load(demo_path(), workers=2)
    whole = sounds[name][: len(sounds[name]) // 8000 * 8000]
    for sound in (whole[: 20 * RATE_HZ], sounds[name][-10 * RATE_HZ + 123 :]):
        told: list[tuple[str, int, int]] = []

        def hook(step: str, *_: Any, told: Any = told, **now: Any) -> None:
            if now.get("total"):
                told.append((step, now["completed"], now["total"]))

        expected = quick.apply(as_file(sound))
        found = threads.apply(as_file(sound), hook=hook)
        assert turns(found) == turns(expected)
        np.testing.assert_array_equal(found.speaker_embeddings, expected.speaker_embeddings)
        for step in ("segmentation", "embeddings"):
            done = [(n, total) for which, n, total in told if which == step]
            assert done == sorted(done)
            assert done[0][0] == 0
            assert done[-1][0] >= done[-1][1]
    assert not [t for t in threading.enumerate() if t.name.startswith("diarization")]


def test_work_in_threads_ends_with_an_error(sounds: dict[str, NDArray[np.float32]]) -> None:
    """Whoever is told of progress may break off: the batches that were not begun never are."""
    pipeline = load(demo_path(), workers=2)
    assert pipeline._embedding.min_num_samples  # found by trial, once
    heard, batches, broken_off = Heard(pipeline), itertools.count(1), threading.Event()

    def hold(*_: Any) -> None:
        if next(batches) > pipeline.workers:
            broken_off.wait(60)

    def hook(step: str, *_: Any, completed: int | None = None, **__: Any) -> None:
        if step == "embeddings" and completed == 1:
            broken_off.set()
            raise InterruptedError

    heard.net.register_forward_pre_hook(hold)
    with pytest.raises(InterruptedError):
        pipeline.apply(as_file(sounds["panel"]), hook=hook)
    assert heard.windows < 24  # of 48; 8 are heard or at work by then
    assert not [t for t in threading.enumerate() if t.name.startswith("diarization")]


@pytest.mark.parametrize(
    ("name", "shares", "skips"),
    [
        ("OneMask", False, False),
        ("OtherPooling", False, False),
        ("HearsSilence", True, False),
        ("VoiceNet", True, True),
    ],
)
def test_a_model_that_cannot_share_is_used_as_pyannote_does(
    sounds: dict[str, NDArray[np.float32]], tmp_path: Path, name: str, shares: bool, skips: bool
) -> None:
    folder = tmp_path / "stubborn"
    shutil.copytree(demo_path(), folder)
    stubborn_voice.make_stubborn(folder, name)
    from pyannote.audio import Pipeline

    pipeline, own = load(folder), Pipeline.from_pretrained(str(folder))
    assert (pipeline.shares_windows, pipeline._nobody is not None) == (shares, skips)
    sound = sounds["panel"][8 * RATE_HZ : 20 * RATE_HZ]
    assert_same(pipeline.apply(as_file(sound)), own.apply(as_file(sound)))


def test_the_usual_networks_are_heard_once_for_all_voices() -> None:
    """WeSpeaker's (pyannote's default) and both x-vectors, untrained."""
    import_pyannote()
    import torch
    from pyannote.audio.models.embedding import WeSpeakerResNet34, XVectorMFCC, XVectorSincNet
    from pyannote.audio.pipelines.speaker_verification import (
        PyannoteAudioPretrainedSpeakerEmbedding,
    )

    from audio_batch.engines.pyannote_windows import what_it_shares

    torch.manual_seed(0)
    for kind in (WeSpeakerResNet34, XVectorMFCC, XVectorSincNet):
        shares, nobody = what_it_shares(PyannoteAudioPretrainedSpeakerEmbedding(kind()))
        assert (kind, shares, nobody is not None) == (kind, True, True)


def windows_of(sound: NDArray[np.float32], step: int, length: int = 5 * RATE_HZ) -> Any:
    import torch

    return torch.from_numpy(sound)[None].unfold(1, length, step).permute(1, 0, 2)


def test_the_first_layer_is_shared_by_windows_that_overlap(
    own: Any, sounds: dict[str, NDArray[np.float32]]
) -> None:
    import torch

    net = own._segmentation.model
    sharing = copy.deepcopy(net)
    asked: list[int] = []
    sharing.sincnet.conv1d[0].register_forward_pre_hook(
        lambda _, given: asked.append(given[0].numel())
    )
    assert share_first_layer(sharing)
    batch = windows_of(sounds["meeting"] + np.float32(0.2), 8000)[:8]  # an offset is no sound
    with torch.inference_mode():
        asked.clear()
        shared = sharing(batch)
        assert asked == [8.5 * RATE_HZ]
        assert float((shared - net(batch)).abs().max()) < SCORE_TOLERANCE
        asked.clear()
        # Apart in memory, alone, or at steps between the filters' outputs: each by itself.
        for others in (batch.contiguous(), batch[:1], windows_of(sounds["meeting"], 8005)[:2]):
            assert torch.equal(sharing(others), net(others))
        assert asked == [8 * 5 * RATE_HZ, 5 * RATE_HZ, 2 * 5 * RATE_HZ]


def test_a_network_made_otherwise_keeps_its_first_layer(own: Any) -> None:
    """One normalises its windows in another way, one has no such layer."""
    import torch

    net = copy.deepcopy(own._segmentation.model)
    net.sincnet.pool1d[0] = torch.nn.Sequential(net.sincnet.pool1d[0], torch.nn.Dropout(0.0))
    assert share_first_layer(net)  # what is made of the same parts is shared
    net = copy.deepcopy(own._segmentation.model)
    net.sincnet.wav_norm1d = torch.nn.InstanceNorm1d(1, affine=True, track_running_stats=True)
    net.eval()
    before = net.sincnet.forward
    assert not share_first_layer(net)
    assert net.sincnet.forward == before
    assert not share_first_layer(own._embedding.model_)
