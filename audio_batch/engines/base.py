"""What every recognition engine offers, and the records that it takes and returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from audio_batch.cpu_gate import CpuGate
from audio_batch.gpu.devices import Device
from audio_batch.models import ModelReference
from audio_batch.options import DecodingOptions, SpeakerLimits
from audio_batch.transcript import Segment, Speaker, Turn

Progress = Callable[[float], None]
"""Called with the position in the recording, in seconds, that has been transcribed."""

StepProgress = Callable[[str, float], None]
"""Called with the name of a stage's step ("embeddings") and the share of the stage done, 0 to 1."""


@dataclass(frozen=True, slots=True)
class LoadRequest:
    """One model on one device, to be shared by `slots` threads; by more where assets share batches.

    `free_bytes` is the device's free memory, where it is known. `batch_size` in windows of 30 s
    and `cpu_threads` of one computation are None where the engine is to choose. `cpu` bounds what
    else is done on the process's cores.
    """

    model: ModelReference
    device: Device
    slots: int
    compute_type: str = "auto"
    batch_size: int | None = None
    cpu_threads: int | None = None
    free_bytes: int | None = None
    cpu: CpuGate | None = None


@dataclass(frozen=True, slots=True)
class Recognition:
    """What the engine heard. `speech_s` is the length that the VAD let through, `last_speech_s`
    where in the recording its last span of speech ends; None where no VAD was asked.
    """

    segments: tuple[Segment, ...]
    language: str | None
    language_probability: float | None = None
    speech_s: float | None = None
    notes: tuple[str, ...] = ()
    last_speech_s: float | None = None


class Recognizer(Protocol):
    """A loaded model. Its threads share it; every method may be called from any of them.

    One whose assets fill batches together has, besides, the method `shares_batches(options) ->
    bool`: with such options any number of assets may be in `transcribe`. Of the others a device
    takes as many at once as it has slots.
    """

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


@dataclass(frozen=True, slots=True)
class Alignment:
    """The segments that were given, text and order unchanged, with better times of their words.

    A segment begins and ends with its words; one that had none may have got those of its text.
    """

    segments: tuple[Segment, ...]
    notes: tuple[str, ...] = ()


class Aligner(Protocol):
    """A loaded forced aligner of one language; every method may be called from any thread."""

    description: dict[str, Any]
    """What aligns: for the log and the provenance."""

    def align(
        self,
        samples: NDArray[np.float32],
        segments: tuple[Segment, ...],
        language: str,
        progress: Progress,
    ) -> Alignment:
        """Time the words of `segments` in `samples` (float32, mono, 16 kHz, shape (n,)).

        Raises:
            AssetError: this recording cannot be done; OUT_OF_MEMORY is transient.
            DeviceError: the device has failed.
        """
        ...


@dataclass(frozen=True, slots=True)
class Diarization:
    """Who spoke when. Turns are sorted by start; those of `exclusive_turns` never overlap.

    Labels are SPEAKER_00, SPEAKER_01, … in the order in which the voices are first heard;
    `speakers` is in that order too and without `voice`, `name` and `score`.
    """

    turns: tuple[Turn, ...]
    exclusive_turns: tuple[Turn, ...]
    speakers: tuple[Speaker, ...]
    notes: tuple[str, ...] = ()


class Diarizer(Protocol):
    """A loaded diarization pipeline; every method may be called from any of the device's threads.

    What is not thread-safe inside is the implementation's business: it holds one pipeline a slot.
    """

    description: dict[str, Any]
    """What was resolved (batch sizes, models): for the log and the provenance."""

    warnings: tuple[str, ...]
    """What the user should know about this model, one sentence each."""

    embedding_identity: str
    """Name of the space that speaker embeddings live in; others cannot be compared with them."""

    link_threshold: float | None
    """Cosine from which two vectors are of one voice, as the model recommends; None: unknown."""

    enrol_threshold: float | None
    """Cosine from which a voice is the one of a reference clip; None: unknown."""

    def diarize(
        self, samples: NDArray[np.float32], limits: SpeakerLimits, progress: StepProgress
    ) -> Diarization:
        """Tell the voices in `samples` (float32, mono, 16 kHz, shape (n,)) apart.

        Raises:
            AssetError: this recording cannot be done; OUT_OF_MEMORY is transient.
            DeviceError: the device has failed.
        """
        ...

    def embed(self, samples: NDArray[np.float32]) -> tuple[float, ...]:
        """The voice of `samples`, which hold one speaker alone, as a vector of Euclidean norm 1.

        Raises:
            AssetError: there is too little to tell (under half a second of sound).
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
