"""A short way to what is done and stands: on raw columns of the journal, a few microseconds each.

It only ever says that an asset is to be kept. Whatever it is not sure of is planned (`plan.plan`),
which comes to the same for those that this keeps.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence

from audio_batch.asset import Asset
from audio_batch.assets import Assets
from audio_batch.journal_lookup import Lookup
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
        self._publishes = options.publishes
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
        sizes, times_ns, wishes = entries.sizes, entries.times_ns, entries.wishes
        names = self._names.some(numbers, ids)
        for place, number, asset_id, name in zip(places, numbers, ids, names, strict=True):
            row = done.get(asset_id)
            if row is not None:
                _, source, fingerprint, rendering, missing, notes, suspicions, outputs = row
                wanted, begins, ends = self._wanted_of(entries, wishes[number])
                # As `Index.seen` has it; where there is no file it is no row's.
                local = f"{sizes[number]}:{times_ns[number]}"
                identity = seen.get(number, local)
                if (
                    source == identity
                    and fingerprint == wanted
                    and rendering == f"{begins}{name}{ends}"
                    and missing == _NONE
                    and (self._all_stand(outputs) if self._publishes else outputs == _NONE)
                    and (notes == suspicions == _NONE or self._noted(asset_id, notes, suspicions))
                ):
                    continue
            unsure.append(place)
        return unsure

    def _noted(self, asset_id: str, notes: str, suspicions: str) -> bool:
        """Whether it may be kept with these notes and suspicions."""
        if (self._clean_notes and notes != _NONE) or (self._clean_words and suspicions != _NONE):
            return False
        self._remarkable.add(hash(asset_id))
        return True

    def _wanted_of(self, entries: Index, wish: int) -> tuple[str, str, str]:
        """What a row has to have of what asks for this; its wishes' fingerprint and its rendering
        around the name. Of what has to be read again for its wishes no row has it."""
        if (like := self._asked.get(wish)) is None:
            like = self._like(entries.wishers[wish]) if wish != OWN_WISHES else ("", "", "")
            self._asked[wish] = like
        return like

    def _like(self, asset: Asset) -> tuple[str, str, str]:
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
