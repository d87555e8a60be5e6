"""An engine plugin: faster-whisper as it is, but that something goes wrong once on its device.

TRIAL_ENGINE is JSON: `fault` ("sticky" or "hang") and `mark`, a file that is made when the fault
happens, so that it does not happen again. It strikes at the second recording of a process. Without
a GPU a stand-in does: the error's text as torch words it, and a sleep with the interpreter's lock
held.
"""

from __future__ import annotations

import ctypes
import json
import os
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from audio_batch import models
from audio_batch.engines.base import LoadRequest, Progress, Recognition, Recognizer
from audio_batch.engines.whisper import FasterWhisperEngine, translate
from audio_batch.gpu.devices import Device
from audio_batch.options import DecodingOptions

NAME = "trial"

_SPIN_CYCLES = 250_000_000_000
"""About two minutes of an H200's clock: far beyond the time limit, and yet it ends by itself."""


def install(folder: Path) -> str:
    """Make the plugin's metadata in `folder`; the PYTHONPATH by which it is found."""
    about = folder / "trial_engine-1.0.dist-info"
    about.mkdir(parents=True, exist_ok=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: trial-engine\nVersion: 1.0\n")
    entry = f"[audio_batch.engines]\n{NAME} = trial_engine:TrialEngine\n"
    (about / "entry_points.txt").write_text(entry)
    return os.pathsep.join([str(folder), str(Path(__file__).resolve().parent)])


class TrialEngine:
    """See the module's docstring."""

    name = NAME

    def load(self, request: LoadRequest) -> Recognizer:
        """Load what `--model` names, and torch, which takes seconds."""
        if request.device.kind == "cuda":
            import torch  # noqa: F401
        model = models.find(request.model.name)
        inner = FasterWhisperEngine().load(replace(request, model=model))
        return TrialRecognizer(inner, request.device)


class TrialRecognizer:
    """The recognizer that was loaded, with the fault before its second recording."""

    def __init__(self, inner: Recognizer, device: Device) -> None:
        self.inner = inner
        self.device = device
        self.description: dict[str, Any] = inner.description
        self.warnings = inner.warnings
        self.begun = 0
        self.lock = threading.Lock()
        setting = json.loads(os.environ["TRIAL_ENGINE"])
        self.fault, self.mark = setting["fault"], Path(setting["mark"])

    def check(self, options: DecodingOptions) -> None:
        """See `Recognizer.check`."""
        self.inner.check(options)

    def transcribe(
        self, samples: NDArray[np.float32], options: DecodingOptions, progress: Progress
    ) -> Recognition:
        """Strike, if it is time; then go on as if nothing had happened."""
        with self.lock:
            self.begun += 1
            is_due = self.begun == 2 and not self.mark.exists()
            if is_due:
                self.mark.touch()
        if is_due:
            self.hang() if self.fault == "hang" else self.lose_context()
        return self.inner.transcribe(samples, options, progress)

    def lose_context(self) -> None:
        """An index out of range trips a device-side assert: every CUDA call fails from now on.

        Whatever torch says is let go by: it is CTranslate2 that has to find out.
        """
        if self.device.kind != "cuda":
            raise translate(RuntimeError("CUDA error: device-side assert triggered"))
        import torch

        torch.cuda.set_device(self.device.cuda_index or 0)
        with suppress(RuntimeError):
            far = torch.tensor([1 << 20], device="cuda")
            torch.zeros(1, device="cuda")[far].cpu()

    def hang(self) -> None:
        """Wait in native code for a kernel that spins, no Python thread going on meanwhile."""
        if self.device.kind == "cuda":
            import torch

            torch.cuda.set_device(self.device.cuda_index or 0)
            sleep: Any = torch.cuda._sleep
            sleep(_SPIN_CYCLES)
            name = "nvcuda.dll" if os.name == "nt" else "libcuda.so.1"
            ctypes.PyDLL(name).cuCtxSynchronize()  # PyDLL keeps the interpreter's lock
        elif os.name == "nt":
            ctypes.PyDLL("kernel32").Sleep(3_600_000)
        else:
            ctypes.PyDLL(None).sleep(3600)
