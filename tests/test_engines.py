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
from audio_batch.engines.failures import (
    Failure,
    classify,
    device_error,
    is_out_of_memory,
    is_sticky,
)
from audio_batch.engines.whisper import WhisperRecognizer, translate
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
    assert default_batch_size("cpu", None, large) == 4


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


# Texts as CTranslate2, torch, cuBLAS, cuDNN, ONNX Runtime and the driver's tools give them.
FAILURES = {
    Failure.CONTEXT_LOST: [
        "CUDA failed with error an illegal memory access was encountered",
        "CUDA error: an illegal memory access was encountered",
        "CUDA failure 700: an illegal memory access was encountered ; GPU=0 ; hostname=x",
        "CUDA failed with error unspecified launch failure",
        "CUDA failed with error the launch timed out and was terminated",
        "CUDA error: device-side assert triggered",
        "transform: failed to synchronize: cudaErrorAssert: device-side assert triggered",
        "CUDA error: uncorrectable ECC error encountered",
        "CUDA failed with error misaligned address",
        "CUDA failed with error an illegal instruction was encountered",
        "CUDA failed with error unknown error",
        "cuda runtime error (999) : unknown error at /opt/conda/THC/THCGeneral.cpp:47",
        "CUDA error: driver shutting down",
        "Unable to determine the device handle for GPU 0000:02:00.0: GPU is lost.  Reboot",
        "NVRM: Xid (PCI:0000:01:00): 79, pid=1234, GPU has fallen off the bus.",
    ],
    Failure.OUT_OF_MEMORY: [
        "CUDA failed with error out of memory",
        "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 7.79 GiB",
        "cuBLAS failed with status CUBLAS_STATUS_ALLOC_FAILED",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "std::bad_alloc",
        "Unable to allocate 3.21 GiB for an array with shape (201, 4320000) and data type",
        "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory",
        "Failed to allocate memory for requested buffer of size 1048576",
    ],
    Failure.LIBRARY_MISSING: [
        "Library libcublas.so.12 is not found or cannot be loaded",
        "Library cublas64_12.dll is not found or cannot be loaded",
        "Unable to load any of {libcudnn_ops.so.9.1.0, libcudnn_ops.so.9.1, libcudnn_ops.so.9}",
        "Could not load library libcudnn_ops_infer.so.8. Error: libcudnn_ops_infer.so.8: cannot "
        "open shared object file: No such file or directory",
        "Could not locate cudnn_ops64_9.dll. Please make sure it is in your library path!",
        "libcublasLt.so.12: cannot open shared object file: No such file or directory",
    ],
    Failure.NO_DEVICE: [
        "CUDA failed with error CUDA driver version is insufficient for CUDA runtime version",
        "CUDA failed with error no CUDA-capable device is detected",
        "CUDA failed with error CUDA-capable device(s) is/are busy or unavailable",
        "Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU",
        "The NVIDIA driver on your system is too old (found version 11040).",
        "Failed to initialize NVML: Driver/library version mismatch",
        "Torch not compiled with CUDA enabled",
        "This CTranslate2 package was not compiled with CUDA support",
        "libcuda.so.1: cannot open shared object file: No such file or directory",
    ],
    Failure.DEVICE: [
        "cuBLAS failed with status CUBLAS_STATUS_NOT_INITIALIZED",
        "cuBLAS failed with status CUBLAS_STATUS_EXECUTION_FAILED",
        "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED",
        "CUDA failed with error invalid argument",
        "CUDA failed with error initialization error",
    ],
    Failure.OTHER: [
        "Invalid input features shape: expected an input with shape (1, 80, 3000)",
        "list index out of range",
        "[Errno 2] No such file or directory: 'model.bin'",
        "The unknown error of an exchange",
    ],
}


@pytest.mark.parametrize(
    ("text", "failure"), [(text, failure) for failure, texts in FAILURES.items() for text in texts]
)
def test_a_text_tells_what_has_failed(text: str, failure: Failure) -> None:
    assert classify(text) is failure
    assert is_sticky(text) == (failure is Failure.CONTEXT_LOST)
    assert is_out_of_memory(RuntimeError(text)) == (failure is Failure.OUT_OF_MEMORY)
    error = device_error(text, "cuda:1")
    if failure in (Failure.OTHER, Failure.OUT_OF_MEMORY):
        assert error is None
        return
    assert error is not None
    assert text in error.message
    assert error.message.startswith("cuda:1 ")
    assert error.remedy
    # Who has only the message, from a journal or from another process, can tell as well.
    assert is_sticky(str(error)) == is_sticky(error.message) == is_sticky(text)


def test_what_has_failed_is_named_with_the_remedy() -> None:
    lost = str(device_error(FAILURES[Failure.CONTEXT_LOST][0]))
    assert "CUDA context is lost" in lost
    assert "process must be restarted" in lost
    missing = str(device_error("Library libcublas.so.12 is not found or cannot be loaded"))
    assert "the library libcublas.so.12 is missing" in missing
    assert "pip install nvidia-cublas-cu12" in missing
    assert "nvidia-smi" in str(device_error(FAILURES[Failure.NO_DEVICE][0]))


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
    assert batched.description == {"compute_type": "int8", "batch_size": 4, "multilingual": False}
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


