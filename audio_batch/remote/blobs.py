"""Recordings in any store that fsspec knows, by what all its file systems have in common.

An object is looked at before and after its bytes are read, in ranges. Google's and Azure's stores
can be asked for ranges of the very object that was looked at: see `google` and `azure`.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from audio_batch.remote.failures import TruncatedError, trouble
from audio_batch.remote.stores import Reading, Seen
from audio_batch.remote.waiting import nothing, wait_for

if TYPE_CHECKING:
    from fsspec.spec import AbstractFileSystem

_T = TypeVar("_T")

RANGE_BYTES = 8 << 20
_RANGE_S = 600.0
"""For one range, however slow the line is; the libraries end a silence before that."""


class BlobStore:
    """See `stores.Store`.

    Args:
        filesystem: opens the file system of a URI, or gives the one that is open.
        renew: opens another in the place of one whose credentials are over.
    """

    def __init__(
        self,
        filesystem: Callable[[str], AbstractFileSystem],
        renew: Callable[[AbstractFileSystem, str], object] = lambda _old, _uri: None,
    ) -> None:
        self._filesystem = filesystem
        self._renew = renew

    def look(self, uri: str, look: Callable[[], None] = nothing) -> Seen:
        """What the store says of the object."""
        look()
        info = self._filesystem(uri).info(uri)
        if info.get("type") == "directory":
            raise FileNotFoundError(uri)
        return seen_of(info)

    def look_at_many(self, uris: Iterable[str]) -> dict[str, Seen | None]:
        """None: fsspec cannot list a part of a folder, and a folder may hold millions."""
        del uris
        return {}

    @contextmanager
    def reading(
        self, uri: str, *, start: int = 0, tag: str = "", look: Callable[[], None] = nothing
    ) -> Iterator[Reading]:
        """By ranges of 8 MiB, from `start` if the object still has this tag."""
        look()
        seen = self.look(uri, look)
        same = bool(tag) and seen.tag == tag
        yield _Ranges(self, uri, seen, start if same else 0)

    def part(self, uri: str, seen: Seen, start: int, end: int, look: Callable[[], None]) -> bytes:
        """Some bytes of an object, by one request."""
        del seen
        look()
        return bytes(self._filesystem(uri).cat_file(uri, start=start, end=end))

    def settle(self, uri: str, seen: Seen, look: Callable[[], None]) -> None:
        """See that all that was read is of one object.

        Raises:
            TruncatedError: it is not.
        """
        if self.look(uri, look).identity != seen.identity:
            raise TruncatedError("it changed while it was read")

    def _ask(
        self,
        uri: str,
        question: Callable[[Any], Coroutine[Any, Any, _T]],
        look: Callable[[], None],
        patience_s: float = _RANGE_S,
    ) -> _T:
        """Ask the store. Where its credentials are over, the next to ask has new ones."""
        files = self._filesystem(uri)
        try:
            return wait_for(files.loop, question(files), look=look, patience_s=patience_s)
        except Exception as error:
            if trouble(error).expired:
                self._renew(files, uri)
            raise


@dataclass(frozen=True, slots=True)
class _Ranges:
    store: BlobStore
    uri: str
    seen: Seen
    start: int

    def chunks(self, look: Callable[[], None]) -> Iterator[bytes]:
        """One range after the other."""
        position, size = self.start, self.seen.size_bytes
        while size is None or position < size:
            end = position + RANGE_BYTES if size is None else min(position + RANGE_BYTES, size)
            data = self.store.part(self.uri, self.seen, position, end, look)
            if not data:
                break
            position += len(data)
            yield data
        self.store.settle(self.uri, self.seen, look)


def seen_of(info: Mapping[str, Any]) -> Seen:
    """What a file system's `info`, or Google's or Azure's own, says of an object."""
    tags = (info.get(key) for key in ("generation", "etag", "ETag", "last_modified", "mtime"))
    tag = next((str(value) for value in tags if value), "")
    size = info.get("size")
    return Seen(None if size is None else int(size), tag.replace('"', ""), md5_of(info))


def md5_of(said: Mapping[str, Any]) -> bytes | None:
    """The MD5 that Google (base64) or Azure (bytes) tells of an object; None for none."""
    settings = said.get("content_settings")  # a class of Azure's, which is no `Mapping`
    content = settings.get("content_md5") if settings is not None else None
    told = said.get("md5Hash") or content or said.get("content_md5")
    if isinstance(told, bytes | bytearray):
        return bytes(told) if len(told) == 16 else None
    try:
        value = base64.b64decode(told, validate=True) if isinstance(told, str) else b""
    except binascii.Error:
        return None
    return value if len(value) == 16 else None
