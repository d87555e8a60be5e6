"""The models of a run: one of each kind a device, loaded at first use, shared by its threads."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Hashable, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, TypeVar

from audio_batch.assembly import Fleet, usable_cores
from audio_batch.engines import LoadRequest, Recognizer, open_engine
from audio_batch.engines.base import Aligner, Diarizer
from audio_batch.errors import AudioBatchError, DeviceError, SetupError, UsageError
from audio_batch.gpu.balancer import DeviceLoad
from audio_batch.lineup import Lineup
from audio_batch.options import RunOptions
from audio_batch.outcome import Stage

_log = logging.getLogger("audio_batch.setup")

_SHARE_OF_VOICES = 0.4
"""Of a device's free memory: what diarization may fill with its batches, the rest is the words'."""

_Model = TypeVar("_Model")


@dataclass(slots=True)
class LoadedModels:
    """See `pipeline.Models`. A model is loaded once; who asks meanwhile waits.

    What cannot be had anywhere is not asked for again: a dead network is not tried once an asset.
    """

    options: RunOptions
    lineup: Lineup
    fleet: Fleet
    _loaded: dict[Hashable, Any] = field(default_factory=dict)
    _locks: dict[Hashable, threading.Lock] = field(default_factory=dict)
    _guard: threading.Lock = field(default_factory=threading.Lock)

    def load(self, device: str, needed: Set[Stage]) -> Sequence[str]:
        """Load what the stages need on a device; what to warn of. Aligners wait for a language.

        Raises:
            DeviceError, SetupError: see `Engine.load`.
        """
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

    def _once(self, key: Hashable, load: Callable[[], _Model]) -> _Model:
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
        load = self._load_of(device_id)
        slots = self._slots(device_id)
        recognizer = open_engine(self.options.engine).load(
            LoadRequest(
                model=self.lineup.model,
                device=load.device,
                slots=slots,
                compute_type=self.options.compute_type,
                batch_size=self.options.batch_size,
                cpu_threads=self._cpu_threads(load, slots),
                free_bytes=self._room(load, 1.0 - _SHARE_OF_VOICES),
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
        load = self._load_of(device_id)
        slots = self._slots(device_id)
        diarizer = load_diarizer(
            self.lineup.diarizer,
            load.device,
            slots=slots,
            cpu_threads=self._cpu_threads(load, slots),
            free_bytes=self._room(load, _SHARE_OF_VOICES),
        )
        _tell("diarizer", self.lineup.diarizer.name, device_id, diarizer.description)
        return diarizer

    def _load_aligner(self, device_id: str, language: str) -> Aligner | None:
        from audio_batch.engines.alignment import load_aligner

        reference = self.lineup.aligner_of(language)
        if reference is None:
            return None
        aligner = load_aligner(reference, language, self._load_of(device_id).device)
        _tell("aligner", reference.name, device_id, aligner.description)
        return aligner

    def _load_of(self, device_id: str) -> DeviceLoad:
        return next(x for x in self.fleet.balancer.loads() if x.device.id == device_id)

    def _slots(self, device_id: str) -> int:
        return min(self.fleet.caps[device_id], self.fleet.workers)

    def _room(self, load: DeviceLoad, share: float) -> int | None:
        """The memory that one of the two may count on, where both are on the device."""
        if load.free_bytes is None or self.lineup.diarizer is None:
            return load.free_bytes
        return int(share * load.free_bytes)

    def _cpu_threads(self, load: DeviceLoad, slots: int) -> int | None:
        threads = self.options.cpu_threads
        if threads is None and load.device.kind == "cpu":
            return max(1, usable_cores() // slots)
        return threads


def _tell(what: str, name: str, device_id: str, description: dict[str, Any]) -> None:
    about = ", ".join(f"{key} {value}" for key, value in description.items())
    _log.info("Loaded the %s %s on %s: %s", what, name, device_id, about)
