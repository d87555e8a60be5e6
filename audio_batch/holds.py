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
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Protocol

from audio_batch import events, locations
from audio_batch.control import Message
from audio_batch.errors import Away, ErrorKind
from audio_batch.flights import Flight
from audio_batch.held import SIGN_IN, Hold, Row, assets_of, job_key, store_key, store_keys
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

_SETTLED = frozenset(
    {
        *(ErrorKind.INPUT_MISSING, ErrorKind.INPUT_FORBIDDEN, ErrorKind.INPUT_CHANGED),
        *(ErrorKind.NOT_MEDIA, ErrorKind.NO_AUDIO_STREAM, ErrorKind.EMPTY_AUDIO),
        *(ErrorKind.MEDIA_LIMIT, ErrorKind.MEDIA_DAMAGED),
    }
)
"""Failures of an asset that is not tried again, whatever becomes of its store."""


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


class Holds:
    """See the module's docstring. The runner's thread only, but for `holds`.

    Args:
        wait_s: for so long a run with nothing else to do waits, from when a store is held on; 0:
            none ever is.
        outputs: where transcripts go; only a store's URL matters.
        profile: of the AWS configuration, if one is named.
        first_s: before the first try of one that waits.
        sign_in: is called once for each sign-in that has ended.
        most: so many wait.

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
        most: int = MOST,
    ) -> None:
        self._wait_s = wait_s
        self._outputs = urls.origin(outputs) if locations.is_remote(outputs) else ""
        self._profile = profile
        self._first_s = first_s
        self._sign_in = sign_in
        self._most = most
        self._holds: dict[str, Hold] = {}
        self._rows: dict[str, Row] = {}
        self._reached_s: dict[str, float] = {}
        self._heard_s = -math.inf  # when the last of those began that got through anywhere
        self._earlier: dict[str, tuple[float, float]] = {}  # since_s, delay_s; nothing done since
        self._passed_over: dict[str, tuple[Away, int]] = {}
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
        return bool(self._holds) and len(self) >= self._most

    def holds(self, uri: str) -> bool:
        """Whether a recording lies in a store that is held. Any thread."""
        return bool(self._holds) and any(key in self._holds for key in store_keys(urls.origin(uri)))

    # -- what has happened ------------------------------------------------------------------------

    def failed(
        self, flight: Flight, planned: Planned, away: Away, now_s: float, *, last: bool = False
    ) -> dict[str, int] | None:
        """A job has failed because its store is away; None: it counts, as other failures do.

        Else the asset is kept, as `planned` has it, and what is returned are the earlier attempts
        that count no longer: how many, by job. `last`: it has no further attempt.
        """
        if not self._wait_s:
            return None
        key, job = store_key(away), flight.job.key
        back: dict[str, int] = {}
        hold = self._holds.get(key)
        if hold is None:
            row = self._rows.setdefault(key, Row(now_s))
            row.failures[job] = row.failures.get(job, 0) + 1
            few = len(row.failures) < (1 if away.signed_out else IN_A_ROW)
            # Where nobody gets through anywhere, the network may be gone, however few there are.
            told = not few or (last and self._heard_s <= row.since_s)
            if not told or self._is_own(key, flight):
                return None
            back = self._rows.pop(key).failures
            back[job] -= 1
            hold = self._begin(key, away, job, now_s)
            hold.doubted_s = now_s if few else math.inf
        elif hold.probe == job and self._is_theirs(hold):
            self._disown(key, job)
            return None
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

    def _is_theirs(self, hold: Hold) -> bool:
        """Whether few have ever had no answer there, while others got through elsewhere."""
        return len(hold.waiting) + 1 < IN_A_ROW and self._heard_s > hold.doubted_s

    def _disown(self, key: str, job: str) -> None:
        """Hold a store no longer for so few: what is wrong is wrong with them."""
        waiting = self._holds.pop(key).waiting
        self._suspects.update({job, *map(job_key, waiting)})
        text = f"{key} still does not answer, but others do: what needs it fails by itself."
        self.emit(events.Notice(text, warning=True))
        self.line.add(*waiting)

    def _begin(self, key: str, away: Away, job: str, now_s: float) -> Hold:
        if key in self._earlier:  # it came back, and nothing was done before it went again
            since_s, delay_s = self._earlier.pop(key)
            delay_s = min(LONGEST_S, 2 * delay_s)
        else:
            self._told_of_waiting = False
            since_s, delay_s = now_s, self._first_s
        hold = Hold(away, job, since_s, now_s + delay_s, delay_s)
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
        command = SIGN_IN.get(key, "")
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
        """A job has told how far it is: whether its recording comes from its store."""
        if event.stage == "fetch" and event.share > 0:
            self.reached(flight)

    def reached(self, flight: Flight) -> None:
        """The store of a job's recording has answered it."""
        if flight.planned.asset.path is not None:
            return
        self._heard_s = max(self._heard_s, flight.begun_s)
        for key in store_keys(urls.origin(flight.planned.asset.uri)):
            self._reached_s[key] = max(self._reached_s.get(key, -math.inf), flight.begun_s)
            row = self._rows.get(key)
            if row is not None and row.since_s < flight.begun_s:
                del self._rows[key]
            self._has_tried(key, flight)

    def _has_tried(self, key: str, flight: Flight) -> None:
        hold = self._holds.get(key)
        if hold is not None and hold.probe == flight.job.key:
            self._release(key)

    def ended(self, flight: Flight, outcome: Outcome, now_s: float) -> None:
        """A job has ended, and not because its store is away."""
        if not (self._holds or self._rows or self._earlier):
            return
        asset = flight.planned.asset
        if outcome.outputs and self._outputs:
            self._heard_s = max(self._heard_s, flight.begun_s)
            for key in store_keys(self._outputs):
                self._rows.pop(key, None)
                self._has_tried(key, flight)
        if outcome.reached or outcome.state is State.DONE:
            for origin in (self._outputs if outcome.outputs else "", asset.uri):
                for key in store_keys(urls.origin(origin)) if locations.is_remote(origin) else ():
                    self._earlier.pop(key, None)
        # What lay in the cache tells nothing of the store: the next one does.
        settled = outcome.state in (State.DONE, State.INCOMPLETE)
        self._landed(flight.job.key, now_s, soon=settled or outcome.error_kind in _SETTLED)

    def settled(self, job: str) -> None:
        """An outcome stands: none of the job's attempts is taken back any more."""
        self._suspects.discard(job)
        for row in self._rows.values():
            if job in row.failures:
                row.failures[job] = 0

    def lost(self, job: str, now_s: float) -> None:
        """A job has ended in a way that says nothing of a store."""
        self._landed(job, now_s)

    def left_out(self, planned: Planned) -> None:
        """An asset is not begun in this run, though it was to be tried."""
        self._landed(job_key(planned), -math.inf)

    def _landed(
        self, job: str, now_s: float, but: Hold | None = None, *, soon: bool = False
    ) -> None:
        for hold in self._holds.values():
            if hold.probe == job and hold is not but:
                hold.probe = ""
                hold.next_s = now_s if soon else now_s + hold.delay_s

    def _release(self, key: str) -> None:
        hold = self._holds.pop(key)
        self._earlier[key] = hold.since_s, hold.delay_s
        self._released[key] += 1
        if hold.cause != hold.probe:
            self._suspects.add(hold.cause)
        count = assets_of(hold.waiting)
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

    def pass_over(self, planned: Planned) -> bool:
        """Whether an asset would have to wait; it is left to the next run, and only counted."""
        for key in self._stores(planned) if self._holds else ():
            if key in self._holds:
                before = self._passed_over.get(key, (None, 0))[1]
                self._passed_over[key] = self._holds[key].away, before + 1
                return True
        return False

    def is_tried(self, job: str) -> bool:
        """Whether a job is the one that shows whether its store is back."""
        return any(hold.probe == job for hold in self._holds.values())

    def due(self, now_s: float) -> Iterator[Planned]:
        """One of each store's that is to be tried now; it is not kept here any more."""
        for hold in self._holds.values():
            if not hold.probe and hold.waiting and now_s >= hold.next_s:
                planned = hold.waiting.popleft()
                hold.probe = job_key(planned)
                yield planned

    def over(self, now_s: float) -> bool:
        """Whether nothing that waits is worth waiting for any longer."""
        return now_s >= self._until_s()

    def _until_s(self) -> float:
        since_s = (hold.since_s for hold in self._waited_for().values())
        return max(since_s, default=-math.inf) + self._wait_s

    def tell_of_waiting(self, now_s: float, *, unread: bool = False) -> None:
        """Nothing else is left to do, or of what has been read of the feed: say so, once."""
        if self._told_of_waiting or self.over(now_s):
            return
        self._told_of_waiting = True
        count, stores = assets_of(self), ", ".join(self._waited_for())
        who = "1 asset waits" if count == 1 else f"{count} assets wait"
        left_s = self._until_s() - now_s
        left = f"{left_s / 60:.0f} min" if left_s >= 60 else f"{left_s:.0f} s"
        begin = "Nothing else can begin for now" if unread else "Nothing else is left to do"
        text = f"{begin}: {who} for {stores}, for {left} at most (--outage-wait)"
        text += "; Ctrl-C ends the run, and the next one goes on."
        self.emit(events.Notice(text, warning=True))

    def left(self) -> tuple[StoreAway, ...]:
        """What is away at the end of a run, and how many assets are left to be done for that."""
        counts = {key: count for key, (_, count) in self._passed_over.items()}
        away = {key: one for key, (one, _) in self._passed_over.items()}
        for key, hold in self._waited_for().items():
            counts[key] = counts.get(key, 0) + assets_of(hold.waiting) + bool(hold.probe)
            away[key] = hold.away
        return tuple(
            StoreAway(
                key,
                one.reason,
                counts[key],
                f"{self._remedy(key)}, and run the same command."
                if one.signed_out
                else one.remedy or "Run the same command when it is back.",
            )
            for key, one in away.items()
        )

    def _waited_for(self) -> dict[str, Hold]:
        return {key: hold for key, hold in self._holds.items() if hold.waiting or hold.probe}

    def _stores(self, planned: Planned) -> Iterator[str]:
        """What an asset needs that may be held."""
        if self._outputs and planned.formats:
            yield from store_keys(self._outputs)
        if planned.asset.path is None and planned.action is Action.PROCESS and planned.missing:
            yield from store_keys(urls.origin(planned.asset.uri))
