"""One `audio-batch run`, from the settings to the exit code.

    lock the folder → find the model → open the journal → plan → (nothing to do: say so)
    → devices → Runner.run → summary

Nothing is written below the output folder while there is nothing to do.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from audio_batch import __version__, events, models, summary
from audio_batch.assembly import Fleet, build_options, find_model, load_models, open_fleet
from audio_batch.config import Settings
from audio_batch.errors import ExitCode, UsageError
from audio_batch.formats import FORMATS
from audio_batch.journal import Journal
from audio_batch.manifest import Asset, Manifest, load, parse_fields
from audio_batch.media import MediaLimits
from audio_batch.naming import OutputNamer
from audio_batch.options import RunOptions
from audio_batch.pipeline import Context, Job, process, source_identity
from audio_batch.plan import Action, Planned, plan
from audio_batch.pools import ThreadPool
from audio_batch.reporters import Reporter
from audio_batch.runner import Runner, RunResult
from audio_batch.selection import matcher, parse_condition, select
from audio_batch.storage import OutputFolder
from audio_batch.survey import Survey, declared_duration_s

_log = logging.getLogger("audio_batch.session")

DEFAULT_OUTPUT = Path("transcripts")


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked for: enough for `retry` to ask for it again from another folder."""

    manifest: Path
    settings: Settings

    def to_json(self) -> dict[str, Any]:
        """Plain values for the journal; no secret is among the settings."""
        return {
            "manifest": str(self.manifest),
            "settings": self.settings.model_dump(mode="json", exclude_none=True),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Request:
        """Read what `to_json` wrote."""
        return cls(Path(data["manifest"]), Settings(**data["settings"]))


class Interface:
    """What a session needs from whoever started it: a reporter for its fleet, and an answer."""

    def reporter(self, fleet: Fleet, survey: Survey) -> Reporter:
        """Open the reporter of this run."""
        raise NotImplementedError

    def confirm(self) -> Callable[[], bool] | None:
        """How to ask whether to go on after a failure; None never asks."""
        return None

    def notice(self, text: str, *, warning: bool = False) -> None:
        """Say something before the reporter is open."""
        raise NotImplementedError

    def show(self, result: summary.Summary) -> None:
        """Show the closing table."""
        raise NotImplementedError


def execute(request: Request, interface: Interface) -> ExitCode:
    """Do one run. Main thread only: it installs signal handlers.

    Raises:
        AudioBatchError: whatever keeps the run from beginning or going on.
    """
    settings = request.settings
    manifest, assets = read_assets(request)
    folder = OutputFolder((settings.output_dir or DEFAULT_OUTPUT).absolute())
    folder.create()
    with ExitStack() as stack:
        stack.enter_context(folder.locked())
        model = find_model(settings)
        options = build_options(settings, model)
        if model.is_demo:
            interface.notice(models.DEMO_NOTICE, warning=True)
        _speaker_notice(assets, interface)
        journal = Journal(folder.journal_path)
        stack.callback(journal.close)
        _settle(folder, journal, interface)
        planned = _plan(manifest, assets, options, model, journal, folder)
        for item in planned:
            if item.action is Action.QUARANTINE:
                journal.quarantine(item.asset.id, _QUARANTINE_TEXT)
        todo = [item for item in planned if item.action in (Action.TRANSCRIBE, Action.RENDER)]
        result, run_id = RunResult(), None
        if not todo:
            interface.notice(f"Nothing to do: none of the {len(planned)} assets needs work.")
        if todo:
            run_id = journal.begin_run(version=__version__, request=request.to_json())
            journal.forgive(item.asset.id for item in todo if item.fresh)
            folder.sweep()
            fleet = stack.enter_context(open_fleet(options))
            result = _run(planned, todo, options, model, folder, journal, run_id, fleet, interface)
        outcome = summary.summarise(
            manifest=str(request.manifest),
            output_folder=str(folder.root),
            asset_ids=[asset.id for asset in assets],
            entries=journal.entries(),
            run_id=run_id,
            result=result,
        )
        if run_id is not None:
            journal.end_run(run_id, outcome.exit_code)
            summary.write(outcome, folder.summary_path)
        interface.show(outcome)
        if result.dropped:
            _leave(outcome.exit_code)
        return ExitCode(outcome.exit_code)


_QUARANTINE_TEXT = (
    "The program crashed each time it worked on this asset; it is set aside. "
    "See .audio-batch/crash.log; --retry-failed tries it again."
)


def read_assets(request: Request) -> tuple[Manifest, list[Asset]]:
    """Load the manifest and choose its assets.

    Raises:
        ManifestError: all its problems at once.
        UsageError: a condition that cannot be read, or nothing is chosen.
    """
    settings = request.settings
    where = [parse_condition(text, "--where") for text in settings.where or ()]
    exclude = [parse_condition(text, "--exclude") for text in settings.exclude or ()]
    manifest = load(
        request.manifest,
        root=settings.root,
        fields=parse_fields(settings.field or ()),
        allow_missing=bool(settings.allow_missing),
        known_formats=frozenset(FORMATS),
        wanted=matcher(where, exclude),
    )
    assets = select(
        manifest.assets,
        where=where,
        exclude=exclude,
        order=settings.order or "manifest",
        skip=settings.skip or 0,
        limit=settings.limit,
        durations=declared_duration_s,
    )
    if not assets:
        raise UsageError(
            f"Of {len(manifest.assets)} assets none is left by --where, --exclude, --skip and "
            "--limit.",
            remedy="`audio-batch manifest check` shows what they leave.",
        )
    return manifest, assets


def _speaker_notice(assets: Sequence[Asset], interface: Interface) -> None:
    if any(a.min_speakers or a.max_speakers or a.num_speakers for a in assets):
        interface.notice(
            "The manifest gives numbers of speakers: this version does not tell speakers apart "
            "yet, so they have no effect.",
            warning=True,
        )


def _settle(folder: OutputFolder, journal: Journal, interface: Interface) -> None:
    """See to what a dead run left: its `running` rows and its crash report."""
    crash = folder.crash_log_path
    crashed = crash.is_file() and crash.stat().st_size > 0
    debris = journal.settle_debris(crashed=crashed)
    if debris:
        how = "crashed" if crashed else "was killed"
        interface.notice(
            f"The last run {how} while at work on {len(debris)} assets; they are done again.",
            warning=True,
        )
    if crashed:
        crash.replace(crash.with_suffix(".previous.log"))


def _plan(
    manifest: Manifest,
    assets: Sequence[Asset],
    options: RunOptions,
    model: models.ModelReference,
    journal: Journal,
    folder: OutputFolder,
) -> list[Planned]:
    # Over the whole manifest, so that a name never depends on which assets were selected.
    names = OutputNamer(options.output_template).names(manifest.assets)
    return plan(
        assets,
        journal.entries(),
        options,
        model_identity=model.identity,
        output_names={asset_id: name.as_posix() for asset_id, name in names.items()},
        root=folder.root,
        source_identity=source_identity,
    )


def _run(
    planned: Sequence[Planned],
    todo: Sequence[Planned],
    options: RunOptions,
    model: models.ModelReference,
    folder: OutputFolder,
    journal: Journal,
    run_id: int,
    fleet: Fleet,
    interface: Interface,
) -> RunResult:
    survey = Survey([item.asset for item in todo if item.action is Action.TRANSCRIBE])
    reporter = interface.reporter(fleet, survey)
    recognizers = load_models(options, model, fleet)

    def open_pool(progress: Callable[[Job, str, float, float], None]) -> ThreadPool:
        context = Context(
            root=folder.root,
            options=options,
            model_name=model.name,
            model_identity=model.identity,
            recognizer=recognizers,
            limits=MediaLimits(max_duration_s=options.max_duration_s),
            progress=progress,
        )
        return ThreadPool(lambda job: process(job, context), fleet.workers)

    runner = Runner(
        options=options,
        journal=journal,
        run_id=run_id,
        balancer=fleet.balancer,
        pool=open_pool,
        load_model=recognizers,
        emit=reporter.handle,
        confirm=interface.confirm(),
    )
    known = [item.asset.duration_s for item in todo]
    reporter.handle(
        events.RunStarted(
            todo=len(todo),
            todo_audio_s=sum(d for d in known if d) if all(known) else None,
            already_done=sum(item.action is Action.KEEP for item in planned),
            failed_before=sum(
                item.action in (Action.LEAVE_FAILED, Action.QUARANTINE) for item in planned
            ),
            slots=fleet.workers,
            devices=tuple(
                device.id if device.kind == "cpu" else f"{device.id} ({device.name})"
                for device in fleet.devices
            ),
            output_folder=str(folder.root),
        )
    )
    try:
        with _signals(runner), _crash_report(folder.crash_log_path):
            return runner.run(todo)
    finally:
        survey.stop()
        reporter.close()


@contextmanager
def _signals(runner: Runner) -> Iterator[None]:
    """Turn signals into requests to stop: once finishes what runs, twice drops it.

    SIGTERM (a scheduler's, a shutdown's) leaves running work a grace period and no more.
    """

    def handle(number: int, _frame: FrameType | None) -> None:
        if runner.loading and runner.stopping:
            _leave(ExitCode.INTERRUPTED)  # nothing has begun; a model that loads cannot be stopped
        name = signal.Signals(number).name
        runner.request_stop(name, within_grace=number != signal.SIGINT)

    names = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")
    previous = {}
    for name in names:
        number = getattr(signal, name, None)
        # nohup starts us with SIGHUP ignored, and means it.
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            previous[number] = signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def _crash_report(path: Path) -> Iterator[None]:
    """Have a native crash (segmentation fault, abort) leave every thread's position in a file.

    A file with something in it tells the next run that the program crashed, not that it was
    killed: only then are the assets that ran under suspicion.
    """
    with path.open("w", encoding="utf-8") as file:
        faulthandler.enable(file, all_threads=True)
        try:
            yield
        finally:
            faulthandler.disable()
    path.unlink(missing_ok=True)


def _leave(code: int) -> None:
    """End a process whose dropped work cannot be stopped: native code holds its threads."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)
