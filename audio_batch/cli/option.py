"""How a setting's flag is declared: with its variable, its panel, and its default in its help."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import typer

from audio_batch.errors import UsageError

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):[/\\]+")  # a path has one slash left


def opt(help: str, *names: str, panel: str, **more: Any) -> Any:
    """An option whose variable is named after its first long flag: AUDIO_BATCH_MAX_PER_GPU."""
    long = next(name for name in names if name.startswith("--")).split("/")[0]
    variable = "AUDIO_BATCH_" + long.removeprefix("--").upper().replace("-", "_")
    return typer.Option(
        *names,
        help=help,
        rich_help_panel=panel,
        envvar=variable,
        show_default=False,
        show_envvar=False,
        **more,
    )


def manifest_argument(help: str) -> Any:
    """The argument that names a manifest, which is a local file."""
    return typer.Argument(help=help, callback=_refuse_url)


def _refuse_url(manifest: Path | None) -> Path | None:
    from audio_batch.text import for_terminal, redact  # late: --help needs neither

    if manifest is not None and (found := _URL.match(str(manifest))):
        url = f"{found[1]}://{str(manifest)[found.end() :]}"
        raise UsageError(
            f"The manifest is a local file, not {for_terminal(redact(url))}.",
            remedy="Copy it here first. What its entries name may lie at URLs.",
        )
    return manifest
