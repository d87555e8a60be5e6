"""Manifests from folders: which files are recordings, and what an entry says of each.

`manifest create` is a thin shell over this.
"""

from __future__ import annotations

import glob as globbing
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from audio_batch.errors import AssetError, UsageError
from audio_batch.manifest_sources import derived_id
from audio_batch.text import for_terminal

SUFFIXES = frozenset(
    f".{name}"
    for name in (
        *("3g2", "3gp", "aac", "ac3", "adts", "aif", "aifc", "aiff", "amr", "ape", "asf", "au"),
        *("avi", "awb", "caf", "dsf", "dss", "dts", "dv", "eac3", "f4v", "flac", "flv", "gsm"),
        *("m2ts", "m4a", "m4b", "m4r", "m4v", "mka", "mkv", "mlp", "mov", "mp2", "mp3", "mp4"),
        *("mpc", "mpeg", "mpg", "mts", "mxf", "nut", "oga", "ogg", "ogv", "ogx", "oma", "opus"),
        *("qcp", "ra", "rf64", "rm", "rmvb", "snd", "sox", "sph", "spx", "tak", "thd", "ts", "tta"),
        *("vob", "voc", "w64", "wav", "wave", "weba", "webm", "wma", "wmv", "wtv", "wv"),
    )
)
"""Files with these count as recordings. A list of our own: the system's differs by machine."""

_PROBERS = 8


def find(
    paths: Sequence[str],
    *,
    recursive: bool = True,
    globs: Sequence[str] = (),
    report: Callable[[str], None],
) -> list[Path]:
    """The recordings that files, folders and patterns name: absolute, each once, sorted.

    `report` is told of folders that cannot be read.

    In folders those with one of `SUFFIXES` count or, with `globs`, those whose name (or path from
    the folder on, for a glob with a slash) fits one of these. Hidden files and folders do not, and
    links to folders are not followed. A file that is named itself always counts. Patterns (`*`,
    `?`, `[abc]`, `**`) are expanded here, for shells that do not.

    Raises:
        UsageError: there is nothing of a name.
    """
    found: set[Path] = set()
    absent: list[str] = []
    for text in paths:
        named = _expanded(Path(text).expanduser())
        if not named:
            absent.append(text)
        for path in named:
            if path.is_dir():
                found.update(_in_folder(path, recursive, globs, report))
            else:
                found.add(Path(os.path.abspath(path)))  # noqa: PTH100 - resolves no links
    if absent:
        raise UsageError(
            f"There is no file or folder {', '.join(for_terminal(text) for text in absent)}."
        )
    return sorted(found, key=lambda path: ([part.casefold() for part in path.parts], path))


def _expanded(path: Path) -> list[Path]:
    if _is_there(path):
        return [path]
    matches = globbing.glob(str(path), recursive=True)  # noqa: PTH207 - may be absolute
    return [match for match in map(Path, matches) if _is_there(match)]


def _is_there(path: Path) -> bool:
    try:
        return path.is_file() or path.is_dir()
    except OSError:  # a name that is too long, for example
        return False


def _in_folder(
    top: Path, recursive: bool, globs: Sequence[str], report: Callable[[str], None]
) -> Iterator[Path]:
    def unreadable(error: OSError) -> None:
        report(f"The folder {error.filename} cannot be read: {error.strerror}.")

    top = Path(os.path.abspath(top))  # noqa: PTH100 - resolves no links
    for folder, folders, names in os.walk(top, onerror=unreadable):
        folders[:] = [name for name in folders if recursive and not name.startswith(".")]
        for name in names:
            path = Path(folder, name)
            if name.startswith(".") or not path.is_file():
                continue
            below = path.relative_to(top).as_posix()
            if globs:
                counts = any(
                    fnmatch(below if "/" in pattern else name, pattern) for pattern in globs
                )
            else:
                counts = path.suffix.lower() in SUFFIXES
            if counts:
                yield path


def entries(
    recordings: Sequence[Path],
    *,
    base: Path | None,
    probe: bool = True,
    keep_unreadable: bool = False,
    report: Callable[[str], None],
    progress: Callable[[], None] = lambda: None,
) -> list[dict[str, Any]]:
    """An entry for each recording, in order.

    Args:
        recordings: absolute.
        base: paths below it are written relative to it; None writes them all absolute.
        probe: find the durations.
        keep_unreadable: do not leave out what cannot be read.
        report: told of each recording that cannot be read.
        progress: called for each recording, like `report` in this thread.
    """
    with ThreadPoolExecutor(_PROBERS, thread_name_prefix="probe") as pool:
        result: list[dict[str, Any]] = []
        probed = pool.map(_probed, recordings) if probe else (None for _ in recordings)
        for path, outcome in zip(recordings, probed, strict=True):
            progress()
            duration_s = None
            if isinstance(outcome, AssetError):
                report(str(outcome))
                if not keep_unreadable:
                    continue
            else:
                duration_s = outcome
            result.append(_entry(path, base, duration_s))
    return result


def _probed(path: Path) -> float | AssetError | None:
    from audio_batch.media import probe  # FFmpeg's libraries take a while to load

    try:
        return probe(path).duration_s
    except AssetError as error:
        return error


def _entry(path: Path, base: Path | None, duration_s: float | None) -> dict[str, Any]:
    below = base is not None and path.is_relative_to(base)
    text = path.relative_to(base).as_posix() if below and base is not None else path.as_posix()
    entry: dict[str, Any] = {"id": derived_id(text), "name": path.stem, "path": text}
    if not _is_text(path.name) or not _is_text(text):
        # The name holds bytes that are no characters: only a percent-encoded URI can say it.
        entry["name"] = path.stem.encode("utf-8", "replace").decode("utf-8")
        entry["path"] = path.as_uri()
    if duration_s is not None:
        entry["duration_s"] = round(duration_s, 3)
    return entry


def _is_text(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def rendered(items: Sequence[dict[str, Any]], *, json_lines: bool, ascii_only: bool = False) -> str:
    """The manifest's text: JSON with an entry a line, or JSON Lines.

    `ascii_only` is for a stream whose encoding is not ours to choose (cp1252 on Windows).
    """
    lines = [json.dumps(item, ensure_ascii=ascii_only) for item in items]
    if json_lines:
        return "".join(f"{line}\n" for line in lines)
    body = ",\n".join(f"    {line}" for line in lines)
    return f'{{\n  "count": {len(lines)},\n  "assets": [\n{body}\n  ]\n}}\n'
