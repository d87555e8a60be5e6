"""Telling speakers apart with the real pyannote.audio, on a pipeline made on the spot.

Its segmentation is the one that whisperx carries; its embedding is tiny and untrained, so that
what is told here is the machinery and not how well voices are known.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from program import PROJECT, environment

from audio_batch.diarization_models import DiarizationReference, find_diarization
from audio_batch.engines.base import Diarization
from audio_batch.engines.failures import is_sticky
from audio_batch.engines.pyannote import load_diarizer
from audio_batch.engines.pyannote_errors import translate
from audio_batch.engines.pyannote_memory import batch_sizes, window_step
from audio_batch.errors import AssetError, DeviceError, ErrorKind, SetupError
from audio_batch.gpu.devices import CPU, Device
from audio_batch.media import decode
from audio_batch.options import SpeakerLimits

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
ANY = SpeakerLimits()
CLUSTERINGS = {
    "AgglomerativeClustering": "{threshold: 0.5, method: centroid, min_cluster_size: 2}",
    "VBxClustering": "{threshold: 0.6, Fa: 0.07, Fb: 0.8}",
}


def make_pipeline(folder: Path, clustering: str, *, seed: int = 0) -> DiarizationReference:
    """A pipeline folder with an untrained embedding of 16 dimensions."""
    import torch
    from pyannote.audio.core.task import Problem, Resolution, Specifications
    from pyannote.audio.models.embedding import XVectorMFCC

    torch.manual_seed(seed)
    net = XVectorMFCC(dimension=16, mfcc={"n_mfcc": 20, "melkwargs": {"n_mels": 40}})
    net.specifications = Specifications(
        problem=Problem.REPRESENTATION, resolution=Resolution.CHUNK, duration=5.0, classes=["a"]
    )
    checkpoint: dict[str, Any] = {
        "state_dict": net.state_dict(),
        "hyper_parameters": dict(net.hparams),
        "pytorch-lightning_version": "1.5.4",
        "epoch": 0,
        "global_step": 0,
    }
    net.on_save_checkpoint(checkpoint)
    for part in ("embedding", "plda"):
        (folder / part).mkdir(parents=True)
    torch.save(checkpoint, folder / "embedding" / "pytorch_model.bin")
    zeros, eye = np.zeros(16), np.eye(16)
    np.savez(folder / "plda" / "xvec_transform.npz", mean1=zeros, mean2=zeros, lda=eye)
    np.savez(folder / "plda" / "plda.npz", mu=zeros, tr=eye, psi=np.linspace(2, 0.1, 16))
    plda = "plda: $model/plda," if clustering == "VBxClustering" else ""
    (folder / "config.yaml").write_text(
        "pipeline:\n"
        "  name: pyannote.audio.pipelines.SpeakerDiarization\n"
        f"  params: {{clustering: {clustering}, {plda} embedding: $model/embedding,\n"
        "           segmentation: $whisperx/assets/pytorch_model.bin}\n"
        "device: cuda\n"  # not the folder's to say
        f"params: {{clustering: {CLUSTERINGS[clustering]},\n"
        "         segmentation: {threshold: 0.5, min_duration_off: 0.0}}\n",
        encoding="utf-8",
    )
    return find_diarization(str(folder), model_dir=None, offline=True, token=None)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, DiarizationReference]:
    base = tmp_path_factory.mktemp("pipelines")
    return {name: make_pipeline(base / name, name) for name in CLUSTERINGS}


@pytest.fixture(scope="module", params=CLUSTERINGS)
def diarizer(request: pytest.FixtureRequest, folders: dict[str, DiarizationReference]) -> Any:
    reference = folders[request.param]
    return load_diarizer(reference, CPU, slots=1, cpu_threads=1, free_bytes=None)


@pytest.fixture
def fresh(folders: dict[str, DiarizationReference]) -> Any:
    """One whose pipeline a test may break."""
    reference = folders["AgglomerativeClustering"]
    return load_diarizer(reference, CPU, slots=1, cpu_threads=1, free_bytes=None)


@pytest.fixture(scope="module")
def dialogue() -> NDArray[np.float32]:
    """Six seconds of two people who read digits."""
    return decode(PROJECT / "examples" / "audio" / "dialogue.flac").samples[: 6 * 16_000]


def run(diarizer: Any, samples: NDArray[Any], limits: SpeakerLimits = ANY) -> Diarization:
    done: Diarization = diarizer.diarize(samples, limits, lambda _step, _share: None)
    return done


def test_turns_are_records_in_order_and_within_the_recording(
    diarizer: Any, dialogue: NDArray[np.float32]
) -> None:
    found = run(diarizer, dialogue, SpeakerLimits(num_speakers=2))
    assert [s.label for s in found.speakers] == ["SPEAKER_00", "SPEAKER_01"]
    assert list(dict.fromkeys(t.speaker for t in found.turns)) == ["SPEAKER_00", "SPEAKER_01"]
    assert list(found.turns) == sorted(found.turns, key=lambda t: t.start_s)
    for turn in (*found.turns, *found.exclusive_turns):
        assert 0 <= turn.start_s < turn.end_s <= 6
        assert turn.start_s == round(turn.start_s, 3)
    for one, two in zip(found.exclusive_turns, found.exclusive_turns[1:], strict=False):
        assert one.end_s <= two.start_s
    for speaker in found.speakers:
        spoken = [t.end_s - t.start_s for t in found.turns if t.speaker == speaker.label]
        assert speaker.talk_s == round(sum(spoken), 3)
        assert speaker.embedding is not None
        assert math.isclose(math.hypot(*speaker.embedding), 1, abs_tol=1e-4)
    assert found.notes == ()


def test_speech_is_found_where_it_is(diarizer: Any, dialogue: NDArray[np.float32]) -> None:
    """The pause of the dialogue, from 2.5 to 3.7 s, is nobody's; most of the rest is somebody's."""
    found = run(diarizer, dialogue)
    assert not [t for t in found.turns if t.start_s < 3.5 and t.end_s > 2.8]
    assert 3.5 < sum(t.end_s - t.start_s for t in found.exclusive_turns) < 5


def test_bounds_are_kept_or_the_notes_say_so(
    diarizer: Any, dialogue: NDArray[np.float32], capfd: pytest.CaptureFixture[str]
) -> None:
    one = run(diarizer, dialogue, SpeakerLimits(max_speakers=1))
    assert (len(one.speakers), one.notes) == (1, ())
    many = run(diarizer, dialogue, SpeakerLimits(num_speakers=50))
    assert 1 < len(many.speakers) < 50
    assert many.notes == (f"only {len(many.speakers)} voices found, 50 asked for",)
    some = run(diarizer, dialogue, SpeakerLimits(min_speakers=30, max_speakers=31))
    assert some.notes[0].endswith("30 asked for")
    assert capfd.readouterr() == ("", "")  # pyannote prints here


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("nothing", "too short"),
        ("10 ms", "too short"),
        ("zeros", "silent"),
        ("dither", "silent"),
        ("noise", "no speakers found"),
        ("no numbers", "silent"),
    ],
)
def test_without_speech_there_is_nobody_and_a_note(diarizer: Any, name: str, note: str) -> None:
    random = np.random.default_rng(0)
    samples = {
        "nothing": np.zeros(0),
        "10 ms": random.normal(size=160) * 0.1,
        "zeros": np.zeros(30_000),
        "dither": random.integers(-1, 2, size=80_000) / 32768,
        "noise": random.normal(size=50_000) * 0.1,
        "no numbers": np.full(20_000, np.nan),
    }[name]
    found = run(diarizer, samples.astype(np.float32), SpeakerLimits(min_speakers=2))
    assert (found.turns, found.exclusive_turns, found.speakers) == ((), (), ())
    assert any(note in text for text in found.notes)


def test_very_short_speech_has_turns_and_no_embedding(
    diarizer: Any, dialogue: NDArray[np.float32]
) -> None:
    found = run(diarizer, dialogue[16_000:24_000], SpeakerLimits(num_speakers=3))
    assert found.turns[-1].end_s <= 0.5
    assert [s.embedding for s in found.speakers] == [None]
    assert found.notes == ("only 1 voice found, 3 asked for",)


def test_samples_that_are_no_numbers_or_beyond_scale_hide_no_speech(
    diarizer: Any, dialogue: NDArray[np.float32]
) -> None:
    plain = run(diarizer, dialogue)
    torn = dialogue.copy()
    torn[[40_000, 50_000]] = [np.nan, np.inf]
    found = run(diarizer, torn)
    assert len(found.turns) == len(plain.turns)
    assert "2 samples are no numbers" in found.notes[0]
    torn.flags.writeable = False
    assert len(run(diarizer, torn).turns) == len(plain.turns)
    assert len(run(diarizer, dialogue * np.float32(1e30)).turns) == len(plain.turns)


def test_progress_tells_the_steps_and_never_goes_back(
    diarizer: Any, dialogue: NDArray[np.float32]
) -> None:
    told: list[tuple[str, float]] = []
    diarizer.diarize(dialogue, ANY, lambda step, share: told.append((step, share)))
    assert list(dict.fromkeys(step for step, _ in told)) == [
        "segmentation",
        "speaker_counting",
        "embeddings",
        "discrete_diarization",
    ]
    shares = [share for _, share in told]
    assert shares == sorted(shares)
    # Before the batches of each (one, and two), after each, and when the next step begins.
    calls = [sum(step == name for step, _ in told) for name in ("segmentation", "embeddings")]
    assert calls == [3, 4]
    assert (0 <= shares[0] < 0.2, shares[-1]) == (True, 1.0)


def test_a_voice_is_a_vector_that_gain_and_silence_leave_alone(
    diarizer: Any, dialogue: NDArray[np.float32]
) -> None:
    voice = dialogue[: 2 * 16_000]
    vector = np.array(diarizer.embed(voice))
    assert math.isclose(float(np.linalg.norm(vector)), 1, abs_tol=1e-4)
    padded = np.concatenate([voice, np.zeros(48_000, np.float32)])
    assert float(vector @ np.array(diarizer.embed(padded))) > 0.95
    assert diarizer.embed(voice) == tuple(vector)


@pytest.mark.parametrize("name", ["nothing", "short", "silent", "noise"])
def test_too_little_sound_is_no_voice(
    diarizer: Any, dialogue: NDArray[np.float32], name: str
) -> None:
    samples = {
        "nothing": dialogue[:0],
        "short": dialogue[16_000:22_000],
        "silent": np.zeros(80_000, np.float32),
        "noise": np.random.default_rng(0).normal(size=50_000).astype(np.float32) * 0.1,
    }[name]
    with pytest.raises(AssetError, match=r"too little sound|no voice") as caught:
        diarizer.embed(samples)
    assert (caught.value.kind, caught.value.transient) == (ErrorKind.DIARIZATION, False)


def test_threads_share_the_pipelines_of_the_slots(
    folders: dict[str, DiarizationReference], dialogue: NDArray[np.float32]
) -> None:
    import torch

    reference = folders["AgglomerativeClustering"]
    shared = load_diarizer(reference, CPU, slots=2, cpu_threads=1, free_bytes=None)
    two_at_work = threading.Barrier(2)

    def work(limits: SpeakerLimits) -> tuple[Diarization, int]:
        torch.set_num_threads(3)
        met: list[int] = []

        def progress(_step: str, _share: float) -> None:
            if not met:
                met.append(two_at_work.wait(120))

        return shared.diarize(dialogue, limits, progress), torch.get_num_threads()

    wanted = [ANY, SpeakerLimits(num_speakers=2)] * 2
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(work, wanted))
    assert [count for _, count in found] == [1] * 4
    assert found[0] == found[2]
    assert found[1] == found[3]
    assert found[1][0] == run(shared, dialogue, wanted[1])
    assert shared.pool.made == 2  # type: ignore[attr-defined]


def _break(diarizer: Any, fault: Any) -> None:
    """Let the embedding network of the one pipeline ask `fault` about its batches first."""
    with diarizer.pool.borrow() as pipeline:
        net = pipeline._embedding.model_
        forward = net.forward

        def faulty(waveforms: Any, **more: Any) -> Any:
            fault(len(waveforms))
            return forward(waveforms, **more)

        net.forward = faulty


def test_out_of_memory_is_met_with_half_the_batches_for_the_rest_of_the_run(
    fresh: Any, dialogue: NDArray[np.float32]
) -> None:
    import torch

    asked: list[int] = []

    def fault(size: int) -> None:
        asked.append(size)
        if size > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    whole = run(fresh, dialogue)
    _break(fresh, fault)
    assert run(fresh, dialogue).turns == whole.turns
    assert asked[:2] == [2, 1]
    assert fresh.description["embedding_batch_size"] == 1
    asked.clear()
    assert run(fresh, dialogue).turns == whole.turns
    assert asked == [1, 1, 1]  # the windows, each with its three voices


def test_memory_that_stays_short_is_a_transient_failure_of_the_asset(
    fresh: Any, dialogue: NDArray[np.float32]
) -> None:
    asked: list[int] = []

    def fault(size: int) -> None:
        asked.append(size)
        raise MemoryError("batch_size ( 8) is probably too large.\nTry with a smaller value")

    _break(fresh, fault)
    with pytest.raises(AssetError) as caught:
        run(fresh, dialogue)
    assert (caught.value.kind, caught.value.transient) == (ErrorKind.OUT_OF_MEMORY, True)
    assert "\n" not in str(caught.value)
    assert asked == [2, 1, 1, 1]  # while the segmentation's go from 8 to 1
    sizes = ("segmentation_batch_size", "embedding_batch_size")
    assert [fresh.description[size] for size in sizes] == [1, 1]


def test_clustering_without_memory_is_not_tried_in_smaller_batches(
    fresh: Any, dialogue: NDArray[np.float32]
) -> None:
    asked: list[int] = []

    def without_memory(embeddings: NDArray[Any], **_: Any) -> None:
        asked.append(len(embeddings))
        raise MemoryError("Unable to allocate 130. GiB for an array")

    before = dict(fresh.description)
    with fresh.pool.borrow() as pipeline:
        pipeline.clustering.cluster = without_memory
    with pytest.raises(AssetError, match="Unable to allocate 130") as caught:
        run(fresh, dialogue)
    assert (caught.value.kind, caught.value.transient) == (ErrorKind.OUT_OF_MEMORY, True)
    assert (len(asked), fresh.description) == (1, before)


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (
            RuntimeError("CUDA error: an illegal memory access was encountered\nCUDA kernel"),
            DeviceError,
            "CUDA context is lost",
        ),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), DeviceError, "device failed"),
        (ValueError("matrix contains invalid\nnumeric entries"), AssetError, "ValueError: matrix"),
        (IndexError(), AssetError, "IndexError"),
    ],
)
def test_what_the_libraries_raise_becomes_one_sentence(
    fresh: Any, dialogue: NDArray[np.float32], error: Exception, kind: type, text: str
) -> None:
    def fault(_: int) -> None:
        raise error

    _break(fresh, fault)
    with pytest.raises(kind, match=text) as caught:
        run(fresh, dialogue)
    assert "\n" not in str(caught.value)
    assert is_sticky(str(caught.value)) == is_sticky(str(error))
    if kind is AssetError:
        assert caught.value.kind is ErrorKind.DIARIZATION
    with fresh.pool.borrow():
        pass  # the pipeline came back


def test_cublas_without_memory_is_memory() -> None:
    error = translate(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublas"))
    assert isinstance(error, AssetError)
    assert error.kind is ErrorKind.OUT_OF_MEMORY


def test_embeddings_of_other_weights_are_of_another_space(diarizer: Any, tmp_path: Path) -> None:
    other = make_pipeline(tmp_path / "other", "AgglomerativeClustering", seed=1)
    loaded = load_diarizer(other, CPU, slots=1, cpu_threads=1, free_bytes=None)
    assert loaded.embedding_identity.startswith("XVectorMFCC-")
    assert loaded.embedding_identity != diarizer.embedding_identity
    assert loaded.description["embedding"] == loaded.embedding_identity


def test_a_damaged_checkpoint_is_a_setup_error(tmp_path: Path) -> None:
    reference = make_pipeline(tmp_path / "p", "AgglomerativeClustering")
    weights = tmp_path / "p" / "embedding" / "pytorch_model.bin"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(SetupError, match="cannot be loaded from") as caught:
        load_diarizer(reference, CPU, slots=1, cpu_threads=1, free_bytes=None)
    assert "\n" not in str(caught.value)


def test_a_gpu_that_is_not_there_is_a_device_error(
    folders: dict[str, DiarizationReference],
) -> None:
    gpu = Device("cuda:77", "cuda", 77, None, "none", None)
    with pytest.raises(DeviceError, match="cuda:77 is not visible"):
        load_diarizer(folders["VBxClustering"], gpu, slots=1, cpu_threads=1, free_bytes=None)


def test_tf32_is_put_back_on_a_gpu() -> None:
    import torch
    from pyannote.audio.utils.reproducibility import fix_reproducibility

    from audio_batch.engines.pyannote_pipeline import allow_tf32

    gpu = Device("cuda:0", "cuda", 0, None, "none", None)
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    try:
        allow_tf32(gpu)
        fix_reproducibility(torch.device("cuda"))
        assert not torch.backends.cudnn.allow_tf32
        allow_tf32(CPU)
        assert not torch.backends.cudnn.allow_tf32
        allow_tf32(gpu)
        assert torch.backends.cudnn.allow_tf32
        assert torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize(
    ("free_gb", "slots", "size"),
    [
        (None, 3, 32),
        (1, 1, 4),
        (10, 1, 16),
        (24, 1, 32),
        (24, 4, 8),
        (140, 1, 128),
    ],
)
def test_batches_are_as_large_as_memory_allows(free_gb: int | None, slots: int, size: int) -> None:
    assert batch_sizes("cpu", 10**12) == batch_sizes("cpu", None)
    free = None if free_gb is None else free_gb * 10**9
    assert batch_sizes("cuda", free, slots) == (size, size)


def test_long_recordings_are_analysed_in_wider_steps_or_refused() -> None:
    room = 8e9
    assert window_step(3600, 5.0, 0.1, room) == 0.1
    steps = [window_step(hours * 3600, 5.0, 0.1, room) for hours in range(1, 13)]
    assert steps == sorted(steps)
    assert 0.1 < steps[-1] <= 0.5
    for hours, step in enumerate(steps, 1):
        voices = 1.5 * hours * 3600 / 5 / step
        assert 16 * voices**2 / 2 <= room
    with pytest.raises(AssetError, match=r"24\.0 hours at a time need .* GB") as caught:
        window_step(24 * 3600, 5.0, 0.1, room / 4)
    assert (caught.value.kind, caught.value.transient) == (ErrorKind.OUT_OF_MEMORY, True)


QUIET_AND_OFFLINE = """
import json, sys, time
from pathlib import Path
calls = []
def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        calls.append(event)
        raise OSError("no network here")
