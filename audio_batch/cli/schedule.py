"""`audio-batch schedule`: a command every night, by cron, systemd or the Task Scheduler."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from audio_batch.scheduling.steps import Scheduler, Step

app = typer.Typer(help="Have a command run every night.", no_args_is_help=True)

_FAMILIES = (
    *("AUDIO_BATCH_", "AWS_", "AZURE_", "GOOGLE_", "HF_", "PG", "RAY_", "CUDA_VISIBLE_DEVICES"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
    "SSL_CERT_FILE",
)
"""How the names of variables begin that a run goes by."""

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
    parse_name(name)
    _refuse_secrets(command)
    words, is_script = _command(command, begin)
    programs = _programs() if is_script else ""
    entry = Entry(name, hour, minute, parse_days(days), words, begin, programs)
    chosen = _only(name, scheduler)
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
    found = False
    for one in [_chosen(scheduler)] if scheduler else _available():
        if steps := one.remove(name):
            found = True
            _perform(one, steps, dry_run=dry_run, yes=yes)
    if found:
        return 0
    _say(f"There is no entry '{name}'. Nothing to do.")
    return 0


@app.command("show")
def show(scheduler: Which = None) -> int:
    """Show the entries that `install` has written."""
    from audio_batch.text import for_terminal, redact

    found = False
    for one in [_chosen(scheduler)] if scheduler else _available():
        for name, text in one.listed().items():
            found = True
            print(f"{name} ({one.name}):")
            for line in text.splitlines():
                print(f"    {for_terminal(redact(line))}")
    if not found:
        _say("Nothing is installed.")
    return 0


def _perform(scheduler: Scheduler, steps: Sequence[Step], *, dry_run: bool, yes: bool) -> bool:
    """Show, ask, do. Whether it was done."""
    from audio_batch.errors import UsageError
    from audio_batch.text import for_terminal, redact

    if not steps:
        _say("It is so already. Nothing to do.")
        return False
    print(f"By {scheduler.name}:")
    for step in steps:
        for line in step.shown().splitlines():
            print(f"  {for_terminal(redact(line))}")
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


def _refuse_secrets(words: Sequence[str]) -> None:
    """A crontab, a unit and a task are read by others, and so is a list of processes.

    Raises:
        UsageError: something among the words looks like a secret.
    """
    from audio_batch.errors import UsageError
    from audio_batch.text import redact

    # A variable's name is no secret, nor is who somebody is to a database.
    text = re.sub(r"\$\{\w+\}", "", " ".join(words))
    text = re.sub(r"(?i)\b(?!https?:)([a-z][a-z0-9+.-]*://)[^\s/?#@:]*:?@", r"\1", text)
    if redact(text) != text:
        raise UsageError(
            "The command holds what looks like a password or a token, and others can read what is "
            "scheduled.",
            remedy="Schedule a script that sets it as a variable from a file only you can read "
            "(examples/cron/nightly.sh), or put it where its library looks: ~/.pgpass, ~/.aws.",
        )


def _command(words: Sequence[str], folder: Path) -> tuple[tuple[str, ...], bool]:
    """The program and its arguments, and whether it is a script.

    A command of ours is read as it will be, to find slips now.

    Raises:
        UsageError: it is neither a command of ours nor a script that can be run.
    """
    from audio_batch.errors import UsageError
    from audio_batch.scheduling.slips import is_ours, look_for_slips
    from audio_batch.text import for_terminal

    first, *rest = words
    if is_ours(first):
        with contextlib.chdir(folder):
            look_for_slips(words)
        return (*_program(), *words), False
    path = folder / Path(first).expanduser()
    if not path.is_file():
        raise UsageError(
            f"'{for_terminal(first)}' is neither a command of audio-batch nor a script.",
            remedy="For example: audio-batch schedule install --at 22:30 -- run night.json -o out.",
        )
    if path.suffix.lower() == ".ps1":
        shell = "powershell" if os.name == "nt" else "pwsh"
        found = shutil.which(shell) or shell
        order = (found, "-NoProfile", "-ExecutionPolicy", "Bypass", "-File", str(path), *rest)
        return order, True
    if os.name != "nt" and path.suffix not in (".bat", ".cmd") and not os.access(path, os.X_OK):
        raise UsageError(f"{path} cannot be run.", remedy=f"chmod +x {path}")
    return (str(path), *rest), True


def _program() -> tuple[str, ...]:
    """This program by an absolute path: a scheduler's PATH is short."""
    script = _installed()
    return (sys.executable, "-m", "audio_batch") if script is None else (str(script),)


def _programs() -> str:
    """The folder to be put into PATH for a script that calls this program; "" where there is none.

    One whose name has PATH's own separator in it cannot be written there.
    """
    script = _installed()
    folder = "" if script is None else str(script.parent)
    return "" if os.pathsep in folder else folder


def _installed() -> Path | None:
    """The program `audio-batch` of this interpreter."""
    name = "audio-batch.exe" if os.name == "nt" else "audio-batch"
    for folder in (Path(sys.executable).parent, Path(sysconfig.get_path("scripts"))):
        if (script := folder / name).is_file():
            return script
    return None


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


def _only(name: str, asked: str | None) -> Scheduler:
    """The scheduler for an entry: two of one name would run it twice.

    Raises:
        UsageError: the name is another scheduler's already; there is no such scheduler.
        SetupError: there is none at all.
    """
    from audio_batch.errors import SetupError, UsageError

    chosen = _chosen(asked) if asked is not None else None
    holders = []
    for one in _all():
        with contextlib.suppress(SetupError):  # it is not there, or cannot be read
            if name in one.listed():
                holders.append(one)
    others = [one.name for one in holders if chosen is None or one.name != chosen.name]
    if chosen is None and len(others) < 2:
        return holders[0] if holders else _chosen(None)
    if chosen is not None and not others:
        return chosen
    raise UsageError(
        f"'{name}' is there already, by {' and '.join(others)}.",
        remedy=f"`audio-batch schedule remove --name {name} --scheduler {others[0]}` takes it "
        "away; or choose another --name.",
    )


def _hints(scheduler: Scheduler) -> list[str]:
    """What a person may not know of the scheduler."""
    hints = []
    if variables := sorted(name for name in os.environ if _matters(name)):
        hints.append(
            f"Set here, and not there: {', '.join(variables)}. Put settings into "
            "audio-batch.toml, secrets to where the libraries look for them, and what else the "
            "run needs into the command."
        )
    if scheduler.name == "systemd":
        hints.append("`loginctl enable-linger` has it run while you are logged out, too.")
    if scheduler.name == "schtasks":
        hints.append("It runs while you are logged on; the task's properties can change that.")
    return hints


def _matters(variable: str) -> bool:
    """Whether a variable decides what a run does, who it is to others, or where it keeps what."""
    if variable in ("XDG_CACHE_HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        return True
    return variable.startswith(_FAMILIES)


def _say(text: str) -> None:
    print(text, file=sys.stderr)
