"""Recordings on the web: one request a look, one a fetch, and never into a private network.

Addresses are checked where a connection is opened, so at each redirect, and whatever a name
resolved to a moment ago. Redirects are followed here, one by one: at most five, to https or http,
never from https down to http.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import ipaddress
import re
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from audio_batch import __version__, locations
from audio_batch.errors import AssetError, ErrorKind
from audio_batch.remote import stores
from audio_batch.remote.access import Access
from audio_batch.remote.failures import RefusedAddressError, StatusError
from audio_batch.remote.stores import Reading, Seen
from audio_batch.remote.streams import Streamed
from audio_batch.remote.urls import shown
from audio_batch.remote.waiting import nothing, wait_for

if TYPE_CHECKING:
    import aiohttp
    from fsspec.spec import AbstractFileSystem

MOST_REDIRECTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)
_NO_HEAD = (400, 403, 405, 501)
"""A signed URL is signed for GET alone; some servers know no HEAD. One byte is asked for then."""

_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def is_public(text: str) -> bool:
    """Whether an address is one of the open internet; what an IPv6 address carries counts too."""
    address: _Address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        inner: _Address | None = address.ipv4_mapped or address.sixtofour
        if inner is None and address.teredo is not None:
            inner = address.teredo[1]
        if inner is None and (address in _NAT64 or int(address) >> 32 == 0):
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return address.is_global and not address.is_multicast and not address.is_reserved


def _public_socket(info: tuple[Any, Any, int, str, tuple[Any, ...]]) -> socket.socket:
    """A socket for an address that is about to be connected to; aiohttp asks for it.

    Raises:
        RefusedAddressError: it is none of the open internet.
    """
    family, kind, protocol, _, address = info
    if not is_public(str(address[0])):
        raise RefusedAddressError(f"{address[0]} {RefusedAddressError.MARK}")
    return socket.socket(family, kind, protocol)


def opened(access: Access, options: Mapping[str, Any]) -> AbstractFileSystem:
    """fsspec's file system for the web, whose connections are checked."""
    import fsspec

    async def client(**more: Any) -> aiohttp.ClientSession:
        import aiohttp

        return aiohttp.ClientSession(
            **more,
            connector=aiohttp.TCPConnector(
                limit=stores.CONNECTIONS,
                socket_factory=None if access.allow_private else _public_socket,
            ),
            # A proxy would connect in our place, to wherever it likes.
            trust_env=access.allow_private,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            read_bufsize=1 << 19,
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=stores.CONNECT_S, sock_read=stores.READ_S
            ),
            headers={"User-Agent": f"audio-batch/{__version__}", "Accept-Encoding": "identity"},
        )

    return fsspec.filesystem("http", get_client=client, **options)


