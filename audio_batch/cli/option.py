"""How a setting's flag is declared: with its variable, its panel, and its default in its help."""

from __future__ import annotations

from typing import Any

import typer


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
