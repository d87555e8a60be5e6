"""Forced aligners: which one a language has, where it is, how it is fetched, what identifies it.

An aligner is named by a torchaudio bundle ("WAV2VEC2_ASR_BASE_960H"), a hub repository
("owner/name") or a local folder of a `Wav2Vec2ForCTC`, or "demo". Nothing here loads a model.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal
from urllib.error import HTTPError, URLError

from audio_batch import hub
from audio_batch.errors import SetupError, UsageError
from audio_batch.identity import content_hash

DEMO = "demo"
DEMO_NOTICE = (
    "This is the demonstration aligner: it was trained on spoken English digits and a few command "
    "words, nothing else. Without --align-model each language has an aligner of its own."
)

TORCHAUDIO_DEFAULTS = {
    "en": "WAV2VEC2_ASR_BASE_960H",
    "fr": "VOXPOPULI_ASR_BASE_10K_FR",
    "de": "VOXPOPULI_ASR_BASE_10K_DE",
    "es": "VOXPOPULI_ASR_BASE_10K_ES",
    "it": "VOXPOPULI_ASR_BASE_10K_IT",
}
HUB_DEFAULTS = {
    "ja": "jonatasgrosman/wav2vec2-large-xlsr-53-japanese",
    "zh": "jonatasgrosman/wav2vec2-large-xlsr-53-chinese-zh-cn",
    "nl": "jonatasgrosman/wav2vec2-large-xlsr-53-dutch",
    "uk": "Yehor/wav2vec2-xls-r-300m-uk-with-small-lm",
    "pt": "jonatasgrosman/wav2vec2-large-xlsr-53-portuguese",
    "ar": "jonatasgrosman/wav2vec2-large-xlsr-53-arabic",
    "cs": "comodoro/wav2vec2-xls-r-300m-cs-250",
    "ru": "jonatasgrosman/wav2vec2-large-xlsr-53-russian",
    "pl": "jonatasgrosman/wav2vec2-large-xlsr-53-polish",
    "hu": "jonatasgrosman/wav2vec2-large-xlsr-53-hungarian",
    "fi": "jonatasgrosman/wav2vec2-large-xlsr-53-finnish",
    "fa": "jonatasgrosman/wav2vec2-large-xlsr-53-persian",
    "el": "jonatasgrosman/wav2vec2-large-xlsr-53-greek",
    "tr": "mpoyraz/wav2vec2-xls-r-300m-cv7-turkish",
    "da": "saattrupdan/wav2vec2-xls-r-300m-ftspeech",
    "he": "imvladikon/wav2vec2-xls-r-300m-hebrew",
    "vi": "nguyenvulebinh/wav2vec2-base-vi-vlsp2020",
    "ko": "kresnik/wav2vec2-large-xlsr-korean",
    "ur": "kingabzpro/wav2vec2-large-xls-r-300m-Urdu",
    "te": "anuragshas/wav2vec2-large-xlsr-53-telugu",
    "hi": "theainerd/Wav2Vec2-large-xlsr-hindi",
    "ca": "softcatala/wav2vec2-large-xlsr-catala",
    "ml": "gvs/wav2vec2-large-xlsr-malayalam",
    "no": "NbAiLab/nb-wav2vec2-1b-bokmaal-v2",
    "nn": "NbAiLab/nb-wav2vec2-1b-nynorsk",
    "sk": "comodoro/wav2vec2-xls-r-300m-sk-cv8",
    "sl": "anton-l/wav2vec2-large-xlsr-53-slovenian",
    "hr": "classla/wav2vec2-xls-r-parlaspeech-hr",
    "ro": "gigant/romanian-wav2vec2",
    "eu": "stefan-it/wav2vec2-large-xlsr-53-basque",
    "gl": "ifrz/wav2vec2-large-xlsr-galician",
    "ka": "xsway/wav2vec2-large-xlsr-georgian",
    "lv": "jimregan/wav2vec2-large-xlsr-latvian-cv",
    "tl": "Khalsuu/filipino-wav2vec2-l-xls-r-300m-official",
    "sv": "KBLab/wav2vec2-large-voxrex-swedish",
    "id": "cahya/wav2vec2-large-xlsr-indonesian",
}
"""whisperX's own tables (a test compares them), here because importing whisperX takes 12 s."""

