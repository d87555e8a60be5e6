"""Outputs in an object store: Amazon S3 and its kin, Google Cloud Storage, Azure Blob Storage.

There is no rename and no folder: an object is whole under its name once its one PUT has ended, and
until then the name shows what it showed before. No upload has several parts, so that a kill leaves
nothing behind. What the store has is compared with what was sent: by the MD5 that it answers, else
by a look at the object's size, and at its checksum where there is one. See docs/publication.md.
"""

from __future__ import annotations

import array
import base64
import hashlib
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any, TypeVar

from audio_batch.errors import AssetError, ErrorKind, SetupError
from audio_batch.formats import FORMATS
from audio_batch.outputs import OTHER_BYTES
from audio_batch.remote import azure, google, stores
from audio_batch.remote.access import Access
from audio_batch.remote.blobs import md5_of
from audio_batch.remote.failures import (
    DamagedError,
    broke_off,
    is_refused_condition,
    is_taken,
    trouble,
)
from audio_batch.remote.urls import shown
from audio_batch.storage import PublishedFile, name_taken, refuse_leaving

PROBE = ".audio-batch-probe"
"""The object by which `probe` tries whether anything can be written. One name, so that one at most
is ever left where the right to delete is missing."""

_ONE_PUT_BYTES = 5 * 2**30
"""What S3 takes in one PUT; nothing near it is ever published."""

_MARK = {"written-by": "audio-batch"}
"""Metadata of what is published: by it a run knows what was left of a publication that was killed
on another machine. It costs no request."""

_MARKS = (*_MARK.items(), ("is_directory", "false"))
"""The latter is adlfs's, which lets nobody give another."""

_MD5 = re.compile("[0-9a-f]{32}")
_DIRECTORY_BUCKET = "--x-s3"
"""How the names of S3's directory buckets end, whose ETags are no MD5."""

Answer = TypeVar("Answer")


