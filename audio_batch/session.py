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
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import FrameType
from typing import Any

from audio_batch import __version__, events, models, summary
from audio_batch.assembly import Fleet, build_options, find_model, load_models, open_fleet
from audio_batch.config import Settings
from audio_batch.control import Asker, StopControl
from audio_batch.engines import Recognizer
from audio_batch.errors import AudioBatchError, ExitCode, UsageError
from audio_batch.formats import FORMATS
from audio_batch.journal import Journal
from audio_batch.manifest import Asset, Manifest, load, parse_fields
from audio_batch.media import MediaLimits
from audio_batch.naming import OutputNamer
from audio_batch.options import RunOptions
from audio_batch.outcome import RunResult
from audio_batch.pipeline import Context, Job, process, source_identity
from audio_batch.plan import Action, Planned, plan
from audio_batch.pools import ThreadPool
from audio_batch.reporters import Reporter, Steady
from audio_batch.runner import Runner
from audio_batch.selection import Condition, matcher, parse_condition, select
from audio_batch.storage import OutputFolder
from audio_batch.survey import Survey, declared_duration_s
from audio_batch.text import redact

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
    """What a session needs from whoever started it: a reporter, an answer, a place to speak."""

    def reporter(self, fleet: Fleet, survey: Survey) -> Reporter:
        """Open the reporter of this run."""
        raise NotImplementedError

    def asker(self) -> Asker | None:
        """Whom to ask after a failure whether to go on; None never asks."""
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
    folder = OutputFolder((settings.output_dir or DEFAULT_OUTPUT).absolute())
    with ExitStack() as stack:
        known = folder.state.is_dir()
        if known:  # before a long manifest is read: who comes second shall know at once
            stack.enter_context(folder.locked())
        manifest = read_manifest(request)
        assets = choose(manifest, settings)
        folder.create()
        if not known:
            stack.enter_context(folder.locked())
        model = find_model(settings, say=interface.notice)
        options = build_options(settings, model)
        if model.is_demo:
            interface.notice(models.DEMO_NOTICE, warning=True)
        _speaker_notice(assets, interface)
        journal = Journal(folder.journal_path)
        stack.callback(journal.close)
        _settle(folder, journal, interface)
        night = _Night(
            request, interface, folder, journal, options, model, manifest, assets, RunResult()
        )
        try:
            code = night.spend(stack)
        except AudioBatchError as error:
            if night.result.dropped:
                interface.notice(str(error), warning=True)
                _leave(error.exit_code)
            raise
        if night.result.dropped:
            _leave(code)
        return code


