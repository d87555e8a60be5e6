"""Real runs of the program: begun, watched while they work, and looked at when they have ended."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from machine import PROJECT, Gpu, gb

_POLL_S = 0.05
_BURIAL_S = 20.0
"""For processes to be gone, and for the driver to give back what they held."""
_SLACK_BYTES = 64 << 20

_MEMORY = re.compile(r"ut of memory|no memory|memory on|instead of", re.ASCII)


class Wrong(Exception):
    """An expectation was not met; the text is what was seen instead."""


class Skipped(Exception):
    """A trial that cannot be done here; the text says why."""


@dataclass(slots=True)
class Bench:
    """What all trials share.

    Attributes:
        work: where everything is written.
        device: cpu or cuda:N; `gpu` is None on a CPU.
        model: `--model` of the trials; `heavy` that of those about memory and speed.
        ends_s: `time.monotonic()` after which nothing is begun.
        short, long, pair: manifests: some short recordings, a long one, two middling ones.
    """

    work: Path
    device: str
    gpu: Gpu | None
    model: str
    heavy: str
    ends_s: float
    short: Path
    long: Path
    pair: Path

    @property
    def no_settings(self) -> Path:
        """An empty configuration file: the user's own has no say in the trials."""
        path = self.work / "empty.toml"
        path.touch()
        return path

    def environment(self, **more: str) -> dict[str, str]:
        """This process's, without settings of the program's, with caches in `work`."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith("AUDIO_BATCH_")}
        paths = [*more.pop("PYTHONPATH", "").split(os.pathsep), str(PROJECT)]
        paths += kept.get("PYTHONPATH", "").split(os.pathsep)
        kept.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # as the program has it
        return {
            **kept,
            "AUDIO_BATCH_CACHE_DIR": str(self.work / "cache"),
            "PYANNOTE_METRICS_ENABLED": "false",
            "PYTHONUTF8": "1",
            "PYTHONPATH": os.pathsep.join(path for path in paths if path),
            **more,
        }

    def left_s(self, most_s: float) -> float:
        """The time limit of something that may take `most_s`.

        Raises:
            Skipped: all time is used up.
        """
        left = self.ends_s - time.monotonic()
        if left <= 0:
            raise Skipped("the time is up (--minutes)")
        return min(left, most_s)

    def free_bytes(self) -> int:
        """The device's free memory; 0 on a CPU, where nothing is said of it."""
        return self.gpu.free_bytes() if self.gpu else 0

    def on_gpu(self, why: str) -> Gpu:
        """The GPU.

        Raises:
            Skipped: there is none; `why` it is needed.
        """
        if self.gpu is None:
            raise Skipped(why)
        return self.gpu


def program(bench: Bench, *arguments: object) -> subprocess.CompletedProcess[str]:
    """A short command of the program, waited for."""
    return subprocess.run(
        [sys.executable, "-m", "audio_batch", *(str(argument) for argument in arguments)],
        cwd=bench.work,
        env=bench.environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
        timeout=bench.left_s(180),
        check=False,
    )


