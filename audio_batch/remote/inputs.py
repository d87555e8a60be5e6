"""Where a worker's recordings come from: this machine's files, or a store by way of the cache.

with context.inputs.recording(asset, source) as recording:
    path = recording.path(tell, look)   # fetched at the first call, if at all
"""

from __future__ import annotations

import hashlib
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from audio_batch.asset import Asset
from audio_batch.errors import AssetError, ErrorKind, SetupError
from audio_batch.manifest_sources import look as look_for
from audio_batch.remote import stores, urls
from audio_batch.remote.access import DEFAULT_CACHE_BYTES, DEFAULT_DOWNLOADS, Access
from audio_batch.remote.cache import Busy, Cache, Mine, Whole
from audio_batch.remote.cache_watcher import (
    LOOK_S,
    STEP_BYTES,
    CacheWatcher,
    CrowdedError,
    Tell,
)
from audio_batch.remote.downloads import (
    UNKNOWN,
    USUAL,
    Patience,
    cache_error,
    download,
)
from audio_batch.remote.failures import trouble
from audio_batch.text import for_terminal

_log = logging.getLogger("audio_batch.inputs")


class Recording(Protocol):
    """The recording of one attempt."""

    @property
    def source(self) -> str:
        """Its identity: what was planned for, or what was fetched where that was not known."""
        ...

    @property
    def reached(self) -> bool:
        """Whether its store has answered this attempt; False for what lay in the cache."""
        ...

    def path(self, tell: Tell, look: Callable[[], None]) -> Path:
        """Its file, which stays while the attempt lasts; fetched at the first call.

        Args:
            look: called at least once a second meanwhile; may raise to break off.

        Raises:
            AssetError: it cannot be had.
        """
        ...

    def check(self) -> None:
        """See that the file is what the attempt was planned for.

        Raises:
            AssetError: INPUT_CHANGED.
        """
        ...


class Inputs(Protocol):
    """Opens recordings. Any thread."""

    def recording(self, asset: Asset, source: str) -> AbstractContextManager[Recording]:
        """An asset's recording, whose identity was `source` when the run was planned."""
        ...


@dataclass(frozen=True, slots=True)
class InputPlace:
    """What is needed to open recordings: plain values, ready to cross a process border.

    Args:
        cache_dir: the cache's folder; None only where no recording is remote.
        cache_bytes: what it may take.
        downloads: recordings that are fetched at a time, ahead of need.
        run: tells this run's recordings that could not be looked at from those of other runs.
    """

    cache_dir: Path | None = None
    cache_bytes: int = DEFAULT_CACHE_BYTES
    access: Access = field(default_factory=Access)
    downloads: int = DEFAULT_DOWNLOADS
    run: str = ""

    def opened(self) -> PlacedInputs:
        """Open it; nothing is made or connected to before the first remote recording."""
        return PlacedInputs(self)


