"""The models of a run: one of each kind a device, loaded at first use, shared by its threads."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, TypeVar

from audio_batch.cpu_gate import CpuGate
from audio_batch.engines import LoadRequest, Recognizer, open_engine
from audio_batch.engines.base import Aligner, Diarizer
from audio_batch.errors import AudioBatchError, DeviceError, SetupError, UsageError
from audio_batch.gpu.devices import Device
from audio_batch.lineup import Lineup
from audio_batch.options import RunOptions
from audio_batch.outcome import Stage

_log = logging.getLogger("audio_batch.setup")

_SHARE_OF_VOICES = 0.4
"""Of a device's free memory: what diarization may fill with its batches, the rest is the words'."""

_Model = TypeVar("_Model")


@dataclass(frozen=True, slots=True)
class Place:
    """Where models are loaded: plain values, ready to cross a process border.

    `slots` assets work there at once, up to `ahead` more are read ahead. `free_bytes` is the
    device's free memory, None where nobody says. `cpu_threads` of one batch, `batch_size` in
    windows; None where the engine is to choose.
    """

    device: Device
    slots: int
    free_bytes: int | None
    cpu_threads: int | None
    compute_type: str
    batch_size: int | None
    ahead: int = 0


@dataclass(slots=True)
class LoadedModels:
    """See `pipeline.Models`. A model is loaded once; who asks meanwhile waits.

    What cannot be had anywhere is not asked for again: a dead network is not tried once an asset.
    `place_of` tells where to load what belongs to a device. `cpu` bounds what this process does on
    its cores beside the models.
    """

    options: RunOptions
    lineup: Lineup
    place_of: Callable[[str], Place]
    cpu: CpuGate = field(default_factory=CpuGate)
    _loaded: dict[tuple[str, ...], Any] = field(default_factory=dict)
    _locks: dict[tuple[str, ...], threading.Lock] = field(default_factory=dict)
    _guard: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, device: str, needed: Set[Stage]) -> None:
        """Nothing: `load` does it all. See `crew.Loader`."""

    def load(self, device: str, needed: Set[Stage]) -> Sequence[str]:
        """Load what the stages need on a device, anew; what to warn of. Aligners wait for a
        language. Who is at work with earlier models keeps them until they are done.

        Raises:
            DeviceError, SetupError: see `Engine.load`.
        """
        with self._guard:
            for key in [key for key in self._loaded if key[1] == device]:
                del self._loaded[key]
        warnings: list[str] = []
        if Stage.TRANSCRIBE in needed:
            warnings += self.recognizer(device).warnings
        if Stage.DIARIZE in needed:
            try:
                warnings += self.diarizer(device).warnings
            except (SetupError, DeviceError) as error:
                # Nobody asked for speakers: the words are worth having without them.
                if self.lineup.speakers_asked:
                    raise
                warnings.append(f"The transcripts will lack their speakers: {error}")
        return warnings

    def recognizer(self, device: str) -> Recognizer:
        """What hears words on the device."""
        return self._once(("recognizer", device), lambda: self._load_recognizer(device))

    def diarizer(self, device: str) -> Diarizer:
        """What tells voices apart on the device."""
        return self._once(("diarizer", device), lambda: self._load_diarizer(device))

    def aligner(self, device: str, language: str) -> Aligner | None:
        """What times the words of a language on the device; None where nothing does."""
        return self._once(
            ("aligner", device, language), lambda: self._load_aligner(device, language)
        )

    def _once(self, key: tuple[str, ...], load: Callable[[], _Model]) -> _Model:
        with self._guard:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            if key not in self._loaded:
                try:
                    self._loaded[key] = load()
                except (SetupError, UsageError) as error:
                    self._loaded[key] = error
            model = self._loaded[key]
            if isinstance(model, AudioBatchError):
                # Its traceback would hold on to every asset's samples that it was raised over.
                raise model.with_traceback(None)
            loaded: _Model = model
            return loaded

    def _load_recognizer(self, device_id: str) -> Recognizer:
        place = self.place_of(device_id)
        recognizer = open_engine(self.options.engine).load(
            LoadRequest(
                model=self.lineup.model,
                device=place.device,
                slots=place.slots,
                compute_type=place.compute_type,
                batch_size=place.batch_size,
                cpu_threads=place.cpu_threads,
                free_bytes=self._room(place, 1.0 - _SHARE_OF_VOICES),
                cpu=self.cpu,
            )
        )
        _tell("recognizer", self.lineup.model.name, device_id, recognizer.description)
        return recognizer

    def _load_diarizer(self, device_id: str) -> Diarizer:
        from audio_batch.engines.pyannote import load_diarizer

        if self.lineup.diarizer is None:
            raise SetupError(
                "What was known of the speakers is damaged, and there is no diarization model.",
                remedy="Run again when the model can be had, or with --no-diarize.",
            )
        place = self.place_of(device_id)
        diarizer = load_diarizer(
            self.lineup.diarizer,
            place.device,
            slots=place.slots,
            cpu_threads=place.cpu_threads,
            free_bytes=self._room(place, _SHARE_OF_VOICES),
        )
        _tell("diarizer", self.lineup.diarizer.name, device_id, diarizer.description)
        return diarizer

    def _load_aligner(self, device_id: str, language: str) -> Aligner | None:
        from audio_batch.engines.alignment import load_aligner

        reference = self.lineup.aligner_of(language)
        if reference is None:
            return None
        aligner = load_aligner(reference, language, self.place_of(device_id).device)
        _tell("aligner", reference.name, device_id, aligner.description)
        return aligner

    def _room(self, place: Place, share: float) -> int | None:
        """The memory that one of the two may count on, where both are on the device."""
        if place.free_bytes is None or self.lineup.diarizer is None:
            return place.free_bytes
        return int(share * place.free_bytes)


def _tell(what: str, name: str, device_id: str, description: dict[str, Any]) -> None:
    about = ", ".join(f"{key} {value}" for key, value in description.items())
    _log.info("Loaded the %s %s on %s: %s", what, name, device_id, about)