class ObjectOutputs:
    """A prefix of a bucket or container. See `outputs.Outputs` for what each method promises.

    Args:
        where: what people are told of it.
        base: bucket and prefix, as the file system wants them.
        files: fsspec's file system.
        renew: opens another in the place of one whose credentials are over.
    """

    at_once = 16

    def __init__(
        self, where: str, base: str, files: Any, renew: Callable[[Any], Any] = lambda old: old
    ) -> None:
        self._where = where
        self._base = base.rstrip("/")
        self._files = files
        self._renew = renew
        self._lock = threading.Lock()
        self._listing: Listing | None = None
        self._knows_conditions = True

    @classmethod
    def at(cls, url: str, access: Access) -> ObjectOutputs:
        """Those below a URL.

        Raises:
            SetupError: what its scheme needs is not installed.
        """
        files = stores.filesystem(url, access)
        base = files._strip_protocol(url)
        return cls(shown(url), base, files, lambda old: stores.renewed(old, url, access))

    def publish(
        self, relative: PurePosixPath, data: bytes, *, format_name: str, replace: bool = True
    ) -> PublishedFile:
        """One PUT; and one look at what it left, where the answer does not tell its MD5.

        Without `replace` the PUT says that there must be no such object. Of a service that does not
        know that, it is asked no more, and writes over what is there.
        """
        refuse_leaving(relative)
        try:
            self._put(relative.as_posix(), data, replace=replace or not self._knows_conditions)
        except Exception as error:
            if not replace and is_taken(error):
                raise name_taken(relative.as_posix()) from error
            raise self._failure(error, relative.as_posix(), "written") from error
        return PublishedFile(
            format_name, relative.as_posix(), len(data), hashlib.sha256(data).hexdigest()
        )

    def is_seen(self, path: str) -> bool:
        """Nothing is seen: the publication itself refuses."""
        del path
        return False

    def _put(self, relative: str, data: bytes, *, replace: bool = True) -> None:
        path = self._path(relative)
        try:
            is_told = self._ask(lambda files: _put(files, path, data, replace=replace))
        except Exception as error:
            if replace or not is_refused_condition(error):
                raise
            is_told = self._ask(lambda files: _put(files, path, data))
            self._knows_conditions = False
        if not is_told:
            _compare(self._ask(lambda files: files.info(path, refresh=True)), data)
        with self._lock:
            self._listing = None

    def read(self, relative: PurePosixPath) -> bytes:
        """One GET; one more where the body breaks off, which the library does not see to."""
        refuse_leaving(relative)
        path = self._path(relative.as_posix())
        try:
            try:
                return self._ask(lambda files: _get(files, path))
            except Exception as error:
                if not broke_off(error):
                    raise
            return self._ask(lambda files: _get(files, path))
        except FileNotFoundError:
            raise
        except Exception as error:
            raise self._failure(error, relative.as_posix(), "read") from error

    def size_bytes(self, path: str) -> int | None:
        """From one listing of all that is there, taken at the first look."""
        return self._listed().size_bytes(path)

    def has_any(self, name: str) -> bool:
        """From the same listing."""
        return self._listed().has_any(name)

    def is_marked(self, path: str) -> bool:
        """One HEAD."""
        try:
            about = self._ask(lambda files: _metadata(files, self._path(path)))
        except FileNotFoundError:
            return False
        except Exception as error:
            raise self._failure(error, path, "looked at") from error
        return any(about.get(name) == value for name, value in _MARKS)

    def is_empty(self) -> bool:
        """From the same listing."""
        return len(self._listed()) == 0

    def fault(self, file: PublishedFile) -> str | None:
        """One GET, unless the size tells already."""
        size = self.size_bytes(file.path)
        if size is None:
            return "is missing"
        if size != file.size_bytes:
            return f"has {size} bytes instead of {file.size_bytes}"
        try:
            data = self.read(PurePosixPath(file.path))
        except FileNotFoundError:
            return "is missing"
        except AssetError as error:
            raise SetupError(error.message, remedy=error.remedy) from error
        sound = hashlib.sha256(data).hexdigest() == file.sha256
        return None if sound else OTHER_BYTES

    def probe(self) -> None:
        """Write an object, look at it, and remove it where that is allowed."""
        try:
            self._put(PROBE, b"audio-batch\n")
        except Exception as error:
            reason, remedy = _told(error)
            raise SetupError(
                f"Nothing can be written to {self._where}: {reason}.", remedy=remedy
            ) from error
        try:
            self._ask(lambda files: files.rm_file(self._path(PROBE)))
        except Exception as error:
            failure = self._failure(error, PROBE, "removed")
            if failure.transient:
                raise SetupError(failure.message, remedy=failure.remedy) from error

    def _path(self, relative: str) -> str:
        return f"{self._base}/{relative}"

    def _listed(self) -> Listing:
        with self._lock:
            if self._listing is None:
                try:
                    found = self._ask(lambda files: Listing(_objects(files, self._base)))
                except Exception as error:
                    reason, remedy = _told(error)
                    raise SetupError(
                        f"{self._where} cannot be listed: {reason}.", remedy=remedy
                    ) from error
                self._listing = found
            return self._listing

    def _ask(self, question: Callable[[Any], Answer]) -> Answer:
        """Ask the store; once more with new credentials where the old are over."""
        files = self._files
        try:
            return question(files)
        except Exception as error:
            if not trouble(error).expired:
                raise
        self._files = self._renew(files)
        return question(self._files)

    def _failure(self, error: Exception, name: str, verb: str) -> AssetError:
        """What the user sees of a failure."""
        if isinstance(error, AssetError):
            return error
        reason, remedy = _told(error)
        found = trouble(error)
        return AssetError(
            ErrorKind.OUTPUT,
            f"{name} could not be {verb} in {self._where}: {reason}.",
            remedy=remedy,
            transient=found.passing,
            away=found.away_from(self._where),
        )


def _told(error: Exception) -> tuple[str, str]:
    """What is said of a failure, a phrase, and its remedy."""
    found = trouble(error)
    if found.kind is ErrorKind.INPUT_MISSING and not found.remedy:
        # Google's library does not say what is missing; for an object nobody has asked.
        return "there is no such bucket or container", "See that it is there."
    return found.reason, found.remedy


