"""Entries of Windows' Task Scheduler: a small command file each, and a task that calls it.

A task holds no more than 261 characters and no folder to begin in; hence the file. It goes through
two readers: cmd, to whom quotes hide everything but `%` (written twice), and the program's own
runtime, whose rules are those of `CommandLineToArgvW`. A quote within a word would end what it
hides from cmd: there every character that means something gets a `^`.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import platformdirs

from audio_batch.errors import UsageError
from audio_batch.scheduling.entry import DAYS, MARK, Entry
from audio_batch.scheduling.steps import RemoveFile, Run, Step, WriteFile, call

MOST_CHARACTERS = 261
"""Of a task's command."""

_PLAIN = re.compile(r"[A-Za-z0-9_./\\:+@-]+")
_TO_CMD = re.compile(r'(["^&|<>()])')


class TaskScheduler:
    """The Task Scheduler, by its program `schtasks`."""

    name = "schtasks"

    def available(self) -> bool:
        """See `Scheduler`."""
        return shutil.which("schtasks") is not None

    def install(self, entry: Entry) -> list[Step]:
        """See `Scheduler`. The task is always made anew: what it is cannot be read back exactly.

        Raises:
            UsageError: the command cannot be written for cmd; the file's path is too long.
        """
        path = _file(entry.name)
        order = f'"{path}"'
        if len(order) > MOST_CHARACTERS:
            raise UsageError(f"{path} is too long for a task ({MOST_CHARACTERS} characters).")
        weekly = ("/D", ",".join(DAYS[day].upper() for day in entry.days)) if entry.days else ()
        return [
            WriteFile(path, command_file(entry, path.with_suffix(".log"))),
            Run(
                (
                    *("schtasks", "/Create", "/F", "/TN", _task(entry.name)),
                    *("/SC", "WEEKLY" if weekly else "DAILY", *weekly),
                    *("/ST", f"{entry.hour:02}:{entry.minute:02}", "/TR", order),
                )
            ),
        ]

    def remove(self, name: str) -> list[Step]:
        """See `Scheduler`. What is at work is left at work."""
        path = _file(name)
        if not path.is_file():
            return []
        steps: list[Step] = [RemoveFile(path)]
        if call(("schtasks", "/Query", "/TN", _task(name))).code == 0:
            steps.insert(0, Run(("schtasks", "/Delete", "/F", "/TN", _task(name))))
        return steps

    def listed(self) -> dict[str, str]:
        """See `Scheduler`."""
        found = {}
        for path in sorted(_home().glob("*.cmd")):
            told = call(("schtasks", "/Query", "/FO", "LIST", "/TN", _task(path.stem)))
            lines = path.read_text(encoding="utf-8").splitlines()
            command = [line for line in lines if line.startswith(("cd ", '"'))]
            found[path.stem] = "\n".join([(told.out or told.err).strip(), *command])
        return found


def command_file(entry: Entry, log: Path) -> bytes:
    """The file that the task calls: UTF-8, lines end as Windows has them.

    Args:
        log: gets what the command says; the Task Scheduler throws it away.

    Raises:
        UsageError: a word cannot be given to a command file.
    """
    program = entry.command[0]
    is_script = program.lower().endswith((".bat", ".cmd"))
    if is_script and any('"' in word for word in entry.command):
        raise UsageError(
            "A quote cannot be given to a command file.", remedy="Write it into the file itself."
        )
    # No `call` before a script: it would read `%` and `^` once more. So this file ends there.
    words = " ".join([f'"{_doubled(program)}"', *(_word(word) for word in entry.command[1:])])
    folder = _doubled(str(entry.folder).rstrip("\\"))
    lines = (
        "@echo off",
        f"rem {MARK} {entry.name}",
        "setlocal EnableExtensions DisableDelayedExpansion",
        "chcp 65001 >nul",
        'set "PYTHONUTF8=1"',
        *([f'set "PATH={_doubled(entry.programs)};%PATH%"'] if entry.programs else []),
        f'if not exist "{folder}\\" exit /b 5',
        f'cd /d "{folder}\\"',
        f'{words} >>"{_doubled(str(log))}" 2>&1',
        "exit /b %ERRORLEVEL%",
        "",
    )
    return "\r\n".join(lines).encode("utf-8")


def _word(word: str) -> str:
    if _PLAIN.fullmatch(word):
        return word
    # Backslashes mean something to the runtime before a quote alone.
    quoted = re.sub(r'(\\*)"', r'\1\1\\"', word)
    quoted = '"' + re.sub(r"(\\+)$", r"\1\1", quoted) + '"'
    if '"' in word:
        quoted = _TO_CMD.sub(r"^\1", quoted)
    return _doubled(quoted)


def _doubled(text: str) -> str:
    return text.replace("%", "%%")


def _task(name: str) -> str:
    return f"audio-batch\\{name}"


def _home() -> Path:
    return Path(platformdirs.user_data_dir("audio-batch", appauthor=False)) / "schedule"


def _file(name: str) -> Path:
    return _home() / f"{name}.cmd"
