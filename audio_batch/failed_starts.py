"""Starts that ended before their run began: `status` tells of them what no journal can.

The output folder may be what could not be made, and the journal what could not be opened. So the
last one of each place for outputs stands in the user's cache. It is told until a run has begun
there since.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import ClassVar

from audio_batch.kept_file import Content, KeptFile
from audio_batch.output_folder import OutputFolder
from audio_batch.text import redact


@dataclass(frozen=True, slots=True)
class FailedStart:
    """One of them.

    Attributes:
        where: the outputs' place, as people are told of it.
        shard: "2/4"; "": of the whole.
        began_at: seconds since the epoch.
        text: what kept it from beginning.
    """

    where: str
    shard: str
    began_at: float
    exit_code: int
    text: str

    @property
    def learnt_at(self) -> float:
        """See `kept_file.Entry`."""
        return self.began_at

    def __str__(self) -> str:
        what = f"The last start of part {self.shard}" if self.shard else "The last start"
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.began_at))
        return f"{what}, {at}, ended before it began: exit code {self.exit_code}. {self.text}"


def _check(entry: FailedStart) -> None:
    if not math.isfinite(entry.began_at):
        raise ValueError("it has no time")


@dataclass(slots=True)
class FailedStarts(KeptFile[tuple[str, str], FailedStart]):
    """The last failed start of each place. See `KeptFile`."""

    content: ClassVar[Content[tuple[str, str], FailedStart]] = Content(
        file_name="starts.json",
        list_name="starts",
        entry=FailedStart,
        key=lambda one: (one.where, one.shard),
        check=_check,
        lost="what kept runs from beginning",
        what="What kept the run from beginning",
        is_private=True,
    )

    def of(self, folder: OutputFolder) -> list[FailedStart]:
        """Those of a place, of the whole first."""
        found = [one for one in self.entries.values() if one.where == folder.where]
        return sorted(found, key=lambda one: one.shard)


def keep(folder: OutputFolder, began_at: float, exit_code: int, text: str) -> None:
    """Keep that a start has failed. Never raises."""
    shard = str(folder.shard) if folder.shard is not None else ""
    start = FailedStart(folder.where, shard, began_at, exit_code, redact(text))
    FailedStarts.load().keep(start)