@dataclass(slots=True)
class Night:
    """A run at work. `family` is every process that it has begun so far."""

    bench: Bench
    name: str
    process: subprocess.Popen[bytes]
    begun_s: float
    limit_s: float
    free_before_bytes: int
    family: set[psutil.Process] = field(default_factory=set)
    least_free_bytes: int = sys.maxsize
    wall_s: float = 0.0

    @property
    def out(self) -> Path:
        """Its output folder."""
        return self.bench.work / "runs" / self.name

    @property
    def said(self) -> str:
        """What it has written to its streams."""
        return self.out.with_suffix(".said").read_text(encoding="utf-8", errors="replace")

    def look(self, ended: threading.Event) -> None:
        """Note processes and memory until it has ended; a thread of its own."""
        while not ended.wait(_POLL_S):
            with suppress(psutil.Error):
                self.family.update(psutil.Process(self.process.pid).children(recursive=True))
            with suppress(Exception):  # a reading that fails is one reading less
                self.least_free_bytes = min(self.least_free_bytes, self.bench.free_bytes())

    def states(self) -> Counter[str]:
        """How many assets the journal has in each state."""
        from audio_batch.journal import Journal

        path = self.out / ".audio-batch" / "journal.sqlite3"
        with suppress(Exception):  # it is being made at this moment
            if path.is_file():
                with closing(Journal(path, read_only=True)) as journal:
                    return Counter(str(entry.state) for entry in journal.entries())
        return Counter()

    def workers(self) -> list[psutil.Process]:
        """The living processes of its devices."""
        found = []
        for child in list(self.family):
            with suppress(psutil.Error):
                if lives(child) and any("spawn_main" in word for word in child.cmdline()):
                    found.append(child)
        return found

    def is_in_the_middle(self) -> bool:
        """Whether something is done, something is at work, and a device's process lives."""
        states = self.states()
        return bool(states["done"] and states["running"] and self.workers())

    def wait_until(self, holds: Callable[[], bool], what: str) -> None:
        """Wait for a condition of the run.

        Raises:
            Wrong: the run has ended, or its time is over, before.
        """
        while not holds():
            if self.process.poll() is not None:
                raise Wrong(f"the run had ended ({self.process.returncode}) before {what}")
            self.check_time()
            time.sleep(_POLL_S)

    def check_time(self) -> None:
        """Raises Wrong where the run takes longer than it may."""
        if time.monotonic() - self.begun_s > self.limit_s:
            raise Wrong(f"not done after {self.limit_s:.0f} s; its last words: {self.last_words()}")

    def wait(self) -> int:
        """Its exit code, when it has ended.

        Raises:
            Wrong: it takes too long.
        """
        while self.process.poll() is None:
            self.check_time()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(0.2)
        self.wall_s = time.monotonic() - self.begun_s
        return self.process.returncode

    def summary(self) -> dict[str, Any]:
        """Its summary.json; empty where it wrote none."""
        with suppress(OSError, ValueError):
            found: dict[str, Any] = json.loads((self.out / "summary.json").read_text("utf-8"))
            return found
        return {}

    def last_words(self) -> str:
        """The last line it wrote that is not part of a table."""
        lines = [
            x.strip() for x in self.said.splitlines() if x.strip() and x.strip()[0] not in "┌│└"
        ]
        return lines[-1][:300] if lines else "none"

    def on_memory(self) -> list[str]:
        """What it said about memory running out, without dates, each once."""
        found = [x.rpartition(" - ")[2] for x in self.said.splitlines() if _MEMORY.search(x)]
        return list(dict.fromkeys(line.strip()[:200] for line in found))

    def check_sound(self) -> str:
        """What is left after the end: no process, no memory, no damage; said in a phrase.

        Raises:
            Wrong: something is left, or a traceback was shown.
        """
        deadline_s = time.monotonic() + _BURIAL_S
        while alive := [process for process in self.family if lives(process)]:
            if time.monotonic() > deadline_s:
                raise Wrong(f"processes left behind: {[process.pid for process in alive]}")
            time.sleep(_POLL_S)
        while (missing := self.free_before_bytes - self.bench.free_bytes()) > _SLACK_BYTES:
            if time.monotonic() > deadline_s:
                raise Wrong(f"{gb(missing)} of the GPU's memory was not given back")
            time.sleep(_POLL_S)
        if "Traceback (most recent call last)" in self.said:
            raise Wrong(f"a traceback; see {self.out.with_suffix('.said')}")
        if (self.out / ".audio-batch" / "journal.sqlite3").is_file():
            verified = program(self.bench, "verify", self.out, "--no-fix")
            if verified.returncode != 0:
                raise Wrong(f"verify ends with {verified.returncode}: {verified.stdout[-200:]}")
        back = "" if self.bench.gpu is None else f", VRAM back (within {gb(max(0, missing))})"
        return f"no process left{back}, outputs verified"


@contextmanager
def night(
    bench: Bench,
    name: str,
    manifest: Path,
    *flags: object,
    model: str = "",
    again: bool = False,
    limit_s: float = 240.0,
    env: Mapping[str, str] | None = None,
) -> Iterator[Night]:
    """A run in an output folder of that name; ended, with all it began, when the block ends.

    `again` goes on in a folder that is there. `flags` stand last, so they win.
    """
    limit_s = bench.left_s(limit_s)
    out = bench.work / "runs" / name
    if not again:
        shutil.rmtree(out, ignore_errors=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    free_bytes = bench.free_bytes()
    command = [sys.executable, "-m", "audio_batch", "run", manifest, "-o", out, "-y"]
    command += ["--config", bench.no_settings, "--device", bench.device]
    command += ["--model", model or bench.model, "--retry-delay", "0.1"]
    if "--diarize-model" not in flags:
        command += ["--no-diarize"]
    with out.with_suffix(".said").open("wb") as said:
        process = subprocess.Popen(
            [str(part) for part in (*command, *flags)],
            cwd=bench.work,
            env=bench.environment(**(env or {})),
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
        )
    at_work = Night(bench, name, process, time.monotonic(), limit_s, free_bytes)
    ended = threading.Event()
    looking = threading.Thread(target=at_work.look, args=(ended,), daemon=True)
    looking.start()
    try:
        yield at_work
    finally:
        for one in (process, *at_work.workers()):
            with suppress(psutil.Error, OSError):
                one.kill()
        process.wait()
        ended.set()
        looking.join()


def lives(process: psutil.Process) -> bool:
    """Whether it still runs; a container may have nobody who buries the dead."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextmanager
def hogged(bench: Bench, leave_bytes: int) -> Iterator[tuple[Callable[[], None], int]]:
    """A foreign process that holds the GPU's memory but for `leave_bytes`.

    Yields what ends it before the block does, and how much it left.

    Raises:
        Wrong: it cannot.
    """
    number = bench.gpu.number if bench.gpu else 0
    process = subprocess.Popen(
        [sys.executable, Path(__file__).with_name("hog.py"), str(number), str(leave_bytes)],
        env=bench.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def end() -> None:
        process.kill()
        process.wait()

    try:
        assert process.stdout is not None
        answer = json.loads(process.stdout.readline() or '{"problem": "it ended at once"}')
        if "problem" in answer:
            raise Wrong(f"the GPU's memory cannot be taken: {answer['problem']}")
        yield end, int(answer["free_bytes"])
    finally:
        end()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()
