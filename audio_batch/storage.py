"""Files that are whole or not there: atomic publication, the output folder, its lock.

The order is the contract: write to a temporary name in the target's folder, fsync, check the size,
rename, fsync the folder, and once each folder above it up to the output folder. The caller journals
afterwards. On Windows a folder cannot be fsynced; NTFS orders the rename by its own journal, which
is the twin of that step.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import filelock

from audio_batch import locations
from audio_batch.errors import AssetError, ErrorKind, LockedError, SetupError, UsageError

STATE_FOLDER = ".audio-batch"
"""Inside the output folder: the journal, the lock, the log of crashes."""

TEMPORARY_PREFIX = ".audio-batch-tmp-"


@dataclass(frozen=True, slots=True)
class PublishedFile:
    """One output: its format, its path relative to the output folder, its size and its hash."""

    format: str
    path: str
    size_bytes: int
    sha256: str


def publish(root: Path, relative: PurePosixPath, data: bytes, *, format_name: str) -> PublishedFile:
    """Write `data` to `root / relative` so that the name never shows a part of it.

    Raises:
        AssetError: DISK_FULL or OUTPUT, naming the file.
    """
    target = contained(root, relative)
    temporary = target.parent / f"{TEMPORARY_PREFIX}{os.getpid()}-{secrets.token_hex(6)}"
    try:
        make_folder(target.parent, root.resolve())
        _write_synced(temporary, data)
        temporary.replace(target)
        sync_folder(target.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise output_error(error, target) from error
    return PublishedFile(
        format=format_name,
        path=relative.as_posix(),
        size_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
    )


def write_atomic(target: Path, data: bytes) -> None:
    """Like `publish`, for files that belong to the run and not to an asset.

    Raises:
        SetupError: the file cannot be written.
    """
    relative = PurePosixPath(target.name)
    try:
        publish(target.parent, relative, data, format_name="")
    except AssetError as error:
        raise SetupError(error.message, remedy=error.remedy) from error


def contained(root: Path, relative: PurePosixPath) -> Path:
    """The absolute path of an output, refused when it would leave the output folder.

    A link inside the folder that leads out of it is refused too: what it points to is not ours.
    """
    if relative.is_absolute() or ".." in relative.parts or not relative.parts:
        raise AssetError(ErrorKind.OUTPUT, f"The output name {relative} leaves the output folder.")
    base = root.resolve()
    target = base.joinpath(*relative.parts)
    if not target.parent.resolve().is_relative_to(base):
        raise AssetError(
            ErrorKind.OUTPUT,
            f"The output name {relative} leaves the output folder through a link.",
            remedy="Remove the link, or choose another --output-dir.",
        )
    return target


def _write_synced(path: Path, data: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags, 0o666)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
        written = os.fstat(file.fileno()).st_size
    if written != len(data):
        raise OSError(errno.EIO, f"{written} of {len(data)} bytes were written")


_durable: set[Path] = set()
"""Folders whose own entries this process has synced, so that it is done once for each."""


def make_folder(folder: Path, root: Path) -> None:
    """Make `folder` below `root`, where it is not there, so that it outlives a power failure.

    What a killed process made may not be on the disk yet: each process syncs for itself.
    """
    if folder in _durable and folder.is_dir():
        return
    above = (folder, *folder.parents)
    missing = {place for place in above if not place.exists()}
    folder.mkdir(parents=True, exist_ok=True)
    for place in above:
        if place.is_relative_to(root) or place in missing:
            sync_folder(place.parent)
    _durable.add(folder)


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` durable (POSIX; on Windows there is no such call)."""
    if os.name == "nt":
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        # Some network and FUSE file systems cannot sync a folder and say so with these; and one
        # that may be written to but not listed cannot be opened.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EBADF):
            raise


