"""`audio-batch retry OUT`: the last run that did something again, with what failed in it."""

from __future__ import annotations

from typing import Annotated

import typer

from audio_batch.cli.location import OutputDir, Shard, StateDir


def retry(
    output_dir: OutputDir,
    state_dir: StateDir = None,
    shard: Shard = None,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Go on after failures without asking.")
    ] = False,
) -> int:
    """Repeat the folder's last run that did something, failed assets included."""
    from audio_batch.cli.console import start
    from audio_batch.errors import UsageError
    from audio_batch.journal import Journal
    from audio_batch.output_folder import of_a_run
    from audio_batch.request import Request

    folder = of_a_run(output_dir, state_dir, shard)
    journal = Journal(folder.journal_path, read_only=True)
    run = journal.last_run(idle=False)
    journal.close()
    if run is None:
        raise UsageError(f"No run has begun in {output_dir}.", remedy="Use `audio-batch run`.")
    request = Request.from_json(run.request)
    settings = request.settings.model_copy(
        update={
            # The folder may have been moved since.
            "output_dir": output_dir,
            "state_dir": state_dir,
            "retry_failed": True,
            "overwrite": None,
            "yes": yes or request.settings.yes,
        }
    )
    return start(request.manifest, settings, None)
