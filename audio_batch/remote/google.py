"""Recordings in Google Cloud Storage: a look and each range of bytes cost one request.

The program speaks to the service by gcsfs and its JSON API, never by gRPC: buckets of the storage
class Rapid, which take nothing else, are not to be reached.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from audio_batch.remote.blobs import BlobStore, seen_of
from audio_batch.remote.failures import changed
from audio_batch.remote.listings import Page, look_together
from audio_batch.remote.stores import CONNECT_S, Seen
from audio_batch.remote.waiting import PATIENCE_S, nothing

if TYPE_CHECKING:
    from fsspec.spec import AbstractFileSystem

_PAGE = 1000
"""What a listing gives at most."""


def opened(tries: int, read_s: float, options: dict[str, Any]) -> AbstractFileSystem:
    """gcsfs's file system, signed in by its own chain; as nobody where there are no credentials."""
    import aiohttp
    from gcsfs.core import GCSFileSystem
    from gcsfs.retry import retry_request

    # Without it one request may take five minutes, whatever comes.
    limits = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=read_s)
    # gcsfs tries each request six times, for half a minute, and has no option for it.
    once = GCSFileSystem._request.__wrapped__
    tried = {"_request": retry_request(retries=tries)(once)}
    return type("Google", (GCSFileSystem,), tried)(requests_timeout=limits, **options)


def is_google(files: Any) -> bool:
    """Whether it is gcsfs's file system."""
    return "gs" in files.protocol


class GoogleStore(BlobStore):
    """See `stores.Store`."""

    def look(self, uri: str, look: Callable[[], None] = nothing) -> Seen:
        """What the service says of the object."""
        bucket, key = _place(uri)

        def asked(files: Any) -> Any:
            return files._call("GET", "b/{}/o/{}", bucket, key, json_out=True)

        return seen_of(self._ask(uri, asked, look, PATIENCE_S))

    def look_at_many(self, uris: Iterable[str]) -> dict[str, Seen | None]:
        """Those of whom a listing tells many at once."""
        return look_together(uris, lambda uri: _place(uri)[1], self._pages)

    def _pages(self, uri: str, prefix: str, first: str) -> Iterator[Page]:
        bucket, _ = _place(uri)
        fields = "items(name,size,generation,md5Hash),nextPageToken"
        options = {"prefix": prefix, "startOffset": first, "maxResults": _PAGE, "fields": fields}
        token = None
        while True:

            def asked(files: Any, token: str | None = token) -> Any:
                return files._call(
                    "GET", "b/{}/o", bucket, json_out=True, pageToken=token, **options
                )

            page = self._ask(uri, asked, nothing, PATIENCE_S)
            token = page.get("nextPageToken")
            yield {item["name"]: seen_of(item) for item in page.get("items", ())}, not token
            if not token:
                return

    def part(self, uri: str, seen: Seen, start: int, end: int, look: Callable[[], None]) -> bytes:
        """Some bytes of the generation that was looked at."""
        path = "/".join(_place(uri))

        def asked(files: Any) -> Any:
            url = f"{files.url(path)}&generation={seen.tag}"
            return files._call("GET", url, headers={"Range": f"bytes={start}-{end - 1}"})

        try:
            return bytes(self._ask(uri, asked, look)[1])
        except FileNotFoundError as error:
            raise changed().error(uri) from error

    def settle(self, uri: str, seen: Seen, look: Callable[[], None]) -> None:
        """Nothing: each range was of one generation."""


def objects(files: Any, base: str) -> Iterator[tuple[str, int]]:
    """Names below `base`, and sizes, page by page."""
    bucket, _, prefix = base.partition("/")
    prefix = f"{prefix}/" if prefix else ""
    asked = {"prefix": prefix, "maxResults": _PAGE, "fields": "items(name,size),nextPageToken"}
    token = None
    while True:
        page = files.call("GET", "b/{}/o", bucket, json_out=True, pageToken=token, **asked)
        for item in page.get("items", ()):
            yield item["name"][len(prefix) :], int(item["size"])
        token = page.get("nextPageToken")
        if not token:
            return


def _place(uri: str) -> tuple[str, str]:
    """Bucket and name, as they stand."""
    bucket, _, key = uri.split("://", 1)[1].partition("/")
    return bucket, key
