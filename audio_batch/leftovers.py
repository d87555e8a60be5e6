"""Temporary files that killed runs left, told from those of others that may be at work.

Runs of several shards, and runs with states elsewhere, may write into one output folder. The names
of their temporary files say whose they are.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from audio_batch.shards import FOLDER as SHARDS
from audio_batch.shards import Shard
from audio_batch.storage import TEMPORARY_PREFIX, temporary_prefix

_FOREIGN = "s"
"""What the mark of a state elsewhere begins with in names of temporary files; others by a digit."""

_OLD_S = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Leftovers:
    """The temporary files of one state.

    Attributes:
        root: the local folder of the outputs; None: they are remote.
        whole: the state folder without regard to shards.
        elsewhere: whether it lies outside a local output folder.
    """

    root: Path | None
    whole: Path
    shard: Shard | None
    elsewhere: bool

    @property
    def tag(self) -> str:
        """Whose temporary files they are: one part's, and those of one state."""
        tag = self.shard.tag if self.shard else ""
        if not self.elsewhere:
            return tag
        digest = hashlib.sha256(str(self.whole).encode("utf-8", "surrogatepass")).hexdigest()
        return f"{_FOREIGN}{digest[:8]}" + (f"-{tag}" if tag else "")

    def find(self) -> Iterator[Path]:
        """Those of killed runs; to be called with the folder's lock held.

        Of a shard only its own: the others may be at work. Of runs with other states,
        which may be at work too, what is older than a day.
        """
        state = self.whole / SHARDS / self.shard.tag if self.shard else self.whole
        yield from _temporaries_below(state)
        if self.root is None:
            return
        tag, old_s = self.tag, time.time() - _OLD_S
        for path in _temporaries_below(self.root, without=self.whole):
            if self._is_ours(path.name, tag) or _is_older(path, old_s):
                yield path

    def sweep(self) -> int:
        """Remove them, with the folder's lock held; how many there were."""
        count = 0
        for path in self.find():
            with contextlib.suppress(OSError):
                path.unlink()
                count += 1
        return count

    def _is_ours(self, name: str, tag: str) -> bool:
        if not name.startswith(temporary_prefix(tag if self.shard else "")):
            return False
        foreign = name.removeprefix(TEMPORARY_PREFIX).startswith(_FOREIGN)
        if self.shard is not None or (not foreign and not self.elsewhere):
            return True
        return bool(tag) and name.startswith(TEMPORARY_PREFIX + tag)


def _is_older(path: Path, time_s: float) -> bool:
    try:
        return path.lstat().st_mtime < time_s
    except OSError:
        return False


def _temporaries_below(folder: Path, *, without: Path | None = None) -> Iterator[Path]:
    """Every temporary file below a folder; `without` what lies in one of its own."""
    for place, folders, names in os.walk(folder):
        if without is not None and Path(place) == without.parent:
            folders[:] = [name for name in folders if name != without.name]
        for name in names:  # texts: a `Path` of each output takes ten times as long
            if name.startswith(TEMPORARY_PREFIX):
                yield Path(place, name)
