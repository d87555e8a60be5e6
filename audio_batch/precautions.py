"""Which guards a run has: from its flags, its devices and its models."""

from __future__ import annotations

from audio_batch import events, host_memory
from audio_batch.assembly import Fleet
from audio_batch.dispatch import Pace
from audio_batch.guards import Guards
from audio_batch.night import Night
from audio_batch.pacing import USUAL_BATCH
from audio_batch.parts import MARGIN_S
from audio_batch.places import Places
from audio_batch.plan import Action, Planned
from audio_batch.reporters import Reporter
from audio_batch.survey import most_s
from audio_batch.watchdog import Watch


def guards_of(night: Night, fleet: Fleet, places: Places, pace: Pace, reporter: Reporter) -> Guards:
    """The limits of a run; what is short of memory is told to the reporter.

    Raises:
        UsageError: a flag cannot be understood.
    """
    settings = night.settings
    # A shared batch is there once, whoever's windows are in it.
    on_cpu = any(device.kind == "cpu" for device in fleet.devices) and not pace.ahead.shared
    diarize = night.lineup.diarizer is not None
    batch_sizes = [places.rung(device.id).batch_size for device in fleet.devices]

    def need(planned: Planned) -> int:
        if planned.action is not Action.PROCESS or fleet.cluster is not None:
            return 0
        if not night.options.publishes:  # the null engine has no model, and keeps nothing
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
        time=night.time,
        floor=host_memory.MemoryFloor(
            floor, lambda text: reporter.handle(events.Notice(text, warning=True))
        ),
        need_bytes=need,
        ladder=places,
    )
