"""What a model takes of memory and time before anything was measured here. Pure.

Every figure is a guess from the model's size and from what others have published; whoever shows one
says so. What is measured (`learnt.Learnt`, `remembered.Experience`) goes before it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from audio_batch.models import ModelReference

FEED_CORE_S = 21 / 3600
"""Core-seconds that a second of audio takes beside the recognizer: decode 2, Silero VAD 7 and
features 12 seconds an hour of audio."""

_CONTEXT_BYTES = 600_000_000
"""What CUDA, its libraries' kernels and an allocator's cache take of a GPU before any work."""

_PROGRAM_BYTES = 1_500_000_000
"""What the program and its libraries take of the host's memory, in each process."""

_DIARIZER_BYTES = 1_200_000_000
"""Least that diarization takes of a GPU: four windows of the embedding at up to 0.3 GB each."""

_SAFETY, _SPARE_BYTES = 1.15, 500_000_000
"""So many times what is expected, and so much more, has to be free."""

_MOST_SLOTS = 64

_CORE_CYCLES_PER_AUDIO_S = 2.4e11
"""Core cycles of a second of audio on a GPU, for a model of the size of large, and again for
diarization. faster-whisper's large-v2 in batches of 8 does 46 s in a second on an RTX 3070 Ti
(6,144 cores at 1.77 GHz: 2.4e11), pyannote 75 s on an RTX 3090 (10,496 at 1.70 GHz: 2.4e11)."""

_LARGE_PARAMETERS = 1.55e9

_USUAL_CORE_HZ = 1e13
"""Of a GPU that does not say how fast it is: an RTX 3070's."""

_CORE_S_PER_PARAMETER = 7e-10
"""Core-seconds of a second of audio on a CPU: two cores do 10 to 13 s in a second with small and
about 2 with large-v3, in int8."""

_DIARIZE_CORE_S = 1.4
"""The same for diarization: pyannote's embedding takes 14 s for 10 s of audio on one core."""


@dataclass(frozen=True, slots=True)
class ModelSize:
    """How large a recognition model is.

    Attributes:
        parameters: how many there are.
        device_bytes: of a GPU's memory in fp16, with CUDA itself, before any batch.
        host_bytes: of the host's memory, with the program.
        source: where this is known from, for people.
    """

    parameters: float
    device_bytes: float
    host_bytes: float
    source: str


_TABLE = {
    "tiny": (39e6, 0.5e9, 1e9),
    "base": (74e6, 0.8e9, 2e9),
    "small": (244e6, 1.5e9, 3e9),
    "medium": (769e6, 2.5e9, 5e9),
    "large": (_LARGE_PARAMETERS, 5e9, 8e9),
}
"""Parameters, GPU memory in fp16 and host memory of a task with the model (the usual estimates)."""

_ALIKE = {
    "turbo": ("medium", 809e6),
    "distil-large": ("medium", 756e6),
    "distil-medium": ("medium", 394e6),
    "distil-small": ("small", 166e6),
}
"""Other models' row of the table, and their own parameters. The first that is in a name counts."""


def size_by_name(name: str) -> ModelSize:
    """The size of a model that is not on this machine; an unknown name counts as large."""
    lowered = name.lower().partition("@")[0]
    row, parameters = next(
        (
            found
            for part, found in (*_ALIKE.items(), *((row, (row, None)) for row in _TABLE))
            if part in lowered
        ),
        ("large", None),
    )
    usual, device_bytes, host_bytes = _TABLE[row]
    return ModelSize(parameters or usual, device_bytes, host_bytes, f"the usual size of {row}")


def size_of_files(model: ModelReference) -> ModelSize:
    """The size of a model that is here; its file holds two bytes a parameter (fp16)."""
    return ModelSize(
        parameters=model.size_bytes / 2,
        device_bytes=model.size_bytes + _CONTEXT_BYTES,
        host_bytes=model.size_bytes + _PROGRAM_BYTES,
        source="its files",
    )


@dataclass(frozen=True, slots=True)
class DeviceNeed:
    """Memory on a GPU in bytes: of the one model that all its slots share, and of each slot.

    A further slot costs what one more batch takes (a window is mostly cross-attention keys and
    values, 8 % of the weights, and encoder activations) and, where speakers are told apart, what
    diarization takes at least. It brings no further copy of the model.
    """

    model_bytes: float
    slot_bytes: float


def device_need(
    size: ModelSize, *, compute_type: str, batch_size: int, stages: Collection[str]
) -> DeviceNeed:
    """What a model takes on a GPU; `compute_type` as asked for, "auto" counts as float16."""
    weights = 2 * size.parameters
    factor = 2.0 if compute_type == "float32" else 0.5 if compute_type.startswith("int8") else 1.0
    slot = batch_size * (0.08 * weights + 60e6)
    if "diarize" in stages:
        slot += _DIARIZER_BYTES
    return DeviceNeed(size.device_bytes + (factor - 1) * weights, slot)


def slots_in_vram(free_bytes: float, need: DeviceNeed) -> int:
    """How many slots fit into a GPU's free memory: 1.15 times their need and 0.5 GB; up to 64.

    Reckoned, not measured: what a GPU was seen to hold is the libraries' caches too, which take
    what is free and would close a GPU that has room.
    """

    def taken(slots: int) -> float:
        return need.model_bytes + slots * need.slot_bytes

    slots = 0
    while slots < _MOST_SLOTS and _SAFETY * taken(slots + 1) + _SPARE_BYTES <= free_bytes:
        slots += 1
    return slots


def assumed_per_audio_s(
    size: ModelSize,
    stages: Collection[str],
    *,
    on_cpu: bool,
    cores: int,
    peak_core_hz: float | None = None,
) -> float:
    """Seconds that a device alone is guessed to take for a second of audio, by published speeds.

    Good for comparing devices; the seconds themselves may be far off.
    """
    voices = "diarize" in stages
    if on_cpu:
        core_s = FEED_CORE_S + _CORE_S_PER_PARAMETER * size.parameters + voices * _DIARIZE_CORE_S
        return core_s / max(1, cores)
    work = size.parameters / _LARGE_PARAMETERS + voices
    feed_s = FEED_CORE_S / max(1, cores)
    return max(feed_s, work * _CORE_CYCLES_PER_AUDIO_S / (peak_core_hz or _USUAL_CORE_HZ))
