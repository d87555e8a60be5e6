"""What is there of a manifest's remote recordings, asked before they are planned.

Nothing fails here: what cannot be told is "unknown", and whoever fetches it will be told.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from audio_batch import locations
from audio_batch.asset import Asset
from audio_batch.errors import AudioBatchError, ErrorKind
from audio_batch.remote import stores, urls
from audio_batch.remote.access import Access
from audio_batch.remote.downloads import UNKNOWN, Patience, wait
from audio_batch.remote.failures import Trouble, trouble
from audio_batch.remote.waiting import nothing

_T = TypeVar("_T")

MISSING = "missing"
THREADS = 16

_PATIENCE = Patience(tries=3, longest_s=10.0)
_HOPELESS = 8
"""So many in a row that a host leaves unanswered say that it is gone: the rest is not asked for."""

_log = logging.getLogger("audio_batch.inputs")


def look_at(
    assets: Sequence[Asset],
    access: Access,
    *,
    threads: int = THREADS,
    patience: Patience = _PATIENCE,
    spares: Callable[[str], bool] = lambda _uri: False,
) -> list[Asset]:
    """The assets, those that are remote with the identity of what is there.

    Many objects below one prefix of an S3 bucket are listed, a thousand a request. Of all others,
    each costs a request.

    Args:
        threads: that many are asked for at a time.
        spares: whether a URI is not to be asked for.

    Raises:
        SetupError: a library for a store is not installed.
    """
    wanted = [
        asset.uri
        for asset in assets
        if asset.seen is None and urls.is_remote(asset.uri) and not spares(asset.uri)
    ]
    if not wanted:
        return list(assets)
    stores.require(wanted)
    found = _found(list(dict.fromkeys(wanted)), access, threads, patience)
    return [
        dataclasses.replace(asset, seen=found[asset.uri]) if asset.uri in found else asset
        for asset in assets
    ]


def why_not(uri: str, access: Access, *, patience: Patience = _PATIENCE) -> Trouble | None:
    """What keeps a recording from being fetched, as far as a look tells; None: it is there.

    Raises:
        SetupError: the library for its store is not installed.
    """
    found = stores.store(uri, access)
    try:
        _tried(lambda: found.look(uri), patience)
    except Exception as error:
        return trouble(error)
    return None


def _found(
    uris: Sequence[str], access: Access, threads: int, patience: Patience
) -> Mapping[str, str]:
    gone = _Gone()
    found = _listed(uris, access, patience)
    rest = [uri for uri in uris if uri not in found]

    stopped = threading.Event()

    def look() -> None:
        if stopped.is_set():
            raise _StoppedError

    def one(uri: str) -> str:
        return _identity(uri, access, patience, gone, look)

    pool = ThreadPoolExecutor(max(1, min(threads, len(rest))), thread_name_prefix="look")
    try:
        found.update(zip(rest, pool.map(one, rest), strict=True))
    except BaseException:  # Ctrl-C, or a signal: what is under way is not waited for
        stopped.set()
        raise
    finally:
        pool.shutdown(wait=not stopped.is_set(), cancel_futures=True)
    return found


def _listed(uris: Sequence[str], access: Access, patience: Patience) -> dict[str, str]:
    """What listings tell, each of one bucket: what is wrong with one is not the others' fault."""
    buckets: defaultdict[str, list[str]] = defaultdict(list)
    for uri in uris:
        buckets[urls.bucket_of(uri)].append(uri)
    found: dict[str, str] = {}
    away: set[str] = set()
    for bucket, same in buckets.items():
        scheme = locations.scheme(bucket)
        if scheme in away:
            continue
        look = partial(stores.store(bucket, access).look_at_many, same)
        try:
            many = _tried(look, patience)
        except Exception as error:
            why = trouble(error)
            _log.info("%s is not listed: %s", urls.shown(bucket), why.reason)
            if why.kind is ErrorKind.INPUT_MISSING:  # no bucket: nothing is in it
                found.update(dict.fromkeys(same, MISSING))
            elif why.away is not None:
                away.add(scheme)
            continue
        found.update((uri, seen.identity if seen else MISSING) for uri, seen in many.items())
    return found


class _StoppedError(BaseException):
    """The program is to end."""


def _identity(
    uri: str, access: Access, patience: Patience, gone: _Gone, look: Callable[[], None]
) -> str:
    host = uri.split("://", 1)[1].partition("/")[0]
    if gone.is_gone(host):
        return UNKNOWN
    try:
        seen = _tried(lambda: stores.store(uri, access).look(uri, look), patience, look)
    except Exception as error:
        found = trouble(error)
        if found.kind is ErrorKind.INPUT_MISSING:
            gone.answered(host)
            return MISSING
        if found.kind is ErrorKind.NETWORK:
            gone.silent(host)
        else:
            gone.answered(host)
        _log.debug("%s cannot be looked at: %s", urls.shown(uri), found.reason)
        return UNKNOWN
    gone.answered(host)
    return seen.identity


def _tried(work: Callable[[], _T], patience: Patience, look: Callable[[], None] = nothing) -> _T:
    tries = 0
    while True:
        try:
            return work()
        except AudioBatchError:
            raise
        except Exception as error:
            found: Trouble = trouble(error)
            tries += 1
            if not found.passing or tries >= min(patience.tries, found.most_tries):
                raise
            wait(tries, found, patience, look)


class _Gone:
    """Which hosts have stopped answering. Any thread."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._silent: defaultdict[str, int] = defaultdict(int)

    def silent(self, host: str) -> None:
        with self._guard:
            self._silent[host] += 1

    def answered(self, host: str) -> None:
        with self._guard:
            self._silent[host] = 0

    def is_gone(self, host: str) -> bool:
        with self._guard:
            return self._silent[host] >= _HOPELESS
