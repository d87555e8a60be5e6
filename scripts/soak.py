"""An endless night of random faults against a growing folder; what must hold is checked every step.

    python scripts/soak.py [--minutes 30] [--seed 7]

A step adds recordings, runs the program on all of them, and has something go wrong: an asset that
ends or hangs its process, lacks memory or fails; kills of the program and of its device processes;
signals; a full disk (where a tmpfs may be mounted); damaged outputs. Afterwards nothing that was
done may be lost or changed, every file must be what the journal says, whoever had no fault must be
done, and no process may be left. One line a step; at the first violation the seed, the step and the
folder are told, and the exit code is 1. The recordings are tones, the engine is that of
`tests/faulty_engine.py`: what is tried is everything but the models. POSIX only.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1] / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "faults")]

import faulty_engine  # noqa: E402
import psutil  # noqa: E402
from nights import done_stamps, family, is_running, lives, started, workers  # noqa: E402
from program import environment, write_tone  # noqa: E402
from shim import entries  # noqa: E402

from audio_batch.errors import SetupError  # noqa: E402
from audio_batch.journal import Journal  # noqa: E402
from audio_batch.outcome import State  # noqa: E402
from audio_batch.output_folder import OutputFolder  # noqa: E402
from audio_batch.verify import Verification, check_journal, verify  # noqa: E402

_PATIENCE_S = 300.0
_DISK_BYTES = 256 * 1024**2
_MAX_RECORDINGS = 500
"""The engine tells recordings apart by their length, and a night must not last for ever."""


class Violation(Exception):
    """Something that must hold does not."""


def must(holds: object, what: str) -> None:
    """Raise Violation unless it holds."""
    if not holds:
        raise Violation(what)


@dataclass
class Step:
    """What a step does: its faults and flags, what happens meanwhile, and how it may end.

    `bad` are the recordings that may fail; `cut` says that the run may not come to its end.
    """

    name: str
    faults: dict[str, Any] = field(default_factory=dict)
    flags: list[str] = field(default_factory=list)
    codes: tuple[int, ...] = (0,)
    bad: set[int] = field(default_factory=set)
    meanwhile: Callable[[subprocess.Popen[bytes]], None] | None = None
    cut: bool = False


class Soak:
    """The folder, what is known of it, and the steps."""

    def __init__(self, folder: Path, seed: int, *, disk: bool) -> None:
        self.folder = folder
        self.out = folder / "disk/out"
        self.log = folder / "said.log"
        self.chance = random.Random(seed)
        self.disk = disk
        self.count = 0
        self.failed: set[int] = set()
        self.known: dict[str, tuple[float | None, dict[str, str]]] = {}
        self.plugin = faulty_engine.install(folder / "plugin")
        (folder / "once").mkdir()

    # -- steps ------------------------------------------------------------------------------------

    def step(self, number: int) -> str:
        """Do one; return what to say of it."""
        new = self.grow()
        step = self.chance.choice(
            (
                self.quiet,
                self.fault_once,
                self.fault_for_good,
                self.hang,
                self.out_of_memory,
                self.kill_program,
                self.kill_program,
                self.kill_workers,
                self.kill_workers,
                self.stop,
                self.full_disk,
                self.damage,
                self.mend,
            )
        )(new)
        slots = self.chance.randint(1, 3)
        if "--isolation" not in step.flags:
            step.flags += ["--isolation", self.chance.choice(("thread", "process"))]
        begun_s = time.monotonic()
        code = self.run(step, slots)
        self.check(step, code)
        took_s = time.monotonic() - begun_s
        return (
            f"{number:4d} {step.name:<24} {' '.join(step.flags):<34} slots {slots}, exit {code}, "
            f"{len(self.known)}/{self.count} done, {len(self.failed)} failed, {took_s:.1f} s"
        )

    def grow(self) -> list[int]:
        """Add recordings; their numbers."""
        new = list(range(self.count, min(self.count + self.chance.randint(1, 6), _MAX_RECORDINGS)))
        for number in new:
            write_tone(self.folder / f"audio/{number}.wav", 0.5 + number / 1000)
        self.count += len(new)
        rows = [{"id": name_of(n), "path": f"audio/{n}.wav"} for n in range(self.count)]
        (self.folder / "manifest.json").write_text(json.dumps({"assets": rows}))
        return new

    def some(self, new: list[int]) -> list[int]:
        """One or a few of the new recordings."""
        return self.chance.sample(new, self.chance.randint(1, min(2, len(new)))) if new else []

    def quiet(self, _new: list[int]) -> Step:
        return Step("quiet", codes=(0, 3))

    def fault_once(self, new: list[int]) -> Step:
        kind = self.chance.choice(("abort", "segfault", "exit", "killed", "transient"))
        faults = {kind: self.some(new), "once": str(self.folder / "once")}
        isolation = "thread" if kind == "transient" else "process"
        return Step(f"{kind}, once", faults, ["--isolation", isolation], (0, 3))

    def fault_for_good(self, new: list[int]) -> Step:
        kind = self.chance.choice(("abort", "segfault", "fail", "transient"))
        bad = self.some(new)
        isolation = "process" if kind in ("abort", "segfault") else "thread"
        return Step(kind, {kind: bad}, ["--isolation", isolation], (0, 3), set(bad))

    def hang(self, new: list[int]) -> Step:
        kind, bad = self.chance.choice(("hang", "hang_in_native_code")), self.some(new)
        flags = ["--isolation", "process", "--timeout", "4"]
        # Beside one that holds the interpreter's lock all stand still.
        return Step(kind, {kind: bad}, flags, (0, 3), set(bad))

    def out_of_memory(self, new: list[int]) -> Step:
        enough = self.chance.choice((["int8"], ["float32", "int8"], []))
        bad = self.some(new)
        faults = {"out_of_memory": bad, "enough": enough}
        bad_for_good = set() if enough else set(bad)
        return Step("out of memory", faults, codes=(0, 3), bad=bad_for_good)

    def kill_program(self, _new: list[int]) -> Step:
        delay_s = self.chance.uniform(0.0, 4.0)

        def kill(process: subprocess.Popen[bytes]) -> None:
            with suppress(subprocess.TimeoutExpired):
                process.wait(delay_s)
            process.kill()

        name, codes = "SIGKILL of the program", (-signal.SIGKILL, 0, 3)
        return Step(name, {"delay_ms": 300}, codes=codes, meanwhile=kill, cut=True)

    def kill_workers(self, _new: list[int]) -> Step:
        kills = self.chance.randint(1, 3)
        pauses_s = [self.chance.uniform(0.0, 1.0) for _ in range(kills)]

        def kill(process: subprocess.Popen[bytes]) -> None:
            killed: set[int] = set()
            for pause_s in pauses_s:
                before = len(done_stamps(self.out))
                while process.poll() is None:
                    alive = [child for child in workers(process) if child.pid not in killed]
                    # A device that cannot load at the start is left out, and deaths in a row with
                    # nothing done between them give it up.
                    begun = len(done_stamps(self.out)) > before if killed else is_running(self.out)
                    if alive and begun:
                        break
                    time.sleep(0.05)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(pause_s)
                for child in workers(process)[:1]:
                    killed.add(child.pid)
                    with suppress(psutil.NoSuchProcess):
                        child.kill()

        flags = ["--isolation", "process"]
        return Step(
            f"SIGKILL of {kills} processes", {"delay_ms": 200}, flags, (0, 3), meanwhile=kill
        )

    def stop(self, _new: list[int]) -> Step:
        number = self.chance.choice((signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP))
        delay_s = self.chance.uniform(0.0, 4.0)

        def send(process: subprocess.Popen[bytes]) -> None:
            with suppress(subprocess.TimeoutExpired):
                process.wait(delay_s)
            if process.poll() is None:
                process.send_signal(number)

        # Before Python has come to the program a signal is the system's: -15 and the like.
        codes = (130, 0, 3, -number)
        return Step(number.name, {"delay_ms": 300}, codes=codes, meanwhile=send, cut=True)

    def full_disk(self, new: list[int]) -> Step:
        if not self.disk:
            return self.quiet(new)
        free_bytes = shutil.disk_usage(self.folder / "disk").free
        leave_bytes = self.chance.choice((0, 8_192, 32_768, 100_000))
        with (self.folder / "disk/ballast").open("wb") as ballast:
            os.posix_fallocate(ballast.fileno(), 0, max(1, free_bytes - leave_bytes))
        return Step("full disk", codes=(5, 0, 3), cut=True)

    def damage(self, new: list[int]) -> Step:
        """The next run makes again what `verify` has found."""
        done = sorted(self.known)
        if not done:
            return self.quiet(new)
        name = self.chance.choice(done)
        path = self.out / self.chance.choice(sorted(self.known[name][1]))
        data = bytearray(path.read_bytes())
        data[self.chance.randrange(len(data))] ^= 1
        path.write_bytes(data)
        found = self.verified(fix=True)
        must([d.asset_id for d in found.damages] == [name], f"verify did not find {path.name}")
        del self.known[name]
        return Step("damaged output", codes=(0, 3))

    def mend(self, _new: list[int]) -> Step:
        self.failed.clear()
        return Step("--retry-failed", flags=["--retry-failed"])

    # -- running and checking ---------------------------------------------------------------------

    def run(self, step: Step, slots: int) -> int:
        env = environment(
            **self.plugin,
            FAULTY_ENGINE=json.dumps({"delay_ms": 30, **step.faults}),
            AUDIO_BATCH_CACHE_DIR=str(self.folder / "cache"),
        )
        self.log.unlink(missing_ok=True)
        arguments = ("run", "manifest.json", "--engine", "faulty", "--no-diarize", "-o", self.out)
        more = ("--compute-type", "float32", "--retry-delay", "0.01", "--max-per-gpu", slots)
        seen: list[psutil.Process] = []
        with started(self.folder, *arguments, *more, *step.flags, env=env, log=self.log) as process:
            if step.meanwhile is not None:
                time.sleep(0.3)
                seen = family(process)
                step.meanwhile(process)
            deadline_s = time.monotonic() + _PATIENCE_S
            while process.poll() is None:
                must(time.monotonic() < deadline_s, f"it does not end within {_PATIENCE_S:.0f} s")
                seen = [*seen, *(c for c in family(process) if c not in seen)]
                time.sleep(0.1)
        deadline_s = time.monotonic() + 20
        while left := [child for child in seen if lives(child)]:
            must(time.monotonic() < deadline_s, f"it left {left}")
            time.sleep(0.05)
        (self.folder / "disk/ballast").unlink(missing_ok=True)
        return process.returncode

    def verified(self, *, fix: bool) -> Verification:
        """What `verify` finds."""
        folder = OutputFolder(self.out)
        with folder.locked():
            check_journal(folder.journal_path)
            with closing(Journal(folder.journal_path)) as journal:
                found = verify(folder, journal)
                if fix:
                    found.requeue(journal)
        return found

    def check(self, step: Step, code: int) -> None:
        """All that must hold after a step."""
        said = self.log.read_text("utf-8", "replace")
        must(code in step.codes, f"exit {code} and not {step.codes}")
        must("Traceback" not in said and "Internal error" not in said, "a traceback")
        found = entries(self.out)
        if not found and step.cut:
            return
        verified = self.verified(fix=False)
        must(not verified.damages, f"damaged: {verified.damages}")
        must(step.cut or not verified.leftovers, f"left over: {verified.leftovers}")
        for name, (stamp, files) in self.known.items():
            entry = found.get(name)
            must(entry is not None and entry.state is State.DONE, f"{name} is lost")
            assert entry is not None
            must(entry.finished_at == stamp, f"{name} was done again")
            must(files == self.files_of(name), f"{name} has other files")
        for name, entry in found.items():
            number = int(name.split("-")[1])
            if entry.state is State.DONE:
                if name not in self.known:
                    text = (self.out / f"{name}.txt").read_text()
                    must(f"recording {number}\n" in text, f"{name} has another's words: {text}")
                    self.known[name] = (entry.finished_at, self.files_of(name))
                self.failed.discard(number)
            elif entry.state in (State.FAILED, State.QUARANTINED, State.INCOMPLETE):
                must(
                    number in step.bad or number in self.failed,
                    f"{name} failed through no fault of its own: {entry.error_text}",
                )
                self.failed.add(number)
        if not step.cut:
            missing = {name_of(n) for n in range(self.count)} - set(self.known)
            expected = {name_of(n) for n in self.failed}
            must(missing == expected, f"not done: {sorted(missing - expected)}")
            must(code == (3 if self.failed else 0), f"exit {code}, {len(self.failed)} failed")

    def files_of(self, name: str) -> dict[str, str]:
        """The outputs of an asset, by hash."""
        return {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in self.out.glob(f"{name}.*")
        }


def name_of(number: int) -> str:
    """The id of a recording."""
    return f"tone-{number:03d}"


def mounted(folder: Path) -> bool:
    """Mount a tmpfs of its own there, so that its being full is nobody else's trouble."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={_DISK_BYTES}", "tmpfs", str(folder)]
    with suppress(OSError):
        return subprocess.run(mount, capture_output=True, check=False).returncode == 0
    return False


