"""What works on the nodes of a Ray cluster, and whether they can.

A GPU of a node is a device; where the cluster has none, the cores of a node are one. Ray is asked
for an actor with that GPU, or with those cores, on that very node; which asset goes to which device
is for our own schedule to say.

The label `audio-batch` of a node is heeded: `no` leaves the node out, `yes` leaves those out that
have it not.
"""

from __future__ import annotations

import dataclasses
import logging
import re
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from audio_batch import locations
from audio_batch.errors import SetupError
from audio_batch.gpu.devices import Device
from audio_batch.ray_cluster import HEAD, Cluster, Spot
from audio_batch.ray_flags import kind_of
from audio_batch.ray_node import NodeReport
from audio_batch.ray_reports import Needs, problem_of
from audio_batch.text import for_terminal, redact

LABEL = "audio-batch"

_ROOM_S = 600.0
"""For an autoscaler to bring the first node, or other people's work to leave one."""

_log = logging.getLogger("audio_batch.run")


def find_devices(
    cluster: Cluster, spec: str, needs: Needs, *, workers: int = 0
) -> tuple[Device, ...]:
    """Find what the cluster can work with now, and take it down in `cluster.spots`.

    Args:
        spec: `auto`, `cpu` or `cuda`.
        workers: so many an autoscaler is asked for where there is none yet; one at least.

    Raises:
        UsageError: see `kind_of`.
        SetupError: nothing of that kind is to be had, or no node can do the work.
    """
    spots = _wait_for_spots(cluster, kind_of(spec), max(1, workers))
    found = needs.reports(cluster, node_ids(spots))
    able, problems = able_of(spots, found)
    for problem in problems:
        _log.warning("%s", for_terminal(redact(problem)))
    if not able:
        raise SetupError(
            f"No node of the cluster can do the work: {' '.join(problems)}",
            remedy="See docs/cluster.md for what every node needs.",
        )
    cluster.workers_publish = locations.is_remote(needs.output) or all(
        isinstance(one, NodeReport) and bool(one.writes)
        for one in (found[node_id] for node_id in node_ids(able))
    )
    cluster.spots = {spot.device.id: spot for spot in able}
    return tuple(spot.device for spot in able)


def able_of(
    spots: Iterable[Spot], found: Mapping[str, NodeReport | str]
) -> tuple[list[Spot], list[str]]:
    """The spots on nodes that can do the work, and a sentence about each other node."""
    able: list[Spot] = []
    problems: dict[str, str] = {}
    for spot in spots:
        said = found[spot.node_id]
        problem = problem_of(said)
        if problem is not None:
            problems[spot.node_id] = f"{spot.node} is left out: {problem}"
        elif isinstance(said, NodeReport):
            able.append(dataclasses.replace(spot, free_bytes=said.free_bytes))
    return able, list(problems.values())


def node_ids(spots: Iterable[Spot]) -> list[str]:
    """The nodes of some spots, each once."""
    return list(dict.fromkeys(spot.node_id for spot in spots))


def _wait_for_spots(cluster: Cluster, word: str, workers: int) -> list[Spot]:
    """What is free now; where nothing is, the autoscaler is told, and its nodes are waited for."""
    deadline_s = time.monotonic() + _ROOM_S
    told = False
    while True:
        nodes = chosen(cluster.ray.nodes())
        spots = find_spots(nodes, cluster.free(nodes), word)
        if spots:
            return spots
        if time.monotonic() > deadline_s or not (
            told or cluster.ask_for(workers, bundle_of(nodes, word))
        ):
            what = "GPU" if word == "cuda" else "core" if word == "cpu" else "GPU or core"
            raise SetupError(
                f"The cluster has no {what} that is free.",
                remedy="Wait for what runs there, or add a node; `ray status` shows both.",
            )
        if not told:
            told = True
            _log.info("The cluster has nothing free yet; its autoscaler has been asked.")
        time.sleep(2.0)


def bundle_of(nodes: Sequence[Mapping[str, Any]], word: str) -> dict[str, float]:
    """What an autoscaler is asked for on behalf of one worker.

    Args:
        word: `cpu` for cores: as many as the smallest node has, the head node apart.
    """
    if word != "cpu":
        return {"GPU": 1.0}
    workers = [node for node in nodes if HEAD not in node["Resources"]] or nodes
    sizes = [float(int(node["Resources"].get("CPU", 0))) for node in workers]
    return {"CPU": min((size for size in sizes if size >= 1), default=1.0)}


def chosen(nodes: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The nodes of a cluster that a run uses; see the module's docstring."""
    alive = [node for node in nodes if node["Alive"]]
    wanted = [node for node in alive if node.get("Labels", {}).get(LABEL) == "yes"]
    return wanted or [node for node in alive if node.get("Labels", {}).get(LABEL) != "no"]


def find_spots(
    nodes: Sequence[Mapping[str, Any]],
    free: Mapping[str, Mapping[str, float]],
    word: str,
    known: Mapping[str, str] = MappingProxyType({}),
) -> list[Spot]:
    """The devices of some nodes.

    Args:
        free: what is free of each node, by its id.
        word: see `kind_of`.
        known: names of nodes that the run has already, by their ids.
    """
    spots: list[Spot] = []
    names = _names(nodes, known)
    if word != "cpu":
        for node in nodes:
            spots += _gpus(node, names[node["NodeID"]], free[node["NodeID"]])
    gpus = any(node["Resources"].get("GPU", 0) >= 1 for node in nodes)
    if word == "cpu" or (word == "auto" and not gpus):
        for node in nodes:
            spots += _cores(node, names[node["NodeID"]], free[node["NodeID"]])
    return spots


def _names(nodes: Sequence[Mapping[str, Any]], known: Mapping[str, str]) -> dict[str, str]:
    """A name for each node: what `ray start --node-name` said, else its host's; unique.

    One that comes in the place of one that has gone may have its name.
    """
    plain = {}
    for node in nodes:
        given, address = node.get("NodeName", ""), node.get("NodeManagerAddress", "")
        name = given if given and given != address else node.get("NodeManagerHostname") or address
        plain[node["NodeID"]] = re.sub(r"[^A-Za-z0-9._-]", "-", str(name)) or "node"
    often = Counter(plain.values())
    unique = {
        node_id: name if often[name] == 1 else f"{name}-{node_id[:6]}"
        for node_id, name in plain.items()
    }
    return {node_id: known.get(node_id, name) for node_id, name in unique.items()}


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
