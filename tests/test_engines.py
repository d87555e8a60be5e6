"""The engines: pure choices, the translated errors, and real CTranslate2 runs on the demo model."""

from __future__ import annotations

import builtins
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import pytest
from numpy.typing import NDArray
from program import PROJECT

from audio_batch import models
from audio_batch.engines import LoadRequest, Recognition, Recognizer, open_engine
from audio_batch.engines.cuda import default_batch_size, resolve_compute_type
from audio_batch.engines.whisper import translate
from audio_batch.errors import AssetError, DeviceError, ErrorKind, SetupError, UsageError
from audio_batch.gpu.devices import CPU, Device
from audio_batch.media import decode
from audio_batch.options import DecodingOptions, resolve_decoding

GPU = Device("cuda:0", "cuda", 0, "GPU-0", "T", (8, 6))
MODERN = {"float32", "float16", "bfloat16", "int8", "int8_float32", "int8_float16"}
PASCAL = {"float32", "int8", "int8_float32"}
GB = 1000**3


@pytest.mark.parametrize(
    ("wanted", "supported", "device", "free", "chosen", "warned"),
    [
        ("auto", {"int8", "float32"}, CPU, None, "int8", False),
        ("auto", {"float32"}, CPU, None, "float32", False),
        ("auto", MODERN, GPU, 22 * GB, "float16", False),
        ("auto", MODERN, GPU, 7 * GB, "int8_float16", False),
        ("auto", PASCAL, GPU, 22 * GB, "int8", False),
        ("int8_float16", MODERN, GPU, None, "int8_float16", False),
        ("float16", PASCAL, GPU, None, "int8", True),
        ("float16", {"int8", "float32"}, CPU, None, "int8", True),
    ],
)
def test_the_compute_type_fits_the_device_and_a_change_is_said(
    wanted: str, supported: set[str], device: Device, free: int | None, chosen: str, warned: bool
) -> None:
    got, warnings = resolve_compute_type(wanted, supported, device, free)
    assert got == chosen
    assert bool(warnings) == warned


def test_a_compute_type_that_there_is_not_is_refused() -> None:
    with pytest.raises(UsageError, match="float17"):
        resolve_compute_type("float17", MODERN, GPU, None)


def test_batches_grow_with_memory() -> None:
    large = 3_100_000_000
    sizes = [default_batch_size("cuda", gb * GB, large) for gb in (4, 8, 12, 24, 80)]
    assert sizes == sorted(sizes)
    assert sizes[0] == 2
    assert sizes[-2:] == [32, 64]
    assert default_batch_size("cuda", None, large) == 16
    assert default_batch_size("cpu", None, large) == 8


EXCEPTIONS = [
    kind
    for kind in vars(builtins).values()
    if isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, UnicodeError)
]


@pytest.mark.parametrize("kind", EXCEPTIONS, ids=lambda kind: kind.__name__)
def test_whatever_the_library_raises_becomes_ours(kind: type[Exception]) -> None:
    error = kind() if issubclass(kind, BaseExceptionGroup) is False else None
    assert error is None or isinstance(translate(error), AssetError | DeviceError)


@pytest.mark.parametrize(
    ("error", "kind", "transient"),
    [
        (RuntimeError("CUDA failed with error out of memory"), ErrorKind.OUT_OF_MEMORY, True),
        (MemoryError(), ErrorKind.OUT_OF_MEMORY, True),
        (RuntimeError("std::bad_alloc"), ErrorKind.OUT_OF_MEMORY, True),
        (ValueError("The length of the prompt is 500"), ErrorKind.OPTION, False),
        (IndexError("list index out of range"), ErrorKind.MODEL, False),
    ],
)
def test_an_error_is_called_by_its_kind(error: Exception, kind: ErrorKind, transient: bool) -> None:
    translated = translate(error)
    assert isinstance(translated, AssetError)
    assert (translated.kind, translated.transient) == (kind, transient)


@pytest.mark.parametrize(
    "text", ["CUDA error: unspecified launch failure", "cuDNN failed", "libcublas.so.12 not found"]
)
def test_trouble_of_the_device_is_the_devices(text: str) -> None:
    assert isinstance(translate(RuntimeError(text)), DeviceError)


# -- real runs ------------------------------------------------------------------------------------


def loaded(model: models.ModelReference, slots: int = 1, **more: Any) -> Recognizer:
    request = LoadRequest(model, CPU, slots, cpu_threads=1, **more)
    return open_engine("faster-whisper").load(request)


@pytest.fixture(scope="module")
def demo() -> models.ModelReference:
    return models.find("demo")


@pytest.fixture(scope="module")
def batched(demo: models.ModelReference) -> Recognizer:
    return loaded(demo, 2)


def options(demo: models.ModelReference, **given: Any) -> DecodingOptions:
    return resolve_decoding(given, preset=None, model_defaults=demo.defaults)[0]


def silent(position_s: float) -> None:
    """Progress that nobody watches."""


def spoken(name: str) -> NDArray[np.float32]:
    path = PROJECT / "examples" / "audio" / name
    if not path.is_file():
        pytest.skip("the examples are not beside the tests")
    return decode(path).samples


SPOKEN = ["phone_number.wav", "door_code.mp3", "long_count.opus"]


