"""What is noted of one attempt at an asset: how long each stage took, why one failed."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from audio_batch.errors import AssetError, Away, DeviceError, ErrorKind, SetupError, UsageError
from audio_batch.text import redact

_log = logging.getLogger("audio_batch.pipeline")


@dataclass(slots=True)
class StageClock:
    """Seconds spent in each stage of one asset; what one stage does within another is its own."""

    timings_s: dict[str, float] = field(default_factory=dict)
    _within_s: float = 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage; one that fails is timed too."""
        begun = time.perf_counter()
        outer_s, self._within_s = self._within_s, 0.0
        try:
            yield
        finally:
            took_s = time.perf_counter() - begun
            self.timings_s[name] = round(took_s - self._within_s, 4)
            self._within_s = outer_s + took_s


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a stage failed, as plain values.

    `device_failed`: the device's fault, not the asset's; `away`: the store's.
    """

    kind: ErrorKind
    text: str
    transient: bool = False
    device_failed: bool = False
    away: Away | None = None

    @classmethod
    def of(cls, error: Exception, what: str) -> Failure:
        """Any exception as a record; what nobody foresaw goes to the log in full."""
        if isinstance(error, DeviceError):
            return cls(ErrorKind.DEVICE, redact(str(error)), device_failed=True)
        if isinstance(error, SetupError | UsageError):
            # The model folder broke under the run: nothing of it is this asset's fault.
            return cls(ErrorKind.MODEL, redact(str(error)), device_failed=True)
        if isinstance(error, AssetError):
            text = redact(str(error))
            return cls(error.kind, text, transient=error.transient, away=error.away)
        if isinstance(error, MemoryError):
            text = "There was not enough memory for this asset. Run fewer at a time (--threads)."
            return cls(ErrorKind.OUT_OF_MEMORY, text, transient=True)
        _log.error("unexpected failure of %s", what, exc_info=error)
        text = f"Unexpected {type(error).__name__}: {error}. Please report it; see the log file."
        return cls(ErrorKind.INTERNAL, redact(text))
