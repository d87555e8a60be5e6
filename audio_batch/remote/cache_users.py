"""Who of a shared folder is alive: each process holds a lock that the kernel drops with it."""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from pathlib import Path

import filelock

_NEW_S = 3600.0


class Users:
    """The processes that share a folder, this one among them. Any thread.

    Raises:
        OSError, NotImplementedError, filelock.Timeout: the file system has no locks, or the folder
            cannot be written to.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self.me = f"{os.getpid()}-{secrets.token_hex(8)}"
        self._lock = self._lock_of(self.me)
        self._lock.acquire()

    def close(self) -> None:
        """Be dead to the others."""
        self._lock.release()
        self.forget(self.me)

    def is_alive(self, user: str) -> bool:
        """Whether a process is there: it holds its lock for as long as it lives."""
        if user == self.me:
            return True
        if not self._place_of(user).exists():
            return False
        lock = self._lock_of(user)
        try:
            lock.acquire()
        except (filelock.Timeout, OSError):
            return True
        lock.release()
        return False

    def forget(self, user: str) -> None:
        """Take a dead process's lock away."""
        with contextlib.suppress(OSError):
            self._place_of(user).unlink()

    def sweep(self) -> None:
        """Take away what dead processes left; a new lock may not be held yet."""
        for path in self._folder.iterdir():
            with contextlib.suppress(OSError):
                old = time.time() - path.stat().st_mtime > _NEW_S
                if old and path.suffix == ".lock" and not self.is_alive(path.stem):
                    path.unlink()

    def _place_of(self, user: str) -> Path:
        return self._folder / f"{user}.lock"

    def _lock_of(self, user: str) -> filelock.BaseFileLock:
        return filelock.FileLock(
            self._place_of(user), timeout=0, fallback_to_soft=False, thread_local=False
        )
