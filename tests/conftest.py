"""Fixtures that several test modules share; see also `program`."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
import stub_nvml
from forked import completed
from hypothesis import HealthCheck, settings
from program import SHARED, Answer, environment
from shipped import ended
from stores import clouds
from stores.moto_process import MotoServer
from stores.s3 import S3
from stores.servers import WebServer

# Thousands of processes are begun here: each would compile the program and torch for itself.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# A run waits for the disk a hundred times (fsync), and no test is about a power failure. Only where
# memory has room for what the tests leave: pytest keeps the folders of those that failed.
_MEMORY = Path("/dev/shm")
if os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > 8 << 30:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(_MEMORY))

# Under nohup, or behind a shell's `&`, signals are ignored, and by all that is begun here too.
for _name in ("SIGINT", "SIGHUP"):
    _number = getattr(signal, _name, None)
    if _number is not None and signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, signal.default_int_handler if _name == "SIGINT" else signal.SIG_DFL)

if "PYTEST_XDIST_WORKER" in os.environ:
    # Two workers on two cores, each with a thread for every core, are in each other's way.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_configure(config: pytest.Config) -> None:
    """What Hypothesis tries is the same every time, but for the slow tests, and takes its time.

    What it has found once belongs into an `@example`.
    """
    settings.register_profile(
        "audio-batch",
        deadline=None,
        derandomize=config.option.markexpr == "not slow",
        suppress_health_check=[HealthCheck.too_slow],
    )
    settings.load_profile("audio-batch")


_LONGEST = (
    "faults/test_ray_cluster.py",
    "test_speaker_nights.py",
    "stores/test_trials.py",
    "faults/test_devices.py",
    "faults/test_isolation.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest go first: begun last by one worker, they would keep the other waiting."""

    def place(item: pytest.Item) -> int:
        name = item.path.as_posix()
        return next((n for n, end in enumerate(_LONGEST) if name.endswith(end)), len(_LONGEST))

    items.sort(key=place)


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    """What the program does to its own process must not reach the next test."""
    loggers = [logging.getLogger(name) for name in (None, *list(logging.root.manager.loggerDict))]
    levels = [logger.level for logger in loggers]
    before = dict(os.environ)
    yield
    # Only what differs: threads that a test has left behind may read the environment just now.
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    for name, value in before.items():
        if os.environ.get(name) != value:
            os.environ[name] = value
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


@pytest.fixture(scope="session")
def stub_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stub NVML and CUDA libraries, compiled once."""
    return stub_nvml.build(tmp_path_factory.mktemp("stub"))


@pytest.fixture
def cli(tmp_path: Path) -> Callable[..., Answer]:
    """Run the program as a user would, in `tmp_path`, with neither terminal nor input."""

    def run(
        *arguments: object, env: dict[str, str] | None = None, timeout_s: float = 600
    ) -> Answer:
        return completed(arguments, tmp_path, environment(**(env or {})), timeout_s)

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


@pytest.fixture(scope="session")
def nobody_listens() -> Iterator[int]:
    """A port of this machine that is taken, so that nobody is given it, and refuses everybody."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield int(taken.getsockname()[1])


@pytest.fixture(scope="session")
def moto_server() -> Iterator[MotoServer]:
    """An S3 (and STS) service as a process of its own."""
    pytest.importorskip("moto", reason="the S3 service of the tests is not installed")
    with MotoServer() as moto:
        yield moto


@pytest.fixture
def s3(moto_server: MotoServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    """An empty bucket behind a proxy that can misbehave; this process has the keys to it."""
    store = S3.begin(moto_server)
    for name in ("AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    yield store
    store.close()


@pytest.fixture(scope="session")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[clouds.Azure]:
    """Azure's store as a process of its own."""
    pytest.importorskip("adlfs", reason="needs audio-batch[azure]")
    if clouds.azurite_program() is None:
        pytest.skip("needs Azurite: npm install -g azurite, or AUDIO_BATCH_AZURITE=…/azurite-blob")
    with clouds.Azurite(tmp_path_factory.mktemp("azurite")) as process:
        store = clouds.Azure(process)
        yield store
        store.close()


@pytest.fixture(scope="session")
def google_emulator() -> Iterator[clouds.Google]:
    """Google's store as a process of its own."""
    pytest.importorskip("gcsfs", reason="needs audio-batch[gcs]")
    pytest.importorskip("gcp_storage_emulator", reason="needs the package gcp-storage-emulator")
    with clouds.GoogleEmulator() as process:
        store = clouds.Google(process)
        yield store
        store.close()


@pytest.fixture
def azure(azurite: clouds.Azure, monkeypatch: pytest.MonkeyPatch) -> clouds.Azure:
    """An empty container; this process has the key to it."""
    return _entered(azurite, monkeypatch)


@pytest.fixture
def google(google_emulator: clouds.Google, monkeypatch: pytest.MonkeyPatch) -> clouds.Google:
    """An empty bucket; this process knows where it is."""
    return _entered(google_emulator, monkeypatch)


_Cloud = TypeVar("_Cloud", bound=clouds.Cloud)


def _entered(store: _Cloud, monkeypatch: pytest.MonkeyPatch) -> _Cloud:
    store.empty()
    for name in list(os.environ):
        if name.startswith(("AZURE_", "GOOGLE_")):
            monkeypatch.delenv(name)
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    return store


@pytest.fixture
def web(tmp_path: Path) -> Iterator[WebServer]:
    """A web server of the folder `web` in `tmp_path`."""
    folder = tmp_path / "web"
    folder.mkdir()
    with WebServer(folder) as server:
        yield server


@pytest.fixture(scope="session")
def wine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """An environment with a Wine of its own; no Windows, but another's reading of batch files."""
    if shutil.which("wine") is None:
        pytest.skip("needs Wine: how cmd reads what is written for it is not tested without")
    prefix = tmp_path_factory.mktemp("wine")
    env = environment(WINEPREFIX=str(prefix), WINEDEBUG="-all", WINEDLLOVERRIDES="mscoree=;mshtml=")
    if ended(["wine", "cmd", "/c", "ver"], prefix, env).code != 0:
        pytest.skip("Wine does not start here")
    yield env
    ended(["wineserver", "-k"], prefix, env)
