"""The workers of a run: processes, one a device, or threads of this one, and who loads for them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import cast

from audio_batch.ahead import MOST_FREE
from audio_batch.assembly import Fleet, is_isolated, open_host, usable_cores
from audio_batch.cpu_gate import CpuGate
from audio_batch.crew import Loader
from audio_batch.engines.base import Diarizer
from audio_batch.errors import DeviceError
from audio_batch.gates import Gates
from audio_batch.loading import LoadedModels
from audio_batch.night import Night
from audio_batch.places import Places
from audio_batch.pools import Death, Pool, ThreadPool
from audio_batch.pools.processes import ProcessPool
from audio_batch.tell import Tell
from audio_batch.voices.of_run import remembered
from audio_batch.wiring import MakePool
from audio_batch.workplace import Recipe


def workers_of(
    night: Night, fleet: Fleet, places: Places
) -> tuple[MakePool, Callable[[Pool], Loader]]:
    """How a run's pool is opened, and what loads the models for it."""
    recipe = Recipe(
        place=night.folder.place,
        state=night.folder.state,
        options=night.options,
        lineup=night.lineup,
        remembered=remembered(night.folder, night.interface),
        given=night.voices.given or {},
        people=night.voices.people,
        threshold=night.voices.threshold,
        inputs=night.fetching.place,
    )
    # Assets in flight: what was asked for, or what all devices work on and read ahead.
    threads = night.options.threads

    def most() -> int:
        return threads or fleet.workers + places.ahead * len(fleet.devices)

    if fleet.cluster is not None or is_isolated(night.options.isolation, fleet.devices):
        logs = night.folder.state / "workers"
        host = open_host(fleet, night.folder, night.settings)

        def processes(tell: Tell, died: Callable[[Death], None]) -> Pool:
            return ProcessPool(
                recipe,
                host=host,
                place_of=places.place,
                workers=most,
                logs=logs,
                tell=tell,
                died=died,
            )

        return processes, lambda pool: cast("ProcessPool", pool)
    cpu = CpuGate(usable_cores())
    loaded = LoadedModels(night.options, night.lineup, places.place, cpu)
    in_threads: Loader = loaded
    known = recipe.known_voices(lambda: _first_diarizer(fleet, loaded))

    def in_this_process(tell: Tell, _died: Callable[[Death], None]) -> Pool:
        gates = Gates(lambda device: fleet.caps[device])
        queued = 0 if threads else MOST_FREE
        return ThreadPool(recipe.work(loaded, known, tell, gates, cpu), most(), queued=queued)

    return in_this_process, lambda _pool: in_threads


def _first_diarizer(fleet: Fleet, loaded: LoadedModels) -> Diarizer:
    """That of the first device which can load one; the others' failure is told where they work."""
    for device in fleet.devices[:-1]:
        with suppress(DeviceError):
            return loaded.diarizer(device.id)
    return loaded.diarizer(fleet.devices[-1].id)
