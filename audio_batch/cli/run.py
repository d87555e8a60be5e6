"""`audio-batch run`: the flags of a run. Every one also is a variable and a configuration key."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from audio_batch.cli import device_options as devices
from audio_batch.cli import manifest_options as options
from audio_batch.cli import model_options as models
from audio_batch.cli import output_options as outputs
from audio_batch.cli import remote_options as remote
from audio_batch.cli import speaker_options as speech
from audio_batch.cli import survival_options as survival
from audio_batch.cli.config_option import Config
from audio_batch.cli.model_options import DECODING
from audio_batch.cli.option import opt

INPUT = "Recordings"
FAILURES, TALK = "Failures and repeats", "Progress and log"
MODES = "sequential only (--batch-size 1)"


def run(
    manifest: Annotated[
        Path, typer.Argument(help="JSON, a JSON list or JSON Lines; see `manifest schema`.")
    ],
    config: Config = None,
    output_dir: outputs.OutputDir = None,
    state_dir: remote.StateDir = None,
    output_format: outputs.OutputFormat = None,
    output_template: outputs.OutputTemplate = None,
    max_line_width: outputs.MaxLineWidth = None,
    max_line_count: outputs.MaxLineCount = None,
    highlight_words: outputs.HighlightWords = None,
    root: options.Root = None,
    field: options.Field = None,
    allow_missing: options.AllowMissing = None,
    where: options.Where = None,
    exclude: options.Exclude = None,
    order: options.OrderBy = None,
    skip: options.Skip = None,
    limit: options.Limit = None,
    shard: remote.Shard = None,
    model: models.Model = None,
    model_dir: models.ModelDir = None,
    offline: models.Offline = None,
    engine: models.Engine = None,
    compute_type: models.ComputeType = None,
    batch_size: models.BatchSize = None,
    preset: models.Preset = None,
    language: models.Language = None,
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
    device: devices.Device = None,
    device_index: devices.DeviceIndex = None,
    threads: devices.Threads = None,
    max_per_gpu: devices.MaxPerGpu = None,
    cpu_threads: devices.CpuThreads = None,
    policy: devices.Policy = None,
    prefetch: devices.Prefetch = None,
    split_long: devices.SplitLong = None,
    backup_copies: devices.BackupCopies = None,
    experimental: devices.Experimental = None,
    cache_dir: remote.CacheDir = None,
    cache_size: remote.CacheSize = None,
    downloads: remote.Downloads = None,
    max_download: remote.MaxDownload = None,
    allow_http: remote.AllowHttp = None,
    allow_private_addresses: remote.AllowPrivateAddresses = None,
    s3_endpoint: remote.S3Endpoint = None,
    aws_profile: remote.AwsProfile = None,
    aws_login: remote.AwsLogin = None,
    results_db: remote.ResultsDb = None,
    results_table: remote.ResultsTable = None,
    ray_address: remote.RayAddress = None,
    ray_results: remote.RayResults = None,
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
    # Late, so that --help does not pay for it; and who comes second is told before all the rest.
    if output_dir is not None:
        from audio_batch.output_folder import OutputFolder

        OutputFolder.at(output_dir, state_dir=state_dir, shard=shard).refuse_second()
    from audio_batch.config import merge

    settings, file = merge(flags, config=config, manifest=manifest)

    from audio_batch.cli.console import start

    return start(manifest, settings, file)
