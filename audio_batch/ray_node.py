"""What a node of a Ray cluster tells of itself before it is given work. Runs there, as a task.

`free_resources` and `request` ask Ray itself; they run in the driver, or on the head node for a
driver that is only a client of the cluster.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from audio_batch import __version__


@dataclass(frozen=True, slots=True)
class NodeReport:
    """See the module's docstring.

    Args:
        python: major and minor version.
        unseen: of the paths that were asked about, the first that is not there; "" for none.
        writes: whether the folder that was asked about is the same one, and can be written to;
            None where nothing was asked.
        free_bytes: memory that is available there.
    """

    version: str
    python: tuple[int, int]
    unseen: str
    writes: bool | None
    free_bytes: int


def report(witnesses: Sequence[str], token: Path | None) -> NodeReport:
    """Look around.

    Args:
        witnesses: local recordings or folders that the node is to see.
        token: a file that the driver has written into the output folder; None asks nothing.
    """
    from audio_batch.host_memory import available_bytes

    unseen = next((path for path in witnesses if not is_there(path)), "")
    return NodeReport(
        version=__version__,
        python=sys.version_info[:2],
        unseen=unseen,
        writes=_can_write_beside(token) if token is not None else None,
        free_bytes=available_bytes(),
    )


def free_resources() -> dict[str, dict[str, float]]:
    """What is free of each node, by its id."""
    from ray._private.state import available_resources_per_node

    found: dict[str, dict[str, float]] = available_resources_per_node()
    return found


def request(bundles: Sequence[dict[str, float]]) -> None:
    """Tell the autoscaler what is needed at a time; it stands until the next request."""
    from ray.autoscaler.sdk import request_resources

    request_resources(bundles=list(bundles))


def is_there(path: str) -> bool:
    """Whether a file or folder is there for this machine."""
    try:
        return Path(path).exists()
    except (OSError, ValueError):
        return False


def _can_write_beside(token: Path) -> bool:
    """Whether the file is here, and another can be made and removed beside it."""
    import secrets

    try:
        if not token.is_file():
            return False
        beside = token.with_name(f"{token.name}-{secrets.token_hex(4)}")
        beside.write_bytes(b"")
        beside.unlink()
    except OSError:
        return False
    return True
