"""`audio-batch gpus`: the devices of this machine, and how fast they were found to be."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from audio_batch.inventory import DeviceFacts, Inventory
    from audio_batch.learnt import Learnt, LearntSpeeds

SCHEMA_VERSION = 1


def gpus(
    as_json: Annotated[bool, typer.Option("--json", help="Everything as JSON.")] = False,
    forget: Annotated[
        bool, typer.Option("--forget", help="First forget how fast devices were found to be.")
    ] = False,
) -> int:
    """Show every GPU that CUDA sees, the CPU, and the speeds that earlier runs learnt of them.

    A machine without a GPU is in order: exit 0.
    """
    from audio_batch.inventory import take_inventory
    from audio_batch.learnt import LearntSpeeds
    from audio_batch.logs import configure

    configure(console_level=None, log_file=None, log_format="plain")
    memory = LearntSpeeds.look()
    forgotten = memory.forget() if forget else None
    inventory = take_inventory()
    if as_json:
        _write_json(inventory, memory, forgotten)
    else:
        _show(inventory, memory, forgotten)
    return 0


def _write_json(inventory: Inventory, memory: LearntSpeeds, forgotten: int | None) -> None:
    from audio_batch.learnt import device_key

    here = {device_key(facts.device) for facts in inventory.devices}
    known = memory.all()
    body = {
        "schema_version": SCHEMA_VERSION,
        "source": inventory.source,
        "problem": inventory.problem,
        "devices": [
            {
                **_device_json(facts),
                "speeds": [_speed_json(one) for one in _of(known, facts)],
            }
            for facts in inventory.devices
        ],
        "speeds_of_other_devices": [
            {"device_uuid": one.key.device_uuid, "name": one.device_name, **_speed_json(one)}
            for one in known
            if one.key.device_uuid not in here
        ],
        "speeds_file": str(memory.path),
        "speeds_problem": memory.problem,
        "forgotten": forgotten,
    }
    sys.stdout.write(json.dumps(body, indent=2, ensure_ascii=True) + "\n")


def _device_json(facts: DeviceFacts) -> dict[str, Any]:
    device = facts.device
    return {
        "id": device.id,
        "cuda_index": device.cuda_index,
        "uuid": device.uuid,
        "name": device.name,
        "compute_capability": device.compute_capability,
        "total_bytes": facts.total_bytes,
        "free_bytes": facts.free_bytes,
        "utilization_pct": facts.utilization_pct,
        "processes": facts.processes,
        "peak_core_hz": facts.peak_core_hz,
    }


def _speed_json(learnt: Learnt) -> dict[str, Any]:
    key = learnt.key
    return {
        "model": learnt.model_name,
        "model_identity": key.model_identity,
        "compute_type": key.compute_type,
        "batch_size": key.batch_size,
        "stages": list(key.stages),
        "slots": key.slots,
        "jobs": learnt.jobs,
        "fixed_s": learnt.fixed_s,
        "per_audio_s": {str(active): s for active, s in sorted(learnt.per_audio_s.items())},
        "rtfx": {str(active): learnt.rtfx(active) for active in sorted(learnt.per_audio_s)},
        "stage_per_audio_s": dict(learnt.stage_per_audio_s),
        "learnt_at": learnt.learnt_at,
        "version": learnt.version,
    }


def _of(known: Iterable[Learnt], facts: DeviceFacts) -> list[Learnt]:
    from audio_batch.learnt import device_key

    return [one for one in known if one.key.device_uuid == device_key(facts.device)]


def _show(inventory: Inventory, memory: LearntSpeeds, forgotten: int | None) -> None:
    from audio_batch.reporters import SteadyConsole
    from audio_batch.text import for_terminal

    console = SteadyConsole()

    def say(text: str, style: str | None = None) -> None:
        console.print(
            for_terminal(text), style=style, markup=False, highlight=False, soft_wrap=True
        )

    if forgotten is not None:
        say(f"{_counted(forgotten, 'learnt speed')} removed from {memory.path.parent}.")
    if inventory.problem:
        say(f"No GPU can be used: {inventory.problem}.", "yellow")
    console.print(_devices(inventory.devices))
    if memory.problem:
        say(memory.problem, "yellow")
    rows = [(facts, one) for facts in inventory.devices for one in _of(memory.all(), facts)]
    if rows:
        console.print(_speeds(rows))
        say(
            "RTFx: seconds of audio in a second, of the device with so many recordings at work "
            "(those read ahead included)."
        )
    else:
        say("No speeds are learnt on these devices yet: a run does so.")
    others = len(memory.all()) - len(rows)
    if others:
        say(f"{_counted(others, 'more speed')} learnt on other devices (--json shows all).")


def _devices(devices: Sequence[DeviceFacts]) -> Table:
    from rich.markup import escape
    from rich.table import Table

    from audio_batch.preflight.check import size
    from audio_batch.text import for_terminal

    table = Table("device", "name", "memory free", "busy", "processes", "capability")
    for facts in devices:
        device = facts.device
        free, total = facts.free_bytes, facts.total_bytes
        memory = "?" if free is None or total is None else f"{size(free)} of {size(total)}"
        busy = "?" if facts.utilization_pct is None else f"{facts.utilization_pct:.0f} %"
        capability = device.compute_capability
        table.add_row(
            device.id,
            escape(for_terminal(device.name)),
            memory,
            busy,
            ""
            if device.kind == "cpu"
            else "?"
            if facts.processes is None
            else str(facts.processes),
            "" if capability is None else f"{capability[0]}.{capability[1]}",
        )
    return table


def _speeds(rows: Sequence[tuple[DeviceFacts, Learnt]]) -> Table:
    from rich.markup import escape
    from rich.table import Table

    from audio_batch.text import for_terminal

    table = Table("device", "model", "settings", "RTFx", "by stage", "fixed", "jobs", "when")
    for facts, learnt in rows:
        together = [
            f"{learnt.rtfx(active):.3g} ({active} at work)" for active in sorted(learnt.per_audio_s)
        ]
        stages = [
            f"{stage} {1 / seconds:.3g}"
            for stage, seconds in learnt.stage_per_audio_s.items()
            if seconds > 0
        ]
        cells = (
            facts.device.id,
            learnt.model_name,
            _settings(learnt),
            "\n".join(together),
            "\n".join(stages),
            f"{learnt.fixed_s:.1f} s",
            str(learnt.jobs),
            time.strftime("%Y-%m-%d", time.localtime(learnt.learnt_at)),
        )
        lines = ("\n".join(for_terminal(line) for line in cell.split("\n")) for cell in cells)
        table.add_row(*(escape(cell) for cell in lines))
    return table


def _settings(learnt: Learnt) -> str:
    key = learnt.key
    return "\n".join(
        [
            key.compute_type if key.compute_type != "auto" else "compute type auto",
            "batch by memory" if key.batch_size is None else f"batch {key.batch_size}",
            " + ".join(key.stages),
            f"{_counted(key.slots, 'slot')}",
        ]
    )


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
