"""The argument and flags of commands that look at what a run has left, wherever it is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

OutputDir = Annotated[
    str, typer.Argument(help="The --output-dir of a run: a folder, or s3://, gs://, az://.")
]
StateDir = Annotated[
    Path | None,
    typer.Option(
        "--state-dir",
        help="The run's --state-dir, where it had one.",
        envvar="AUDIO_BATCH_STATE_DIR",
        show_default=False,
    ),
]
Shard = Annotated[
    str | None,
    typer.Option("--shard", help="The run's --shard, as 2/4.", show_default=False),
]
