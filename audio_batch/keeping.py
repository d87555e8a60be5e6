"""A short way to what is done and stands: on raw columns of the journal, a few microseconds each.

It only ever says that an asset is to be kept. Whatever it is not sure of is planned (`plan.plan`),
which comes to the same for those that this keeps.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence

from audio_batch.asset import Asset
from audio_batch.assets import Assets
from audio_batch.journal_lookup import Lookup, Row
from audio_batch.manifest_index import OWN_WISHES, Index
from audio_batch.options import RunOptions, WantedStages
from audio_batch.output_names import OutputNames
from audio_batch.plan import asked_by, rendering_of
from audio_batch.storage import PublishedFile

_NONE = "[]"


class Keeping:
    """Finds the assets that need nothing.

    Args:
        naming, stands: see `plan.plan`.
        remarkable: is given the hashes of the ids of kept assets that are suspect or have notes.
    """

    def __init__(
        self,
        options: RunOptions,
        wanted: WantedStages,
        lookup: Lookup,
        output_names: OutputNames,
        naming: str | None,
        stands: Callable[[PublishedFile], bool],
        remarkable: set[int],
    ) -> None:
        self._remarkable = remarkable
        self._options = options
        self._wanted = wanted
        self._lookup = lookup
        self._names = output_names
        self._naming = naming
        self._stands = stands
        self._asked: dict[int, tuple[str, str, str]] = {}
        kept_speakers = wanted.keep_speakers and lookup.has_kept_speakers()
        self._rows = lookup.count()
        self._never = options.overwrite or kept_speakers or not self._rows
        self._clean_notes = options.damaged == "fail"
        self._clean_words = options.redo_suspect

    def unsure(
        self,
        assets: Assets,
        places: Sequence[int],
        seen: Mapping[int, str | None],
        *,
        neighbours: bool,
    ) -> Sequence[int]:
        """Those of some places of the sequence whose assets have to be planned.

        Args:
            seen: by number the identities of those that do not lie on this machine.
            neighbours: no other asset of the sequence has an id between two of theirs.
        """
        if self._never or not places:
            return places
        entries = assets.entries
        numbers = [assets.numbers[place] for place in places]
        ids = entries.ids.some(numbers)
        dense = neighbours and self._rows <= 2 * len(assets)
        done = self._lookup.done(ids, dense=dense)
        if not done:
            return places
        unsure = []
        for place, number, asset_id in zip(places, numbers, ids, strict=True):
            row = done.get(asset_id)
            identity = seen[number] if number in seen else entries.seen(number)
            if row is None or row[1] != identity or not self._keeps(entries, number, row):
                unsure.append(place)
        return unsure

    def _keeps(self, entries: Index, number: int, row: Row) -> bool:
        """Whether the asset of this number, whose row is of this very input, needs nothing."""
        asset_id, _, fingerprint, rendering, missing, notes, suspicions, outputs = row
        wish = entries.wishes[number]
        if wish == OWN_WISHES or missing != _NONE:
            return False
        if (like := self._asked.get(wish)) is None:
            like = self._asked[wish] = self._like(entries.wishers[wish])
        wanted, begins, ends = like
        if fingerprint != wanted or rendering != begins + self._names.at(number, asset_id) + ends:
            return False
        if (self._clean_notes and notes != _NONE) or (self._clean_words and suspicions != _NONE):
            return False
        if not (self._all_stand(outputs) if self._options.publishes else outputs == _NONE):
            return False
        if notes != _NONE or suspicions != _NONE:
            self._remarkable.add(hash(asset_id))
        return True

    def _like(self, asset: Asset) -> tuple[str, str, str]:
        """The fingerprint of what asks for the same, and its rendering around the name."""
        like = asked_by(asset, self._options, self._wanted)
        begins, _, ends = rendering_of(like, "\0", self._options, self._naming).partition("\0")
        return like.fingerprint, begins, ends

    def _all_stand(self, outputs: str) -> bool:
        has_canonical = False
        for one in json.loads(outputs):
            has_canonical = has_canonical or one["format"] == "json"
            if not self._stands(PublishedFile(**one)):
                return False
        return has_canonical
