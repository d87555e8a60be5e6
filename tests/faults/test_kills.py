"""Kills without warning, of the program and of its device processes, at seeded moments."""

from __future__ import annotations

import json
import os
import random
import subprocess
import time
from collections import Counter
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import faulty_engine
import psutil
import pytest
import stub_nvml
from nights import (
    assert_gone,
    assert_sound,
    attempt_count,
    done_stamps,
    family,
    is_running,
    started,
    wait_until,
    workers,
)
from program import environment, text_outputs, write_manifest
from shim import entries, torn

from audio_batch.outcome import State

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX signals")

SLOTS = 2
AHEAD = 1
"""Of each device: what it works on, and what is read ahead besides."""

SUFFIXES = (".txt", ".srt", ".vtt", ".tsv", ".csv", ".lrc", ".aud", ".uem", ".rttm")


@dataclass
class Night:
    """A folder with `count` recordings, how they are run, and what was seen meanwhile."""

    folder: Path
    count: int
    arguments: tuple[object, ...] = ()
    variables: dict[str, str] = field(default_factory=dict)
    slots: int = SLOTS + AHEAD
    kills: int = 0
    redone: int = 0

    def __post_init__(self) -> None:
        write_manifest(self.folder, self.count)
        self.plugin = faulty_engine.install(self.folder / "plugin")

    @property
    def out(self) -> Path:
        return self.folder / "out"

    @property
    def log(self) -> Path:
        return self.folder / "nights.log"

    @property
    def hurry(self) -> Path:
        """Where this is, recordings take no time any more."""
        return self.folder / "hurry"

    @property
    def said(self) -> str:
        return self.log.read_text()[-3000:]

    def start(
        self, delay_ms: int = 0, out: str = "out"
    ) -> AbstractContextManager[subprocess.Popen[bytes]]:
        return started(
            self.folder,
            *("run", "manifest.json", "--engine", "faulty", "--no-diarize", "-f", "all", "-o", out),
            *("--max-per-gpu", SLOTS, "--prefetch", AHEAD, *self.arguments),
            env=environment(
                **self.plugin,
                **self.variables,
                FAULTY_ENGINE=json.dumps({"delay_ms": delay_ms, "hurry": str(self.hurry)}),
                AUDIO_BATCH_CACHE_DIR=str(self.folder / "cache"),
            ),
            log=self.log,
        )

    def finish(self, out: str = "out") -> int:
        """Run to the end; the exit code."""
        with self.start(out=out) as process:
            return process.wait(timeout=600)

    def assert_nothing_was_lost(self) -> None:
        """Against a run that nobody killed, and with the attempts that the kills may cost."""
        states = Counter(entry.state for entry in entries(self.out).values())
        assert states == {State.DONE: self.count}, self.said
        assert self.finish("whole") == 0, self.said
        whole = text_outputs(self.folder / "whole", SUFFIXES)
        assert len(whole) == self.count * len(SUFFIXES)
        assert text_outputs(self.out, SUFFIXES) == whole
        assert_sound(self.out)
        assert self.redone == 0, "what was done is not done again"
        extra = attempt_count(self.out) - self.count
        print(f"{self.kills} kills, {self.count} assets, {self.slots} slots: 0 lost, 0 doubled, ")
        print(f"0 torn; {extra} extra attempts, {extra / self.kills:.2f} a kill")
        assert extra <= self.kills * self.slots


def kill_programs(night: Night, kills: int, chance: random.Random, *, delay_ms: int) -> None:
    """Runs that are killed, each as it loads, works, or publishes."""
    for night.kills in range(1, kills + 1):
        before = done_stamps(night.out)
        wanted = len(before) + chance.choice((0, 0, 1))
        with night.start(delay_ms) as process:
            if chance.random() < 0.85:
                at_work = wait_until(
                    lambda wanted=wanted: (
                        len(done_stamps(night.out)) >= wanted  # type: ignore[misc]
                        and is_running(night.out)
                    ),
                    process,
                    log=night.log,
                )
                assert at_work, night.said
            time.sleep(chance.uniform(0.0, delay_ms / 1000))
            children = family(process)
            process.kill()
        assert process.returncode < 0, "it was done before it was killed"
        assert_gone(children)
        after = done_stamps(night.out)
        night.redone += sum(after.get(name) != stamp for name, stamp in before.items())
        assert not torn(night.out)


@pytest.mark.parametrize(
    ("isolation", "count", "kills"),
    [
        # Far more than is done until the last kill, also where nobody looks for a second.
        ("thread", 32, 4),
        pytest.param("process", 32, 4, marks=pytest.mark.slow),
        pytest.param("thread", 200, 200, marks=pytest.mark.slow),
        pytest.param("process", 200, 200, marks=pytest.mark.slow),
    ],
)
def test_kills_of_the_program_lose_double_and_tear_nothing(
    isolation: str, count: int, kills: int, tmp_path: Path
) -> None:
    night = Night(tmp_path, count, ("--isolation", isolation))
    kill_programs(night, kills, random.Random(f"{isolation} {kills}"), delay_ms=300)
    assert night.finish() == 0, night.said
    night.assert_nothing_was_lost()


def kill_workers(
    night: Night,
    process: subprocess.Popen[bytes],
    kills: int,
    chance: random.Random,
    *,
    delay_ms: int,
    between: tuple[int, ...],
) -> None:
    """Kill device processes of a run that goes on; `between` such kills so many are done."""
    killed: set[int] = set()

    def alive() -> list[psutil.Process]:
        return [child for child in workers(process) if child.pid not in killed]

    for night.kills in range(1, kills + 1):
        wanted = len(done_stamps(night.out)) + chance.choice(between)
        ready = wait_until(
            lambda wanted=wanted: len(done_stamps(night.out)) >= wanted and alive(),  # type: ignore[misc]
            process,
            log=night.log,
        )
        assert ready, night.said
        time.sleep(chance.uniform(0.0, delay_ms / 1000))
        victim = chance.choice(alive() or workers(process))
        killed.add(victim.pid)
        victim.kill()
        assert not torn(night.out)
    night.hurry.touch()


@pytest.mark.parametrize(
    ("gpus", "count", "kills", "between"),
    [
        (0, 64, 6, (1, 2, 3)),
        # No more is done between two kills than one kill may cost.
        pytest.param(0, 320, 200, (1,), marks=pytest.mark.slow),
        pytest.param(2, 100, 20, (1, 2, 3), marks=pytest.mark.slow),
    ],
)
def test_kills_of_device_processes_cost_their_attempts_alone(
    gpus: int,
    count: int,
    kills: int,
    between: tuple[int, ...],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    """The device is not given up while assets are done there, and no asset is to blame: the kernel
    has not killed for lack of memory.
    """
    night = Night(tmp_path, count, ("--isolation", "process"))
    if gpus:
        stub_dir = request.getfixturevalue("stub_dir")
        stub = stub_nvml.environment(stub_dir, [stub_nvml.gpu(number) for number in range(gpus)])
        wanted = ("STUB", "CUDA", "LD_LIBRARY_PATH")
        night.variables = {k: v for k, v in stub.items() if any(w in k for w in wanted)}
        night.slots = (SLOTS + AHEAD) * gpus
        # What is done on the other one does not speak for the one that is killed while it loads.
        night.arguments += ("--max-restarts", 100)
    with night.start(delay_ms=150) as process:
        chance = random.Random(f"{gpus} {kills}")
        kill_workers(night, process, kills, chance, delay_ms=150, between=between)
        assert process.wait(timeout=600) == 0, night.said
    assert night.said.count("taken out") == 0
    night.assert_nothing_was_lost()
