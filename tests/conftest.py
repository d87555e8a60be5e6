"""Fixtures that several test modules share; see also `program`."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import stub_nvml
from program import SHARED, Answer, command, environment

if "PYTEST_XDIST_WORKER" in os.environ:
    # Two workers on two cores, each with a thread for every core, are in each other's way.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def stub_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stub NVML and CUDA libraries, compiled once."""
    return stub_nvml.build(tmp_path_factory.mktemp("stub"))


@pytest.fixture
def cli(tmp_path: Path) -> Callable[..., Answer]:
    """Run the program as a user would, in `tmp_path`, with neither terminal nor input."""

    def run(
        *arguments: object, env: dict[str, str] | None = None, timeout_s: float = 240
    ) -> Answer:
        done = subprocess.run(
            command(*arguments),
            cwd=tmp_path,
            env=environment(**(env or {})),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=timeout_s,
            check=False,
        )
        return Answer(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared recordings and models, where there is one."""
    if not SHARED.is_dir():
        pytest.skip(f"no shared recordings at {SHARED}")
    return SHARED


@pytest.fixture
def children() -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that a test starts by hand; whatever is left of them is killed."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        if process.poll() is None:
            process.kill()
        if process.stdout is not None and not process.stdout.closed:
            process.communicate()
