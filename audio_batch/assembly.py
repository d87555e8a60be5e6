"""From settings to the parts of a run: options, devices, models. No asset is touched here."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psutil

from audio_batch import locations, models, ray_flags
from audio_batch.config import Settings
from audio_batch.engines import DEFAULT_ENGINE, check_engine
from audio_batch.engines.cuda import COMPUTE_TYPES
from audio_batch.errors import SetupError, UsageError
from audio_batch.formats import parse_formats
from audio_batch.gpu.balancer import Balancer
from audio_batch.gpu.capacity import default_max_per_gpu, later_max_per_gpu, parse_max_per_gpu
from audio_batch.gpu.cuda import pin_device_order
from audio_batch.gpu.devices import CPU, Device, resolve_devices
from audio_batch.gpu.policies import EARLIEST_FINISH, POLICIES
from audio_batch.gpu.probe import Sampler
from audio_batch.host_memory import available_bytes
from audio_batch.languages import asked_language
from audio_batch.options import (
    DEFAULT_OUTAGE_WAIT_S,
    DecodingOptions,
    RunOptions,
    SpeakerLimits,
    resolve_decoding,
)
from audio_batch.time_limits import parse_duration_s

if TYPE_CHECKING:
    from audio_batch.arrivals import Arrival, Lookout
    from audio_batch.manifest import Asset
    from audio_batch.output_folder import OutputFolder
    from audio_batch.pools.hosts import Host
    from audio_batch.ray_cluster import Cluster, Spot

DEFAULT_FORMATS = ("json", "txt", "srt")
_WITNESSES = 100
"""Among so many recordings a local one is looked for, which every node of a cluster must see."""
_HOST_BYTES_PER_TASK = 1_500_000_000
"""Peak host memory of one task beside the model: the samples of a long file and its features."""


def build_options(settings: Settings, model: models.ModelReference) -> RunOptions:
    """Check and resolve everything that the settings ask for.

    Raises:
        UsageError: a value that cannot be honoured.
    """
    engine = settings.recognizer or DEFAULT_ENGINE
    check_engine(engine)
    on_ray = settings.executor == "ray"
    ray_flags.check(settings)
    if settings.vad_method == "pyannote":
        raise UsageError(
            "--vad-method pyannote is not part of this version.", remedy="Use silero or none."
        )
    _refuse_translation(settings, model)
    decoding, batch_size = resolve_decoding(
        _decoding_settings(settings), preset=settings.preset, model_defaults=model.defaults
    )
    if settings.highlight_words and not decoding.word_timestamps:
        raise UsageError(
            "--highlight-words needs the times of words.",
            remedy="Add --word-timestamps (--preset fast leaves them out).",
        )
    policy = settings.policy or EARLIEST_FINISH
    if policy not in (EARLIEST_FINISH, *POLICIES):
        known = ", ".join((EARLIEST_FINISH, *POLICIES))
        raise UsageError(f"There is no policy {policy!r}; known: {known}.")
    if settings.prefetch is not None and not 0 <= settings.prefetch <= 999:
        raise UsageError(f"--prefetch must be from 0 to 999, not {settings.prefetch}.")
    split_long_s = None
    if settings.split_long is not None:
        split_long_s = parse_duration_s(settings.split_long, "--split-long")
    compute_type = settings.compute_type or "auto"
    if compute_type not in COMPUTE_TYPES:
        raise UsageError(
            f"There is no compute type {compute_type!r}; known: {', '.join(COMPUTE_TYPES)}."
        )
    _positive(settings, "threads", "cpu_threads", "max_attempts", "max_line_width")
    _positive(settings, "max_line_count", "max_duration", "max_restarts")
    for name in ("retry_delay", "audio_stream"):
        value = getattr(settings, name)
        if value is not None and not 0 <= value < math.inf:
            raise UsageError(f"--{name.replace('_', '-')} must be 0 or more, not {value:g}.")
    for name in ("speaker_threshold", "link_threshold"):
        value = getattr(settings, name)
        if value is not None and not 0 < value < 1:
            raise UsageError(f"--{name.replace('_', '-')} must be between 0 and 1, not {value:g}.")
    formats = parse_formats(settings.output_format) if settings.output_format else DEFAULT_FORMATS
    if not formats and engine != "null":
        raise UsageError(
            "--output-format none would throw away what the model hears.",
            remedy="It is for --engine null, to measure the program; leave it out.",
        )
    return RunOptions(
        model=model.name,
        engine=engine,
        decoding=decoding,
        executor=settings.executor,
        ray_address=settings.ray_address,
        ray_results=settings.ray_results or "auto",
        ray_workers=settings.ray_workers,
        batch_size=batch_size,
        compute_type=compute_type,
        device=_device_spec(settings),
        max_per_gpu=settings.max_per_gpu,
        threads=settings.threads,
        cpu_threads=settings.cpu_threads,
        policy=policy,
        in_order=settings.order is not None,
        prefetch=settings.prefetch,
        split_long_s=split_long_s,
        # The right to publish is claimed by a file, which the nodes of a cluster do not share.
        backup_copies=settings.backup_copies is not False and not on_ray,
        formats=formats,
        output_template=settings.output_template,
        max_line_width=settings.max_line_width,
        max_line_count=settings.max_line_count,
        highlight_words=bool(settings.highlight_words),
        max_duration_s=settings.max_duration or 24 * 3600.0,
        audio_stream=settings.audio_stream,
        damaged=settings.damaged or "flag",
        max_attempts=settings.max_attempts or 3,
        retry_delay_s=2.0 if settings.retry_delay is None else settings.retry_delay,
        outage_wait_s=_outage_wait_s(settings.outage_wait),
        fail_fast=bool(settings.fail_fast),
        overwrite=bool(settings.overwrite),
        retry_failed=bool(settings.retry_failed),
        redo_suspect=bool(settings.redo_suspect),
        isolation=settings.isolation or "auto",
        max_restarts=settings.max_restarts or 3,
        cpu_fallback=bool(settings.cpu_fallback),
        fail_on_degraded=bool(settings.fail_on_degraded),
        limits=SpeakerLimits(settings.num_speakers, settings.min_speakers, settings.max_speakers),
    )


def _outage_wait_s(text: str | None) -> float:
    if text is None:
        return DEFAULT_OUTAGE_WAIT_S
    return 0.0 if text.strip() == "0" else parse_duration_s(text, "--outage-wait")


def _positive(settings: Settings, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        if value is not None and not 1 <= value < math.inf:
            raise UsageError(f"--{name.replace('_', '-')} must be at least 1, not {value:g}.")


def _decoding_settings(settings: Settings) -> dict[str, Any]:
    """The settings that `resolve_decoding` knows, under its names."""
    names = {f.name for f in dataclasses.fields(DecodingOptions)} | {"batch_size"}
    given = {name: getattr(settings, name) for name in names & set(Settings.model_fields)}
    given["chunk_length_s"] = settings.chunk_length
    given["language"] = asked_language(settings.language)
    given["temperature"] = _temperatures(settings.temperature)
    return given


def _temperatures(text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(
            f"--temperature {text!r} cannot be read.", remedy="Write 0 or a list: 0,0.2,0.4."
        ) from None


def _refuse_translation(settings: Settings, model: models.ModelReference) -> None:
    """Where the flag asks for it, say so before the run; an asset's own wish fails that asset."""
    if settings.task == "translate" and settings.recognizer != "null" and not model.can_translate:
        raise UsageError(
            f"The model {model.name!r} was not trained to translate.",
            remedy="Use --model large-v3 or another multilingual original.",
        )


