"""What works on the nodes of a Ray cluster, and whether they can.

A GPU of a node is a device; where the cluster has none, the cores of a node are one. Ray is asked
for an actor with that GPU, or with those cores, on that very node; which asset goes to which device
is for our own schedule to say.

The label `audio-batch` of a node is heeded: `no` leaves the node out, `yes` leaves those out that
have it not.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from audio_batch import __version__, locations
from audio_batch.errors import SetupError, UsageError
from audio_batch.gpu.devices import Device
from audio_batch.ray_cluster import Cluster, Spot, first_line
from audio_batch.ray_node import NodeReport, report
from audio_batch.storage import temporary_name
from audio_batch.text import for_terminal, redact

LABEL = "audio-batch"

_REPORT_S = 120.0
"""For the nodes to tell of themselves; where there is a runtime environment, it is made first."""

_ROOM_S = 600.0
"""For an autoscaler to bring the first node, or other people's work to leave one."""

_log = logging.getLogger("audio_batch.run")


def find_devices(
    cluster: Cluster, spec: str, *, witnesses: Sequence[str], output: str
) -> tuple[Device, ...]:
    """Find what the cluster can work with now, and take it down in `cluster.spots`.

    Args:
        spec: `auto`, `cpu` or `cuda`.
        witnesses: local recordings that every node must see.
        output: where outputs go.

    Raises:
        UsageError: see `kind_of`.
        SetupError: nothing of that kind is to be had, or no node can do the work.
    """
    spots = _wait_for_spots(cluster, kind_of(spec))
    able, problems = _able(cluster, spots, witnesses, output)
    for problem in problems:
        _log.warning("%s", for_terminal(redact(problem)))
    if not able:
        raise SetupError(
            f"No node of the cluster can do the work: {' '.join(problems)}",
            remedy="See docs/cluster.md for what every node needs.",
        )
    cluster.spots = {spot.device.id: spot for spot in able}
    return tuple(spot.device for spot in able)


def kind_of(spec: str) -> str:
    """What `--device` asks of a cluster: `auto`, `cpu` or `cuda`.

    Raises:
        UsageError: it is none of these.
    """
    word = spec.strip().lower()
    if word not in ("auto", "cpu", "cuda"):
        raise UsageError(
            f"--device {spec} names devices of this machine; those of a cluster have no numbers.",
            remedy="Write --device auto, cpu or cuda.",
        )
    return word


def _wait_for_spots(cluster: Cluster, word: str) -> list[Spot]:
    """What is free now; where nothing is, the autoscaler is told, and its nodes are waited for."""
    deadline_s = time.monotonic() + _ROOM_S
    bundle = {"CPU": 1.0} if word == "cpu" else {"GPU": 1.0}
    told = False
    while True:
        nodes = chosen(cluster.ray.nodes())
        spots = find_spots(nodes, _available(nodes), word)
        if spots:
            return spots
        if time.monotonic() > deadline_s or not (told or cluster.ask_for(bundle)):
            what = "GPU" if word == "cuda" else "core" if word == "cpu" else "GPU or core"
            raise SetupError(
                f"The cluster has no {what} that is free.",
                remedy="Wait for what runs there, or add a node; `ray status` shows both.",
            )
        if not told:
            told = True
            _log.info("The cluster has nothing free yet; its autoscaler has been asked.")
        time.sleep(2.0)


