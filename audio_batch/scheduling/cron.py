"""Entries in the user's crontab: one line each, which carries its name as a comment at its end.

Quoting goes through two readers. The shell gets words quoted by `shlex`. Before it, cron takes a
bare `%` for a line break, `\\%` for a percent sign; what it makes of other backslashes differs from
cron to cron, so that words with backslashes are refused. See crontab(5).
"""

from __future__ import annotations

import re
import shlex
import shutil
from difflib import ndiff

from audio_batch.errors import SetupError, UsageError
from audio_batch.scheduling.entry import MARK, Entry
from audio_batch.scheduling.steps import Run, Step, call

MOST_BYTES = 990
"""Cron reads commands of less than 1,000 bytes (MAX_COMMAND)."""

_OURS = re.compile(rf"# {re.escape(MARK)} (\S+)\s*$")


class Cron:
    """The user's crontab."""

    name = "cron"

    def available(self) -> bool:
        """See `Scheduler`."""
        return shutil.which("crontab") is not None

    def install(self, entry: Entry) -> list[Step]:
        """See `Scheduler`.

        Raises:
            UsageError: the command cannot be written in a crontab.
            SetupError: the crontab cannot be read.
        """
        before = _lines()
        after, placed = [], False
        for text in before:
            if _named(text) != entry.name:
                after.append(text)
            elif not placed:
                after.append(line(entry))
                placed = True
        return _change(before, after if placed else [*after, line(entry)])

    def remove(self, name: str) -> list[Step]:
        """See `Scheduler`.

        Raises:
            SetupError: the crontab cannot be read.
        """
        before = _lines()
        return _change(before, [text for text in before if _named(text) != name])

    def listed(self) -> dict[str, str]:
        """See `Scheduler`."""
        return {name: text for text in _lines() if (name := _named(text))}


def line(entry: Entry) -> str:
    """The line of a crontab.

    Raises:
        UsageError: the command holds a backslash or is too long.
    """
    words = (str(entry.folder), entry.programs, *entry.command)
    if any("\\" in word for word in words):
        raise UsageError(
            "A backslash means different things to different crons.",
            remedy="Put the command into a script, and schedule that.",
        )
    folder, programs, *command = (shlex.quote(word) for word in words)
    if entry.programs:
        command = ["env", f'PATH={programs}:"$PATH"', *command]
    order = f"cd {folder} && {' '.join(command)}".replace("%", r"\%")
    if len(order.encode("utf-8", "surrogateescape")) > MOST_BYTES:
        raise UsageError(
            "The command is too long for cron, which reads 1,000 bytes of it.",
            remedy="Put settings into audio-batch.toml, or the command into a script.",
        )
    # Sunday is 0, and names may not be listed.
    days = ",".join(str((day + 1) % 7) for day in entry.days) or "*"
    return f"{entry.minute} {entry.hour} * * {days} {order} # {MARK} {entry.name}"


def _named(text: str) -> str | None:
    found = _OURS.search(text)
    return found[1] if found else None


def _lines() -> list[str]:
    told = call(("crontab", "-l"))
    if told.code == 0:
        # Not splitlines: what else it takes for a line's end may stand in a line of somebody's.
        return told.out.removesuffix("\n").split("\n") if told.out else []
    if "no crontab" in told.err.lower() or "no such file" in told.err.lower():
        return []
    raise SetupError(
        f"The crontab cannot be read: {told.err.strip() or f'exit code {told.code}'}.",
        remedy="Choose another with --scheduler.",
    )


def _change(before: list[str], after: list[str]) -> list[Step]:
    if after == before:
        return []
    told = "\n".join(text for text in ndiff(before, after) if text[0] in "+-")
    whole = "".join(f"{text}\n" for text in after)
    return [Run(("crontab", "-"), whole.encode("utf-8", "surrogateescape"), told)]
