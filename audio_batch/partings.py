"""Which long recordings are cut into parts (`--split-long`), and when their words are put together.

    cut → a job a part, on whatever devices → all have ended → a job for the whole, of their words

The whole hears by itself whatever part has failed: so a part's failure is the asset's, in its turn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from audio_batch import parts
from audio_batch.lengths import Lengths
from audio_batch.outcome import Stage, StageRecord
from audio_batch.parts import Part
from audio_batch.plan import Action, Planned
from audio_batch.remote.downloads import UNKNOWN
from audio_batch.survey import declared_duration_s

_UNSURE_X = 4.0
"""A recording whose length is guessed from its size is looked into from so much less on."""


@dataclass(slots=True)
class Division:
    """A recording that is cut.

    Attributes:
        left: labels of the parts that have not ended.
        heard: what those that were heard came to.
        attempt: the journal's number of this attempt; None before its first part has begun.
        suspect: a part of it has ended its process, or hung.
    """

    whole: Planned
    left: set[str]
    heard: dict[Part, StageRecord]
    attempt: int | None = None
    suspect: bool = False


@dataclass(slots=True)
class Partings:
    """See the module's docstring. The runner's thread only.

    Attributes:
        longest_s: what is longer is cut; None: nothing is.
        slots: assets that may be at work at once, over all devices.
        heard: parts that earlier runs have heard, by asset.
    """

    longest_s: float | None = None
    slots: int = 1
    heard: Mapping[str, Sequence[StageRecord]] = field(default_factory=dict)
    lengths: Lengths = field(default_factory=Lengths)
    _divisions: dict[str, Division] = field(default_factory=dict)

    def cut(self, planned: Planned) -> Iterator[Planned]:
        """What is to be done of an asset: it itself, or its parts that have not been heard."""
        whole = planned
        grid: tuple[Part, ...] = ()
        heard: dict[Part, StageRecord] = {}
        duration_s = self._duration_s(planned)
        if duration_s is not None:
            heard = self._begun(planned, duration_s, planned.source)
            if not heard and planned.source == UNKNOWN and planned.entry is not None:
                # It could not be looked at: what was heard is gone on with, as what is kept is.
                heard = self._begun(planned, duration_s, planned.entry.source)
                if heard:
                    planned = whole = replace(planned, source=planned.entry.source)
            count = next(iter(heard)).count if heard else parts.how_many(duration_s, self.slots)
            grid = parts.split(duration_s, count)
        todo = [part for part in grid if part not in heard]
        if len(grid) > 1 and not todo:
            yield replace(whole, parts=heard)
        elif len(grid) > 1:
            labels = {part.label for part in todo}
            self._divisions[planned.asset.id] = Division(whole, labels, heard)
            for part in todo:
                yield replace(planned, part=part)
        else:
            yield whole

    def _begun(self, planned: Planned, duration_s: float, source: str) -> dict[Part, StageRecord]:
        words = planned.stages[Stage.TRANSCRIBE]
        records = self.heard.get(planned.asset.id, ())
        return dict(parts.begun(records, duration_s, source, words, planned.decoding))

    def _duration_s(self, planned: Planned) -> float | None:
        """The length of a recording that is to be cut; None where it is not to be."""
        if (
            self.longest_s is None
            or self.slots < 2
            or planned.action is not Action.PROCESS
            or Stage.TRANSCRIBE in planned.kept
            or planned.suspect
            or planned.redo
        ):
            return None
        duration_s = planned.asset.duration_s
        if duration_s is None and self.lengths.of(planned) * _UNSURE_X >= self.longest_s:
            duration_s = declared_duration_s(planned.asset)
        return duration_s if duration_s is not None and duration_s > self.longest_s else None

    def of(self, planned: Planned) -> Division | None:
        """The division of an asset that is at work, or whose whole has not begun."""
        return self._divisions.get(planned.asset.id)

    def ended(
        self, planned: Planned, record: StageRecord | None, *, suspect: bool = False
    ) -> Planned | None:
        """A part has ended; the whole asset, if it was the last one.

        Args:
            record: what it came to; None: it failed.
        """
        assert planned.part is not None
        division = self._divisions[planned.asset.id]
        division.left.discard(planned.part.label)
        division.suspect |= suspect
        if record is not None:
            division.heard[planned.part] = record
        if division.left:
            return None
        return replace(division.whole, parts=division.heard, suspect=division.suspect)

    def begun(self, planned: Planned) -> None:
        """The whole has begun: another attempt at it will be one of its own."""
        self._divisions.pop(planned.asset.id, None)

    def open(self) -> list[Division]:
        """Those of which an attempt has begun that has not come to the whole."""
        return [one for one in self._divisions.values() if one.attempt is not None]
