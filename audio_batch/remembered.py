"""What devices were found to work with after running out of memory: `devices.json` in the cache.

`audio-batch doctor` shows what it holds, `doctor --forget` removes it. See `audio_batch.kept_file`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import ClassVar

from audio_batch import __version__
from audio_batch.engines.cuda import COMPUTE_TYPES
from audio_batch.kept_file import Content, KeptFile
from audio_batch.ladder import Rung

_ROOMIER = 1.25
"""So many times the free memory of then: what was learnt says nothing about such a device."""


@dataclass(frozen=True, slots=True)
class Key:
    """What an experience is about.

    Attributes:
        device_uuid: the GPU's, or "cpu".
        model_identity: `ModelReference.identity`.
        compute_type: as asked for, "auto" too; not as resolved.
        diarize: whether the diarization model shares the device.
    """

    device_uuid: str
    model_identity: str
    compute_type: str
    diarize: bool


@dataclass(frozen=True, slots=True)
class Experience:
    """What worked, and what it was learnt on.

    Attributes:
        model_name: for people; two names may mean one model.
        learnt_at: seconds since the epoch.
        version: audio-batch's.
        total_bytes, free_bytes: the device's memory, and what of it was free before the models
            were loaded; None where nobody said.
    """

    key: Key
    rung: Rung
    model_name: str
    learnt_at: float
    version: str
    total_bytes: int | None
    free_bytes: int | None

    def holds(self, total_bytes: int | None, free_bytes: int | None) -> bool:
        """Whether it still says something, with the memory as it is now.

        Not on another machine's CPU (a home folder may be shared), and not where another program
        has given back a good part of the memory since.
        """
        if None not in (self.total_bytes, total_bytes) and self.total_bytes != total_bytes:
            return False
        if self.free_bytes is None or free_bytes is None:
            return True
        return free_bytes <= _ROOMIER * self.free_bytes


def _check(known: Experience) -> None:
    """Keep a run from what it would not take from its user.

    Raises:
        ValueError: no run works with this.
    """
    rung = known.rung
    if not (
        1 <= rung.slots <= 999
        and (rung.batch_size is None or 1 <= rung.batch_size <= 1024)
        and rung.compute_type in COMPUTE_TYPES
    ):
        raise ValueError(f"no such rung: {rung}")


class Remembered(KeptFile[Key, Experience]):
    """What is known of this user's devices. One thread; other processes may write meanwhile."""

    __slots__ = ()

    content: ClassVar[Content[Key, Experience]] = Content(
        file_name="devices.json",
        list_name="experiences",
        entry=Experience,
        key=lambda known: known.key,
        check=_check,
        lost="what devices were found to work with",
    )

    @property
    def experiences(self) -> dict[Key, Experience]:
        """What the file held when it was read, by key; without what is too old."""
        return self.entries

    def lookup(
        self, key: Key, *, total_bytes: int | None = None, free_bytes: int | None = None
    ) -> Rung | None:
        """What worked, if anything is known that still holds; see `Experience.holds`."""
        known = self.entries.get(key)
        return known.rung if known is not None and known.holds(total_bytes, free_bytes) else None

    def remember(
        self,
        key: Key,
        rung: Rung,
        *,
        model_name: str = "",
        total_bytes: int | None = None,
        free_bytes: int | None = None,
    ) -> None:
        """Keep what worked after the device ran out of memory; nothing is written that is known.

        Never raises: where it cannot be written, the log says so, once.
        """
        if self.lookup(key, total_bytes=total_bytes, free_bytes=free_bytes) == rung:
            return
        self.keep(
            Experience(key, rung, model_name, time.time(), __version__, total_bytes, free_bytes)
        )
