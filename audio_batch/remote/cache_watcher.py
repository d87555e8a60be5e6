"""Room in the cache for what a download brings, made as it comes, and news of how much is there."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from audio_batch.errors import AssetError, ErrorKind
from audio_batch.remote import urls
from audio_batch.remote.cache import Cache, Mine
from audio_batch.remote.downloads import size_text

Tell = Callable[[float | None], None]
"""Told how much of a recording is there, from 0 to 1, whenever more of it is; None: who knows."""

STEP_BYTES = 64 << 20
"""What is reserved for a recording whose length nobody says; doubled whenever it is not enough."""
LOOK_S = 0.25


class CrowdedError(Exception):
    """There is no room in the cache for more of it, and nothing may be waited for."""


@dataclass(slots=True)
class CacheWatcher:
    """See `downloads.Watcher`: makes room in the cache, and hands on what moves.

    Args:
        cache: opens the cache, which may take `bound_bytes`.
        mine: the download's place in it.
        check: called now and then; may raise to break off.
        least_bytes: what is reserved first where nobody says how much comes.
        ahead: nobody needs it yet: it waits for no room.
    """

    cache: Callable[[], Cache]
    bound_bytes: int
    uri: str
    mine: Mine
    tell: Tell
    check: Callable[[], None]
    least_bytes: int
    ahead: bool = False
    reserved_bytes: int = 0

    def look(self) -> None:
        """Break off where nobody waits for it."""
        self.check()

    def room(self, total_bytes: int | None, have_bytes: int) -> None:
        """Wait for room in the cache, or say that there is none."""
        bound = self.bound_bytes
        if (total_bytes or have_bytes) > bound:
            raise AssetError(
                ErrorKind.MEDIA_LIMIT,
                f"{urls.shown(self.uri)} is larger than the cache, which may take "
                f"{size_text(bound)}.",
                remedy="--cache-size allows more.",
            )
        if total_bytes is not None:
            self._reserve(total_bytes, wait=not self.ahead)
        elif have_bytes + STEP_BYTES // 4 > self.reserved_bytes < bound:
            first = self.reserved_bytes == 0
            wanted = self.least_bytes if first else 2 * self.reserved_bytes
            # Two that grow and wait for each other's room would wait for ever.
            self._reserve(min(bound, wanted), wait=first and not self.ahead)

    def _reserve(self, size_bytes: int, *, wait: bool) -> None:
        cache = self.cache()
        while not cache.reserve(self.mine, size_bytes, ahead=self.ahead):
            if not wait or self.holds_bytes():
                raise CrowdedError
            self.check()
            self.tell(None)  # those that take the room are at work
            time.sleep(LOOK_S)
        self.reserved_bytes = size_bytes

    def holds_bytes(self) -> bool:
        """Whether there is a beginning, which takes room that others may wait for."""
        try:
            return self.mine.path.stat().st_size > 0
        except OSError:
            return False

    def began(self, identity: str) -> None:
        """Remember what the part is of."""
        self.cache().began(self.mine, identity)

    def moved(self, have_bytes: int, total_bytes: int | None) -> None:
        """Hand on how much is there."""
        self.check()
        self.tell(have_bytes / total_bytes if total_bytes else None)
