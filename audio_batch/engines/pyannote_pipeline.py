"""pyannote's own pipelines: imported with telemetry off, loaded from local files, kept quiet.

What pyannote does by itself and must not: report what it processed, switch TF32 off for the whole
process, print, and warn about what is no fault.
"""

from __future__ import annotations

import copy
import logging
import os
import threading
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from audio_batch.diarization_models import DiarizationReference, checkpoint_of, read_config
from audio_batch.errors import SetupError
from audio_batch.gpu.devices import Device

SAMPLE_RATE_HZ = 16_000

_HARMLESS = (
    # Files are decoded by us and handed over as samples: torchcodec is not used.
    r"\s*torchcodec is not installed correctly",
    r"\s*TensorFloat-32 \(TF32\) has been disabled",
    # A speaker with one frame in a window, or none: the embedding is NaN and left out.
    r"std\(\): degrees of freedom is <= 0",
    r"Mean of empty slice",
    r"invalid value encountered in (true_)?divide",
    # Said in the notes of the diarization.
    r"\s*The detected number of speakers",
    r"Model has been trained with a task-dependent loss function",
)
_PIPELINE = "audio_batch.engines.pyannote_windows.WindowedDiarization"
_loading = threading.Lock()
"""Reading a checkpoint patches modules for a while (lightning): one at a time in a process."""

_log = logging.getLogger("audio_batch.diarization")


def import_pyannote() -> Any:
    """Import pyannote.audio quietly, with its telemetry off, and check that it is; returns torch.

    Telemetry is on by default: it sends the length of each recording and the number of speakers
    asked for. What the environment says is overruled.

    Raises:
        SetupError: it cannot be imported.
    """
    for message in _HARMLESS:
        warnings.filterwarnings("ignore", message=message)
    # Says that an old checkpoint was read, with an advice for its owner.
    migration = "lightning.pytorch.utilities.migration"
    for name in (migration, f"{migration}.utils", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)
    os.environ["PYANNOTE_METRICS_ENABLED"] = "false"
    try:
        import pyannote.audio.pipelines.clustering
        import torch
    except (ImportError, OSError) as error:
        raise SetupError(
            f"pyannote.audio cannot be imported: {str(error).splitlines()[0][:300]}.",
            remedy="Install audio-batch again into a fresh virtual environment.",
        ) from error
    # It prints when it finds fewer clusters than asked for, and standard output is for data.
    clustering: Any = pyannote.audio.pipelines.clustering
    clustering.print = lambda *parts: _log.debug("%s", " ".join(map(str, parts)))
    ensure_no_telemetry()
    return torch


def ensure_no_telemetry() -> None:
    """Switch pyannote's telemetry off, whoever switched it on, and see that it is.

    Raises:
        SetupError: it stays on.
    """
    from pyannote.audio.telemetry import metrics

    metrics.set_telemetry_metrics(False)
    if metrics.is_metrics_enabled():
        raise SetupError("The telemetry of pyannote.audio cannot be switched off.")


def load_pipeline(reference: DiarizationReference, device: Device, workers: int = 1) -> Any:
    """A `WindowedDiarization` on a device, read from local files alone.

    A checkpoint is a pickle and can run code: only what the user named, or what this program and
    whisperx carry, comes here. Raises whatever torch and pyannote raise.
    """
    import torch
    from pyannote.audio import Pipeline
    from pyannote.audio.core.plda import PLDA

    config = copy.deepcopy(read_config(reference.path))
    # The class, and where it runs, are ours to say; preprocessors read files, and it gets samples.
    config["pipeline"]["name"] = _PIPELINE
    for key in ("device", "preprocessors"):
        config.pop(key, None)
    parameters = config["pipeline"].setdefault("params", {})
    # Dictionaries, since of a text pyannote guesses the library from words in it.
    parameters["segmentation"] = {"checkpoint": str(checkpoint_of(reference.segmentation))}
    parameters["embedding"] = {"checkpoint": str(checkpoint_of(reference.embedding))}
    # It is refused without a PLDA model, which other clusterings than VBx never use.
    parameters["plda"] = (
        {"checkpoint": str(reference.plda)} if reference.plda else PLDA.__new__(PLDA)
    )
    parameters["legacy"] = False
    with _loading:
        pipeline: Any = Pipeline.from_pretrained(config)
    if not pipeline.instantiated:
        pipeline.instantiate(pipeline.default_parameters())
    pipeline.to(torch.device(device.torch_name))
    pipeline.workers = workers
    pipeline.prepare()
    return pipeline


def as_file(sound: NDArray[np.float32]) -> dict[str, Any]:
    """Samples (16 kHz, shape (n,)) as what pyannote calls a file; the memory is shared."""
    import torch

    waveform = torch.from_numpy(sound)[None]
    return {"waveform": waveform, "sample_rate": SAMPLE_RATE_HZ, "uri": "recording"}


def allow_tf32(device: Device) -> None:
    """Let a GPU compute in TF32, which pyannote switches off for the whole process.

    It does so each time it segments, for the sake of equal results on unequal GPUs
    (pyannote-audio#1370), and every other user of PyTorch in the process pays for it. Its progress
    hook is called right after: that is where this belongs.
    """
    if device.kind == "cuda":
        import torch

        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