TORCHAUDIO_PAGE = "https://download.pytorch.org/torchaudio/models/"
BUNDLES = {
    "WAV2VEC2_ASR_BASE_10M": "wav2vec2_fairseq_base_ls960_asr_ll10m.pth",
    "WAV2VEC2_ASR_BASE_100H": "wav2vec2_fairseq_base_ls960_asr_ls100.pth",
    "WAV2VEC2_ASR_BASE_960H": "wav2vec2_fairseq_base_ls960_asr_ls960.pth",
    "WAV2VEC2_ASR_LARGE_10M": "wav2vec2_fairseq_large_ls960_asr_ll10m.pth",
    "WAV2VEC2_ASR_LARGE_100H": "wav2vec2_fairseq_large_ls960_asr_ls100.pth",
    "WAV2VEC2_ASR_LARGE_960H": "wav2vec2_fairseq_large_ls960_asr_ls960.pth",
    "WAV2VEC2_ASR_LARGE_LV60K_10M": "wav2vec2_fairseq_large_lv60k_asr_ll10m.pth",
    "WAV2VEC2_ASR_LARGE_LV60K_100H": "wav2vec2_fairseq_large_lv60k_asr_ls100.pth",
    "WAV2VEC2_ASR_LARGE_LV60K_960H": "wav2vec2_fairseq_large_lv60k_asr_ls960.pth",
    "VOXPOPULI_ASR_BASE_10K_EN": "wav2vec2_voxpopuli_base_10k_asr_en.pt",
    "VOXPOPULI_ASR_BASE_10K_ES": "wav2vec2_voxpopuli_base_10k_asr_es.pt",
    "VOXPOPULI_ASR_BASE_10K_DE": "wav2vec2_voxpopuli_base_10k_asr_de.pt",
    "VOXPOPULI_ASR_BASE_10K_FR": "wav2vec2_voxpopuli_base_10k_asr_fr.pt",
    "VOXPOPULI_ASR_BASE_10K_IT": "wav2vec2_voxpopuli_base_10k_asr_it.pt",
    "HUBERT_ASR_LARGE": "hubert_fairseq_large_ll60k_asr_ls960.pth",
    "HUBERT_ASR_XLARGE": "hubert_fairseq_xlarge_ll60k_asr_ls960.pth",
}
"""torchaudio's bundles that write letters, and their files (a test compares them).

MMS_FA is left out: it wants text in Latin letters, which nothing here makes of other scripts.
"""

