"""Diarization models: where they are, how they are fetched, what identifies them.

A model is a folder in pyannote's own layout, a `config.yaml` that names a segmentation, an
embedding and a PLDA model: "demo", a local folder, or a hub repository ("owner/name", also with
"@" and a commit). Parts are named as `$model/…` (in the folder itself), `$whisperx/…` (in the
installed whisperx package, which carries a segmentation model), by a path (absolute, or from the
folder), or as further hub repositories, which are fetched too. Nothing here loads a model.

The parts are pickles, and whoever makes one can have it run code. So nothing is ever taken from
the current folder because its name happens to fit: neither a part, nor a pipeline whose name is
one of pyannote's own.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from audio_batch import hub
from audio_batch.errors import AudioBatchError, SetupError, UsageError
from audio_batch.hub import read_token as read_token
from audio_batch.identity import content_hash

DEMO = "demo"
DEFAULT_DIARIZATION_MODEL = "pyannote/speaker-diarization-community-1"
DEMO_NOTICE = (
    "This is the demonstration diarization: its small voice model was trained on few speakers. "
    f"Use --diarize-model {DEFAULT_DIARIZATION_MODEL} (or another) for real work."
)

_PYANNOTE = "pyannote/"
"""What begins so is pyannote's own on the hub, never a folder: that is ./pyannote/…"""

_PATTERNS = ("config.yaml", "voices.json", "*.bin", "*.npz")
_PARTS = {
    "segmentation": ("pytorch_model.bin",),
    "embedding": ("pytorch_model.bin",),
    "plda": ("xvec_transform.npz", "plda.npz"),
}
"""The parts of a pipeline and the files in the folder of each; a path may name a .bin itself."""

_WESPEAKER = {
    DEFAULT_DIARIZATION_MODEL: "WeSpeaker ResNet34-LM",
    "pyannote/speaker-diarization-3.1": "WeSpeaker ResNet34-LM",
}
_WESPEAKER_COSINE = 0.5
"""Where WeSpeaker's embeddings of two recordings count as one voice: a usual starting value for
models trained with a margin on VoxCeleb (modelscope/3D-Speaker#135), not measured here."""


@dataclass(frozen=True, slots=True)
class DiarizationReference:
    """A diarization pipeline whose every part is on this machine.

    `path` is the folder with `config.yaml`. `segmentation` and `embedding` are a checkpoint or a
    folder with one, `plda` is a folder, None where the pipeline's clustering needs none.
    `identity` names the content wherever it lies: part of the fingerprint of the diarization.
    The thresholds are cosines from which on two voices count as one (`voices.json` of the folder:
    `embedding`, `link_threshold`, `enrol_threshold`); None where nobody has measured them.
    """

    name: str
    path: Path
    identity: str
    segmentation: Path
    embedding: Path
    plda: Path | None
    embedding_name: str | None = None
    link_threshold: float | None = None
    enrol_threshold: float | None = None

    @property
    def is_demo(self) -> bool:
        """Whether this is the embedded demonstration model, by whatever name it was asked for."""
        return self.path == demo_path().resolve()


@dataclass(frozen=True, slots=True)
class _Part:
    """A part as a configuration names it: a place or a repository, and a folder inside."""

    named: str
    inside: str
    revision: str | None


@dataclass(frozen=True, slots=True)
class _Source:
    """Where a pipeline may be got from, with what a search needs to know."""

    name: str
    cache_dir: Path | None
    offline: bool
    token: str | None
    say: Callable[[str], None]

    def folder(self, repository: str, revision: str | None, missing: Callable[[Path], str]) -> Path:
        """A repository on this machine with nothing `missing`, fetched if need be."""
        found = hub.cached_folder(
            repository, _PATTERNS, cache_dir=self.cache_dir, revision=revision
        )
        if found is not None and not missing(found):
            return found
        part = "" if repository == self.name else f", a part of {self.name!r},"
        fetched = hub.fetch(
            repository,
            _PATTERNS,
            what=f"diarization model {repository!r}{part}",
            remedy="Run once with a network, or use --diarize-model demo or a local folder.",
            cache_dir=self.cache_dir,
            offline=self.offline,
            token=self.token,
            revision=revision,
            say=self.say,
        )
        if lacking := missing(fetched):
            raise SetupError(
                f"The diarization model {repository!r}{part} is here without its {lacking}.",
                remedy="Run with a network to complete the download; otherwise it is no model "
                "that pyannote.audio 4 can use.",
            )
        return fetched


def demo_path() -> Path:
    """The embedded pipeline's folder (a real folder: wheels are installed unpacked)."""
    return Path(str(resources.files("audio_batch") / "demo" / "diarization"))


