"""Recordings in any store that fsspec knows, by what all its file systems have in common.

For Google's and Azure's: an object is looked at before and after its bytes are read, in ranges.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from audio_batch.remote.failures import TruncatedError
from audio_batch.remote.stores import Reading, Seen
from audio_batch.remote.waiting import nothing

if TYPE_CHECKING:
    from fsspec.spec import AbstractFileSystem

RANGE_BYTES = 8 << 20


class BlobStore:
    """See `stores.Store`.

    Args:
        filesystem: opens the file system of a URI, or gives the one that is open.
    """

    def __init__(self, filesystem: Callable[[str], AbstractFileSystem]) -> None:
        self._filesystem = filesystem

    def look(self, uri: str, look: Callable[[], None] = nothing) -> Seen:
        """What the store says of the object."""
        look()
        info = self._filesystem(uri).info(uri)
        if info.get("type") == "directory":
            raise FileNotFoundError(uri)
        return _seen(info)

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
        seen = self.look(uri)
        same = bool(tag) and seen.tag == tag
        yield _Ranges(self._filesystem(uri), uri, seen, start if same else 0, self.look)


@dataclass(frozen=True, slots=True)
class _Ranges:
    filesystem: AbstractFileSystem
    uri: str
    seen: Seen
    start: int
    again: Callable[[str], Seen]

    def chunks(self, look: Callable[[], None]) -> Iterator[bytes]:
        """One range after the other."""
        position, size = self.start, self.seen.size_bytes
        while size is None or position < size:
            look()
            end = position + RANGE_BYTES if size is None else min(position + RANGE_BYTES, size)
            data = self.filesystem.cat_file(self.uri, start=position, end=end)
            if not data:
                break
            position += len(data)
            yield data
        if self.again(self.uri).identity != self.seen.identity:
            raise TruncatedError("it changed while it was read")


def _seen(info: Mapping[str, Any]) -> Seen:
    tags = (info.get(key) for key in ("generation", "etag", "ETag", "last_modified", "mtime"))
    tag = next((str(value) for value in tags if value), "")
    settings = info.get("content_settings")
    content = settings.get("content_md5") if isinstance(settings, Mapping) else None
    said = info.get("md5Hash") or content
    return Seen(info.get("size"), tag.replace('"', ""), _digest(said))


def _digest(said: Any) -> bytes | None:
    """An MD5 as Google (base64) and Azure (bytes) give it."""
    if isinstance(said, bytes | bytearray):
        return bytes(said) if len(said) == 16 else None
    try:
        value = base64.b64decode(said, validate=True) if isinstance(said, str) else b""
    except binascii.Error:
        return None
    return value if len(value) == 16 else None
