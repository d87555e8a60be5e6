"""What a lane does with windows of several recordings, and what each makes of its own afterwards.

`WindowDecoder` runs the model: encode, tell the language, generate, align. `Replies` gives its
answers to faster-whisper's `BatchedInferencePipeline`, which makes segments and word times of them
by its own rules, in the order of the recording, as if it had asked the model itself.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from audio_batch.engines.whisper_arguments import batched_arguments, shared_arguments
from audio_batch.options import DecodingOptions

LANGUAGE = "language"
"""The key of pieces that only ask for the language."""

FRAMES = 3000
"""Frames of a window: what the encoder takes."""

_MEDIAN_FILTER_WIDTH = 7
"""As in faster-whisper's `find_alignment`, and Whisper's."""


@dataclass(frozen=True, slots=True)
class Window:
    """One window. `features` (mels, frames up to 3000) are filled up with zeros in the batch.

    `start_s` and `length_s` are in speech time; the model tells the `language` where it is None.
    """

    features: NDArray[np.float32]
    start_s: float
    length_s: float
    language: str | None


@dataclass(frozen=True, slots=True)
class Heard:
    """The model's answer for one window: CTranslate2's records; None where not asked for."""

    language: str
    language_probability: float
    result: Any = None
    alignment: Any = None


def batch_key(options: DecodingOptions) -> DecodingOptions:
    """The options that windows of one batch have in common.

    The language may differ; what only cuts or joins the recording is done outside of batches.
    """
    return dataclasses.replace(
        options,
        language=None,
        vad_method="none",
        vad_onset=None,
        vad_offset=None,
        vad_min_speech_ms=None,
        vad_min_silence_ms=None,
        vad_pad_ms=None,
        chunk_length_s=None,
        join_gap_s=None,
    )


class WindowDecoder:
    """The work of a batcher's lanes on one `faster_whisper.WhisperModel`.

    It holds no reference to who uses it. Any thread.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.resolved = functools.lru_cache(64)(functools.partial(_resolved, model))
        """faster-whisper's `TranscriptionOptions` for a `batch_key`."""
        self.tokenizer = functools.lru_cache(256)(functools.partial(_tokenizer, model))
        """faster-whisper's `Tokenizer` for a task and a language."""

    def work(self, key: Any, windows: Sequence[Window]) -> list[Heard]:
        """Decode windows of one `batch_key`, or tell the language where it is `LANGUAGE`."""
        encoded = self._encode(windows)
        spoken = [(window.language, 1.0) for window in windows]
        asked = [index for index, (language, _) in enumerate(spoken) if language is None]
        if asked:
            told = self.model.model.detect_language(encoded)
            for index in asked:
                spoken[index] = _likeliest(told[index])
        heard = [Heard(str(language), probability) for language, probability in spoken]
        if key == LANGUAGE:
            return heard
        resolved = self.resolved(key)
        tokenizers = [self.tokenizer(key.task, one.language) for one in heard]
        results = self._generate(encoded, resolved, tokenizers)
        alignments: list[Any] = [None] * len(windows)
        if resolved.word_timestamps:
            alignments = self._align(encoded, windows, tokenizers, results)
        return [
            dataclasses.replace(one, result=result, alignment=alignment)
            for one, result, alignment in zip(heard, results, alignments, strict=True)
        ]

    def _encode(self, windows: Sequence[Window]) -> Any:
        """The encoder's output for all, where the device is.

        On a CPU window by window: more at once is no faster there and takes more memory.
        """
        features = np.zeros((len(windows), windows[0].features.shape[0], FRAMES), np.float32)
        for row, window in zip(features, windows, strict=True):
            frames = min(FRAMES, window.features.shape[1])
            row[:, :frames] = window.features[:, :frames]
        if self.model.model.device != "cpu":
            return self.model.encode(features)
        encoded = [np.asarray(self.model.encode(row[None])) for row in features]
        return _storage(encoded[0] if len(encoded) == 1 else np.concatenate(encoded))

    def _generate(self, encoded: Any, resolved: Any, tokenizers: Sequence[Any]) -> Sequence[Any]:
        """As `BatchedInferencePipeline.generate_segment_batched`, with a prompt for each window."""
        prompt_of = {
            tokenizer: self._prompt(tokenizer, resolved) for tokenizer in dict.fromkeys(tokenizers)
        }
        prompts = [prompt_of[tokenizer] for tokenizer in tokenizers]
        results: Sequence[Any] = self.model.model.generate(
            encoded,
            prompts,
            beam_size=resolved.beam_size,
            patience=resolved.patience,
            length_penalty=resolved.length_penalty,
            max_length=self._max_length(prompts[0], resolved),
            suppress_blank=resolved.suppress_blank,
            suppress_tokens=resolved.suppress_tokens,
            return_scores=True,
            return_no_speech_prob=True,
            sampling_temperature=resolved.temperatures[0],
            repetition_penalty=resolved.repetition_penalty,
            no_repeat_ngram_size=resolved.no_repeat_ngram_size,
        )
        return results

    def _prompt(self, tokenizer: Any, resolved: Any) -> list[int]:
        before = resolved.initial_prompt
        prompt: list[int] = self.model.get_prompt(
            tokenizer,
            previous_tokens=[] if before is None else tokenizer.encode(before),
            without_timestamps=resolved.without_timestamps,
            hotwords=resolved.hotwords,
        )
        return prompt

    def _max_length(self, prompt: Sequence[int], resolved: Any) -> int:
        longest = int(self.model.max_length)
        if resolved.max_new_tokens is None:
            return longest
        length = len(prompt) + int(resolved.max_new_tokens)
        if length > longest:
            raise ValueError(
                f"The length of the prompt is {len(prompt)}, and `max_new_tokens` is "
                f"{resolved.max_new_tokens}: together they exceed the {longest} of the model"
            )
        return length

    def _align(
        self,
        encoded: Any,
        windows: Sequence[Window],
        tokenizers: Sequence[Any],
        results: Sequence[Any],
    ) -> list[Any]:
        """CTranslate2's alignment of each window.

        On a CPU window by window: what is aligned together is filled up to the longest text, which
        may move a border by a frame (20 ms), and it is no faster. On a GPU in one call a language,
        since a call has one start for all; of its answers only those in that language count.
        """
        texts, frames = [], []
        for window, tokenizer, result in zip(windows, tokenizers, results, strict=True):
            frames.append(segment_frames(self.model, window.length_s))
            texts.append(self._text_tokens(window, tokenizer, result, frames[-1]))
        align = functools.partial(self.model.model.align, median_filter_width=_MEDIAN_FILTER_WIDTH)
        starts = [tuple(tokenizer.sot_sequence) for tokenizer in tokenizers]
        if encoded.device == "cpu":
            one_by_one = (_row(encoded, index) for index in range(len(windows)))
            return [
                align(row, list(start), [text], [length])[0]
                for row, start, text, length in zip(one_by_one, starts, texts, frames, strict=True)
            ]
        found = {
            start: align(encoded, list(start), texts, frames) for start in dict.fromkeys(starts)
        }
        return [found[start][index] for index, start in enumerate(starts)]

    def _text_tokens(self, window: Window, tokenizer: Any, result: Any, frames: int) -> list[int]:
        """The tokens that faster-whisper will ask the times of."""
        segments, _, _ = self.model._split_segments_by_timestamps(
            tokenizer=tokenizer,
            tokens=result.sequences_ids[0],
            time_offset=window.start_s,
            segment_size=frames,
            segment_duration=window.length_s,
            seek=0,
        )
        return [token for part in segments for token in part["tokens"] if token < tokenizer.eot]