sys.addaudithook(watch)
from audio_batch.diarization_models import find_diarization
from audio_batch.engines.pyannote import load_diarizer
late = sorted({"torch", "pyannote.audio", "yaml", "huggingface_hub"} & set(sys.modules))
from audio_batch.gpu.devices import CPU
from audio_batch.media import decode
from audio_batch.options import SpeakerLimits
reference = find_diarization(sys.argv[1], model_dir=None, offline=True, token=None)
diarizer = load_diarizer(reference, CPU, slots=1, cpu_threads=1, free_bytes=None)
samples = decode(Path(sys.argv[2])).samples[:96000]
found = diarizer.diarize(samples, SpeakerLimits(num_speakers=2), lambda step, share: None)
diarizer.diarize(samples[16000:24000], SpeakerLimits(num_speakers=9), lambda step, share: None)
diarizer.embed(samples)
sys.stdout.flush()
from pyannote.audio.telemetry import metrics, track_pipeline_apply
metrics.provider.force_flush()
ours = list(calls)
# The same probe must see what is sent when somebody does ask for it.
metrics.set_telemetry_metrics(True)
metrics.exporter._endpoint = "http://127.0.0.1:9/v1/traces"
with diarizer.pool.borrow() as pipeline:
    from audio_batch.engines.pyannote_pipeline import as_file
    track_pipeline_apply(pipeline, as_file(samples))
deadline = time.monotonic() + 60
while not calls and time.monotonic() < deadline:
    time.sleep(0.05)
theirs = list(calls)
diarizer.diarize(samples, SpeakerLimits(), lambda step, share: None)
answer = {"late": late, "turns": len(found.turns), "ours": ours, "theirs": theirs,
          "on": metrics.is_metrics_enabled()}
Path(sys.argv[3]).write_text(json.dumps(answer))
"""


def test_a_diarization_prints_nothing_and_tells_nobody(
    folders: dict[str, DiarizationReference], tmp_path: Path
) -> None:
    """In a process that is told to report, and where every connection is seen and refused."""
    answer = tmp_path / "answer.json"
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            QUIET_AND_OFFLINE,
            str(folders["VBxClustering"].path),
            str(PROJECT / "examples" / "audio" / "dialogue.flac"),
            str(answer),
        ],
        env={**environment(PYANNOTE_METRICS_ENABLED="true"), "HF_HUB_OFFLINE": "0"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    told = json.loads(answer.read_text())
    assert told["late"] == []
    assert told["turns"] > 3
    assert told["ours"] == []
    assert told["theirs"] != []
    assert told["on"] is False
