"""A device's pipelines: one a slot, each lent to one thread at a time."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

from audio_batch.errors import DeviceError, SetupError
from audio_batch.gpu.devices import Device

_log = logging.getLogger("audio_batch.diarization")


class PipelinePool:
    """Pipelines made as they are needed, `slots` at most. Any thread.

    Args:
        load: makes one; raises SetupError or DeviceError.
    """

    def __init__(self, load: Callable[[], Any], device: Device, slots: int) -> None:
        self.made = 0
        self.slots = slots
        """How many there can be: lowered where only the first ones have room."""
        self._load = load
        self._device = device
        self._idle: queue.LifoQueue[Any] = queue.LifoQueue()
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def borrow(self) -> Iterator[Any]:
        """A pipeline for the calling thread alone; waits while all of the slots' are lent."""
        with self._lock:
            try:
                pipeline = self._idle.get_nowait()
            except queue.Empty:
                pipeline = self._another()
        if pipeline is None:
            pipeline = self._idle.get()
        try:
            yield pipeline
        finally:
            self._idle.put(pipeline)

    def _another(self) -> Any:
        """One pipeline more, with the lock held; None where the slots have theirs.

        Where only the first ones have room, the others' threads wait for them.
        """
        if self.made >= self.slots:
            return None
        try:
            pipeline = self._load()
        except (DeviceError, SetupError) as error:
            if not self.made:
                raise
            _log.warning("%s serves with %d pipelines: %s", self._device.id, self.made, error)
            self.slots = self.made
            return None
        self.made += 1
        return pipeline
