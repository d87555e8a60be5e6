"""Stores that are away: what lies there waits, uncounted, and is no asset's failure.

failed      nobody is signed in, or several in a row had no answer: the store is held
keep        what lies in a store that is held waits here, instead of in the queue
due         now and then a silent one is asked; if it answers, one of those that wait is tried
reached     it got through: all of them go on
over        a run with nothing else to do has waited long enough

A sign-in is over for all that lies behind it, silence is that of one host or bucket. Outputs in a
store that is away hold every asset.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial

from audio_batch import events, locations
from audio_batch.asset import Asset
from audio_batch.control import Message
from audio_batch.errors import Away
from audio_batch.evidence import IN_A_ROW, Evidence
from audio_batch.flights import Flight
from audio_batch.held import (
    SETTLED,
    Ask,
    Hold,
    Line,
    Row,
    SignIn,
    assets_of,
    job_key,
    sign_in_again,
    store_away,
    store_key,
    store_keys,
)
from audio_batch.outcome import Outcome, State, StoreAway
from audio_batch.plan import Action, Planned
from audio_batch.remote import urls

FIRST_S, LONGEST_S = 15.0, 120.0
"""Before the first try of one that waits, and the most before any other; doubling in between."""
MOST = 100_000
"""So many wait here, 2 kB each; what comes later goes back into the feed, to be brought again."""

_NAMELESS_S = 300.0
"""So long a name may be unknown, where nothing tells whether any other is known."""


class Holds:
    """See the module's docstring. The runner's thread only, but for `holds` and `came_ahead`.

    Args:
        wait_s: for so long a run with nothing else to do waits, from when a store is held on; 0:
            none ever is.
        outputs: where transcripts go; only a store's URL matters.
        profile: of the AWS configuration, if one is named.
        first_s: before the first try of one that waits.
        sign_in: is called once for each sign-in that has ended.
        most: so many wait.
        at_hand: whether an asset's recording, by the identity that it was planned for, can be had
            without its store.
        ask: asks a silent store whether it answers; None: those that wait find out.
        evidence: what tells whether it is the store's fault.

    `line`, `emit`, `now_s` and `post`, which takes messages to the runner's thread, are the
    runner's.
    """

    line: Line
    emit: Callable[[events.Event], None]
    post: Callable[[Message], None]
    now_s: Callable[[], float]

    def __init__(
        self,
        wait_s: float = 0.0,
        outputs: str = "",
        *,
        profile: str | None = None,
        first_s: float = FIRST_S,
        sign_in: SignIn | None = None,
        most: int = MOST,
        at_hand: Callable[[Asset, str], bool] = lambda _asset, _source: False,
        ask: Ask | None = None,
        evidence: Evidence | None = None,
    ) -> None:
        self._wait_s = wait_s
        self._outputs = urls.origin(outputs) if locations.is_remote(outputs) else ""
        self._an_output = f"{outputs.rstrip('/')}/summary.json"
        self._profile = profile
        self._first_s = first_s
        self._sign_in = sign_in
        self._most = most
        self._at_hand = at_hand
        self._ask = ask
        self._evidence = evidence if evidence is not None else Evidence()
        self._holds: dict[str, Hold] = {}
        self._rows: dict[str, Row] = {}
        self._earlier: dict[str, tuple[float, float]] = {}  # since_s, delay_s; nothing done since
        self._passed_over: Counter[str] = Counter()
        self._waiting = self._done = 0
        self._told_of_slips: set[str] = set()
        self._told_of_waiting = False
        if self._outputs:
            self._evidence.knows(self._outputs)  # they were probed before the run

    def __len__(self) -> int:
        """How many wait."""
        return self._waiting

    def __iter__(self) -> Iterator[Planned]:
        """What waits."""
        for hold in self._holds.values():
            yield from hold.waiting

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
        self._evidence.saw(planned)
        key, job = store_key(away), flight.job.key
        back: dict[str, int] = {}
        hold = self._holds.get(key)
        if hold is None:
            row = self._rows.setdefault(key, Row(now_s))
            row.failures[job] = row.failures.get(job, 0) + 1
            if self._evidence.is_slip(away, row.since_s):
                del self._rows[key]
                self._tell_of_slip(key)
                return None
            few = len(row.failures) < (1 if away.signed_out else IN_A_ROW)
            # Where nobody gets through anywhere, the network may be gone, however few there are.
            told = not few or (last and self._evidence.nobody_since(row.since_s))
            if not told or self._evidence.is_own(key, flight):
                return None
            back = self._rows.pop(key).failures
            back[job] -= 1
            hold = self._begin(key, away, job, now_s)
            hold.doubted_s = now_s if few else math.inf
        elif hold.probe == job:
            hold.away = away
            if self._disowned(key, hold, now_s):
                return None
        self._landed(job, now_s, but=hold)
        self._waiting += 1
        if hold.probe != job:
            hold.waiting.appendleft(planned)
            return back
        hold.probe = ""
        hold.delay_s = min(LONGEST_S, 2 * hold.delay_s)
        hold.next_s = now_s + hold.delay_s
        hold.waiting.append(planned)
        return back

    def _disowned(self, key: str, hold: Hold, now_s: float) -> bool:
        """Whether a store is held no longer: what is wrong is wrong with those that need it."""
        count = len(hold.waiting) + bool(hold.probe) + self._passed_over[key]
        small = len(self._holds) == 1 and count < self._done
        small = small and now_s >= hold.since_s + _NAMELESS_S
        if self._evidence.is_slip(hold.away, hold.since_s, small=small):
            self._tell_of_slip(key)
        elif self._evidence.is_of_few(hold):
            self._evidence.disowned(hold, hold.probe)
            text = f"{key} still does not answer, but others do: what needs it fails by itself."
            self.emit(events.Notice(text, warning=True))
        else:
            return False
        del self._holds[key]
        self._all_go_on(hold)
        return True

    def _all_go_on(self, hold: Hold) -> None:
        self._waiting -= len(hold.waiting)
        self.line.add(*hold.waiting)

    def _tell_of_slip(self, key: str) -> None:
        if key not in self._told_of_slips:
            self._told_of_slips.add(key)
            text = (
                f"{key} has no address, and has given nothing yet: what needs it fails by itself."
            )
            self.emit(events.Notice(text, warning=True))

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
            text += f" {sign_in_again(key, self._profile)}, and what waits goes on too."
        self.emit(events.Notice(text, warning=True))
        if away.signed_out and self._sign_in is not None:
            self._sign_in(away, lambda after: self.post(lambda: self._hurry(key, after)))
        return hold

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
        uri = flight.planned.asset.uri
        self._answered(uri, flight.begun_s)
        for key in store_keys(urls.origin(uri)):
            self._has_tried(key, flight)

    def came_ahead(self, uri: str, begun_s: float) -> None:
        """The store of a recording has answered who fetches ahead of need. Any thread.

        Args:
            begun_s: of `time.monotonic`.
        """
        self.post(lambda: self._answered(uri, self.now_s() - (time.monotonic() - begun_s)))

    def _answered(self, uri: str, begun_s: float) -> None:
        self._evidence.reached(uri, begun_s)
        for key in store_keys(urls.origin(uri)):
            row = self._rows.get(key)
            if row is not None and row.since_s < begun_s:
                del self._rows[key]

    def _has_tried(self, key: str, flight: Flight) -> None:
        hold = self._holds.get(key)
        if hold is not None and hold.probe == flight.job.key:
            self._release(key)

    def ended(self, flight: Flight, outcome: Outcome, now_s: float) -> None:
        """A job has ended, and not because its store is away."""
        self._done += outcome.state is State.DONE and flight.job.part is None
        if not (self._holds or self._rows or self._earlier):
            return
        asset = flight.planned.asset
        if outcome.outputs and self._outputs:
            self._evidence.heard(self._outputs, flight.begun_s)
            for key in store_keys(self._outputs):
                self._rows.pop(key, None)
                self._has_tried(key, flight)
        if outcome.reached or outcome.state is State.DONE:
            for origin in (self._outputs if outcome.outputs else "", asset.uri):
                for key in store_keys(urls.origin(origin)) if locations.is_remote(origin) else ():
                    self._earlier.pop(key, None)
        # What lay in the cache tells nothing of the store: the next one does.
        settled = outcome.state in (State.DONE, State.INCOMPLETE)
        self._landed(flight.job.key, now_s, soon=settled or outcome.error_kind in SETTLED)

    def settled(self, job: str) -> None:
        """An outcome stands: none of the job's attempts is taken back any more."""
        self._evidence.settled(job)
        for row in self._rows.values():
            if job in row.failures:
                row.failures[job] = 0

    def lost(self, job: str, now_s: float) -> None:
        """A job has ended in a way that says nothing of a store."""
        self._landed(job, now_s)

    def give_back(self, planned: Planned) -> bool:
        """What was to be tried would not be done in time: it waits again, and another is tried.

        Returns:
            False where nothing is held for it any more.
        """
        job = job_key(planned)
        for hold in self._holds.values():
            if hold.probe == job:
                hold.probe, hold.answers = "", True
                hold.waiting.append(planned)
                self._waiting += 1
                return True
        return False

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
        self._evidence.released(key, hold)
        count = assets_of(hold.waiting) + self._passed_over[key]
        waited = f" {count} {'asset goes' if count == 1 else 'assets go'} on." if count else ""
        self.emit(events.Notice(f"{key} is back.{waited}", warning=True))
        self._all_go_on(hold)

    # -- what waits -------------------------------------------------------------------------------

    def keep(self, planned: Planned) -> bool:
        """Whether an asset has to wait, and so is kept here."""
        self._evidence.saw(planned)
        key = self._needed(planned)
        if key is not None:
            self._holds[key].waiting.append(planned)
            self._waiting += 1
        return key is not None

    def pass_over(self, planned: Planned) -> bool:
        """Whether an asset would have to wait and there is no room for it: it is only counted."""
        self._evidence.saw(planned)
        key = self._needed(planned) if len(self) >= self._most else None
        if key is not None:
            self._passed_over[key] += 1
        return key is not None

    @property
    def recalls(self) -> bool:
        """Whether those that were passed over are to come again: there is room, or no need."""
        gone = any(key not in self._holds for key in self._passed_over)
        return gone or (bool(self._passed_over) and len(self) <= self._most // 2)

    def recalled(self) -> None:
        """They come again."""
        self._passed_over.clear()

    def is_tried(self, job: str) -> bool:
        """Whether a job is the one that shows whether its store is back."""
        return any(hold.probe == job for hold in self._holds.values())

    def due(
        self, now_s: float, fits: Callable[[Planned], bool] = lambda _planned: True
    ) -> Iterator[Planned]:
        """One of each store's that is to be tried now; it is not kept here any more.

        Args:
            fits: whether one would be done in the time left; no other is tried.
        """
        for key, hold in list(self._holds.items()):
            if hold.probe or not hold.waiting or now_s < hold.next_s:
                continue
            if hold.asked_s is not None:
                if now_s < hold.asked_s + LONGEST_S:
                    continue
                hold.asked_s, hold.answers = None, True  # who asks is stuck: one finds out
            first = next((n for n, item in enumerate(hold.waiting) if fits(item)), None)
            if first is None:
                hold.next_s = now_s + hold.delay_s
                continue
            hold.waiting.rotate(-first)
            if self._ask is None or hold.away.signed_out or hold.answers:
                planned = hold.waiting.popleft()
                self._waiting -= 1
                hold.probe, hold.answers = job_key(planned), False
                yield planned
            else:
                hold.asked_s = now_s
                uri = self._an_output if key == self._outputs else hold.waiting[0].asset.uri
                ask = partial(self._ask, uri, partial(self._told, key, hold))
                if witness := self._evidence.witness(hold, self.holds):
                    self._ask(witness, partial(self._vouched, witness, now_s, ask))
                else:
                    ask()

    def _vouched(
        self, witness: str, asked_s: float, then: Callable[[], None], away: Away | None
    ) -> None:
        """Another store was asked first. Any thread."""
        if away is None:
            self.post(lambda: self._evidence.heard(urls.origin(witness), asked_s))
        then()

    def _told(self, key: str, hold: Hold, away: Away | None) -> None:
        """A store was asked whether it answers. Any thread."""
        self.post(lambda: self._asked(key, hold, away))

    def _asked(self, key: str, hold: Hold, away: Away | None) -> None:
        if self._holds.get(key) is not hold or hold.asked_s is None:
            return
        asked_s, hold.asked_s = hold.asked_s, None
        hold.answers = away is None
        if away is None:
            return  # one is due now
        hold.away = away
        if self._disowned(key, hold, asked_s):
            return
        hold.delay_s = min(LONGEST_S, 2 * hold.delay_s)
        hold.next_s = asked_s + hold.delay_s
        hold.waiting.rotate(-1)

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
        count = assets_of(self) + self._passed_over.total()
        stores = ", ".join(self._waited_for())
        who = "1 asset waits" if count == 1 else f"{count} assets wait"
        left_s = self._until_s() - now_s
        left = f"{left_s / 60:.0f} min" if left_s >= 60 else f"{left_s:.0f} s"
        text = f"Nothing else is left to do: {who} for {stores}, for {left} at most (--outage-wait)"
        text += "; Ctrl-C ends the run, and the next one goes on."
        self.emit(events.Notice(text, warning=True))

    def left(self) -> tuple[StoreAway, ...]:
        """What is away at the end of a run, and how many assets are left to be done for that."""
        away = (
            store_away(key, hold, self._passed_over[key], self._profile)
            for key, hold in self._holds.items()
        )
        return tuple(store for store in away if store.assets)

    def _waited_for(self) -> dict[str, Hold]:
        return {key: hold for key, hold in self._holds.items() if hold.waiting or hold.probe}

    def _needed(self, planned: Planned) -> str | None:
        """A store that is held and that an asset cannot do without."""
        if not self._holds:
            return None
        if self._outputs and planned.formats:
            for key in store_keys(self._outputs):
                if key in self._holds:
                    return key
        asset = planned.asset
        if asset.path is None and planned.action is Action.PROCESS and planned.missing:
            for key in store_keys(urls.origin(asset.uri)):
                if key in self._holds:
                    return None if self._at_hand(asset, planned.source) else key
        return None
