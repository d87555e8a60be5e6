"""Looks for nodes that join a Ray cluster while a run is at work, and asks its autoscaler for them.

A thread looks every few seconds. A node that is new, or has come in the place of one that went, is
asked what it is as those of the beginning were; its devices are offered until the run has taken
them. See `arrivals`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from audio_batch.arrivals import Arrival
from audio_batch.ray_cluster import Cluster, Spot
from audio_batch.ray_devices import able_of, bundle_of, chosen, find_spots, node_ids
from audio_batch.ray_flags import kind_of
from audio_batch.ray_node import NodeReport
from audio_batch.ray_reports import Needs, problem_of
from audio_batch.text import for_terminal, redact

_LOOK_S = 5.0

_PATIENCE_S = 10.0
"""For a call of Ray's to come back when nobody looks any more."""

_AGAIN_S = 300.0
"""After which a node that could not tell of itself is asked once more: what kept it may pass."""

_log = logging.getLogger("audio_batch.run")


class RayLookout:
    """See `arrivals.Lookout`.

    Args:
        spec: `auto`, `cpu` or `cuda`; of a run that has begun with GPUs `auto` means GPUs, though
            the last of them goes.
        slots_of: how many assets a device takes at a time.
        workers: so many devices the autoscaler is asked for, never more than there are assets to
            begin; None asks for nothing, but for one when the last one has gone.
        must_write: whether a node has to see the folder of outputs, and to write there.
    """

    def __init__(
        self,
        cluster: Cluster,
        spec: str,
        needs: Needs,
        slots_of: Callable[[Spot], int],
        *,
        workers: int | None = None,
        must_write: bool = False,
    ) -> None:
        self._cluster = cluster
        has_gpus = any(spot.device.kind == "cuda" for spot in cluster.spots.values())
        self._word = "cuda" if has_gpus else kind_of(spec)
        self._needs = needs
        self._slots_of = slots_of
        self._workers = workers
        self._must_write = must_write
        self._reports: dict[str, NodeReport | str] = {}
        self._again_s: dict[str, float] = {}
        self._told: set[str] = set()
        self._offered: dict[str, Spot] = {}
        self._over = threading.Event()
        self._alone = False
        self._thread: threading.Thread | None = None

    def begin(self, found: Callable[[Sequence[Arrival]], None], left: Callable[[], int]) -> None:
        """See `Lookout.begin`."""
        self._thread = threading.Thread(
            target=self._live, args=(found, left), name="Lookout", daemon=True
        )
        self._thread.start()

    def taken(self, arrival: Arrival) -> None:
        """See `Lookout.taken`."""
        self._alone = False
        self._cluster.spots[arrival.device.id] = self._offered[arrival.device.id]

    def expects(self, device: str) -> bool:
        """See `Lookout.expects`: whether its node has left, and the cluster has not."""
        alive = self._cluster.alive()
        self._alone = bool(alive) and self._cluster.spots[device].node_id not in alive
        return self._alone

    def stop(self) -> None:
        """See `Lookout.stop`."""
        self._over.set()

    def close(self) -> None:
        """See `Lookout.close`."""
        self.stop()
        if self._thread is not None:
            self._thread.join(_PATIENCE_S)

    def _live(self, found: Callable[[Sequence[Arrival]], None], left: Callable[[], int]) -> None:
        while not self._over.is_set():
            try:
                nodes = chosen(self._cluster.ray.nodes())
                if self._over.is_set():  # what was asked for may have been taken back
                    break
                self._ask(nodes, left())
                arrivals = self._look(nodes)
            except Exception as error:  # the cluster is busy, or has gone: the runner notices that
                _log.debug("The nodes of the cluster cannot be seen: %s", error)
            else:
                if arrivals and not self._over.is_set():
                    found(arrivals)
            self._over.wait(_LOOK_S)

    def _ask(self, nodes: Sequence[Mapping[str, Any]], left: int) -> None:
        """Tell the autoscaler how many workers there is something to do for."""
        wanted = max(self._workers or 0, 1 if self._alone else 0)
        spots = tuple(self._cluster.spots.values())
        word = "cpu" if all(spot.device.kind == "cpu" for spot in spots) else self._word
        self._cluster.ask_for(min(wanted, left), bundle_of(nodes, word))

    def _look(self, nodes: Sequence[Mapping[str, Any]]) -> list[Arrival]:
        """The devices that may join."""
        spots = tuple(self._cluster.spots.values())
        known = {spot.node_id: spot.node for spot in spots}
        everything = {node["NodeID"]: node["Resources"] for node in nodes}
        new = {spot.node_id for spot in find_spots(nodes, everything, self._word, known)}
        new -= known.keys() | self._left_out()
        if not new:
            return []
        free = find_spots(nodes, self._cluster.free(nodes), self._word, known)
        free = [spot for spot in free if spot.node_id in new]
        able = self._able(free)
        self._offered.update({spot.device.id: spot for spot in able})
        return [Arrival(spot.device, self._slots_of(spot)) for spot in able]

    def _left_out(self) -> set[str]:
        """The nodes that cannot do the work."""
        now_s = time.monotonic()
        for node_id in [one for one, due_s in self._again_s.items() if now_s >= due_s]:
            del self._again_s[node_id], self._reports[node_id]
        return {one for one, said in self._reports.items() if problem_of(said) is not None}

    def _able(self, spots: Sequence[Spot]) -> list[Spot]:
        """The spots on nodes that can do the work; each node is asked once, see `_AGAIN_S`."""
        unasked = [node_id for node_id in node_ids(spots) if node_id not in self._reports]
        found = self._needs.reports(self._cluster, unasked, is_over=self._over.is_set)
        if self._over.is_set():
            return []
        for node_id, said in found.items():
            if isinstance(said, NodeReport) and self._must_write and said.writes is None:
                found[node_id] = f"the driver itself cannot write to {self._needs.output}."
            if isinstance(found[node_id], str):
                self._again_s[node_id] = time.monotonic() + _AGAIN_S
            elif isinstance(said, NodeReport) and self._must_write and not said.writes:
                found[node_id] = f"it cannot write to {self._needs.output}."
        self._reports.update(found)
        able, _ = able_of(spots, self._reports)
        _, problems = able_of((spot for spot in spots if spot.node_id in found), found)
        for problem in set(problems) - self._told:
            self._told.add(problem)
            _log.warning("%s", for_terminal(redact(problem)))
        return able
