"""The flag that names the configuration file, shared by commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Config = Annotated[
    Path | None,
    typer.Option("--config", help="Configuration file (TOML).", envvar="AUDIO_BATCH_CONFIG"),
]
