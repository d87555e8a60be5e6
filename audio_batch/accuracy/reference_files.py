"""The files that hold references: RTTM, UEM, CTM, SegLST and plain text. Any thread.

The readers of files that may be about many recordings give a dictionary, by the recording's name
in the file. All raise `ReferenceFileError`, with the line, for what they cannot read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from audio_batch.accuracy.words import TimedWord
from audio_batch.transcript import Turn

_T = TypeVar("_T")

Stretch = tuple[float, float]
"""Start and end, in seconds."""


class ReferenceFileError(ValueError):
    """A reference that cannot be read; the message is half a sentence after the file's name."""


@dataclass(frozen=True, slots=True)
class Utterance:
    """One object of SegLST; it has times or it has none."""

    speaker: str
    words: str
    times_s: Stretch | None


def read_text(path: Path) -> str:
    """A file of UTF-8 text."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ReferenceFileError("is no UTF-8 text") from error
    except OSError as error:
        raise ReferenceFileError(f"cannot be read: {error.strerror or error}") from error


def read_rttm(path: Path) -> dict[str, tuple[Turn, ...]]:
    """The SPEAKER lines of an RTTM (NIST Rich Transcription Time Marked) file."""
    turns = dict[str, list[Turn]]()
    for number, fields in _lines(path):
        if fields[0] != "SPEAKER":
            continue
        if len(fields) < 8:
            raise ReferenceFileError(f"has a SPEAKER line of fewer than 8 fields: line {number}")
        start_s, end_s = _span(fields[3], fields[4], number)
        turns.setdefault(fields[1], []).append(Turn(fields[7], start_s, end_s))
    if not turns:
        raise ReferenceFileError("is no RTTM: it has no SPEAKER line")
    return _frozen(turns)


def read_uem(path: Path) -> dict[str, tuple[Stretch, ...]]:
    """A UEM (un-partitioned evaluation map): recording, channel, start, end."""
    stretches = dict[str, list[Stretch]]()
    for number, fields in _lines(path):
        if len(fields) != 4:
            raise ReferenceFileError(f"is no UEM: line {number} has not 4 fields")
        start_s, end_s = _seconds(fields[2], number), _seconds(fields[3], number)
        if end_s < start_s:
            raise ReferenceFileError(f"ends before it begins in line {number}")
        stretches.setdefault(fields[0], []).append((start_s, end_s))
    return _frozen(stretches)


def read_ctm(path: Path) -> dict[str, tuple[TimedWord, ...]]:
    """A CTM (NIST time-marked conversation): recording, channel, start, duration, word."""
    words = dict[str, list[TimedWord]]()
    for number, fields in _lines(path):
        if len(fields) < 5:
            raise ReferenceFileError(f"is no CTM: line {number} has fewer than 5 fields")
        start_s, end_s = _span(fields[2], fields[3], number)
        words.setdefault(fields[0], []).append(TimedWord(fields[4], start_s, end_s))
    return _frozen(words)


def read_seglst(path: Path) -> dict[str, tuple[Utterance, ...]]:
    """SegLST as in CHiME and meeteval, a JSON list or JSON Lines, each recording by time.

    Objects need `session_id`, `speaker` and `words`; `start_time` and `end_time` only together.
    """
    text = read_text(path)
    try:
        # A list stands in brackets; JSON Lines are objects, one a line.
        if text.lstrip().startswith("["):
            objects = list(enumerate(json.loads(text), start=1))
        else:
            lines = enumerate(text.splitlines(), start=1)
            objects = [(number, json.loads(line)) for number, line in lines if line.strip()]
    except (ValueError, RecursionError) as error:
        raise ReferenceFileError(f"is no SegLST: {error}") from error
    sessions = dict[str, list[Utterance]]()
    for number, item in objects:
        session, utterance = _utterance(item, number)
        sessions.setdefault(session, []).append(utterance)
    for utterances in sessions.values():
        utterances.sort(key=lambda one: one.times_s[0] if one.times_s else 0.0)
    return _frozen(sessions)


def timed_words(rows: Any) -> tuple[TimedWord, ...]:
    """Words as a manifest's entry gives them: a list of [word, start, end], times in seconds."""
    words = []
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, list) or len(row) != 3 or not isinstance(row[0], str):
            raise ReferenceFileError(
                f"must be a list of [word, start, end]; number {number} is not"
            )
        start_s, end_s = _seconds(row[1], number), _seconds(row[2], number)
        words.append(TimedWord(row[0], start_s, end_s))
    return tuple(words)


def _utterance(item: Any, number: int) -> tuple[str, Utterance]:
    if not isinstance(item, dict):
        raise ReferenceFileError(f"is no SegLST: number {number} is no object")
    values = [item.get(key) for key in ("session_id", "speaker", "words")]
    for key, value in zip(("session_id", "speaker", "words"), values, strict=True):
        if not isinstance(value, (str, int)) or isinstance(value, bool):
            raise ReferenceFileError(f"is no SegLST: number {number} has no {key}")
    times_s = None
    if item.get("start_time") is not None or item.get("end_time") is not None:
        times_s = (_seconds(item.get("start_time"), number), _seconds(item.get("end_time"), number))
    session, speaker, words = map(str, values)
    return session, Utterance(speaker, words, times_s)


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Numbered lines as fields, without those that are empty or comments."""
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if line.strip() and not line.startswith(";"):
            yield number, line.split()


def _span(start: str, duration: str, number: int) -> Stretch:
    start_s = _seconds(start, number)
    return start_s, start_s + _seconds(duration, number)


def _seconds(value: Any, number: int) -> float:
    """A time; CHiME writes them as texts."""
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise ReferenceFileError(f"has in number {number} a time that is none: {value!r:.40}")
    return seconds


def _frozen(lists: dict[str, list[_T]]) -> dict[str, tuple[_T, ...]]:
    return {key: tuple(values) for key, values in lists.items()}
