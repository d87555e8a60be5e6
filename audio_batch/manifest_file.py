"""The file of a manifest: one JSON document or JSON Lines, read from front to back in pieces.

No more of a large one is held than where its entries begin: each can be read again from there.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import re
import shutil
import stat
import tempfile
import weakref
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from audio_batch.errors import SetupError
from audio_batch.manifest_stream import StreamedDocument
from audio_batch.manifest_text import (
    BLANKS,
    JsonDocument,
    Keys,
    ParseError,
    Raw,
    parsed,
    refused,
    unreadable,
)
from audio_batch.text import for_terminal

HELD_BYTES = 4_000_000
"""A JSON document of up to this size is parsed whole: it then takes about ten times as much."""

_JSON_LINES_SUFFIXES = (".jsonl", ".ndjson")
_LINES = re.compile(rb"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+\Z")
_FIRST_LINE_BYTES = 1 << 20
_GAP_BYTES = 1 << 16
"""Entries that lie closer together are read at one go."""
_PIECE_BYTES = 1 << 18
"""So many lines are looked at together, or one that is longer: of short entries some thousand."""
_RUN_BYTES = 4 << 20
"""So much is read at one go, or one entry that is longer."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Some entries of JSON Lines as they stand in the file: each one's line, offset and text."""

    lines: Sequence[int]
    offsets: Sequence[int]
    texts: Sequence[bytes]


