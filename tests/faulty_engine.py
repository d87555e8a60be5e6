"""An engine with every fault that native libraries have shown, brought as a plugin is brought.

Its faults are told by the variable FAULTY_ENGINE, JSON: by kind, the numbers of the recordings (as
`program.write_manifest` makes them) that bring it about. `delay_ms` is what a recording takes, as
long as there is no file `hurry`. `begins` is a file in which each recording that begins is told, as
"cuda:0 begins"; `waits` holds, by device, a file, a text and a count: each recording there waits
until the text stands in the file that often. Those of `hold` wait until there is a file `until`.
`dies_after` holds, by device, how many recordings its process survives; `lost_after` likewise how
many until the device reports a lost CUDA context. Those that `wait` or `follow` go on once the
file `gate` is there; those that `meet` once `meets` of them have begun, by what they leave in the
folder `marks`, and then take as long as `stuck_s` says by device. `fits` names the compute types
that can be loaded, `loads_once` the devices that load a single time (kept in the folder `marks`).
`loops` are heard as the same words again and again, unless it is done window by window.
`once` is a folder in which faults that happen a single time leave a mark.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from audio_batch.engines.base import LoadRequest, Progress, Recognition, Recognizer
from audio_batch.errors import AssetError, DeviceError, ErrorKind
from audio_batch.options import DecodingOptions
from audio_batch.transcript import Segment

_PATIENCE_S = 200.0
ENTRY_POINTS = "[audio_batch.engines]\nfaulty = faulty_engine:FaultyEngine\n"


def install(folder: Path) -> dict[str, str]:
    """Make the distribution's metadata in `folder`; the environment in which it is found."""
    about = folder / "faulty_engine-1.0.dist-info"
    about.mkdir(parents=True, exist_ok=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: faulty-engine\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(ENTRY_POINTS)
    paths = [str(folder), str(Path(__file__).parent)]
    return {"PYTHONPATH": os.pathsep.join([*paths, *os.environ.get("PYTHONPATH", "").split(":")])}


class FaultyEngine:
    """See the module's docstring."""

    name = "faulty"

    def load(self, request: LoadRequest) -> Recognizer:
        """Load, or fail to."""
        faults = json.loads(os.environ.get("FAULTY_ENGINE", "{}"))
        if request.device.id in faults.get("cannot_load", []):
            raise DeviceError(f"{request.device.id} cannot load on purpose.")
        if "fits" in faults and request.compute_type not in faults["fits"]:
            raise DeviceError("It does not fit on purpose.", lacks_memory=True)
        if request.device.id in faults.get("abort_loading", []):
            os.abort()
        if request.device.id in faults.get("hang_loading", []):
            time.sleep(3600)
        if request.device.id in faults.get("loads_once", []):
            mark = Path(faults["marks"]) / f"loaded-{request.device.cuda_index}"
            if mark.exists():
                raise MemoryError("there is none left on purpose")
            mark.touch()
        return FaultyRecognizer(faults, request)


class FaultyRecognizer:
    """Answers one segment that names the recording's number, unless it is to fail."""

    warnings: tuple[str, ...] = ()

    def __init__(self, faults: dict[str, Any], request: LoadRequest) -> None:
        self.faults = faults
        self.request = request
        self.description: dict[str, Any] = {"compute_type": request.compute_type, "mode": "faulty"}
        if request.compute_type == "auto":
            self.description["compute_type"] = "float32"
        self.done = 0
        self.lock = threading.Lock()
        self.leaked: list[Any] = []

    def check(self, options: DecodingOptions) -> None:
        """Nothing is beyond it."""

    def transcribe(
        self, samples: NDArray[np.float32], options: DecodingOptions, progress: Progress
    ) -> Recognition:
        """Sleep, then answer or fail."""
        number = round((len(samples) / 16_000 - 0.5) * 1000)
        progress(0.0)
        device = self.request.device.id
        self.take_time(device)
        with self.lock:
            self.done += 1
        if self.done > self.faults.get("dies_after", {}).get(device, sys.maxsize):
            os.abort()
        if self.done > self.faults.get("lost_after", {}).get(device, sys.maxsize):
            raise DeviceError(f"{device} has lost its CUDA context on purpose.")
        for kind, numbers in self.faults.items():
            if isinstance(numbers, list) and number in numbers and self.happens(kind, number):
                getattr(self, kind, lambda _number: None)(number)
        progress(len(samples) / 16_000)
        text = f"recording {number}"
        if number in self.faults.get("loops", []) and not options.sequential:
            text = "and it was the same again " * 40
        segment = Segment(text=text, start_s=0.0, end_s=len(samples) / 16_000)
        alien: Any = (object(),) if number in self.faults.get("unpicklable", []) else ()
        return Recognition((segment,), "en", speech_s=segment.end_s, notes=alien)

    def take_time(self, device: str) -> None:
        """What a recording takes, and what it waits for."""
        if "begins" in self.faults:
            with Path(self.faults["begins"]).open("a") as told:
                told.write(f"{device} begins\n")
        if "hurry" not in self.faults or not Path(self.faults["hurry"]).exists():
            time.sleep(self.faults.get("delay_ms", 0) / 1000)
        if device in self.faults.get("waits", {}):
            file, text, count = self.faults["waits"][device]
            _wait_until(lambda: Path(file).exists() and Path(file).read_text().count(text) >= count)

    def happens(self, kind: str, number: int) -> bool:
        """Whether a fault that happens once is still to come."""
        if "once" not in self.faults:
            return True
        mark = Path(self.faults["once"]) / f"{kind}-{number}"
        if mark.exists():
            return False
        mark.touch()
        return True

    # -- what a test decides --------------------------------------------------------------------

    def wait(self, _number: int) -> None:
        """Until the test lets it go on."""
        _wait_until(Path(self.faults["gate"]).exists)

    def follow(self, number: int) -> None:
        """As `wait`, but for the first one: what is read ahead may come before what has begun."""
        if self.done > 1:
            self.wait(number)

    def meet(self, number: int) -> None:
        """Until others are at work too, whenever their devices have loaded."""
        marks, device = Path(self.faults["marks"]), self.request.device.id
        (marks / f"{device.replace(':', '-')}-{number}").touch()
        _wait_until(lambda: len(list(marks.iterdir())) >= self.faults["meets"])
        time.sleep(self.faults.get("stuck_s", {}).get(device, 0))

    # -- kinds of faults ------------------------------------------------------------------------

    def abort(self, _number: int) -> None:
        """As CTranslate2 does without cuDNN."""
        sys.stderr.write("terminate called after throwing an instance of 'on purpose'\n")
        sys.stderr.flush()
        os.abort()

    def tell_and_abort(self, _number: int) -> None:
        """A library that is talkative about what it was given, and then aborts."""
        for name in ("HF_TOKEN", "AWS_SESSION_TOKEN"):
            sys.stderr.write(f"cannot use {os.environ.get(name)}\n")
        sys.stderr.write(f"cannot use {Path('token').read_text()}\n")
        sys.stderr.flush()
        os.abort()

    def leave(self, _number: int) -> None:
        """A library that thinks the program is its own."""
        raise SystemExit(3)

    def lose_context(self, _number: int) -> None:
        """As an illegal memory access does."""
        raise DeviceError("It has lost its CUDA context on purpose.")

    def quote_a_secret(self, _number: int) -> None:
        """An error that tells what it was given."""
        raise AssetError(ErrorKind.INTERNAL, f"cannot use {Path('token').read_text()}")

    def segfault(self, _number: int) -> None:
        """A read of address 0."""
        ctypes.string_at(0)

    def exit(self, _number: int) -> None:
        """A library that ends the process by itself."""
        os._exit(7)

    def killed(self, _number: int) -> None:
        """As the kernel does for lack of memory."""
        os.kill(os.getpid(), signal.SIGKILL)

    def hang(self, _number: int) -> None:
        """Without any progress, in Python, where the lock is let go."""
        time.sleep(3600)

    def hang_in_native_code(self, _number: int) -> None:
        """With the interpreter's lock held: no other thread of the process goes on."""
        ctypes.PyDLL(None).sleep(3600)

    def hold(self, _number: int) -> None:
        """As long as the test likes."""
        _wait_until(Path(self.faults["until"]).exists)

    def fail(self, _number: int) -> None:
        """An exception that nobody foresaw, and that cannot be pickled."""

        class Local(Exception):
            def __reduce__(self) -> Any:
                raise TypeError("this error cannot be pickled")

        raise Local("on purpose")

    def transient(self, _number: int) -> None:
        """What may pass."""
        raise AssetError(ErrorKind.INTERNAL, "a passing fault on purpose", transient=True)

    def out_of_memory(self, _number: int) -> None:
        """Until the device has one slot, and a compute type that is small enough."""
        small = self.request.slots == 1 and self.request.compute_type in self.faults["enough"]
        if not small:
            raise AssetError(ErrorKind.OUT_OF_MEMORY, "memory ran out on purpose", transient=True)

    def leak(self, _number: int) -> None:
        """Memory that is never given back, until the process has 512 MiB more than it had."""
        import resource

        limit_bytes = psutil.Process().memory_info().vms + 512 * 1024**2
        hard_bytes = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, hard_bytes))
        while True:
            self.leaked.append(np.ones(8_000_000))

    def transient_share(self, number: int) -> None:
        """What may pass, at the seeded `share` of all attempts (see `fails_in_passing`)."""
        with self.lock:
            _attempts[number] += 1
            attempt = _attempts[number]
        if fails_in_passing(self.faults["seed"], number, attempt, self.faults["share"]):
            self.transient(number)


def _wait_until(holds: Callable[[], bool]) -> None:
    until_s = time.monotonic() + _PATIENCE_S
    while not holds() and time.monotonic() < until_s:
        time.sleep(0.01)


_attempts: Counter[int] = Counter()


def fails_in_passing(seed: int, number: int, attempt: int, share: float) -> bool:
    """Whether an attempt (from 1) at a recording is one of those that fail."""
    return random.Random(f"{seed} {number} {attempt}").random() < share