def find_diarization(
    name: str,
    *,
    model_dir: Path | None,
    offline: bool,
    token: str | None,
    say: Callable[[str], None] = lambda _: None,
) -> DiarizationReference:
    """The pipeline on this machine, fetched from the hub first where that is needed and allowed.

    What is complete in the cache is taken from there without asking the hub.

    Args:
        name: see the module's docstring.
        model_dir: where models are kept; None for the hub's own cache.
        offline: never ask the network (also the environment variable HF_HUB_OFFLINE).
        token: see `read_token`.
        say: told before a download, which can take long.

    Raises:
        UsageError: no model can have this name.
        SetupError: it, or a part of it, is not here and cannot be fetched, or is unusable.
    """
    source = _Source(name, model_dir, offline, token, say)
    if name == DEMO:
        return _describe(demo_path(), source)
    local = _local(name)
    if local is not None:
        return _describe(local, source)
    if not hub.is_repository(name):
        raise UsageError(
            f"There is no diarization model {name!r} and no such folder.",
            remedy=f"Use {DEFAULT_DIARIZATION_MODEL}, another hub repository (owner/name), demo, "
            "or a local folder with a config.yaml.",
        )
    return _describe(source.folder(name, None, _lacks), source)


def is_available(
    name: str, *, model_dir: Path | None, offline: bool, token: str | None
) -> tuple[bool, str]:
    """Whether a run could have the pipeline, without asking the network; the why is a sentence.

    A pipeline that must be fetched counts as available where there is a token and a network is
    allowed: `find_diarization` then tells whether that is so.
    """
    try:
        found = find_diarization(name, model_dir=model_dir, offline=True, token=None)
        return True, f"The diarization model {name!r} is in {found.path}."
    except AudioBatchError as error:
        fetchable = name != DEMO and hub.is_repository(name) and _local(name) is None
        if not fetchable or offline or hub.is_offline():
            return False, str(error)
    if token is None:
        return False, (
            f"The diarization model {name!r} is not on this machine and there is no token to fetch "
            f"it with: accept its terms at {hub.PAGE}{name} and set HF_TOKEN, or use "
            "--diarize-model demo."
        )
    return True, f"The diarization model {name!r} will be fetched."


def runs_code(name: str) -> bool:
    """Whether loading this model runs what some third party may have put into its pickles.

    Not so for the demonstration and pyannote's own models. For others it is the person who must
    have named them, not a file that was merely found.
    """
    return name != DEMO and not (hub.is_repository(name) and name.startswith(_PYANNOTE))


def read_config(folder: Path) -> dict[str, Any]:
    """A pipeline folder's `config.yaml`, checked as far as it is relied on.

    Raises:
        SetupError: it is missing, damaged, or not of a speaker diarization pipeline.
    """
    import yaml

    path = folder / "config.yaml"
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SetupError(
            f"The folder {folder} has no config.yaml, so it is no diarization pipeline.",
            remedy="Name a folder in the layout of pyannote.audio, a hub repository, or demo.",
        ) from error
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise SetupError(
            f"{path} cannot be read: {' '.join(str(error).split())[:200]}.",
            remedy="Download the model again.",
        ) from error
    pipeline = config.get("pipeline") if isinstance(config, dict) else None
    name = pipeline.get("name") if isinstance(pipeline, dict) else None
    parameters = pipeline.get("params") or {} if isinstance(pipeline, dict) else None
    if not isinstance(name, str) or not isinstance(parameters, dict):
        raise SetupError(
            f"{path} describes no pipeline (pipeline: name, params).",
            remedy="Download the model again.",
        )
    if not re.fullmatch(r"pyannote\.audio\.pipelines\.(\w+\.)?SpeakerDiarization", name):
        raise SetupError(
            f"{path} is of a {name[:100]!r}, which is no speaker diarization of pyannote.",
            remedy="Use a pipeline of the class pyannote.audio.pipelines.SpeakerDiarization.",
        )
    assert isinstance(config, dict)
    return config


def _local(name: str) -> Path | None:
    """The folder that a name is, if it is one."""
    if name.startswith(_PYANNOTE):
        return None
    try:
        path = Path(name).expanduser()
        return path if path.is_dir() else None
    except (OSError, RuntimeError, ValueError):  # no such home, too long, a NUL
        return None


def _describe(folder: Path, source: _Source) -> DiarizationReference:
    """Find the parts that a pipeline folder names, and what identifies it all."""
    try:
        parts = {key: _place(key, part, folder, source) for key, part in _named(folder).items()}
        identity = _identity(folder, parts)
    except (OSError, ValueError) as error:
        raise SetupError(
            f"The diarization model in {folder} cannot be read: {error}.",
            remedy="Check its config.yaml and permissions, or download it again.",
        ) from error
    embedding_name, link, enrol = _voices(folder, source.name)
    return DiarizationReference(
        name=source.name,
        path=folder.resolve(),
        identity=identity,
        segmentation=parts["segmentation"],
        embedding=parts["embedding"],
        plda=parts.get("plda"),
        embedding_name=embedding_name,
        link_threshold=link,
        enrol_threshold=enrol,
    )


