"""What a run was asked to do: frozen options, their sources, their checks and their fingerprint.

A recognition setting is looked for in this order, the first that names it wins:

1. the asset's own entry in the manifest, then the manifest's `defaults` (language, task, …),
2. a flag, 3. an `AUDIO_BATCH_*` variable, 4. `audio-batch.toml` (these three arrive merged, as the
   `given` settings of `resolve_decoding`),
5. `--preset`, 6. the model folder's own `decoding.json`, 7. the defaults of this module.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from audio_batch.errors import UsageError
from audio_batch.outcome import Stage

Task = Literal["transcribe", "translate"]

DEFAULT_OUTAGE_WAIT_S = 3600.0

TEMPERATURE_LADDER = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
"""Whisper's own fallback ladder (Radford et al. 2022, section 4.5)."""


@dataclass(frozen=True, slots=True)
class DecodingOptions:
    """How speech becomes text: every field can change the result, so all are in the fingerprint.

    Names and meanings are faster-whisper's, with units in ours. `None` means "the mode's default".
    """

    language: str | None = None
    task: Task = "transcribe"
    initial_prompt: str | None = None
    hotwords: str | None = None
    sequential: bool = False
    beam_size: int = 5
    best_of: int = 5
    patience: float = 1.0
    length_penalty: float = 1.0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    temperature: tuple[float, ...] = (0.0,)
    compression_ratio_threshold: float | None = 2.4
    logprob_threshold: float | None = -1.0
    no_speech_threshold: float | None = 0.6
    condition_on_previous_text: bool = False
    word_timestamps: bool = True
    hallucination_silence_threshold: float | None = None
    suppress_blank: bool = True
    without_timestamps: bool | None = None
    max_new_tokens: int | None = None
    vad_method: Literal["silero", "none"] = "silero"
    vad_onset: float | None = None
    vad_offset: float | None = None
    vad_min_speech_ms: int | None = None
    vad_min_silence_ms: int | None = None
    vad_pad_ms: int | None = None
    chunk_length_s: int | None = None
    join_gap_s: float | None = None
    """Segments closer than this are joined: for models that time-stamp each word as a segment."""


SEQUENTIAL_ONLY = {
    "best_of": "sampling candidates are drawn in the temperature fallback",
    "compression_ratio_threshold": "the temperature fallback is decided window after window",
    "logprob_threshold": "the temperature fallback is decided window after window",
    "no_speech_threshold": "silent windows are skipped by the window loop (VAD does it in batches)",
    "condition_on_previous_text": "windows of a batch are decoded side by side",
    "hallucination_silence_threshold": "silences are skipped by the window loop",
}
"""Settings that only the sequential mode (`--batch-size 1`) can honour, and why."""

PRESETS: dict[str, dict[str, Any]] = {
    "fast": {"beam_size": 1, "word_timestamps": False},
    "balanced": {"beam_size": 5, "word_timestamps": True},
    "quality": {
        "batch_size": 1,
        "beam_size": 5,
        "best_of": 5,
        "temperature": TEMPERATURE_LADDER,
        "word_timestamps": True,
    },
}
"""`--preset`: bundles of settings, each of which a flag of its own overrides."""

MODEL_DEFAULT_KEYS = frozenset(
    {f.name for f in dataclasses.fields(DecodingOptions)} - {"sequential"} | {"batch_size"}
)
"""What `--preset` and a model's `decoding.json` may set."""


def resolve_decoding(
    given: Mapping[str, Any], *, preset: str | None, model_defaults: Mapping[str, Any]
) -> tuple[DecodingOptions, int | None]:
    """Merge the sources named in the module's docstring into one checked set.

    Args:
        given: settings that the user named (flag, environment, configuration file); `None` values
            count as not named. `batch_size` decides the mode: 1 is sequential.
        preset: a key of `PRESETS`, or None.
        model_defaults: the model folder's `decoding.json`.

    Returns:
        The options, and the batch size in windows of 30 s (None: chosen by the device's memory).

    Raises:
        UsageError: a value out of range, or one that the mode cannot honour.
    """
    if preset is not None and preset not in PRESETS:
        raise UsageError(f"There is no preset {preset!r}; known: {', '.join(PRESETS)}.")
    named = {key: value for key, value in given.items() if value is not None}
    merged: dict[str, Any] = {**model_defaults, **PRESETS.get(preset or "", {}), **named}
    batch_size = merged.pop("batch_size", None)
    if batch_size is not None and not 1 <= batch_size <= 1024:
        raise UsageError(f"--batch-size must be from 1 to 1024, not {batch_size}.")
    sequential = batch_size == 1
    if not sequential:
        for key, reason in SEQUENTIAL_ONLY.items():
            # "--no-condition-on-previous-text" is what batches do anyway.
            if named.get(key) is not None and named[key] is not False:
                raise UsageError(
                    f"--{key.replace('_', '-')} has no effect in batched decoding: {reason}.",
                    remedy="Add --batch-size 1 (or --preset quality).",
                )
            merged.pop(key, None)
        # The batched pipeline never samples: it takes the likeliest token at any temperature.
        if any(named.get("temperature", ())):
            raise UsageError(
                "--temperature has no effect in batched decoding: it neither samples nor falls "
                "back.",
                remedy="Leave it at 0, or add --batch-size 1 (or --preset quality).",
            )
        merged["temperature"] = (0.0,)
    else:
        merged.setdefault("temperature", TEMPERATURE_LADDER)
    merged["temperature"] = tuple(float(t) for t in merged.get("temperature", (0.0,)))
    options = DecodingOptions(**merged, sequential=sequential)
    _check(options, named)
    return options, batch_size