class PlacedInputs:
    """`Inputs` of a place. Any thread."""

    def __init__(self, place: InputPlace, patience: Patience = USUAL) -> None:
        self.place = place
        self._patience = patience
        self._guard = threading.Lock()
        self._cache: Cache | None = None

    def cache(self) -> Cache:
        """The cache, opened at the first call.

        Raises:
            SetupError: it cannot be used.
        """
        with self._guard:
            if self._cache is None:
                if self.place.cache_dir is None:
                    raise SetupError("There is no cache.", remedy="Name one by --cache-dir.")
                self._cache = Cache(self.place.cache_dir, self.place.cache_bytes)
            return self._cache

    def close(self) -> None:
        """Let go of the cache."""
        with self._guard:
            if self._cache is not None:
                self._cache.close()
                self._cache = None

    @contextmanager
    def recording(self, asset: Asset, source: str) -> Iterator[Recording]:
        """See `Inputs`."""
        if not urls.is_remote(asset.uri):
            yield _LocalRecording(asset, source)
            return
        recording = _RemoteRecording(self, asset, source)
        try:
            yield recording
        finally:
            recording.release()

    def fetch(
        self,
        uri: str,
        source: str,
        tell: Tell,
        look: Callable[[], None],
        answered: Callable[[], None] = lambda: None,
    ) -> Whole:
        """Have a remote recording in the cache, pinned.

        Args:
            answered: called once its store has given it, or refused it.

        Raises:
            AssetError: it cannot be had.
        """
        with _as_asset_errors(self.place):
            cache, key = self.cache(), self._key(uri, source)
            least_bytes, seen_bytes, told_at_s = STEP_BYTES, -1, time.monotonic()
            was_full = False
            while True:
                look()
                try:
                    taken = cache.take(key)
                except sqlite3.Error as error:
                    if was_full or not _is_full(error) or not cache.make_room(_FULL_BYTES):
                        raise
                    was_full = True
                    continue
                if isinstance(taken, Whole):
                    return taken
                if isinstance(taken, Mine):
                    room = self.place.cache_bytes
                    watcher = CacheWatcher(self.cache, room, uri, taken, tell, look, least_bytes)
                    try:
                        found = self._downloaded(uri, source, taken, watcher)
                    except CrowdedError:
                        least_bytes = max(least_bytes, watcher.reserved_bytes * 2)
                        continue
                    except (AssetError, sqlite3.Error) as error:
                        if isinstance(error, AssetError) and _is_answer(error):
                            answered()
                        if was_full or not _is_full(error) or not cache.make_room(_FULL_BYTES):
                            raise
                        was_full = True
                        continue
                    assert found is not None
                    answered()
                    return found
                assert isinstance(taken, Busy)
                if taken.have_bytes != seen_bytes:  # another fetches it, and comes on
                    seen_bytes = taken.have_bytes
                    tell(None)
                elif time.monotonic() - told_at_s > _BEAT_S:
                    # Between two tries of the other: whoever hangs there is found out by its own.
                    told_at_s = time.monotonic()
                    tell(None)
                time.sleep(LOOK_S)

    def has(self, uri: str, source: str) -> bool:
        """Whether a remote recording lies in the cache, so that its store is asked for nothing."""
        try:
            return self.cache().has(self._key(uri, source))
        except (sqlite3.Error, SetupError) as error:
            _log.info("What is in the cache cannot be told: %s", error)
            return False

    def warm(
        self, asset: Asset, look: Callable[[], None], answered: Callable[[], None] = lambda: None
    ) -> bool:
        """Fetch an asset's recording into the cache ahead of need; False where there is no room.

        Args:
            answered: see `fetch`.

        Raises:
            AssetError: it cannot be had; whoever needs it will find that out for itself.
        """
        source = asset.seen or UNKNOWN
        with _as_asset_errors(self.place):
            taken = self.cache().take(self._key(asset.uri, source), pin=False)
            if not isinstance(taken, Mine):
                return True
            room = self.place.cache_bytes
            watcher = CacheWatcher(
                self.cache, room, asset.uri, taken, _deaf, look, STEP_BYTES, ahead=True
            )
            try:
                self._downloaded(asset.uri, source, taken, watcher)
            except CrowdedError:
                return False
            except AssetError as error:
                if _is_answer(error):
                    answered()
                raise
            answered()
            return True

    def _downloaded(self, uri: str, source: str, mine: Mine, watcher: CacheWatcher) -> Whole | None:
        cache = self.cache()
        ended = False
        try:
            store = stores.store(uri, self.place.access)
            download(
                store,
                uri,
                mine.path,
                planned=source,
                part_of=mine.part_of,
                most_bytes=self.place.access.max_download_bytes,
                watcher=watcher,
                patience=self._patience,
            )
            found = cache.finish(mine, pin=not watcher.ahead)
            ended = True
            return found
        except CrowdedError:
            # Of two that hold beginnings and wait for each other's room, neither would get any.
            cache.leave(mine, keep=watcher.ahead)
            ended = True
            raise
        finally:
            if not ended:
                cache.leave(mine)

    def _key(self, uri: str, source: str) -> str:
        where = self.place.access.s3_endpoint or ""
        what, named = source, urls.lasting(uri)
        if source == UNKNOWN or source.endswith(":-"):
            # Of what has no tag nobody can say whether it is the same: in the next run, or under
            # a URL that differs in what looks like a signature.
            what, named = f"{source}\n{self.place.run}", uri
        text = f"{where}\n{named}\n{what}"
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:24]
        # Its own name is what is said of it when it cannot be decoded, and a hint at its format.
        return f"{digest}-{urls.file_name(uri)}"


