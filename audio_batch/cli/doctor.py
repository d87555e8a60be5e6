"""`audio-batch doctor`: what would go wrong, said before the night."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

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

if TYPE_CHECKING:
    from collections.abc import Iterable

    from audio_batch.config import Settings
    from audio_batch.preflight import Check, PreflightRequest

SCHEMA_VERSION = 1
SHOWN_PROBLEMS = 3
_STYLES = {"ok": "green", "warning": "yellow", "error": "bold red"}


def doctor(
    manifest: Annotated[
        Path | None,
        manifest_argument("The manifest of the run to come \\[only machine and models]."),
    ] = None,
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
    forget: Annotated[
        bool,
        typer.Option(
            "--forget",
            help="First forget what devices were found to work with after running out of memory.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The answers as JSON.")] = False,
) -> int:
    """Check machine, models and manifest before a run: exit 0, or 5 where a run would fail.

    Nothing is fetched, written or begun. Every flag of `run` is taken, so that one command line
    serves both; what a check has no use for changes nothing. Settings come from where `run` has
    them.
    """
    flags = dict(locals())
    for name in ("manifest", "config", "forget", "as_json"):
        flags.pop(name)
    flags["verbose"] = verbose or None
    from audio_batch.config import FILE_NAME, merge
    from audio_batch.errors import ExitCode, ManifestError
    from audio_batch.logs import configure
    from audio_batch.preflight import Check, checks
    from audio_batch.text import for_terminal, redact

    settings, _ = merge(flags, config=config, manifest=manifest or Path(FILE_NAME))
    configure(console_level=None, log_file=None, log_format="plain")
    try:
        request = _request(manifest, settings)
    except ManifestError as error:
        if as_json:
            text = " ".join([error.message, *error.problems[:SHOWN_PROBLEMS]])
            _print_json([Check("manifest", "error", for_terminal(redact(text)), error.remedy)])
        raise
    answers: Iterable[Check] = checks(request)
    if forget:
        answers = itertools.chain([_forgotten()], answers)
    listed = _print_json(answers) if as_json else _print_lines(answers)
    failed = any(check.status == "error" for check in listed)
    return ExitCode.ENVIRONMENT if failed else ExitCode.OK


def _request(manifest: Path | None, settings: Settings) -> PreflightRequest:
    """Read the manifest as a run would, but count missing recordings instead of refusing them."""
    from audio_batch.preflight import PreflightRequest

    paths = {name: path for name, path in settings if isinstance(path, Path)}
    settings = settings.model_copy(
        update={name: path.expanduser().absolute() for name, path in paths.items()}
    )
    from audio_batch.request import Request, choose, output_folder, read_manifest

    if manifest is None:
        asked = output_folder(settings) if settings.output_dir else None
        return PreflightRequest(settings, folder=asked)

    lenient = settings.model_copy(update={"allow_missing": True})
    loaded = read_manifest(Request(manifest.expanduser().absolute(), lenient))
    # By length only where that decides which assets are taken: it opens every recording.
    cut = settings.skip or settings.limit is not None
    chosen = choose(loaded, settings if cut else settings.model_copy(update={"order": None}))
    return PreflightRequest(settings, loaded, tuple(chosen), output_folder(settings))


def _forgotten() -> Check:
    """Forget what runs learnt of the devices.

    Raises:
        SetupError: it cannot be removed.
    """
    from audio_batch.preflight import Check
    from audio_batch.remembered import Remembered
    from audio_batch.text import for_terminal

    memory = Remembered.look()
    count = memory.forget()
    said = f"{count} entr{'y' if count == 1 else 'ies'} removed from {memory.path.parent}."
    return Check("forget", "ok", for_terminal(said))


def _print_json(answers: Iterable[Check]) -> list[Check]:
    listed = list(answers)
    body = {
        "schema_version": SCHEMA_VERSION,
        "ok": all(check.status != "error" for check in listed),
        "checks": [check.to_json() for check in listed],
    }
    sys.stdout.write(json.dumps(body, indent=2, ensure_ascii=True) + "\n")
    return listed


def _print_lines(answers: Iterable[Check]) -> list[Check]:
    """A line a check as it is answered, in colours on a terminal; the remedy below it."""
    from rich.text import Text

    from audio_batch.reporters import SteadyConsole

    console = SteadyConsole()
    listed = []
    for check in answers:
        listed.append(check)
        line = Text.assemble(
            (f"{check.status:<9}", _STYLES[check.status]), f"{check.name}: {check.message}"
        )
        if check.remedy:
            line.append(f"\n{'':<9}-> {check.remedy}", style="dim")
        console.print(line, highlight=False, soft_wrap=True)
    counts = {status: sum(check.status == status for check in listed) for status in _STYLES}
    found = [f"{counts[s]} {s}{'' if counts[s] == 1 else 's'}" for s in ("error", "warning")]
    console.print(f"{', '.join(found)}.", style="bold", highlight=False)
    return listed
