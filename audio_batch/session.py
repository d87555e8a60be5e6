"""One `audio-batch run`, from the settings to the exit code.

    lock the folder → find the model → open the journal → plan → (nothing to do: say so)
    → devices → Runner.run → summary

Nothing is written below the output folder while there is nothing to do.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, cast

from audio_batch import __version__, events, host_memory, manners, models, summary
from audio_batch.ahead import MOST_FREE
from audio_batch.assembly import (
    Fleet,
    build_options,
    is_isolated,
    open_fleet,
    open_host,
    usable_cores,
)
from audio_batch.assets import Assets, stores_of
from audio_batch.claims import sweep
from audio_batch.config import Settings
from audio_batch.control import Asker
from audio_batch.cpu_gate import CpuGate
from audio_batch.crew import Loader
from audio_batch.databases import delivery
from audio_batch.dispatch import Pace
from audio_batch.engines.base import Diarizer
from audio_batch.errors import (
    AssetError,
    AudioBatchError,
    DeviceError,
    ExitCode,
    SetupError,
    UsageError,
)
from audio_batch.fetching import Fetching
from audio_batch.garbage import uncollected
from audio_batch.gates import Gates
from audio_batch.guards import Guards
from audio_batch.journal import Journal
from audio_batch.learnt import LearntSpeeds
from audio_batch.lifetime import crash_report, interruptible, leave, signals_to
from audio_batch.lineup import Lineup, find_lineup
from audio_batch.loading import LoadedModels
from audio_batch.manifest import Manifest
from audio_batch.naming import OutputNamer
from audio_batch.options import RunOptions
from audio_batch.outcome import RunResult
from audio_batch.output_folder import OutputFolder
from audio_batch.outputs import intact
from audio_batch.pacing import USUAL_BATCH, Pacing
from audio_batch.parts import MARGIN_S
from audio_batch.places import Places
from audio_batch.plan import Action, Planned
from audio_batch.pools import Death, Pool, ThreadPool
from audio_batch.pools.processes import ProcessPool
from audio_batch.preflight import PreflightRequest, before_run
from audio_batch.preflight.stores import SignIn
from audio_batch.recovery import Recovery
from audio_batch.remembered import Remembered
from audio_batch.remote.inputs import InputPlace
from audio_batch.remote.settings import inputs_of
from audio_batch.reporters import Reporter, Steady
from audio_batch.request import Request, choose, output_folder, read_manifest
from audio_batch.runner import MakePool, Runner
from audio_batch.survey import Survey, most_s
from audio_batch.tell import Tell
from audio_batch.text import redact
from audio_batch.time_limits import TimeLimit
from audio_batch.todo import Planner, Todo, names_of_others
from audio_batch.voices import names
from audio_batch.voices.folder import settle as settle_linking
from audio_batch.voices.known import naming_key
from audio_batch.voices.memory import Memory, recall
from audio_batch.watchdog import Watch
from audio_batch.workplace import Recipe

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
    time = TimeLimit.of_flags(settings.until, settings.max_runtime)
    Watch.of_flags(settings.timeout, settings.stall_timeout)  # a slip is told at once
    if settings.min_free_ram is not None:
        host_memory.parse_size_bytes(settings.min_free_ram, "--min-free-ram")
    for warning in manners.apply(settings.nice, settings.ionice):
        interface.notice(warning, warning=True)
    if settings.results_db is not None:
        delivery.check(settings.results_db, settings.results_table)
    fetching = Fetching(inputs_of(settings))
    folder = output_folder(settings)
    if settings.link_speakers:
        folder.require_linkable()
    with ExitStack() as stack:
        stack.enter_context(interruptible())
        known = folder.state.is_dir()
        if known:  # before a long manifest is read: who comes second shall know at once
            stack.enter_context(folder.locked())
        manifest = read_manifest(request)
        assets = choose(manifest, settings)
        places = (settings.output_dir or "", *stores_of(assets))
        SignIn(settings, interface.notice).before(places)
        folder.create()
        if not known:
            stack.enter_context(folder.locked())
        lineup = find_lineup(settings, assets.languages(), notice=interface.notice)
        options = build_options(settings, lineup.model)
        if lineup.model.is_demo:
            interface.notice(models.DEMO_NOTICE, warning=True)
        journal = Journal(folder.journal_path)
        stack.callback(journal.close)
        _settle(folder, journal, interface)
        night = _Night(request, interface, folder, journal, options, lineup, manifest, assets, time)
        night.fetching = fetching
        stack.callback(fetching.close)
        night.people = read_people(settings, lineup)
        night.given = _read_names(folder, interface, linking=bool(settings.link_speakers))
        if settings.results_db is not None:
            night.results = delivery.opened(
                journal.outbox,
                url=settings.results_db,
                table=settings.results_table,
                location=folder.where,
                notice=interface.notice,
            )
            stack.callback(night.results.close)
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
    assets: Assets
    time: TimeLimit
    result: RunResult = field(default_factory=RunResult)
    people: Enrolment | None = None
    given: Mapping[str, str] | None = field(default_factory=dict)
    run_id: int | None = None
    results: delivery.Delivery | None = None
    fetching: Fetching = field(default_factory=lambda: Fetching(InputPlace()))

    def spend(self, stack: ExitStack) -> ExitCode:
        """Plan, run, sum up; the summary is written however the run ends."""
        with uncollected():
            todo = self.plan()
        with self.journal.grouped():
            for asset_id in todo.quarantined:
                self.journal.quarantine(asset_id, _QUARANTINE_TEXT)
        if not len(todo):
            self.link()
            self.interface.notice(f"Nothing to do: none of {len(self.assets)} assets needs work.")
            last = self.journal.last_run()
            if last is not None and last.exit_code is None:
                # Killed when all was done, before that was written down.
                self.folder.sweep()
                code = self.sum_up(todo, changed=True)
                self.journal.end_run(last.run_id, code)
                return code
            return self.sum_up(todo, changed=bool(todo.quarantined or todo.recovered))
        fleet = stack.enter_context(
            open_fleet(self.options, output=self.folder.place.location, assets=todo.chosen())
        )
        self.preflight(todo, fleet)
        self.run_id = self.journal.begin_run(version=__version__, request=self.request.to_json())
        self.folder.sweep()
        sweep(self.folder.state)
        try:
            self.run(todo, fleet)
            if not (self.result.interrupted or self.result.dropped):
                self.link()
        except BaseException as error:
            with suppress(Exception):  # the first error is the one to be told
                self.sum_up(todo, error=error)
            raise
        return self.sum_up(todo)

    def preflight(self, todo: Todo, fleet: Fleet) -> None:
        """Ask what could end the night, before its first asset.

        Raises:
            SetupError: something surely will.
        """
        # A disk that is nearly full may still do for text; a publication that fails says so.
        request = PreflightRequest(
            floor_bytes=0,
            settings=self.request.settings,
            manifest=self.manifest,
            assets=todo.chosen(),
            folder=self.folder,
            devices=fleet.devices,
            output_names=todo.planner.output_names,
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
        if not self.folder.is_local:
            self.folder.place.open().probe()

    def plan(self) -> Todo:
        """What is to be done about each asset."""
        # Over the whole manifest, so that a name never depends on which assets were selected; and
        # past the names of other manifests' assets that this folder holds.
        every = self.manifest.assets
        others = names_of_others(every, self.journal)
        taken = itertools.chain(map(str, self.folder.reserved()), others)
        names_of_outputs = OutputNamer(self.options.output_template).over(every, taken=taken)
        outputs = self.folder.place.open()
        recovery = Recovery(outputs, self.journal, self._begin_recovery)
        planner = Planner(
            options=self.options,
            wanted=self.lineup.wanted,
            journal=self.journal,
            output_names=names_of_outputs,
            naming=None
            if self.given is None
            else naming_key(self.given, self.people, self.request.settings.speaker_threshold),
            state=self.folder.state,
            stands=partial(intact, outputs),
            look=self.fetching.look,
            recover=None if self.options.overwrite else recovery.take_over,
        )
        todo = Todo.of(self.assets, planner)
        todo.recovered = recovery.count
        if recovery.count:
            self.interface.notice(
                "Taken over from published JSON, as the journal did not know of them: "
                f"{recovery.count} assets done."
            )
        return todo

    def _begin_recovery(self) -> int:
        """Begin and end a run that what is taken over belongs to."""
        run_id = self.journal.begin_run(version=__version__, request=self.request.to_json())
        self.journal.end_run(run_id, ExitCode.OK)
        return run_id

    def run(self, todo: Todo, fleet: Fleet) -> None:
        """Drive the runner, with its reporter and the signals, to its end."""
        survey = todo.survey()
        reporter = Steady(self.interface.reporter(fleet, survey))
        assert self.run_id is not None
        places = Places(self.options, self.lineup, fleet, Remembered.load())
        pacing = Pacing(self.options, self.lineup, fleet, places, LearntSpeeds.load())
        pace = pacing.pace()
        places.ahead = pace.ahead.most
        make_pool, loader = self.workers(fleet, places)
        runner = Runner(
            options=self.options,
            journal=self.journal,
            run_id=self.run_id,
            balancer=fleet.balancer,
            pool=make_pool,
            loader=loader,
            emit=self.results.after(reporter.handle) if self.results else reporter.handle,
            guards=self.guards(fleet, places, pace, reporter),
            pace=pace,
            reserve=fleet.reserve.id if fleet.reserve else None,
            asker=self.interface.asker(),
            # The nodes of a cluster have caches of their own.
            fetch_ahead=None if fleet.cluster is not None else self.fetching.offer,
        )
        self.result = runner.result
        if (ends_at := self.time.ends_at()) is not None:
            self.interface.notice(f"No asset is begun that would not be done by {ends_at}.")
        reporter.handle(self.opening(todo, fleet))
        try:
            with signals_to(runner.stop), crash_report(self.folder.crash_log_path):
                runner.run(todo)
        finally:
            survey.stop()
            reporter.close()
            pacing.keep(pace)
            if not self.result.dropped:  # a process that was killed left what it was writing
                self.folder.sweep()
                sweep(self.folder.state)

    def workers(self, fleet: Fleet, places: Places) -> tuple[MakePool, Callable[[Pool], Loader]]:
        """How this run's pool is opened, and what loads the models for it."""
        recipe = Recipe(
            place=self.folder.place,
            state=self.folder.state,
            options=self.options,
            lineup=self.lineup,
            remembered=self._remembered(),
            given=self.given or {},
            people=self.people,
            threshold=self.request.settings.speaker_threshold,
            inputs=self.fetching.place,
        )
        if fleet.cluster is not None or is_isolated(self.options.isolation, fleet.devices):
            logs = self.folder.state / "workers"
            host = open_host(fleet, self.folder, self.request.settings)

            def processes(tell: Tell, died: Callable[[Death], None]) -> Pool:
                return ProcessPool(
                    recipe,
                    host=host,
                    place_of=places.place,
                    workers=self.most_at_once(fleet, places),
                    logs=logs,
                    tell=tell,
                    died=died,
                )

            return processes, lambda pool: cast("ProcessPool", pool)
        cpu = CpuGate(usable_cores())
        loaded = LoadedModels(self.options, self.lineup, places.place, cpu)
        in_threads: Loader = loaded
        known = recipe.known_voices(lambda: _first_diarizer(fleet, loaded))

        def threads(tell: Tell, _died: Callable[[Death], None]) -> Pool:
            gates = Gates(lambda device: fleet.caps[device])
            workers = self.most_at_once(fleet, places)
            queued = 0 if self.options.threads else MOST_FREE
            return ThreadPool(recipe.work(loaded, known, tell, gates, cpu), workers, queued=queued)

        return threads, lambda _pool: in_threads

    def most_at_once(self, fleet: Fleet, places: Places) -> int:
        """Assets in flight: `--threads`, or what all devices work on and read ahead."""
        return self.options.threads or fleet.workers + places.ahead * len(fleet.devices)

    def guards(self, fleet: Fleet, places: Places, pace: Pace, reporter: Reporter) -> Guards:
        """The limits of this run.

        Raises:
            UsageError: a flag cannot be understood.
        """
        settings = self.request.settings
        # A shared batch is there once, whoever's windows are in it.
        on_cpu = any(device.kind == "cpu" for device in fleet.devices) and not pace.ahead.shared
        diarize = self.lineup.diarizer is not None
        batch_sizes = [places.rung(device.id).batch_size for device in fleet.devices]

        def need(planned: Planned) -> int:
            if planned.action is not Action.PROCESS or fleet.cluster is not None:
                return 0
            if not self.options.publishes:  # the null engine has no model, and keeps nothing
                return 0
            asset, part = planned.asset, planned.part
            length_s = asset.duration_s if part is None else part.length_s + 2 * MARGIN_S
            if length_s is None and (most := most_s(asset)) is not None:
                length_s = min(most, host_memory.UNKNOWN_DURATION_S)
            return host_memory.need_bytes(
                length_s,
                batch_size=max(size or USUAL_BATCH["cpu"] for size in batch_sizes),
                diarize=diarize,
                on_cpu=on_cpu,
            )

        floor = host_memory.DEFAULT_FLOOR_BYTES
        if settings.min_free_ram is not None:
            floor = host_memory.parse_size_bytes(settings.min_free_ram, "--min-free-ram")
        return Guards(
            watch=Watch.of_flags(settings.timeout, settings.stall_timeout),
            time=self.time,
            floor=host_memory.MemoryFloor(
                floor, lambda text: reporter.handle(events.Notice(text, warning=True))
            ),
            need_bytes=need,
            ladder=places,
        )

    def _remembered(self) -> Memory:
        """The ids of voices; without them the night goes on, and linking says what is wrong."""
        try:
            return recall(self.folder.state)
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

    def opening(self, todo: Todo, fleet: Fleet) -> events.RunStarted:
        """What there is to do, and on what."""
        return events.RunStarted(
            todo=len(todo),
            todo_audio_s=None if todo.unknown else todo.audio_s,
            already_done=todo.kept,
            failed_before=todo.left_failed + len(todo.quarantined),
            slots=fleet.workers,
            devices=tuple(
                device.id if device.kind == "cpu" else f"{device.id} ({device.name})"
                for device in fleet.devices
            ),
            output_folder=self.folder.where,
        )

    def sum_up(
        self,
        todo: Todo,
        *,
        changed: bool = False,
        error: BaseException | None = None,
    ) -> ExitCode:
        """Count what stands, journal the run's end, write `summary.json`, show the table."""
        undelivered = None
        if self.results is not None:
            in_haste = self.result.dropped or self.result.interrupted
            undelivered = self.results.finish(in_haste=in_haste)
        outcome = summary.summarise(
            manifest=str(self.request.manifest),
            output_folder=self.folder.where,
            journal=self.journal,
            selected=len(self.assets),
            done_before=todo.kept,
            stands=todo.stands,
            skipped=len(self.manifest.assets) - len(self.assets),
            run_id=self.run_id,
            result=self.result,
        )
        outcome.results_undelivered = undelivered
        if self.options.fail_on_degraded and self.result.devices_out and not outcome.exit_code:
            outcome.exit_code = ExitCode.SOME_FAILED
        if error is not None:
            outcome.exit_code = getattr(error, "exit_code", ExitCode.INTERNAL)
            outcome.error = redact(str(error))
        if self.run_id is not None or changed:
            summary.write(outcome, self.folder.summary_path)
            self._send_summary()
        if self.run_id is not None:
            self.journal.end_run(self.run_id, outcome.exit_code)
        # What cannot be shown is in the file.
        with suppress(OSError, ValueError):
            self.interface.show(outcome)
        return ExitCode(outcome.exit_code)

    def _send_summary(self) -> None:
        """Put the summary beside remote outputs; without it there, it is still here."""
        try:
            self.folder.send_summary()
        except AssetError as error:
            self.interface.notice(str(error), warning=True)


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
