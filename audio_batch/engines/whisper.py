"""faster-whisper behind the engine protocol: one model per device, shared by its threads.

The library's own `transcribe` holds the features of a whole recording. Here the same steps are
taken one batch or window at a time: what is held grows with a recording by its samples alone.
Batches are filled with windows of all recordings that are heard at the time; see `batcher`.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from audio_batch.cpu_gate import CpuGate
from audio_batch.engines.base import LoadRequest, Progress, Recognition, Recognizer
from audio_batch.engines.batcher import PATIENCE_AT_FIRST_S, Batcher, Stream
from audio_batch.engines.cuda import (
    default_batch_size,
    default_lanes,
    preload_libraries,
    resolve_compute_type,
)
from audio_batch.engines.failures import device_error, first_line, is_out_of_memory, is_sticky
from audio_batch.engines.heap import keep_freed_memory
from audio_batch.engines.silero import SAMPLE_RATE_HZ, Span, speech_spans
from audio_batch.engines.whisper_arguments import (
    WINDOW_S,
    sequential_arguments,
    shared_arguments,
    vad_parameters,
)
from audio_batch.engines.whisper_batches import Heard, Window, WindowDecoder
from audio_batch.engines.whisper_features import log_mel
from audio_batch.engines.whisper_segments import collect
from audio_batch.engines.whisper_speech import Speech, grid, windows
from audio_batch.engines.whisper_stream import BatchSize, Told, WindowStream
from audio_batch.errors import AssetError, AudioBatchError, DeviceError, ErrorKind, SetupError
from audio_batch.models import ModelReference
from audio_batch.options import DecodingOptions

MIN_SAMPLES = 400
"""Below one analysis frame CTranslate2 divides by zero and takes the process with it."""

WHOLE_S = 600.0
"""Seconds of speech up to which the sequential mode has all features at once (0.5 GB on the way);
those of more are computed window by window."""


class FasterWhisperEngine:
    """Loads CTranslate2 conversions of Whisper."""

    name = "faster-whisper"

    def load(self, request: LoadRequest) -> Recognizer:
        """See `Engine.load`."""
        try:
            import ctranslate2
            import faster_whisper
        except (ImportError, OSError) as error:
            raise SetupError(
                f"faster-whisper cannot be imported: {first_line(error)}.",
                remedy="Install audio-batch again into a fresh virtual environment.",
            ) from error

        device = request.device
        index = device.cuda_index or 0
        if device.kind == "cpu":
            keep_freed_memory()
        if device.kind == "cuda":
            preload_libraries()
            try:
                visible = ctranslate2.get_cuda_device_count()
            except RuntimeError as error:
                text = first_line(error)
                raise (
                    device_error(text, device.id) or DeviceError(f"CUDA does not start: {text}.")
                ) from error
            if index >= visible:
                raise DeviceError(
                    f"{device.id} is not visible to CTranslate2 ({visible} CUDA devices).",
                    remedy="Check the driver and CUDA_VISIBLE_DEVICES, or use --device cpu.",
                )
        try:
            supported = set(ctranslate2.get_supported_compute_types(device.kind, index))
            compute_type, warnings = resolve_compute_type(
                request.compute_type, supported, device, request.free_bytes
            )
            cpu = request.cpu or CpuGate()
            cores = cpu.permits or os.cpu_count() or 1
            lanes, threads = default_lanes(device.kind, cores, request.cpu_threads)
            batch_size = request.batch_size or default_batch_size(
                device.kind, request.free_bytes, request.model.size_bytes, lanes
            )
            model = faster_whisper.WhisperModel(
                str(request.model.path),
                device=device.kind,
                device_index=index,
                compute_type=compute_type,
                cpu_threads=threads,
                num_workers=max(lanes, request.slots),
                local_files_only=True,
            )
        except AudioBatchError:
            raise
        except Exception as error:
            raise _load_error(error, request) from error
        description = {
            "compute_type": compute_type,
            "multilingual": bool(model.model.is_multilingual),
        }
        return WhisperRecognizer(
            model,
            request.model,
            batch_size,
            description,
            warnings,
            lanes=lanes,
            cpu=cpu,
        )


class WhisperRecognizer:
    """A loaded Whisper model; see `Recognizer`.

    Where memory runs out in a batch, that batch is done again with half as many windows and
    `description["batch_size"]` stays at that, for every asset.

    Args:
        model: a `faster_whisper.WhisperModel`.
        batch_size: windows per batch to begin with.
        whole_s: see `WHOLE_S`.
        lanes: batches that the model works on at the same time.
        cpu: entered for what is done beside the model.
        patience_s: see `Batcher`.
    """

    def __init__(
        self,
        model: Any,
        reference: ModelReference,
        batch_size: int,
        description: dict[str, Any],
        warnings: Sequence[str],
        *,
        whole_s: float = WHOLE_S,
        lanes: int = 1,
        cpu: CpuGate | None = None,
        patience_s: float = PATIENCE_AT_FIRST_S,
    ) -> None:
        self.model = model
        self.reference = reference
        self.description = {**description, "batch_size": batch_size}
        self.warnings = tuple(warnings)
        self.whole_s = whole_s
        self.cpu = cpu or CpuGate()
        self._decoder = WindowDecoder(model)
        sizes = BatchSize(self.description)
        self._batcher: Batcher[Window, Heard] = Batcher(
            self._decoder.work,
            size=sizes.now,
            lower=sizes.lower,
            error_of=translate,
            lacks_memory=is_out_of_memory,
            for_all=lambda error: is_sticky(first_line(error)),
            lanes=lanes,
            name=f"whisper-{reference.name}",
            patience_s=patience_s,
        )
        # The lanes hold the model, so they end with the last who can ask for something.
        weakref.finalize(self, self._batcher.close).atexit = False

    def shares_batches(self, options: DecodingOptions) -> bool:
        """See `Recognizer`: the window loop of the sequential mode is an asset's own."""
        return not options.sequential

    def transcribe(
        self, samples: NDArray[np.float32], options: DecodingOptions, progress: Progress
    ) -> Recognition:
        """See `Recognizer.transcribe`."""
        if len(samples) < MIN_SAMPLES:
            return Recognition((), options.language, notes=("too short to hold speech",))
        try:
            return self._transcribe(samples, options, progress)
        except AudioBatchError:
            raise
        except Exception as error:
            raise translate(error) from error

    def check(self, options: DecodingOptions) -> None:
        """See `Recognizer.check`; faster-whisper would only log these."""
        multilingual, name = self.description["multilingual"], self.reference.name
        if options.task == "translate" and not (multilingual and self.reference.can_translate):
            raise AssetError(
                ErrorKind.OPTION,
                f"The model {name!r} was not trained to translate.",
                remedy="Use a multilingual original such as large-v3.",
            )
        if not multilingual and options.language not in (None, "en"):
            raise AssetError(
                ErrorKind.LANGUAGE,
                f"The model {name!r} knows English only, not {options.language!r}.",
                remedy="Use a multilingual model such as large-v3-turbo.",
            )

    def _transcribe(
        self, samples: NDArray[np.float32], options: DecodingOptions, progress: Progress
    ) -> Recognition:
        if options.sequential:
            return self._sequential(samples, options, progress)
        with self._batcher.stream() as stream:
            return self._batched(samples, options, Told(progress), stream)

    def _speech(
        self, samples: NDArray[np.float32], options: DecodingOptions, alive: Callable[[], None]
    ) -> tuple[list[Span], Speech]:
        spans = [{"start": 0, "end": len(samples)}]
        if options.vad_method == "silero":
            spans = speech_spans(samples, vad_parameters(options), self.cpu, alive)
        return spans, Speech(samples, spans)

    def _sequential(
        self, samples: NDArray[np.float32], options: DecodingOptions, progress: Progress
    ) -> Recognition:
        """As `WhisperModel.transcribe` does it, but for the features."""
        told = Told(progress)
        spans, speech = self._speech(samples, options, told.again)
        if not len(speech):
            return _nothing(options)
        extractor = self.model.feature_extractor
        with self.cpu:
            features = log_mel(extractor, speech, options.chunk_length_s, self.whole_s)
        language, detected = options.language, None
        if language is None and self.model.model.is_multilingual:
            language, detected, _ = self.model.detect_language(
                features=features[:, : extractor.nb_max_frames]
            )
        # Never started: this is to have faster-whisper resolve the arguments.
        _, info = self.model.transcribe(
            np.zeros(SAMPLE_RATE_HZ, np.float32),
            language=language,
            **shared_arguments(options),
            **sequential_arguments(options),
        )
        segments = self.model.generate_segments(
            features,
            self._decoder.tokenizer(options.task, info.language),
            info.transcription_options,
            False,
        )
        probability = info.language_probability if detected is None else detected
        return _recognition((segments, info.language, probability), spans, speech, options, told)

    def _batched(
        self,
        samples: NDArray[np.float32],
        options: DecodingOptions,
        told: Told,
        stream: Stream[Window, Heard],
    ) -> Recognition:
        """As `BatchedInferencePipeline.transcribe` does it, but in batches with others."""
        spans, speech = self._speech(samples, options, told.again)
        if not len(speech):
            return _nothing(options)
        width = (options.chunk_length_s or WINDOW_S) * SAMPLE_RATE_HZ
        with_vad = options.vad_method == "silero"
        cut = windows(spans, width) if with_vad else grid(len(speech), width)
        made = WindowStream(self._batcher, stream, self._decoder, self.cpu, told.again)
        return _recognition(made.segments(speech, cut, options), spans, speech, options, told)


