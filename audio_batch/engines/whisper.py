"""faster-whisper behind the engine protocol: one model per device, shared by its threads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from audio_batch.engines.base import LoadRequest, Progress, Recognition, Recognizer
from audio_batch.engines.cuda import default_batch_size, preload_libraries, resolve_compute_type
from audio_batch.engines.failures import first_line, is_device_trouble
from audio_batch.errors import AssetError, AudioBatchError, DeviceError, ErrorKind, SetupError
from audio_batch.models import ModelReference
from audio_batch.options import DecodingOptions
from audio_batch.transcript import Segment, Word

SAMPLE_RATE_HZ = 16_000
WINDOW_S = 30
MIN_SAMPLES = 400
"""Below one analysis frame CTranslate2 divides by zero and takes the process with it."""


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
                raise DeviceError(f"CUDA does not start: {error}.") from error
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
            "batch_size": batch_size,
            "multilingual": bool(model.model.is_multilingual),
        }
        return WhisperRecognizer(model, request.model, batch_size, description, warnings)


class WhisperRecognizer:
    """A loaded Whisper model; see `Recognizer`."""

    def __init__(
        self,
        model: Any,
        reference: ModelReference,
        batch_size: int,
        description: dict[str, Any],
        warnings: Sequence[str],
    ) -> None:
        self.model = model
        self.reference = reference
        self.batch_size = batch_size
        self.description = description
        self.warnings = tuple(warnings)

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
        import faster_whisper
        from faster_whisper.transcribe import restore_speech_timestamps
        from faster_whisper.vad import VadOptions, collect_chunks, get_speech_timestamps

        shared = _shared_arguments(options)
        vad = _vad_parameters(options)
        speech_s: float | None = None
        if options.sequential:
            spans: list[dict[str, int]] = []
            if options.vad_method == "silero":
                # What vad_filter=True would do, but with the empty case in our hands: without any
                # speech the model is not asked, since it would invent some.
                spans = get_speech_timestamps(samples, VadOptions(**vad))
                if not spans:
                    return _nothing_heard(options)
                speech_s = sum(span["end"] - span["start"] for span in spans) / SAMPLE_RATE_HZ
                samples = np.concatenate(collect_chunks(samples, spans)[0])
            segments, info = self.model.transcribe(
                samples, **shared, **_sequential_arguments(options), vad_filter=False
            )
            if spans:
                segments = restore_speech_timestamps(segments, spans, SAMPLE_RATE_HZ)
        else:
            # The pipeline keeps state between calls, so each call has its own around the model.
            pipeline = faster_whisper.BatchedInferencePipeline(self.model)
            chunk_s = options.chunk_length_s or WINDOW_S
            windows: dict[str, Any] = {"vad_filter": True, "vad_parameters": vad}
            if options.vad_method == "none":
                windows = {"vad_filter": False, "clip_timestamps": _grid(len(samples), chunk_s)}
            segments, info = pipeline.transcribe(
                samples,
                **shared,
                **windows,
                chunk_length=options.chunk_length_s,
                batch_size=self.batch_size,
                **(
                    {}
                    if options.without_timestamps is None
                    else {"without_timestamps": options.without_timestamps}
                ),
            )
            if info.duration_after_vad == 0:
                return _nothing_heard(options)
        heard = _collect(segments, options, progress)
        return Recognition(
            segments=heard,
            language=info.language,
            language_probability=round(float(info.language_probability), 4),
            speech_s=round(float(info.duration_after_vad if speech_s is None else speech_s), 3),
        )


def _nothing_heard(options: DecodingOptions) -> Recognition:
    """The answer for a recording in which the VAD found no speech."""
    return Recognition((), options.language, speech_s=0.0, notes=("no speech found",))


def _shared_arguments(options: DecodingOptions) -> dict[str, Any]:
    """What both modes understand, under faster-whisper's names."""
    return {
        "language": options.language,
        "task": options.task,
        "beam_size": options.beam_size,
        "patience": options.patience,
        "length_penalty": options.length_penalty,
        "repetition_penalty": options.repetition_penalty,
        "no_repeat_ngram_size": options.no_repeat_ngram_size,
        "temperature": list(options.temperature),
        "initial_prompt": options.initial_prompt,
        "hotwords": options.hotwords,
        "word_timestamps": options.word_timestamps,
        "suppress_blank": options.suppress_blank,
        "max_new_tokens": options.max_new_tokens,
        "log_progress": False,
    }


def _sequential_arguments(options: DecodingOptions) -> dict[str, Any]:
    """What only the window loop understands."""
    return {
        "best_of": options.best_of,
        "compression_ratio_threshold": options.compression_ratio_threshold,
        "log_prob_threshold": options.logprob_threshold,
        "no_speech_threshold": options.no_speech_threshold,
        "condition_on_previous_text": options.condition_on_previous_text,
        "hallucination_silence_threshold": options.hallucination_silence_threshold,
        "without_timestamps": bool(options.without_timestamps),
        "chunk_length": options.chunk_length_s,
    }