def output_error(error: OSError, target: Path) -> AssetError:
    """Translate a failure to write into the error that the user sees."""
    if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
        return AssetError(
            ErrorKind.DISK_FULL,
            f"The disk is full: {target.name} could not be written.",
            remedy="Free some space and run the same command again; what is done stays done.",
            transient=True,
        )
    reason = error.strerror or type(error).__name__
    passing = [errno.EIO, errno.EAGAIN, errno.EINTR, errno.ESTALE]
    if os.name == "nt":
        passing.append(errno.EACCES)  # a virus scanner or a viewer has the file open
    return AssetError(
        ErrorKind.OUTPUT,
        f"{target.name} could not be written: {reason}.",
        remedy="Check the output folder's permissions and its file system.",
        transient=error.errno in passing,
    )


class OutputFolder:
    """An output folder, with the state folder in it and the lock that one run holds."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.state = root / STATE_FOLDER
        self.journal_path = self.state / "journal.sqlite3"
        self.crash_log_path = self.state / "crash.log"
        self.summary_path = root / "summary.json"

    @classmethod
    def at(
        cls, location: str, *, state_dir: Path | None = None, shard: str | None = None
    ) -> OutputFolder:
        """The output folder at a location.

        Args:
            state_dir: where journal, lock and kept stages go; None: within a local folder.
            shard: "2/4": the state of that part of the manifest.

        Raises:
            UsageError: it is nowhere that outputs can be written.
        """
        if locations.scheme(location) or state_dir is not None or shard is not None:
            raise UsageError(f"{location} is not supported yet.")
        return cls(Path(locations.absolute(location, Path.cwd())))

    def create(self) -> None:
        """Make the folder and see that it can be written to.

        Raises:
            SetupError: it cannot be made or written to, or something in it is a link.
        """
        self._refuse_links()
        try:
            make_folder(self.state, self.root)
            probe = self.state / f"{TEMPORARY_PREFIX}{os.getpid()}-{secrets.token_hex(6)}"
            os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
            probe.unlink()
        except OSError as error:
            raise SetupError(
                f"The output folder {self.root} cannot be written to: {error.strerror or error}.",
                remedy="Choose another --output-dir, or mend its permissions.",
            ) from error

    def _refuse_links(self) -> None:
        """The state's files are written in place, through their names: none may lead elsewhere."""
        inside = self.state.iterdir() if self.state.is_dir() else ()
        for path in (self.state, *inside):
            if path.is_symlink():
                raise SetupError(
                    f"{path} is a link; what is written there would change another file.",
                    remedy="Remove the link, or choose another --output-dir.",
                )

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for one run. The kernel drops the lock with the process, however it ends.

        Raises:
            LockedError: another run holds it (exit 11).
            SetupError: it cannot be locked, or something in the state folder is a link.
        """
        self._refuse_links()
        # Never the soft kind, which a dead process would leave behind.
        lock = filelock.FileLock(self.state / "run.lock", timeout=0, fallback_to_soft=False)
        try:
            lock.acquire()
        except filelock.Timeout:
            raise LockedError(
                f"Another run is at work in {self.root}.",
                remedy="Wait for it, or choose another --output-dir; nothing needs unlocking.",
            ) from None
        except (OSError, NotImplementedError) as error:
            raise SetupError(
                f"The lock in {self.state} cannot be taken: {error}.",
                remedy="Choose an --output-dir on a file system that has locks.",
            ) from error
        try:
            yield
        finally:
            lock.release()

    def leftovers(self) -> Iterator[Path]:
        """Temporary files that a killed run left; to be called with the lock held."""
        for folder, _, names in os.walk(self.root):
            for name in names:
                if name.startswith(TEMPORARY_PREFIX):
                    yield Path(folder, name)

    def refuse_second(self) -> None:
        """Say early that another run holds the folder; `locked` is what keeps two runs apart.

        Raises:
            LockedError: another run holds it (exit 11).
        """
        if (self.state / "run.lock").is_file():
            with self.locked():
                pass

    def sweep(self) -> int:
        """Remove the leftovers of a killed run; to be called with the lock held."""
        count = 0
        for path in self.leftovers():
            with contextlib.suppress(OSError):
                path.unlink()
                count += 1
        return count

    def require(self) -> None:
        """For commands that read a finished run.

        Raises:
            UsageError: the folder holds no journal (exit 2).
        """
        if not self.journal_path.is_file():
            raise UsageError(
                f"{self.root} holds no journal of a run.",
                remedy="Name the --output-dir of a run.",
            )
