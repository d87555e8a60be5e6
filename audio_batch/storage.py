"""Files that are whole or not there: atomic publication on a file system.

The order is the contract: write to a temporary name in the target's folder, fsync, check the size,
rename, fsync the folder, and once each folder above it up to the output folder. Where nothing may
be written over, a link and the removal of the temporary name stand for the rename: a link refuses a
name that is taken. The caller journals afterwards. On Windows a folder cannot be fsynced; NTFS
orders the rename by its own journal, which is the twin of that step.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from audio_batch.errors import AssetError, ErrorKind, SetupError

STATE_FOLDER = ".audio-batch"
"""Inside a local output folder: the journal, the lock, the log of crashes."""

TEMPORARY_PREFIX = ".audio-batch-tmp-"

_HELD_FOR_S = 2.0
"""Virus scanners and indexers let go of a file within this time; a viewer may not."""

_LOST_SHARE = frozenset({53, 55, 59, 64, 67, 121, 1231})
"""Windows' errors of a network folder that is away: path, name or server gone, no answer in time
(winerror.h, ERROR_BAD_NETPATH and following)."""


@dataclass(frozen=True, slots=True)
class PublishedFile:
    """One output: its format, its path relative to the output folder, its size and its hash."""

    format: str
    path: str
    size_bytes: int
    sha256: str


def publish(
    root: Path,
    relative: PurePosixPath,
    data: bytes,
    *,
    format_name: str,
    tag: str = "",
    replace: bool = True,
) -> PublishedFile:
    """Write `data` to `root / relative` so that the name never shows a part of it.

    Args:
        tag: whose temporary file it is, where several runs are at work in one folder.
        replace: whether what has the name may be written over.

    Raises:
        AssetError: DISK_FULL or OUTPUT, naming the file; OUTPUT_EXISTS where the name is taken and
            nothing may be written over.
    """
    target = contained(root, relative)
    temporary = target.parent / temporary_name(tag)
    try:
        make_folder(target.parent, root.resolve())
        _write_synced(temporary, data)
        (move_over if replace else _move_to_free)(temporary, target)
        sync_folder(target.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, FileExistsError) and not replace:
            raise name_taken(relative.as_posix()) from error
        raise output_error(error, target) from error
    return PublishedFile(
        format=format_name,
        path=relative.as_posix(),
        size_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
    )


def move_over(temporary: Path, target: Path) -> None:
    """Rename a file over another. Windows refuses while anybody has one of them open: it is waited
    a moment for.

    Raises:
        OSError: it cannot be renamed.
    """
    _patiently(lambda: temporary.replace(target))


def _move_to_free(temporary: Path, target: Path) -> None:
    """Give a file a name that nothing has, in one step with the look whether that is so.

    Raises:
        FileExistsError: something has it.
        OSError: it cannot be renamed.
    """
    if os.name == "nt":
        _patiently(lambda: temporary.rename(target))  # there it refuses by itself
        return
    try:
        os.link(temporary, target)
    except FileExistsError:
        raise
    except OSError:
        # FAT and some network and FUSE file systems have no links: there it is a look before.
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from None
        move_over(temporary, target)
    else:
        temporary.unlink()


def _patiently(move: Callable[[], object]) -> None:
    until_s = time.monotonic() + _HELD_FOR_S
    while True:
        try:
            move()
            return
        except PermissionError:
            if os.name != "nt" or time.monotonic() >= until_s:
                raise
            time.sleep(0.05)


def temporary_name(tag: str = "") -> str:
    """A name that nobody else has, by which `sweep` knows what a killed run left."""
    return f"{temporary_prefix(tag)}{os.getpid()}-{secrets.token_hex(6)}"


def temporary_prefix(tag: str = "") -> str:
    """How the names of temporary files begin: all of them, or those of one part of a manifest."""
    return f"{TEMPORARY_PREFIX}{tag}." if tag else TEMPORARY_PREFIX


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


def refuse_leaving(relative: PurePosixPath) -> None:
    """See that a name stays below whatever it is joined to.

    Raises:
        AssetError: OUTPUT.
    """
    if relative.is_absolute() or ".." in relative.parts or not relative.parts:
        raise AssetError(ErrorKind.OUTPUT, f"The output name {relative} leaves the output folder.")


def contained(root: Path, relative: PurePosixPath) -> Path:
    """The absolute path of an output, refused when it would leave the output folder.

    A link inside the folder that leads out of it is refused too: what it points to is not ours.
    """
    refuse_leaving(relative)
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


def name_taken(name: str) -> AssetError:
    """The error of a file whose name holds what is not to be written over."""
    return AssetError(
        ErrorKind.OUTPUT_EXISTS,
        f"{name} is there, and is another's: it is not written over.",
        remedy="Move it away and run the same command again: what was heard is kept.",
    )


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
    remedy = "Check the output folder's permissions and its file system."
    passing = [errno.EIO, errno.EAGAIN, errno.EINTR, errno.ESTALE]
    if os.name == "nt":
        passing.append(errno.EACCES)  # a virus scanner or a viewer has the file open
        if error.errno == errno.EACCES:
            remedy = f"Close the program that has it open, if there is one. {remedy}"
    return AssetError(
        ErrorKind.OUTPUT,
        f"{target.name} could not be written: {reason}.",
        remedy=remedy,
        transient=error.errno in passing or getattr(error, "winerror", None) in _LOST_SHARE,
    )
