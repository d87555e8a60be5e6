"""Stands for what brings models to devices, in tests of the runner."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass

from audio_batch.outcome import Stage


@dataclass
class Loading:
    """Loads by a function; by default there is nothing to load."""

    loads: Callable[[str, Set[Stage]], Sequence[str]] = lambda _device, _needed: ()

    def begin(self, device: str, needed: Set[Stage]) -> None:
        """Nothing."""

    def load(self, device: str, needed: Set[Stage]) -> Sequence[str]:
        """What the function says."""
        return self.loads(device, needed)
