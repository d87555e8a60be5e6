"""Remote recordings fetched ahead of need, into the cache that the workers use."""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from audio_batch.asset import Asset
from audio_batch.errors import AssetError
from audio_batch.remote import looks, urls
from audio_batch.remote.buckets import Buckets
from audio_batch.remote.downloads import UNKNOWN, Patience
from audio_batch.remote.inputs import InputPlace, PlacedInputs
from audio_batch.sightings import Sightings

_log = logging.getLogger("audio_batch.inputs")

_JOIN_S = 5.0
_HASTY = Patience(tries=2)
"""Whoever needs it tries for longer."""


class Fetching:
    """A run's remote recordings, in its own process: looks at them, and fetches what is next.

    The threads never remove what anybody uses or others have fetched ahead, and leave a fifth of
    the cache to those who need something now. What fails here fails again, and is told, where it is
    needed.
    """

    def __init__(self, place: InputPlace, patience: Patience = _HASTY) -> None:
        self.place = place
        self.spares: Callable[[str], bool] = lambda _uri: False
        """Whether a URI's store is not to be asked for now, since it is away. Any thread."""
        self.answered: Callable[[str, float], None] = lambda _uri, _begun_s: None
        """Told that a URI's store has answered, and when it was asked (`time.monotonic`)."""
        self.buckets = Buckets(place.access)
        """Those of what was looked at. For the thread that looks."""
        self._inputs = PlacedInputs(place, patience)
        self._seen = Sightings()
        self._line: deque[Asset] = deque()
        self._tried: set[str] = set()
        self._change = threading.Condition()
        self._stopping = False
        self._threads = [
            threading.Thread(target=self._run, name=f"fetch-{number}", daemon=True)
            for number in range(place.downloads)
        ]
        self._begun = False

    def look(self, assets: Sequence[Asset]) -> list[Asset]:
        """The assets, those that are remote with what is there of them; see `looks.look_at`.

        What was found is remembered: a plan is made before the run, and once more when it is an
        asset's turn. One thread only.

        Raises:
            SetupError: the cache cannot be used, or a library for a store is not installed.
        """
        if not any(urls.is_remote(asset.uri) for asset in assets):
            return list(assets)
        self._inputs.cache()
        known = [self._remembered(asset) for asset in assets]
        looked = looks.look_at(known, self.place.access, spares=self.spares)
        new = [
            asset
            for asset, before in zip(looked, known, strict=True)
            if before.seen is None and asset.seen is not None
        ]
        for asset in new:
            assert asset.seen is not None
            self._seen.keep(asset, asset.seen)
        self.buckets.note(new)
        return looked

    def _remembered(self, asset: Asset) -> Asset:
        seen = self._seen.of(asset)
        return asset if seen is None else dataclasses.replace(asset, seen=seen)

    def has(self, asset: Asset, source: str) -> bool:
        """Whether a recording lies in the cache as this run has seen or fetched it. Any thread.

        Args:
            source: what it was planned for. That of an earlier run, where the store could not be
                asked in this one, will not do: there may be another object by now.
        """
        return source in (asset.seen, UNKNOWN) and self._inputs.has(asset.uri, source)

    def offer(self, assets: Iterable[Asset]) -> None:
        """Say which assets are next, the first one first; they take the place of those before."""
        remote = [
            asset for asset in assets if urls.is_remote(asset.uri) and asset.seen != looks.MISSING
        ]
        if not remote or not self._threads:
            return
        with self._change:
            self._tried &= {asset.id for asset in remote}
            self._line = deque(asset for asset in remote if asset.id not in self._tried)
            if not self._begun:
                self._begun = True
                for thread in self._threads:
                    thread.start()
            self._change.notify_all()

    def close(self) -> None:
        """Break off what is being fetched (what is there of it is kept) and end the threads."""
        with self._change:
            self._stopping = True
            self._line.clear()
            self._change.notify_all()
        if self._begun:
            for thread in self._threads:
                thread.join(_JOIN_S)
        self._inputs.close()

    def _run(self) -> None:
        while (asset := self._next()) is not None:
            try:
                answered = partial(self.answered, asset.uri, time.monotonic())
                room = self._inputs.warm(asset, self._look, answered)
            except _StoppedError:
                return
            except AssetError as error:
                _log.debug("%s is not fetched ahead: %s", asset.id, error)
            except Exception:
                _log.exception("%s is not fetched ahead", asset.id)
            else:
                if not room:
                    with self._change:  # until something has begun, and the next are offered
                        self._tried.discard(asset.id)
                        self._line.clear()

    def _next(self) -> Asset | None:
        with self._change:
            self._spared()
            while not self._line and not self._stopping:
                self._change.wait()
                self._spared()
            if self._stopping:
                return None
            asset = self._line.popleft()
            self._tried.add(asset.id)
            return asset

    def _spared(self) -> None:
        """Leave out of the line what is not to be asked for now."""
        while self._line and self.spares(self._line[0].uri):
            self._line.popleft()

    def _look(self) -> None:
        if self._stopping:
            raise _StoppedError


class _StoppedError(Exception):
    """The run is over."""