def words(recognition: Recognition) -> str:
    return " ".join(segment.text for segment in recognition.segments)


def test_the_model_says_what_it_runs_with(batched: Recognizer) -> None:
    assert batched.description == {"compute_type": "int8", "batch_size": 8, "multilingual": False}
    assert batched.warnings == ()


def test_an_unsupported_compute_type_falls_back_and_says_so(demo: models.ModelReference) -> None:
    recognizer = loaded(demo, compute_type="int8_float16")
    assert recognizer.description["compute_type"] == "int8"
    assert "int8_float16" in recognizer.warnings[0]


@pytest.mark.parametrize("given", [{}, {"batch_size": 1}])
@pytest.mark.parametrize("seconds", [0.0, 0.01, 0.5, 31.0])
def test_silence_of_any_length_gives_no_text(
    batched: Recognizer, demo: models.ModelReference, given: dict[str, Any], seconds: float
) -> None:
    samples = np.zeros(int(seconds * 16_000), np.float32)
    recognition = batched.transcribe(samples, options(demo, **given), silent)
    assert recognition.segments == ()
    assert recognition.notes in (("no speech found",), ("too short to hold speech",))


def timed(recognition: Recognition) -> list[tuple[str, float, float]]:
    """Texts and times; scores may differ in the last place between batches."""
    words = [word for segment in recognition.segments for word in segment.words]
    return [(part.text, part.start_s, part.end_s) for part in (*recognition.segments, *words)]


@pytest.mark.parametrize("name", SPOKEN)
def test_words_are_the_same_whatever_the_batch_size(demo: models.ModelReference, name: str) -> None:
    samples = spoken(name)
    heard = [
        loaded(demo, batch_size=size).transcribe(samples, options(demo), silent) for size in (2, 16)
    ]
    assert timed(heard[0]) == timed(heard[1])
    assert words(heard[0])


@pytest.mark.parametrize("given", [{}, {"batch_size": 1}, {"vad_method": "none"}])
def test_times_are_in_order_and_inside_the_recording(
    batched: Recognizer, demo: models.ModelReference, given: dict[str, Any]
) -> None:
    samples = spoken("long_count.opus")
    positions: list[float] = []
    recognition = batched.transcribe(samples, options(demo, **given), positions.append)
    length_s = len(samples) / 16_000
    assert recognition.segments
    assert positions
    starts = [word.start_s for segment in recognition.segments for word in segment.words]
    assert starts == sorted(starts)
    for segment in recognition.segments:
        assert 0 <= segment.start_s <= segment.end_s <= length_s + 0.5
        assert " ".join(word.text for word in segment.words) == segment.text


def test_threads_share_one_model_and_hear_what_one_alone_hears(
    batched: Recognizer, demo: models.ModelReference
) -> None:
    chosen = options(demo)
    recordings = [spoken(name) for name in SPOKEN] * 3
    alone = [batched.transcribe(samples, chosen, silent) for samples in recordings[:3]]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda x: batched.transcribe(x, chosen, silent), recordings))
    assert [timed(r) for r in together] == [timed(r) for r in alone * 3]


@pytest.mark.parametrize("given", [{}, {"batch_size": 1}])
def test_prompts_and_hotwords_are_taken(
    batched: Recognizer, demo: models.ModelReference, given: dict[str, Any]
) -> None:
    chosen = options(demo, initial_prompt="one two", hotwords="three", **given)
    heard = batched.transcribe(spoken("phone_number.wav"), chosen, silent)
    assert jiwer.wer("five five five zero one four two", words(heard)) < 0.2


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ({"language": "de"}, ErrorKind.LANGUAGE),
        ({"task": "translate"}, ErrorKind.OPTION),
        ({"initial_prompt": "one " * 600, "max_new_tokens": 440}, ErrorKind.OPTION),
    ],
)
def test_what_the_model_cannot_do_is_refused_not_ignored(
    batched: Recognizer, demo: models.ModelReference, given: dict[str, Any], kind: ErrorKind
) -> None:
    with pytest.raises(AssetError) as caught:
        batched.check(options(demo, **given))
        batched.transcribe(spoken("phone_number.wav"), options(demo, **given), silent)
    assert caught.value.kind is kind


def test_a_torn_model_file_is_named_with_the_remedy(
    demo: models.ModelReference, tmp_path: Path
) -> None:
    torn = shutil.copytree(demo.path, tmp_path / "torn")
    data = (torn / "model.bin").read_bytes()
    (torn / "model.bin").write_bytes(data[: len(data) // 3])
    with pytest.raises(SetupError, match=r"cannot be loaded.*again"):
        loaded(models.find(str(torn)))


@pytest.mark.skipif(
    "AUDIO_BATCH_TEST_MODEL" not in os.environ,
    reason="AUDIO_BATCH_TEST_MODEL names no folder of a model of open speech",
)
def test_a_real_model_hears_real_speech(shared: Path) -> None:
    model = models.find(os.environ["AUDIO_BATCH_TEST_MODEL"])
    samples = decode(shared / "data/clips/jfk_44k_stereo.flac").samples
    recognition = loaded(model).transcribe(samples, options(model), silent)
    assert "ask not what your country can do for you" in words(recognition).lower()
