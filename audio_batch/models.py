"""Recognition models: where they are, how they are fetched, what identifies them.

A model is named by a faster-whisper name ("large-v3-turbo"), a hub repository ("owner/name") of a
CTranslate2 conversion, a local folder, or "demo". Names and repositories may have "@" and a commit
(see `audio_batch.hub`). Nothing here loads a model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from audio_batch import hub
from audio_batch.errors import SetupError, UsageError
from audio_batch.hub import is_offline as is_offline
from audio_batch.options import MODEL_DEFAULT_KEYS, DecodingOptions

DEMO = "demo"
DEMO_NOTICE = (
    "This is the demonstration model: it hears spoken English digits and a few command words, "
    "nothing else. Use --model large-v3-turbo (or another) for real work."
)

REPOSITORIES = {
    "tiny.en": "Systran/faster-whisper-tiny.en",
    "tiny": "Systran/faster-whisper-tiny",
    "base.en": "Systran/faster-whisper-base.en",
    "base": "Systran/faster-whisper-base",
    "small.en": "Systran/faster-whisper-small.en",
    "small": "Systran/faster-whisper-small",
    "medium.en": "Systran/faster-whisper-medium.en",
    "medium": "Systran/faster-whisper-medium",
    "large-v1": "Systran/faster-whisper-large-v1",
    "large-v2": "Systran/faster-whisper-large-v2",
    "large-v3": "Systran/faster-whisper-large-v3",
    "large": "Systran/faster-whisper-large-v3",
    "distil-large-v2": "Systran/faster-distil-whisper-large-v2",
    "distil-medium.en": "Systran/faster-distil-whisper-medium.en",
    "distil-small.en": "Systran/faster-distil-whisper-small.en",
    "distil-large-v3": "Systran/faster-distil-whisper-large-v3",
    "distil-large-v3.5": "distil-whisper/distil-large-v3.5-ct2",
    "large-v3-turbo": "mobiuslabsgmbh/faster-whisper-large-v3-turbo",
    "turbo": "mobiuslabsgmbh/faster-whisper-large-v3-turbo",
}
"""faster-whisper's own table (a test compares them), here so that names need no heavy import."""

_FILES = ("config.json", "preprocessor_config.json", "model.bin", "tokenizer.json", "vocabulary.*")
_SAMPLE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class ModelReference:
    """A model that is on this machine.

    `identity` names its content wherever the folder lies: part of every asset's fingerprint.
    `defaults` is the folder's `decoding.json` (see `audio_batch.options.resolve_decoding`).
    """

    name: str
    path: Path
    identity: str
    size_bytes: int = 0
    defaults: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_demo(self) -> bool:
        """Whether this is the embedded demonstration model, by whatever name it was asked for."""
        return self.path == demo_path().resolve()

    @property
    def can_translate(self) -> bool:
        """False where the name tells that it cannot: it would answer in the spoken language.

        turbo and distil-whisper were trained on transcription alone, ".en" models on English.
        """
        name = self.name.lower().partition("@")[0]
        untrained = name.endswith(".en") or "turbo" in name or "distil" in name
        return not (self.is_demo or untrained)


def demo_path() -> Path:
    """The embedded model's folder (a real folder: wheels are installed unpacked)."""
    return Path(str(resources.files("audio_batch") / "demo" / "whisper"))


def named_only(name: str) -> ModelReference:
    """What another distribution's engine gets: the name as it was written."""
    return ModelReference(name=name, path=Path(), identity="null")


def null_model(name: str) -> ModelReference:
    """What the null engine gets: nothing on disk.

    Raises:
        UsageError: what an asset is to cost cannot be understood.
    """
    from audio_batch.engines.null import NullCosts

    NullCosts.parse(name)
    return named_only(name)


