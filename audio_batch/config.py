"""The settings of a run by name and type, and the file that may hold them.

A setting comes from a flag, else from its `AUDIO_BATCH_*` variable, else from the configuration
file, else from its default. The file is TOML with the long flags' names:

    model = "large-v3-turbo"
    output-format = ["srt", "vtt"]
    max-per-gpu = "2,1"

It is the one named by --config; without it the first of `audio-batch.toml` in the current folder,
`audio-batch.toml` beside the manifest, and `config.toml` in the user's configuration folder.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import platformdirs
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from audio_batch import locations
from audio_batch.databases import urls
from audio_batch.errors import UsageError

FILE_NAME = "audio-batch.toml"

PATHS = (*("root", "model_dir", "log_file", "hf_token_file", "speakers", "state_dir", "cache_dir"),)
"""Settings that name local files and folders."""

REACH_OUT = (
    *("results_db", "s3_endpoint", "aws_profile", "ray_address"),
    *("allow_http", "allow_private_addresses"),
)
"""Settings that send words, secrets of the environment or signed requests to other machines, or
open this machine's networks to whoever wrote the manifest."""

OF_SPEAKERS = (
    "diarize_model",
    "num_speakers",
    "min_speakers",
    "max_speakers",
    "speakers",
    "link_speakers",
)
"""Settings that mean nothing without a diarization."""


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _text(value: Any) -> Any:
    """Numbers where a text is wanted (`max-per-gpu = 2`), but never a boolean."""
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value


Texts = Annotated[list[str], BeforeValidator(_listed)]
Text = Annotated[str, BeforeValidator(_text)]
Location = Annotated[
    str, BeforeValidator(lambda value: str(value) if isinstance(value, Path) else value)
]
"""A path, or the URL of an object store's folder; see `locations`."""


class Settings(BaseModel):
    """Every setting of `audio-batch run`, none of them required. Named as the long flags are."""

    model_config = ConfigDict(extra="forbid")

    # Where
    output_dir: Location | None = None
    state_dir: Path | None = None
    root: Path | None = None
    field: Texts | None = None
    allow_missing: bool | None = None
    # Which assets
    where: Texts | None = None
    exclude: Texts | None = None
    order: Literal["manifest", "reverse", "longest", "shortest", "priority"] | None = None
    skip: int | None = None
    limit: int | None = None
    shard: Text | None = None
    # Model
    engine: str | None = None
    model: str | None = None
    model_dir: Path | None = None
    offline: bool | None = None
    compute_type: str | None = None
    batch_size: int | None = None
    preset: str | None = None
    # Decoding
    language: str | None = None
    task: Literal["transcribe", "translate"] | None = None
    initial_prompt: str | None = None
    hotwords: str | None = None
    beam_size: int | None = None
    best_of: int | None = None
    patience: float | None = None
    length_penalty: float | None = None
    repetition_penalty: float | None = None
    no_repeat_ngram_size: int | None = None
    temperature: Text | None = None
    compression_ratio_threshold: float | None = None
    logprob_threshold: float | None = None
    no_speech_threshold: float | None = None
    condition_on_previous_text: bool | None = None
    word_timestamps: bool | None = None
    hallucination_silence_threshold: float | None = None
    vad_method: Literal["silero", "none", "pyannote"] | None = None
    vad_onset: float | None = None
    vad_offset: float | None = None
    vad_min_speech_ms: int | None = None
    vad_min_silence_ms: int | None = None
    vad_pad_ms: int | None = None
    chunk_length: int | None = None
    # Alignment
    align: bool | None = None
    align_model: str | None = None
    # Speakers
    diarize: bool | None = None
    diarize_model: str | None = None
    hf_token_file: Path | None = None
    num_speakers: int | None = None
    min_speakers: int | None = None
    max_speakers: int | None = None
    speakers: Path | None = None
    speaker_threshold: float | None = None
    link_speakers: bool | None = None
    link_threshold: float | None = None
    # Devices and workers
    device: str | None = None
    device_index: Text | None = None
    threads: int | None = None
    max_per_gpu: Text | None = None
    cpu_threads: int | None = None
    policy: str | None = None
    prefetch: int | None = None
    split_long: Text | None = None
    backup_copies: bool | None = None
    experimental: bool | None = None
    # Outputs
    output_format: Texts | None = None
    output_template: str | None = None
    max_line_width: int | None = None
    max_line_count: int | None = None
    highlight_words: bool | None = None
    # Where recordings come from
    cache_dir: Path | None = None
    cache_size: Text | None = None
    downloads: int | None = None
    max_download: Text | None = None
    allow_http: bool | None = None
    allow_private_addresses: bool | None = None
    s3_endpoint: str | None = None
    aws_profile: str | None = None
    aws_login: bool | None = None
    outage_wait: Text | None = None
    # Databases
    results_db: str | None = None
    results_table: str | None = None
    # Cluster
    ray_address: str | None = None
    ray_results: Literal["auto", "workers", "driver"] | None = None
    ray_workers: int | None = None
    # Input
    audio_stream: int | None = None
    max_duration: float | None = None
    damaged: Literal["flag", "fail"] | None = None
    # Failures
    yes: bool | None = None
    fail_fast: bool | None = None
    max_attempts: int | None = None
    retry_delay: float | None = None
    overwrite: bool | None = None
    retry_failed: bool | None = None
    redo_suspect: bool | None = None
    # Isolation and watchdog
    isolation: Literal["auto", "thread", "process"] | None = None
    max_restarts: int | None = None
    cpu_fallback: bool | None = None
    fail_on_degraded: bool | None = None
    timeout: Text | None = None
    stall_timeout: Text | None = None
    min_free_ram: Text | None = None
    # Time and manners
    until: Text | None = None
    max_runtime: Text | None = None
    nice: int | None = None
    ionice: Literal["idle", "low"] | None = None
    # Talk
    log_file: Path | None = None
    log_format: Literal["plain", "json"] | None = None
    progress: bool | None = None
    verbose: int | None = None
    quiet: bool | None = None

    @property
    def executor(self) -> Literal["local", "ray"]:
        """Who places the workers, by `--engine ray` or `--engine ray:ENGINE`."""
        return "ray" if (self.engine or "").partition(":")[0] == "ray" else "local"

    @property
    def recognizer(self) -> str | None:
        """The engine that hears words, as far as it is named: all of --engine, or what follows
        `ray:`."""
        if self.executor == "local":
            return self.engine
        return (self.engine or "").partition(":")[2] or None


