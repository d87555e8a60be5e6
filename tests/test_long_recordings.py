"""Long recordings: what is heard is what faster-whisper hears in one pass, in bounded memory."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from program import PROJECT

from audio_batch import models
from audio_batch.engines import LoadRequest, Recognition, open_engine
from audio_batch.engines.silero import Span, probabilities, speech_spans
from audio_batch.engines.whisper import WhisperRecognizer
from audio_batch.engines.whisper_features import LogMel, log_mel
from audio_batch.engines.whisper_speech import Speech, windows
from audio_batch.errors import AssetError
from audio_batch.gpu.devices import CPU
from audio_batch.media import decode
from audio_batch.options import DecodingOptions, resolve_decoding

RATE_HZ = 16_000
DEMO_VAD = {"threshold": 0.25, "min_silence_duration_ms": 160, "speech_pad_ms": 400}
"""What the demo model's decoding.json sets, under faster-whisper's names."""
DEMO_DECODING = {"beam_size": 1, "word_timestamps": True, "without_timestamps": False}

Words = list[tuple[str, float, float]]


def said() -> NDArray[np.float32]:
    """Spoken digits, a telephone number."""
    path = PROJECT / "examples" / "audio" / "phone_number.wav"
    if not path.is_file():
        pytest.skip("the examples are not beside the tests")
    return decode(path).samples


def recording(length_s: float, pause_s: tuple[float, float], seed: int) -> NDArray[np.float32]:
    """Digits at various levels with pauses of various lengths, over faint noise."""
    chance = np.random.default_rng(seed)
    samples = (1e-4 * chance.standard_normal(int(length_s * RATE_HZ))).astype(np.float32)
    digits = said()
    at = int(chance.uniform(*pause_s) * RATE_HZ)
    while at + len(digits) <= len(samples):
        samples[at : at + len(digits)] += np.float32(chance.uniform(0.2, 1.0)) * digits
        at += len(digits) + int(chance.uniform(*pause_s) * RATE_HZ)
    return samples


# -- the parts ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"min_silence_duration_ms": 160, "max_speech_duration_s": 30},
        {**DEMO_VAD, "max_speech_duration_s": 3},
        {"threshold": 0.9, "neg_threshold": 0.8, "speech_pad_ms": 0, "min_speech_duration_ms": 300},
    ],
)
def test_the_vad_finds_what_faster_whisper_finds_in_the_whole(parameters: dict[str, Any]) -> None:
    """To the sample, over a border of the network's blocks (320 s)."""
    from faster_whisper.vad import VadOptions, get_speech_timestamps

    samples = recording(330.321, (0.2, 5), seed=1)
    expected = get_speech_timestamps(samples, VadOptions(**parameters))
    assert len(expected) > 10
    assert speech_spans(samples, parameters) == expected


def test_the_network_hears_on_over_the_border_of_a_block() -> None:
    from faster_whisper.vad import get_vad_model

    border = 10_000 * 512
    samples = np.resize(said(), 10_020 * 512)
    digits = np.roll(said(), 10_240 - int(np.abs(said()).argmax()))
    samples[border - 10_240 :] = digits[:20_480]  # the loudest sample is at the border
    expected = get_vad_model()(np.pad(samples, (0, 512))).ravel()
    assert expected[10_000 - 5 : 10_000 + 5].max() > 0.5
    np.testing.assert_allclose(list(probabilities(samples)), expected, atol=1e-6)


@pytest.mark.parametrize("length", [0, 1, 400, 511, 512, 513])
def test_the_vad_takes_any_length(length: int) -> None:
    from faster_whisper.vad import get_speech_timestamps

    samples = np.resize(said(), length).astype(np.float32)
    assert speech_spans(samples, {}) == get_speech_timestamps(samples.copy())


def spans_of(borders: Sequence[int]) -> list[Span]:
    """Spans between the first and second border, the third and fourth, …"""
    pairs = [pair for number, pair in enumerate(pairwise(borders)) if number % 2 == 0]
    return [{"start": start, "end": end} for start, end in pairs]


BORDERS = st.lists(st.integers(0, 90), min_size=2, max_size=30).map(lambda x: list(accumulate(x)))


@given(BORDERS, st.integers(1, 4))
@settings(deadline=None)
def test_windows_are_grouped_as_faster_whisper_does(borders: list[int], longest_s: int) -> None:
    from faster_whisper.vad import collect_chunks

    spans = spans_of(borders)
    samples = np.arange(borders[-1] + 1, dtype=np.float32)
    chunks, described = collect_chunks(samples, spans, sampling_rate=30, max_duration=longest_s)
    speech, made = Speech(samples, spans), windows(spans, longest_s * 30)
    expected = [
        (chunk.tolist(), round(about["offset"] * 30))
        for chunk, about in zip(chunks, described, strict=True)
        if len(chunk)
    ]
    assert [(speech.read(*window).tolist(), window[0]) for window in made] == expected


