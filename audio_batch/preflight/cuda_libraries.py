"""What CTranslate2 will find when it first uses a GPU, asked for in a short-lived process.

It opens cuBLAS (older versions also cuDNN) by bare name when the first recording is decoded, not
when a model is loaded: what is missing there shows late.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import audio_batch
from audio_batch.gpu.nvidia_smi import no_window

_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class CudaReport:
    """What the process found.

    Attributes:
        driver_error: why the CUDA driver's library cannot be opened, or "".
        found: paths of the libraries by name ("" where the system does not tell).
        missing: what the system says of the others.
        visible: devices that CTranslate2 sees; None where it could not be asked.
        problem: why, or why it sees none.
    """

    driver_error: str = ""
    found: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    visible: int | None = None
    problem: str = ""


def ask(*, with_cudnn: bool) -> CudaReport:
    """Run `cuda_program`. Takes about a second; more where GPUs must wake up first.

    Args:
        with_cudnn: also look for the cuDNN that torch needs.
    """
    # The package may be run from its folder without being installed.
    root = str(Path(audio_batch.__file__).parents[1])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    program = Path(__file__).with_name("cuda_program.py")
    try:
        done = subprocess.run(
            [sys.executable, "-P", str(program), *(["cudnn"] if with_cudnn else [])],
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_TIMEOUT_S,
            check=False,
            creationflags=no_window(),
        )
    except subprocess.TimeoutExpired:
        return CudaReport(problem=f"CUDA gives no answer in {_TIMEOUT_S:g} s")
    try:
        return CudaReport(**json.loads(done.stdout))
    except (ValueError, TypeError):
        return CudaReport(problem=f"CUDA ends its process (exit {done.returncode})")
