"""faster-whisper behind the engine protocol: one model per device, shared by its threads.

The library's own `transcribe` holds the features of a whole recording. Here the same steps are
taken one batch or window at a time: what is held grows with a recording by its samples alone.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from audio_batch.engines.base import LoadRequest, Progress, Recognition, Recognizer
from audio_batch.engines.cuda import default_batch_size, preload_libraries, resolve_compute_type
from audio_batch.engines.failures import device_error, first_line, is_out_of_memory
from audio_batch.engines.silero import SAMPLE_RATE_HZ, speech_spans
from audio_batch.engines.whisper_arguments import (
    WINDOW_S,
    batched_arguments,
    sequential_arguments,
    shared_arguments,
    vad_parameters,
)
from audio_batch.engines.whisper_features import log_mel
from audio_batch.engines.whisper_segments import collect
from audio_batch.engines.whisper_speech import Speech, grid, windows
from audio_batch.errors import AssetError, AudioBatchError, DeviceError, ErrorKind, SetupError
from audio_batch.models import ModelReference
from audio_batch.options import DecodingOptions

MIN_SAMPLES = 400
"""Below one analysis frame CTranslate2 divides by zero and takes the process with it."""

WHOLE_S = 600.0
"""Seconds of speech up to which the sequential mode has all features at once (0.5 GB on the way);
those of more are computed window by window."""

_log = logging.getLogger("audio_batch.transcription")


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
            batch_size = request.batch_size or default_batch_size(
                device.kind, request.free_bytes, request.model.size_bytes, request.slots
            )
            model = faster_whisper.WhisperModel(
                str(request.model.path),
                device=device.kind,
                device_index=index,
                compute_type=compute_type,
                cpu_threads=request.cpu_threads or 0,
                num_workers=request.slots,
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
        return WhisperRecognizer(model, request.model, batch_size, description, warnings)


class WhisperRecognizer:
    """A loaded Whisper model; see `Recognizer`.

    Where memory runs out in a batch, that batch is done again with half as many windows and
    `description["batch_size"]` stays at that, for every thread.

    Args:
        model: a `faster_whisper.WhisperModel`.
        batch_size: windows per batch to begin with.
        whole_s: see `WHOLE_S`.
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
    ) -> None:
        self.model = model
        self.reference = reference
        self.description = {**description, "batch_size": batch_size}
        self.warnings = tuple(warnings)
        self.whole_s = whole_s
        self._lock = threading.Lock()

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
        from faster_whisper.transcribe import restore_speech_timestamps

        with_vad = options.vad_method == "silero"
        spans = [{"start": 0, "end": len(samples)}]
        if with_vad:
            spans = speech_spans(samples, vad_parameters(options))
        speech = Speech(samples, spans)
        if not len(speech):
            # The model is not asked, since it would invent some.
            return Recognition(
                (), options.language, speech_s=0.0, notes=("no speech found",), last_speech_s=0.0
            )
        if options.sequential:
            segments, language, probability = self._sequential(speech, options)
        else:
            width = (options.chunk_length_s or WINDOW_S) * SAMPLE_RATE_HZ
            cut = windows(spans, width) if with_vad else grid(len(speech), width)
            segments, language, probability = self._batched(speech, cut, options)
        if with_vad:
            segments = restore_speech_timestamps(segments, spans, SAMPLE_RATE_HZ)
        return Recognition(
            segments=collect(segments, options.join_gap_s, progress),
            language=language,
            language_probability=round(float(probability), 4),
            speech_s=round(len(speech) / SAMPLE_RATE_HZ, 3),
            last_speech_s=round(spans[-1]["end"] / SAMPLE_RATE_HZ, 3) if with_vad else None,
        )

    def _sequential(
        self, speech: Speech, options: DecodingOptions
    ) -> tuple[Iterator[Any], str, float]:
        """Segments in speech time, the language and its probability.

        As `WhisperModel.transcribe` does it, but for the features.
        """
        extractor = self.model.feature_extractor
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
            features, self._tokenizer(info, options), info.transcription_options, False
        )
        return segments, info.language, info.language_probability if detected is None else detected

    def _batched(
        self, speech: Speech, cut: Sequence[tuple[int, int]], options: DecodingOptions
    ) -> tuple[Iterator[Any], str, float]:
        """Segments in speech time, the language and its probability.

        As `BatchedInferencePipeline.transcribe` does it, but for the features.
        """
        import faster_whisper

        # The pipeline keeps state between calls, so each call has its own around the model.
        pipeline = faster_whisper.BatchedInferencePipeline(self.model)
        first_s = WINDOW_S + 1  # the language is told from 30 s, counted in frames
        beginning = [window for window in cut if window[0] < first_s * SAMPLE_RATE_HZ]
        # Never started: this is to have faster-whisper resolve the arguments and the language.
        # It cuts its times off to samples, and half a sample keeps them from falling short.
        _, info = pipeline.transcribe(
            speech.read(0, beginning[-1][1]),
            language=options.language,
            clip_timestamps=[
                {"start": (start + 0.5) / SAMPLE_RATE_HZ, "end": (end + 0.5) / SAMPLE_RATE_HZ}
                for start, end in beginning
            ],
            **shared_arguments(options),
            **batched_arguments(options),
        )
        tokenizer = self._tokenizer(info, options)
        segments = self._batches(pipeline, speech, cut, tokenizer, info.transcription_options)
        return segments, info.language, info.language_probability

    def _tokenizer(self, info: Any, options: DecodingOptions) -> Any:
        from faster_whisper.tokenizer import Tokenizer

        return Tokenizer(
            self.model.hf_tokenizer,
            self.model.model.is_multilingual,
            task=options.task,
            language=info.language,
        )

    def _batches(
        self,
        pipeline: Any,
        speech: Speech,
        cut: Sequence[tuple[int, int]],
        tokenizer: Any,
        resolved: Any,
    ) -> Iterator[Any]:
        """Decode batch after batch; one that memory does not hold is done again, smaller."""
        from faster_whisper.transcribe import Segment, Word

        done = 0
        while done < len(cut):
            batch = cut[done : done + self.description["batch_size"]]
            outputs = self._attempt(pipeline, speech, batch, tokenizer, resolved)
            if outputs is None:
                continue
            done += len(batch)
            for raw in (segment for output in outputs for segment in output):
                words = raw.pop("words", None)
                yield Segment(
                    id=0,
                    **{**raw, "start": round(raw["start"], 3), "end": round(raw["end"], 3)},
                    words=None if words is None else [Word(**word) for word in words],
                    temperature=resolved.temperatures[0],
                )

    def _attempt(
        self,
        pipeline: Any,
        speech: Speech,
        batch: Sequence[tuple[int, int]],
        tokenizer: Any,
        resolved: Any,
    ) -> list[list[dict[str, Any]]] | None:
        """Decode one batch; None where it is to be tried again with fewer windows.

        The error must be gone before that: its traceback holds what the failed batch allocated.
        """
        from faster_whisper.audio import pad_or_trim

        try:
            features = [
                pad_or_trim(self.model.feature_extractor(speech.read(*window))[..., :-1])
                for window in batch
            ]
            metadata = [
                {"offset": start / SAMPLE_RATE_HZ, "duration": (end - start) / SAMPLE_RATE_HZ}
                for start, end in batch
            ]
            outputs: list[list[dict[str, Any]]] = pipeline.forward(
                np.stack(features), tokenizer, metadata, resolved
            )
            return outputs
        except Exception as error:
            if is_out_of_memory(error) and self._lower(len(batch), first_line(error)):
                return None
            raise

    def _lower(self, failed: int, text: str) -> bool:
        """Make batches smaller than the one of `failed` windows; False if it had but one."""
        if failed == 1:
            return False
        with self._lock:
            if self.description["batch_size"] >= failed:  # else another thread has been here
                self.description["batch_size"] = failed // 2
                self.description["batch_size_lowered_to"] = failed // 2
                _log.warning(
                    "Out of memory with %d windows in a batch, going on with %d: %s.",
                    failed,
                    failed // 2,
                    text,
                )
        return True


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
