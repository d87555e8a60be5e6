"""The end of a run: what stands is counted, journalled, written down, sent and shown."""

from __future__ import annotations

from contextlib import suppress

from audio_batch import summary
from audio_batch.errors import AssetError, ErrorKind, ExitCode
from audio_batch.night import Night
from audio_batch.occupied import is_no_summary
from audio_batch.storage import name_taken
from audio_batch.text import for_terminal, redact
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
        _write(night, outcome, replace=todo.has_summary)
    if night.run_id is not None:
        night.journal.end_run(night.run_id, outcome.exit_code)
    # What cannot be shown is in the file.
    with suppress(OSError, ValueError):
        night.interface.show(outcome)
    return ExitCode(outcome.exit_code)


def _write(night: Night, outcome: summary.Summary, *, replace: bool) -> None:
    """Write the summary beside the outputs; where it cannot stand there, with the state alone.

    Args:
        replace: whether what has its name may be written over, whatever it is.
    """
    folder = night.folder
    name, outputs = folder.summary_path.name, folder.place.open()
    if folder.is_local:
        path = folder.summary_path
        if not replace and outputs.is_seen(name) and is_no_summary(outputs, name):
            path = folder.state / name
            told = f"{name_taken(name).message} The summary is in {for_terminal(str(path))}."
            night.interface.notice(told, warning=True)
        summary.write(outcome, path)
        return
    summary.write(outcome, folder.summary_path)
    try:
        try:
            folder.send_summary(replace=replace)
        except AssetError as error:
            if error.kind is not ErrorKind.OUTPUT_EXISTS or is_no_summary(outputs, name):
                raise
            folder.send_summary(replace=True)
    except AssetError as error:
        told = f"{error.message} The summary is in {for_terminal(str(folder.summary_path))}."
        night.interface.notice(f"{told} {error.remedy}".rstrip(), warning=True)
