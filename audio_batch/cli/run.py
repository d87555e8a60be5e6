"""`audio-batch run`: the flags of a run. Every one also is a variable and a configuration key."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from audio_batch.cli import manifest_options as options
from audio_batch.cli import speaker_options as speech
from audio_batch.cli import survival_options as survival
from audio_batch.cli.option import opt

MODEL, DECODING = "Model", "Decoding"
DEVICES, OUTPUT, INPUT = "Devices and workers", "Outputs", "Recordings"
FAILURES, TALK = "Failures and repeats", "Progress and log"
MODES = "sequential only (--batch-size 1)"


def run(
    manifest: Annotated[
        Path, typer.Argument(help="JSON, a JSON list or JSON Lines; see `manifest schema`.")
    ],
    config: Annotated[
        Path | None,
        typer.Option("--config", help="Configuration file (TOML).", envvar="AUDIO_BATCH_CONFIG"),
    ] = None,
    output_dir: Annotated[
        Path | None,
        opt("Where outputs and journal go \\[transcripts].", "--output-dir", "-o", panel=OUTPUT),
    ] = None,
    output_format: Annotated[
        list[str] | None,
        opt(
            "json txt srt vtt tsv csv lrc aud rttm uem, a list, or all; json is always written "
            "\\[txt,srt].",
            "--output-format",
            "-f",
            panel=OUTPUT,
        ),
    ] = None,
    output_template: Annotated[
        str | None,
        opt(
            'Names from fields, as "{folder_path}/{name}" \\[{id}].',
            "--output-template",
            panel=OUTPUT,
        ),
    ] = None,
    max_line_width: Annotated[
        int | None, opt("Columns of a subtitle line.", "--max-line-width", panel=OUTPUT)
    ] = None,
    max_line_count: Annotated[
        int | None, opt("Lines of a subtitle.", "--max-line-count", panel=OUTPUT)
    ] = None,
    highlight_words: Annotated[
        bool | None,
        opt(
            "Underline each word as it is spoken (srt, vtt).",
            "--highlight-words/--no-highlight-words",
            panel=OUTPUT,
        ),
    ] = None,
    root: options.Root = None,
    field: options.Field = None,
    allow_missing: options.AllowMissing = None,
    where: options.Where = None,
    exclude: options.Exclude = None,
    order: options.OrderBy = None,
    skip: options.Skip = None,
    limit: options.Limit = None,
    model: Annotated[
        str | None,
        opt(
            "A Whisper name, a hub repository, a folder, or demo \\[large-v3-turbo].",
            "--model",
            "-m",
            panel=MODEL,
        ),
    ] = None,
    model_dir: Annotated[
        Path | None,
        opt("Where fetched models are kept \\[the hub's cache].", "--model-dir", panel=MODEL),
    ] = None,
    offline: Annotated[
        bool | None,
        opt(
            "Never ask the network for a model.",
            "--offline/--online",
            "--model-cache-only",
            panel=MODEL,
        ),
    ] = None,
    engine: Annotated[
        str | None, opt("faster-whisper, or null (a dry run).", "--engine", panel=MODEL)
    ] = None,
    compute_type: Annotated[
        str | None,
        opt(
            "auto, float16, int8_float16, int8, float32, … \\[auto].", "--compute-type", panel=MODEL
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        opt(
            "Windows of 30 s side by side; 1 is sequential, with temperature fallback "
            "\\[by memory].",
            "--batch-size",
            panel=MODEL,
        ),
    ] = None,
    preset: Annotated[
        str | None, opt("fast, balanced or quality: a bundle of settings.", "--preset", panel=MODEL)
    ] = None,
    language: Annotated[
        str | None, opt("Code or name \\[auto: heard in each asset].", "--language", panel=DECODING)
    ] = None,
    task: Annotated[
        str | None, opt("transcribe, or translate into English.", "--task", panel=DECODING)
    ] = None,
    initial_prompt: Annotated[
        str | None, opt("Text that sets spelling and style.", "--initial-prompt", panel=DECODING)
    ] = None,
    hotwords: Annotated[
        str | None, opt("Words to be expected.", "--hotwords", panel=DECODING)
    ] = None,
    beam_size: Annotated[int | None, opt("Beams \\[5].", "--beam-size", panel=DECODING)] = None,
    best_of: Annotated[
        int | None, opt(f"Samples at a temperature above 0; {MODES}.", "--best-of", panel=DECODING)
    ] = None,
    patience: Annotated[
        float | None, opt("Beam search patience \\[1].", "--patience", panel=DECODING)
    ] = None,
    length_penalty: Annotated[
        float | None, opt("Beam search length penalty \\[1].", "--length-penalty", panel=DECODING)
    ] = None,
    repetition_penalty: Annotated[
        float | None, opt("Above 1 punishes repeats \\[1].", "--repetition-penalty", panel=DECODING)
    ] = None,
    no_repeat_ngram_size: Annotated[
        int | None,
        opt("Never repeat n-grams of this size \\[off].", "--no-repeat-ngram-size", panel=DECODING),
    ] = None,
    temperature: Annotated[
        str | None,
        opt(
            "One, or with --batch-size 1 a fallback ladder 0,0.2,0.4.",
            "--temperature",
            panel=DECODING,
        ),
    ] = None,
    compression_ratio_threshold: Annotated[
        float | None,
        opt(
            f"Above it a window is done again; {MODES} \\[2.4].",
            "--compression-ratio-threshold",
            panel=DECODING,
        ),
    ] = None,
    logprob_threshold: Annotated[
        float | None,
        opt(
            f"Below it a window is done again; {MODES} \\[-1].",
            "--logprob-threshold",
            panel=DECODING,
        ),
    ] = None,
    no_speech_threshold: Annotated[
        float | None,
        opt(
            f"Above it a window is silent; {MODES} \\[0.6].",
            "--no-speech-threshold",
            panel=DECODING,
        ),
    ] = None,
    condition_on_previous_text: Annotated[
        bool | None,
        opt(
            f"Prompt each window with the last; {MODES} \\[no].",
            "--condition-on-previous-text/--no-condition-on-previous-text",
            panel=DECODING,
        ),
    ] = None,
    word_timestamps: Annotated[
        bool | None,
        opt("Times of words \\[yes].", "--word-timestamps/--no-word-timestamps", panel=DECODING),
    ] = None,
    hallucination_silence_threshold: Annotated[
        float | None,
        opt(
            f"Seconds of silence around a doubtful text to skip; {MODES}.",
            "--hallucination-silence-threshold",
            panel=DECODING,
        ),
    ] = None,
    vad_method: Annotated[
        str | None, opt("silero, or none \\[silero].", "--vad-method", panel=DECODING)
    ] = None,
    vad_onset: Annotated[
        float | None,
        opt("Speech probability that begins speech \\[0.5].", "--vad-onset", panel=DECODING),
    ] = None,
    vad_offset: Annotated[
        float | None,
        opt("Speech probability that ends it \\[onset - 0.15].", "--vad-offset", panel=DECODING),
    ] = None,
    vad_min_speech_ms: Annotated[
        int | None, opt("Shorter speech is dropped \\[0].", "--vad-min-speech-ms", panel=DECODING)
    ] = None,
    vad_min_silence_ms: Annotated[
        int | None,
        opt(
            "Shorter silence does not cut \\[160; sequential 2000].",
            "--vad-min-silence-ms",
            panel=DECODING,
        ),
    ] = None,
    vad_pad_ms: Annotated[
        int | None, opt("Added to both sides of speech \\[400].", "--vad-pad-ms", panel=DECODING)
    ] = None,
    chunk_length: Annotated[
        int | None, opt("Longest window in seconds \\[30].", "--chunk-length", panel=DECODING)
    ] = None,
    align: speech.Align = None,
    align_model: speech.AlignModel = None,
    diarize: speech.Diarize = None,
    diarize_model: speech.DiarizeModel = None,
    hf_token_file: speech.HfTokenFile = None,
    num_speakers: speech.NumSpeakers = None,
    min_speakers: speech.MinSpeakers = None,
    max_speakers: speech.MaxSpeakers = None,
    speakers: speech.Speakers = None,
    speaker_threshold: speech.SpeakerThreshold = None,
    link_speakers: speech.LinkSpeakers = None,
    link_threshold: speech.LinkThreshold = None,
    device: Annotated[
        str | None,
        opt("auto, cpu, cuda:N or cuda:N,cuda:M \\[auto].", "--device", "-d", panel=DEVICES),
    ] = None,
    device_index: Annotated[
        str | None, opt("CUDA numbers: 0,1.", "--device-index", panel=DEVICES)
    ] = None,
    threads: Annotated[
        int | None, opt("Most assets at a time \\[all slots].", "--threads", "-t", panel=DEVICES)
    ] = None,
    max_per_gpu: Annotated[
        str | None,
        opt(
            "Assets at a time on a device: 2, or 2,1, or 0:2,1:1 \\[2].",
            "--max-per-gpu",
            panel=DEVICES,
        ),
    ] = None,
    cpu_threads: Annotated[
        int | None,
        opt("CPU threads of one asset \\[cores / slots].", "--cpu-threads", panel=DEVICES),
    ] = None,
    policy: Annotated[
        str | None, opt("least-loaded or first-come \\[least-loaded].", "--policy", panel=DEVICES)
    ] = None,
    experimental: Annotated[
        bool | None,
        opt(
            "Balance over all GPUs, whatever --device says (the default does).",
            "--experimental/--no-experimental",
            panel=DEVICES,
        ),
    ] = None,
    audio_stream: Annotated[
        int | None,
        opt("Which audio stream, from 0 \\[the default one].", "--audio-stream", panel=INPUT),
    ] = None,
    max_duration: Annotated[
        float | None, opt("Longest recording in seconds \\[86400].", "--max-duration", panel=INPUT)
    ] = None,
    damaged: Annotated[
        str | None,
        opt(
            "flag: transcribe what can be decoded and say so; fail: refuse it \\[flag].",
            "--damaged",
            panel=INPUT,
        ),
    ] = None,
    yes: Annotated[
        bool | None,
        opt("Go on after failures without asking.", "--yes/--no-yes", "-y", panel=FAILURES),
    ] = None,
    fail_fast: Annotated[
        bool | None,
        opt("Begin nothing new after a failure.", "--fail-fast/--no-fail-fast", panel=FAILURES),
    ] = None,
    max_attempts: Annotated[
        int | None,
        opt("Attempts at an asset whose failure may pass \\[3].", "--max-attempts", panel=FAILURES),
    ] = None,
    retry_delay: Annotated[
        float | None,
        opt("Seconds before the second attempt, doubling \\[2].", "--retry-delay", panel=FAILURES),
    ] = None,
    overwrite: Annotated[
        bool | None,
        opt("Do everything again.", "--overwrite/--no-overwrite", panel=FAILURES),
    ] = None,
    retry_failed: Annotated[
        bool | None,
        opt(
            "Also what failed in earlier runs.", "--retry-failed/--no-retry-failed", panel=FAILURES
        ),
    ] = None,
    redo_suspect: survival.RedoSuspect = None,
    isolation: survival.Isolation = None,
    max_restarts: survival.MaxRestarts = None,
    cpu_fallback: survival.CpuFallback = None,
    fail_on_degraded: survival.FailOnDegraded = None,
    timeout: survival.Timeout = None,
    stall_timeout: survival.StallTimeout = None,
    min_free_ram: survival.MinFreeRam = None,
    until: survival.Until = None,
    max_runtime: survival.MaxRuntime = None,
    nice: survival.Nice = None,
    ionice: survival.IoNice = None,
    progress: Annotated[
        bool | None,
        opt("The live display on a terminal.", "--progress/--no-progress", panel=TALK),
    ] = None,
    log_file: Annotated[
        Path | None, opt("Also write the log here, in full.", "--log-file", panel=TALK)
    ] = None,
    log_format: Annotated[
        str | None, opt("plain, or json (a line each) \\[plain].", "--log-format", panel=TALK)
    ] = None,
    verbose: Annotated[int, opt("Say more.", "--verbose", "-v", panel=TALK, count=True)] = 0,
    quiet: Annotated[
        bool | None, opt("Only warnings and failures.", "--quiet/--no-quiet", "-q", panel=TALK)
    ] = None,
) -> int:
    """Transcribe the assets of a manifest; run again, it does only what is not done.

    Every setting comes from its flag, else its variable (--max-per-gpu: AUDIO_BATCH_MAX_PER_GPU),
    else audio-batch.toml, else the \\[default].
    """
    flags = dict(locals())
    flags.pop("manifest"), flags.pop("config")
    flags["verbose"] = verbose or None
    # Late, so that --help does not pay for it.
    from audio_batch.config import merge

    settings, file = merge(flags, config=config, manifest=manifest)

    from audio_batch.cli.console import start

    return start(manifest, settings, file)
