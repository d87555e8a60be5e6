"""Where outputs are published: a local folder, or an object store below a URL.

What every implementation promises is tested by one suite over all of them: a name shows the whole
of what was published under it, or what was there before; names that leave the place are refused;
`publish` returns when the bytes are where a power failure, or whatever the store calls by that
name, does not take them. What that rests on differs: see docs/publication.md.
"""

from __future__ import annotations

import hashlib
import os
import stat
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from audio_batch import locations
from audio_batch.errors import AssetError, SetupError
from audio_batch.output_names import has_hash, in_order_of
from audio_batch.remote.access import Access
from audio_batch.storage import STATE_FOLDER, PublishedFile, contained, publish

OTHER_BYTES = "has other bytes than were written"
"""What `Outputs.fault` says of a file that has its size but not its hash."""


class Outputs(Protocol):
    """A place that outputs are published to. Any thread.

    `at_once` is how many are read at a time when many are to be read.
    """

    at_once: int

    def publish(
        self, relative: PurePosixPath, data: bytes, *, format_name: str, replace: bool = True
    ) -> PublishedFile:
        """Write one output, whole.

        Args:
            replace: whether over whatever has its name; else its name must be free. Of several who
                publish to a free name one succeeds.

        Raises:
            AssetError: DISK_FULL or OUTPUT, naming the file; transient where it may pass.
                OUTPUT_EXISTS: the name is not free, and what has it stays.
        """
        ...

    def is_seen(self, path: str) -> bool:
        """Whether something is seen to have a name now, at no cost: a store is not asked."""
        ...

    def read(self, relative: PurePosixPath) -> bytes:
        """The bytes of an output.

        Raises:
            OSError: there is no such file, or it cannot be read.
            AssetError: the name leaves the place; transient where the store does not answer.
        """
        ...

    def size_bytes(self, path: str) -> int | None:
        """The size of what has a name, None where nothing has.

        In a store, as it was when it was first asked, with what was published here since.
        """
        ...

    def has_any(self, name: str) -> bool:
        """Whether anything may stand under an output name, with whatever suffix of a format.

        As it was when it was first asked of the name's folder. To say so where there is nothing
        is no harm.
        """
        ...

    def is_marked(self, path: str) -> bool:
        """Whether the place itself says of a file that this program has published it.

        A folder never does: what lies there is known by the journal beside it.

        Raises:
            AssetError: the store does not answer.
        """
        ...

    def fault(self, file: PublishedFile) -> str | None:
        """What is wrong with a published file, a phrase that follows its name; None if nothing.

        Every byte is read.

        Raises:
            SetupError: the store does not answer, or does not let anybody look.
        """
        ...

    def is_empty(self) -> bool:
        """Whether nothing was ever published there."""
        ...

    def probe(self) -> None:
        """See that something can be written, and leave nothing.

        Raises:
            SetupError: it cannot.
        """
        ...


@dataclass(frozen=True, slots=True)
class OutputPlace:
    """Where outputs go, as plain values that can cross a process border.

    Args:
        location: a local folder, or the URL of one in an object store.
        access: what may be asked of the store.
        tag: whose temporary files they are: of which part of the manifest, of which state.
    """

    location: str
    access: Access | None = None
    tag: str = ""

    def open(self) -> Outputs:
        """The outputs there; nothing is asked of a store yet.

        Raises:
            SetupError: what the store's URL needs is not installed.
        """
        if not locations.is_remote(self.location):
            return LocalOutputs(Path(self.location), self.tag)
        from audio_batch.remote.object_outputs import ObjectOutputs

        return ObjectOutputs.at(self.location, self.access or Access())


class LocalOutputs:
    """A folder of a file system."""

    at_once = 1

    def __init__(self, root: Path, tag: str = "") -> None:
        self._root = root
        self._text = str(root)
        self._tag = tag
        self._stems: dict[str, array[int] | None] = {}
        """By folder; None of one that cannot be listed: of it anything may be there."""

    def publish(
        self, relative: PurePosixPath, data: bytes, *, format_name: str, replace: bool = True
    ) -> PublishedFile:
        """See `Outputs.publish`; and `storage.publish` for the order of its steps."""
        return publish(
            self._root, relative, data, format_name=format_name, tag=self._tag, replace=replace
        )

    def is_seen(self, path: str) -> bool:
        """See `Outputs.is_seen`."""
        return os.path.lexists(os.path.join(self._text, path))  # noqa: PTH118 - as `size_bytes`

    def read(self, relative: PurePosixPath) -> bytes:
        """See `Outputs.read`."""
        return contained(self._root, relative).read_bytes()

    def size_bytes(self, path: str) -> int | None:
        """See `Outputs.size_bytes`."""
        try:
            # Texts and not `Path`s, which cost more than the look.
            status = os.stat(os.path.join(self._text, path))  # noqa: PTH116, PTH118
        except (OSError, ValueError):
            return None
        # A folder of that name holds up its asset, which says so.
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    def has_any(self, name: str) -> bool:
        """See `Outputs.has_any`. A folder is listed once, and 8 bytes are held of each name."""
        folder, _, stem = name.rpartition("/")
        if folder not in self._stems:
            try:
                found = array("q", map(hash, _stems(Path(self._text, folder))))
                self._stems[folder] = in_order_of(found)
            except OSError:
                self._stems[folder] = None
        stems = self._stems[folder]
        return stems is None or has_hash(stems, hash(stem.lower()))

    def is_marked(self, path: str) -> bool:
        """See `Outputs.is_marked`."""
        del path
        return False

    def fault(self, file: PublishedFile) -> str | None:
        """See `Outputs.fault`."""
        try:
            path = contained(self._root, PurePosixPath(file.path))
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):  # to open a pipe would wait for ever
                return "is not a file any more"
            if status.st_size != file.size_bytes:
                return f"has {status.st_size} bytes instead of {file.size_bytes}"
            with path.open("rb") as opened:
                digest = hashlib.file_digest(opened, "sha256").hexdigest()
        except FileNotFoundError:
            return "is missing"
        except AssetError as error:
            return f"cannot be read: {error.message}"
        except (OSError, ValueError) as error:
            return f"cannot be read: {getattr(error, 'strerror', None) or error}"
        return None if digest == file.sha256 else OTHER_BYTES

    def is_empty(self) -> bool:
        """See `Outputs.is_empty`."""
        try:
            return all(entry.name == STATE_FOLDER for entry in os.scandir(self._root))
        except OSError:
            return True

    def probe(self) -> None:
        """See `Outputs.probe`: `OutputFolder.create` has done it."""
        if not self._root.is_dir():
            raise SetupError(f"There is no folder {self._root}.")


def _stems(folder: Path) -> Iterator[str]:
    """Names of a folder's files without the suffix of a format, in lower case: some file systems
    tell names apart by it, others do not."""
    from audio_batch.formats import FORMATS

    suffixes = {known.suffix for known in FORMATS.values()}
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                # Apart: the lower case of a letter may go by what follows it (the Greek sigma).
                stem, dot, suffix = entry.name.rpartition(".")
                if f"{dot}{suffix}".lower() in suffixes:
                    yield stem.lower()
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return  # there is nothing


def intact(outputs: Outputs, file: PublishedFile) -> bool:
    """Whether a published file is still there with the size that the journal has."""
    return outputs.size_bytes(file.path) == file.size_bytes
