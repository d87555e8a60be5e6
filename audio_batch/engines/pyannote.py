"""pyannote.audio behind the diarizer protocol.

Out of memory has a ladder: half the batches, down to one window at a time and for the rest of the
run; then half the piece of the recording that is diarized at a time (`long_diarization`); then the
asset fails, and may be tried again.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import psutil
from numpy.typing import NDArray

from audio_batch.diarization_models import (
    DEMO_NOTICE,
    DiarizationReference,
    checkpoint_of,
)
from audio_batch.engines.base import Diarization, Diarizer, StepProgress
from audio_batch.engines.failures import is_out_of_memory
from audio_batch.engines.long_diarization import PIECE_S, diarize_in_pieces
from audio_batch.engines.pyannote_errors import load_error, translate
from audio_batch.engines.pyannote_memory import Batches, batch_sizes, window_step
from audio_batch.engines.pyannote_pipeline import (
    SAMPLE_RATE_HZ,
    as_file,
    ensure_no_telemetry,
    import_pyannote,
    load_pipeline,
)
from audio_batch.engines.pyannote_pool import PipelinePool
from audio_batch.engines.pyannote_records import (
    QUIET,
    clean,
    counted,
    diarization,
    loud_s,
    peak,
    unit,
)
from audio_batch.engines.pyannote_steps import Steps
from audio_batch.engines.pyannote_voice import MIN_VOICE_S, voice
from audio_batch.errors import AssetError, AudioBatchError, DeviceError, ErrorKind
from audio_batch.gpu.devices import Device
from audio_batch.identity import content_hash
from audio_batch.options import SpeakerLimits

MIN_SAMPLES = 400
"""One analysis frame (25 ms)."""

_T = TypeVar("_T")


def load_diarizer(
    reference: DiarizationReference,
    device: Device,
    *,
    slots: int,
    cpu_threads: int | None,
    free_bytes: int | None,
    piece_s: float = PIECE_S,
) -> Diarizer:
    """Load a pipeline on a device, where `slots` threads will use it.

    Args:
        cpu_threads: of each slot; None for the machine's cores shared among the slots, and for
            four at most where a GPU does the work. Left alone, every slot would keep all cores
            busy (pyannote-audio#1753).
        free_bytes: the device's free memory, where it is known; decides the batch sizes.
        piece_s: longer recordings are diarized in pieces; see `long_diarization`.

    Raises:
        SetupError: the model is unusable anywhere.
        DeviceError: the device cannot hold or run it.
    """
    torch = import_pyannote()
    if device.kind == "cuda":
        visible = torch.cuda.device_count()
        if (device.cuda_index or 0) >= visible:
            raise DeviceError(
                f"{device.id} is not visible to PyTorch ({visible} CUDA devices).",
                remedy="Check the driver and CUDA_VISIBLE_DEVICES, or use --device cpu.",
            )
    cores = max(1, _cores() // slots)
    threads = cpu_threads or (cores if device.kind == "cpu" else min(4, cores))
    batches = batch_sizes(device.kind, free_bytes, slots)
    diarizer = PyannoteDiarizer(reference, device, slots, threads, batches, piece_s)
    with diarizer.pool.borrow() as pipeline:  # a model that cannot be loaded is told here
        kind = type(pipeline._embedding.model_).__name__
        diarizer.description["clustering"] = pipeline.klustering
        diarizer.counts = bool(pipeline._expects_num_speakers)
    digest = content_hash(checkpoint_of(reference.embedding))
    diarizer.embedding_identity = f"{kind}-{digest}"
    diarizer.description["embedding"] = diarizer.embedding_identity
    return diarizer


def _cores() -> int:
    """Cores that this process may use: a container may allow fewer than there are."""
    try:
        return len(psutil.Process().cpu_affinity())
    except (AttributeError, OSError, psutil.Error):
        return os.cpu_count() or 1


class PyannoteDiarizer:
    """A loaded diarization pipeline; see `Diarizer`. Made by `load_diarizer`."""

    def __init__(
        self,
        reference: DiarizationReference,
        device: Device,
        slots: int,
        threads: int,
        batches: tuple[int, int],
        piece_s: float,
    ) -> None:
        self.embedding_identity = ""
        self.link_threshold = reference.link_threshold
        self.enrol_threshold = reference.enrol_threshold
        self.warnings: tuple[str, ...] = (DEMO_NOTICE,) if reference.is_demo else ()
        self.description: dict[str, Any] = {"model": reference.name, "cpu_threads": threads}
        self.counts = False
        """Whether the clustering must be told how many speakers there are."""
        self.pool = PipelinePool(self._load, device, slots)
        self._reference = reference
        self._device = device
        self._threads = threads
        self._piece_s = piece_s
        self._batches = Batches(batches, device, self.description)

    def diarize(
        self, samples: NDArray[np.float32], limits: SpeakerLimits, progress: StepProgress
    ) -> Diarization:
        """See `Diarizer.diarize`."""
        if len(samples) < MIN_SAMPLES:
            return Diarization((), (), (), notes=("too short to tell speakers",))
        sound, notes = clean(samples)
        if peak(sound) < QUIET:
            return Diarization((), (), (), notes=(*notes, "silent: no speakers"))
        found = diarize_in_pieces(
            sound,
            limits,
            progress,
            self._diarize_piece,
            piece_s=self._piece_s,
            link_threshold=self.link_threshold,
            count_needed=self.counts,
        )
        return replace(found, notes=(*notes, *found.notes, *counted(len(found.speakers), limits)))

    def embed(self, samples: NDArray[np.float32]) -> tuple[float, ...]:
        """See `Diarizer.embed`.

        The mean over windows of the segmentation's length, half a window apart, of what it hears
        as speech; of the whole sound where that is some, but less than half a second.
        """
        sound, _ = clean(samples)
        heard_s = loud_s(sound)
        if heard_s < MIN_VOICE_S:
            raise AssetError(
                ErrorKind.DIARIZATION,
                f"There is too little sound to know a voice by: {heard_s:.2f} s.",
                remedy="Give at least a few seconds of that voice alone.",
            )
        steps = Steps(lambda _step, _share: None, self._device)
        vector = unit(self._guarded(steps, lambda pipeline: voice(pipeline, sound, steps)))
        if vector is None:
            raise AssetError(
                ErrorKind.DIARIZATION,
                "The model finds no voice in the recording.",
                remedy="Give at least a few seconds of that voice alone.",
            )
        return vector

    def _diarize_piece(
        self, sound: NDArray[np.float32], limits: SpeakerLimits, progress: StepProgress
    ) -> Diarization:
        """Diarize a whole recording, or a piece of one, in one go."""
        if peak(sound) < QUIET:
            return Diarization((), (), ())
        steps = Steps(progress, self._device)
        output, notes = self._guarded(
            steps, lambda pipeline: self._apply(pipeline, sound, limits, steps)
        )
        return diarization(output, len(sound) / SAMPLE_RATE_HZ, notes)

    def _guarded(self, steps: Steps, work: Callable[[Any], _T]) -> _T:
        """Do `work` with a borrowed pipeline, in smaller and smaller batches if memory runs out."""
        try:
            import torch

            ensure_no_telemetry()
            with self.pool.borrow() as pipeline:
                # Each thread has its own count where PyTorch computes with OpenMP, as its wheels
                # do; a thread that never set it takes what any other set last. On a CPU it is
                # batches that are computed side by side (`WindowedDiarization.workers`).
                threads = 1 if self._device.kind == "cpu" else self._threads
                if torch.get_num_threads() != threads:
                    torch.set_num_threads(threads)
                while True:
                    tried = self._batches.use(pipeline)
                    try:
                        return work(pipeline)
                    except Exception as error:
                        # Clustering takes no less memory when the batches were smaller.
                        if not is_out_of_memory(error) or not steps.batched or max(tried) == 1:
                            raise
                    # Here the attempt's tensors are no longer held by its traceback.
                    self._batches.halve(tried)
                    if self._device.kind == "cuda":
                        torch.cuda.empty_cache()
        except AudioBatchError:
            raise
        except Exception as error:
            raise translate(error) from error

    def _apply(
        self,
        pipeline: Any,
        sound: NDArray[np.float32],
        limits: SpeakerLimits,
        steps: Steps,
    ) -> tuple[Any, tuple[str, ...]]:
        """pyannote's own output, and notes on how it came about.

        By `apply`, not by a call of the pipeline, which besides would report the length and the
        speakers asked for (telemetry).
        """
        slide, wanted = pipeline._segmentation, pipeline.segmentation_step
        room = 0.5 * psutil.virtual_memory().available / self.pool.slots
        step = window_step(len(sound) / SAMPLE_RATE_HZ, slide.duration, wanted, room)
        slide.step = step * slide.duration
        notes = ("long: analysed in wider steps than the model's own",) if step > wanted else ()
        given = {
            "num_speakers": limits.num_speakers,
            "min_speakers": limits.min_speakers,
            "max_speakers": limits.max_speakers,
        }
        try:
            return pipeline.apply(as_file(sound), hook=steps, **given), notes
        except ValueError as error:
            few = re.search(r"n_samples=(\d+) should be >= n_clusters=", str(error))
            if few is None:
                raise
        # More speakers were asked for than there are windows with a voice: one each, then.
        return pipeline.apply(as_file(sound), hook=steps, num_speakers=int(few[1])), notes

    def _load(self) -> Any:
        try:
            workers = self._threads if self._device.kind == "cpu" else 1
            return load_pipeline(self._reference, self._device, workers)
        except AudioBatchError:
            raise
        except Exception as error:
            raise load_error(error, self._reference, self._device) from error
