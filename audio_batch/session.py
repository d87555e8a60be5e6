"""One `audio-batch run`, from the settings to the exit code.

    lock the folder → find the model → open the journal → plan → (nothing to do: say so)
    → devices → Runner.run → summary

Nothing is written below the output folder while there is nothing to do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from audio_batch import __version__, events, models, summary
from audio_batch.assembly import Fleet, build_options, open_fleet
from audio_batch.config import Settings
from audio_batch.control import Asker
from audio_batch.engines.base import Diarizer
from audio_batch.errors import AudioBatchError, DeviceError, ExitCode, SetupError, UsageError
from audio_batch.journal import Journal
from audio_batch.lifetime import crash_report, leave, signals_to
from audio_batch.lineup import Lineup, find_lineup
from audio_batch.loading import LoadedModels
from audio_batch.manifest import Asset, Manifest
from audio_batch.media import MediaLimits, decode
from audio_batch.naming import OutputNamer
from audio_batch.options import RunOptions
from audio_batch.outcome import RunResult
from audio_batch.pipeline import Context, process, source_identity
from audio_batch.plan import Action, Planned, plan
from audio_batch.pools import ThreadPool
from audio_batch.preflight import PreflightRequest, before_run
from audio_batch.reporters import Reporter, Steady
from audio_batch.request import DEFAULT_OUTPUT, Request, choose, read_manifest
from audio_batch.runner import Runner, Tell
from audio_batch.storage import OutputFolder
from audio_batch.survey import Survey
from audio_batch.text import redact
from audio_batch.voices import names
from audio_batch.voices.folder import settle as settle_linking
from audio_batch.voices.known import KnownVoices, know, naming_key
from audio_batch.voices.memory import Memory, recall

if TYPE_CHECKING:
    from audio_batch.voices.enrolment import Enrolment


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
        languages = {asset.language for asset in assets if asset.language}
        lineup = find_lineup(settings, languages, notice=interface.notice)
        options = build_options(settings, lineup.model)
        if lineup.model.is_demo:
            interface.notice(models.DEMO_NOTICE, warning=True)
        journal = Journal(folder.journal_path)
        stack.callback(journal.close)
        _settle(folder, journal, interface)
        night = _Night(
            request, interface, folder, journal, options, lineup, manifest, assets, RunResult()
        )
        night.people = read_people(settings, lineup)
        night.given = _read_names(folder, interface, linking=bool(settings.link_speakers))
        try:
            code = night.spend(stack)
        except AudioBatchError as error:
            if night.result.dropped:
                interface.notice(str(error), warning=True)
                leave(error.exit_code)
            raise
        if night.result.dropped:
            leave(code)
        return code


@dataclass(slots=True)
class _Night:
    """A run that holds its folder: everything that its steps share."""

    request: Request
    interface: Interface
    folder: OutputFolder
    journal: Journal
    options: RunOptions
    lineup: Lineup
    manifest: Manifest
    assets: list[Asset]
    result: RunResult
    people: Enrolment | None = None
    given: Mapping[str, str] | None = field(default_factory=dict)
    run_id: int | None = None

    def spend(self, stack: ExitStack) -> ExitCode:
        """Plan, run, sum up; the summary is written however the run ends."""
        planned = self.plan()
        for item in planned:
            if item.action is Action.QUARANTINE:
                self.journal.quarantine(item.asset.id, _QUARANTINE_TEXT)
        todo = [item for item in planned if item.action in (Action.PROCESS, Action.RENDER)]
        if not todo:
            self.link()
            self.interface.notice(f"Nothing to do: none of {len(planned)} assets needs work.")
            return self.sum_up(todo, changed=any(x.action is Action.QUARANTINE for x in planned))
        fleet = stack.enter_context(open_fleet(self.options))
        self.preflight(todo, fleet)
        self.run_id = self.journal.begin_run(version=__version__, request=self.request.to_json())
        self.journal.forgive(item.asset.id for item in todo if item.fresh)
        self.folder.sweep()
        try:
            self.run(planned, todo, fleet)
            if not (self.result.interrupted or self.result.dropped):
                self.link()
        except BaseException as error:
            with suppress(Exception):  # the first error is the one to be told
                self.sum_up(todo, error=error)
            raise
        return self.sum_up(todo)

    def preflight(self, todo: Sequence[Planned], fleet: Fleet) -> None:
        """Ask what could end the night, before its first asset.

        Raises:
            SetupError: something surely will.
        """
        # A disk that is nearly full may still do for text; a publication that fails says so.
        request = PreflightRequest(
            floor_bytes=0,
            settings=self.request.settings,
            manifest=self.manifest,
            assets=tuple(item.asset for item in todo),
            folder=self.folder,
            devices=fleet.devices,
        )
        errors = []
        for check in before_run(request):
            # A device that cannot run is found out by loading its models, and taken out.
            if check.status == "error" and check.name in ("overwriting", "space"):
                errors.append(f"{check.message} {check.remedy}".strip())
            else:
                self.interface.notice(f"{check.message} {check.remedy}".strip(), warning=True)
        if errors:
            raise SetupError(" ".join(errors))

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
            wanted=self.lineup.wanted,
            stages=self.journal.stages(),
            naming=None
            if self.given is None
            else naming_key(self.given, self.people, self.request.settings.speaker_threshold),
            output_names={asset_id: name.as_posix() for asset_id, name in names.items()},
            root=self.folder.root,
            source_identity=source_identity,
        )

    def run(self, planned: Sequence[Planned], todo: Sequence[Planned], fleet: Fleet) -> None:
        """Drive the runner, with its reporter and the signals, to its end."""
        survey = Survey([item.asset for item in todo if item.action is Action.PROCESS])
        reporter = Steady(self.interface.reporter(fleet, survey))
        loaded = LoadedModels(self.options, self.lineup, fleet)
        known = self.known_voices(fleet, loaded)
        assert self.run_id is not None
        runner = Runner(
            options=self.options,
            journal=self.journal,
            run_id=self.run_id,
            balancer=fleet.balancer,
            pool=lambda tell: self.pool(fleet, loaded, known, tell),
            load_models=loaded.load,
            emit=reporter.handle,
            asker=self.interface.asker(),
        )
        self.result = runner.result
        reporter.handle(self.opening(planned, todo, fleet))
        try:
            with signals_to(runner.stop), crash_report(self.folder.crash_log_path):
                runner.run(todo)
        finally:
            survey.stop()
            reporter.close()

    def pool(
        self, fleet: Fleet, loaded: LoadedModels, known: KnownVoices, tell: Tell
    ) -> ThreadPool:
        """The workers of this run."""
        context = Context(
            root=self.folder.root,
            options=self.options,
            model_name=self.lineup.model.name,
            model_identity=self.lineup.model.identity,
            models=loaded,
            limits=MediaLimits(max_duration_s=self.options.max_duration_s),
            progress=tell.progress,
            stage_done=tell.stage_done,
            published=tell.published,
            named=known.named,
        )
        return ThreadPool(lambda job: process(job, context), fleet.workers)

    def known_voices(self, fleet: Fleet, loaded: LoadedModels) -> KnownVoices:
        """What is known of voices; enrolled clips are listened to on the first device that can."""
        limits = MediaLimits(max_duration_s=self.options.max_duration_s)
        return know(
            self._remembered(),
            self.given or {},
            self.people,
            self.request.settings.speaker_threshold,
            lambda: _first_diarizer(fleet, loaded),
            lambda clip: decode(clip, limits).samples,
        )

    def _remembered(self) -> Memory:
        """The ids of voices; without them the night goes on, and linking says what is wrong."""
        try:
            return recall(self.folder.root)
        except SetupError as error:
            self.interface.notice(str(error), warning=True)
            return Memory()

    def link(self) -> None:
        """Give the voices of all recordings their ids, where that is asked for."""
        settings = self.request.settings
        if not settings.link_speakers:
            return
        from audio_batch.voices.folder import link_output

        report = link_output(self.folder.root, self.journal, threshold=settings.link_threshold)
        self.interface.notice(
            f"{len(report.voices)} voices in {report.recordings} recordings; "
            f"name them in {self.folder.root / names.FILE_NAME}."
        )
        for line in report.left_out:
            self.interface.notice(line, warning=True)

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


def read_people(settings: Settings, lineup: Lineup) -> Enrolment | None:
    """The enrolled voices; what would only be missed at the end of the night is missed now.

    Raises:
        UsageError: the file or a clip of it cannot be used, or a threshold is not known.
    """
    model = lineup.diarizer
    for flag, wanted, given, known in (
        ("speaker", settings.speakers, settings.speaker_threshold, "enrol_threshold"),
        ("link", settings.link_speakers, settings.link_threshold, "link_threshold"),
    ):
        if wanted and given is None and model is not None and getattr(model, known) is None:
            raise UsageError(
                f"How alike two vectors of one voice are is not known of {model.name}.",
                remedy=f"Give a --{flag}-threshold, such as 0.7.",
            )
    if settings.speakers is None or model is None:
        return None
    from audio_batch.voices import enrolment

    return enrolment.read(settings.speakers)


def _first_diarizer(fleet: Fleet, loaded: LoadedModels) -> Diarizer:
    """That of the first device which can load one; the others' failure is told where they work."""
    for device in fleet.devices[:-1]:
        with suppress(DeviceError):
            return loaded.diarizer(device.id)
    return loaded.diarizer(fleet.devices[-1].id)


def _read_names(
    folder: OutputFolder, interface: Interface, *, linking: bool
) -> Mapping[str, str] | None:
    """The names of voices; None where the file is damaged, which must not cost the night.

    Raises:
        UsageError: it is damaged, and to be brought up to date when the night ends.
    """
    try:
        return names.load(folder.root)
    except UsageError as error:
        if linking:
            raise  # at the end of the night it would be too late
        interface.notice(f"{error} Voices keep their ids until it is mended.", warning=True)
        return None


def _settle(folder: OutputFolder, journal: Journal, interface: Interface) -> None:
    """See to what a dead run left: its `running` rows and its crash report."""
    crash = folder.crash_log_path
    crashed = crash.is_file() and crash.stat().st_size > 0
    debris = journal.settle_debris(crashed=crashed)
    settle_linking(folder.root, journal)
    if debris:
        how = "crashed" if crashed else "was killed"
        interface.notice(
            f"The last run {how} while at work on {len(debris)} assets; they are done again.",
            warning=True,
        )
    if crashed:
        crash.replace(crash.with_suffix(".previous.log"))