def _device_spec(settings: Settings) -> str:
    if settings.experimental:
        return "auto"
    device = (settings.device or "auto").strip()
    if settings.device_index is None:
        return device
    if device.lower() not in ("auto", "cuda"):
        raise UsageError(
            f"--device {device} and --device-index {settings.device_index} contradict each other.",
            remedy="Name the devices once: --device cuda:0,cuda:1.",
        )
    return settings.device_index


@dataclass(slots=True)
class Fleet:
    """The devices of a run, with what watches and shares them. A context manager.

    `reserve` is a device beside `devices` that takes part when all of them are out, or None.
    `threads` is how many assets there are to be at a time at most, None for as many as `caps` say.
    `cluster` is where they are, None for this machine; `lookout` looks for more of them there.
    """

    devices: tuple[Device, ...]
    caps: dict[str, int]
    balancer: Balancer
    sampler: Sampler
    threads: int | None = None
    reserve: Device | None = None
    cluster: Cluster | None = None
    lookout: Lookout | None = None

    @property
    def workers(self) -> int:
        """Assets that are worked on at a time."""
        total = sum(self.caps[device.id] for device in self.devices)
        return min(total, self.threads) if self.threads else total

    def add(self, arrival: Arrival) -> None:
        """Take in a device that joins, or one that was out."""
        device = arrival.device
        others = (other for other in self.devices if other.id != device.id)
        self.caps[device.id] = arrival.slots
        self.devices = (*others, device)
        self.balancer.add(device, arrival.slots)

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *exc: object) -> None:
        self.sampler.stop()
        if self.cluster is not None:
            self.cluster.close()


