"""Who is to blame where a store gives nothing: the store, or those that ask it.

Told by what others have got meanwhile. Times are of the runner's clock: when the job began that got
something.
"""

from __future__ import annotations

import ipaddress
import math
import sys
from collections import Counter
from collections.abc import Callable
from urllib.parse import urlsplit

from audio_batch import locations
from audio_batch.errors import Away
from audio_batch.flights import Flight
from audio_batch.held import Hold, job_key, store_keys
from audio_batch.plan import Planned
from audio_batch.remote import urls
from audio_batch.remote.downloads import UNKNOWN

IN_A_ROW = 3
"""So many assets without an answer, and none with one between them, say that a store is away."""

_BLAMED = 2
"""A store that was held so often, and came back, is not to blame for everything."""

_WITNESSES = 4
"""So many stores are remembered that have answered last."""

_A_RESOLVER_SAYS_SO = sys.platform == "linux"
"""Whether "no such name" is an answer; elsewhere it is said where there is no network, too."""


class Evidence:
    """See the module's docstring. The runner's thread only.

    Args:
        s3_endpoint: of an S3 service that is not Amazon's, whoever has named it.
    """

    def __init__(self, s3_endpoint: str | None = None) -> None:
        self._s3_endpoint = s3_endpoint
        self._reached_s: dict[str, float] = {}
        self._heard_s = self._named_s = -math.inf
        self._suspects: set[str] = set()
        self._slips: set[str] = set()
        self._known: set[str] = set()
        self._uris: dict[str, str] = {}  # of each of the stores that have answered last, one
        self._released: Counter[str] = Counter()

    def heard(self, origin: str, begun_s: float) -> None:
        """A store has answered."""
        self._heard_s = max(self._heard_s, begun_s)
        if has_name(origin, self._s3_endpoint):
            self._named_s = max(self._named_s, begun_s)

    def reached(self, uri: str, begun_s: float) -> None:
        """A recording's store has answered."""
        origin = urls.origin(uri)
        self.heard(origin, begun_s)
        self._uris.pop(origin, None)
        self._uris[origin] = uri
        if len(self._uris) > _WITNESSES:
            del self._uris[next(iter(self._uris))]
        for key in store_keys(origin):
            self._reached_s[key] = max(self._reached_s.get(key, -math.inf), begun_s)

    def knows(self, origin: str) -> None:
        """A store was reached before the run began."""
        self._known.add(origin)

    def saw(self, planned: Planned) -> None:
        """An asset comes by, whose recording may have been seen when it was planned."""
        asset = planned.asset
        if asset.path is None and asset.seen not in (None, UNKNOWN):
            where = urls.bucket_of(asset.uri)  # cheap: there may be a million
            if where not in self._known:
                self._known.update((where, urls.origin(asset.uri)))

    def released(self, key: str, hold: Hold) -> None:
        """A store is back."""
        self._released[key] += 1
        if hold.cause != hold.probe:
            self._suspects.add(hold.cause)

    def disowned(self, hold: Hold, job: str = "") -> None:
        """Those that wait, and the job that was tried, are to blame."""
        self._suspects.update((*map(job_key, hold.waiting), *([job] if job else ())))

    def settled(self, job: str) -> None:
        """Nothing more is done of it."""
        self._suspects.discard(job)

    def nobody_since(self, since_s: float) -> bool:
        """Whether nobody got through anywhere: the network may be gone."""
        return self._heard_s <= since_s

    def witness(self, hold: Hold, held: Callable[[str], bool]) -> str:
        """A recording whose store is to be asked too: whether it is the network that is gone.

        It answered before; since then nobody may have asked for anything, since all was there.
        "" where that would tell nothing new, or nobody has answered yet.

        Args:
            held: whether a recording's store is away as well.
        """
        doubted = self._heard_s <= hold.doubted_s < math.inf
        if not doubted and not (hold.away.nameless and self._named_s <= hold.since_s):
            return ""
        for origin, uri in reversed(self._uris.items()):
            telling = doubted or has_name(origin, self._s3_endpoint)
            if telling and origin != hold.away.store and not held(uri):
                return uri
        return ""

    def is_own(self, key: str, flight: Flight) -> bool:
        """Whether it is not the store: it was held for this job before, and let others in.

        Or it came back so often, and others that have begun later got through: of several machines
        one may not be signed in.
        """
        if flight.job.key in self._suspects:
            return True
        mended = self._reached_s.get(key, -math.inf) > flight.begun_s
        return mended and self._released[key] >= _BLAMED

    def is_of_few(self, hold: Hold) -> bool:
        """Whether few have ever had no answer there, while others got through elsewhere."""
        few = len(hold.waiting) + bool(hold.probe) < IN_A_ROW
        return few and self._heard_s > hold.doubted_s

    def is_slip(self, away: Away, since_s: float, *, small: bool = False) -> bool:
        """Whether a host's name is a slip of who wrote it, and nothing is to be waited for.

        Nobody knows the name, and nothing has come from there, in this run or when it was planned;
        but other names are known.

        Args:
            since_s: since when nobody knows it.
            small: it will do that the resolver itself says that there is no such name: it has been
                asked for long, and little is at stake.
        """
        if not away.nameless or away.store in self._reached_s or away.store in self._known:
            return False
        if away.store in self._slips:
            return True
        found = self._named_s > since_s or (small and _A_RESOLVER_SAYS_SO)
        if found:
            self._slips.add(away.store)
        return found


def has_name(origin: str, s3_endpoint: str | None = None) -> bool:
    """Whether a store is reached by a name that is looked up, and not by an address."""
    where = s3_endpoint if locations.scheme(origin) == "s3" and s3_endpoint else origin
    if locations.scheme(where) not in locations.WEB:
        return True
    host = urlsplit(where).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return False  # every machine knows it
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return True
    return False
