"""Which file or object an entry of a manifest means, and whether a local one is there."""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
import stat
import time
import unicodedata
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from urllib.parse import unquote_to_bytes

from audio_batch.manifest_text import shown
from audio_batch.remote import urls
from audio_batch.text import for_terminal, redact

_FILE_URI = re.compile(r"(?i:file):(?=/)(?://(?P<host>[^/]*))?(?P<path>.*)", re.DOTALL)
_OTHER_SCHEME = re.compile(r"(?!(?i:file):)([A-Za-z][A-Za-z0-9+.-]+)://")  # one letter: a drive
_ORDINARY_STEM = re.compile(r"(?![/\\]{2})(?:[^:]*[/\\])?([^:/\\]+)\.[^.:/\\]+")
_LOOKERS = 8
_SLOW_LOOK_S = 200e-6
"""A look at a local disk takes 2 µs, over a network from 200 µs: there threads look in turn."""


class SourceError(ValueError):
    """A path or URI that names no local file; the message is a sentence without its place."""


def local_text(uri: str, *, windows: bool = os.name == "nt") -> str:
    """The path in a manifest's path or `file:` URI, as text, percent-decoded where it is a URI.

    Raises:
        SourceError: a scheme that is not supported, another host, or a NUL.
    """
    if scheme := _OTHER_SCHEME.match(uri):
        raise SourceError(
            f"{shown(redact(uri))}: {scheme[1].lower()}:// is not supported; it may be a path, "
            "or a URL of s3, gs, az, http or https"
        )
    if not (parts := _FILE_URI.match(uri)):
        return uri
    host, rest = parts["host"] or "", parts["path"]
    if re.fullmatch("[A-Za-z]:", host):  # "file://C:/x", with a slash too few
        host, rest = "", f"/{host}{rest}"
    path = os.fsdecode(unquote_to_bytes(rest))
    if "\0" in path or path in ("", "/"):
        raise SourceError(f"{shown(uri)} names no file")
    if host.lower() in ("", "localhost"):
        return path[1:] if windows and re.match(r"/[A-Za-z]:", path) else path
    if windows:
        return f"//{host}{path}"
    raise SourceError(f"{shown(uri)} is on another computer ({shown(host)}); give a local path")


def is_remote_uri(uri: str) -> bool:
    """Whether it lies in an object store or on the web: there is no path to look for."""
    return urls.is_remote(uri)


def remote_problem(uri: str, *, allow_http: bool) -> str | None:
    """Why a remote URI cannot be used, as a sentence without its place; None where it can."""
    return urls.problem(uri, allow_http=allow_http)


def stem(text: str) -> str:
    """The name without its suffix, whichever way the slashes go; of a URL without its query."""
    if urls.is_remote(text):
        return urls.name(text)
    if ordinary := _ORDINARY_STEM.fullmatch(text):
        return ordinary[1]
    return PureWindowsPath(text).stem or text


