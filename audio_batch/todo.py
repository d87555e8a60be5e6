"""What a run has to do, planned a few thousand assets at a time.

A first pass decides about every asset and keeps no more of it than its number, unless there is
nothing to do for it at all; what is done (`keeping`) or nothing is known of (`untouched`) is
told without a plan. What is to be done is planned, from the same journal, when the runner takes it:
`Todo` is its feed. So a million assets cost a few bytes each.
"""

from __future__ import annotations

import itertools
import math
import operator
from array import array
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path

from audio_batch import survey
from audio_batch.asset import Asset
from audio_batch.assets import Assets
from audio_batch.backlog import WINDOW
from audio_batch.gpu.policies import EARLIEST_FINISH
from audio_batch.journal import Journal
from audio_batch.keeping import Keeping
from audio_batch.lengths import Lengths
from audio_batch.options import RunOptions, WantedStages
from audio_batch.outcome import Stage
from audio_batch.output_names import OutputNames
from audio_batch.pipeline import source_identity
from audio_batch.plan import Action, Planned, danger, plan
from audio_batch.storage import PublishedFile
from audio_batch.survey import Survey
from audio_batch.untouched import New, Untouched

CHUNK = 4096
"""Assets that are planned together: what the journal says of them is not held longer than that."""


_PUBLISHED = (Action.PROCESS, Action.RENDER)
"""What ends with new outputs."""


@dataclass(frozen=True, slots=True)
class Planner:
    """All that decides what is to be done about an asset.

    Args:
        output_names: of the whole manifest.
        naming, state, stands: see `plan`.
        look: fills in the identity of recordings that do not lie on this machine.
        recover: takes over what the journal does not know though its outputs are there; it is
            given assets without a row, and says of how many there is one now.
        is_published: whether something stands under an output name, so that it could be taken
            over or must not be written over; None: there may be, under any.
        examine: is given what is to be published, to look whose it is that stands under its name;
            it says which assets have failed for that, and still would.
        stood: in which formats something stood under a name, by what `examine` has seen.
    """

    options: RunOptions
    wanted: WantedStages
    journal: Journal
    output_names: OutputNames
    naming: str | None
    state: Path
    stands: Callable[[PublishedFile], bool]
    look: Callable[[Sequence[Asset]], Sequence[Asset]] | None = None
    recover: Callable[[Sequence[Planned]], int] | None = None
    is_published: Callable[[str], bool] | None = None
    examine: Callable[[Sequence[Planned]], Set[str]] | None = None
    stood: Callable[[str, Sequence[str]], tuple[str, ...]] | None = None

    def keeping(self, remarkable: set[int]) -> Keeping:
        """What finds those quickly for which there is nothing to do."""
        return Keeping(
            self.options,
            self.wanted,
            self.journal.lookup,
            self.output_names,
            self.naming,
            self.stands,
            remarkable,
        )

    def untouched(self) -> Untouched:
        """What finds those quickly of which nothing is known."""
        is_published = self.is_published
        if is_published is None and self.recover is not None:
            is_published = _is_perhaps
        return Untouched(
            self.options,
            self.wanted,
            self.journal.lookup,
            self.output_names,
            is_published,
        )

    def looked(self, assets: Sequence[Asset]) -> Sequence[Asset]:
        """The assets, with the identities of those that do not lie on this machine."""
        return assets if self.look is None or not assets else self.look(assets)

    def plan(self, assets: Sequence[Asset], *, recovering: bool = False) -> list[Planned]:
        """Decide about some assets; see `plan`.

        Args:
            recovering: look at what the output folder holds of them, too.
        """
        planned = self._plan(assets)
        if recovering and self.recover is not None:
            unknown = [item for item in planned if item.entry is None]
            if unknown and self.recover(unknown):
                planned = self._plan(assets)
        if recovering and self.examine is not None:
            barred = self.examine([item for item in planned if item.action in _PUBLISHED])
            if barred and not self.options.overwrite:
                planned = [_left(item) if item.asset.id in barred else item for item in planned]
        return planned

    def over_what_stood(self, item: Planned) -> Planned:
        """What is to be published, with the names that may be written over."""
        stood = self.stood(item.output_name, item.formats) if self.stood is not None else ()
        return replace(item, replaces=stood) if stood else item

    def _plan(self, assets: Sequence[Asset]) -> list[Planned]:
        lookup = self.journal.lookup
        ids = [asset.id for asset in assets]
        return plan(
            assets,
            lookup.entries(ids),
            self.options,
            wanted=self.wanted,
            stages=lookup.stages(ids),
            naming=self.naming,
            output_names={a.id: self.output_names.at(a.position, a.id) for a in assets},
            state=self.state,
            stands=self.stands,
            source_identity=source_identity,
        )


