"""The cluster of a run with `--engine ray`: reaching or starting it, and leaving it.

What Ray itself says of an actor's death is understood here; what works where is `ray_devices`'.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar
from urllib.parse import urlsplit

from audio_batch.errors import SetupError
from audio_batch.gpu.devices import Device
from audio_batch.lifetime import STOP_SIGNALS
from audio_batch.pools.hosts import Ending
from audio_batch.ray_keeper import VARIABLE
from audio_batch.ray_node import free_resources, request
from audio_batch.text import for_terminal, redact

_STORE_BYTES = 200_000_000
"""Shared memory of a local Ray: what is said is small."""

_LONGEST = 25
"""Of a folder's name, to which Ray adds some eighty bytes."""

_KNOCK_S = 10.0

_ANSWER_S = 60.0
"""For the head node to answer a client; it begins a process for that."""

HEAD = "node:__internal_head__"
"""What Ray calls the head node, as a resource."""

_CLIENT_TRIES = 2
"""The head node begins a process for each client, and gives it 30 s: a busy one takes longer."""

_AUTH_MODE = "RAY_AUTH_MODE"
_TOKENS = frozenset({"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"})

_CALLS = 8
"""Of an actor at a time: one waits for news, the others are short."""

# Of a worker that ended somehow Ray names memory among "common causes": that says nothing.
_NODE_DIED = re.compile(r"its node has died|actor's node was terminated|node is dead")
_LACKS_MEMORY = re.compile(r"running low on memory|memory pressure")

_Answer = TypeVar("_Answer")

_log = logging.getLogger("audio_batch.run")


@dataclass(frozen=True, slots=True)
class Spot:
    """Where a device of the cluster is, and what Ray is asked for.

    Args:
        node: its name, for people; `node_id` is Ray's.
        cores: how many cores the work there may use.
        free_bytes: memory that was free on the node.
    """

    node: str
    node_id: str
    device: Device
    num_cpus: float
    num_gpus: float
    cores: int
    free_bytes: int = 0


@dataclass(slots=True)
class Cluster:
    """A connection to Ray, of which a process has one.

    `is_ours`: it was started for this run. `is_client`: Ray's client is what reaches it (`ray://`),
    which does not know all that a driver on a node does. `spots` are its devices by their ids.
    `workers_publish`: every node can write where the outputs go.
    """

    ray: ModuleType
    is_ours: bool
    is_client: bool = False
    spots: dict[str, Spot] = field(default_factory=dict)
    workers_publish: bool = False
    _asked: tuple[int, dict[str, float]] | None = None
    _keeper: subprocess.Popen[bytes] | None = None
    _folder: Path | None = None

    def is_alive(self, node_id: str) -> bool:
        """Whether a node is still of the cluster."""
        return node_id in self.alive()

    def alive(self) -> set[str]:
        """The nodes of the cluster; none where all of Ray has gone."""
        try:
            nodes = self.ray.nodes()
        except Exception:
            return set()
        return {node["NodeID"] for node in nodes if node["Alive"]}

    def options_of(self, device: str) -> dict[str, Any]:
        """What Ray is asked for on behalf of a device's actor."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        spot = self.spots[device]
        return {
            "num_cpus": spot.num_cpus,
            "num_gpus": spot.num_gpus,
            "scheduling_strategy": NodeAffinitySchedulingStrategy(spot.node_id, soft=False),
            "max_concurrency": _CALLS,
            "max_restarts": 0,  # we begin another, and say so
        }

    def verdict(self, error: Exception, node_id: str) -> Ending:
        """What the death of an actor means; see `pools.ray_pool`."""
        text = str(error)
        _log.debug("An actor has died: %s", for_terminal(redact(text)))
        if getattr(error, "preempted", False):
            return Ending("the preemption of its node", from_outside=True, lost=True)
        if _NODE_DIED.search(text) or not self.is_alive(node_id):
            return Ending("the loss of its node", from_outside=True, lost=True)
        if _LACKS_MEMORY.search(text):
            return Ending("Ray, for lack of memory on its node")
        return Ending("the death of its actor", from_outside=True)

    def free(self, nodes: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, float]]:
        """What is free of some nodes, by their ids; of one that Ray is silent of, all of it."""
        found: Mapping[str, Mapping[str, float]] = {}
        try:
            found = self._there(free_resources)
        except Exception as error:  # no public part of Ray tells it
            _log.debug("What is free of the cluster is not known: %s", error)
        return {node["NodeID"]: found.get(node["NodeID"], node["Resources"]) for node in nodes}

    def ask_for(self, count: int, bundle: dict[str, float]) -> bool:
        """Tell an autoscaler what is needed at a time, until the next call or the end of the run.

        Args:
            count: how many such bundles; 0 takes back what was asked for.

        Returns:
            False where it cannot be told. Whether there is one, nobody knows.
        """
        if self.is_ours:
            return False
        wanted = (count, bundle) if count else None
        if wanted == self._asked:
            return True
        try:
            self._there(request, [bundle] * count)
        except Exception as error:  # whatever a cluster without one answers
            _log.debug("The autoscaler cannot be asked: %s", error)
            return False
        self._asked = wanted
        return True

    def _there(self, call: Callable[..., _Answer], *arguments: object) -> _Answer:
        """Ask Ray itself: here, or for a client on the head node."""
        if not self.is_client:
            return call(*arguments)
        task = self.ray.remote(call).options(num_cpus=0, max_retries=0, resources={HEAD: 0.001})
        answer: _Answer = self.ray.get(task.remote(*arguments), timeout=_ANSWER_S)
        return answer

    def close(self) -> None:
        """Leave the cluster; one of our own is ended."""
        self.ask_for(0, {})  # it would stand for ever
        with _signals_kept():
            self.ray.shutdown()
        if self._keeper is not None:
            self._keeper.kill()
            self._keeper.communicate()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def connect(address: str | None) -> Cluster:
    """Reach a cluster, or start one for this run alone. Main thread only.

    Args:
        address: `auto`, `host:port`, `ray://host:port`; None takes that of RAY_ADDRESS, and where
            there is none starts Ray on this machine.

    Raises:
        SetupError: Ray is not installed, or there is no cluster at that address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    is_ours = address == "local"
    if is_ours:
        _bring_token()  # Ray reads it when it is imported
    with _signals_kept():
        try:
            import ray
        except ImportError as error:
            raise SetupError(
                "--engine ray needs Ray, which is not installed.",
                remedy="pip install 'audio-batch[ray]'",
            ) from error
        if is_ours:
            return _start(ray)
        is_client = address.startswith("ray://")
        try:
            _knock(address)
            _reach(ray, address, tries=_CLIENT_TRIES if is_client else 1)
        except Exception as error:
            raise SetupError(
                f"There is no Ray cluster at {redact(address)}: {first_line(error)}.",
                remedy="Start one (`ray start --head`), or leave --ray-address out for a local "
                "Ray. Driver and cluster must be of one version of Ray and of Python."
                + _token_remedy(),
            ) from error
    return Cluster(ray, is_ours=False, is_client=is_client)


