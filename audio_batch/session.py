"""One `audio-batch run`, from the settings to the exit code.

    execute     lock the folder → find the model → open the journal → read what is known of voices
    _spend      todo_of → (nothing to do: say so) → devices → preflight → _run → link → sum_up
    _run        Runner.run, with its reporter, its guards, its workers and the signals

No output is written where there is nothing to do; the journal says that the run has been.
"""

from __future__ import annotations

from contextlib import ExitStack, suppress

import psutil

from audio_batch import __version__, events, host_memory, manners, models, ray_flags, turns
from audio_batch.arrivals import Arrival
from audio_batch.asking import asking
from audio_batch.assembly import Fleet, build_options, open_fleet
from audio_batch.assets import stores_of
from audio_batch.claims import sweep
from audio_batch.closing import sum_up
from audio_batch.config import Settings
from audio_batch.databases import delivery
from audio_batch.engines import DEFAULT_ENGINE, check_engine
from audio_batch.errors import AudioBatchError, ExitCode, SetupError
from audio_batch.evidence import Evidence
from audio_batch.fetching import Fetching
from audio_batch.garbage import uncollected
from audio_batch.holds import Holds
from audio_batch.interface import Interface
from audio_batch.journal import Journal
from audio_batch.learnt import LearntSpeeds
from audio_batch.lifetime import crash_report, interruptible, leave, signals_to
from audio_batch.lineup import find_lineup
from audio_batch.night import Night
from audio_batch.output_folder import OutputFolder
from audio_batch.pacing import Pacing
from audio_batch.places import Places
from audio_batch.planning import todo_of
from audio_batch.precautions import guards_of
from audio_batch.preflight import PreflightRequest, before_run
from audio_batch.preflight.stores import SignIn
from audio_batch.remembered import Remembered
from audio_batch.remote import aws
from audio_batch.remote.settings import inputs_of
from audio_batch.reporters import Steady
from audio_batch.request import Request, choose, output_folder, read_manifest
from audio_batch.runner import Runner
from audio_batch.signing_in import signing_in
from audio_batch.time_limits import TimeLimit
from audio_batch.todo import Todo
from audio_batch.traces import Traces
from audio_batch.voices.folder import settle as settle_linking
from audio_batch.voices.of_run import RunVoices, link
from audio_batch.watchdog import Watch
from audio_batch.wiring import Means
from audio_batch.workforce import workers_of

_QUARANTINE_TEXT = (
    "The program crashed each time it worked on this asset; it is set aside. "
    "See .audio-batch/crash.previous.log; --retry-failed tries it again."
)


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
    check_engine(settings.recognizer or DEFAULT_ENGINE)
    ray_flags.check(settings)
    if settings.executor == "ray":
        ray_flags.require_no_secret(psutil.Process().cmdline())
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
        turns.end()  # a person may have to sign in
        SignIn(settings, interface.notice).before(places)
        traces = Traces(folder)
        stack.push(traces.leave)
        folder.create()
        if not known:
            stack.enter_context(folder.locked())
            stack.push(traces.clear)
            folder.create()  # again: a start that failed meanwhile may have taken back what it made
        lineup = find_lineup(settings, assets.languages(), notice=interface.notice)
        options = build_options(settings, lineup.model)
        if lineup.model.is_demo:
            interface.notice(models.DEMO_NOTICE, warning=True)
        journal = Journal(folder.journal_path)
        stack.callback(journal.close)
        _settle(folder, journal, interface)
        stack.callback(fetching.close)
        night = Night(
            request=request,
            interface=interface,
            folder=folder,
            journal=journal,
            options=options,
            lineup=lineup,
            manifest=manifest,
            assets=assets,
            time=time,
            fetching=fetching,
            voices=RunVoices.read(settings, lineup, folder, interface),
            results=_results(settings, folder, journal, interface),
        )
        if night.results is not None:
            stack.callback(night.results.close)
        try:
            code = _spend(night, stack)
        except AudioBatchError as error:
            if night.result.dropped:
                interface.notice(str(error), warning=True)
                leave(error.exit_code)
            raise
        if night.result.dropped:
            leave(code)
        return code


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


def _results(
    settings: Settings, folder: OutputFolder, journal: Journal, interface: Interface
) -> delivery.Delivery | None:
    """Open the delivery to the database of results, where there is to be one."""
    if settings.results_db is None:
        return None
    return delivery.opened(
        journal.outbox,
        url=settings.results_db,
        table=settings.results_table,
        location=folder.where,
        notice=interface.notice,
    )


def _spend(night: Night, stack: ExitStack) -> ExitCode:
    """Plan, run, sum up; the summary is written however the run ends."""
    with uncollected():
        todo = todo_of(night)
    with night.journal.grouped():
        for asset_id in todo.quarantined:
            night.journal.quarantine(asset_id, _QUARANTINE_TEXT)
    if not len(todo):
        return _nothing_to_do(night, todo)
    fleet = stack.enter_context(
        open_fleet(night.options, output=night.folder.place.location, assets=todo.chosen())
    )
    _preflight(night, todo, fleet)
    night.run_id = night.journal.begin_run(version=__version__, request=night.described(len(todo)))
    _sweep(night)
    try:
        _run(night, todo, fleet)
        if not (night.result.interrupted or night.result.dropped):
            link(night.settings, night.folder, night.journal, night.interface)
    except BaseException as error:
        with suppress(Exception):  # the first error is the one to be told
            sum_up(night, todo, error=error)
        raise
    return sum_up(night, todo)