def test_the_end_of_the_last_speech_is_told(
    batched: Recognizer, demo: models.ModelReference
) -> None:
    digits = spoken("phone_number.wav")
    samples = np.concatenate([digits, np.zeros(20 * 16_000, np.float32)])
    for given in ({}, {"batch_size": 1}):
        heard = batched.transcribe(samples, options(demo, **given), silent)
        assert heard.last_speech_s == pytest.approx(len(digits) / 16_000, abs=1.5)
        nothing = batched.transcribe(samples[len(digits) :], options(demo, **given), silent)
        assert (nothing.last_speech_s, nothing.speech_s) == (0.0, 0.0)
        untold = batched.transcribe(samples, options(demo, vad_method="none", **given), silent)
        assert untold.last_speech_s is None


class Cramped:
    """A CTranslate2 model on a device with room for some windows at a time, and trouble beyond."""

    def __init__(self, model: Any, room: int, trouble: Exception) -> None:
        self._model, self._room, self._trouble = model, room, trouble
        self.tried: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def generate(self, encoded: Any, prompts: list[Any], **settings: Any) -> Any:
        self.tried.append(len(prompts))
        if len(prompts) > self._room:
            raise self._trouble
        return self._model.generate(encoded, prompts, **settings)


def cramped(
    demo: models.ModelReference, room: int, trouble: Exception, slots: int = 1
) -> tuple[WhisperRecognizer, Cramped]:
    plain = loaded(demo, slots)
    assert isinstance(plain, WhisperRecognizer)
    # One lane that waits for full batches, so that what it tries is the same every time.
    recognizer = WhisperRecognizer(
        plain.model, demo, 8, plain.description, (), lanes=1, patience_s=60
    )
    recognizer.model.model = Cramped(recognizer.model.model, room, trouble)
    return recognizer, recognizer.model.model


def windows_of_8_s(count: int) -> NDArray[np.float32]:
    """Digits without a pause: as many windows for the demo model."""
    return np.resize(spoken("phone_number.wav"), count * 8 * 16_000 - 16_000)


CUDA_MEMORY = RuntimeError("CUDA failed with error out of memory")


@pytest.mark.parametrize(
    "trouble", [CUDA_MEMORY, pytest.param(MemoryError("std::bad_alloc"), marks=pytest.mark.slow)]
)
def test_out_of_memory_makes_batches_smaller_for_good(
    demo: models.ModelReference,
    trouble: Exception,
    caplog: pytest.LogCaptureFixture,
) -> None:
    recognizer, device = cramped(demo, 2, trouble)
    samples = windows_of_8_s(9)
    chosen = options(demo, vad_method="none")
    heard = recognizer.transcribe(samples, chosen, silent)
    in_pairs = loaded(demo, batch_size=2).transcribe(samples, chosen, silent)
    assert timed(heard) == timed(in_pairs)
    assert device.tried == [8, 4, 2, 2, 2, 2, 1]
    assert recognizer.description["batch_size"] == 2
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
    assert "going on with 2" in caplog.text
    device.tried.clear()
    recognizer.transcribe(samples, chosen, silent)
    # A batch may begin before it is full where the next window is late.
    assert max(device.tried) == 2
    assert sum(device.tried) == 9


def test_threads_make_batches_smaller_together(
    demo: models.ModelReference, caplog: pytest.LogCaptureFixture
) -> None:
    recognizer, _ = cramped(demo, 4, CUDA_MEMORY, slots=4)
    samples = windows_of_8_s(8)
    chosen = options(demo, vad_method="none")
    with ThreadPoolExecutor(4) as pool:
        heard = list(pool.map(lambda _: recognizer.transcribe(samples, chosen, silent), range(4)))
    assert [timed(one) for one in heard] == [timed(heard[0])] * 4
    assert recognizer.description["batch_size"] == 4
    assert len(caplog.records) == 1


@pytest.mark.parametrize("given", [{}, {"batch_size": 1}])
def test_out_of_memory_with_one_window_fails_for_now(
    demo: models.ModelReference, given: dict[str, Any]
) -> None:
    recognizer, device = cramped(demo, 0, CUDA_MEMORY)
    with pytest.raises(AssetError) as caught:
        recognizer.transcribe(windows_of_8_s(8), options(demo, **given), silent)
    assert caught.value.kind is ErrorKind.OUT_OF_MEMORY
    assert caught.value.transient
    assert device.tried[-1] == 1
    assert recognizer.description["batch_size"] == (1 if not given else 8)


def test_a_lost_device_is_not_tried_again(demo: models.ModelReference) -> None:
    recognizer, device = cramped(demo, 0, RuntimeError(FAILURES[Failure.CONTEXT_LOST][0]))
    with pytest.raises(DeviceError, match="must be restarted") as caught:
        recognizer.transcribe(windows_of_8_s(2), options(demo), silent)
    assert is_sticky(str(caught.value))
    assert len(device.tried) == 1


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
