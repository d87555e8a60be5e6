"""The one seam to the model hub: folders in its cache, downloads, and what its refusals mean.

Everything is fetched as files into the hub's cache (or a folder of the user's) and later loaded
from there by path, so that no library asks the network when it loads a model.

A repository is named "owner/name", or "owner/name@commit" with a commit's 40 hexadecimal digits:
such a name means the same files for ever. What this program names by itself is fetched at the
commit of `PINNED`; what lies in the cache already is used as it is.
"""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from audio_batch.errors import AudioBatchError, SetupError, UsageError
from audio_batch.text import keep_secret

PAGE = "https://huggingface.co/"
TOKEN_PAGE = PAGE + "settings/tokens"

PINNED: Mapping[str, str] = {
    "Systran/faster-whisper-tiny.en": "0d3d19a32d3338f10357c0889762bd8d64bbdeba",
    "Systran/faster-whisper-tiny": "d90ca5fe260221311c53c58e660288d3deb8d356",
    "Systran/faster-whisper-base.en": "3d3d5dee26484f91867d81cb899cfcf72b96be6c",
    "Systran/faster-whisper-base": "ebe41f70d5b6dfa9166e2c581c45c9c0cfc57b66",
    "Systran/faster-whisper-small.en": "d1d751a5f8271d482d14ca55d9e2deeebbae577f",
    "Systran/faster-whisper-small": "536b0662742c02347bc0e980a01041f333bce120",
    "Systran/faster-whisper-medium.en": "a29b04bd15381511a9af671baec01072039215e3",
    "Systran/faster-whisper-medium": "08e178d48790749d25932bbc082711ddcfdfbc4f",
    "Systran/faster-whisper-large-v1": "b07c8d4be0be90092aa01a29c975077acb8d15c9",
    "Systran/faster-whisper-large-v2": "f0fe81560cb8b68660e564f55dd99207059c092e",
    "Systran/faster-whisper-large-v3": "edaa852ec7e145841d8ffdb056a99866b5f0a478",
    "Systran/faster-distil-whisper-large-v2": "fe9b404fc56de3f7c38606ef9ba6fd83526d05e4",
    "Systran/faster-distil-whisper-medium.en": "80ddfce281f77766d8943d63109199fc8145dfa5",
    "Systran/faster-distil-whisper-small.en": "ef77d90526ccd62cde3808ee70626a01e5cf83e4",
    "Systran/faster-distil-whisper-large-v3": "c3058b475261292e64a0412df1d2681c06260fab",
    "distil-whisper/distil-large-v3.5-ct2": "9793ccc07920e0f830e1dba0343efcdf0ef8c903",
    "mobiuslabsgmbh/faster-whisper-large-v3-turbo": "0a363e9161cbc7ed1431c9597a8ceaf0c4f78fcf",
    "pyannote/speaker-diarization-community-1": "3533c8cf8e369892e6b79ff1bf80f7b0286a54ee",
}
"""The commit at which a repository is fetched whose name comes with this program.

They are those that public lock files and caches hold for these repositories.
"""

_REPOSITORY = re.compile(
    r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9._-]+)(?:@(?P<commit>[0-9a-f]{40}))?"
)
_TOKEN = re.compile(r"[!-~]{1,512}")


def is_offline() -> bool:
    """Whether the environment forbids the network, read as huggingface_hub reads it."""
    return any(
        os.environ.get(key, "").upper() in {"1", "ON", "YES", "TRUE"}
        for key in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    )


def is_repository(name: str) -> bool:
    """Whether a text can be a hub repository, "owner/name" or "owner/name@commit", and no path."""
    return ".." not in name and _REPOSITORY.fullmatch(name) is not None


def parted(repository: str) -> tuple[str, str | None]:
    """A repository's name and the commit that is meant: the one it is named with, else PINNED's."""
    name, _, commit = repository.partition("@")
    return name, commit or PINNED.get(name)


