"""One object into one file: resumed, bounded, verified, tried again where that may do.

A part that an earlier try left, or an earlier run that was killed, is gone on with where the store
says that it is still the same object; otherwise all of it is read again.
"""

from __future__ import annotations

import hashlib
import logging
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from audio_batch.errors import AssetError, ErrorKind
from audio_batch.remote.failures import (
    DamagedError,
    Trouble,
    TruncatedError,
    changed,
    trouble,
)
from audio_batch.remote.stores import Reading, Seen, Store
from audio_batch.remote.urls import shown
from audio_batch.storage import output_error
from audio_batch.text import for_terminal

UNKNOWN = "unknown"
"""The identity of an object that could not be looked at; whatever is fetched will do."""

_GAIN_BYTES = 1 << 20
SYNCED_BYTES = 64 << 20
"""A part is synced to the disk whenever so much more of it is there."""

_log = logging.getLogger("audio_batch.inputs")


@dataclass(frozen=True, slots=True)
class Patience:
    """How often a request is tried, and the seconds before the second try; they double each time.

    A try that brought a megabyte more than those before it does not count. What a server asks to
    wait is waited, for `longest_s` at most.
    """

    tries: int = 5
    first_s: float = 0.5
    longest_s: float = 120.0


USUAL = Patience()


class Watcher(Protocol):
    """Who is told how a download comes on. May raise from any of these to break it off."""

    def look(self) -> None:
        """Called twice a second, whether anything comes or not."""
        ...

    def room(self, total_bytes: int | None, have_bytes: int) -> None:
        """There has to be room for so much on the disk; None where nobody knows how much."""
        ...

    def began(self, identity: str) -> None:
        """The file's bytes are of the object with this identity from now on."""
        ...

    def moved(self, have_bytes: int, total_bytes: int | None) -> None:
        """So much of it is there."""
        ...


def download(
    store: Store,
    uri: str,
    target: Path,
    *,
    planned: str,
    part_of: str,
    most_bytes: int,
    watcher: Watcher,
    patience: Patience = USUAL,
) -> Seen:
    """Bring an object into `target`, whole, verified and synced to the disk.

    Args:
        planned: the identity that it must have; `UNKNOWN` takes any.
        part_of: the identity of which `target` holds the beginning; "" where it holds nothing.
        most_bytes: the largest object that may be fetched.

    Raises:
        AssetError: INPUT_MISSING, INPUT_FORBIDDEN, INPUT_CHANGED, MEDIA_LIMIT, NETWORK, DISK_FULL.
    """
    state = _State(uri, target, part_of, planned, most_bytes, watcher)
    _cut_unsynced(target)
    tries, furthest = 0, 0
    while True:
        watcher.look()
        try:
            return state.attempt(store)
        except _OwnError as error:
            raise error.error from error
        except Exception as error:
            found = trouble(error)
            if isinstance(error, AssetError) and not found.passing:
                raise
            if state.begins_anew(found):
                continue
            gained = state.have_bytes >= furthest + _GAIN_BYTES
            furthest = max(furthest, state.have_bytes)
            tries = 1 if gained else tries + 1
            over = not found.passing or found.kind is ErrorKind.INPUT_CHANGED
            if over or tries >= min(patience.tries, found.most_tries):
                if isinstance(error, AssetError):
                    raise
                raise found.error(uri) from error
            _log.info("%s: %s; it is tried again", shown(uri), found.reason)
            wait(tries, found, patience, watcher.look)


def wait(tries: int, found: Trouble, patience: Patience, look: Callable[[], None]) -> None:
    """Wait before the next try: what the server asks for, else twice as long as the last time."""
    delay_s = patience.first_s * 2 ** (tries - 1) * random.uniform(0.75, 1.25)
    asked_s = delay_s if found.after_s is None else min(found.after_s, patience.longest_s)
    until_s = time.monotonic() + asked_s
    while (left_s := until_s - time.monotonic()) > 0:
        look()
        time.sleep(min(0.5, left_s))


