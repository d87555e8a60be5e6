"""What every recognition engine offers, and the records that it takes and returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from audio_batch.gpu.devices import Device
from audio_batch.models import ModelReference
from audio_batch.options import DecodingOptions
from audio_batch.transcript import Segment

Progress = Callable[[float], None]
"""Called with the position in the recording, in seconds, that has been transcribed."""


@dataclass(frozen=True, slots=True)
class LoadRequest:
    """One model on one device, to be shared by `slots` threads.

    `free_bytes` is the device's free memory, where it is known. `batch_size` in windows of 30 s
    and `cpu_threads` per slot are None where the engine is to choose.
    """

    model: ModelReference
    device: Device
    slots: int
    compute_type: str = "auto"
    batch_size: int | None = None
    cpu_threads: int | None = None
    free_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Recognition:
    """What the engine heard. `speech_s` is the length that the VAD let through."""

    segments: tuple[Segment, ...]
    language: str | None
    language_probability: float | None = None
    speech_s: float | None = None
    notes: tuple[str, ...] = ()


class Recognizer(Protocol):
    """A loaded model. Its threads share it; every method may be called from any of them."""

    description: dict[str, Any]
    """What was resolved (compute type, batch size, mode): for the log and the provenance."""

    warnings: tuple[str, ...]
    """What the user asked for and did not get, one sentence each."""

    def check(self, options: DecodingOptions) -> None:
        """Refuse options that this model would silently ignore; called before the decoding.

        Raises:
            AssetError: it cannot do what is asked for.
        """
        ...

    def transcribe(
        self, samples: NDArray[np.float32], options: DecodingOptions, progress: Progress
    ) -> Recognition:
        """Hear `samples` (float32, mono, 16 kHz, shape (n,)).

        Raises:
            AssetError: this recording or its options cannot be done.
            DeviceError: the device has failed.
        """
        ...


class Engine(Protocol):
    """A way to load models."""

    name: str

    def load(self, request: LoadRequest) -> Recognizer:
        """Load a model on a device; called once per device, in a worker.

        Raises:
            SetupError: the model folder is unusable anywhere.
            DeviceError: the device cannot hold or run it.
        """
        ...