@given(BORDERS, st.integers(-5, 400), st.integers(-5, 400))
@settings(deadline=None)
def test_speech_reads_as_if_it_were_joined(borders: list[int], start: int, end: int) -> None:
    samples = np.arange(borders[-1] + 1, dtype=np.float32)
    spans = spans_of(borders)
    joined = np.concatenate([samples[span["start"] : span["end"]] for span in spans])
    speech = Speech(samples, spans)
    assert len(speech) == len(joined)
    assert speech.read(start, end).tolist() == joined[max(0, start) : max(0, end)].tolist()


@pytest.mark.parametrize("extra", [0, 1, 159])
def test_features_on_demand_are_those_of_the_whole(extra: int) -> None:
    from faster_whisper.feature_extractor import FeatureExtractor

    samples = recording(150, (0.2, 5), seed=2)[: 150 * RATE_HZ - 160 + extra]
    samples[70 * RATE_HZ] = 1.0  # the loudest is not where one looks first
    speech = Speech(samples, [{"start": 0, "end": len(samples)}])
    extractor = FeatureExtractor()
    whole = extractor(samples)
    assert isinstance(log_mel(extractor, speech, None, 200), np.ndarray)
    lazy = log_mel(extractor, speech, None, 100)
    assert isinstance(lazy, LogMel)
    assert lazy.shape == whole.shape
    frames = whole.shape[1]
    for start, end in [(0, 3000), (1, 2), (5990, 6010), (7000, 7801), (frames - 1, frames + 9)]:
        np.testing.assert_allclose(lazy[:, start:end], whole[:, start:end], atol=1e-4)


# -- the whole ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recognizer() -> WhisperRecognizer:
    """Looks at no more than a minute at a time."""
    request = LoadRequest(models.find("demo"), CPU, 1, cpu_threads=2)
    loaded = open_engine("faster-whisper").load(request)
    assert isinstance(loaded, WhisperRecognizer)
    return WhisperRecognizer(loaded.model, loaded.reference, 8, loaded.description, (), whole_s=60)


def options(**given: Any) -> DecodingOptions:
    defaults = models.find("demo").defaults
    return resolve_decoding(given, preset=None, model_defaults=defaults)[0]


def silent(position_s: float) -> None:
    """Progress that nobody watches."""


def words(recognition: Recognition) -> Words:
    every = [word for segment in recognition.segments for word in segment.words]
    return [(word.text, word.start_s, word.end_s) for word in every]


def words_of(segments: Iterable[Any]) -> Words:
    every = [word for segment in segments for word in segment.words]
    return [(word.word.strip(), round(word.start, 3), round(word.end, 3)) for word in every]


def in_one_pass(model: Any, samples: NDArray[np.float32], batch_size: int, vad: bool) -> Words:
    """What faster-whisper itself makes of the recording as a whole."""
    import faster_whisper

    # The library takes the thresholds of its window loop from us: the demo model sets two.
    if batch_size == 1:
        segments, _ = model.transcribe(
            samples,
            vad_filter=vad,
            vad_parameters=dict(DEMO_VAD),
            chunk_length=8,
            temperature=[0.0],
            condition_on_previous_text=False,
            compression_ratio_threshold=None,
            log_prob_threshold=None,
            **DEMO_DECODING,
        )
        return words_of(segments)
    length_s = len(samples) / RATE_HZ
    clips = [{"start": s, "end": min(s + 8.0, length_s)} for s in np.arange(0.0, length_s, 8.0)]
    segments, _ = faster_whisper.BatchedInferencePipeline(model).transcribe(
        samples,
        vad_filter=vad,
        vad_parameters=dict(DEMO_VAD),
        clip_timestamps=None if vad else clips,
        chunk_length=8,
        # What is aligned together may move a border by a frame: ours are as if each were alone.
        batch_size=1,
        **DEMO_DECODING,
    )
    return words_of(segments)