def _vad_parameters(options: DecodingOptions) -> dict[str, Any]:
    """Silero's parameters under faster-whisper's names; what is not set keeps its default.

    Batches are cut at pauses of 160 ms (faster-whisper's own choice for them), the window loop
    leaves out pauses of 2 s.
    """
    values: dict[str, Any] = {
        "threshold": options.vad_onset,
        "neg_threshold": options.vad_offset,
        "min_speech_duration_ms": options.vad_min_speech_ms,
        "min_silence_duration_ms": options.vad_min_silence_ms,
        "speech_pad_ms": options.vad_pad_ms,
    }
    parameters = {key: value for key, value in values.items() if value is not None}
    if not options.sequential:
        parameters.setdefault("min_silence_duration_ms", 160)
    return parameters


def _grid(samples: int, chunk_s: int) -> list[dict[str, float]]:
    """Windows side by side over the whole recording, for batches without VAD."""
    total_s = samples / SAMPLE_RATE_HZ
    starts = range(0, max(1, -(-samples // SAMPLE_RATE_HZ)), chunk_s)
    return [{"start": float(s), "end": min(float(s + chunk_s), total_s)} for s in starts]


def _collect(
    segments: Iterable[Any], options: DecodingOptions, progress: Progress
) -> tuple[Segment, ...]:
    """Consume the lazy generator, which is where the work happens."""
    collected: list[Segment] = []
    for raw in segments:
        segment = _segment(raw)
        progress(segment.end_s)
        if segment.text:
            _append(collected, segment, options.join_gap_s)
    return tuple(collected)


def _segment(raw: Any) -> Segment:
    words = tuple(
        Word(
            text=word.word.strip(),
            start_s=round(float(word.start), 3),
            end_s=round(float(word.end), 3),
            probability=round(float(word.probability), 4),
        )
        for word in raw.words or ()
        if word.word.strip()
    )
    return Segment(
        text=raw.text.strip(),
        start_s=round(float(raw.start), 3),
        end_s=round(max(float(raw.end), float(raw.start)), 3),
        words=words,
        avg_logprob=_rounded(raw.avg_logprob),
        no_speech_prob=_rounded(raw.no_speech_prob),
        compression_ratio=_rounded(raw.compression_ratio),
        temperature=_rounded(raw.temperature),
    )


def _rounded(value: Any) -> float | None:
    return None if value is None else round(float(value), 4)


def _append(collected: list[Segment], segment: Segment, join_gap_s: float | None) -> None:
    """Add a segment, or make it part of the one before where the model asks for joining."""
    last = collected[-1] if collected else None
    if last is None or join_gap_s is None or segment.start_s - last.end_s > join_gap_s:
        collected.append(segment)
        return
    weights = (max(1, len(last.text.split())), max(1, len(segment.text.split())))
    collected[-1] = Segment(
        text=f"{last.text} {segment.text}",
        start_s=last.start_s,
        end_s=max(last.end_s, segment.end_s),
        words=last.words + segment.words,
        avg_logprob=_mean(last.avg_logprob, segment.avg_logprob, weights),
        no_speech_prob=last.no_speech_prob,
        compression_ratio=last.compression_ratio,
        temperature=last.temperature,
    )


def _mean(first: float | None, second: float | None, weights: tuple[int, int]) -> float | None:
    if first is None or second is None:
        return None
    return round((first * weights[0] + second * weights[1]) / sum(weights), 4)


def _load_error(error: Exception, request: LoadRequest) -> AudioBatchError:
    """Translate what loading raised: the folder's fault, or the device's."""
    text = first_line(error)
    if request.device.kind == "cuda" and is_device_trouble(text):
        return DeviceError(
            f"{request.device.id} cannot load {request.model.name!r}: {text}.",
            remedy="Check the driver and the CUDA 12 libraries (cuBLAS, cuDNN), or --device cpu.",
        )
    if isinstance(error, MemoryError) or "bad_alloc" in text:
        return DeviceError(f"There is no memory to load {request.model.name!r}: {text}.")
    return SetupError(
        f"The model {request.model.name!r} cannot be loaded from {request.model.path}: {text}.",
        remedy="Download or convert it again (`audio-batch models pull`).",
    )


def translate(error: Exception) -> AssetError | DeviceError:
    """The one seam for what faster-whisper, CTranslate2 and ONNX Runtime raise at work."""
    text = first_line(error)
    low = text.lower()
    if isinstance(error, MemoryError) or "out of memory" in low or "bad_alloc" in low:
        return AssetError(
            ErrorKind.OUT_OF_MEMORY,
            f"The device ran out of memory: {text}.",
            remedy="Use a smaller --batch-size, --max-per-gpu or --compute-type int8_float16.",
            transient=True,
        )
    if is_device_trouble(text):
        return DeviceError(f"The device failed: {text}.", remedy="See the driver's log.")
    if "max_new_tokens" in low or "length of the prompt" in low:
        return AssetError(ErrorKind.OPTION, f"The prompt is too long: {text}.")
    return AssetError(
        ErrorKind.MODEL, f"The model could not transcribe this: {type(error).__name__}: {text}."
    )
