"""Stores that are away: what lies there waits, uncounted, and is no asset's failure.

failed      nobody is signed in, or several in a row had no answer: the store is held
keep        what lies in a store that is held waits here, instead of in the queue
due         now and then one of those that wait is tried
reached     it got through: all of them go on
over        a run with nothing else to do has waited long enough

A sign-in is over for all that lies behind it, silence is that of one host or bucket. Outputs in a
store that is away hold every asset.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from audio_batch import events, locations
from audio_batch.control import Message
from audio_batch.errors import Away, ErrorKind
from audio_batch.flights import Flight
from audio_batch.outcome import Outcome, State, StoreAway
from audio_batch.plan import Action, Planned
from audio_batch.remote import urls

FIRST_S, LONGEST_S = 15.0, 120.0
"""Before the first try of one that waits, and the most before any other; doubling in between."""
IN_A_ROW = 3
"""So many assets without an answer, and none with one between them, say that a store is away."""
MOST = 100_000
"""So many wait here, 2 kB each; what comes later in the feed stays there."""

_BLAMED = 2
"""A store that was held so often, and came back, is not to blame for everything."""

_ANSWERS = frozenset(
    {
        *(ErrorKind.INPUT_MISSING, ErrorKind.INPUT_FORBIDDEN, ErrorKind.INPUT_CHANGED),
        *(ErrorKind.NOT_MEDIA, ErrorKind.NO_AUDIO_STREAM, ErrorKind.EMPTY_AUDIO),
        *(ErrorKind.MEDIA_LIMIT, ErrorKind.MEDIA_DAMAGED),
    }
)
"""Failures that show that the store has been reached."""


class Line(Protocol):
    """The queue of a run; see `backlog.Backlog`."""

    def add(self, *planned: Planned) -> None:
        """Take assets that are to begin."""
        ...

    def set_aside(self) -> None:
        """Offer everything to `Holds.keep`."""
        ...


SignIn = Callable[[Away, Callable[[Message], None]], None]
"""Has a person sign in again, without waiting for it. The second argument is to be called, in any
thread, when that has ended, however it has; what it is given is done in the runner's thread."""


@dataclass(slots=True)
class _Hold:
    """A store that is away, and what waits for it; those that failed there come first.

    `waiting` is turned, so that each try is another's: what fails may be one asset's own after all.
    `cause` is the key of the job for which it is held, `probe` that of the one that is tried, ""
    while none is.
    """

    away: Away
    cause: str
    since_s: float
    next_s: float
    delay_s: float
    waiting: deque[Planned] = field(default_factory=deque)
    probe: str = ""


@dataclass(slots=True)
class _Row:
    """Assets that have failed at a store, one after the other: how often, by job.

    `since_s` is when the first of them did.
    """

    since_s: float
    failures: dict[str, int] = field(default_factory=dict)