def _check(options: DecodingOptions, named: Mapping[str, Any]) -> None:
    """Refuse values that faster-whisper would misread, and settings whose master switch is off."""
    ranges: tuple[tuple[str, float | None, float, float], ...] = (
        ("beam-size", options.beam_size, 1, 100),
        ("best-of", options.best_of, 1, 100),
        ("patience", options.patience, 0.01, 100),
        ("length-penalty", options.length_penalty, -10, 10),
        ("repetition-penalty", options.repetition_penalty, 0.01, 10),
        ("no-repeat-ngram-size", options.no_repeat_ngram_size, 0, 100),
        ("vad-onset", options.vad_onset, 0.01, 0.99),
        ("vad-offset", options.vad_offset, 0.0, 0.99),
        ("vad-min-speech-ms", options.vad_min_speech_ms, 0, 60_000),
        ("vad-min-silence-ms", options.vad_min_silence_ms, 0, 60_000),
        ("vad-pad-ms", options.vad_pad_ms, 0, 10_000),
        ("chunk-length", options.chunk_length_s, 1, 30),
        ("no-speech-threshold", options.no_speech_threshold, 0, 1),
        ("hallucination-silence-threshold", options.hallucination_silence_threshold, 0, 3600),
        *(("temperature", t, 0.0, 2.0) for t in options.temperature),
    )
    for name, value, low, high in ranges:
        if value is not None and not low <= value <= high:
            raise UsageError(f"--{name} must be from {low:g} to {high:g}, not {value:g}.")
    if options.vad_method == "none":
        for key in named:
            if key.startswith("vad_") and key != "vad_method":
                raise UsageError(
                    f"--{key.replace('_', '-')} has no effect with --vad-method none.",
                    remedy="Leave one of the two out.",
                )
    if options.beam_size == 1:
        for key in ("patience", "length_penalty"):
            if key in named:
                raise UsageError(
                    f"--{key.replace('_', '-')} has no effect with one beam.",
                    remedy="Leave it out, or give a --beam-size above 1.",
                )
    if (
        options.vad_onset is not None
        and options.vad_offset is not None
        and options.vad_offset > options.vad_onset
    ):
        raise UsageError("--vad-offset must not be above --vad-onset.")
    if options.hallucination_silence_threshold is not None and not options.word_timestamps:
        raise UsageError("--hallucination-silence-threshold needs --word-timestamps.")


@dataclass(frozen=True, slots=True)
class SpeakerLimits:
    """How many voices a recording has, as far as it is known; None where it is not.

    Raises:
        UsageError: a count below one, bounds that contradict each other.
    """

    num_speakers: int | None = None
    min_speakers: int | None = None
    max_speakers: int | None = None

    def __post_init__(self) -> None:
        for name in ("num_speakers", "min_speakers", "max_speakers"):
            value = getattr(self, name)
            if value is not None and not 1 <= value <= 1000:
                raise UsageError(f"--{name.replace('_', '-')} must be from 1 to 1000, not {value}.")
        low, high = self.min_speakers, self.max_speakers
        if self.num_speakers is not None and (low is not None or high is not None):
            raise UsageError(
                "--num-speakers says the exact number; --min-speakers and --max-speakers then "
                "have no effect.",
                remedy="Give one or the other.",
            )
        if low is not None and high is not None and low > high:
            raise UsageError(f"--min-speakers {low} is above --max-speakers {high}.")


