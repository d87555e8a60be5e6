"""Entries as a timer and a service of the user's systemd.

Quoting follows systemd.syntax(7) and systemd.service(5): in `ExecStart=` words are quoted with C's
escapes, `%` begins a specifier and `$` a variable, each written twice to be itself; the program's
own path knows no variables. `WorkingDirectory=` takes the rest of its line as it is, but for `%`.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from audio_batch.errors import ExitCode, SetupError, UsageError
from audio_batch.scheduling.entry import DAYS, MARK, Entry
from audio_batch.scheduling.steps import RemoveFile, Run, Step, WriteFile, call

_PLAIN = re.compile(r"[A-Za-z0-9_./:=,+@-]+")
_PREFIX = "audio-batch-"
_PATH = "/usr/local/bin:/usr/bin:/bin"  # `Environment=` knows no variables


class Systemd:
    """The user's systemd."""

    name = "systemd"

    def available(self) -> bool:
        """See `Scheduler`: on many servers and in containers the user has none."""
        if shutil.which("systemctl") is None:
            return False
        try:
            return call(("systemctl", "--user", "show-environment")).code == 0
        except SetupError:
            return False

    def install(self, entry: Entry) -> list[Step]:
        """See `Scheduler`.

        Raises:
            UsageError: a unit of that name is somebody else's; the folder cannot be written in one.
        """
        wanted = {
            _unit(entry.name, "service"): service(entry),
            _unit(entry.name, "timer"): timer(entry),
        }
        there = {path: _read(path) for path in wanted}
        for path, text in there.items():
            if text is not None and MARK not in text:
                raise UsageError(f"{path} was not made by this command.", remedy="Choose a --name.")
        as_wanted = there == wanted
        name = f"{_PREFIX}{entry.name}.timer"
        if as_wanted and call(("systemctl", "--user", "is-active", name)).code == 0:
            return []
        steps: list[Step] = [
            WriteFile(path, text.encode()) for path, text in wanted.items() if text != there[path]
        ]
        # A timer that runs goes on as it was until it is begun anew.
        orders = (("daemon-reload",), ("enable", name), ("restart", name))
        return steps + [Run(("systemctl", "--user", *order)) for order in orders]

    def remove(self, name: str) -> list[Step]:
        """See `Scheduler`. What is at work is left at work."""
        paths = [_unit(name, kind) for kind in ("timer", "service")]
        mine = [path for path in paths if MARK in (_read(path) or "")]
        if not mine:
            return []
        return [
            Run(("systemctl", "--user", "disable", "--now", f"{_PREFIX}{name}.timer")),
            *(RemoveFile(path) for path in mine),
            Run(("systemctl", "--user", "daemon-reload")),
        ]

    def listed(self) -> dict[str, str]:
        """See `Scheduler`."""
        found = {}
        for path in sorted(_folder().glob(f"{_PREFIX}*.timer")):
            if MARK in (text := _read(path) or ""):
                name = path.stem.removeprefix(_PREFIX)
                lines = (text + (_read(_unit(name, "service")) or "")).splitlines()
                told = ("OnCalendar=", "WorkingDirectory=", "ExecStart=")
                found[name] = "\n".join(line for line in lines if line.startswith(told))
        return found


def service(entry: Entry) -> str:
    """The text of the service.

    Raises:
        UsageError: the folder's name cannot be written in it.
    """
    folder = str(entry.folder)
    if folder != folder.strip() or folder.endswith("\\"):
        raise UsageError(
            f"systemd cannot begin in '{folder}', whose name ends with a blank or a backslash."
        )
    path = [f"Environment={_quoted(f'PATH={entry.programs}:{_PATH}')}"] if entry.programs else []
    program, *arguments = entry.command
    order = " ".join([_quoted(program), *(_quoted(word).replace("$", "$$") for word in arguments)])
    return "\n".join(
        [
            f"# {MARK} {entry.name}",
            "[Unit]",
            f"Description=audio-batch: {entry.name}",
            "",
            "[Service]",
            "Type=oneshot",
            f"WorkingDirectory={folder.replace('%', '%%')}",
            *path,
            f"ExecStart={order}",
            "# Another run is at work; it was stopped and goes on the next night: no failures.",
            f"SuccessExitStatus={ExitCode.LOCKED:d} {ExitCode.INTERRUPTED:d}",
            "# What is being transcribed gets 25 seconds, then the state is saved.",
            "TimeoutStopSec=2min",
            "",
        ]
    )


def timer(entry: Entry) -> str:
    """The text of the timer."""
    days = ",".join(DAYS[day].capitalize() for day in entry.days)
    when = f"{days} *-*-* {entry.hour:02}:{entry.minute:02}:00".strip()
    return "\n".join(
        [
            f"# {MARK} {entry.name}",
            "[Unit]",
            f"Description=audio-batch: {entry.name}",
            "",
            "[Timer]",
            f"OnCalendar={when}",
            "",
            "[Install]",
            "WantedBy=timers.target",
            "",
        ]
    )


def _quoted(word: str) -> str:
    if _PLAIN.fullmatch(word):
        return word
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'


def _folder() -> Path:
    home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(home) / "systemd" / "user"


def _unit(name: str, kind: str) -> Path:
    return _folder() / f"{_PREFIX}{name}.{kind}"


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return None