@pytest.mark.parametrize("batch_size", [8, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("minutes", [11, pytest.param(40, marks=pytest.mark.slow)])
def test_a_long_recording_is_heard_as_in_one_pass(
    recognizer: WhisperRecognizer, batch_size: int, minutes: int
) -> None:
    samples = recording(minutes * 60, (5, 60), seed=3)
    heard = recognizer.transcribe(samples, options(batch_size=batch_size), silent)
    assert len(words(heard)) > 6 * minutes
    assert words(heard) == in_one_pass(recognizer.model, samples, batch_size, vad=True)


@pytest.mark.parametrize("batch_size", [8, 1])
def test_without_vad_it_is_heard_as_in_one_pass(
    recognizer: WhisperRecognizer, batch_size: int
) -> None:
    samples = recording(73.7, (0.5, 9), seed=4)
    heard = recognizer.transcribe(
        samples, options(batch_size=batch_size, vad_method="none"), silent
    )
    assert words(heard) == in_one_pass(recognizer.model, samples, batch_size, vad=False)
    assert len(words(heard)) > 20
    assert heard.last_speech_s is None


class Asked(Exception):
    """The language was asked for: enough for this test."""


class Polyglot:
    """A CTranslate2 model of many languages; it keeps what it is asked to tell one from."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.is_multilingual = True
        self.encoded: list[NDArray[np.float32]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def encode(self, features: Any, to_cpu: bool) -> Any:
        self.encoded.append(np.array(features))
        return self._model.encode(features, to_cpu=to_cpu)

    def detect_language(self, _encoded: Any) -> Any:
        raise Asked


@pytest.mark.parametrize("batch_size", [8, 1])
@pytest.mark.parametrize("length_s", [20, 93.7])
def test_the_language_is_told_from_what_faster_whisper_tells_it_from(
    batch_size: int, length_s: float
) -> None:
    request = LoadRequest(models.find("demo"), CPU, 1, cpu_threads=1)
    loaded = open_engine("faster-whisper").load(request)
    assert isinstance(loaded, WhisperRecognizer)
    polyglot = loaded.model.model = Polyglot(loaded.model.model)
    samples = recording(length_s, (0.5, 5), seed=5)
    with pytest.raises(AssetError, match="Asked"):
        loaded.transcribe(samples, options(batch_size=batch_size), silent)
    with pytest.raises(Asked):
        in_one_pass(loaded.model, samples, batch_size, vad=True)
    ours, theirs = polyglot.encoded
    different = np.flatnonzero((np.abs(ours - theirs) > 1e-4).any(axis=(0, 1)))
    # A single window is not encoded twice: it lacks the "dummy feature" behind its end.
    assert len(different) == (1 if batch_size > 1 and length_s == 20 else 0)


# -- memory ---------------------------------------------------------------------------------------

HOURS = 12
CONSTANT_BYTES = 700 * 1000**2
"""What a process may hold beside the samples: Python and the libraries, the model, a block of the
VAD, a batch of windows or ten minutes of features. 560 MB were measured with batches of 8."""

NIGHT = """
import json, sys, time
from pathlib import Path
import numpy as np
from audio_batch import models
from audio_batch.engines import LoadRequest, open_engine
from audio_batch.gpu.devices import CPU
from audio_batch.media import decode
from audio_batch.options import resolve_decoding

def memory(name):
    lines = open("/proc/self/status", encoding="ascii").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))

path, (hours, batch_size, every_s) = Path(sys.argv[1]), map(int, sys.argv[2:])
digits = decode(path).samples
samples = np.empty(hours * 3600 * 16000, np.float32)
chance = np.random.default_rng(6)
for at in range(0, len(samples), 16000 * 60):
    samples[at : at + 16000 * 60] = 1e-4 * chance.standard_normal(16000 * 60, np.float32)
for at in range(0, len(samples), every_s * 16000):
    samples[at + 16000 : at + 16000 + len(digits)] += digits
demo = models.find("demo")
recognizer = open_engine("faster-whisper").load(LoadRequest(demo, CPU, 1, cpu_threads=2))
options, _ = resolve_decoding(
    {"batch_size": batch_size}, preset=None, model_defaults=demo.defaults
)
began = time.monotonic()
heard = recognizer.transcribe(samples, options, lambda position_s: None)
print(json.dumps({
    "peak_bytes": memory("VmHWM"),
    "samples_bytes": samples.nbytes,
    "seconds": time.monotonic() - began,
    "words": sum(len(segment.words) for segment in heard.segments),
    "last_speech_s": heard.last_speech_s,
}))
"""


def night(hours: int, batch_size: int, every_s: int) -> dict[str, Any]:
    """A recording heard in a process of its own: its memory, its words."""
    if not Path("/proc/self/status").is_file():
        pytest.skip("peak memory is read from /proc")
    said()
    path = PROJECT / "examples" / "audio" / "phone_number.wav"
    command = [sys.executable, "-c", NIGHT, path, hours, batch_size, every_s]
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=3000, check=False
    )
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    print(f"{hours} h, batch size {batch_size}: {report}")
    return report


@pytest.mark.slow
@pytest.mark.parametrize(("batch_size", "every_s"), [(8, 600), (1, 120)])
def test_twelve_hours_take_their_samples_and_a_constant(batch_size: int, every_s: int) -> None:
    """With islands of speech; in sequential mode more than its ten minutes of features at once."""
    report = night(HOURS, batch_size, every_s)
    islands = HOURS * 3600 // every_s
    assert report["peak_bytes"] <= report["samples_bytes"] + CONSTANT_BYTES
    assert report["words"] >= 6 * islands
    assert 0 < HOURS * 3600 - report["last_speech_s"] < every_s
