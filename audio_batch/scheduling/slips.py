"""Slips in a command of ours, found when it is written down and not at half past ten.

Flags are read as the command will read them, and what it would only understand later (times, parts,
sizes, conditions) by the functions that will.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


def is_ours(word: str) -> bool:
    """Whether it is a command of audio-batch."""
    return word in _program().commands


def look_for_slips(words: Sequence[str]) -> None:
    """Read a command line of audio-batch without its name; relative paths begin here.

    Raises:
        UsageError: a command is not whole, or a value cannot be understood.
        click.UsageError: a flag is not known, or an argument is missing.
    """
    from audio_batch.errors import UsageError
    from audio_batch.text import for_terminal

    command, rest, names = _program(), list(words), ["audio-batch"]
    while known := getattr(command, "commands", None):
        if not rest or rest[0] not in known:
            wrong = f", not '{for_terminal(rest[0])}'" if rest else ""
            raise UsageError(f"After `{' '.join(names)}` comes {', '.join(known)}{wrong}.")
        command = known[rest[0]]
        names.append(rest.pop(0))
    found = command.make_context(" ".join(names), rest).params
    for name, read in _readers().items():
        value = found.get(name)
        for text in value if isinstance(value, list | tuple) else [value]:
            if isinstance(text, str):
                read(text)
    if names[1:] == ["run"]:
        _merge(found)


def _readers() -> dict[str, Callable[[str], object]]:
    """What reads the value of a flag, by the name of its setting."""
    from audio_batch.databases.query import parse_parameters
    from audio_batch.formats import parse_formats
    from audio_batch.host_memory import parse_size_bytes
    from audio_batch.selection import parse_condition
    from audio_batch.shards import Shard
    from audio_batch.time_limits import parse_clock, parse_duration_s
    from audio_batch.watchdog import Watch

    return {
        "until": lambda text: parse_clock(text, "--until"),
        "max_runtime": lambda text: parse_duration_s(text, "--max-runtime"),
        "timeout": lambda text: Watch.of_flags(text, None),
        "stall_timeout": lambda text: Watch.of_flags(None, text),
        "split_long": lambda text: parse_duration_s(text, "--split-long"),
        "min_free_ram": lambda text: parse_size_bytes(text, "--min-free-ram"),
        "cache_size": lambda text: parse_size_bytes(text, "--cache-size"),
        "max_download": lambda text: parse_size_bytes(text, "--max-download"),
        "shard": Shard.parse,
        "where": lambda text: parse_condition(text, "--where"),
        "exclude": lambda text: parse_condition(text, "--exclude"),
        "output_format": parse_formats,
        "param": lambda text: parse_parameters([text]),
    }


def _merge(found: dict[str, Any]) -> None:
    """Settings of a run, with the configuration file that it will find."""
    from audio_batch.config import merge

    flags = {**found, "verbose": found["verbose"] or None}
    merge(flags, manifest=flags.pop("manifest"), config=flags.pop("config"))


def _program() -> Any:
    import typer.main

    from audio_batch.cli.tree import command_line

    return typer.main.get_command(command_line())