class WebStore:
    """See `stores.Store`."""

    def __init__(self, access: Access) -> None:
        self._access = access

    def look(self, uri: str, look: Callable[[], None] = nothing) -> Seen:
        """What HEAD says; what a GET of one byte says, where a server has no HEAD for it.

        Likewise where HEAD tells no length, or none at all: some answer every HEAD so.
        """
        told: Seen | None = None
        try:
            with self._answer("HEAD", uri, {}, look) as (answer, _):
                told = _seen(answer)
        except StatusError as error:
            if error.status not in _NO_HEAD:
                raise
        if told is not None and told.size_bytes:
            return told
        try:
            with self._answer("GET", uri, {"Range": "bytes=0-0"}, look) as (answer, _):
                return _seen(answer)
        except StatusError as error:
            if told is None or error.status != 416:
                raise
        return told  # it is empty indeed

    def look_at_many(self, uris: Iterable[str]) -> dict[str, Seen | None]:
        """None: nothing on the web can be listed."""
        del uris
        return {}

    @contextmanager
    def reading(
        self, uri: str, *, start: int = 0, tag: str = "", look: Callable[[], None] = nothing
    ) -> Iterator[Reading]:
        """One GET; the server decides whether it goes on after `start` or sends all of it."""
        asked = {}
        if start and tag and not tag.startswith("W/"):
            condition = tag if tag.endswith(" GMT") else f'"{tag}"'
            asked = {"Range": f"bytes={start}-", "If-Range": condition}
        with self._answer("GET", uri, asked, look) as (answer, loop):
            begins = 0
            if answer.status == 206:
                found = _CONTENT_RANGE.match(answer.headers.get("Content-Range", ""))
                if not found or int(found[1]) != start:
                    raise StatusError(502, "and sent other bytes than were asked for")
                begins = start
            yield Streamed(_seen(answer), begins, loop, answer.content.read)

    @contextmanager
    def _answer(
        self, method: str, uri: str, headers: Mapping[str, str], look: Callable[[], None]
    ) -> Iterator[tuple[aiohttp.ClientResponse, asyncio.AbstractEventLoop]]:
        if not self._access.allow_http:
            raise AssetError(
                ErrorKind.INPUT_FORBIDDEN,
                f"{shown(uri)} is on the web.",
                remedy="--allow-http allows recordings to be fetched from there.",
            )
        used = stores.filesystem("http://", self._access)
        answer = wait_for(used.loop, _asked(used, method, uri, headers), look=look)
        try:
            yield answer, used.loop
        finally:
            # What is left of the body is not waited for.
            with contextlib.suppress(RuntimeError):  # the loop has ended: the program does, too
                used.loop.call_soon_threadsafe(answer.close)


async def _asked(
    filesystem: AbstractFileSystem, method: str, uri: str, headers: Mapping[str, str]
) -> aiohttp.ClientResponse:
    """The answer to a request, at the end of its redirects."""
    from yarl import URL

    session = await filesystem.set_session()
    # A URL that is escaped already may be signed as it stands.
    url = URL(uri, encoded=uri.isascii() and " " not in uri)
    for _ in range(MOST_REDIRECTS + 1):
        answer = await session.request(method, url, headers=headers, allow_redirects=False)
        if answer.status not in _REDIRECTS:
            break
        answer.close()
        target = url.join(URL(answer.headers.get("Location", ""), encoded=True))
        if target.scheme not in locations.WEB or (url.scheme, target.scheme) == ("https", "http"):
            raise _forbidden(f"it is redirected from {url.scheme} to {target.scheme or 'nowhere'}")
        url = target
    else:
        raise _forbidden(f"it is redirected more than {MOST_REDIRECTS} times")
    if answer.status not in (200, 206):
        answer.close()
        raise StatusError(answer.status, answer.reason or "", answer.headers)
    return answer


def _forbidden(reason: str) -> AssetError:
    return AssetError(ErrorKind.INPUT_FORBIDDEN, reason, remedy="Give the URL that it leads to.")


def _seen(answer: aiohttp.ClientResponse) -> Seen:
    headers = answer.headers
    size = None
    if answer.status == 206:
        found = _CONTENT_RANGE.match(headers.get("Content-Range", ""))
        size = int(found[2]) if found and found[2] != "*" else None
    elif headers.get("Content-Length", "").isdecimal():
        size = int(headers["Content-Length"])
    tag = headers.get("ETag", "").strip().replace('"', "") or headers.get("Last-Modified", "")
    return Seen(size, tag.strip(), _md5(headers) if answer.status == 200 else None)


def _md5(headers: Mapping[str, str]) -> bytes | None:
    """What `Content-MD5` (Azure) or `x-goog-hash` (Google) says."""
    text = headers.get("Content-MD5", "")
    if found := re.search(r"\bmd5=([\w+/]+={0,2})", headers.get("x-goog-hash", "")):
        text = found[1]
    try:
        value = base64.b64decode(text, validate=True)
    except binascii.Error:
        return None
    return value if len(value) == 16 else None
