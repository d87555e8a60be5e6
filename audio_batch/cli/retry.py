"""`audio-batch retry OUT`: the last run again, with what failed in it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def retry(
    output_dir: Annotated[Path, typer.Argument(help="The --output-dir of a run.")],
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Go on after failures without asking.")
    ] = False,
) -> int:
    """Repeat the folder's last run with the same manifest and settings, failed assets included."""
    from audio_batch.cli.console import start
    from audio_batch.errors import UsageError
    from audio_batch.journal import Journal
    from audio_batch.request import Request
    from audio_batch.storage import OutputFolder

    folder = OutputFolder(output_dir)
    folder.require()
    journal = Journal(folder.journal_path, read_only=True)
    run = journal.last_run()
    journal.close()
    if run is None:
        raise UsageError(f"No run has begun in {output_dir}.", remedy="Use `audio-batch run`.")
    request = Request.from_json(run.request)
    settings = request.settings.model_copy(
        update={
            # The folder may have been moved since.
            "output_dir": str(output_dir),
            "retry_failed": True,
            "overwrite": None,
            "yes": yes or request.settings.yes,
        }
    )
    return start(request.manifest, settings, None)
