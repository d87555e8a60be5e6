"""Opening a path as a plain file, and reading it for FFmpeg."""

from __future__ import annotations

import errno
import os
import re
import stat
from io import SEEK_SET, FileIO
from pathlib import Path

from audio_batch.errors import AssetError, ErrorKind
from audio_batch.text import for_terminal

_TRANSIENT_ERRNOS = frozenset(
    getattr(errno, name)
    for name in (
        *("EIO", "EAGAIN", "EBUSY", "EINTR", "ESTALE", "ETIMEDOUT", "EMFILE", "ENFILE", "ENOMEM"),
        *("ENETDOWN", "ENETUNREACH", "ENETRESET", "EHOSTDOWN", "EHOSTUNREACH", "ECONNRESET"),
        *("ECONNABORTED", "ENOTCONN", "EREMOTEIO"),
    )
    if hasattr(errno, name)
)
_TRANSIENT_WINERRORS = frozenset({32, 33, 53, 54, 55, 59, 64, 121, 1231, 1236})
"""Sharing and lock violations, and the ways in which a network share goes away."""

_READ_FACTOR = 8
_READ_SLACK_BYTES = 64 * 1024 * 1024
_NOT_A_FILE = "Give the path of a regular media file."
_TRY_AGAIN = "Check that the disk or network share is well, then retry."


def shown(path: Path) -> str:
    """The path as it may stand in a sentence."""
    return for_terminal(str(path))


def os_failure(error: OSError | ValueError, path: Path) -> AssetError:
    """What the operating system says of a path, as an asset's failure."""
    name = shown(path)
    if isinstance(error, ValueError):  # a NUL character in the name
        return AssetError(ErrorKind.INPUT_MISSING, f"{name} cannot be the name of a file.")
    reason = error.strerror or type(error).__name__
    transient = (
        error.errno in _TRANSIENT_ERRNOS or getattr(error, "winerror", 0) in _TRANSIENT_WINERRORS
    )
    if isinstance(error, (FileNotFoundError, NotADirectoryError)) and not transient:
        return AssetError(
            ErrorKind.INPUT_MISSING,
            f"{name} does not exist.",
            remedy="Check the manifest's path, or --root, and that the disk is mounted.",
        )
    if error.errno in (errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL):
        return AssetError(
            ErrorKind.INPUT_MISSING,
            f"{name} cannot be opened: {reason}.",
            remedy="Check the path.",
        )
    if isinstance(error, IsADirectoryError):
        return AssetError(
            ErrorKind.INPUT_NOT_A_FILE, f"{name} is a folder, not a file.", remedy=_NOT_A_FILE
        )
    return AssetError(
        ErrorKind.INPUT_UNREADABLE,
        f"{name} cannot be read: {reason}.",
        remedy=_TRY_AGAIN if transient else "Check that this user may read it.",
        transient=transient,
    )


class Source:
    """A regular file as PyAV reads one: `read`, `seek`, `tell`, and a harmless `name`.

    An error of the operating system ends the file and waits in `error`: FFmpeg would report it as
    bad data, and PyAV would print it when two come together. Reading ends as well after eight
    times the file's size, so that a crafted file cannot send a demuxer round in circles.

    Used by one thread. `head` holds the file's first bytes.

    Raises:
        AssetError: the path is missing, unreadable, or no regular file. A pipe or device is
            recognised before it is opened, and opening never blocks.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.error: OSError | None = None
        # FFmpeg looks at the extension for a few formats, and at nothing else of the name.
        suffix = path.suffix if re.fullmatch(r"\.[A-Za-z0-9]{1,8}", path.suffix) else ""
        self.name = f"input{suffix}"
        try:
            _require_regular(path.stat(), path)
            self._file = FileIO(path, "rb", opener=_open_without_blocking)
        except (OSError, ValueError) as error:
            raise os_failure(error, path) from error
        try:
            status = os.fstat(self._file.fileno())
            _require_regular(status, path)
            self.size_bytes = status.st_size
            self._allowance_bytes = _READ_FACTOR * self.size_bytes + _READ_SLACK_BYTES
            self.head = self.read_at(0, 64)
            self.check()
        except BaseException:
            self._file.close()
            raise

    def read(self, count: int) -> bytes:
        """Up to `count` bytes from the present position; b"" at the end, and after an error."""
        if self.error is not None or self._allowance_bytes <= 0:
            return b""
        try:
            data = self._file.read(count) or b""
        except OSError as error:
            self.error = error
            return b""
        self._allowance_bytes -= len(data)
        return data

    def seek(self, offset: int, whence: int = SEEK_SET) -> int:
        """Move, and answer the new position; a negative number for an impossible one."""
        try:
            return self._file.seek(offset, whence)
        except (OSError, ValueError, OverflowError):
            return -errno.EINVAL

    def tell(self) -> int:
        """The present position in bytes."""
        return self._file.tell()

    def read_at(self, offset: int, count: int) -> bytes:
        """Up to `count` bytes from `offset`. Moves the position: not while FFmpeg reads."""
        return self.read(count) if self.seek(offset) == offset else b""

    def check(self) -> None:
        """Raise the error of the operating system that reading met, if it met one.

        Raises:
            AssetError: INPUT_UNREADABLE, mostly one that can pass.
        """
        if self.error is not None:
            raise os_failure(self.error, self.path) from self.error

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _open_without_blocking(name: str, flags: int) -> int:
    # Between stat and open the path may have become a pipe: POSIX would wait for a writer.
    return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))


def _require_regular(status: os.stat_result, path: Path) -> None:
    mode = status.st_mode
    if stat.S_ISREG(mode):
        return
    what = "a folder" if stat.S_ISDIR(mode) else "a pipe" if stat.S_ISFIFO(mode) else "a device"
    raise AssetError(
        ErrorKind.INPUT_NOT_A_FILE,
        f"{shown(path)} is {what}, not a file.",
        remedy=_NOT_A_FILE,
    )