@dataclass(slots=True)
class Todo:
    """What is to be done of the assets that a run takes, handed out in its order. See `Feed`."""

    assets: Assets
    planner: Planner
    kept: int = 0
    left_failed: int = 0
    recovered: int = 0
    quarantined: list[str] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)
    """Files of nobody's under names that are to be written; paths below the output folder."""
    has_summary: bool = False
    """Whether there was a summary, which may be written over."""
    anything_there: bool = False
    """Whether anything at all stands under names that are to be written."""
    audio_s: float = 0.0
    unknown: int = 0
    """How many of those to be done have no length in the manifest."""
    to_hear: int = 0
    """How many are not merely to be written again."""
    to_hear_s: float = 0.0
    """Seconds of those of them whose manifest gives a length."""
    _unheard: array[int] = field(default_factory=lambda: array("L"))
    """The others of them."""
    _order: array[int] = field(default_factory=lambda: array("L"))
    _line: array[int] = field(default_factory=lambda: array("L"))
    """Of these, what is still to be taken, and before that `_taken` that have been."""
    _taken: int = 0
    _last: dict[str, int] = field(default_factory=dict)
    """Where those lie that were taken last, by id."""
    _put_off: array[int] = field(default_factory=lambda: array("L"))
    _needed: set[Stage] = field(default_factory=set)
    _remarkable: set[int] = field(default_factory=set)
    """Hashes of the ids of what is not to be done, but failed, is suspect or has notes."""

    @classmethod
    def of(cls, assets: Assets, planner: Planner) -> Todo:
        """Plan for all of these, in the order in which they are to be begun."""
        todo = cls(assets, planner)
        todo._survey()
        return todo

    def __len__(self) -> int:
        return self.ready + len(self._put_off)

    @property
    def ready(self) -> int:
        """See `Feed.ready`."""
        return len(self._line) - self._taken

    def take(self, count: int) -> list[Planned]:
        """See `Feed.take`. Earlier attempts of those that begin afresh no longer count."""
        while self.ready:
            some = self._line[self._taken : self._taken + count]
            self._taken += len(some)
            assets = list(self.assets.pick(some))
            self._last = dict(zip((asset.id for asset in assets), some, strict=True))
            planned = [
                self.planner.over_what_stood(item)
                for item in self.planner.plan(self.planner.looked(assets))
                if item.action in _PUBLISHED
            ]
            fresh = [item.asset.id for item in planned if item.fresh]
            if fresh:
                self.planner.journal.forgive(fresh)
            if planned:  # or what was there all the same has come back meanwhile
                return planned
        return []

    def put_off(self, planned: Planned) -> None:
        """See `Feed.put_off`. Of each no more than its number is kept."""
        self._put_off.append(self._last[planned.asset.id])

    def recall(self) -> None:
        """See `Feed.recall`."""
        self._line = self._line[self._taken :] + self._put_off
        self._taken, self._put_off = 0, array("L")

    def chosen(self) -> Assets:
        """All that is to be done, in order, taken or not."""
        return self.assets.pick(self._order)

    def survey(self) -> Survey:
        """What finds out how much audio there is to be heard."""
        some = self._unheard[:: -(-len(self._unheard) // survey.MOST) or 1]
        return Survey(
            self.to_hear,
            self.to_hear_s,
            self.to_hear - len(self._unheard),
            [asset.path for asset in self.assets.pick(some) if asset.path is not None],
        )

    def stands(self, asset_id: str) -> bool:
        """Whether an asset that failed, is suspect or has notes is selected and not to be done."""
        return hash(asset_id) in self._remarkable

    def needed(self) -> Set[Stage]:
        """See `Feed.needed`."""
        return self._needed

    def _survey(self) -> None:
        dangers, suspects, priorities, longest = array("L"), array("B"), array("l"), array("d")
        lengths = Lengths()
        options = self.planner.options
        in_order = options.policy != EARLIEST_FINISH or options.in_order
        keeping = self.planner.keeping(self._remarkable)
        untouched = self.planner.untouched()
        assets = self.assets
        by_id = not assets.remote(range(len(assets)))
        for places in _chunks(assets, by_id=by_id):
            remote = assets.pick(assets.remote(places))
            looked = {asset.position: asset for asset in self.planner.looked(list(remote))}
            seen = {number: asset.seen for number, asset in looked.items()}
            unsure = keeping.unsure(assets, places, seen, neighbours=by_id)
            self.kept += len(places) - len(unsure)
            new, unsure = untouched.split(assets, unsure, seen)
            self._count_new(new)
            self._order.extend(new.places)
            dangers.extend(array("L", bytes(dangers.itemsize * len(new.places))))
            if not in_order:
                suspects.extend(bytes(len(new.places)))
                priorities.extend([-priority for priority in new.priorities])
                longest.extend([-seconds for seconds in new.likely_s])
            chunk = [looked.get(asset.position, asset) for asset in assets.pick(unsure)]
            place_of = dict(zip((asset.id for asset in chunk), unsure, strict=True))
            for item in self.planner.plan(chunk, recovering=True):
                place = place_of[item.asset.id]
                if not self._count(item, place):
                    continue
                self._order.append(place)
                dangers.append(danger(item))
                if not in_order:
                    suspects.append(item.suspect)
                    priorities.append(-item.asset.priority)
                    longest.append(-lengths.of_asset(item))
        self._needed |= untouched.needed
        if in_order or len(self._order) <= WINDOW:
            # The runner sees all of them at once, and numbers them as the manifest has them.
            self._order = _sort(self._order, dangers)
        else:
            self._order = _sort(self._order, suspects, dangers, priorities, longest)
        self._line = self._order

    def _count_new(self, new: New) -> None:
        known_s = [seconds for seconds in new.durations_s if not math.isnan(seconds)]
        self.to_hear += len(new.places)
        self.to_hear_s += sum(known_s)
        self.audio_s += sum(known_s)
        self.unknown += len(new.places) - len(known_s) + known_s.count(0.0)
        self._unheard.extend(itertools.compress(new.places, map(math.isnan, new.durations_s)))

    def _count(self, item: Planned, number: int) -> bool:
        """Whether it is to be done."""
        duration_s = item.asset.duration_s
        match item.action:
            case Action.KEEP:
                self.kept += 1
                if item.entry is not None and (item.entry.notes or item.entry.suspicions):
                    self._remarkable.add(hash(item.asset.id))
                return False
            case Action.LEAVE_FAILED:
                self.left_failed += 1
                self._remarkable.add(hash(item.asset.id))
                return False
            case Action.QUARANTINE:
                self._remarkable.add(hash(item.asset.id))
                self.quarantined.append(item.asset.id)
                return False
            case Action.PROCESS:
                self.to_hear += 1
                self._needed.update(item.missing)
                if duration_s is None:
                    self._unheard.append(number)
                else:
                    self.to_hear_s += duration_s
        self.unknown += not duration_s
        self.audio_s += duration_s or 0.0
        return True


def _chunks(assets: Assets, *, by_id: bool) -> Iterator[array[int]]:
    """All places, a few thousand at a time.

    Args:
        by_id: so that the journal's rows of each few lie next to each other. What is asked for in
            a store is rather taken as the manifest has it, folder by folder.
    """
    places: Sequence[int] = range(len(assets))
    if by_id and len(assets) > CHUNK:
        ids = list(assets.ids())
        if not all(map(operator.lt, ids, itertools.islice(ids, 1, None))):
            places = array("L", sorted(places, key=ids.__getitem__))
    for first in range(0, len(places), CHUNK):
        yield array("L", sorted(places[first : first + CHUNK]))


def _left(item: Planned) -> Planned:
    return replace(item, action=Action.LEAVE_FAILED)


def _is_perhaps(_output_name: str) -> bool:
    return True


def names_of_others(assets: Assets, journal: Journal) -> Iterator[str]:
    """The names of outputs that the folder holds for assets of other manifests."""
    if not journal.lookup.count():
        return
    known = set(map(hash, assets.ids()))
    # There mostly are none, and the ids alone are in an index.
    if known.issuperset(map(hash, journal.lookup.ids())):
        return
    for asset_id, path in journal.lookup.json_paths():
        if hash(asset_id) not in known:
            yield path.removesuffix(".json")


def _sort(order: array[int], *by: array[int] | array[float]) -> array[int]:
    """Sort places by what is told of each, the first thing first; else they are in order."""
    told = [keys for keys in by if keys and min(keys) < max(keys)]
    if not told and all(map(operator.lt, order, itertools.islice(order, 1, None))):
        return order
    import numpy as np

    keys = [np.frombuffer(one, one.typecode) for one in (order, *reversed(told))]
    return array(order.typecode, keys[0][np.lexsort(keys)].tobytes())
