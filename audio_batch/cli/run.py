"""`audio-batch run`: the flags of a run. Every one also is a variable and a configuration key."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from audio_batch.cli import decoding_options as decoding
from audio_batch.cli import device_options as devices
from audio_batch.cli import failure_options as failures
from audio_batch.cli import input_options as inputs
from audio_batch.cli import manifest_options as options
from audio_batch.cli import model_options as models
from audio_batch.cli import output_options as outputs
from audio_batch.cli import remote_options as remote
from audio_batch.cli import speaker_options as speech
from audio_batch.cli import survival_options as survival
from audio_batch.cli import talk_options as talk
from audio_batch.cli.config_option import Config
from audio_batch.cli.option import manifest_argument


def run(
    manifest: Annotated[
        Path, manifest_argument("JSON, a JSON list or JSON Lines; see `manifest schema`.")
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
    language: decoding.Language = None,
    task: decoding.Task = None,
    initial_prompt: decoding.InitialPrompt = None,
    hotwords: decoding.Hotwords = None,
    beam_size: decoding.BeamSize = None,
    best_of: decoding.BestOf = None,
    patience: decoding.Patience = None,
    length_penalty: decoding.LengthPenalty = None,
    repetition_penalty: decoding.RepetitionPenalty = None,
    no_repeat_ngram_size: decoding.NoRepeatNgramSize = None,
    temperature: decoding.Temperature = None,
    compression_ratio_threshold: decoding.CompressionRatioThreshold = None,
    logprob_threshold: decoding.LogprobThreshold = None,
    no_speech_threshold: decoding.NoSpeechThreshold = None,
    condition_on_previous_text: decoding.ConditionOnPreviousText = None,
    word_timestamps: decoding.WordTimestamps = None,
    hallucination_silence_threshold: decoding.HallucinationSilenceThreshold = None,
    vad_method: decoding.VadMethod = None,
    vad_onset: decoding.VadOnset = None,
    vad_offset: decoding.VadOffset = None,
    vad_min_speech_ms: decoding.VadMinSpeechMs = None,
    vad_min_silence_ms: decoding.VadMinSilenceMs = None,
    vad_pad_ms: decoding.VadPadMs = None,
    chunk_length: decoding.ChunkLength = None,
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
    outage_wait: remote.OutageWait = None,
    results_db: remote.ResultsDb = None,
    results_table: remote.ResultsTable = None,
    ray_address: remote.RayAddress = None,
    ray_results: remote.RayResults = None,
    ray_workers: remote.RayWorkers = None,
    audio_stream: inputs.AudioStream = None,
    max_duration: inputs.MaxDuration = None,
    damaged: inputs.Damaged = None,
    yes: failures.Yes = None,
    fail_fast: failures.FailFast = None,
    max_attempts: failures.MaxAttempts = None,
    retry_delay: failures.RetryDelay = None,
    overwrite: failures.Overwrite = None,
    retry_failed: failures.RetryFailed = None,
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
    progress: talk.Progress = None,
    log_file: talk.LogFile = None,
    log_format: talk.LogFormat = None,
    verbose: talk.Verbose = 0,
    quiet: talk.Quiet = None,
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
