"""What a run does to survive: which isolation it has, what it learnt from running out of memory."""

from __future__ import annotations

import time
from collections.abc import Iterator

import psutil

from audio_batch.assembly import is_isolated
from audio_batch.errors import AudioBatchError
from audio_batch.gpu.devices import Device
from audio_batch.host_memory import available_bytes
from audio_batch.preflight.check import Finding, ok, warning
from audio_batch.preflight.facts import Facts
from audio_batch.remembered import Experience, Remembered

_FORGET = "Run `audio-batch doctor --forget` to begin anew."


def isolation(facts: Facts) -> Iterator[Finding]:
    """Where the devices' work is done, and so what a crash of a library takes with it."""
    asked = facts.settings.isolation or "auto"
    try:
        devices = facts.devices
    except AudioBatchError:
        return  # the devices' own check says so
    on_cuda = any(device.kind == "cuda" for device in devices)
    chosen = "process" if is_isolated(asked, devices) else "thread"
    why = f"{chosen}{' (auto)' if asked == 'auto' else ''}"
    if chosen == "process":
        yield ok(f"{why}: each device works in a child process, and a crash there is its own.")
    elif on_cuda:
        yield warning(
            f"{why}: the GPUs work inside the run's own process, and a crash of one ends the run.",
            "Leave --isolation at auto.",
        )
    else:
        yield ok(f"{why}: the CPU works inside the run's own process.")


def remembered(facts: Facts) -> Iterator[Finding]:
    """What devices were found to work with after running out of memory."""
    found = Remembered.look()
    if found.problem:
        yield warning(found.problem, _FORGET)
        return
    try:
        devices = facts.devices
    except AudioBatchError:
        return
    any_known = False
    for device in devices:
        identity = device.uuid or device.id
        for known in found.experiences.values():
            if known.key.device_uuid == identity:
                any_known = True
                yield Finding("ok", _sentence(device, known, facts), _FORGET)
    if not any_known:
        yield ok("Nothing: no device is known to have run out of memory.")


def _sentence(device: Device, known: Experience, facts: Facts) -> str:
    name = device.id if device.kind == "cpu" else f"{device.id} ({device.name})"
    asked = known.key.compute_type
    work = "".join(
        (
            known.model_name or "a model",
            "" if asked == "auto" else f" (--compute-type {asked})",
            " and speakers" if known.key.diarize else "",
        )
    )
    rung = known.rung
    how = [
        f"{rung.slots} asset{'' if rung.slots == 1 else 's'} at a time",
        *([] if rung.batch_size is None else [f"batches of {rung.batch_size}"]),
        rung.compute_type,
    ]
    day = time.strftime("%Y-%m-%d", time.localtime(known.learnt_at))
    text = f"{name} with {work}: {', '.join(how)}, after running out of memory on {day}"
    if not known.holds(*_memory_bytes(device, facts)):
        return f"{text}; not used now, with other memory than then."
    return f"{text}."


def _memory_bytes(device: Device, facts: Facts) -> tuple[int | None, int | None]:
    """A device's memory and what of it is free."""
    if device.kind == "cpu":
        return psutil.virtual_memory().total, available_bytes()
    gpu = next((gpu for gpu in facts.gpu_report.gpus if gpu.uuid == device.uuid), None)
    return (None, None) if gpu is None else (gpu.total_bytes, gpu.free_bytes)