def merge(
    flags: dict[str, Any], *, config: Path | None, manifest: Path
) -> tuple[Settings, Path | None]:
    """Lay the flags and variables over the configuration file.

    Args:
        flags: by setting name; None (or an empty list) means that neither flag nor variable is set.

    Returns:
        The settings, and the file that was used, if any.

    Raises:
        UsageError: the file cannot be read, a setting in it is unknown or of a wrong type, or it
            was merely found and sets what only a person should.
    """
    file = find(config, manifest)
    values = read(file) if file else {}
    if file is not None and config is None:
        _refuse_code(file, values)
    named = {key: value for key, value in flags.items() if value is not None and value != []}
    for key in values.keys() & _overruled(named) - named.keys():
        del values[key]
    try:
        return Settings(**{**values, **named}), file
    except ValidationError as error:
        first = error.errors()[0]
        name = "--" + ".".join(str(part) for part in first["loc"][:1]).replace("_", "-")
        raise UsageError(f"{name}: {first['msg']}.") from error


def _refuse_code(file: Path, values: dict[str, Any]) -> None:
    """A file that came along with recordings must not have its maker's code run.

    Diarization models are pickles, a folder of models holds some, and lines of a log can be
    commands to whatever reads the file they are appended to. The user's own configuration is not
    under suspicion.

    Raises:
        UsageError: it sets what only a person should.
    """
    if file.name != FILE_NAME:
        return
    from audio_batch.diarization_models import runs_code

    model, log = values.get("diarize_model"), values.get("log_file")
    named = "model-dir" if "model_dir" in values else None
    if model is not None and runs_code(model):
        named = "diarize-model"
    if log is not None and not log.resolve().is_relative_to(file.parent.resolve()):
        named = "log-file"
    outside = [name for name in REACH_OUT if values.get(name)]
    if locations.is_remote(values.get("output_dir", "")):
        outside.append("output_dir")
    if outside:
        raise UsageError(
            f"{file} was found, not named, and sets {outside[0].replace('_', '-')}: that could "
            "tell another machine what is yours.",
            remedy=f"If you trust it, name the file: --config {file}.",
        )
    if named is not None:
        raise UsageError(
            f"{file} was found, not named, and sets {named}: that could have its maker's code run.",
            remedy=f"If you trust it, name the file: --config {file}.",
        )


def _overruled(named: dict[str, Any]) -> set[str]:
    """Settings of the file that make no sense beside what a flag or variable says."""
    found: set[str] = set()
    if named.get("align_model"):
        found.add("align")
    if any(named.get(key) for key in OF_SPEAKERS):
        found.add("diarize")
    if named.get("align") is False:
        found.add("align_model")
    if named.get("diarize") is False:
        found.update(OF_SPEAKERS)
    if "num_speakers" in named:
        found.update(("min_speakers", "max_speakers"))
    elif "min_speakers" in named or "max_speakers" in named:
        found.add("num_speakers")
    return found


def find(config: Path | None, manifest: Path) -> Path | None:
    """The configuration file to use; see the module's docstring."""
    if config is not None:
        return config
    user = Path(platformdirs.user_config_dir("audio-batch", appauthor=False)) / "config.toml"
    for candidate in (Path(FILE_NAME), manifest.parent / FILE_NAME, user):
        if candidate.is_file():
            return candidate
    return None


def read(file: Path) -> dict[str, Any]:
    """The checked settings of a configuration file; relative paths in it are to its own folder."""
    try:
        raw = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror or error}.") from error
    except RecursionError as error:
        raise UsageError(f"{file} is not valid TOML: it is nested too deeply.") from error
    except ValueError as error:  # its own, no UTF-8, a number with too many digits
        raise UsageError(f"{file} is not valid TOML: {error}.") from error
    values = {key.replace("-", "_"): value for key, value in raw.items()}
    unknown = sorted(set(values) - set(Settings.model_fields))
    if unknown:
        names = ", ".join(name.replace("_", "-") for name in unknown)
        raise UsageError(
            f"{file} holds settings that are not known: {names}.",
            remedy="They are named as the long flags of `audio-batch run --help`.",
        )
    try:
        checked = Settings(**values)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]).replace("_", "-")
        raise UsageError(f"{file}: {name}: {first['msg']}.") from error
    result = checked.model_dump(exclude_none=True)
    for key in PATHS:
        if key in result:
            result[key] = file.parent / result[key].expanduser()
    if "output_dir" in result:
        result["output_dir"] = locations.absolute(result["output_dir"], file.parent)
    if "results_db" in result:
        result["results_db"] = urls.absolute(result["results_db"], file.parent)
    for key in ("model", "align_model", "diarize_model"):
        named = result.get(key, "")
        folder = file.parent / Path(named).expanduser()
        if named.startswith((".", "~")) or ("/" in named and folder.is_dir()):
            result[key] = str(folder)
    return result
