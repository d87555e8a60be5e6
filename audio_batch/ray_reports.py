"""What the nodes of a Ray cluster say of themselves, and whether they can do a run's work."""

from __future__ import annotations

import contextlib
import itertools
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from audio_batch import __version__, locations
from audio_batch.ray_cluster import Cluster, first_line
from audio_batch.ray_node import NodeReport, is_there, report
from audio_batch.storage import temporary_name

_REPORT_S = 120.0
"""For the nodes to tell of themselves; where there is a runtime environment, it is made first."""

_SLICE_S = 0.5


@dataclass(frozen=True, slots=True)
class Needs:
    """What a run asks of every node.

    Args:
        witnesses: local recordings. It must see the first that this machine sees at that moment,
            or where all have been moved away, the folder of one.
        output: where outputs go.
    """

    witnesses: tuple[str, ...] = ()
    output: str = ""

    def reports(
        self,
        cluster: Cluster,
        node_ids: Iterable[str],
        *,
        is_over: Callable[[], bool] = lambda: False,
    ) -> dict[str, NodeReport | str]:
        """What each node says, by its id, or why it says nothing. Any thread.

        Args:
            is_over: asked now and then: nobody waits for the answers any more.
        """
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        node_ids = list(node_ids)
        if not node_ids:
            return {}
        ray, witness = cluster.ray, self._witness()
        ask = ray.remote(report)
        with _token(self.output) as token:
            asked = {
                node_id: ask.options(
                    num_cpus=0,
                    max_retries=0,
                    scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False),
                ).remote(witness, token)
                for node_id in node_ids
            }
            deadline_s = time.monotonic() + _REPORT_S
            found: dict[str, NodeReport | str] = {}
            for node_id, reference in asked.items():
                found[node_id] = f"it has not answered within {_REPORT_S:.0f} s."
                while not is_over():
                    left_s = max(0.1, deadline_s - time.monotonic())
                    try:
                        found[node_id] = ray.get(reference, timeout=min(_SLICE_S, left_s))
                    except ray.exceptions.GetTimeoutError:
                        if time.monotonic() < deadline_s:
                            continue
                    except Exception as error:  # among them what Ray makes of a missing package
                        found[node_id] = _why(error)
                    break
        return found

    def _witness(self) -> tuple[str, ...]:
        """What a node is asked for now; nothing where this machine sees nothing itself."""
        folders = (str(Path(path).parent) for path in self.witnesses)
        seen = (path for path in (*self.witnesses, *folders) if is_there(path))
        return tuple(itertools.islice(seen, 1))


def problem_of(found: NodeReport | str) -> str | None:
    """Why a node cannot do the work, in a sentence; None: it can."""
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
