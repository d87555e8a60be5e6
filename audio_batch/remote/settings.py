"""From the settings of a run to where its recordings come from."""

from __future__ import annotations

import secrets
from pathlib import Path

from audio_batch.config import Settings
from audio_batch.errors import UsageError
from audio_batch.host_memory import parse_size_bytes
from audio_batch.kept_file import cache_folder
from audio_batch.remote.access import (
    DEFAULT_CACHE_BYTES,
    DEFAULT_DOWNLOAD_BYTES,
    DEFAULT_DOWNLOADS,
    Access,
)
from audio_batch.remote.inputs import InputPlace

FOLDER = "inputs"
"""Below the cache folder, beside what runs have learnt."""


def access_of(settings: Settings) -> Access:
    """What the settings allow to be asked of whom.

    Raises:
        UsageError: a setting cannot be understood.
    """
    endpoint = settings.s3_endpoint
    if endpoint is not None and not endpoint.lower().startswith(("http://", "https://")):
        raise UsageError(
            f"--s3-endpoint {endpoint!r} is no URL.", remedy="Write it as https://host or http://…"
        )
    return Access(
        allow_http=bool(settings.allow_http),
        allow_private=bool(settings.allow_private_addresses),
        max_download_bytes=_size(settings.max_download, "--max-download", DEFAULT_DOWNLOAD_BYTES),
        s3_endpoint=endpoint,
        aws_profile=settings.aws_profile,
    )


def inputs_of(settings: Settings) -> InputPlace:
    """Where the recordings of a run come from.

    Raises:
        UsageError: a setting cannot be understood.
    """
    downloads = settings.downloads if settings.downloads is not None else DEFAULT_DOWNLOADS
    if downloads < 0:
        raise UsageError(
            f"--downloads {downloads} is no number of downloads.",
            remedy="Say 4; 0 fetches each recording only when it is its turn.",
        )
    named = settings.cache_dir
    return InputPlace(
        cache_dir=default_cache() if named is None else named.expanduser().absolute() / FOLDER,
        cache_bytes=_size(settings.cache_size, "--cache-size", DEFAULT_CACHE_BYTES),
        access=access_of(settings),
        downloads=downloads,
        run=secrets.token_hex(8),
    )


def default_cache() -> Path:
    """Where this machine keeps remote recordings, unless --cache-dir names a folder."""
    return cache_folder().expanduser().absolute() / FOLDER


def _size(text: str | None, flag: str, default: int) -> int:
    if text is None:
        return default
    if (size_bytes := parse_size_bytes(text, flag)) == 0:
        raise UsageError(f"{flag} {text} leaves no room.", remedy="Say it with a unit: 20GB.")
    return size_bytes