def _reach(ray: ModuleType, address: str, *, tries: int) -> None:
    for left in reversed(range(tries)):
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
            return
        except (ConnectionError, RuntimeError) as error:
            if not left or "mismatch" in str(error):
                raise
            _log.info("The cluster has not answered: %s. It is asked again.", first_line(error))


def _bring_token() -> None:
    """Keep others out of a Ray of our own, by a token that goes with it.

    Ray would leave one in the home, and turn its authentication on for whatever `ray start` begins
    from then on.
    """
    mode = os.environ.setdefault(_AUTH_MODE, "token")
    if mode == "token" and not _TOKENS & os.environ.keys():
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _token_remedy() -> str:
    """What else may be wrong. Ray shows its token to an address that was named only if told to."""
    if os.environ.get(_AUTH_MODE) is not None:
        return ""
    return (
        f" A cluster with token authentication needs {_AUTH_MODE}=token and its token here; "
        "see docs/cluster.md."
    )


def _knock(address: str) -> None:
    """See that somebody listens there: Ray itself would go on asking for many minutes.

    Raises:
        OSError: nobody does.
        ValueError: it is no address.
    """
    parts = urlsplit(address if "://" in address else f"//{address}")
    if parts.hostname and parts.port:
        socket.create_connection((parts.hostname, parts.port), timeout=_KNOCK_S).close()


def _start(ray: ModuleType) -> Cluster:
    # A folder of its own, so that nobody else's `auto` finds this Ray.
    folder = Path(tempfile.mkdtemp(prefix="ab-ray-", dir=_short_folder()))
    mark = secrets.token_hex(8)
    keeper = _begin_keeper(mark, folder)
    os.environ[VARIABLE] = mark
    try:
        ray.init(
            address="local",
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=_STORE_BYTES,
            _temp_dir=str(folder),
        )
    except BaseException as error:
        keeper.communicate()  # it sweeps up
        if not isinstance(error, Exception):
            raise
        raise SetupError(f"Ray cannot be started here: {first_line(error)}.") from error
    finally:
        os.environ.pop(VARIABLE, None)
    return Cluster(ray, is_ours=True, _keeper=keeper, _folder=folder)


def _short_folder() -> str | None:
    """Where Ray's sockets can lie, whose names the kernel limits to 107 bytes; None: anywhere."""
    usual = tempfile.gettempdir()
    return "/tmp" if len(usual) > _LONGEST and Path("/tmp").is_dir() else None


def _begin_keeper(mark: str, folder: Path) -> subprocess.Popen[bytes]:
    """Begin what ends Ray should this process be killed; see `ray_keeper`."""
    # Away from the terminal's signals: it is to outlive us.
    apart: dict[str, Any] = {"start_new_session": True}
    if sys.platform == "win32":
        apart = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return subprocess.Popen(
        [sys.executable, "-m", "audio_batch.ray_keeper", mark, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        **apart,
    )


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """Put our handlers back: Ray replaces that of SIGTERM, in Python and beneath it."""
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)


def first_line(error: Exception) -> str:
    """The telling line of what Ray says, for a sentence of ours."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else repr(error)
    if "Traceback" in text or text.endswith(":"):  # what it is about comes last
        text = lines[-1]
    return for_terminal(redact(text))[:300].rstrip(".")
