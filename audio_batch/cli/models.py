"""`audio-batch models list|pull|path`: the models of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

app = typer.Typer(help="Models: list, fetch, find.", no_args_is_help=True)

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
    name: Annotated[
        str, typer.Argument(help="A name or a hub repository; for alignment also a language code.")
    ],
    model_dir: ModelDir = None,
    use: Annotated[
        Literal["recognition", "diarization", "alignment"],
        typer.Option("--for", help="What the model is for."),
    ] = "recognition",
    hf_token_file: Annotated[
        Path | None,
        typer.Option(
            "--hf-token-file",
            envvar="AUDIO_BATCH_HF_TOKEN_FILE",
            help="File with a Hugging Face token for gated models [HF_TOKEN].",
        ),
    ] = None,
) -> None:
    """Fetch a model now, so that a night run needs no network."""
    from audio_batch import hub, models
    from audio_batch.logs import quieten

    quieten()

    def say(text: str) -> None:
        typer.echo(text, err=True)

    if use == "diarization":
        from audio_batch.diarization_models import find_diarization

        token = hub.read_token(hf_token_file)
        diarizer = find_diarization(name, model_dir=model_dir, offline=False, token=token, say=say)
        typer.echo(str(diarizer.path))
        return
    if use == "alignment":
        typer.echo(str(_pull_aligner(name, model_dir, hub.read_token(hf_token_file))))
        return
    found = models.find(name, model_dir=model_dir, refresh=True, say=say)
    say(f"{found.name}: {_size(found.size_bytes)} in")
    typer.echo(str(found.path))


def _pull_aligner(name: str, model_dir: Path | None, token: str | None) -> Path:
    from audio_batch.engines.aligners import find_aligner
    from audio_batch.errors import UsageError
    from audio_batch.languages import code_of

    language = code_of(name)
    reference = find_aligner(
        language or "en",
        align_model=None if language else name,
        model_dir=model_dir,
        offline=False,
        token=token,
        say=lambda text: typer.echo(text, err=True),
    )
    if reference is None:
        raise UsageError(f"There is no aligner for {name!r}.")
    return reference.path


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