def _named(folder: Path) -> dict[str, _Part]:
    """The parts that a pipeline folder's configuration names, as far as its clustering needs them.

    A part that is left out is pyannote's own default, which lies in the default model.
    """
    parameters = read_config(folder)["pipeline"].get("params") or {}
    needed = ["segmentation", "embedding"]
    if parameters.get("clustering", "VBxClustering") == "VBxClustering":
        needed.append("plda")
    parts = {}
    for key in needed:
        default = {"checkpoint": DEFAULT_DIARIZATION_MODEL, "subfolder": key}
        value = parameters.get(key, default)
        options = value if isinstance(value, dict) else {"checkpoint": value}
        named, inside = options.get("checkpoint"), options.get("subfolder") or "."
        revision = options.get("revision")
        if not isinstance(named, str) or not isinstance(inside, str):
            raise SetupError(
                f"{folder / 'config.yaml'} names no {key} model that is understood.",
                remedy="Download the model again.",
            )
        if revision is None and not named.startswith("$"):
            named, _, revision = named.partition("@")
        parts[key] = _Part(named, inside, str(revision) if revision else None)
    return parts


def _place(key: str, part: _Part, folder: Path, source: _Source) -> Path:
    """Where a part lies: it is named in one of the forms of the module's docstring."""

    def missing(place: Path) -> str:
        return _missing(key, place / part.inside)

    anchor, _, rest = part.named.partition("/")
    if anchor == "$model":
        place = folder / rest
    elif anchor == "$whisperx":
        place = _package("whisperx") / rest
    elif (folder / part.named).exists():
        place = folder / part.named
    elif hub.is_repository(part.named):
        place = source.folder(part.named, part.revision, missing)
    else:
        place = folder / part.named
    if lacking := missing(place):
        raise SetupError(
            f"The diarization model {source.name!r} has no {key} model: there is no {lacking} at "
            f"{place / part.inside}.",
            remedy="Download the model again, or mend its config.yaml.",
        )
    return (place / part.inside).resolve()


def _lacks(folder: Path) -> str:
    """The first file of its own that a pipeline folder must have and has not; "" if it is whole."""
    if not (folder / "config.yaml").is_file():
        return "config.yaml"
    for key, part in _named(folder).items():
        anchor, _, rest = part.named.partition("/")
        if anchor == "$model" and (lacking := _missing(key, folder / rest / part.inside)):
            return f"{key}/{lacking}"
    return ""


def _missing(key: str, place: Path) -> str:
    """The first file that a part must have and has not; "" where it is whole."""
    if key != "plda" and place.is_file():
        return ""
    return next((name for name in _PARTS[key] if not (place / name).is_file()), "")


def _package(name: str) -> Path:
    """An installed package's folder, without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise SetupError(
            f"The package {name} is not installed, and the diarization model needs a file of it.",
            remedy="Install audio-batch again into a fresh virtual environment.",
        )
    return Path(spec.submodule_search_locations[0])


def checkpoint_of(part: Path) -> Path:
    """The weights of a segmentation or embedding part."""
    return part if part.is_file() else part / "pytorch_model.bin"


def _identity(folder: Path, parts: Mapping[str, Path]) -> str:
    """Name of everything that decides the turns. The thresholds for linking voices decide them
    only in recordings of more than an hour, which are done in pieces: they are left out."""
    files = [folder / "config.yaml"]
    for key, place in sorted(parts.items()):
        files += [place / name for name in _PARTS[key]] if place.is_dir() else [place]
    return content_hash(*files)


def _voices(folder: Path, name: str) -> tuple[str | None, float | None, float | None]:
    """The embedding's name and the thresholds of its cosines, as far as they are known."""
    path = folder / "voices.json"
    if not path.is_file():
        known = _WESPEAKER.get(name.partition("@")[0])
        cosine = _WESPEAKER_COSINE if known else None
        return known, cosine, cosine
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        embedding = values.get("embedding")
        link, enrol = (values.get(f"{kind}_threshold") for kind in ("link", "enrol"))
        for cosine in (link, enrol):
            if cosine is not None and not -1 <= float(cosine) <= 1:
                raise ValueError(f"{cosine} is no cosine")
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise SetupError(
            f"{path} is not understood: {error}.", remedy="Mend it, or remove it."
        ) from error
    return (
        None if embedding is None else str(embedding),
        None if link is None else float(link),
        None if enrol is None else float(enrol),
    )
