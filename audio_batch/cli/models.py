"""`audio-batch models list|pull|path`: the recognition models of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Recognition models: list, fetch, find.", no_args_is_help=True)

ModelDir = Annotated[
    Path | None,
    typer.Option("--model-dir", envvar="AUDIO_BATCH_MODEL_DIR", help="Where models are kept."),
]


@app.command("list")
def list_models(model_dir: ModelDir = None) -> None:
    """The known names, and which of them are on this machine."""
    from rich.table import Table

    from audio_batch import models
    from audio_batch.errors import SetupError
    from audio_batch.logs import quieten
    from audio_batch.reporters import SteadyConsole

    quieten()
    table = Table("name", "repository", "here")
    demo = models.find(models.DEMO)
    table.add_row(models.DEMO, "shipped with the program (hears digits)", _size(demo.size_bytes))
    for name, repository in models.REPOSITORIES.items():
        try:
            size = _size(models.find(name, model_dir=model_dir, offline=True).size_bytes)
        except SetupError:
            size = ""
        table.add_row(name, repository, size)
    SteadyConsole().print(table)


@app.command()
def pull(
    name: Annotated[str, typer.Argument(help="A Whisper name or a hub repository.")],
    model_dir: ModelDir = None,
) -> None:
    """Fetch a model now, so that a night run needs no network."""
    from audio_batch import models
    from audio_batch.logs import quieten

    quieten()
    found = models.find(
        name, model_dir=model_dir, refresh=True, say=lambda text: typer.echo(text, err=True)
    )
    typer.echo(f"{found.name}: {_size(found.size_bytes)} in", err=True)
    typer.echo(str(found.path))


@app.command()
def path(
    name: Annotated[str, typer.Argument(help="A Whisper name, a hub repository or demo.")],
    model_dir: ModelDir = None,
) -> None:
    """Say where a model lies, without fetching it; exit 5 if it is not here."""
    from audio_batch import models

    typer.echo(str(models.find(name, model_dir=model_dir, offline=True).path))


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:,.0f} MB"
