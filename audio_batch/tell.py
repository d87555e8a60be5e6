"""What a worker tells the run while it is at an asset, and the one thing that it is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from audio_batch.outcome import Published, StageRecord

if TYPE_CHECKING:
    from audio_batch.events import AssetProgress
    from audio_batch.pipeline import Job


def _never(_job: Job) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Tell:
    """See `pipeline.Context`; every function may be called from any thread.

    `given_up` says whether the run has stopped waiting for an attempt: it must publish nothing.
    """

    progress: Callable[[AssetProgress], None]
    stage_done: Callable[[StageRecord], None]
    published: Callable[[Published], None]
    given_up: Callable[[Job], bool] = _never
