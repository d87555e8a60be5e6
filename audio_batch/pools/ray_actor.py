"""What Ray runs for a device: an actor that holds its GPU or its cores, and a child that works.

    driver: ProcessPool ── RayHandle ══ Ray ══ DeviceActor ── pipe ── child process: `child.serve`

The actor hands on what both say and reads none of it. The child is a process of its own for what
`child` says of processes: a crash of a native library tells how it came about, and the actor, with
the GPU that Ray gave it, is there for the next child. Whatever ends the actor ends the child.

Imported on the cluster's nodes, by Ray.
"""

from __future__ import annotations

import os
import pickle
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import filelock

from audio_batch import __version__
from audio_batch.errors import DeviceError
from audio_batch.pools.hosts import PATIENCE_S, Ending, LocalHandle, LocalHost
from audio_batch.pools.messages import ChildSetup, Refused

PREFIX = "audio-batch-ray-"
"""How the folders of actors begin, in the temporary folder."""

_LOCK = "held"

_YOUNG_S = 60.0
"""A folder that is younger may not be locked yet."""

_LAST_WORDS_BYTES = 65536


@dataclass(frozen=True, slots=True)
class Gone:
    """The child has ended: the last message of it. `stderr` is the end of what it wrote there."""

    ending: Ending
    stderr: bytes = field(repr=False)


class DeviceActor:
    """One device's actor. Its methods run in several threads; each child has a number."""

    def __init__(self) -> None:
        _sweep()
        self._folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        self._held = filelock.FileLock(self._folder / _LOCK)
        self._held.acquire()
        # Linux ends a child with the thread that began it: that one must stay.
        self._keeper = ThreadPoolExecutor(1)
        self._host = LocalHost(self._folder)
        self._changed = threading.Condition()
        self._sending = threading.Lock()
        self._number = 0
        self._ended = 0
        self._child: LocalHandle | None = None
        self._news: list[bytes] = []
        self._fetched = 0
        self._handed_on = 0

    def begin(self, number: int, version: str, data: bytes) -> None:
        """Begin a child; the earlier one is ended. What is wrong with it is news of it.

        Args:
            data: a pickled `ChildSetup`, read only if the versions agree.
        """
        self.end(self._number)
        child: LocalHandle | None = None
        news: list[bytes] = []
        try:
            child, stderr = self._keeper.submit(self._begin, version, data).result()
        except DeviceError as error:
            gone = Gone(Ending("a refusal"), b"")
            news = [pickle.dumps(Refused.of(error)), pickle.dumps(gone)]
        with self._changed:
            self._number, self._child, self._news = number, child, news
            self._fetched = self._handed_on = 0
            unwanted = number <= self._ended
            self._changed.notify_all()
        if child is not None:
            threading.Thread(target=self._read, args=(number, child, stderr), daemon=True).start()
            if unwanted:
                child.kill()

    def _begin(self, version: str, data: bytes) -> tuple[LocalHandle, Path]:
        if version != __version__:
            raise DeviceError(
                f"This node has audio-batch {__version__}, the run is of version {version}.",
                remedy="Install the same version on every node.",
            )
        try:
            setup: ChildSetup = pickle.loads(data)  # of our own driver
            assert setup.elsewhere is not None
            scratch = Path(tempfile.mkdtemp(prefix="child-", dir=self._folder))
            setup = replace(
                setup,
                parent_pid=os.getpid(),
                stderr=scratch / "stderr.log",
                elsewhere=replace(setup.elsewhere, scratch=scratch),
            )
            with _no_main_module():
                return self._host.begin(setup.place.device.id, setup), setup.stderr
        except Exception as error:
            raise DeviceError(f"No process can be begun on this node: {error}.") from error

    def _read(self, number: int, child: LocalHandle, stderr: Path) -> None:
        """The life of a child's reader."""
        with suppress(EOFError, OSError):
            while True:
                self._tell(number, child.receive_bytes())
        if not child.wait(PATIENCE_S):
            child.kill()
            child.wait(PATIENCE_S)
        words = b""
        with suppress(OSError):
            words = stderr.read_bytes()[-_LAST_WORDS_BYTES:]
        self._tell(number, pickle.dumps(Gone(child.ending(), words)))
        shutil.rmtree(stderr.parent, ignore_errors=True)

    def _tell(self, number: int, message: bytes) -> None:
        with self._changed:
            if number == self._number:
                self._news.append(message)
                self._changed.notify_all()

    def news(self, number: int, known: int, patience_s: float) -> list[bytes]:
        """What a child has said beyond the first `known` messages; waits a while for it.

        An answer that is lost on its way is had by asking again. A question that comes late, when
        a later one has been answered, changes nothing. Of a child that another one has followed
        there is nothing more to hear than that.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._number > number
                    or (self._number == number and self._fetched + len(self._news) > known)
                ),
                patience_s,
            )
            if self._number > number:
                return [pickle.dumps(Gone(Ending("the begin of another in its place"), b""))]
            if self._number < number or known < self._fetched:
                return []
            del self._news[: known - self._fetched]
            self._fetched = known
            return list(self._news)

    def send(self, number: int, first: int, messages: list[bytes]) -> bool:
        """Hand messages on to a child, in their order; False where it has ended.

        Args:
            first: how many went before these; what is sent again is not handed on again.
        """
        with self._sending:  # a repeated call waits until the first one has handed all on
            with self._changed:
                child = self._child if number == self._number else None
                if child is None:
                    return False
                messages = messages[max(0, self._handed_on - first) :]
                self._handed_on += len(messages)
            try:
                for message in messages:
                    child.send_bytes(message)
            except (OSError, ValueError):
                return False
        return True

    def end(self, number: int) -> None:
        """End a child now, or as soon as it is begun."""
        with self._changed:
            self._ended = max(self._ended, number)
            child = self._child if number == self._number else None
        if child is not None:
            child.kill()
            child.wait(PATIENCE_S)

    def close(self) -> None:
        """Leave nothing on the node."""
        self.end(self._number)
        self._host.close()
        self._held.release()
        shutil.rmtree(self._folder, ignore_errors=True)


def _sweep() -> None:
    """Remove what killed actors have left on this node; the kernel drops a lock with its holder."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError, filelock.Timeout):
            if time.time() - folder.stat().st_mtime > _YOUNG_S:
                with filelock.FileLock(folder / _LOCK, timeout=0):
                    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _no_main_module() -> Iterator[None]:
    """Keep `multiprocessing` from running Ray's own program once more in the child."""
    main = sys.modules["__main__"]
    path = main.__dict__.pop("__file__", None)
    try:
        yield
    finally:
        if path is not None:
            main.__file__ = path