class Holds:
    """See the module's docstring. The runner's thread only, but for `holds`.

    Args:
        wait_s: for so long a run with nothing else to do waits, from when a store is held on; 0:
            none ever is.
        outputs: where transcripts go; only a store's URL matters.
        profile: of the AWS configuration, if one is named.
        first_s: before the first try of one that waits.
        sign_in: is called once for each sign-in that has ended.

    `line`, `emit` and `post`, which takes messages to the runner's thread, are the runner's.
    """

    line: Line
    emit: Callable[[events.Event], None]
    post: Callable[[Message], None]

    def __init__(
        self,
        wait_s: float = 0.0,
        outputs: str = "",
        *,
        profile: str | None = None,
        first_s: float = FIRST_S,
        sign_in: SignIn | None = None,
    ) -> None:
        self._wait_s = wait_s
        self._outputs = urls.origin(outputs) if locations.is_remote(outputs) else ""
        self._profile = profile
        self._first_s = first_s
        self._sign_in = sign_in
        self._holds: dict[str, _Hold] = {}
        self._rows: dict[str, _Row] = {}
        self._reached_s: dict[str, float] = {}
        self._suspects: set[str] = set()
        self._released: Counter[str] = Counter()
        self._told_of_waiting = False

    def __len__(self) -> int:
        """How many wait."""
        return sum(len(hold.waiting) for hold in self._holds.values())

    def __iter__(self) -> Iterator[Planned]:
        """What waits."""
        for hold in self._holds.values():
            yield from hold.waiting

    @property
    def full(self) -> bool:
        """Whether nothing more should be brought from the feed for now."""
        return bool(self._holds) and len(self) >= MOST

    def holds(self, uri: str) -> bool:
        """Whether a recording lies in a store that is held. Any thread."""
        return bool(self._holds) and any(key in self._holds for key in _keys(urls.origin(uri)))

    # -- what has happened ------------------------------------------------------------------------

    def failed(
        self, flight: Flight, planned: Planned, away: Away, now_s: float
    ) -> dict[str, int] | None:
        """A job has failed because its store is away; None: it counts, as other failures do.

        Else the asset is kept, as `planned` has it, and what is returned are the earlier attempts
        that count no longer: how many, by job.
        """
        if not self._wait_s:
            return None
        key, job = _key(away), flight.job.key
        back: dict[str, int] = {}
        hold = self._holds.get(key)
        if hold is None:
            row = self._rows.setdefault(key, _Row(now_s))
            row.failures[job] = row.failures.get(job, 0) + 1
            few = len(row.failures) < (1 if away.signed_out else IN_A_ROW)
            if few or self._is_own(key, flight):
                return None
            back = self._rows.pop(key).failures
            back[job] -= 1
            hold = self._begin(key, away, job, now_s)
        self._landed(job, now_s, but=hold)
        if hold.probe != job:
            hold.waiting.appendleft(planned)
            return back
        hold.probe = ""
        hold.delay_s = min(LONGEST_S, 2 * hold.delay_s)
        hold.next_s = now_s + hold.delay_s
        hold.waiting.append(planned)
        return back

    def _is_own(self, key: str, flight: Flight) -> bool:
        """Whether it is not the store: it was held for this job before, and let others in.

        Or it came back so often, and others that have begun later got through: of several machines
        one may not be signed in.
        """
        if flight.job.key in self._suspects:
            return True
        mended = self._reached_s.get(key, -math.inf) > flight.begun_s
        return mended and self._released[key] >= _BLAMED

    def _begin(self, key: str, away: Away, job: str, now_s: float) -> _Hold:
        self._told_of_waiting = False
        hold = _Hold(away, job, now_s, now_s + self._first_s, self._first_s)
        self._holds[key] = hold
        self.line.set_aside()
        what = "lets nobody in" if away.signed_out else "does not answer"
        text = f"{key} {what}: {away.reason}. What needs it waits, all else goes on."
        if away.signed_out:
            text += f" {self._remedy(key)}, and what waits goes on too."
        self.emit(events.Notice(text, warning=True))
        if away.signed_out and self._sign_in is not None:
            self._sign_in(away, lambda after: self.post(lambda: self._hurry(key, after)))
        return hold

    def _remedy(self, key: str) -> str:
        command = _SIGN_IN.get(key, "")
        if key == "s3://" and self._profile is not None:
            command += f" --profile {self._profile}"
        return f"Sign in again, for example by `{command}`" if command else "Sign in again"

    def _hurry(self, key: str, after: Message) -> None:
        """Somebody may have signed in: try it now."""
        after()
        hold = self._holds.get(key)
        if hold is not None:
            hold.next_s = -math.inf

    def progressed(self, flight: Flight, event: events.AssetProgress) -> None:
        """A job has told how far it is: whether its recording could be had."""
        if event.share <= 0 or flight.planned.asset.path is not None:
            return
        keys = _keys(urls.origin(flight.planned.asset.uri))
        if event.stage == "fetch":
            for key in keys:
                self._reached_s[key] = max(self._reached_s.get(key, -math.inf), flight.begun_s)
                row = self._rows.get(key)
                if row is not None and row.since_s < flight.begun_s:
                    del self._rows[key]
        for key in keys:
            hold = self._holds.get(key)
            if hold is not None and hold.probe == flight.job.key:
                self._release(key)

    def ended(self, flight: Flight, outcome: Outcome, now_s: float) -> None:
        """A job has ended, and not because its store is away."""
        if not (self._holds or self._rows):
            return
        job = flight.job.key
        if outcome.outputs:
            for key in _keys(self._outputs) if self._outputs else ():
                self._rows.pop(key, None)
        fetched = outcome.state in (State.DONE, State.INCOMPLETE) or outcome.error_kind in _ANSWERS
        for key, hold in list(self._holds.items()):
            if hold.probe != job:
                continue
            reads, writes = self._uses(flight.planned, key)
            if (reads and fetched) or (writes and outcome.outputs):
                self._release(key)
        self._landed(job, now_s)

    def settled(self, job: str) -> None:
        """An outcome stands: none of the job's attempts is taken back any more."""
        self._suspects.discard(job)
        for row in self._rows.values():
            if job in row.failures:
                row.failures[job] = 0

    def lost(self, job: str, now_s: float) -> None:
        """A job has ended in a way that says nothing of a store."""
        self._landed(job, now_s)

    def _landed(self, job: str, now_s: float, but: _Hold | None = None) -> None:
        for hold in self._holds.values():
            if hold.probe == job and hold is not but:
                hold.probe = ""
                hold.next_s = now_s + hold.delay_s

    def _release(self, key: str) -> None:
        hold = self._holds.pop(key)
        self._released[key] += 1
        if hold.cause != hold.probe:
            self._suspects.add(hold.cause)
        count = _assets(hold.waiting)
        waited = f" {count} {'asset goes' if count == 1 else 'assets go'} on." if count else ""
        self.emit(events.Notice(f"{key} is back.{waited}", warning=True))
        self.line.add(*hold.waiting)

    # -- what waits -------------------------------------------------------------------------------

    def keep(self, planned: Planned) -> bool:
        """Whether an asset has to wait, and so is kept here."""
        for key in self._stores(planned) if self._holds else ():
            if key in self._holds:
                self._holds[key].waiting.append(planned)
                return True
        return False

    def due(self, now_s: float) -> Iterator[Planned]:
        """One of each store's that is to be tried now; it is not kept here any more."""
        for hold in self._holds.values():
            if not hold.probe and hold.waiting and now_s >= hold.next_s:
                planned = hold.waiting.popleft()
                hold.probe = events.job_key(
                    planned.asset.id, planned.part.label if planned.part else ""
                )
                yield planned

    def over(self, now_s: float) -> bool:
        """Whether nothing that waits is worth waiting for any longer."""
        return now_s >= self._until_s()

    def _until_s(self) -> float:
        since_s = (hold.since_s for hold in self._waited_for().values())
        return max(since_s, default=-math.inf) + self._wait_s

    def tell_of_waiting(self, now_s: float) -> None:
        """Nothing else is left to do: say so, once."""
        if self._told_of_waiting or self.over(now_s):
            return
        self._told_of_waiting = True
        count, stores = _assets(self), ", ".join(self._waited_for())
        who = "1 asset waits" if count == 1 else f"{count} assets wait"
        left_s = self._until_s() - now_s
        left = f"{left_s / 60:.0f} min" if left_s >= 60 else f"{left_s:.0f} s"
        text = f"Nothing else is left to do: {who} for {stores}, for {left} at most"
        self.emit(events.Notice(f"{text} (--outage-wait).", warning=True))

    def left(self) -> tuple[StoreAway, ...]:
        """What is away at the end of a run, and how many assets are left to be done for that."""
        return tuple(
            StoreAway(
                key,
                hold.away.reason,
                _assets(hold.waiting) + bool(hold.probe),
                f"{self._remedy(key)}, and run the same command."
                if hold.away.signed_out
                else "Run the same command when it is back.",
            )
            for key, hold in self._waited_for().items()
        )

    def _waited_for(self) -> dict[str, _Hold]:
        return {key: hold for key, hold in self._holds.items() if hold.waiting or hold.probe}

    def _stores(self, planned: Planned) -> Iterator[str]:
        """What an asset needs that may be held."""
        if self._outputs and planned.formats:
            yield from _keys(self._outputs)
        if planned.asset.path is None and planned.action is Action.PROCESS and planned.missing:
            yield from _keys(urls.origin(planned.asset.uri))

    def _uses(self, planned: Planned, key: str) -> tuple[bool, bool]:
        """Whether a job reads from what is held, and whether it writes there."""
        asset = planned.asset
        reads = asset.path is None and key in _keys(urls.origin(asset.uri))
        return reads, bool(self._outputs) and key in _keys(self._outputs)


_SIGN_IN = {
    "s3://": "aws sso login",
    "gs://": "gcloud auth application-default login",
    "az://": "az login",
}


def _assets(planned: Iterable[Planned]) -> int:
    """How many assets these are, or are parts of."""
    return len({item.asset.id for item in planned})


def _key(away: Away) -> str:
    """What is held: all of a sign-in, or a host or bucket."""
    return _keys(away.store)[away.signed_out]


def _keys(origin: str) -> tuple[str, str]:
    """An origin itself, and the sign-in that it shares with others."""
    return origin, f"{locations.scheme(origin)}://"
