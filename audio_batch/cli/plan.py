"""`audio-batch plan`: what a run would be like, said before it."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from audio_batch.cli import device_options as devices
from audio_batch.cli import manifest_options as options
from audio_batch.cli import model_options as models
from audio_batch.cli import speaker_options as speech
from audio_batch.cli.config_option import Config
from audio_batch.cli.option import manifest_argument, opt

if TYPE_CHECKING:
    from rich.table import Table

    from audio_batch.forecast import Basis, DeviceForecast, Forecast
    from audio_batch.outlook import Outlook

SCHEMA_VERSION = 1


def plan(
    manifest: Annotated[Path, manifest_argument("The manifest of the run to come.")],
    config: Config = None,
    root: options.Root = None,
    field: options.Field = None,
    where: options.Where = None,
    exclude: options.Exclude = None,
    order: options.OrderBy = None,
    skip: options.Skip = None,
    limit: options.Limit = None,
    model: models.Model = None,
    model_dir: models.ModelDir = None,
    offline: models.Offline = None,
    engine: models.Engine = None,
    compute_type: models.ComputeType = None,
    batch_size: models.BatchSize = None,
    preset: models.Preset = None,
    align: speech.Align = None,
    align_model: speech.AlignModel = None,
    diarize: speech.Diarize = None,
    diarize_model: speech.DiarizeModel = None,
    hf_token_file: speech.HfTokenFile = None,
    device: devices.Device = None,
    device_index: devices.DeviceIndex = None,
    max_per_gpu: devices.MaxPerGpu = None,
    min_free_ram: Annotated[
        str | None, opt("As for `run` \\[1GB].", "--min-free-ram", panel=devices.DEVICES)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Everything as JSON.")] = False,
) -> int:
    """Say which settings fit this machine and when a run over the whole manifest would be done.

    Nothing is fetched, written or begun; what an output folder holds already is not counted.
    Settings come from where `run` has them.
    """
    flags = dict(locals())
    for name in ("manifest", "config", "as_json"):
        flags.pop(name)
    from audio_batch.config import merge
    from audio_batch.logs import configure
    from audio_batch.outlook import look_ahead

    settings, _ = merge(flags, config=config, manifest=manifest)
    configure(console_level=None, log_file=None, log_format="plain")
    paths = {name: path for name, path in settings if isinstance(path, Path)}
    settings = settings.model_copy(
        update={name: path.expanduser().absolute() for name, path in paths.items()}
    )
    outlook = look_ahead(manifest.expanduser().absolute(), settings)
    if as_json:
        _write_json(outlook)
    else:
        _show(outlook)
    return 0


def _write_json(outlook: Outlook) -> None:
    from audio_batch.forecast import LEVELS

    forecast, asked = outlook.forecast, outlook.options
    body = {
        "schema_version": SCHEMA_VERSION,
        "assets": forecast.assets,
        "audio_s": forecast.audio_s,
        "unknown_durations": forecast.unknown,
        "model": {
            "name": outlook.model,
            "here": outlook.model_is_here,
            "size_source": outlook.model_source,
        },
        "compute_type": asked.compute_type,
        "batch_size": asked.batch_size,
        "stages": list(outlook.stages),
        "devices": [_device_json(one) for one in forecast.devices],
        "recommended": {
            level: {"threads": forecast.threads(level), "max_per_gpu": forecast.max_per_gpu(level)}
            for level in LEVELS
        },
        "speeds": {"basis": forecast.basis, "text": _basis(forecast)},
        "finish_s": dict(forecast.finish_s),
        "bound_s": forecast.bound_s,
        "notes": list(outlook.notes),
    }
    sys.stdout.write(json.dumps(body, indent=2, ensure_ascii=True) + "\n")


def _device_json(one: DeviceForecast) -> dict[str, Any]:
    return {
        "id": one.facts.device.id,
        "name": one.facts.device.name,
        "free_bytes": one.facts.free_bytes,
        "slots": one.slots,
        "at_work": one.at_work,
        "slots_that_fit": dict(one.fits),
        "limited_by": one.limited_by,
        "memory_measured": one.measured_memory,
        "recommended_slots": dict(one.levels),
        "speed": {
            "basis": one.basis,
            "rtfx": one.rtfx,
            "fixed_s": one.speed.fixed_s,
            "per_audio_s": {str(k): s for k, s in sorted(one.speed.per_audio_s.items())},
            "jobs": one.speed.jobs,
        },
    }


def _show(outlook: Outlook) -> None:
    from audio_batch.reporters import SteadyConsole
    from audio_batch.text import for_terminal

    console = SteadyConsole()

    def say(text: str, style: str | None = None) -> None:
        console.print(
            for_terminal(text), style=style, markup=False, highlight=False, soft_wrap=True
        )

    forecast = outlook.forecast
    say(_recordings(forecast))
    where = "" if outlook.model_is_here else ", not on this machine yet: a run would fetch it"
    say(
        f"Model {outlook.model}{where} (memory by {outlook.model_source}); "
        f"{', '.join(outlook.stages)}."
    )
    for note in outlook.notes:
        say(note, "yellow")
    console.print(_devices(forecast))
    for one in forecast.devices:
        if one.fit < 1:
            say(
                f"{one.facts.device.id}: too little {one.limited_by} is free for this model. Use "
                "a smaller --model, --batch-size or --compute-type, or another --device.",
                "yellow",
            )
    console.print(_levels(forecast))
    console.print(_policies(forecast))
    say(_basis(forecast))


def _recordings(forecast: Forecast) -> str:
    count = f"{forecast.assets} recording{'' if forecast.assets == 1 else 's'}"
    if forecast.audio_s is None:
        return f"{count} of unknown length: when they would be done cannot be said."
    text = f"{count}, {forecast.audio_s / 3600:.2f} hours of audio"
    if forecast.unknown:
        text += f" ({forecast.unknown} of unknown length, taken for the median of the others)"
    return f"{text}."


def _devices(forecast: Forecast) -> Table:
    from rich.markup import escape
    from rich.table import Table

    from audio_batch.text import for_terminal

    table = Table("device", "name", "slots", "that fit", "limited by", "RTFx", "speed is")
    for one in forecast.devices:
        fits = [f"{limit} {count}" for limit, count in one.fits.items()]
        if one.measured_memory:
            fits[0] += " (measured)"
        table.add_row(
            one.facts.device.id,
            escape(for_terminal(one.facts.device.name)),
            str(one.slots),
            "\n".join(fits),
            one.limited_by,
            f"{'' if one.basis == 'learnt' else '~'}{one.rtfx:.3g}",
            one.basis,
        )
    return table


def _levels(forecast: Forecast) -> Table:
    from rich.table import Table

    from audio_batch.forecast import LEVELS

    table = Table("recommended", "--threads", "--max-per-gpu")
    for level in LEVELS:
        table.add_row(level, str(forecast.threads(level)), forecast.max_per_gpu(level))
    return table


def _policies(forecast: Forecast) -> Table:
    from rich.table import Table

    now = time.time()
    table = Table("policy", "expected to take", "begun now, done at")
    for policy, seconds in forecast.finish_s.items():
        if seconds is None:
            table.add_row(policy, "unknown", "unknown")
            continue
        about = "" if forecast.basis == "learnt" else "~"
        done = time.strftime("%Y-%m-%d %H:%M", time.localtime(now + seconds))
        table.add_row(policy, f"{about}{_duration(seconds)}", f"{about}{done}")
    return table


def _basis(forecast: Forecast) -> str:
    told: dict[Basis, str] = {
        "learnt": "Speeds were learnt by earlier runs on this machine.",
        "compared": "Some devices' speeds were learnt by earlier runs on this machine; of the "
        "others they are unknown, and assumed by comparing cores and clocks.",
        "assumed": "Speeds are unknown: none are learnt on this machine yet for this work. They "
        "are assumed from the model's size, the devices' cores and clocks, and published speeds, "
        "and may be far off: a run learns them.",
    }
    return f"{told[forecast.basis]} Loading the models is not counted."


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"
