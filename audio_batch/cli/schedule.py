"""`audio-batch schedule`: a command every night, by cron, systemd or the Task Scheduler."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from audio_batch.scheduling.steps import Scheduler, Step

app = typer.Typer(help="Have a command run every night.", no_args_is_help=True)

Name = Annotated[str, typer.Option("--name", help="What the entry is called.")]
Which = Annotated[
    str | None,
    typer.Option(
        "--scheduler",
        help="cron, systemd or schtasks \\[the first that there is].",
        show_default=False,
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only show what would be written.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Write it without asking.")]


@app.command("install")
def install(
    command: Annotated[
        list[str],
        typer.Argument(
            help="After --: a command of audio-batch, as `run night.json -o out`; or a script of "
            "yours with its arguments."
        ),
    ],
    at: Annotated[str, typer.Option("--at", help="Time of day, as 22:30.")],
    days: Annotated[str, typer.Option("--days", help="daily, mon-fri, sat,sun.")] = "daily",
    name: Name = "night",
    folder: Annotated[
        Path | None,
        typer.Option(
            "--folder", help="Where it begins \\[the current folder].", show_default=False
        ),
    ] = None,
    scheduler: Which = None,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> int:
    """Write an entry, or change the one of that name. What will be written is shown first.

    audio-batch schedule install --at 22:30 -- run night.json -o out --until 06:00
    """
    from audio_batch.errors import UsageError
    from audio_batch.scheduling.entry import Entry, parse_days, parse_name, parse_time

    begin = Path.cwd() if folder is None else folder.expanduser().absolute()
    if not begin.is_dir():
        raise UsageError(f"There is no folder {begin}.", remedy="Name one with --folder.")
    hour, minute = parse_time(at)
    entry = Entry(parse_name(name), hour, minute, parse_days(days), _command(command, begin), begin)
    chosen = _chosen(scheduler)
    done = _perform(chosen, chosen.install(entry), dry_run=dry_run, yes=yes)
    if done:
        _say(f"'{entry.name}' runs at {hour:02}:{minute:02}, by {chosen.name}.")
        for hint in _hints(chosen):
            _say(hint)
    return 0


@app.command("remove")
def remove(
    name: Name = "night",
    scheduler: Which = None,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> int:
    """Take an entry away. What is at work is left at work."""
    from audio_batch.scheduling.entry import parse_name

    parse_name(name)
    for one in [_chosen(scheduler)] if scheduler else _available():
        if steps := one.remove(name):
            _perform(one, steps, dry_run=dry_run, yes=yes)
            return 0
    _say(f"There is no entry '{name}'. Nothing to do.")
    return 0


@app.command("show")
def show(scheduler: Which = None) -> int:
    """Show the entries that `install` has written."""
    from audio_batch.text import for_terminal

    for one in [_chosen(scheduler)] if scheduler else _available():
        for name, text in one.listed().items():
            print(f"{name} ({one.name}):")
            for line in text.splitlines():
                print(f"    {for_terminal(line)}")
    return 0


def _perform(scheduler: Scheduler, steps: Sequence[Step], *, dry_run: bool, yes: bool) -> bool:
    """Show, ask, do. Whether it was done."""
    from audio_batch.errors import UsageError
    from audio_batch.text import for_terminal

    if not steps:
        _say("It is so already. Nothing to do.")
        return False
    print(f"By {scheduler.name}:")
    for step in steps:
        for line in step.shown().splitlines():
            print(f"  {for_terminal(line)}")
    if dry_run:
        return False
    sys.stdout.flush()
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError("Nothing was written: there is nobody to ask.", remedy="Give --yes.")
        if not _confirmed():
            _say("Nothing was written.")
            return False
    for step in steps:
        step.perform()
    return True


def _confirmed() -> bool:
    try:
        return typer.confirm("Go on?", err=True)
    except typer.Abort:  # the end of the input, or Ctrl-C
        _say("")
        return False


def _command(words: Sequence[str], folder: Path) -> tuple[str, ...]:
    """The program and its arguments; a command of ours is read as it will be, to find slips now.

    Raises:
        UsageError: it is neither a command of ours nor a script that can be run.
    """
    import typer.main

    from audio_batch.errors import UsageError
    from audio_batch.text import for_terminal

    first, *rest = words
    ours = typer.main.get_command(_program_app())
    command = getattr(ours, "commands", {}).get(first)
    if command is not None:
        with contextlib.chdir(folder):
            command.make_context(f"audio-batch {first}", list(rest))
        return (*_program(), *words)
    path = folder / Path(first).expanduser()
    if not path.is_file():
        raise UsageError(
            f"'{for_terminal(first)}' is neither a command of audio-batch nor a script.",
            remedy="For example: audio-batch schedule install --at 22:30 -- run night.json -o out.",
        )
    if path.suffix.lower() == ".ps1":
        shell = "powershell" if os.name == "nt" else "pwsh"
        found = shutil.which(shell) or shell
        return (found, "-NoProfile", "-ExecutionPolicy", "Bypass", "-File", str(path), *rest)
    if os.name != "nt" and path.suffix not in (".bat", ".cmd") and not os.access(path, os.X_OK):
        raise UsageError(f"{path} cannot be run.", remedy=f"chmod +x {path}")
    return (str(path), *rest)


def _program_app() -> typer.Typer:
    from audio_batch.cli import app as whole

    return whole


def _program() -> tuple[str, ...]:
    """This program by an absolute path: a scheduler's PATH is short."""
    script = Path(sys.executable).with_name("audio-batch.exe" if os.name == "nt" else "audio-batch")
    if script.is_file():
        return (str(script),)
    return (sys.executable, "-m", "audio_batch")


def _available() -> list[Scheduler]:
    return [one for one in _all() if one.available()]


def _all() -> list[Scheduler]:
    from audio_batch.scheduling.cron import Cron
    from audio_batch.scheduling.schtasks import TaskScheduler
    from audio_batch.scheduling.systemd import Systemd

    return [TaskScheduler()] if os.name == "nt" else [Systemd(), Cron(), TaskScheduler()]


def _chosen(name: str | None) -> Scheduler:
    from audio_batch.errors import SetupError, UsageError

    every = {one.name: one for one in _all()}
    if name is not None:
        if name not in every:
            raise UsageError(f"--scheduler '{name}' is not one of {', '.join(every)}.")
        return every[name]
    for one in every.values():
        if one.available():
            return one
    raise SetupError(
        "There is no scheduler: neither a systemd of the user, nor crontab, nor schtasks.",
        remedy="Install cron, or have what you use run the command.",
    )


def _hints(scheduler: Scheduler) -> list[str]:
    """What a person may not know of the scheduler."""
    hints = []
    if variables := sorted(name for name in os.environ if name.startswith("AUDIO_BATCH_")):
        hints.append(
            f"Set here, and not there: {', '.join(variables)}. Put them into audio-batch.toml, or "
            "secrets to where the libraries look for them."
        )
    if scheduler.name == "systemd":
        hints.append("`loginctl enable-linger` has it run while you are logged out, too.")
    if scheduler.name == "schtasks":
        hints.append("It runs while you are logged on; the task's properties can change that.")
    return hints


def _say(text: str) -> None:
    print(text, file=sys.stderr)
