"""Who may be at work in an output folder: one run, or shards of one manifest beside each other."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import filelock

from audio_batch.errors import LockedError, SetupError
from audio_batch.shards import FOLDER as SHARDS
from audio_batch.shards import Shard

LOCK = "run.lock"

_UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.ENOENT, errno.ENOTDIR)
_GLANCE_S = 0.5
"""How long a lock is asked for: whoever only looks whether a run is at work has it for a moment."""
_PATIENCE_S = 3.0
"""How long a shard waits for another's look at the whole's lock, which takes a moment."""


@dataclass(frozen=True, slots=True)
class FolderLock:
    """Takes the locks of one run. The kernel drops them with the process, however it ends.

    Shards hold a folder beside each other; a run without a shard holds it alone. Whoever comes
    takes its own lock first and looks at the others' then, so that of two that come at once one at
    least sees the other.

    Attributes:
        where: says to people what is locked.
        unwritable: the error for a folder that cannot be written to, and why.
    """

    where: str
    shard: Shard | None
    unwritable: Callable[[Path, OSError | NotImplementedError], SetupError]

    def take(self, held: contextlib.ExitStack, whole: Path) -> None:
        """Hold what is this run's below a state folder, and see that nobody holds the rest.

        Args:
            held: what gives the lock back.
            whole: the state folder without regard to shards; made where it is not there.

        Raises:
            LockedError: another run holds it (exit 11).
            SetupError: it cannot be locked.
        """
        state = whole / SHARDS / self.shard.tag if self.shard else whole
        try:
            state.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self.unwritable(state, error) from error
        self._take_one(held, state / LOCK)
        if self.shard is None:
            others, patience_s = sorted(whole.glob(f"{SHARDS}/*/{LOCK}")), _GLANCE_S
        else:
            others, patience_s = [whole / LOCK], _PATIENCE_S
        for other in others:
            with contextlib.ExitStack() as seen:
                self._take_one(seen, other, patience_s)

    def look(self, path: Path) -> None:
        """See that nobody holds one lock, which is there.

        Raises:
            LockedError: another run does (exit 11).
            SetupError: it cannot be asked.
        """
        with contextlib.ExitStack() as seen:
            self._take_one(seen, path)

    def _take_one(
        self, held: contextlib.ExitStack, path: Path, patience_s: float = _GLANCE_S
    ) -> None:
        # Never the soft kind, which a dead process would leave behind.
        lock = filelock.FileLock(path, timeout=patience_s, fallback_to_soft=False)
        try:
            held.enter_context(lock)
        except filelock.Timeout:
            raise LockedError.at(self.where) from None
        except (OSError, NotImplementedError) as error:
            if getattr(error, "errno", None) in _UNWRITABLE:
                raise self.unwritable(path.parent, error) from error
            raise SetupError(
                f"The lock in {path.parent} cannot be taken: {error}.",
                remedy="Choose an --output-dir, or a --state-dir, on a file system that has locks.",
            ) from error


def is_held(state: Path) -> bool | None:
    """Whether a run is at work with a state folder; None: its lock cannot be asked here.

    Where nobody holds the lock, this does, for a moment.
    """
    path = state / LOCK
    if not path.is_file():
        return False
    try:
        with filelock.FileLock(path, timeout=0, fallback_to_soft=False):
            return False
    except filelock.Timeout:
        return True
    except (OSError, NotImplementedError):
        return None