_BEAT_S = 30.0


_FULL_BYTES = 1 << 30
"""What of the unused is removed at once when the disk turns out to be full."""


def _is_full(error: Exception) -> bool:
    """Whether the disk is full; SQLite says so in several ways."""
    if isinstance(error, AssetError):
        return error.kind is ErrorKind.DISK_FULL
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)


def _is_answer(error: AssetError) -> bool:
    """Whether a failure shows that the store has been reached."""
    return error.away is None and error.kind in (
        *(ErrorKind.INPUT_MISSING, ErrorKind.INPUT_FORBIDDEN, ErrorKind.INPUT_CHANGED),
        ErrorKind.MEDIA_LIMIT,
    )


def _deaf(_share: float | None) -> None:
    """Nobody is told."""


@dataclass(slots=True)
class _LocalRecording:
    """A file of this machine."""

    asset: Asset
    source: str
    reached: bool = False

    def path(self, tell: Tell, look: Callable[[], None]) -> Path:
        """See `Recording`."""
        del tell, look
        if self.asset.path is None:
            raise AssetError(
                ErrorKind.INPUT_MISSING, f"{for_terminal(self.asset.uri)} is not a local file."
            )
        return self.asset.path

    def check(self) -> None:
        """See `Recording`."""
        path = self.asset.path
        found = look_for((str(path),)).identity if path is not None else None
        if (found or "missing") != self.source:
            name = for_terminal(path.name if path is not None else self.asset.uri)
            raise AssetError(
                ErrorKind.INPUT_CHANGED,
                f"{name} changed while it was read, or since the run began.",
                remedy="Run it again when the file is complete.",
                transient=True,
            )


@dataclass(slots=True)
class _RemoteRecording:
    """A recording in the cache, once it is needed."""

    inputs: PlacedInputs
    asset: Asset
    planned: str
    whole: Whole | None = None
    reached: bool = False

    @property
    def source(self) -> str:
        """See `Recording`."""
        if self.planned != UNKNOWN or self.whole is None:
            return self.planned
        return self.whole.identity

    def path(self, tell: Tell, look: Callable[[], None]) -> Path:
        """See `Recording`."""
        if self.whole is None:
            self.whole = self.inputs.fetch(self.asset.uri, self.planned, tell, look, self._answered)
        return self.whole.path

    def _answered(self) -> None:
        self.reached = True

    def check(self) -> None:
        """Nothing: it was checked when it was fetched, and what is pinned does not change."""

    def release(self) -> None:
        """Let go of the file."""
        if self.whole is not None:
            try:
                self.inputs.cache().release(self.whole.pin)
            except (sqlite3.Error, SetupError) as error:
                _log.warning("The cache did not let go of a recording: %s", error)


@contextmanager
def _as_asset_errors(place: InputPlace) -> Iterator[None]:
    """What goes wrong with the cache or a library fails the asset, not the device."""
    try:
        yield
    except SetupError as error:
        raise trouble_of_setup(error) from error
    except sqlite3.Error as error:
        raise AssetError(
            ErrorKind.INPUT_UNREADABLE,
            f"The cache {place.cache_dir} cannot be used: {error}.",
            remedy="Name another folder by --cache-dir.",
            transient=True,
        ) from error
    except OSError as error:
        raise cache_error(error, (place.cache_dir or Path()) / "files" / "file") from error


def trouble_of_setup(error: SetupError) -> AssetError:
    """An environment that lacks something, as the failure of the asset that needed it."""
    found = trouble(error)
    return AssetError(found.kind, f"{found.reason}.", remedy=found.remedy)