def _cut_unsynced(target: Path) -> None:
    """Cut off what may not have come onto the disk, where the machine has started anew since."""
    import psutil

    try:
        status = target.stat()
        if status.st_mtime < psutil.boot_time():
            os.truncate(target, status.st_size // SYNCED_BYTES * SYNCED_BYTES)
    except FileNotFoundError:
        return
    except OSError as error:
        raise cache_error(error, target) from error


class _OwnError(Exception):
    """An error of this machine, or an order to stop: never tried again here."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(slots=True)
class _State:
    """A download over its tries."""

    uri: str
    target: Path
    part_of: str
    planned: str
    most_bytes: int
    watcher: Watcher
    _stale: bool = False

    @property
    def have_bytes(self) -> int:
        """So many bytes of it are in the file."""
        try:
            return self.target.stat().st_size
        except OSError:
            return 0

    def begins_anew(self, found: Trouble) -> bool:
        """Whether what is in the file turned out to be of no use: it is cut to nothing."""
        stale = found.kind is ErrorKind.INPUT_CHANGED or found.range_refused
        if not (stale and self._stale):
            return False
        self._clear()
        return True

    def _clear(self) -> None:
        self.part_of = ""
        self._stale = False
        self.target.unlink(missing_ok=True)

    def attempt(self, store: Store) -> Seen:
        """One try. Raises whatever goes wrong; what went wrong on this side as `_OwnError`."""
        size, _, tag = self.part_of.partition(":")
        have = self.have_bytes if tag not in ("", "-") else 0
        if size.isdecimal() and have:
            have = max(0, min(have, int(size) - 1))  # there is nothing to be had after the last
        self._stale = have > 0
        with store.reading(self.uri, start=have, tag=tag, look=self._look) as body:
            seen = body.seen
            if body.start and seen.identity != self.part_of:
                raise changed().error(self.uri)  # the end of another object
            self._stale = False
            if self.planned not in (UNKNOWN, seen.identity):
                raise changed().error(self.uri)
            self._check_size(seen.size_bytes or 0)
            self.part_of = seen.identity
            with self._here():
                self.watcher.room(seen.size_bytes, body.start)
                self.watcher.began(seen.identity)
            self._receive(body, seen)
        return seen

    def _receive(self, body: Reading, seen: Seen) -> None:
        digest = None if seen.md5 is None else hashlib.md5(usedforsecurity=False)
        with self._here():
            file = self.target.open("r+b" if body.start else "wb")
        with file:
            with self._here():
                if digest is not None:
                    _feed(digest, file, body.start)
                file.seek(body.start)
                file.truncate()
            have = body.start
            synced = have // SYNCED_BYTES
            for chunk in body.chunks(self._look):
                have += len(chunk)
                self._check_size(have)
                with self._here():
                    if seen.size_bytes is None:
                        self.watcher.room(None, have)
                    file.write(chunk)
                    if have // SYNCED_BYTES > synced:
                        synced = have // SYNCED_BYTES
                        file.flush()
                        os.fsync(file.fileno())
                    self.watcher.moved(have, seen.size_bytes)
                if digest is not None:
                    digest.update(chunk)
            self._verify(file, have, seen, digest)
            with self._here():
                file.flush()
                os.fsync(file.fileno())

    def _verify(self, file: BinaryIO, have: int, seen: Seen, digest: hashlib._Hash | None) -> None:
        short = seen.size_bytes is not None and have < seen.size_bytes
        if short:
            raise TruncatedError(f"{have} of its {seen.size_bytes} bytes came")
        long = seen.size_bytes is not None and have > seen.size_bytes
        if long or (digest is not None and digest.digest() != seen.md5):
            with self._here():
                file.truncate(0)
            raise DamagedError("what came is not what the store says that it holds")

    def _check_size(self, size_bytes: int) -> None:
        if size_bytes > self.most_bytes:
            raise AssetError(
                ErrorKind.MEDIA_LIMIT,
                f"{shown(self.uri)} is larger than {size_text(self.most_bytes)}.",
                remedy="--max-download allows more, as far as --cache-size has room.",
            )

    def _look(self) -> None:
        with self._here():
            self.watcher.look()

    @contextmanager
    def _here(self) -> Iterator[None]:
        """What fails in it is no fault of the store: it ends the download."""
        try:
            yield
        except OSError as error:
            raise _OwnError(cache_error(error, self.target)) from error
        except BaseException as error:
            raise _OwnError(error) from error


def cache_error(error: OSError, path: Path) -> AssetError:
    """A failure to write into the cache, as the asset's."""
    return AssetError(
        output_error(error, path).kind,
        f"It cannot be kept in the cache {for_terminal(str(path.parent.parent))}: "
        f"{error.strerror or type(error).__name__}.",
        remedy="Free some space, or name another folder by --cache-dir.",
        transient=True,
    )


def _feed(digest: hashlib._Hash, file: BinaryIO, length: int) -> None:
    file.seek(0)
    while length > 0 and (data := file.read(min(length, 1 << 20))):
        digest.update(data)
        length -= len(data)


def size_text(size_bytes: int) -> str:
    """A size for a sentence, as "1.5 GB"."""
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if size_bytes >= unit:
            return f"{size_bytes / unit:g} {name}"
    return f"{size_bytes} bytes"
