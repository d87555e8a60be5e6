"""Whether remote recordings are there, told from a few of each bucket or host."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from audio_batch.config import Settings
from audio_batch.errors import ErrorKind
from audio_batch.preflight.check import Finding, error, ok, warning
from audio_batch.remote import buckets, looks, stores, urls
from audio_batch.remote.downloads import Patience
from audio_batch.remote.failures import Trouble
from audio_batch.remote.settings import access_of

OF_EACH = 20
"""Recordings of one bucket or host that are looked at."""

_MOST_PLACES = 50
_SHOWN = 3
_PATIENCE = Patience(tries=2, longest_s=5.0)


@dataclass(slots=True)
class _Spread:
    """Some of very many, one as far from the next as any other."""

    kept: list[str] = field(default_factory=list)
    count: int = 0
    step: int = 1

    def add(self, uri: str) -> None:
        if self.count % self.step == 0:
            self.kept.append(uri)
            if len(self.kept) > 2 * OF_EACH:
                self.kept = self.kept[::2]
                self.step *= 2
        self.count += 1

    def some(self) -> list[str]:
        """At most `OF_EACH` of them."""
        most = min(OF_EACH, len(self.kept))
        return [self.kept[number * len(self.kept) // most] for number in range(most)]


class Sample:
    """Remote recordings, a few of each bucket or host."""

    def __init__(self) -> None:
        self._places: dict[str, _Spread] = {}

    @property
    def count(self) -> int:
        """How many there are, kept or not."""
        return sum(spread.count for spread in self._places.values())

    def add(self, uris: Iterable[str]) -> None:
        """Take some of these."""
        for uri in uris:
            self._places.setdefault(urls.bucket_of(uri), _Spread()).add(uri)

    def by_place(self) -> dict[str, list[str]]:
        """Those to be looked at, by bucket or host."""
        spreads = list(self._places.items())[:_MOST_PLACES]
        return {place: spread.some() for place, spread in spreads}


def looked_at(sample: Sample, settings: Settings, *, others: int) -> Iterator[Finding]:
    """Look at the sample: a request each, and one for each bucket that holds none of it.

    Args:
        others: how many recordings are there that are not remote.

    Raises:
        SetupError: a library for a store is not installed.
    """
    access = access_of(settings)
    by_place = sample.by_place()
    uris = [uri for some in by_place.values() for uri in some]
    stores.require(uris)
    with ThreadPoolExecutor(min(looks.THREADS, len(uris)), thread_name_prefix="look") as pool:
        found = pool.map(lambda uri: looks.why_not(uri, access, patience=_PATIENCE), uris)
        troubles = dict(zip(uris, found, strict=True))

    gone, shut, silent = [], dict[str, Trouble](), dict[str, Trouble]()
    problems: list[str] = []
    for place, some in by_place.items():
        told = [troubles[uri] for uri in some]
        kinds = {one.kind if one else None for one in told}
        if kinds == {ErrorKind.INPUT_MISSING} and buckets.is_gone(some[0], access):
            gone.append(place)
            continue
        for uri, one in zip(some, told, strict=True):
            if one is None:
                continue
            if one.away == "signed_out":
                shut[place] = one
            elif one.kind is ErrorKind.NETWORK:
                silent[place] = one
            else:
                problems.append(f"{urls.shown(uri)}: {one.reason}")

    if gone:
        rest = others or len(gone) < len(by_place)
        judge = warning if settings.allow_missing and rest else error
        yield judge(buckets.told(gone), buckets.REMEDY)
    for place, one in shut.items():
        yield error(f"{urls.shown(place)}: {one.reason}.", one.remedy)
    for place, one in silent.items():
        yield warning(f"{urls.shown(place)}: {one.reason}.", "A run would wait for it.")
    looked = f"{len(uris)} of {sample.count} remote recordings were looked at"
    if problems:
        some_told = "; ".join(problems[:_SHOWN])
        more = f" and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        judge = warning if settings.allow_missing else error
        yield judge(
            f"{looked}, {len(problems)} cannot be fetched: {some_told}{more}.",
            "Mend the manifest or the rights, or go on without them by --allow-missing.",
        )
    elif not (gone or shut or silent):
        yield ok(f"{looked}: they are there.")
