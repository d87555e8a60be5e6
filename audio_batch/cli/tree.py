"""The commands by name. Only what a command line asks for is imported and built.

Typer builds every command that it is given, with all its flags, before it looks at one argument:
of all commands together that takes longer than most of what is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Annotated

import typer

from audio_batch import __version__

_COMMANDS = {
    "run": "run",
    "status": "status",
    "verify": "verify",
    "retry": "retry",
    "export": "export",
    "doctor": "doctor",
    "gpus": "gpus",
    "plan": "plan",
    "simulate": "simulate",
    "eval": "evaluate",
}
"""Each in the module of its name, with its function, in the order of the help."""

_GROUPS = ("manifest", "models", "bench", "speakers", "results", "schedule")
"""Each in the module of its name, as `app`."""


def command_line(arguments: Sequence[str] = ()) -> typer.Typer:
    """The program's commands: all of them, or as many as these arguments can mean."""
    app = typer.Typer(
        name="audio-batch",
        help="Transcribe a manifest of recordings, on whatever devices there are, and lose "
        "nothing.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        epilog="Exit codes: 0 every asset done, 1 internal error, 2 usage, 3 some assets failed, "
        "4 invalid manifest, 5 environment (model, device, space), 11 another run is at work, "
        "130 interrupted (run again to go on).",
    )
    app.callback()(_main)
    names = [*_COMMANDS, *_GROUPS]
    first = arguments[0] if arguments else None
    if first == "--version":
        names = []
    elif first in names:
        names = [first]
    for name in names:
        module = import_module(f"audio_batch.cli.{name}")
        if name in _GROUPS:
            app.add_typer(module.app, name=name)
        else:
            app.command(name)(getattr(module, _COMMANDS[name]))
    return app


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"audio-batch {__version__}")
        raise typer.Exit


def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version.")
    ] = False,
) -> None:
    pass
