"""Who a run is to Google and to Azure, found out before anything is asked of them.

Nothing is asked of a store here: who has a key is taken at its word, and who has to fetch a token
fetches one. AWS, which has more to say, is in `aws`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from audio_batch import locations as places
from audio_batch.errors import SetupError
from audio_batch.remote import azure, stores
from audio_batch.remote.access import Access
from audio_batch.remote.failures import trouble

_SCOPE = "https://storage.azure.com/.default"
_GOOGLE = "gcloud auth application-default login"


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a run is to one of them.

    Attributes:
        cloud: "Google Cloud", or "Azure" with its account.
        method: how it signs in; "" for nobody, who reads what is public.
        unasked: why no token could be fetched, or "".
    """

    cloud: str
    method: str
    unasked: str = ""


def identities(locations: Iterable[str], access: Access) -> Iterator[Identity]:
    """Who a run over these inputs and outputs would be, once for each account.

    Args:
        locations: URLs and paths.

    Raises:
        SetupError: no account of Azure is named, nobody is signed in to it, or a sign-in is over;
            an extra is missing.
    """
    opened: set[int] = set()
    for url in sorted({url for url in locations if places.scheme(url) in places.CLOUDS}):
        stores.require([url])
        files = stores.filesystem(url, access)
        if id(files) not in opened:
            opened.add(id(files))
            yield _azure(files) if azure.is_azure(files) else _google(files)


def _google(files: Any) -> Identity:
    if emulator := os.environ.get("STORAGE_EMULATOR_HOST"):
        return Identity("Google Cloud", f"the emulator {emulator}")
    found = files.credentials.credentials
    if found is None:
        return Identity("Google Cloud", "")
    unasked = ""
    try:
        if not found.valid:
            from google.auth.transport.requests import Request

            found.refresh(Request())
    except Exception as error:
        unasked = _unasked(error, "Google Cloud", _GOOGLE)
    who = getattr(found, "service_account_email", "")
    return Identity("Google Cloud", who or type(found).__module__, unasked)


def _azure(files: Any) -> Identity:
    cloud = f"Azure ({files.service_client.account_name})"
    if files.connection_string:
        return Identity(cloud, "a connection string")
    if files.sync_credential is None:
        if files.account_key:
            return Identity(cloud, "an account key")
        return Identity(cloud, "a shared access signature" if files.sas_token else "")
    unasked = ""
    try:
        files.sync_credential.get_token(_SCOPE)
    except Exception as error:
        unasked = _unasked(error, cloud, "az login")
    return Identity(cloud, type(files.sync_credential).__name__, unasked)


def _unasked(error: Exception, cloud: str, command: str) -> str:
    """Why no token came, where the network is to blame.

    Raises:
        SetupError: something else is.
    """
    found = trouble(error)
    if found.away == "signed_out":
        raise SetupError(
            f"Nobody is signed in to {cloud}, or not any more.",
            remedy=f"Sign in by `{command}`, or name a key or a service's account: docs/storage.md "
            "says how.",
        ) from error
    return found.reason
