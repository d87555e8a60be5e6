"""pyannote.audio behind the diarizer protocol: one pipeline a slot, lent to a device's threads."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import queue
import re
import threading
from collections.abc import Callable, Iterator
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
from audio_batch.engines.failures import first_line, is_device_trouble
from audio_batch.engines.pyannote_pipeline import (
    SAMPLE_RATE_HZ,
    allow_tf32,
    as_file,
    ensure_no_telemetry,
    import_pyannote,
    load_pipeline,
)
from audio_batch.engines.pyannote_records import (
    QUIET,
    clean,
    diarization,
    loud_s,
    peak,
    unit,
)
from audio_batch.errors import AssetError, AudioBatchError, DeviceError, ErrorKind, SetupError
from audio_batch.gpu.devices import Device
from audio_batch.identity import content_hash
from audio_batch.options import SpeakerLimits

MIN_SAMPLES = 400
"""One analysis frame (25 ms)."""
MIN_VOICE_S = 0.5
"""Below this a voice is not told by its sound."""

_ACTIVE_SHARE = 0.2
"""How much of a window a voice must fill to count in its mean (pyannote's own choice)."""
_SHARES = {
    "segmentation": (0.0, 0.2),
    "speaker_counting": (0.2, 0.2),
    "embeddings": (0.2, 0.95),
    "discrete_diarization": (1.0, 1.0),
}
"""Each step's part of the whole, about as long as it takes; clustering is what is left before 1."""

_log = logging.getLogger("audio_batch.diarization")
_T = TypeVar("_T")


def load_diarizer(
    reference: DiarizationReference,
    device: Device,
    *,
    slots: int,
    cpu_threads: int | None,
    free_bytes: int | None,
) -> Diarizer:
    """Load a pipeline on a device, where `slots` threads will use it.

    Args:
        cpu_threads: of each slot; None for the machine's cores shared among the slots, and for
            four at most where a GPU does the work. Left alone, every slot would keep all cores
            busy (pyannote-audio#1753).
        free_bytes: the device's free memory, where it is known; decides the batch sizes.

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
    diarizer = PyannoteDiarizer(reference, device, slots, threads, batches)
    with diarizer.borrow() as pipeline:  # a model that cannot be loaded is told here, not later
        kind = type(pipeline._embedding.model_).__name__
        diarizer.description["clustering"] = pipeline.klustering
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


def batch_sizes(kind: str, free_bytes: int | None, slots: int = 1) -> tuple[int, int]:
    """Windows per batch of the segmentation and of the embedding.

    On a CPU what one core is fastest with, of 1 to 32; the embedding is asked of each window's
    three voices in turn, so threes can share work. On a GPU pyannote's own 32 where the free memory
    is not known; else as many as half of a slot's part of it holds, 4 to 128. A window of the
    embedding takes up to 0.3 GB (pyannote-audio#1963 reports 9.5 GB in batches of 32), one of the
    segmentation less. Embeddings differ with it in their sixth digit.
    """
    if kind == "cpu":
        return 8, 12
    if free_bytes is None:
        return 32, 32
    fits = 0.5 * free_bytes / max(1, slots) / 0.3e9
    size = next((size for size in (128, 64, 32, 16, 8) if size <= fits), 4)
    return size, size


def window_step(duration_s: float, window_s: float, step: float, room_bytes: float) -> float:
    """How far windows lie apart, as a share of one, so that clustering has room in memory.

    Clustering compares the voices of all windows, about 1.5 in each, pair by pair: 16 bytes a
    pair, for the distances and SciPy's copy of them. A recording of many hours gets windows up to
    half their length apart, in tenths; any other keeps the model's own `step`.

    Raises:
        AssetError: there is no room even so.
    """
    widest = max(step, 0.5)
    voices = 1.5 * duration_s / window_s
    needed = voices / max(1.0, math.sqrt(2 * room_bytes / 16))
    if needed > widest:
        raise AssetError(
            ErrorKind.DIARIZATION,
            f"The recording is too long to tell its voices apart here: {duration_s / 3600:.1f} "
            f"hours need {8 * (voices / widest) ** 2 / 1e9:.1f} GB of free memory, and there are "
            f"{room_bytes / 1e9:.1f}.",
            remedy="Cut it into parts, run fewer at a time, or use a machine with more memory.",
        )
    return step if needed <= step else min(widest, math.ceil(10 * needed) / 10)


class PyannoteDiarizer:
    """A loaded diarization pipeline; see `Diarizer`. Made by `load_diarizer`."""

    def __init__(
        self,
        reference: DiarizationReference,
        device: Device,
        slots: int,
        threads: int,
        batches: tuple[int, int],
    ) -> None:
        self.embedding_identity = ""
        self.link_threshold = reference.link_threshold
        self.enrol_threshold = reference.enrol_threshold
        self.warnings: tuple[str, ...] = (DEMO_NOTICE,) if reference.is_demo else ()
        self.description: dict[str, Any] = {"model": reference.name, "cpu_threads": threads}
        self._reference = reference
        self._device = device
        self._slots = slots
        self._threads = threads
        self._idle: queue.LifoQueue[Any] = queue.LifoQueue()
        self._made = 0
        self._lock = threading.Lock()
        self._set_batches(batches)

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
        if self._made >= self._slots:
            return None
        try:
            pipeline = self._load()
        except (DeviceError, SetupError) as error:
            if not self._made:
                raise
            _log.warning("%s serves with %d pipelines: %s", self._device.id, self._made, error)
            self._slots = self._made
            return None
        self._made += 1
        return pipeline

    def diarize(
        self, samples: NDArray[np.float32], limits: SpeakerLimits, progress: StepProgress
    ) -> Diarization:
        """See `Diarizer.diarize`."""
        if len(samples) < MIN_SAMPLES:
            return Diarization((), (), (), notes=("too short to tell speakers",))
        sound, notes = clean(samples)
        if peak(sound) < QUIET:
            return Diarization((), (), (), notes=(*notes, "silent: no speakers"))
        hook = _hook(progress, self._device)
        output, more = self._guarded(lambda pipeline: self._apply(pipeline, sound, limits, hook))
        return diarization(output, len(sound) / SAMPLE_RATE_HZ, limits, (*notes, *more))

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
        hook = _hook(lambda _step, _share: None, self._device)
        vector = unit(self._guarded(lambda pipeline: _voice(pipeline, sound, hook)))
        if vector is None:
            raise AssetError(
                ErrorKind.DIARIZATION,
                "The model finds no voice in the recording.",
                remedy="Give at least a few seconds of that voice alone.",
            )
        return vector

    def _guarded(self, work: Callable[[Any], _T]) -> _T:
        """Do `work` with a borrowed pipeline, and again with half the batches if memory ran out."""
        try:
            import torch

            ensure_no_telemetry()
            with self.borrow() as pipeline:
                # Each thread has its own count where PyTorch computes with OpenMP, as its wheels
                # do; a thread that never set it takes what any other set last.
                if torch.get_num_threads() != self._threads:
                    torch.set_num_threads(self._threads)
                tried = self._use_batches(pipeline)
                try:
                    return work(pipeline)
                except Exception as error:
                    if not _is_memory(error):
                        raise
                # Here the first attempt's tensors are no longer held by its traceback.
                self._halve_batches(tried)
                if self._device.kind == "cuda":
                    torch.cuda.empty_cache()
                self._use_batches(pipeline)
                return work(pipeline)
        except AudioBatchError:
            raise
        except Exception as error:
            raise translate(error) from error

    def _apply(
        self,
        pipeline: Any,
        sound: NDArray[np.float32],
        limits: SpeakerLimits,
        hook: Callable[..., None],
    ) -> tuple[Any, tuple[str, ...]]:
        """pyannote's own output, and notes on how it came about.

        By `apply`, not by a call of the pipeline, which besides would report the length and the
        speakers asked for (telemetry).
        """
        slide, wanted = pipeline._segmentation, pipeline.segmentation_step
        room = 0.5 * psutil.virtual_memory().available / self._slots
        step = window_step(len(sound) / SAMPLE_RATE_HZ, slide.duration, wanted, room)
        slide.step = step * slide.duration
        notes = ("long: analysed in wider steps than the model's own",) if step > wanted else ()
        given = {
            "num_speakers": limits.num_speakers,
            "min_speakers": limits.min_speakers,
            "max_speakers": limits.max_speakers,
        }
        try:
            return pipeline.apply(as_file(sound), hook=hook, **given), notes
        except ValueError as error:
            few = re.search(r"n_samples=(\d+) should be >= n_clusters=", str(error))
            if few is None:
                raise
        # More speakers were asked for than there are windows with a voice: one each, then.
        return pipeline.apply(as_file(sound), hook=hook, num_speakers=int(few[1])), notes

    def _load(self) -> Any:
        try:
            return load_pipeline(self._reference, self._device)
        except AudioBatchError:
            raise
        except Exception as error:
            raise _load_error(error, self._reference, self._device) from error

    def _use_batches(self, pipeline: Any) -> tuple[int, int]:
        sizes = self._batches
        pipeline.segmentation_batch_size, pipeline.embedding_batch_size = sizes
        return sizes

    def _halve_batches(self, tried: tuple[int, int]) -> None:
        """What did not fit once would not fit the next time: smaller from now on."""
        with self._lock:
            # Another thread may have done it a moment before.
            a, b = (max(1, size // 2) for size in tried)
            self._set_batches((min(self._batches[0], a), min(self._batches[1], b)))
        _log.warning(
            "%s ran out of memory while telling speakers apart: batches of %d and %d from now on.",
            self._device.id,
            *self._batches,
        )

    def _set_batches(self, sizes: tuple[int, int]) -> None:
        self._batches = sizes
        self.description["segmentation_batch_size"] = sizes[0]
        self.description["embedding_batch_size"] = sizes[1]


def _hook(progress: StepProgress, device: Device) -> Callable[..., None]:
    """What pyannote calls at each step and batch: progress that never goes back."""
    reached = 0.0

    def hook(
        step: str, *_: object, total: int | None = None, completed: int | None = None, **__: object
    ) -> None:
        nonlocal reached
        allow_tf32(device)
        begin, end = _SHARES.get(step, (reached, reached))
        done = 1.0 if completed is None or not total else min(1.0, float(completed) / total)
        reached = max(reached, begin + (end - begin) * done)
        progress(step, round(reached, 4))

    return hook


def _voice(
    pipeline: Any, sound: NDArray[np.float32], hook: Callable[..., None]
) -> NDArray[np.float32]:
    """The mean embedding of the windows with speech, shape (dimension,); zeros without any."""
    import torch

    slide = pipeline._segmentation
    slide.step = 0.5 * slide.duration
    heard = pipeline.get_segmentations(as_file(sound), hook=hook).data
    speech = (heard > 0.5).any(axis=2)  # (windows, frames)
    window, hop = (round(s * SAMPLE_RATE_HZ) for s in (slide.duration, slide.step))
    if not speech.any():
        return np.zeros(1, np.float32)
    frame_s = slide.duration / speech.shape[1]
    if np.count_nonzero(speech) * frame_s < MIN_VOICE_S:
        begins_s = np.arange(len(speech))[:, None] * slide.step
        speech = begins_s + np.arange(speech.shape[1]) * frame_s < len(sound) / SAMPLE_RATE_HZ
    share = speech.mean(axis=1)
    chosen = np.flatnonzero(share >= min(_ACTIVE_SHARE, share.max()))
    vectors = []
    for first in range(0, len(chosen), pipeline.embedding_batch_size):
        batch = chosen[first : first + pipeline.embedding_batch_size]
        pieces = [sound[i * hop : i * hop + window] for i in batch]
        waves = np.stack([np.pad(piece, (0, window - len(piece))) for piece in pieces])
        masks = torch.from_numpy(speech[batch].astype(np.float32))
        vectors.append(pipeline._embedding(torch.from_numpy(waves)[:, None], masks=masks))
    found = np.concatenate(vectors)
    found = found[np.isfinite(found).all(axis=1)]
    return found.mean(axis=0) if len(found) else np.zeros(1, np.float32)


def _load_error(
    error: Exception, reference: DiarizationReference, device: Device
) -> DeviceError | SetupError:
    """Translate what loading raised: the folder's fault, or the device's."""
    text = first_line(error)
    if _is_memory(error) or (device.kind == "cuda" and is_device_trouble(text)):
        return DeviceError(
            f"{device.id} cannot load the diarization model {reference.name!r}: {text}.",
            remedy="Check its free memory and the driver, or use --device cpu.",
        )
    return SetupError(
        f"The diarization model {reference.name!r} cannot be loaded from {reference.path}: {text}.",
        remedy="Download it again; it must be a pipeline of pyannote.audio 4 or before.",
    )


def translate(error: Exception) -> AssetError | DeviceError:
    """The one seam for what pyannote, PyTorch, SciPy and scikit-learn raise at work."""
    text = first_line(error)
    if _is_memory(error):
        return AssetError(
            ErrorKind.OUT_OF_MEMORY,
            f"The device ran out of memory while telling speakers apart: {text}.",
            remedy="Use a smaller --max-per-gpu, or fewer --threads.",
            transient=True,
        )
    if is_device_trouble(text):
        return DeviceError(f"The device failed: {text}.", remedy="See the driver's log.")
    return AssetError(
        ErrorKind.DIARIZATION,
        f"The speakers could not be told apart: {type(error).__name__}: {text}.",
    )


def _is_memory(error: Exception) -> bool:
    """Whether memory ran out; torch's own OutOfMemoryError says so in its text."""
    low = str(error).lower()
    return isinstance(error, MemoryError) or any(
        sign in low
        for sign in ("out of memory", "can't allocate memory", "bad_alloc", "_alloc_failed")
    )
