"""Object stores and the web, as what a download needs: one look at an object, one open body.

    store = stores.store(uri, access)
    seen = store.look(uri)
    with store.reading(uri, start=0) as body: ...

The file systems are fsspec's. Each process opens its own, once for each kind of store.
"""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from audio_batch import locations
from audio_batch.errors import SetupError
from audio_batch.remote.access import Access
from audio_batch.remote.waiting import nothing

if TYPE_CHECKING:
    from fsspec.spec import AbstractFileSystem

_EXTRAS = {
    **dict.fromkeys(("s3", "s3a"), ("s3fs", "s3")),
    **dict.fromkeys(("gs", "gcs"), ("gcsfs", "gcs")),
    **dict.fromkeys(("az", "abfs", "abfss"), ("adlfs", "azure")),
}
"""Of a scheme: the module that fsspec needs, and the extra of ours that brings it."""

CONNECT_S, READ_S = 15.0, 60.0
OUTPUT_READ_S = 20.0
"""Outputs are small: a store that says nothing for so long is asked again."""

CONNECTIONS = 32


@dataclass(frozen=True, slots=True)
class Seen:
    """What a store says of an object.

    Attributes:
        size_bytes: None where it does not say.
        tag: its ETag, generation or time of change, without quotes; "" for none.
        md5: of its bytes, where the store vouches for it.
    """

    size_bytes: int | None
    tag: str
    md5: bytes | None = None

    @property
    def identity(self) -> str:
        """Part of the resume key, as `manifest_sources.identity` is of a local file."""
        size = "?" if self.size_bytes is None else self.size_bytes
        return f"{size}:{self.tag or '-'}"


class Reading(Protocol):
    """The open body of an object.

    Attributes:
        seen: what the answer says of the whole object.
        start: which byte the body begins with; 0 where the server sends all of it.
    """

    @property
    def seen(self) -> Seen: ...

    @property
    def start(self) -> int: ...

    def chunks(self, look: Callable[[], None]) -> Iterator[bytes]:
        """The bytes, at most about 1 MiB at a time. See `waiting.wait_for` for `look`."""
        ...


class Store(Protocol):
    """One kind of store. Any thread. Raises what the libraries raise; see `failures.trouble`."""

    def look(self, uri: str, look: Callable[[], None] = nothing) -> Seen:
        """What is there, by one request. `look` is called meanwhile and may raise to break off."""
        ...

    def look_at_many(self, uris: Iterable[str]) -> dict[str, Seen | None]:
        """Of those that can be told cheaply together: what is there, None where nothing is."""
        ...

    def reading(
        self, uri: str, *, start: int = 0, tag: str = "", look: Callable[[], None] = nothing
    ) -> AbstractContextManager[Reading]:
        """Begin to read, by one request.

        Args:
            start: the first byte that is wanted.
            tag: the bytes before it are of the object with this tag: another one is sent whole.
        """
        ...


def require(uris: Iterable[str]) -> None:
    """See that what is needed to reach these is installed. Imports nothing.

    Raises:
        SetupError: it is not (exit 5).
    """
    for scheme in sorted({locations.scheme(uri) for uri in uris}):
        module, extra = _EXTRAS.get(scheme, ("", ""))
        if module and importlib.util.find_spec(module) is None:
            raise SetupError(
                f"{scheme}:// needs the package {module}, which is not installed.",
                remedy=f"Install it: pip install 'audio-batch[{extra}]'",
            )


_lock = threading.Lock()
_open: dict[tuple[str, Access, int, float], AbstractFileSystem] = {}
_stores: dict[tuple[str, Access], Store] = {}


def filesystem(
    uri: str, access: Access, *, tries: int = 5, read_s: float = OUTPUT_READ_S
) -> AbstractFileSystem:
    """fsspec's file system for a URI; one for each kind of store, access and set of limits.

    Args:
        tries: how often the library itself tries a request. Whoever tries again says 1.
        read_s: a store may be silent for so long in each.

    Raises:
        SetupError: the library for it is not installed.
    """
    require([uri])
    key = (_kind(uri) + _account(uri), access, tries, read_s)
    with _lock:
        if key not in _open:
            _open[key] = _opened(*key)
        return _open[key]


def renewed(
    old: AbstractFileSystem,
    uri: str,
    access: Access,
    *,
    tries: int = 5,
    read_s: float = OUTPUT_READ_S,
) -> AbstractFileSystem:
    """A file system in the place of one whose credentials are over: they are looked up again.

    Of several threads that ask for it, the first opens it and the others get the same.
    """
    key = (_kind(uri) + _account(uri), access, tries, read_s)
    with _lock:
        if _open.get(key) in (None, old):
            _open[key] = _opened(*key)
        return _open[key]


def store(uri: str, access: Access) -> Store:
    """How recordings are read from where a URI leads.

    Raises:
        SetupError: the library for it is not installed.
    """
    require([uri])
    kind = _kind(uri)
    with _lock:
        found = _stores.get((kind, access))
    if found is not None:
        return found
    made: Store
    if kind == "s3":
        from audio_batch.remote.s3 import S3Store

        made = S3Store(access)
    elif kind == "http":
        from audio_batch.remote.web import WebStore

        made = WebStore(access)
    else:
        from audio_batch.remote.azure import AzureStore
        from audio_batch.remote.google import GoogleStore

        made = (GoogleStore if kind == "gs" else AzureStore)(
            lambda uri: filesystem(uri, access, tries=1, read_s=READ_S),
            lambda old, uri: renewed(old, uri, access, tries=1, read_s=READ_S),
        )
    with _lock:
        return _stores.setdefault((kind, access), made)


def _kind(uri: str) -> str:
    scheme = locations.scheme(uri)
    same = {"s3a": "s3", "gcs": "gs", "abfs": "az", "abfss": "az", "https": "http"}
    return same.get(scheme, scheme)


def _account(uri: str) -> str:
    """What is behind the container in a URI of Azure's, with its `@`; "" for nothing."""
    account = uri.split("://", 1)[1].partition("/")[0].partition("@")[2]
    return f"@{account}" if account and _kind(uri) == "az" else ""


def _opened(kind: str, access: Access, tries: int, read_s: float) -> AbstractFileSystem:
    import fsspec

    options: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False}
    if kind == "s3":
        options["config_kwargs"] = {
            "retries": {"mode": "standard", "total_max_attempts": tries},
            "connect_timeout": CONNECT_S,
            "read_timeout": read_s,
            "max_pool_connections": CONNECTIONS,
        }
        if access.s3_endpoint is not None:
            options["endpoint_url"] = access.s3_endpoint
            # Services of other makers are mostly reached by one name, not by one for each bucket.
            options["config_kwargs"]["s3"] = {"addressing_style": "path"}
        if access.aws_profile is not None:
            options["profile"] = access.aws_profile
    elif kind == "http":
        from audio_batch.remote.web import opened

        return opened(access, options)
    elif kind == "gs":
        from audio_batch.remote import google

        return google.opened(tries, read_s, options)
    elif kind.partition("@")[0] == "az":
        from audio_batch.remote import azure

        return azure.opened(kind.partition("@")[2], tries, read_s, options)
    found = fsspec.filesystem(kind, **options)
    if kind == "s3":
        found.retries = 1  # botocore tries again: s3fs would do so for each of its tries
    return found
