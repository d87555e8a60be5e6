"""Our options under faster-whisper's names."""

from __future__ import annotations

from typing import Any

from audio_batch.options import DecodingOptions

WINDOW_S = 30
"""What Whisper's encoder sees at a time, and the longest window of a batch."""


def shared_arguments(options: DecodingOptions) -> dict[str, Any]:
    """What both modes understand, the language aside."""
    return {
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
        "chunk_length": options.chunk_length_s,
        "vad_filter": False,
        "log_progress": False,
    }


def batched_arguments(options: DecodingOptions) -> dict[str, Any]:
    """What the batches understand."""
    if options.without_timestamps is None:
        return {}
    return {"without_timestamps": options.without_timestamps}


def sequential_arguments(options: DecodingOptions) -> dict[str, Any]:
    """What only the window loop understands."""
    return {
        "best_of": options.best_of,
        "compression_ratio_threshold": options.compression_ratio_threshold,
        "log_prob_threshold": options.logprob_threshold,
        "no_speech_threshold": options.no_speech_threshold,
        "condition_on_previous_text": options.condition_on_previous_text,
        "hallucination_silence_threshold": options.hallucination_silence_threshold,
        "without_timestamps": bool(options.without_timestamps),
    }


def vad_parameters(options: DecodingOptions) -> dict[str, Any]:
    """Silero's parameters; what is not set keeps its default.

    Batches are cut at pauses of 160 ms (faster-whisper's own choice for them) and no span is
    longer than a window; the window loop leaves out pauses of 2 s.
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
        parameters["max_speech_duration_s"] = options.chunk_length_s or WINDOW_S
    return parameters