@dataclass(frozen=True, slots=True)
class WantedStages:
    """Which stages a run does and by which models, as identities; None leaves the stage out.

    `keep_speakers`: no diarization is to be had, but what earlier runs found is not thrown away.
    """

    model: str
    aligner: str | None = None
    diarizer: str | None = None
    keep_speakers: bool = False


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Everything a run was asked to do, except which assets.

    `decoding` is what an asset gets that asks for nothing itself; see `for_asset`.
    """

    model: str
    engine: str
    decoding: DecodingOptions
    executor: Literal["local", "ray"] = "local"
    ray_address: str | None = None
    ray_results: Literal["auto", "workers", "driver"] = "auto"
    ray_workers: int | None = None
    batch_size: int | None = None
    compute_type: str = "auto"
    device: str = "auto"
    max_per_gpu: str | None = None
    threads: int | None = None
    cpu_threads: int | None = None
    policy: str = "earliest-finish"
    in_order: bool = False
    prefetch: int | None = None
    split_long_s: float | None = None
    backup_copies: bool = True
    formats: tuple[str, ...] = ("json", "txt", "srt")
    output_template: str | None = None
    max_line_width: int | None = None
    max_line_count: int | None = None
    highlight_words: bool = False
    max_duration_s: float = 24 * 3600.0
    audio_stream: int | None = None
    damaged: Literal["flag", "fail"] = "flag"
    max_attempts: int = 3
    retry_delay_s: float = 2.0
    outage_wait_s: float = DEFAULT_OUTAGE_WAIT_S
    fail_fast: bool = False
    overwrite: bool = False
    retry_failed: bool = False
    redo_suspect: bool = False
    isolation: Literal["auto", "thread", "process"] = "auto"
    max_restarts: int = 3
    cpu_fallback: bool = False
    fail_on_degraded: bool = False
    limits: SpeakerLimits = field(default_factory=SpeakerLimits)

    def recognition_fingerprint(self, decoding: DecodingOptions, model_identity: str) -> str:
        """Name of everything that decides an asset's words: part of the resume key.

        Formats, devices, batch size and the like are left out: they do not change the words, so
        changing them costs no transcription. The compute type counts as asked for, not as
        resolved, since unequal GPUs of one run may resolve "auto" differently.
        """
        parts = {
            "engine": self.engine,
            "model": model_identity,
            "compute_type": self.compute_type,
            "decoding": dataclasses.asdict(decoding),
            "audio_stream": self.audio_stream,
        }
        return _digest(parts)

    def stage_fingerprints(
        self, decoding: DecodingOptions, limits: SpeakerLimits, wanted: WantedStages
    ) -> dict[Stage, str]:
        """Name of everything that decides the result of each stage that is to be done."""
        return dict(_stage_fingerprints(self, decoding, limits, wanted))

    @property
    def publishes(self) -> bool:
        """Whether transcripts are written; without any the run only measures the program."""
        return bool(self.formats)

    @property
    def admission(self) -> str:
        """Name of what refuses recordings: it changes no words, but what failed may now pass."""
        return f"{self.max_duration_s:g}:{self.damaged}"

    def render_fingerprint(self, formats: tuple[str, ...]) -> str:
        """Name of everything that decides how the words are written down."""
        return _digest(
            {
                "formats": sorted(formats),
                "max_line_width": self.max_line_width,
                "max_line_count": self.max_line_count,
                "highlight_words": self.highlight_words,
            }
        )


@functools.lru_cache(maxsize=1024)
def _stage_fingerprints(
    options: RunOptions, decoding: DecodingOptions, limits: SpeakerLimits, wanted: WantedStages
) -> Mapping[Stage, str]:
    """Most assets of a run share theirs."""
    words = options.recognition_fingerprint(decoding, wanted.model)
    stages = {Stage.TRANSCRIBE: words}
    if wanted.aligner is not None:
        stages[Stage.ALIGN] = _digest({"words": words, "aligner": wanted.aligner})
    if wanted.diarizer is not None:
        parts = {
            "diarizer": wanted.diarizer,
            "limits": dataclasses.asdict(limits),
            "audio_stream": options.audio_stream,
        }
        stages[Stage.DIARIZE] = _digest(parts)
    return stages


def joint_fingerprint(stages: Mapping[Stage, str]) -> str:
    """One name for all stages of an asset; without further stages it is that of the words."""
    if set(stages) == {Stage.TRANSCRIBE}:
        return stages[Stage.TRANSCRIBE]
    return _digest({stage.value: name for stage, name in stages.items()})


def _digest(parts: Mapping[str, Any]) -> str:
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:16]