class Replies:
    """Segments of one recording, window after window in order, of what the model has answered.

    faster-whisper's own pipeline makes them, around a model that only hands out the answer; it
    carries the end of the last word from one window to the next. For one thread.
    """

    def __init__(self, decoder: WindowDecoder, key: DecodingOptions) -> None:
        import faster_whisper

        self._decoder, self._key = decoder, key
        self._model = copy.copy(decoder.model)
        self._pipeline = faster_whisper.BatchedInferencePipeline(self._model)

    def segments(self, start_s: float, length_s: float, heard: Heard) -> Iterator[Any]:
        """faster-whisper's `Segment`s of a window, in speech time."""
        from faster_whisper.transcribe import Segment, Word

        resolved = self._decoder.resolved(self._key)
        self._model.model = _Reply(heard)
        (output,) = self._pipeline.forward(
            np.zeros((1, 1, 1), np.float32),
            self._decoder.tokenizer(self._key.task, heard.language),
            [{"offset": start_s, "duration": length_s}],
            resolved,
        )
        for raw in output:
            words = raw.pop("words", None)
            yield Segment(
                id=0,
                **{**raw, "start": round(raw["start"], 3), "end": round(raw["end"], 3)},
                words=None if words is None else [Word(**word) for word in words],
                temperature=resolved.temperatures[0],
            )


