"""Choosing a source of GPU readings, and sampling it in one thread.

The order is NVML, then `nvidia-smi`, then none: the balancer then counts tasks alone. That loss is
said once, at WARNING; a change from NVML to nvidia-smi loses nothing and is said at INFO. A
machine where neither was ever installed has nothing to lose, and is told so at INFO.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from audio_batch.gpu.nvidia_smi import NvidiaSmiProbe
from audio_batch.gpu.nvml import NvmlProbe
from audio_batch.gpu.snapshot import GpuSnapshot, Probe, ProbeAbsent

logger = logging.getLogger("audio_batch.gpu")

Source = Callable[[], Probe]
SOURCES: tuple[Source, ...] = (NvmlProbe, NvidiaSmiProbe)

_JOIN_S = 6.0  # a little over nvidia-smi's time limit: what a reading under way can take


class NoProbe:
    """The end of the chain: no GPU is reported."""

    name = "none"

    def snapshots(self) -> tuple[GpuSnapshot, ...]:
        return ()

    def close(self) -> None:
        """Nothing is held."""


class FallbackProbe:
    """The first source that works; when it fails, the next; in the end `NoProbe`. Never raises.

    Args:
        sources: constructors, tried in order; each may raise `ProbeError`.
    """

    def __init__(self, sources: Sequence[Source] = SOURCES) -> None:
        self._untried = list(sources)
        self._current: Probe = NoProbe()
        self._failures: list[str] = []
        self._only_absent = True
        self._advance()

    @property
    def name(self) -> str:
        """The source in use: "nvml", "nvidia-smi" or "none"."""
        return self._current.name

    def snapshots(self) -> tuple[GpuSnapshot, ...]:
        """Read the source in use, changing to the next for as long as they fail."""
        while True:
            try:
                return self._current.snapshots()
            except Exception as error:  # whatever a driver's binding raises, the run goes on
                self._failed(error)
                self._advance()

    def close(self) -> None:
        self._current.close()

    def _advance(self) -> None:
        self._current.close()
        while self._untried:
            try:
                self._current = self._untried.pop(0)()
            except Exception as error:  # as above
                self._failed(error)
            else:
                if self._failures:
                    reasons = "; ".join(self._failures)
                    logger.info("GPU readings come from %s (%s).", self.name, reasons)
                return
        self._current = NoProbe()
        logger.log(
            logging.INFO if self._only_absent else logging.WARNING,
            "GPU load and memory cannot be read (%s): only tasks are counted.",
            "; ".join(self._failures),
        )

    def _failed(self, error: Exception) -> None:
        self._failures.append(str(error) or type(error).__name__)
        self._only_absent = self._only_absent and isinstance(error, ProbeAbsent)


def open_probe() -> FallbackProbe:
    """Open the best source of this machine: NVML, else nvidia-smi, else none. Never raises."""
    return FallbackProbe(SOURCES)


class Sampler:
    """One daemon thread that reads a source every `interval_s`; readers never wait for it.

    A context manager. `latest()` and `source` may be used from any thread; `start()` and `stop()`
    belong to the thread that owns it.

    Args:
        sources: as for `FallbackProbe`.
        interval_s: seconds between two readings.
    """

    def __init__(self, sources: Sequence[Source] = SOURCES, *, interval_s: float = 1.0) -> None:
        self._sources = sources
        self._interval_s = interval_s
        self._latest: tuple[GpuSnapshot, ...] = ()
        self._source = NoProbe.name
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> Self:
        """Take the first reading here, so that `latest()` is never empty for want of time, and
        leave the rest to the thread. Blocks for one reading (nvidia-smi: up to 5 s).

        Raises:
            RuntimeError: it was started before.
        """
        if self._thread is not None:
            raise RuntimeError("a Sampler is started once")
        probe = FallbackProbe(self._sources)
        self._read(probe)
        self._thread = threading.Thread(
            target=self._run, args=(probe,), name="gpu-sampler", daemon=True
        )
        self._thread.start()
        return self

    def stop(self) -> None:
        """End the thread and close the source; a second call does nothing.

        A reading that hangs in the driver is left behind after a few seconds: the thread is a
        daemon and keeps nobody from leaving.
        """
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(_JOIN_S)

    def latest(self) -> tuple[GpuSnapshot, ...]:
        """The last reading, or () when nothing can be read. Does not block."""
        return self._latest

    @property
    def source(self) -> str:
        """Where the last reading came from: "nvml", "nvidia-smi" or "none"."""
        return self._source

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _read(self, probe: FallbackProbe) -> None:
        self._latest = probe.snapshots()  # one assignment of one tuple: readers need no lock
        self._source = probe.name

    def _run(self, probe: FallbackProbe) -> None:
        try:
            while probe.name != NoProbe.name and not self._stopping.wait(self._interval_s):
                self._read(probe)
        finally:
            probe.close()
