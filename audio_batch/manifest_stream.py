"""A manifest that is one JSON value, too large to be held: where its entries begin is noted."""

from __future__ import annotations

import codecs
import json
from array import array
from collections.abc import Iterator
from typing import IO, Any, NoReturn

from audio_batch.manifest_text import (
    DECODER,
    Keys,
    ParseError,
    Raw,
    faults,
    no_list_of_recordings,
    parsed,
)

_BLOCK_BYTES = 1 << 20
_WORD = 16
"""Longer than any word of JSON and any escape: what ends closer to the end may go on."""
_SPACES = " \t\r\n"

_CHECKING = json.JSONDecoder(parse_int=len, parse_float=len, parse_constant=len)
"""Tells where a value ends, whatever its numbers are."""


class StreamedDocument:
    """See `manifest_text.JsonDocument`, which it equals but that entries are not held.

    Args:
        only_first_value: what stands behind it is not looked at.

    Raises:
        ParseError: it is no JSON.
        OSError: it cannot be read.
    """

    def __init__(self, file: IO[bytes], *, only_first_value: bool = False) -> None:
        self._file = file
        self._others: dict[str, Any] = {}
        self._repeated: list[str] = []
        self._lines_of: dict[str, int] = {}
        self._has_list = False
        self.has_assets = False
        self.offsets = array("Q")
        self._lines = array("L")
        text = _Text(file)
        first = text.peek()
        self.base: Keys = ("assets",) if first == "{" else ()
        if first == "{":
            self._read_object(text)
        elif first == "[":
            self._has_list = True
            self._read_list(text)
        else:
            self._others[""] = parsed(text.value())
        if not only_first_value:
            text.end()

    @property
    def defaults(self) -> Any:
        """What stands at the top under this name, not checked."""
        return self._others.get("defaults")

    def faults(self) -> Iterator[tuple[Keys, str]]:
        """Like `JsonDocument.faults`."""
        for key in self._repeated:
            yield (key,), "the key stands more than once"
        yield from faults(
            {k: v for k, v in self._others.items() if k not in ("assets", "defaults")}
        )
        if not self._has_list:
            yield self.base, no_list_of_recordings(missing=bool(self.base) and not self.has_assets)

    def line(self, keys: Keys) -> int | None:
        """The line on which the entry that holds `keys` begins, or the field at the top."""
        place = keys[len(self.base) :] if keys[: len(self.base)] == self.base else ()
        if place and isinstance(place[0], int) and place[0] < len(self._lines):
            return self._lines[place[0]]
        return self._lines_of.get(str(keys[0])) if keys else None

    def _read_object(self, text: _Text) -> None:
        text.take("{")
        if text.peek() == "}":
            text.take("}")
            return
        while True:
            if text.peek() != '"':
                text.fail("Expecting property name enclosed in double quotes")
            key = parsed(text.value())
            if text.peek() != ":":
                text.fail("Expecting ':' delimiter")
            text.take(":")
            if key in self._lines_of and key not in self._repeated:
                self._repeated.append(key)
            begins = text.peek()
            self._lines_of[key] = text.line
            if key == "assets":
                self.has_assets = True
                self._has_list = begins == "["
                del self.offsets[:], self._lines[:]
            if key == "assets" and self._has_list:
                self._read_list(text)
            else:
                self._others[key] = parsed(text.value())
            if not text.goes_on("}"):
                return

    def _read_list(self, text: _Text) -> None:
        text.take("[")
        if text.peek() == "]":
            text.take("]")
            return
        while True:
            text.peek()
            self.offsets.append(text.offset)
            self._lines.append(text.line)
            text.pass_value()
            if not text.goes_on("]"):
                return


def raw_within(number: int, data: bytes) -> Raw:
    """An entry of a document that was found sound, with whatever follows it in the file."""
    text = data.decode("utf-8", "surrogateescape")
    return Raw(number, DECODER.raw_decode(text, 0)[0])


class _Text:
    """A file's text, seen through a window that moves on: where it stands is always known."""

    def __init__(self, file: IO[bytes]) -> None:
        file.seek(0)
        begins = len(codecs.BOM_UTF8) if file.read(3) == codecs.BOM_UTF8 else 0
        file.seek(begins)
        self._file = file
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._text, self._at, self._ended = "", 0, False
        self.offset, self.line, self._column = begins, 1, 1
        self._more()

    def peek(self) -> str:
        """The next character that is no blank, now the next; "" at the end."""
        while True:
            text, at = self._text, self._at
            while at < len(text) and text[at] in _SPACES:
                at += 1
            self._move(at)
            if at < len(self._text):
                return self._text[at]
            if self._ended:
                return ""
            self._more()

    def take(self, character: str) -> None:
        """Go past a character that `peek` has told."""
        del character
        self._move(self._at + 1)

    def goes_on(self, closing: str) -> bool:
        """Go past a comma and say so, or past the end of a list or an object."""
        found = self.peek()
        if found not in (",", closing) or not found:
            self.fail("Expecting ',' delimiter")
        self.take(found)
        return found == ","

    def pass_value(self) -> None:
        """Go past a value."""
        self._move(self._end_of_value())

    def value(self) -> str:
        """The text of a value, gone past."""
        self.peek()
        end = self._end_of_value()
        text = self._text[self._at : end]
        self._move(end)
        return text

    def end(self) -> None:
        """See that nothing follows."""
        if self.peek():
            self.fail("Extra data")

    def fail(self, message: str) -> NoReturn:
        """Say that there is no JSON here.

        Raises:
            ParseError: always.
        """
        raise ParseError(_sentence(message), self.line, self._column)

    def _end_of_value(self) -> int:
        while True:
            try:
                end: int = _CHECKING.raw_decode(self._text, self._at)[1]
                if end < len(self._text) or self._ended:
                    return end
            except json.JSONDecodeError as error:
                cut = error.pos > len(self._text) - _WORD or error.msg.startswith("Unterminated")
                if self._ended or not cut:
                    self._move(error.pos)
                    self.fail(error.msg)
            except RecursionError:
                raise ParseError("it is nested too deeply") from None
            self._more()

    def _more(self) -> None:
        """Read on, and forget what has been passed."""
        data = self._file.read(_BLOCK_BYTES)
        self._ended = not data
        more = self._decoder.decode(data, final=self._ended)
        self._text, self._at = self._text[self._at :] + more, 0
        if not more.isascii():
            try:
                more.encode("utf-8")
            except UnicodeEncodeError as error:
                byte = ord(more[error.start]) & 0xFF
                self._move(len(self._text) - len(more) + error.start)
                message = f"the byte 0x{byte:02X} is no valid UTF-8"
                raise ParseError(message, self.line, self._column) from None

    def _move(self, at: int) -> None:
        passed = self._text[self._at : at]
        self._at = at
        bytes_passed = passed if passed.isascii() else passed.encode("utf-8", "surrogateescape")
        self.offset += len(bytes_passed)
        lines = passed.count("\n")
        self.line += lines
        self._column = len(passed) - passed.rfind("\n") if lines else self._column + len(passed)


def _sentence(message: str) -> str:
    return f"not JSON: {message[:1].lower()}{message[1:]}"