def find(
    name: str,
    *,
    model_dir: Path | None = None,
    offline: bool = False,
    refresh: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> ModelReference:
    """The model on this machine, fetched from the hub first where that is needed and allowed.

    Args:
        name: see the module's docstring.
        model_dir: where models are kept; None for the hub's own cache.
        offline: never ask the network (also the environment variable HF_HUB_OFFLINE).
        refresh: ask the hub although the model is here, and fetch what is missing of it.
        say: told before a download, which can take long.

    Raises:
        UsageError: no model can have this name.
        SetupError: it is not here and cannot be fetched, or its folder is incomplete.
    """
    if name == DEMO:
        return describe(name, demo_path())
    local = Path(name).expanduser()
    # A known name always means the model: a folder that happens to be called so is ./name.
    if not _is_known(name) and local.is_dir():
        return describe(name, local)
    repository = repository_of(name)
    if repository is None:
        known = ", ".join([DEMO, *REPOSITORIES])
        raise UsageError(
            f"There is no model {name!r} and no such folder.",
            remedy=f"Known names: {known}; or a hub repository (owner/name) or a local folder.",
        )
    cached = cached_folder(repository, model_dir)
    if cached is not None and (not refresh or offline or is_offline()):
        return describe(name, cached)
    return describe(name, fetch(name, repository, model_dir=model_dir, offline=offline, say=say))


def repository_of(name: str) -> str | None:
    """The hub repository that a name stands for, or None."""
    known, at, commit = name.partition("@")
    repository = f"{REPOSITORIES.get(known, known)}{at}{commit}"
    return repository if hub.is_repository(repository) else None


def _is_known(name: str) -> bool:
    """Whether a name is of `REPOSITORIES`, by itself or with a commit."""
    return name.partition("@")[0] in REPOSITORIES and repository_of(name) is not None


def cached_folder(repository: str, model_dir: Path | None) -> Path | None:
    """Where a hub model lies on this machine, complete as far as loading it needs; else None."""
    folder = hub.cached_folder(repository, _FILES, cache_dir=model_dir)
    return folder if folder is not None and _missing(folder) is None else None


def fetch(
    name: str,
    repository: str,
    *,
    model_dir: Path | None,
    offline: bool,
    say: Callable[[str], None] = lambda _: None,
) -> Path:
    """Download a hub model into the cache, as far as it is not there; return its folder.

    Raises:
        SetupError: it is not to be had.
    """
    pull = f"audio-batch models pull {name}" + (f" --model-dir {model_dir}" if model_dir else "")
    return hub.fetch(
        repository,
        _FILES,
        what=f"model {name!r}",
        remedy=f"Run `{pull}` once with a network, or use --model demo or a local folder.",
        cache_dir=model_dir,
        offline=offline,
        say=say,
    )


def _missing(folder: Path) -> str | None:
    """The first file that a model folder must have and has not."""
    for name in ("model.bin", "config.json", "tokenizer.json"):
        if not (folder / name).is_file():
            return name
    return None


def describe(name: str, folder: Path) -> ModelReference:
    """Look at a model folder without loading it.

    Raises:
        SetupError: a file is missing, or `decoding.json` is not understood.
    """
    missing = _missing(folder)
    if missing is not None:
        raise SetupError(
            f"The model folder {folder} has no {missing}.",
            remedy="It must be a CTranslate2 conversion (ct2-transformers-converter "
            "--copy_files tokenizer.json preprocessor_config.json) or a complete download.",
        )
    return ModelReference(
        name=name,
        path=folder.resolve(),
        identity=_identity(folder),
        size_bytes=(folder / "model.bin").stat().st_size,
        defaults=_decoding_defaults(folder / "decoding.json"),
    )


def _identity(folder: Path) -> str:
    """SHA-256 over names, sizes and contents; of a large file its beginning, middle and end."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.name not in {"model.bin", "config.json", "tokenizer.json", "decoding.json"}:
            continue
        size = path.stat().st_size
        digest.update(f"{path.name}:{size};".encode())
        with path.open("rb") as file:
            for offset in sorted({0, max(0, size // 2), max(0, size - _SAMPLE_BYTES)}):
                file.seek(offset)
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:16]


def _decoding_defaults(path: Path) -> dict[str, Any]:
    """A model's own decoding defaults: keys of `MODEL_DEFAULT_KEYS`."""
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SetupError(
            f"{path} is not readable as JSON: {error}.", remedy="Mend it, or remove it."
        ) from error
    if not isinstance(values, dict) or not set(values) <= MODEL_DEFAULT_KEYS:
        unknown = sorted(set(values) - MODEL_DEFAULT_KEYS) if isinstance(values, dict) else []
        raise SetupError(
            f"{path} holds settings that are not known: {', '.join(unknown) or 'no object'}.",
            remedy=f"Known: {', '.join(sorted(MODEL_DEFAULT_KEYS))}.",
        )
    if isinstance(values.get("temperature"), (int, float)):
        values["temperature"] = (values["temperature"],)
    try:
        kept = {key: value for key, value in values.items() if key != "batch_size"}
        TypeAdapter(DecodingOptions).validate_python(kept)
        TypeAdapter(int | None).validate_python(values.get("batch_size"))
    except ValidationError as error:
        first = error.errors()[0]
        raise SetupError(
            f"{path}: {'.'.join(str(part) for part in first['loc'])}: {first['msg']}.",
            remedy="Mend it, or remove it.",
        ) from error
    return values