def open_fleet(options: RunOptions, *, output: str = "", assets: Sequence[Asset] = ()) -> Fleet:
    """Find the devices and say how many tasks each takes.

    Args:
        output: where outputs go; asked for, as `assets` are, on the nodes of a cluster.

    Raises:
        UsageError, SetupError: see `resolve_devices` and `parse_max_per_gpu`.
    """
    if options.executor == "ray":
        return _open_cluster(options, output, assets)
    pin_device_order(os.environ)
    # Half the precision that float32 needs at eight times its speed, from Ampere on; CTranslate2's
    # float16 and int8 use tensor cores anyway, this is for whatever runs on torch beside it.
    os.environ.setdefault("TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "1")
    # Threads that wait in OpenMP spin by default, which on a machine with other work makes every
    # stage many times slower; asleep they cost nothing worth speaking of.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    sampler = Sampler().start()
    try:
        devices = resolve_devices(options.device, sampler.latest(), environ=os.environ)
        if options.max_per_gpu is not None:
            caps = parse_max_per_gpu(options.max_per_gpu, devices)
        else:
            caps = default_max_per_gpu(
                devices,
                cores=usable_cores(),
                free_bytes=available_bytes(),
                need_bytes=_HOST_BYTES_PER_TASK,
            )
        reserve = CPU if options.cpu_fallback and CPU not in devices else None
        everywhere = devices if reserve is None else (*devices, reserve)
        if reserve is not None:
            caps[reserve.id] = 1
        # The earliest finish is planned by the runner, which asks for slots of a device.
        policy = options.policy if options.policy in POLICIES else "least-loaded"
        balancer = Balancer(everywhere, caps, sampler, policy=policy)
    except BaseException:
        sampler.stop()
        raise
    return Fleet(devices, caps, balancer, sampler, options.threads, reserve)


def _open_cluster(options: RunOptions, output: str, assets: Sequence[Asset]) -> Fleet:
    from audio_batch import ray_cluster, ray_devices
    from audio_batch.ray_lookout import RayLookout
    from audio_batch.ray_reports import Needs

    some = (asset.path for asset in itertools.islice(assets, _WITNESSES))
    witnesses = tuple(str(path) for path in some if path is not None)
    needs = Needs(witnesses, output)
    # Nobody tells how busy the devices of a cluster are: it is never started.
    sampler = Sampler()
    cluster = ray_cluster.connect(options.ray_address)
    try:
        wanted = min(options.ray_workers or 0, len(assets))
        devices = ray_devices.find_devices(cluster, options.device, needs, workers=wanted)
        if options.max_per_gpu is not None:
            caps = parse_max_per_gpu(options.max_per_gpu, devices)
        else:
            caps = {device.id: _slots_there(cluster.spots[device.id]) for device in devices}
        policy = options.policy if options.policy in POLICIES else "least-loaded"
        balancer = Balancer(devices, caps, sampler, policy=policy)
    except BaseException:
        cluster.close()
        raise

    def slots_of(spot: Spot) -> int:
        if options.max_per_gpu is not None:
            return later_max_per_gpu(options.max_per_gpu)
        return _slots_there(spot)

    lookout = RayLookout(
        cluster,
        options.device,
        needs,
        slots_of,
        workers=options.ray_workers,
        must_write=(
            cluster.workers_publish
            and options.ray_results != "driver"
            and not locations.is_remote(output)
        ),
    )
    return Fleet(
        devices, caps, balancer, sampler, options.threads, cluster=cluster, lookout=lookout
    )


def _slots_there(spot: Spot) -> int:
    """How many tasks a device of a cluster takes when nobody says."""
    caps = default_max_per_gpu(
        [spot.device],
        cores=spot.cores,
        free_bytes=spot.free_bytes,
        need_bytes=_HOST_BYTES_PER_TASK,
    )
    return caps[spot.device.id]


def open_host(fleet: Fleet, folder: OutputFolder, settings: Settings) -> Host:
    """Where the processes of the devices are begun.

    Raises:
        SetupError: workers are to write outputs where they cannot.
    """
    from audio_batch.pools.hosts import LocalHost

    if fleet.cluster is None:
        return LocalHost(folder.root)
    from audio_batch.pools.ray_pool import RayHost, Shelves

    asked, can = settings.ray_results or "auto", fleet.cluster.workers_publish
    if asked == "workers" and not can:
        raise SetupError(
            f"Not every node of the cluster can write to {folder.where}.",
            remedy="Use a folder that all of them share, an object store, or --ray-results driver.",
        )
    outputs = folder.place.open() if asked == "driver" or not can else None
    return RayHost(
        fleet.cluster,
        Shelves(folder.state, outputs),
        model_dir=settings.model_dir,
        offline=bool(settings.offline),
        cache_named=settings.cache_dir is not None,
    )


def is_isolated(asked: str, devices: Sequence[Device]) -> bool:
    """Whether each device works in a process of its own, by `--isolation`: auto where CUDA is used.

    Native libraries abort the process there, not the call (CTranslate2, cuDNN).
    """
    if asked != "auto":
        return asked == "process"
    return any(device.kind == "cuda" for device in devices)


def usable_cores() -> int:
    """Cores that this process may use: a container or `taskset` may allow fewer than there are."""
    try:
        return len(psutil.Process().cpu_affinity())
    except (AttributeError, OSError, psutil.Error):
        return os.cpu_count() or 1
