"""Who may be at work in an output folder: one run, or shards of one manifest beside each other."""

from __future__ import annotations

import contextlib
import errno
import os
import time
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
_TRIES = 20
_AGAIN_AFTER_S = 0.01


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
        despite_removal(lambda: self._take_own(held, state))
        if self.shard is None:
            others, patience_s = sorted(whole.glob(f"{SHARDS}/*/{LOCK}")), _GLANCE_S
        else:
            others, patience_s = [whole / LOCK], _PATIENCE_S
        for other in others:
            self._look(other, patience_s)

    def look(self, path: Path) -> None:
        """See that nobody holds one lock, which is there.

        Raises:
            LockedError: another run does (exit 11).
            SetupError: it cannot be asked.
        """
        self._look(path, _GLANCE_S)

    def _look(self, path: Path, patience_s: float) -> None:
        try:
            with contextlib.ExitStack() as seen:
                self._take_one(seen, path, patience_s)
        except SetupError as error:
            if not _has_vanished(error):  # what is gone is held by nobody
                raise

    def _take_own(self, held: contextlib.ExitStack, state: Path) -> None:
        try:
            state.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self.unwritable(state, error) from error
        self._take_one(held, state / LOCK)

    def _take_one(
        self, held: contextlib.ExitStack, path: Path, patience_s: float = _GLANCE_S
    ) -> None:
        try:
            held.enter_context(_lock(path, patience_s))
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
        with _lock(path):
            return False
    except filelock.Timeout:
        return True
    except (OSError, NotImplementedError):
        return None


def is_free(held: contextlib.ExitStack, state: Path) -> bool:
    """Whether nobody holds the lock of a state folder; if so, it is held from now on.

    Args:
        held: what gives the lock back.
    """
    try:
        held.enter_context(_lock(state / LOCK))
    except (OSError, NotImplementedError):  # filelock.Timeout is an OSError
        return False
    return True


def despite_removal(act: Callable[[], None]) -> None:
    """Do something with folders again where they vanish meanwhile.

    A start that fails takes back what it made, though another has begun to use it.

    Raises:
        SetupError: it still cannot be done.
    """
    for left in reversed(range(_TRIES)):
        try:
            act()
        except SetupError as error:
            if not left or not _has_vanished(error):
                raise
            time.sleep(_AGAIN_AFTER_S)
        else:
            return


def _lock(path: Path, patience_s: float = 0.0) -> filelock.BaseFileLock:
    def check(descriptor: int) -> None:
        # A lock of a file that was removed meanwhile keeps nobody out. (On Windows what is open
        # cannot be removed.)
        if os.name != "nt" and not os.path.samestat(os.fstat(descriptor), path.stat()):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))

    # Never the soft kind, which a dead process would leave behind.
    return filelock.FileLock(path, timeout=patience_s, fallback_to_soft=False, on_acquired=check)


def _has_vanished(error: BaseException) -> bool:
    """Whether a folder was not there any more, or there again, between two steps."""
    while error.__cause__ is not None:
        error = error.__cause__
    return isinstance(error, FileNotFoundError | FileExistsError)