def _nothing_to_do(night: Night, todo: Todo) -> ExitCode:
    link(night.settings, night.folder, night.journal, night.interface)
    night.interface.notice(f"Nothing to do: none of {len(night.assets)} assets needs work.")
    last = night.journal.last_run()
    if last is not None and last.exit_code is None:
        # Killed when all was done, before that was written down.
        night.folder.sweep()
        code = sum_up(night, todo, changed=True)
        night.journal.end_run(last.run_id, code)
    else:
        code = sum_up(night, todo, changed=bool(todo.quarantined or todo.recovered))
    try:
        night.journal.record_idle_run(
            version=__version__,
            request=night.described(0),
            started_at=night.begun_at,
            exit_code=code,
        )
    except SetupError as error:  # all is done, whether or not that can be written down
        night.interface.notice(str(error), warning=True)
    return code


def _sweep(night: Night) -> None:
    """Remove what a run that is dead has left half written."""
    night.folder.sweep()
    sweep(night.folder.state)


def _preflight(night: Night, todo: Todo, fleet: Fleet) -> None:
    """Ask what could end the night, before its first asset.

    Raises:
        SetupError: something surely will.
    """
    # A disk that is nearly full may still do for text; a publication that fails says so.
    request = PreflightRequest(
        floor_bytes=0,
        settings=night.settings,
        manifest=night.manifest,
        assets=todo.chosen(),
        folder=night.folder,
        devices=fleet.devices,
        output_names=todo.planner.output_names,
        strangers=tuple(todo.strangers),
        anything_there=todo.anything_there,
    )
    errors = []
    for check in before_run(request):
        # A device that cannot run is found out by loading its models, and taken out.
        if check.status == "error" and check.name in ("overwriting", "space"):
            errors.append(f"{check.message} {check.remedy}".strip())
        else:
            night.interface.notice(f"{check.message} {check.remedy}".strip(), warning=True)
    if errors:
        raise SetupError(" ".join(errors))
    if not night.folder.is_local:
        night.folder.place.open().probe()


def _run(night: Night, todo: Todo, fleet: Fleet) -> None:
    """Drive the runner, with its reporter and the signals, to its end."""
    survey = todo.survey()
    reporter = Steady(night.interface.reporter(fleet, survey))
    assert night.run_id is not None
    places = Places(night.options, night.lineup, fleet, Remembered.load())
    pacing = Pacing(night.options, night.lineup, fleet, places, LearntSpeeds.load())
    pace = pacing.pace()
    places.ahead = pace.ahead.most
    make_pool, loader = workers_of(night, fleet, places)
    alone = fleet.cluster is None  # a cluster's nodes have caches and ways of their own
    stores = (night.folder.place.location, *stores_of(night.assets))
    holds = Holds(
        night.options.outage_wait_s,
        night.folder.place.location,
        profile=night.settings.aws_profile,
        sign_in=signing_in(night.settings, night.interface),
        at_hand=night.fetching.has if alone else lambda _asset, _source: False,
        ask=asking(night.fetching.place.access) if alone else None,
        evidence=Evidence(aws.endpoint_of(night.fetching.place.access, stores)),
    )
    night.fetching.spares, night.fetching.answered = holds.holds, holds.came_ahead

    def take(arrival: Arrival) -> None:
        fleet.add(arrival)
        places.add(arrival.device.id)
        pacing.add(pace, arrival.device)

    means = Means(
        options=night.options,
        journal=night.journal,
        run_id=night.run_id,
        balancer=fleet.balancer,
        pool=make_pool,
        loader=loader,
        emit=night.results.after(reporter.handle) if night.results else reporter.handle,
        guards=guards_of(night, fleet, places, pace, reporter),
        pace=pace,
        reserve=fleet.reserve.id if fleet.reserve else None,
        asker=night.interface.asker(),
        fetch_ahead=night.fetching.offer if _fetches_ahead(night, fleet) else None,
        holds=holds,
        lookout=fleet.lookout,
        take=take,
    )
    runner = Runner(means)
    night.result = runner.result
    if (ends_at := night.time.ends_at()) is not None:
        night.interface.notice(f"No asset is begun that would not be done by {ends_at}.")
    reporter.handle(_opening(night, todo, fleet))
    try:
        with signals_to(runner.stop), crash_report(night.folder.crash_log_path):
            runner.run(todo)
    finally:
        survey.stop()
        reporter.close()
        pacing.keep(pace)
        if not night.result.dropped:  # a process that was killed left what it was writing
            _sweep(night)


def _fetches_ahead(night: Night, fleet: Fleet) -> bool:
    if fleet.cluster is not None:  # its nodes have caches of their own
        return False
    if night.options.publishes:
        return True
    from audio_batch.engines.null import NullCosts

    # Where nothing is published, an engine that costs nothing has no recording opened.
    return not NullCosts.parse(night.lineup.model.name).are_free


def _opening(night: Night, todo: Todo, fleet: Fleet) -> events.RunStarted:
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
        output_folder=night.folder.where,
    )
