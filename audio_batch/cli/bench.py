"""`audio-batch bench`: how fast it is here, by runs that anybody can repeat."""

from __future__ import annotations

import typer

from audio_batch.cli.bench_compare import compare
from audio_batch.cli.bench_peers import peers
from audio_batch.cli.bench_run import run
from audio_batch.cli.bench_scale import scale

app = typer.Typer(
    help="Measure how fast it is here: by settings, beside other programs, by the amount of work.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
app.command("run")(run)
app.command("peers")(peers)
app.command("scale")(scale)
app.command("compare")(compare)
