"""A short way to what no journal and no output folder knows: it is to be heard, whatever it is.

Almost all of a large manifest is so in its first night, or all that the last one has not reached.
What is to be known of it before its turn stands in the manifest's index; it is planned as anything
else is when it is taken.
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from audio_batch.assets import Assets
from audio_batch.byte_rates import RATES_BYTES_PER_S
from audio_batch.journal_lookup import Lookup
from audio_batch.lengths import UNKNOWN_S, size_of
from audio_batch.manifest_index import OWN_WISHES, Index
from audio_batch.options import RunOptions, WantedStages
from audio_batch.outcome import Stage
from audio_batch.output_names import OutputNames
from audio_batch.plan import asked_by


@dataclass(frozen=True, slots=True)
class New:
    """Some places of which nothing is known, and what is to be told of each.

    `durations_s` is what the manifest says, else NaN; `likely_s` a guess where it is silent, as
    `lengths.Lengths` makes it.
    """

    places: array[int]
    priorities: array[int]
    durations_s: array[float]
    likely_s: array[float]


class Untouched:
    """Finds the assets of which nothing is known.

    Args:
        is_published: whether something stands under an output name, which may be a transcript to
            be taken over, or what must not be written over; None where nobody asks.

    `needed` are the stages that those which were found are missing.
    """

    def __init__(
        self,
        options: RunOptions,
        wanted: WantedStages,
        lookup: Lookup,
        output_names: OutputNames,
        is_published: Callable[[str], bool] | None,
    ) -> None:
        self._options = options
        self._wanted = wanted
        self._lookup = lookup
        self._names = output_names
        self._is_published = is_published
        self._is_empty = not lookup.knows_any()
        self._asked: set[int] = set()
        self.needed: set[Stage] = set()

    def split(
        self, assets: Assets, places: Sequence[int], seen: Mapping[int, str | None]
    ) -> tuple[New, Sequence[int]]:
        """Those of some places that are new, and the others, which have to be planned.

        Args:
            seen: by number the identities of those that do not lie on this machine.
        """
        entries, numbers = assets.entries, [assets.numbers[place] for place in places]
        wishes = set(map(entries.wishes.__getitem__, numbers))
        others: Sequence[int] = ()
        if not self._is_empty or self._is_published is not None or OWN_WISHES in wishes:
            is_new = self._are_new(entries, numbers)
            others = [place for place, one in zip(places, is_new, strict=True) if not one]
            places = list(itertools.compress(places, is_new))
            numbers = list(itertools.compress(numbers, is_new))
            wishes = set(map(entries.wishes.__getitem__, numbers))
        for wish in wishes - self._asked:
            self._asked.add(wish)
            like = asked_by(entries.wishers[wish], self._options, self._wanted)
            self.needed.update(like.stages)
        new = New(
            array("L", places),
            array("l", map(entries.priorities.__getitem__, numbers)),
            array("d", map(entries.durations_s.__getitem__, numbers)),
            array("d", _likely_s(entries, numbers, seen)),
        )
        return new, others

    def _are_new(self, entries: Index, numbers: Sequence[int]) -> list[bool]:
        ids = entries.ids.some(numbers)
        known = set() if self._is_empty else self._lookup.known(ids)
        return [
            asset_id not in known
            and entries.wishes[number] != OWN_WISHES
            and not (self._is_published and self._is_published(self._names.at(number, asset_id)))
            for number, asset_id in zip(numbers, ids, strict=True)
        ]


def _likely_s(
    entries: Index, numbers: Sequence[int], seen: Mapping[int, str | None]
) -> Iterator[float]:
    sizes, kinds, durations_s = entries.sizes, entries.kinds, entries.durations_s
    for number in numbers:
        duration_s = durations_s[number]
        if duration_s == duration_s:  # not NaN
            yield duration_s
        else:
            size = size_of(seen[number] or "") if number in seen else sizes[number]
            yield UNKNOWN_S if size is None or size < 0 else size / RATES_BYTES_PER_S[kinds[number]]
