"""Recordings in S3 and what speaks like it: one HEAD or a listing to look, one GET to fetch."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from audio_batch.remote import stores
from audio_batch.remote.access import Access
from audio_batch.remote.failures import trouble
from audio_batch.remote.listings import Page, look_together
from audio_batch.remote.stores import Reading, Seen
from audio_batch.remote.streams import Streamed
from audio_batch.remote.waiting import nothing, wait_for

if TYPE_CHECKING:
    from fsspec.spec import AbstractFileSystem

_MD5 = re.compile("[0-9a-fA-F]{32}")


class S3Store:
    """See `stores.Store`. Requests are tried once; `downloads` and `looks` try again.

    Args:
        page: keys that one request lists; S3 gives no more than a thousand.
    """

    def __init__(self, access: Access, page: int = 1000) -> None:
        self._access = access
        self._page = page

    def look(self, uri: str, look: Callable[[], None] = nothing) -> Seen:
        """What HEAD says."""
        bucket, key = _place(uri)
        answer = self._call("head_object", look=look, Bucket=bucket, Key=key)
        return _seen(bucket, answer, answer["ContentLength"])

    def look_at_many(self, uris: Iterable[str]) -> dict[str, Seen | None]:
        """Those of whom a listing tells many at once."""
        return look_together(uris, lambda uri: _place(uri)[1], self._pages)

    def _pages(self, uri: str, prefix: str, first: str) -> Iterator[Page]:
        bucket, _ = _place(uri)
        # What comes right before the first one: listings begin after a key, not at it.
        options: dict[str, Any] = {"StartAfter": first[:-1]} if len(first) > 1 else {}
        while True:
            page = self._call(
                "list_objects_v2", Bucket=bucket, Prefix=prefix, MaxKeys=self._page, **options
            )
            items = page.get("Contents", ())
            is_last = not page.get("IsTruncated")
            yield {item["Key"]: _seen(bucket, item, item["Size"]) for item in items}, is_last
            if is_last:
                return
            options = {"ContinuationToken": page["NextContinuationToken"]}

    @contextmanager
    def reading(
        self, uri: str, *, start: int = 0, tag: str = "", look: Callable[[], None] = nothing
    ) -> Iterator[Reading]:
        """One GET; with `start` and `tag` only of that very object (If-Match)."""
        bucket, key = _place(uri)
        asked: dict[str, Any] = {"Bucket": bucket, "Key": key}
        if start:
            asked |= {"Range": f"bytes={start}-", "IfMatch": f'"{tag}"'}
        filesystem = self._filesystem()
        answer = self._call("get_object", look=look, filesystem=filesystem, **asked)
        body = answer["Body"]
        try:
            size = answer.get("ContentLength")
            if start:
                size = int(answer["ContentRange"].rpartition("/")[2])
            yield Streamed(_seen(bucket, answer, size), start, filesystem.loop, body.read)
        finally:
            # Not `await body.close()`, which may wait for a server that says nothing.
            filesystem.loop.call_soon_threadsafe(body.close)

    def _filesystem(self) -> AbstractFileSystem:
        return stores.filesystem("s3://", self._access, tries=1, read_s=stores.READ_S)

    def _call(
        self,
        method: str,
        *,
        look: Callable[[], None] = nothing,
        filesystem: AbstractFileSystem | None = None,
        **asked: Any,
    ) -> Any:
        used = filesystem or self._filesystem()
        try:
            return wait_for(used.loop, used._call_s3(method, **asked), look=look)
        except Exception as error:
            if trouble(error).expired:
                # Something else may have written new ones, or somebody has signed in meanwhile.
                stores.renewed(used, "s3://", self._access, tries=1, read_s=stores.READ_S)
            raise


def _place(uri: str) -> tuple[str, str]:
    """Bucket and key, as they stand: an S3 URI knows neither queries nor escapes."""
    bucket, _, key = uri.split("://", 1)[1].partition("/")
    return bucket, key


def _seen(bucket: str, answer: Mapping[str, Any], size: int | None) -> Seen:
    tag = str(answer.get("ETag", "")).strip('"')
    # Of an object in parts, in a directory bucket, or encrypted by a key of KMS or the client's,
    # the ETag is no MD5.
    plain = answer.get("ServerSideEncryption") in (None, "AES256")
    plain = plain and not bucket.endswith("--x-s3")
    plain = plain and not answer.get("SSECustomerAlgorithm")
    return Seen(size, tag, bytes.fromhex(tag) if plain and _MD5.fullmatch(tag) else None)
