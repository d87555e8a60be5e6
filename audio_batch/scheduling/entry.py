"""What is to be run, and when."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from audio_batch.errors import UsageError
from audio_batch.text import for_terminal

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

MARK = "audio-batch schedule:"
"""Stands before the name in everything that is written, so that it is found again."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")
_TIME = re.compile(r"([0-9]{1,2}):([0-9]{2})")


@dataclass(frozen=True, slots=True)
class Entry:
    """A command at a time of day.

    `days` are those of the week, counted from Monday as 0; none of them are all. `command` is its
    program, by an absolute path, and its arguments; `folder` is where it begins. `programs` goes
    before the rest of PATH, for a script that calls audio-batch by its name; "" adds nothing.
    """

    name: str
    hour: int
    minute: int
    days: tuple[int, ...]
    command: tuple[str, ...]
    folder: Path
    programs: str = ""

    def __post_init__(self) -> None:
        for word in (*self.command, str(self.folder), self.programs):
            if any(ord(character) < 0x20 or character == "\x7f" for character in word):
                raise UsageError(
                    f"'{for_terminal(word)}' holds a line break or another control character, "
                    "which no scheduler takes.",
                    remedy="Put the command into a script, and schedule that.",
                )


def parse_name(text: str) -> str:
    """A name of letters, digits, `-` and `_`.

    Raises:
        UsageError: it is something else.
    """
    if _NAME.fullmatch(text) is None:
        raise UsageError(
            f"--name '{for_terminal(text)}' is not of letters, digits, - and _ (40 at most)."
        )
    return text


def parse_time(text: str) -> tuple[int, int]:
    """Read `22:30`.

    Raises:
        UsageError: there is no such time of day.
    """
    found = _TIME.fullmatch(text.strip())
    if found is None or int(found[1]) > 23 or int(found[2]) > 59:
        raise UsageError(
            f"--at '{for_terminal(text)}' is no time of day.", remedy="For example: --at 22:30."
        )
    return int(found[1]), int(found[2])


def parse_days(text: str) -> tuple[int, ...]:
    """Read `daily`, `mon-fri` or `sat,sun`.

    Raises:
        UsageError: it is something else.
    """
    days: set[int] = set()
    lowered = text.strip().lower()
    if lowered == "daily":
        return ()
    for part in lowered.split(","):
        first, dash, last = (piece.strip() for piece in part.partition("-"))
        if first not in DAYS or (dash and last not in DAYS):
            raise UsageError(
                f"--days '{for_terminal(text)}' cannot be read.",
                remedy="For example: --days daily, --days mon-fri, --days sat,sun.",
            )
        begin = DAYS.index(first)
        count = (DAYS.index(last) - begin) % 7 if dash else 0  # fri-mon goes over Sunday
        days.update((begin + step) % 7 for step in range(count + 1))
    return () if len(days) == len(DAYS) else tuple(sorted(days))
