"""What the steps of one run share, from the moment that it holds its folder."""

from __future__ import annotations

import time as clock
from dataclasses import dataclass, field
from typing import Any

from audio_batch.assets import Assets
from audio_batch.config import Settings
from audio_batch.databases import delivery
from audio_batch.fetching import Fetching
from audio_batch.interface import Interface
from audio_batch.journal import Journal
from audio_batch.lineup import Lineup
from audio_batch.manifest import Manifest
from audio_batch.options import RunOptions
from audio_batch.outcome import RunResult
from audio_batch.output_folder import OutputFolder
from audio_batch.request import Request
from audio_batch.time_limits import TimeLimit
from audio_batch.voices.of_run import RunVoices


@dataclass(slots=True, kw_only=True)
class Night:
    """A run that holds its folder.

    Attributes:
        assets: those of the manifest that were chosen.
        results: what delivers to a database of results; None: nobody asked for it.
        result: what the runner counts, or has counted.
        run_id: the journal's number of the run; None before it has begun.
        begun_at: when it came to hold its folder, in seconds since the epoch.
    """

    request: Request
    interface: Interface
    folder: OutputFolder
    journal: Journal
    options: RunOptions
    lineup: Lineup
    manifest: Manifest
    assets: Assets
    time: TimeLimit
    fetching: Fetching
    voices: RunVoices
    results: delivery.Delivery | None = None
    result: RunResult = field(default_factory=RunResult)
    run_id: int | None = None
    begun_at: float = field(default_factory=clock.time)

    @property
    def settings(self) -> Settings:
        """What was asked for."""
        return self.request.settings

    def described(self, todo: int) -> dict[str, Any]:
        """The run for the journal: what was asked for, of how many assets, how many are to do."""
        return {**self.request.to_json(), "selected": len(self.assets), "todo": todo}