@dataclass(slots=True)
class _Night:
    """A run that holds its folder: everything that its steps share."""

    request: Request
    interface: Interface
    folder: OutputFolder
    journal: Journal
    options: RunOptions
    model: models.ModelReference
    manifest: Manifest
    assets: list[Asset]
    result: RunResult
    run_id: int | None = None

    def spend(self, stack: ExitStack) -> ExitCode:
        """Plan, run, sum up; the summary is written however the run ends."""
        planned = self.plan()
        for item in planned:
            if item.action is Action.QUARANTINE:
                self.journal.quarantine(item.asset.id, _QUARANTINE_TEXT)
        todo = [item for item in planned if item.action in (Action.TRANSCRIBE, Action.RENDER)]
        if not todo:
            self.interface.notice(f"Nothing to do: none of {len(planned)} assets needs work.")
            return self.sum_up(todo, changed=any(x.action is Action.QUARANTINE for x in planned))
        fleet = stack.enter_context(open_fleet(self.options))
        self.run_id = self.journal.begin_run(version=__version__, request=self.request.to_json())
        self.journal.forgive(item.asset.id for item in todo if item.fresh)
        self.folder.sweep()
        try:
            self.run(planned, todo, fleet)
        except BaseException as error:
            with suppress(Exception):  # the first error is the one to be told
                self.sum_up(todo, error=error)
            raise
        return self.sum_up(todo)

    def plan(self) -> list[Planned]:
        """What is to be done about each asset."""
        # Over the whole manifest, so that a name never depends on which assets were selected; and
        # past the names of other manifests' assets that this folder holds.
        ids = {asset.id for asset in self.manifest.assets}
        entries = list(self.journal.entries())
        taken = {
            PurePosixPath(output.path).with_suffix("")
            for entry in entries
            if entry.asset_id not in ids
            for output in entry.outputs
            if output.format == "json"
        }
        names = OutputNamer(self.options.output_template).names(self.manifest.assets, taken=taken)
        return plan(
            self.assets,
            entries,
            self.options,
            model_identity=self.model.identity,
            output_names={asset_id: name.as_posix() for asset_id, name in names.items()},
            root=self.folder.root,
            source_identity=source_identity,
        )

    def run(self, planned: Sequence[Planned], todo: Sequence[Planned], fleet: Fleet) -> None:
        """Drive the runner, with its reporter and the signals, to its end."""
        survey = Survey([item.asset for item in todo if item.action is Action.TRANSCRIBE])
        reporter = Steady(self.interface.reporter(fleet, survey))
        recognizers = load_models(self.options, self.model, fleet)
        assert self.run_id is not None
        runner = Runner(
            options=self.options,
            journal=self.journal,
            run_id=self.run_id,
            balancer=fleet.balancer,
            pool=lambda progress: self.pool(fleet, recognizers, progress),
            load_model=recognizers,
            emit=reporter.handle,
            asker=self.interface.asker(),
        )
        self.result = runner.result
        reporter.handle(self.opening(planned, todo, fleet))
        try:
            with _signals(runner.stop), _crash_report(self.folder.crash_log_path):
                runner.run(todo)
        finally:
            survey.stop()
            reporter.close()

    def pool(
        self,
        fleet: Fleet,
        recognizers: Callable[[str], Recognizer],
        progress: Callable[[Job, str, float, float], None],
    ) -> ThreadPool:
        """The workers of this run."""
        context = Context(
            root=self.folder.root,
            options=self.options,
            model_name=self.model.name,
            model_identity=self.model.identity,
            recognizer=recognizers,
            limits=MediaLimits(max_duration_s=self.options.max_duration_s),
            progress=progress,
        )
        return ThreadPool(lambda job: process(job, context), fleet.workers)

    def opening(
        self, planned: Sequence[Planned], todo: Sequence[Planned], fleet: Fleet
    ) -> events.RunStarted:
        """What there is to do, and on what."""
        known = [item.asset.duration_s for item in todo]
        left = (Action.LEAVE_FAILED, Action.QUARANTINE)
        return events.RunStarted(
            todo=len(todo),
            todo_audio_s=sum(d for d in known if d) if all(known) else None,
            already_done=sum(item.action is Action.KEEP for item in planned),
            failed_before=sum(item.action in left for item in planned),
            slots=fleet.workers,
            devices=tuple(
                device.id if device.kind == "cpu" else f"{device.id} ({device.name})"
                for device in fleet.devices
            ),
            output_folder=str(self.folder.root),
        )

    def sum_up(
        self,
        todo: Sequence[Planned],
        *,
        changed: bool = False,
        error: BaseException | None = None,
    ) -> ExitCode:
        """Count what stands, journal the run's end, write `summary.json`, show the table."""
        outcome = summary.summarise(
            manifest=str(self.request.manifest),
            output_folder=str(self.folder.root),
            asset_ids=[asset.id for asset in self.assets],
            skipped=len(self.manifest.assets) - len(self.assets),
            entries=self.journal.entries(),
            run_id=self.run_id,
            todo_ids={item.asset.id for item in todo},
            result=self.result,
        )
        if error is not None:
            outcome.exit_code = getattr(error, "exit_code", ExitCode.INTERNAL)
            outcome.error = redact(str(error))
        if self.run_id is not None:
            self.journal.end_run(self.run_id, outcome.exit_code)
        if self.run_id is not None or changed:
            summary.write(outcome, self.folder.summary_path)
        # What cannot be shown is in the file.
        with suppress(OSError, ValueError):
            self.interface.show(outcome)
        return ExitCode(outcome.exit_code)


_QUARANTINE_TEXT = (
    "The program crashed each time it worked on this asset; it is set aside. "
    "See .audio-batch/crash.previous.log; --retry-failed tries it again."
)


def read_manifest(request: Request) -> Manifest:
    """Load the manifest.

    Raises:
        ManifestError: all its problems at once.
        UsageError: a condition that cannot be read.
    """
    settings = request.settings
    where, exclude = _conditions(settings)
    return load(
        request.manifest,
        root=settings.root,
        fields=parse_fields(settings.field or ()),
        allow_missing=bool(settings.allow_missing),
        known_formats=frozenset(FORMATS),
        wanted=matcher(where, exclude),
    )


def choose(manifest: Manifest, settings: Settings) -> list[Asset]:
    """The assets that the settings select, in their order.

    Raises:
        UsageError: none is left.
    """
    where, exclude = _conditions(settings)
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
            remedy="Loosen them; `audio-batch manifest check` without them counts the assets.",
        )
    return assets


def _conditions(settings: Settings) -> tuple[list[Condition], list[Condition]]:
    where = [parse_condition(text, "--where") for text in settings.where or ()]
    exclude = [parse_condition(text, "--exclude") for text in settings.exclude or ()]
    return where, exclude


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


@contextmanager
def _signals(stop: StopControl) -> Iterator[None]:
    """Turn signals into requests to stop: once finishes what runs, twice drops it.

    SIGTERM (a scheduler's, a shutdown's) leaves running work a grace period and no more.
    """

    def handle(number: int, _frame: FrameType | None) -> None:
        stop.request(signal.Signals(number).name, within_grace=number != signal.SIGINT)

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