def _nothing(options: DecodingOptions) -> Recognition:
    """The model is not asked where there is no speech, since it would invent some."""
    return Recognition(
        (), options.language, speech_s=0.0, notes=("no speech found",), last_speech_s=0.0
    )


def _recognition(
    heard: tuple[Iterable[Any], str, float],
    spans: list[Span],
    speech: Speech,
    options: DecodingOptions,
    told: Told,
) -> Recognition:
    from faster_whisper.transcribe import restore_speech_timestamps

    segments, language, probability = heard
    with_vad = options.vad_method == "silero"
    if with_vad:
        segments = restore_speech_timestamps(segments, spans, SAMPLE_RATE_HZ)
    return Recognition(
        segments=collect(segments, options.join_gap_s, told),
        language=language,
        language_probability=round(float(probability), 4),
        speech_s=round(len(speech) / SAMPLE_RATE_HZ, 3),
        last_speech_s=round(spans[-1]["end"] / SAMPLE_RATE_HZ, 3) if with_vad else None,
    )


def _load_error(error: Exception, request: LoadRequest) -> AudioBatchError:
    """Translate what loading raised: the folder's fault, or the device's."""
    text = first_line(error)
    name, device = request.model.name, request.device
    if is_out_of_memory(error):
        return DeviceError(
            f"There is no memory on {device.id} to load {name!r}: {text}.",
            remedy="Use --compute-type int8_float16, a smaller model or a smaller --max-per-gpu.",
            lacks_memory=True,
        )
    trouble = device_error(text, device.id) if device.kind == "cuda" else None
    return trouble or SetupError(
        f"The model {name!r} cannot be loaded from {request.model.path}: {text}.",
        remedy="Download or convert it again (`audio-batch models pull`).",
    )


def translate(error: Exception) -> AssetError | DeviceError:
    """The one seam for what faster-whisper, CTranslate2 and ONNX Runtime raise at work."""
    text = first_line(error)
    low = text.lower()
    if is_out_of_memory(error):
        return AssetError(
            ErrorKind.OUT_OF_MEMORY,
            f"The device ran out of memory: {text}.",
            remedy="Use a smaller --batch-size, --max-per-gpu or --compute-type int8_float16.",
            transient=True,
        )
    if trouble := device_error(text):
        return trouble
    if "max_new_tokens" in low or "length of the prompt" in low:
        return AssetError(ErrorKind.OPTION, f"The prompt is too long: {text}.")
    return AssetError(
        ErrorKind.MODEL, f"The model could not transcribe this: {type(error).__name__}: {text}."
    )
