"""How far one attempt at an asset has come, told as its stages go on; and its turn on a device."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from audio_batch.events import WAITING, AssetProgress
from audio_batch.outcome import Stage

if TYPE_CHECKING:
    from audio_batch.pipeline import Context, Job

_FETCH_BEAT_S = 0.5


@dataclass(slots=True)
class StageProgress:
    """What is told of an attempt; telling it breaks off one that nobody waits for any more.

    `length_s` is of what is heard: the recording, or a part of it; 0 before that is known.
    """

    job: Job
    context: Context
    length_s: float = 0.0
    _told_at_s: float = 0.0

    def gate(self, stage: Stage) -> AbstractContextManager[None]:
        """Where the stage waits for room on its device, and tells that it does."""
        return self.context.gates.enter(
            self.job.device,
            stage.value,
            waiting=lambda: self.tell(stage, WAITING, 0.0),
            entered=lambda: self.tell(stage, "", 0.0),
            gone=lambda: self.context.given_up(self.job),
        )

    def fetch(self, share: float | None) -> None:
        """Tell how much of the recording is here, now and then."""
        self.context.go_on(self.job)
        if time.monotonic() < self._told_at_s + _FETCH_BEAT_S and share != 1.0:
            return
        self._told_at_s = time.monotonic()
        self.context.progress(
            AssetProgress(
                asset_id=self.job.asset.id,
                device=self.job.device,
                stage="fetch",
                share=share or 0.0,
                asset_share=0.0,
                duration_s=self.length_s,
                part=self.job.share,
            )
        )

    def tell(self, stage: Stage, step: str, share: float) -> None:
        """Tell how far the stage has come, and how far the asset, each stage counting alike."""
        self.context.go_on(self.job)
        if step != WAITING:
            self.context.gates.moved(self.job.device)
        # Those before this one have been read or done, those after it may still be read.
        todo = [s for s in Stage if s in self.job.stages and s not in self.job.kept]
        if self.job.part is not None:
            todo = [stage]
        before = todo.index(stage) if stage in todo else 0
        self.context.progress(
            AssetProgress(
                asset_id=self.job.asset.id,
                device=self.job.device,
                stage=f"{stage}: {step}" if step else stage.value,
                share=min(1.0, max(0.0, share)),
                asset_share=min(1.0, max(0.0, (before + share) / max(1, len(todo)))),
                duration_s=self.length_s,
                part=self.job.share,
            )
        )