class _Reply:
    """Answers as a `ctranslate2.models.Whisper` for a batch of the one window."""

    device = "cpu"

    def __init__(self, heard: Heard) -> None:
        self._heard = heard

    def encode(self, _features: Any, to_cpu: bool) -> None:
        """There is nothing left to encode."""

    def generate(self, *_arguments: Any, **_settings: Any) -> list[Any]:
        """What was generated."""
        return [self._heard.result]

    def align(self, *_arguments: Any, **_settings: Any) -> list[Any]:
        """What was aligned."""
        return [self._heard.alignment]


def _row(encoded: Any, index: int) -> Any:
    """One window of an encoder's output on the CPU; a view of it."""
    return _storage(np.asarray(encoded)[index : index + 1])


def _storage(array: NDArray[np.float32]) -> Any:
    import ctranslate2

    return ctranslate2.StorageView.from_array(array)


def segment_frames(model: Any, length_s: float) -> int:
    """Frames of a window that count in its alignment: whole seconds, as in faster-whisper."""
    return int(ceil(length_s) * model.frames_per_second)


def _resolved(model: Any, key: DecodingOptions) -> Any:
    """Have faster-whisper resolve the arguments; nothing it makes depends on the language."""
    import faster_whisper

    second = np.zeros(model.feature_extractor.sampling_rate, np.float32)
    # Never started.
    _, info = faster_whisper.BatchedInferencePipeline(model).transcribe(
        second,
        language="en",
        clip_timestamps=[{"start": 0, "end": 1}],
        **shared_arguments(key),
        **batched_arguments(key),
    )
    return info.transcription_options


def _tokenizer(model: Any, task: str, language: str) -> Any:
    from faster_whisper.tokenizer import Tokenizer

    return Tokenizer(model.hf_tokenizer, model.model.is_multilingual, task=task, language=language)


def _likeliest(told: Sequence[tuple[str, float]]) -> tuple[str, float]:
    """The language of `<|en|>` and its probability."""
    token, probability = told[0]
    return token[2:-2], probability


def beginning(features: Iterable[NDArray[np.float32]]) -> NDArray[np.float32]:
    """What faster-whisper tells the language from: the first 30 s of the windows' features joined.

    Its "dummy feature to account for empty audio" follows where they are less.
    """
    parts, frames = [], 0
    for part in features:
        parts.append(part[:, : FRAMES - frames])
        frames += parts[-1].shape[1]
        if frames == FRAMES:
            break
    else:
        parts.append(np.full((parts[0].shape[0], 1), -1.5, np.float32))
    return np.concatenate(parts, axis=1)
