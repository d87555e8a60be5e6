"""The end of a run: what stands is counted, journalled, written down, sent and shown."""

from __future__ import annotations

from contextlib import suppress

from audio_batch import summary
from audio_batch.errors import AssetError, ExitCode
from audio_batch.night import Night
from audio_batch.text import redact
from audio_batch.todo import Todo


def sum_up(
    night: Night, todo: Todo, *, changed: bool = False, error: BaseException | None = None
) -> ExitCode:
    """Count what stands, journal the run's end, write `summary.json`, show the table.

    Args:
        changed: whether there is something new to write of a run that has not begun.
        error: what ended the run.
    """
    undelivered = None
    if night.results is not None:
        in_haste = night.result.dropped or night.result.interrupted
        undelivered = night.results.finish(in_haste=in_haste)
    outcome = summary.summarise(
        manifest=str(night.request.manifest),
        output_folder=night.folder.where,
        journal=night.journal,
        selected=len(night.assets),
        done_before=todo.kept,
        stands=todo.stands,
        skipped=len(night.manifest.assets) - len(night.assets),
        run_id=night.run_id,
        result=night.result,
    )
    outcome.results_undelivered = undelivered
    if night.options.fail_on_degraded and night.result.devices_out and not outcome.exit_code:
        outcome.exit_code = ExitCode.SOME_FAILED
    if error is not None:
        outcome.exit_code = getattr(error, "exit_code", ExitCode.INTERNAL)
        outcome.error = redact(str(error))
    if night.run_id is not None or changed:
        summary.write(outcome, night.folder.summary_path)
        _send_summary(night)
    if night.run_id is not None:
        night.journal.end_run(night.run_id, outcome.exit_code)
    # What cannot be shown is in the file.
    with suppress(OSError, ValueError):
        night.interface.show(outcome)
    return ExitCode(outcome.exit_code)


def _send_summary(night: Night) -> None:
    """Put the summary beside remote outputs; without it there, it is still here."""
    try:
        night.folder.send_summary()
    except AssetError as error:
        night.interface.notice(str(error), warning=True)
