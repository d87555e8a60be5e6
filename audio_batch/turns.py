"""Many starts on one output folder at one moment: one goes ahead, the others wait for its lock.

What a run imports before it can lock its folder takes half a second of a core. Of fifty starts at
once each would do all of that before any held the folder. So the first act of `run` is to take its
turn with the folder of its `-o`: the others sleep, and once the folder is locked they say so, and
have imported none of it.

A turn is for the order alone. It is a name that the kernel gives to one process (an abstract
socket, to which nobody can connect) and takes back when it ends, however that is; nothing is made
or written. No lock of the folder itself would do: cron's `flock -n OUT audio-batch run ...` has
that all night. Who waits too long goes ahead without a turn, and so does everybody where the
command line does not name a local folder, or there are no such names (Windows, macOS).
Whether a run may begin is for `folder_lock` to say, whose lock is looked at here and never taken.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from audio_batch.errors import LockedError
from audio_batch.locations import absolute, scheme

if TYPE_CHECKING:
    import socket

_LONGEST_S = 10.0
"""How long a start waits for others that have not locked their folder yet."""
_GLANCE_S = 0.2
"""How long the folder must be seen locked: whoever only looks holds its lock for a moment."""
_ASK_EVERY_S = 0.05

_turn: list[socket.socket] = []
"""What holds the turn of this process, if it has one."""


def take(arguments: Sequence[str]) -> None:
    """Wait until no other start is on its way into the same folder.

    Args:
        arguments: the command line, without the program.

    Raises:
        LockedError: another run holds the folder (exit 11).
    """
    folder = _output_folder(arguments)
    if folder is None or sys.platform != "linux":
        return
    begun_s = free_s = now_s = time.monotonic()
    while now_s - begun_s < _LONGEST_S:
        if not _is_locked(folder):
            free_s = now_s
            if _is_ours(folder):
                return
        elif now_s - free_s > _GLANCE_S:
            raise LockedError.at(str(folder))
        time.sleep(_ASK_EVERY_S)
        now_s = time.monotonic()


def end() -> None:
    """Let the next start go ahead: this one holds its folder, or is over."""
    while _turn:
        _turn.pop().close()


def _output_folder(arguments: Sequence[str]) -> Path | None:
    """The local folder of a plain `run`; None for all that is for the command itself to read.

    Shards work beside each other: none of them waits.
    """
    if arguments[:1] != ["run"] or "AUDIO_BATCH_SHARD" in os.environ:
        return None
    found = []
    words = iter(arguments[1:])
    for word in words:
        if word in ("--", "--help") or word.startswith("--shard"):
            return None
        if word in ("-o", "--output-dir"):
            found.append(next(words, ""))
        elif word.startswith("--output-dir="):
            found.append(word.partition("=")[2])
    if len(found) != 1 or not found[0] or scheme(found[0]):
        return None
    try:
        return Path(absolute(found[0], Path()))
    except (OSError, RuntimeError):  # the current folder is gone; nobody's home
        return None


if sys.platform == "linux":
    import fcntl

    def _is_locked(folder: Path) -> bool:
        """Whether a run holds a folder, or somebody looks whether one does."""
        try:
            asked = os.open(folder / ".audio-batch/run.lock", os.O_RDONLY | os.O_NOFOLLOW)
        except (OSError, ValueError):
            return False
        try:
            fcntl.flock(asked, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        finally:
            os.close(asked)
        return False

    def _is_ours(folder: Path) -> bool:
        """Whether the turn has come, or there can be none."""
        import hashlib  # late: whatever else is asked of the program needs neither
        import socket

        digest = hashlib.sha256(os.fsencode(os.path.realpath(folder))).hexdigest()
        try:
            asked = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        except OSError:
            return True
        try:
            asked.bind(f"\0audio-batch-turn-{digest}")
        except OSError as error:
            asked.close()
            return error.errno != errno.EADDRINUSE
        _turn.append(asked)
        return True
