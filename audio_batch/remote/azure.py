"""Recordings in Azure Blob Storage: a look and each range of bytes cost one request.

`az://container/blob` is in the account that the environment names, and
`az://container@account.blob.core.windows.net/blob` in that one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from audio_batch.errors import SetupError
from audio_batch.remote.blobs import BlobStore, seen_of
from audio_batch.remote.listings import Page, look_together
from audio_batch.remote.stores import CONNECT_S, Seen
from audio_batch.remote.waiting import PATIENCE_S, nothing

if TYPE_CHECKING:
    from fsspec.spec import AbstractFileSystem

_PAGE = 5000
"""What a listing gives at most."""

_NAMED = {
    "account_name": ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT"),
    "account_key": ("AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_KEY"),
}
"""What adlfs calls it in the environment, and what Azure's own command does."""


def opened(account: str, tries: int, read_s: float, options: dict[str, Any]) -> AbstractFileSystem:
    """adlfs's file system of an account; "" for that of the environment.

    Raises:
        SetupError: no account is named, or two are.
    """
    from adlfs import AzureBlobFileSystem

    said = {
        key: next((value for name in names if (value := os.environ.get(name))), None)
        for key, names in _NAMED.items()
    }
    if account:
        said |= _named(account)
    elif not (said["account_name"] or os.environ.get("AZURE_STORAGE_CONNECTION_STRING")):
        raise SetupError(
            "No account of Azure is named.",
            remedy="Set AZURE_STORAGE_CONNECTION_STRING or AZURE_STORAGE_ACCOUNT_NAME, or write "
            "az://container@account.blob.core.windows.net/….",
        )
    try:
        found = AzureBlobFileSystem(
            **said, connection_timeout=CONNECT_S, read_timeout=read_s, **options
        )
    except ValueError as error:
        raise SetupError(
            f"The settings of Azure cannot be used: {error}.",
            remedy="See to AZURE_STORAGE_CONNECTION_STRING and the other AZURE_STORAGE_ variables.",
        ) from error
    # adlfs has no option for it, and the library would wait 15 s before its second try.
    policy = found.service_client._config.retry_policy
    policy.total_retries = tries - 1
    policy.initial_backoff, policy.increment_base, policy.random_jitter_range = 1, 2, 1
    return found


def _named(account: str) -> dict[str, str]:
    """What adlfs wants to know of an account in a URI: its name, or its host.

    Raises:
        SetupError: the environment has a connection string, which is of another one.
    """
    name, dot, rest = account.partition(".")
    connection = os.environ.get("AZURE_STORAGE_CONNECTION_STRING", "")
    parts = dict(part.partition("=")[::2] for part in connection.split(";"))
    if connection and parts.get("AccountName") != name:
        raise SetupError(
            f"A URL names the account {name}, and AZURE_STORAGE_CONNECTION_STRING is of another.",
            remedy="Unset it, and sign in by `az login` or the other AZURE_ variables.",
        )
    host = f"{name}.{rest.replace('dfs.', 'blob.', 1) if rest.startswith('dfs.') else rest}"
    return {"account_name": name, **({"account_host": host} if dot else {})}


def is_azure(files: Any) -> bool:
    """Whether it is adlfs's file system."""
    return hasattr(files, "service_client")


class AzureStore(BlobStore):
    """See `stores.Store`.

    Args:
        page: blobs that one request lists; Azure gives no more than five thousand.
    """

    def __init__(
        self,
        filesystem: Callable[[str], AbstractFileSystem],
        renew: Callable[[AbstractFileSystem, str], object],
        page: int = _PAGE,
    ) -> None:
        super().__init__(filesystem, renew)
        self._page = page

    def look(self, uri: str, look: Callable[[], None] = nothing) -> Seen:
        """What the service says of the blob."""
        container, name = _place(uri)

        async def asked(files: Any) -> Any:
            async with files.service_client.get_blob_client(container, name) as blob:
                return await blob.get_blob_properties()

        found = self._ask(uri, asked, look, PATIENCE_S)
        if (found.metadata or {}).get("hdi_isfolder") == "true":
            raise FileNotFoundError(uri)
        return seen_of(found)

    def look_at_many(self, uris: Iterable[str]) -> dict[str, Seen | None]:
        """Those of whom a listing tells many at once."""
        return look_together(uris, lambda uri: _place(uri)[1], self._pages)

    def _pages(self, uri: str, prefix: str, first: str) -> Iterator[Page]:
        del first  # a listing of Azure's begins with its prefix
        container, _ = _place(uri)
        after = None
        while True:

            def asked(files: Any, after: str | None = after) -> Any:
                return _listed(files, container, prefix, after, self._page)

            blobs, after = self._ask(uri, asked, nothing, PATIENCE_S)
            yield {blob.name: seen_of(blob) for blob in blobs}, not after
            if not after:
                return

    def part(self, uri: str, seen: Seen, start: int, end: int, look: Callable[[], None]) -> bytes:
        """Some bytes of the very blob that was looked at (If-Match)."""
        from azure.core import MatchConditions

        container, name = _place(uri)

        async def asked(files: Any) -> bytes:
            async with files.service_client.get_blob_client(container, name) as blob:
                stream = await blob.download_blob(
                    offset=start,
                    length=end - start,
                    etag=f'"{seen.tag}"',
                    match_condition=MatchConditions.IfNotModified,
                )
                return bytes(await stream.readall())

        return self._ask(uri, asked, look)

    def settle(self, uri: str, seen: Seen, look: Callable[[], None]) -> None:
        """Nothing: each range was of one blob."""


def objects(files: Any, base: str, page: int = _PAGE) -> Iterator[tuple[str, int]]:
    """Names below `base`, and sizes, page by page."""
    from fsspec.asyn import sync

    container, _, prefix = base.partition("/")
    prefix = f"{prefix}/" if prefix else ""

    after = None
    while True:
        blobs, after = sync(files.loop, _listed, files, container, prefix, after, page)
        for blob in blobs:
            yield blob.name[len(prefix) :], int(blob.size)
        if not after:
            return


async def _listed(
    files: Any, container: str, prefix: str, after: str | None, page: int
) -> tuple[list[Any], str | None]:
    """A page of a listing, which may be empty, and what the next one begins after."""
    async with files.service_client.get_container_client(container) as client:
        pages = client.list_blobs(name_starts_with=prefix, results_per_page=page).by_page(after)
        async for blobs in pages:
            return [blob async for blob in blobs], pages.continuation_token
    return [], None


def _place(uri: str) -> tuple[str, str]:
    """Container and name, as they stand."""
    container, _, name = uri.split("://", 1)[1].partition("/")
    return container.partition("@")[0], name
