"""`audio-batch simulate`: a manifest or a past run on described devices, under each policy."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from audio_batch.cli import manifest_options as options

if TYPE_CHECKING:
    from audio_batch.schedule.simulation import SimulatedDevice
    from audio_batch.schedule.tables import Work

SCHEMA_VERSION = 1

_REPEATS = 20
_PROBERS = 8


def _option(help: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel="Simulation", **more)


def simulate(
    source: Annotated[
        Path | None,
        typer.Argument(metavar="[MANIFEST|OUT]", help="A manifest, or the --output-dir of a run."),
    ] = None,
    device: Annotated[
        list[str] | None,
        _option(
            "name=slots@speed. Speed: 40x, seconds of audio a second, shared by the slots; or 8s, "
            "seconds a file. With 2, 3, … at work: 40x/55x, 8s/14s. Repeatable.",
            "--device",
        ),
    ] = None,
    policy: Annotated[
        list[str] | None,
        _option("earliest-finish, least-loaded or first-come \\[all]. Repeatable.", "--policy"),
    ] = None,
    noise: Annotated[
        float, _option("Spread of what a file takes, 0.2 for 20 %.", "--noise", min=0, max=3)
    ] = 0.0,
    seed: Annotated[int, _option("Of the noise.", "--seed")] = 0,
    repeats: Annotated[
        int | None, _option("How often, with noise \\[20].", "--repeats", min=1, max=10_000)
    ] = None,
    cold: Annotated[
        bool, _option("The schedule knows no speed at first, and learns.", "--cold")
    ] = False,
    backup_copies: Annotated[
        bool,
        _option("As in `run`.", "--backup-copies/--no-backup-copies"),
    ] = True,
    targets: Annotated[
        bool, _option("The cases that the policies are held to, instead.", "--targets")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Everything as JSON.")] = False,
    config: Annotated[
        Path | None,
        typer.Option("--config", help="Configuration file (TOML).", envvar="AUDIO_BATCH_CONFIG"),
    ] = None,
    root: options.Root = None,
    field: options.Field = None,
    where: options.Where = None,
    exclude: options.Exclude = None,
    order: options.OrderBy = None,
    skip: options.Skip = None,
    limit: options.Limit = None,
) -> int:
    """Say how long a run would take under each policy, without doing it.

    The policies decide as in a run; the devices are numbers. A past run
    brings its own devices and speeds, unless --device describes others.
    """
    from audio_batch.errors import UsageError

    if targets:
        if source is not None or device or policy:
            raise UsageError("--targets has its own files, devices and policies.")
        _targets(repeats or _REPEATS, seed, as_json)
        return 0
    if source is None:
        raise UsageError("What is to be simulated? Name a manifest or the --output-dir of a run.")
    from audio_batch.schedule import tables
    from audio_batch.schedule.described import parse_devices
    from audio_batch.schedule.simulation import EARLIEST_FINISH, POLICY_NAMES
    from audio_batch.schedule.trials import tried

    unknown = [name for name in policy or () if name not in POLICY_NAMES]
    if unknown:
        raise UsageError(
            f"There is no policy {unknown[0]!r}.", remedy=f"Use {', '.join(POLICY_NAMES)}."
        )
    flags = {
        "root": root,
        "field": field,
        "where": where,
        "exclude": exclude,
        "order": order,
        "skip": skip,
        "limit": limit,
    }
    described = parse_devices(device or ())
    source = source.expanduser()
    if source.is_dir():
        if any(value is not None for value in flags.values()):
            raise UsageError("Which assets and their order are asked of a manifest, not of a run.")
        work = _of_run(source, described)
    else:
        work = _of_manifest(source, described, flags, config)
    trials = [
        tried(
            name,
            work.planned if name == EARLIEST_FINISH else work.jobs,
            work.devices,
            noise=noise,
            seed=seed,
            repeats=repeats or _REPEATS,
            cold=cold,
            copies=backup_copies,
        )
        for name in dict.fromkeys(policy or POLICY_NAMES)
    ]
    if as_json:
        sys.stdout.write(json.dumps(tables.to_json(work, trials, noise), indent=2) + "\n")
    else:
        from audio_batch.reporters import SteadyConsole

        tables.show(SteadyConsole(), work, trials)
    return 0


def _targets(repeats: int, seed: int, as_json: bool) -> None:
    from audio_batch.schedule import case_tables
    from audio_batch.schedule.cases import results

    found = list(results(repeats, seed))
    if as_json:
        sys.stdout.write(json.dumps(case_tables.to_json(found), indent=2) + "\n")
        return
    from audio_batch.reporters import SteadyConsole

    case_tables.show(SteadyConsole(), found)


def _of_run(output_dir: Path, described: Sequence[SimulatedDevice]) -> Work:
    """What a run did, on its own devices or on others.

    Raises:
        UsageError: there is no run, or nothing was done in it.
    """
    from audio_batch.errors import UsageError
    from audio_batch.journal import Journal
    from audio_batch.output_folder import OutputFolder
    from audio_batch.schedule.replay import past
    from audio_batch.schedule.simulation import longest_first
    from audio_batch.schedule.tables import Work

    folder = OutputFolder(output_dir)
    folder.require()
    journal = Journal(folder.journal_path, read_only=True)
    found = past(journal.entries())
    journal.close()
    if not found.jobs:
        raise UsageError(f"The last run in {output_dir} did nothing whose time is known.")
    return Work(
        jobs=found.jobs,
        planned=tuple(longest_first(found.jobs)),
        devices=tuple(described) or found.devices,
        left_out=found.left_out,
        took_s=None if described else found.wall_s,
    )


def _of_manifest(
    manifest: Path,
    described: Sequence[SimulatedDevice],
    flags: dict[str, Any],
    config: Path | None,
) -> Work:
    """What a manifest asks for.

    Raises:
        ManifestError: all its problems.
        UsageError: no device is described, or no length is known where it is needed.
    """
    from concurrent.futures import ThreadPoolExecutor
    from dataclasses import replace
    from statistics import median

    from audio_batch.config import merge
    from audio_batch.errors import UsageError
    from audio_batch.request import Request, choose, read_manifest
    from audio_batch.schedule.described import HOW, FileSpeed
    from audio_batch.schedule.simulation import SimulatedJob, longest_first
    from audio_batch.schedule.tables import Work
    from audio_batch.survey import declared_duration_s

    if not described:
        raise UsageError("A manifest says nothing of devices.", remedy=f"Give --device. {HOW}")
    settings, _ = merge({**flags, "allow_missing": True}, config=config, manifest=manifest)
    assets = choose(read_manifest(Request(manifest, settings)), settings)
    silent = [asset for asset in assets if asset.duration_s is None]
    with ThreadPoolExecutor(_PROBERS) as pool:
        probed = dict(
            zip((a.id for a in silent), pool.map(declared_duration_s, silent), strict=True)
        )
    lengths = {a.id: a.duration_s if a.duration_s is not None else probed[a.id] for a in assets}
    known = [length_s for length_s in lengths.values() if length_s is not None]
    if not known and not all(isinstance(device.speed, FileSpeed) for device in described):
        raise UsageError(
            "Neither the manifest nor the recordings say how long any of them is.",
            remedy="Give duration_s in the manifest, or --device with seconds a file (8s).",
        )
    usual_s = median(known) if known else 1.0
    jobs = []
    for asset in assets:
        length_s = lengths[asset.id]
        jobs.append(
            SimulatedJob(asset.id, usual_s if length_s is None else length_s, length_s is None)
        )
    planned = jobs
    if settings.order is None:  # else the user's order holds
        priority = {asset.id: asset.priority for asset in assets}
        planned = sorted(longest_first(jobs), key=lambda job: -priority[job.id])
    if not known:
        jobs, planned = ([replace(job, hidden=False) for job in some] for some in (jobs, planned))
    return Work(tuple(jobs), tuple(planned), tuple(described), unknown=len(jobs) - len(known))