def main() -> int:
    """Soak until the time is over or something does not hold."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=None, help="[until Ctrl-C]")
    parser.add_argument("--seed", type=int, default=None, help="[a new one]")
    arguments = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if arguments.seed is None else arguments.seed
    folder = Path(tempfile.mkdtemp(prefix="audio-batch-soak-"))
    (folder / "disk").mkdir()
    disk = mounted(folder / "disk")
    print(f"seed {seed}, in {folder}, {'with' if disk else 'without'} full disks", flush=True)
    soak = Soak(folder, seed, disk=disk)
    begun_s = time.monotonic()
    number = 0
    try:
        while arguments.minutes is None or time.monotonic() - begun_s < arguments.minutes * 60:
            number += 1
            print(soak.step(number), flush=True)
    except KeyboardInterrupt:
        print("stopped")
    except (Violation, SetupError, OSError) as error:
        if disk:
            shutil.copytree(folder / "disk", folder / "disk.kept", dirs_exist_ok=True)
            subprocess.run(["umount", str(folder / "disk")], check=False)
        said = soak.log.read_text("utf-8", "replace") if soak.log.exists() else ""
        print(f"{said[-4000:]}\nVIOLATION with seed {seed} at step {number}: {error}")
        print(f"The folder is kept: {folder}")
        return 1
    if disk:
        subprocess.run(["umount", str(folder / "disk")], check=False)
    shutil.rmtree(folder)
    print(f"{number} steps, {len(soak.known)} recordings done, no violation (seed {seed})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