def chosen(nodes: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The nodes of a cluster that a run uses; see the module's docstring."""
    alive = [node for node in nodes if node["Alive"]]
    wanted = [node for node in alive if node.get("Labels", {}).get(LABEL) == "yes"]
    return wanted or [node for node in alive if node.get("Labels", {}).get(LABEL) != "no"]


def _available(nodes: Sequence[Mapping[str, Any]]) -> Mapping[str, Mapping[str, float]]:
    """What is free of each node by its id; all of it where Ray does not say (a Ray client)."""
    try:
        from ray._private.state import available_resources_per_node

        found: Mapping[str, Mapping[str, float]] = available_resources_per_node()
    except Exception:
        found = {}
    return {node["NodeID"]: found.get(node["NodeID"], node["Resources"]) for node in nodes}


def find_spots(
    nodes: Sequence[Mapping[str, Any]], free: Mapping[str, Mapping[str, float]], word: str
) -> list[Spot]:
    spots: list[Spot] = []
    names = _names(nodes)
    if word != "cpu":
        for node in nodes:
            spots += _gpus(node, names[node["NodeID"]], free[node["NodeID"]])
    gpus = any(node["Resources"].get("GPU", 0) >= 1 for node in nodes)
    if word == "cpu" or (word == "auto" and not gpus):
        for node in nodes:
            spots += _cores(node, names[node["NodeID"]], free[node["NodeID"]])
    return spots


def _names(nodes: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """A name for each node: what `ray start --node-name` said, else its host's; unique."""
    plain = {}
    for node in nodes:
        given, address = node.get("NodeName", ""), node.get("NodeManagerAddress", "")
        name = given if given and given != address else node.get("NodeManagerHostname") or address
        plain[node["NodeID"]] = re.sub(r"[^A-Za-z0-9._-]", "-", str(name)) or "node"
    often = Counter(plain.values())
    return {
        node_id: name if often[name] == 1 else f"{name}-{node_id[:6]}"
        for node_id, name in plain.items()
    }


def _gpus(node: Mapping[str, Any], name: str, free: Mapping[str, float]) -> list[Spot]:
    kind = _accelerator(node)
    count = int(free.get("GPU", 0))
    # A core beside each GPU, for decoding; where there are too few, the GPU does without.
    num_cpus = 1.0 if free.get("CPU", 0) >= count else 0.0
    total = max(1, int(node["Resources"].get("GPU", 1)))
    cores = max(1, int(node["Resources"].get("CPU", total)) // total)
    return [
        Spot(
            node=name,
            node_id=node["NodeID"],
            # Ray shows the actor its own GPU only: the first, whichever it is.
            device=Device(f"ray:{name}/cuda:{number}", "cuda", 0, f"ray:{kind}", kind, None, name),
            num_cpus=num_cpus,
            num_gpus=1.0,
            cores=cores,
            free_bytes=0,
        )
        for number in range(count)
    ]


def _accelerator(node: Mapping[str, Any]) -> str:
    label = node.get("Labels", {}).get("ray.io/accelerator-type")
    if label:
        return str(label)
    prefix = "accelerator_type:"
    found = (key for key in node["Resources"] if key.startswith(prefix))
    return next(found, f"{prefix}GPU").removeprefix(prefix)


def _cores(node: Mapping[str, Any], name: str, free: Mapping[str, float]) -> list[Spot]:
    count = int(free.get("CPU", 0))
    if count < 1:
        return []
    what = f"{count} core{'s' if count > 1 else ''}"
    # Speeds are remembered by it: another node with so many cores is taken to be as fast.
    uuid = f"ray:cpu:{count}"
    device = Device(f"ray:{name}/cpu", "cpu", None, uuid, what, None, name)
    return [Spot(name, node["NodeID"], device, float(count), 0.0, count, 0)]


# -- what the nodes say ---------------------------------------------------------------------------


def _able(
    cluster: Cluster, spots: Sequence[Spot], witnesses: Sequence[str], output: str
) -> tuple[list[Spot], list[str]]:
    """The spots on nodes that can do the work, and a sentence about each other node."""
    reports = _reports(cluster, spots, witnesses, output)
    problems = {
        node_id: problem
        for node_id, found in reports.items()
        if (problem := _problem(found)) is not None
    }
    names = {spot.node_id: spot.node for spot in spots}
    able = [
        dataclasses.replace(spot, free_bytes=found.free_bytes)
        for spot in spots
        if spot.node_id not in problems and isinstance(found := reports[spot.node_id], NodeReport)
    ]
    cluster.workers_publish = locations.is_remote(output) or all(
        isinstance(found, NodeReport) and found.writes
        for node_id, found in reports.items()
        if node_id not in problems
    )
    return able, [f"{names[node_id]} is left out: {text}" for node_id, text in problems.items()]


def _reports(
    cluster: Cluster, spots: Sequence[Spot], witnesses: Sequence[str], output: str
) -> dict[str, NodeReport | str]:
    """What each node says, or why it says nothing."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ray = cluster.ray
    ask = ray.remote(report)
    with _token(output) as token:
        asked = {
            node_id: ask.options(
                num_cpus=0,
                max_retries=0,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False),
            ).remote(tuple(witnesses), token)
            for node_id in dict.fromkeys(spot.node_id for spot in spots)
        }
        deadline_s = time.monotonic() + _REPORT_S
        found: dict[str, NodeReport | str] = {}
        for node_id, reference in asked.items():
            try:
                found[node_id] = ray.get(reference, timeout=max(0.1, deadline_s - time.monotonic()))
            except ray.exceptions.GetTimeoutError:
                found[node_id] = f"it has not answered within {_REPORT_S:.0f} s."
            except Exception as error:  # among them what Ray makes of a missing package
                found[node_id] = _why(error)
    return found


@contextlib.contextmanager
def _token(output: str) -> Iterator[Path | None]:
    """A file in a local output folder, for the nodes to find."""
    if locations.is_remote(output):
        yield None
        return
    path = Path(output) / temporary_name()
    try:
        path.write_bytes(b"")
        yield path
    except OSError:
        yield None
    finally:
        with contextlib.suppress(OSError):
            path.unlink()


def _why(error: Exception) -> str:
    text = str(error)
    if "ModuleNotFoundError" in text or "No module named" in text:
        missing = re.search(r"No module named '([^']+)'", text)
        what = missing[1].partition(".")[0] if missing else "audio_batch"
        name = "audio-batch" if what == "audio_batch" else what
        return f"{name} is not installed there (pip install 'audio-batch[ray]=={__version__}')."
    return f"it cannot run anything of ours: {first_line(error)}."


def _problem(found: NodeReport | str) -> str | None:
    if isinstance(found, str):
        return found
    if found.version != __version__:
        return f"it has audio-batch {found.version}, the run is of version {__version__}."
    if found.unseen:
        return (
            f"it does not see {found.unseen}; recordings must lie in a folder that every node "
            "has under the same name, or in an object store."
        )
    return None