def read_token(file: Path | None) -> str | None:
    """The hub's token: that of the file, else HF_TOKEN, else the hub's own login, else None.

    From then on `text.redact` masks it in this process, whatever it looks like.

    Raises:
        UsageError: the file cannot be read, or what is there can be no token. The text is in no
            message.
    """
    if file is None:
        found = _token_of_this_user()
        if found is not None and not _TOKEN.fullmatch(found):
            raise UsageError(
                "What HF_TOKEN (or the hub's login) holds can be no token.",
                remedy=f"Copy it again from {TOKEN_PAGE}.",
            )
        if found is not None:
            keep_secret(found)
        return found
    try:
        with file.open("rb") as stream:
            text = stream.read(4096).decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        text = "\0"
    except OSError as error:
        raise UsageError(
            f"--hf-token-file {file} cannot be read: {error.strerror}.",
            remedy="Name a file that holds the token and nothing else.",
        ) from error
    if not _TOKEN.fullmatch(text):
        what = "is empty" if not text else "holds something else than one token"
        raise UsageError(
            f"--hf-token-file {file} {what}.",
            remedy=f"Copy the token from {TOKEN_PAGE} into it, on one line.",
        )
    keep_secret(text)
    return text


def _token_of_this_user() -> str | None:
    """What the hub's own search finds, begun only where there is a place with something in it.

    Its modules take a fifth of a second, also of a run that needs nothing from the hub.
    """
    from huggingface_hub.constants import HF_TOKEN_PATH

    named = any(os.environ.get(key) for key in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"))
    in_notebook = "IPython" in sys.modules  # that of Colab has a place of its own
    if not (named or in_notebook or os.path.exists(HF_TOKEN_PATH)):  # noqa: PTH110
        return None
    import huggingface_hub

    found: str | None = huggingface_hub.get_token()
    return found


def cached_folder(
    repository: str, patterns: Sequence[str], *, cache_dir: Path | None, revision: str | None = None
) -> Path | None:
    """Where a repository lies on this machine, or None. Files of it may be missing: look.

    Where neither the name nor `revision` says which commit is meant, PINNED's goes before what was
    fetched last.

    Args:
        patterns: the files that are wanted, with `*` (which matches "/" too).
        cache_dir: where models are kept; None for the hub's own cache.

    Raises:
        UsageError: no repository can have this name.
    """
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError

    name, commit = parted(repository)
    wanted = [revision or commit]
    if commit is not None and revision is None and "@" not in repository:
        wanted.append(None)
    for one in wanted:
        try:
            return Path(
                huggingface_hub.snapshot_download(
                    name,
                    revision=one,
                    cache_dir=cache_dir,
                    local_files_only=True,
                    allow_patterns=list(patterns),
                )
            )
        except HFValidationError as error:
            raise UsageError(f"{repository!r} can be no repository: {error}") from error
        except OSError:
            continue
    return None


def fetch(
    repository: str,
    patterns: Sequence[str],
    *,
    what: str,
    remedy: str,
    cache_dir: Path | None,
    offline: bool,
    token: str | None = None,
    revision: str | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Path:
    """Download a repository's files into the cache, where they are not there; return its folder.

    A folder that an interrupted download left incomplete is returned as it is when the hub cannot
    be reached: look for the files that are needed. The token appears in no message.

    Args:
        patterns, cache_dir: see `cached_folder`.
        what: the noun that messages use, such as "model 'large-v3'".
        remedy: what to do where there is no network.
        offline: refuse (also the environment variable HF_HUB_OFFLINE).
        token: None for the one that the hub itself finds (HF_TOKEN, a login).
        say: told before the download, which can take long.

    Raises:
        UsageError: no repository can have this name.
        SetupError: it is not to be had.
    """
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError

    place = f" in {cache_dir}" if cache_dir else ""
    if offline or is_offline():
        raise SetupError(
            f"The {what} is not on this machine{place}, and --offline (or HF_HUB_OFFLINE) forbids "
            "fetching it.",
            remedy=remedy,
        )
    say(f"Fetching the {what} from {repository}; this can take minutes, but only once.")
    name, commit = parted(repository)
    try:
        return Path(
            huggingface_hub.snapshot_download(
                name,
                revision=revision or commit,
                cache_dir=cache_dir,
                allow_patterns=list(patterns),
                token=token,
                # Threads race for one link there where links need a privilege (WinError 1314).
                max_workers=1 if sys.platform == "win32" else 8,
            )
        )
    except HFValidationError as error:
        raise UsageError(f"{repository!r} can be no repository: {error}") from error
    except Exception as error:
        has_token = bool(token or huggingface_hub.get_token())
        raise refusal(error, repository, what, place, remedy, has_token=has_token) from error


def refusal(
    error: Exception, repository: str, what: str, place: str, remedy: str, *, has_token: bool
) -> AudioBatchError:
    """What stands in the way, one sentence, and what to do about it."""
    from huggingface_hub.errors import (
        DisabledRepoError,
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    # The hub's client hides some answers behind "not found locally": the cause tells.
    causes = [error, *(cause for cause in (error.__cause__, error.__context__) if cause)]
    status = next((code for code in map(_status, causes) if code is not None), None)
    page = PAGE + parted(repository)[0]

    def is_one(kind: type[Exception]) -> bool:
        return any(isinstance(cause, kind) for cause in causes)

    if is_one(GatedRepoError) and not has_token:
        return SetupError(
            f"The {what} is gated, and there is no token to show that its terms were accepted.",
            remedy=f"Accept its terms at {page}, make a read token at {TOKEN_PAGE}, and set "
            "HF_TOKEN or give --hf-token-file.",
        )
    if is_one(GatedRepoError) and status != 401:
        return SetupError(
            f"The {what} is gated, and the token's owner has not accepted its terms.",
            remedy=f"Accept its terms at {page}, logged in as the token's owner, and run again.",
        )
    if is_one(RepositoryNotFoundError) and not is_one(GatedRepoError):
        private = "that this token may read" if has_token else "that may be read without a token"
        return SetupError(
            f"The hub has no repository {repository!r} {private}.",
            remedy="Check the name; for a private one set HF_TOKEN or give --hf-token-file.",
        )
    if status == 401:
        return SetupError(
            f"The hub does not accept the token, so the {what} cannot be fetched (HTTP 401).",
            remedy=f"Make a new read token at {TOKEN_PAGE} and set HF_TOKEN or give "
            "--hf-token-file.",
        )
    if is_one(RevisionNotFoundError) or is_one(DisabledRepoError):
        return SetupError(
            f"The hub does not offer what the {what} needs of {repository!r}.",
            remedy=f"Look at {page}: it may have been renamed, changed or withdrawn. Another "
            "state of it is named with its commit, owner/name@commit.",
        )
    if status == 403:
        return SetupError(
            f"The hub refuses the {what} to this token (HTTP 403).",
            remedy=f"Accept its terms at {page}, and let the token read public gated "
            f"repositories ({TOKEN_PAGE}).",
        )
    disk = next((text for text in map(_disk_trouble, causes) if text), None)
    if disk is not None:
        return SetupError(
            f"The {what} cannot be stored{place}: {disk}.",
            remedy="Make room, or name another folder by --model-dir.",
        )
    said = f"HTTP {status}" if status is not None else type(error).__name__
    return SetupError(
        f"The {what} is not on this machine{place} and could not be fetched: the hub did not "
        f"answer ({said}).",
        remedy=f"Check the network. {remedy}",
    )


def _status(error: BaseException) -> int | None:
    """The HTTP status of an answer, where the error is one."""
    code = getattr(getattr(error, "response", None), "status_code", None)
    return code if isinstance(code, int) else None


def _disk_trouble(error: BaseException) -> str | None:
    """What the file system says, where it and not the network is at fault."""
    ours = (
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EACCES,
        errno.EPERM,
        errno.EROFS,
        errno.EEXIST,
        errno.ENOTDIR,
        errno.ENAMETOOLONG,
    )
    return error.strerror if isinstance(error, OSError) and error.errno in ours else None
