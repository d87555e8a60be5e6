"""Gather what a forecast is made of. Nothing is written, fetched or loaded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psutil

from audio_batch import diarization_models, host_memory, models
from audio_batch.assembly import build_options, usable_cores
from audio_batch.asset import Asset
from audio_batch.assets import durations_of, pick, priorities_of
from audio_batch.config import Settings
from audio_batch.engines import DEFAULT_ENGINE
from audio_batch.errors import UsageError
from audio_batch.forecast import Forecast, Host, Known, Work, foresee
from audio_batch.gpu.capacity import DEFAULT_MAX_PER_GPU, parse_max_per_gpu
from audio_batch.host_memory import available_bytes
from audio_batch.hub import read_token
from audio_batch.inventory import DeviceFacts, look_at
from audio_batch.learnt import LearntSpeeds, SpeedKey, device_key
from audio_batch.lineup import DEFAULT_MODEL, wants_speakers
from audio_batch.needs import size_by_name, size_of_files
from audio_batch.options import RunOptions
from audio_batch.outcome import Stage
from audio_batch.preflight.facts import hub_repository
from audio_batch.remembered import Key, Remembered
from audio_batch.request import Request, choose, read_manifest
from audio_batch.survey import declared_duration_s

_MOST_READ = 10_000
"""Headers that are read at most; the lengths of the others are taken for the median."""

_READERS = 8
"""Headers read side by side: a network disk answers slowly, and a header is little."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """A forecast and what it is of.

    Attributes:
        model_is_here: False: a run would fetch it first.
        model_source: where its size is known from.
        notes: what else should be known, a sentence each.
    """

    forecast: Forecast
    model: str
    model_is_here: bool
    model_source: str
    options: RunOptions
    stages: tuple[str, ...]
    notes: tuple[str, ...]


def look_ahead(manifest: Path, settings: Settings) -> Outlook:
    """Say what `run` with these settings would be like.

    Raises:
        ManifestError, UsageError, SetupError: as the run would.
    """
    lenient = settings.model_copy(update={"allow_missing": True})
    assets = choose(read_manifest(Request(manifest, lenient)), settings)
    model = _model(settings)
    here = model is not None
    if model is None:
        model = models.ModelReference(settings.model or DEFAULT_MODEL, Path(), identity="")
    options = build_options(settings, model)
    stages, notes = _stages(settings)
    size = size_of_files(model) if here else size_by_name(model.name)
    work = Work(
        size=size,
        compute_type=options.compute_type,
        batch_size=options.batch_size,
        stages=stages,
        durations_s=_durations_s(assets),
        longest_first=settings.order is None and not any(priorities_of(assets)),
    )
    devices = look_at(options.device)
    caps = None
    if options.max_per_gpu is not None:
        caps = parse_max_per_gpu(options.max_per_gpu, [facts.device for facts in devices])
    floor = host_memory.DEFAULT_FLOOR_BYTES
    if settings.min_free_ram is not None:
        floor = host_memory.parse_size_bytes(settings.min_free_ram, "--min-free-ram")
    host = Host(usable_cores(), available_bytes(), floor)
    known = {facts.device.id: _known(facts, model, options, stages, caps) for facts in devices}
    return Outlook(
        forecast=foresee(work, devices, known, host, caps=caps),
        model=model.name,
        model_is_here=here,
        model_source=size.source,
        options=options,
        stages=stages,
        notes=notes,
    )


def _model(settings: Settings) -> models.ModelReference | None:
    """The recognition model; None where a run would have to fetch it.

    Raises:
        UsageError, SetupError: no model can have this name; its folder is unusable.
    """
    if settings.recognizer not in (None, DEFAULT_ENGINE):
        return models.null_model(settings.model or settings.recognizer)
    name = settings.model or DEFAULT_MODEL
    repository = hub_repository(name)
    if repository and models.cached_folder(repository, settings.model_dir) is None:
        return None
    return models.find(name, model_dir=settings.model_dir, offline=True)


def _stages(settings: Settings) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The stages of the run, and what should be known of them."""
    stages, notes = [Stage.TRANSCRIBE], []
    aligned = settings.align if settings.align is not None else settings.align_model is not None
    if aligned:
        stages.append(Stage.ALIGN)
    asked = wants_speakers(settings)
    if asked is not False:
        there, reason = diarization_models.is_available(
            settings.diarize_model or diarization_models.DEFAULT_DIARIZATION_MODEL,
            model_dir=settings.model_dir,
            offline=bool(settings.offline),
            token=_token(settings),
        )
        if there or asked:
            stages.append(Stage.DIARIZE)
        if not there:
            notes.append(
                f"Speakers are asked for, but {reason}"
                if asked
                else f"Speakers would not be told apart: {reason}"
            )
    return tuple(stage.value for stage in stages), tuple(notes)


def _token(settings: Settings) -> str | None:
    try:
        return read_token(settings.hf_token_file)
    except UsageError:
        return None


def _durations_s(assets: Sequence[Asset]) -> tuple[float | None, ...]:
    """What the manifest says, else what the header declares; of very many not all are read."""
    lengths = [None if math.isnan(seconds) else seconds for seconds in durations_of(assets)]
    unknown = [place for place, seconds in enumerate(lengths) if seconds is None]
    some = unknown[:: -(-len(unknown) // _MOST_READ) or 1]
    with ThreadPoolExecutor(_READERS) as pool:
        for place, seconds in zip(
            some, pool.map(declared_duration_s, pick(assets, some)), strict=True
        ):
            lengths[place] = seconds
    return tuple(lengths)


def _known(
    facts: DeviceFacts,
    model: models.ModelReference,
    options: RunOptions,
    stages: tuple[str, ...],
    caps: dict[str, int] | None,
) -> Known:
    """What earlier runs found out about a device at this kind of work."""
    if not model.identity:  # nobody can have run a model that is not here
        return Known()
    device = facts.device
    key = SpeedKey(
        device_uuid=device_key(device),
        model_identity=model.identity,
        compute_type=options.compute_type,
        batch_size=options.batch_size,
        stages=stages,
        slots=caps[device.id] if caps else DEFAULT_MAX_PER_GPU,
    )
    past = Key(
        device_uuid=device.uuid or "cpu",
        model_identity=model.identity,
        compute_type=options.compute_type,
        diarize=Stage.DIARIZE.value in stages,
    )
    experience = Remembered.look().experiences.get(past)
    total = psutil.virtual_memory().total if device.kind == "cpu" else facts.total_bytes
    if experience is not None and not experience.holds(total, facts.free_bytes):
        experience = None
    return Known(LearntSpeeds.look().nearest(key), experience)