_DESCRIPTIONS = (
    "config.json",
    "preprocessor_config.json",
    "vocab.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
_WEIGHTS = {"safetensors": "model*.safetensors*", "bin": "pytorch_model*.bin*"}
_REMEDY = (
    "Run once with a network, name a local folder by --align-model, or use --no-align: word times "
    "are then the recognition model's own."
)


@dataclass(frozen=True, slots=True)
class AlignerReference:
    """An aligner that is on this machine.

    `path` is a folder ("huggingface") or a file ("torchaudio"). `identity` names the content
    wherever it lies, as part of the resume key: a hash of a local folder, repository and commit,
    or the bundle, whose weights never change.
    """

    name: str
    path: Path
    identity: str
    kind: Literal["huggingface", "torchaudio"]

    @property
    def is_demo(self) -> bool:
        """Whether this is the embedded demonstration model, by whatever name it was asked for."""
        return self.path == demo_path().resolve()


def demo_path() -> Path:
    """The embedded aligner's folder (a real folder: wheels are installed unpacked)."""
    return Path(str(resources.files("audio_batch") / "demo" / "aligner"))


def find_aligner(
    language: str,
    *,
    align_model: str | None,
    model_dir: Path | None,
    offline: bool,
    token: str | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> AlignerReference | None:
    """The aligner on this machine, fetched first where that is needed and allowed.

    Args:
        language: Whisper's code of the language.
        align_model: see the module's docstring; None for whisperX's default of the language.
        model_dir: where models are kept; None for the hub's and torch's own caches.
        offline: never ask the network (also the environment variable HF_HUB_OFFLINE).
        token: for the hub; None for the one that the hub itself finds (HF_TOKEN, a login).
        say: told before a download, which can take long.

    Returns:
        None where no aligner is known for the language. One that is named serves every language,
        but for "demo", which serves English.

    Raises:
        UsageError: no aligner can have this name.
        SetupError: it is not here and cannot be fetched, or its folder is incomplete.
    """
    name = align_model or TORCHAUDIO_DEFAULTS.get(language) or HUB_DEFAULTS.get(language)
    if name is None or (name == DEMO and language != "en"):
        return None
    if name == DEMO:
        return _in_folder(name, demo_path())
    if name in BUNDLES:
        return _bundle(name, model_dir, offline, say)
    local = Path(name).expanduser()
    # A default is never a folder that happens to be called so.
    if align_model is not None and local.is_dir():
        return _in_folder(name, local)
    if not hub.is_repository(name):
        raise UsageError(
            f"There is no aligner {name!r} and no such folder.",
            remedy=f"Use demo, {', '.join(BUNDLES)}, a hub repository (owner/name) or a local "
            "folder of a Wav2Vec2ForCTC model.",
        )
    return _in_hub(name, model_dir, offline, token, say)


def _in_folder(name: str, folder: Path) -> AlignerReference:
    missing = _missing(folder)
    if missing is not None:
        raise SetupError(
            f"The aligner's folder {folder} has no {missing}.",
            remedy="It must hold a Wav2Vec2ForCTC with its Wav2Vec2Processor, as transformers "
            "saves them.",
        )
    folder = folder.resolve()
    deciding = ("config.json", "preprocessor_config.json", "vocab.json")
    try:
        identity = content_hash(*(folder / part for part in deciding), *_weights(folder))
    except OSError as error:
        raise SetupError(
            f"The aligner in {folder} cannot be read: {error.strerror}.",
            remedy="Check the permissions of its files.",
        ) from error
    return AlignerReference(name, folder, identity, "huggingface")


def _in_hub(
    repository: str,
    model_dir: Path | None,
    offline: bool,
    token: str | None,
    say: Callable[[str], None],
) -> AlignerReference:
    everything = (*_DESCRIPTIONS, *_WEIGHTS.values())
    folder = hub.cached_folder(repository, everything, cache_dir=model_dir)
    # Many repositories hold the same weights twice: the pickles only where nothing else is.
    for weights in _WEIGHTS.values():
        if folder is not None and _missing(folder) is None:
            break
        folder = hub.fetch(
            repository,
            (*_DESCRIPTIONS, weights),
            what=f"aligner {repository!r}",
            remedy=_REMEDY,
            cache_dir=model_dir,
            offline=offline,
            token=token,
            say=say,
        )
    assert folder is not None
    missing = _missing(folder)
    if missing is not None:
        raise SetupError(
            f"The aligner {repository!r} is here without its {missing}.",
            remedy="Run with a network to complete the download; otherwise it is no wav2vec 2.0 "
            "model that can align.",
        )
    name = hub.parted(repository)[0]
    identity = f"{name}@{folder.name[:16]}"  # the hub's cache names folders by commit
    return AlignerReference(repository, folder, identity, "huggingface")


def _missing(folder: Path) -> str | None:
    """The first file that an aligner's folder must have and has not."""
    for name in ("config.json", "preprocessor_config.json", "vocab.json"):
        if not (folder / name).is_file():
            return name
    return None if _weights(folder) else "model.safetensors"


def _weights(folder: Path) -> list[Path]:
    found = [sorted(folder.glob(pattern)) for pattern in _WEIGHTS.values()]
    return next((paths for paths in found if paths), [])


def _bundle(
    name: str, model_dir: Path | None, offline: bool, say: Callable[[str], None]
) -> AlignerReference:
    path = (model_dir or _torch_cache()) / BUNDLES[name]
    if not path.is_file():
        place = f" in {model_dir}" if model_dir else ""
        if offline or hub.is_offline():
            raise SetupError(
                f"The aligner {name!r} is not on this machine{place}, and --offline (or "
                "HF_HUB_OFFLINE) forbids fetching it.",
                remedy=_REMEDY,
            )
        say(f"Fetching the aligner {name!r}; this can take minutes, but only once.")
        download(TORCHAUDIO_PAGE + BUNDLES[name], path, what=f"aligner {name!r}")
    return AlignerReference(name, path, f"torchaudio:{name}", "torchaudio")


def _torch_cache() -> Path:
    """Where `torch.hub` keeps downloads, as it finds that out itself (without importing torch)."""
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = os.environ.get("TORCH_HOME", os.path.join(cache, "torch"))  # noqa: PTH118
    return Path(home).expanduser() / "hub" / "checkpoints"


def download(url: str, path: Path, *, what: str) -> None:
    """Fetch a file to `path`, which is there whole or not at all.

    Raises:
        SetupError: it cannot be had, or not be stored.
    """
    part: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(prefix=path.name, suffix=".part", dir=path.parent)
        with os.fdopen(handle, "wb") as file, urllib.request.urlopen(url, timeout=60) as answer:
            shutil.copyfileobj(answer, file, 1 << 20)
            declared = answer.headers["Content-Length"]
            if declared is not None and file.tell() != int(declared):
                raise ConnectionError(f"it ended after {file.tell()} of {declared} bytes")
        Path(part).replace(path)
        part = None
    except HTTPError as error:
        raise SetupError(
            f"The {what} could not be fetched: its server answered HTTP {error.code}.",
            remedy=_REMEDY,
        ) from error
    except (URLError, ConnectionError, TimeoutError) as error:
        reason = getattr(error, "reason", None) or error
        raise SetupError(
            f"The {what} is not on this machine and could not be fetched: {reason}.",
            remedy=f"Check the network. {_REMEDY}",
        ) from error
    except OSError as error:
        raise SetupError(
            f"The {what} cannot be stored in {path.parent}: {error.strerror or error}.",
            remedy="Make room, or name another folder by --model-dir.",
        ) from error
    finally:
        if part is not None:
            Path(part).unlink(missing_ok=True)