class Listing:
    """The sizes of a great many objects by name, in 16 bytes each; in 24 those of outputs.

    Names are told by 64 bits of a hash: of three million, two share one once in four million times.
    """

    def __init__(self, objects: Iterable[tuple[str, int]]) -> None:
        import numpy as np

        names, sizes, stems = array.array("Q"), array.array("q"), array.array("Q")
        suffixes = {known.suffix for known in FORMATS.values()}
        for name, size in objects:
            if name != PROBE:
                names.append(_hash(name))
                sizes.append(size)
                stem, dot, suffix = name.rpartition(".")
                if dot + suffix in suffixes:
                    stems.append(_hash(stem))
        order = np.argsort(np.asarray(names, dtype=np.uint64), kind="stable")
        self._names = np.asarray(names, dtype=np.uint64)[order]
        self._sizes = np.asarray(sizes, dtype=np.int64)[order]
        self._stems = np.sort(np.asarray(stems, dtype=np.uint64))

    def __len__(self) -> int:
        return len(self._names)

    def size_bytes(self, name: str) -> int | None:
        """The size of an object; None where there is none of the name."""
        place = _place(self._names, name)
        return None if place is None else int(self._sizes[place])

    def has_any(self, name: str) -> bool:
        """Whether there is an object of the name with the suffix of a format."""
        return _place(self._stems, name) is not None


def _place(hashes: Any, name: str) -> int | None:
    wanted = _hash(name)
    place = int(hashes.searchsorted(hashes.dtype.type(wanted)))
    return place if place < len(hashes) and int(hashes[place]) == wanted else None


def _hash(name: str) -> int:
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def _get(files: Any, path: str) -> bytes:
    # More than one at a time would ask for the size first.
    alone = {"max_concurrency": 1} if _is_s3(files) else {}
    return bytes(files.cat_file(path, **alone))


def _put(files: Any, path: str, data: bytes, *, replace: bool = True) -> bool:
    """Store an object by one request; whether the service has told the MD5 of what it has.

    Raises:
        DamagedError: it has other bytes.
    """
    mode = "overwrite" if replace else "create"
    if not _is_s3(files):
        mark = {"metadata": _MARK} if google.is_google(files) else {}
        answer = files.pipe_file(path, data, mode=mode, **mark)
        told = md5_of(answer) if isinstance(answer, Mapping) else None
        if told is not None and told != hashlib.md5(data, usedforsecurity=False).digest():
            raise DamagedError("the store has other bytes than were sent")
        return told is not None
    md5 = hashlib.md5(data, usedforsecurity=False)
    tells = not path.partition("/")[0].endswith(_DIRECTORY_BUCKET)
    header = {"ContentMD5": base64.b64encode(md5.digest()).decode("ascii")} if tells else {}
    answer = files.pipe_file(
        path, data, chunksize=_ONE_PUT_BYTES, mode=mode, Metadata=_MARK, **header
    )
    # Under a key of KMS, or one of the customer's, an ETag is no MD5, though it looks like one.
    plain = answer.get("ServerSideEncryption", "AES256") == "AES256"
    etag = str(answer.get("ETag", "")).strip('"')
    if not (tells and plain and "SSECustomerAlgorithm" not in answer and _MD5.fullmatch(etag)):
        return False
    if etag != md5.hexdigest():
        raise DamagedError("the store has other bytes than were sent")
    return True


def _metadata(files: Any, path: str) -> Mapping[str, str]:
    if _is_s3(files):
        found = files.metadata(path)
    else:
        found = files.info(path, refresh=True).get("metadata")
    return found or {}


def _compare(info: dict[str, Any], data: bytes) -> None:
    """See that an object is what was sent.

    Raises:
        DamagedError: it is not.
    """
    if info["size"] != len(data):
        raise DamagedError(f"the store has {info['size']} of {len(data)} bytes")
    known = md5_of(info)
    if known is not None and known != hashlib.md5(data, usedforsecurity=False).digest():
        raise DamagedError("the store has other bytes than were sent")


def _objects(files: Any, base: str) -> Iterator[tuple[str, int]]:
    """Names below `base`, and sizes, page by page where that is to be had."""
    if google.is_google(files):
        yield from google.objects(files, base)
        return
    if azure.is_azure(files):
        yield from azure.objects(files, base)
        return
    if not _is_s3(files):
        for path, info in files.find(base, detail=True).items():
            yield path.removeprefix("/").removeprefix(base.removeprefix("/") + "/"), info["size"]
        return
    bucket, _, prefix = base.partition("/")
    prefix = f"{prefix}/" if prefix else ""
    more: dict[str, str] = {}
    while True:
        page = files.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, **more)
        for item in page.get("Contents", ()):
            yield item["Key"][len(prefix) :], item["Size"]
        if not page.get("IsTruncated"):
            return
        more = {"ContinuationToken": page["NextContinuationToken"]}


def _is_s3(files: Any) -> bool:
    return hasattr(files, "call_s3")