def derived_id(path_text: str) -> str:
    """The id of an entry that has none, made from its path as the manifest writes it.

    It is stable, unique to the path (but for `./`, `x/..`, the kind of slash, and Unicode's
    composed and decomposed forms) and fit for a file name: the file's name, then a hash. A remote
    URI's does not change with the signature or the password that a URL carries.
    """
    if urls.is_remote(path_text):
        return urls.derived_id(path_text)
    path = posixpath.normpath(unicodedata.normalize("NFC", path_text).replace("\\", "/"))
    letters = unicodedata.normalize("NFKD", stem(path))
    words = re.findall("[A-Za-z0-9]+", "".join(c for c in letters if not unicodedata.combining(c)))
    digest = hashlib.sha256(path.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{'-'.join(words)[:60] or 'asset'}-{digest[:12]}"


def candidates(text: str, root: str, folder: str | None) -> tuple[str, ...]:
    """Where a manifest's path may lie, the likeliest first; absolute if `root` is.

    Args:
        text: from `local_text`.
        root: where relative paths begin.
        folder: the entry's `folder_path` if its path is a mere `file_name`: exports of media
            libraries give both. The file below the folder is preferred, since the same name may
            stand in many folders.
    """
    texts = [text]
    if folder is not None and (below := folder.strip("/\\")):
        texts.insert(0, f"{below}/{text}")
    if os.name != "nt":  # a manifest written on Windows; there itself both slashes do
        texts += [other.replace("\\", "/") for other in texts if "\\" in other]
    return tuple(os.path.join(root, other) for other in texts)  # noqa: PTH118 - see look


def identity(status: os.stat_result) -> str:
    """Size and time of change of a recording: part of the resume key."""
    return f"{status.st_size}:{status.st_mtime_ns}"


@dataclass(frozen=True, slots=True)
class Found:
    """The first candidate that is a file, or the likeliest one and what is wrong with it.

    `identity` is that of the file; None if there is none.
    """

    path: Path
    problem: str | None = None
    identity: str | None = None


def _shown(place: str) -> str:
    """A path as a sentence has it: clean, and its ends alone if it is of absurd length."""
    text = for_terminal(place)
    return text if len(text) <= 500 else f"{text[:250]}…{text[-249:]}"


def look(places: Sequence[str]) -> Found:
    """Find the first of an entry's candidates that is a file.

    They are texts and not `Path`s because making those costs more than the look, times 100,000.
    """
    problem = None
    for place in places:
        try:
            status = os.stat(place)  # noqa: PTH116
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, ValueError) as error:  # ValueError: a NUL, an unencodable character
            reason = getattr(error, "strerror", None) or error
            problem = f"{_shown(place)} cannot be looked at: {reason}"
            continue
        if stat.S_ISREG(status.st_mode):
            return Found(Path(place), identity=identity(status))
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "no regular file"
        problem = f"{_shown(place)} is {kind}"
    return Found(Path(places[0]), problem or f"there is no file {_shown(places[0])}")


def look_for_all(entries: Sequence[Sequence[str]]) -> list[Found]:
    """`look` for every entry; by several threads where a look takes a while."""
    begun_s = time.perf_counter()
    first = [look(places) for places in entries[:_LOOKERS]]
    rest = entries[len(first) :]
    if time.perf_counter() - begun_s < len(first) * _SLOW_LOOK_S:
        return first + [look(places) for places in rest]
    size = max(1, -(-len(rest) // _LOOKERS))
    batches = [rest[i : i + size] for i in range(0, len(rest), size)]
    with ThreadPoolExecutor(_LOOKERS, thread_name_prefix="look") as pool:
        looked = pool.map(lambda batch: [look(places) for places in batch], batches)
        return first + [found for batch in looked for found in batch]


def statuses(places: Sequence[str]) -> list[os.stat_result | None]:
    """What each of many files is, None where it is none; by several threads if that takes long.

    Less is told than by `look`, at half its cost.
    """
    begun_s = time.perf_counter()
    first = _each_status(places[:_LOOKERS])
    rest = places[len(first) :]
    if time.perf_counter() - begun_s < len(first) * _SLOW_LOOK_S:
        return first + _each_status(rest)
    size = max(1, -(-len(rest) // _LOOKERS))
    batches = [rest[i : i + size] for i in range(0, len(rest), size)]
    with ThreadPoolExecutor(_LOOKERS, thread_name_prefix="look") as pool:
        return first + [found for batch in pool.map(_each_status, batches) for found in batch]


def _each_status(places: Sequence[str]) -> list[os.stat_result | None]:
    try:
        found = list(map(os.stat, places))
    except (OSError, ValueError):
        return list(map(_status, places))
    if all(map(stat.S_ISREG, {status.st_mode for status in found})):
        return found  # type: ignore[return-value]
    return [status if stat.S_ISREG(status.st_mode) else None for status in found]


def _status(place: str) -> os.stat_result | None:
    try:
        status = os.stat(place)  # noqa: PTH116
    except (OSError, ValueError):
        return None
    return status if stat.S_ISREG(status.st_mode) else None
