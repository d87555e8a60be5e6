"""The command line: one file a command, flags → settings, nothing else. No heavy import here."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from audio_batch import __version__
from audio_batch.cli.doctor import doctor
from audio_batch.cli.eval import evaluate
from audio_batch.cli.export import export
from audio_batch.cli.manifest import app as manifest_app
from audio_batch.cli.models import app as models_app
from audio_batch.cli.retry import retry
from audio_batch.cli.run import run
from audio_batch.cli.speakers import app as speakers_app
from audio_batch.cli.status import status
from audio_batch.cli.verify import verify
from audio_batch.errors import AudioBatchError, ExitCode, ManifestError
from audio_batch.text import for_terminal, redact

SHOWN_PROBLEMS = 50

app = typer.Typer(
    name="audio-batch",
    help="Transcribe a manifest of recordings, on whatever devices there are, and lose nothing.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    epilog="Exit codes: 0 every asset done, 1 internal error, 2 usage, 3 some assets failed, "
    "4 invalid manifest, 5 environment (model, device, space), 11 another run is at work, "
    "130 interrupted (run again to go on).",
)
app.command("run")(run)
app.command("status")(status)
app.command("verify")(verify)
app.command("retry")(retry)
app.command("export")(export)
app.command("doctor")(doctor)
app.command("eval")(evaluate)
app.add_typer(manifest_app, name="manifest")
app.add_typer(models_app, name="models")
app.add_typer(speakers_app, name="speakers")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"audio-batch {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version.")
    ] = False,
) -> None:
    pass


def run_app(arguments: Sequence[str]) -> int:
    """Run a command line and return its exit code. Every error becomes a sentence on stderr."""
    from audio_batch.logs import utf8_streams

    utf8_streams()
    try:
        answer = app(list(arguments), standalone_mode=False)
    except AudioBatchError as error:
        _explain(error)
        return error.exit_code
    except KeyboardInterrupt:
        _say("Interrupted. Run the same command again to go on.")
        return ExitCode.INTERRUPTED
    except BrokenPipeError:  # `status | head`: whoever reads has seen enough
        _give_up_output()
        return ExitCode.OK
    except Exception as error:
        return _unexpected(error)
    try:
        sys.stdout.flush()
    except OSError:
        _give_up_output()
    return answer if isinstance(answer, int) else ExitCode.OK


def _give_up_output() -> None:
    """Keep the interpreter from failing at its end over output that nobody takes any more."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _unexpected(error: Exception) -> int:
    # Click's own errors (a bad flag) know how to show themselves and what code they mean.
    show, code = getattr(error, "show", None), getattr(error, "exit_code", None)
    if callable(show) and isinstance(code, int):
        show()
        return code
    logging.getLogger("audio_batch").debug("internal error", exc_info=error)
    _say(
        f"Internal error: {type(error).__name__}: {error}. Please report it; "
        "with --log-file the log holds the traceback."
    )
    return ExitCode.INTERNAL


def _explain(error: AudioBatchError) -> None:
    """Say an error on stderr, and in the log file where there is one."""
    problems = error.problems if isinstance(error, ManifestError) else ()
    lines = [str(error), *(f"  {problem}" for problem in problems[:SHOWN_PROBLEMS])]
    if len(problems) > SHOWN_PROBLEMS:
        lines.append(f"  and {len(problems) - SHOWN_PROBLEMS} more")
    from audio_batch.logs import record_error

    for line in lines:
        if not record_error(redact(line)):
            _say(line)


def _say(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        print(for_terminal(redact(text)), file=sys.stderr)