class ManifestFile:
    """An open manifest in UTF-8 that can be read again; closed at the latest with its last holder.

    What cannot be read again, or must not be kept from being replaced meanwhile, is copied into a
    temporary file: a pipe, text in UTF-16 or UTF-32, every file on Windows.

    Raises:
        ManifestError: it cannot be read, or its text is none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            file: IO[bytes] = path.open("rb")
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            raise unreadable(path, error) from error
        try:
            file = self._readable_again(file)
            status = os.fstat(file.fileno())
        except OSError as error:
            file.close()
            raise unreadable(path, error) from error
        except BaseException:
            file.close()
            raise
        self.file = file
        self.size_bytes = status.st_size
        self._seen = (status.st_size, status.st_mtime_ns)
        self.close = weakref.finalize(self, file.close)

    def _readable_again(self, file: IO[bytes]) -> IO[bytes]:
        encoding = json.detect_encoding(file.peek(4)[:4])  # type: ignore[attr-defined]
        is_utf8 = encoding.startswith("utf-8")
        regular = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
        if is_utf8 and regular and os.name != "nt":
            return file
        copy = tempfile.TemporaryFile()  # noqa: SIM115 - `close` is there for that
        try:
            with file:
                if is_utf8:
                    shutil.copyfileobj(file, copy)
                else:
                    self._transcode(file, encoding, copy)
            copy.flush()
            copy.seek(0)
        except BaseException:
            copy.close()
            raise
        return copy

    def _transcode(self, file: IO[bytes], encoding: str, copy: IO[bytes]) -> None:
        try:
            with io.TextIOWrapper(file, encoding=encoding, errors="strict") as text:
                while some := text.read(1 << 20):
                    copy.write(some.encode("utf-8", "surrogatepass"))
        except UnicodeDecodeError as error:
            name = error.encoding.upper()
            raise refused(self.path, [f"the text is no valid {name}"]) from error

    def lines(self) -> Iterator[list[bytes]]:
        """All of it in pieces, each some lines that end with a line feed, but for the last."""
        try:
            self.file.seek(0)
            while lines := self.file.readlines(_PIECE_BYTES):
                yield lines
        except OSError as error:
            raise unreadable(self.path, error) from error

    def read(self, offsets: Sequence[int], numbers: Sequence[int]) -> list[bytes]:
        """The bytes from each of some entries up to the next entry.

        Args:
            offsets: where each entry of the manifest begins.
            numbers: which entries.

        Raises:
            SetupError: the file was changed after it was first read.
        """
        found: dict[int, bytes] = {}
        try:
            status = os.fstat(self.file.fileno())
            if (status.st_size, status.st_mtime_ns) != self._seen:
                raise self.changed()
            for run in _neighbours(sorted(set(numbers)), offsets, self.size_bytes):
                begin = offsets[run[0]]
                self.file.seek(begin)
                data = self.file.read(_end(run[-1], offsets, self.size_bytes) - begin)
                for number in run:
                    end = _end(number, offsets, self.size_bytes)
                    found[number] = data[offsets[number] - begin : end - begin]
        except OSError as error:
            raise self.changed() from error
        return [found[number] for number in numbers]

    def changed(self) -> SetupError:
        """What is to be raised when an entry is not what it was."""
        return SetupError(
            f"The manifest {for_terminal(str(self.path))} was changed while the run was at work.",
            remedy="What is done is kept: run it again. Replace a manifest by renaming a new one.",
        )


def _end(number: int, offsets: Sequence[int], size_bytes: int) -> int:
    return offsets[number + 1] if number + 1 < len(offsets) else size_bytes


def _neighbours(
    numbers: Sequence[int], offsets: Sequence[int], size_bytes: int
) -> Iterator[list[int]]:
    run: list[int] = []
    for number in numbers:
        if run and (
            offsets[number] - _end(run[-1], offsets, size_bytes) > _GAP_BYTES
            or _end(number, offsets, size_bytes) - offsets[run[0]] > _RUN_BYTES
        ):
            yield run
            run = []
        run.append(number)
    if run:
        yield run


class JsonLines:
    """A manifest of one JSON object a line."""

    base: Keys = ()
    defaults: Any = None

    def __init__(self, file: ManifestFile) -> None:
        self._file = file

    def faults(self) -> Iterator[tuple[Keys, str]]:
        """Those of an entry are with the entry."""
        return iter(())

    def pieces(self) -> Iterator[Piece]:
        """All entries in order; blank lines are passed over."""
        number = offset = 0
        for lines in self._file.lines():
            ends = array("Q", itertools.accumulate(map(len, lines), initial=offset))
            if _are_entries(lines):
                yield Piece(range(number + 1, number + 1 + len(lines)), ends[:-1], lines)
                number += len(lines)
            else:
                told = list(_told_apart(lines, number, offset))
                number = told[-1][0]
                told = [one for one in told if _text(one[2]).strip(BLANKS)]
                if told:
                    yield Piece(*map(list, zip(*told, strict=True)))
            offset = ends[-1]

    def line(self, keys: Keys) -> int | None:
        """Not known from the keys: an entry carries its own line."""
        del keys
        return None


def _are_entries(lines: Sequence[bytes]) -> bool:
    """Whether each surely is one line and not blank."""
    block = b"".join(lines)
    returns = block.count(b"\r")
    return (
        block[:1] == b"{"
        and block.count(b"\n{") == len(lines) - 1
        and (not returns or returns == block.count(b"\r\n"))
    )


def _told_apart(
    lines: Sequence[bytes], number: int, offset: int
) -> Iterator[tuple[int, int, bytes]]:
    """Number, offset and bytes of every line, whatever ends lines there; of the first, after
    those before it."""
    for data in lines:
        returns = data.count(b"\r")
        for part in _LINES.findall(data) if returns > data.endswith(b"\r\n") else (data,):
            number += 1
            yield number, offset, part
            offset += len(part)


def raw_of(number: int, line: int | None, data: bytes) -> Raw:
    """An entry of JSON Lines, parsed, with all that is wrong about its text."""
    try:
        return Raw(number, parsed(_text(data).rstrip(BLANKS)), line)
    except ParseError as error:
        return Raw(number, None, line, f"column {error.column}: {error}")


def _text(data: bytes) -> str:
    # Bytes that are no UTF-8 become lone surrogates: they can then be named by their place.
    return data.decode("utf-8", "surrogateescape")


Source = JsonDocument | StreamedDocument | JsonLines


def source_of(file: ManifestFile, *, held_bytes: int = HELD_BYTES) -> Source:
    """What a manifest is: JSON Lines, or a document, which is parsed whole if it is small.

    Its first line that is not blank tells: JSON Lines if that is an object by itself without
    `assets`; a document if it begins with `[` or has `assets`; where that does not decide, the
    suffix `.jsonl` or `.ndjson` does.

    Raises:
        ManifestError: it cannot be read or is no JSON (of JSON Lines: once they are iterated).
    """
    path = file.path
    if _is_json_lines(file):
        return JsonLines(file)
    try:
        if file.size_bytes > held_bytes:
            return StreamedDocument(file.file)
        file.file.seek(0)
        text = io.TextIOWrapper(file.file, encoding="utf-8-sig", errors="surrogateescape")
        try:
            whole = text.read()
        finally:
            text.detach()
        return JsonDocument(whole, parsed(whole))
    except OSError as error:
        raise unreadable(path, error) from error
    except ParseError as error:
        raise refused(path, [f"line {error.line}, column {error.column}: {error}"]) from None


def _is_json_lines(file: ManifestFile) -> bool:
    try:
        file.file.seek(0)
        while line := file.file.readline(_FIRST_LINE_BYTES):
            begun = _text(line).lstrip(BLANKS)
            if begun:
                break
        else:
            raise refused(file.path, ["the file is empty"])
    except OSError as error:
        raise unreadable(file.path, error) from error
    if begun.startswith("["):
        return False
    named_so = file.path.suffix.lower() in _JSON_LINES_SUFFIXES
    if len(line) == _FIRST_LINE_BYTES and not line.endswith(b"\n"):
        # A document without line ends, or an entry of absurd length.
        try:
            return not StreamedDocument(file.file, only_first_value=True).has_assets
        except ParseError:
            return named_so
    first = _text(next(data for data in _LINES.findall(line) if _text(data).strip(BLANKS)))
    try:
        value = parsed(first)
    except ParseError:
        return named_so
    return isinstance(value, dict) and "assets" not in value
