"""From what was measured to shares of the roofline, a recommendation, and tables for people."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Sequence
from typing import Any

from cells import BATCHED, MODEL, OURS, PLAIN
from roofline import Peak, bound
from whisper_shapes import SHAPES

Entry = dict[str, Any]
"""A cell with its `state` (done, failed, left out) and what was `found`, or the `problem`."""

_ROOM = 0.9
"""The share of a GPU's memory that recommended settings may have taken at their peak."""


def with_roofline(entry: Entry, peak: Peak | None, settings: dict[str, Any]) -> Entry:
    """The entry with its share of the roofline, 0 to 1; as it is where there is none to compare."""
    shape = SHAPES.get(entry["shape"])
    if entry["state"] != "done" or shape is None or peak is None:
        return entry
    found = dict(entry["found"])
    compute_type = found.get("compute_type") or found.get("engine", {}).get("compute_type", "")
    if compute_type.startswith("int") and not settings["own_peak"]:
        return entry  # the peaks that are known here are those of float16
    size = entry["batch_size"]

    def least(tokens: int) -> Any:
        return bound(
            shape,
            peak,
            size,
            tokens,
            beam_size=settings["beam_size"],
            compute_type=compute_type,
        )

    if entry["way"] == MODEL:
        found["forward_of_roofline"] = least(0).encoder_s / found["forward_s"]
        found["generate"] = [
            {
                **generated,
                "roofline_rtfx": least(generated["tokens"]).rtfx(size),
                "of_roofline": least(generated["tokens"]).total_s / generated["generate_s"],
            }
            for generated in found["generate"]
        ]
    elif found["tokens_per_window"] is not None:
        batch = least(found["tokens_per_window"])
        found["of_roofline"] = found["least_windows"] * batch.total_s / size / found["wall_s"]
    return {**entry, "found": found}


def recommend(entries: Iterable[Entry], total_bytes: int | None) -> dict[str, Entry]:
    """By shape, the batch size and slots of ours that come nearest to the best on every load.

    Of settings that were measured on the most loads, failed on none and left memory free: the
    highest median, over the loads, of their share of the best RTFx there; the smaller where equal.
    """
    entries = [entry for entry in entries if entry["way"] != MODEL]
    chosen: dict[str, Entry] = {}
    for shape in dict.fromkeys(entry["shape"] for entry in entries):
        mine = [entry for entry in entries if entry["shape"] == shape]
        rates = _rates(mine, total_bytes)
        if not rates:
            continue
        most = max(len(by_load) for by_load in rates.values())
        rates = {setting: found for setting, found in rates.items() if len(found) == most}
        loads = {load for by_load in rates.values() for load in by_load}
        best = {load: max(by.get(load, 0.0) for by in rates.values()) for load in loads}

        def score(
            setting: tuple[int, int],
            rates: dict[tuple[int, int], dict[str, float]] = rates,
            best: dict[str, float] = best,
        ) -> tuple[float, int, int]:
            shares = [rate / best[load] for load, rate in rates[setting].items()]
            return round(statistics.median(shares), 3), -setting[1], -setting[0]

        batch_size, slots = max(rates, key=score)
        chosen[shape] = {
            "batch_size": batch_size,
            "slots": slots,
            "rtfx": rates[batch_size, slots],
            "compared_settings": len(rates),
            "peers_rtfx": {way: _peer(mine, way) for way in (PLAIN, BATCHED)},
        }
    return chosen


def _rates(entries: Sequence[Entry], total_bytes: int | None) -> dict[Any, dict[str, float]]:
    """RTFx by load of each (batch size, slots) of ours that worked wherever it was tried."""
    rates: dict[tuple[int, int], dict[str, float]] = {}
    unfit = set()
    for entry in entries:
        setting = entry["batch_size"], entry["slots"]
        if entry["way"] != OURS or entry["state"] == "left out":
            continue
        if entry["state"] == "failed":
            unfit.add(setting)
            continue
        found = entry["found"]
        taken_bytes = found["peak_vram_bytes"]
        if total_bytes and taken_bytes is not None and taken_bytes > _ROOM * total_bytes:
            unfit.add(setting)
        if found["engine"]["batch_size"] < entry["batch_size"]:  # it went on with smaller batches
            unfit.add(setting)
        rates.setdefault(setting, {})[entry["load"]] = found["rtfx"]
    return {setting: by_load for setting, by_load in rates.items() if setting not in unfit}


def _peer(entries: Sequence[Entry], way: str) -> dict[str, float]:
    """The best RTFx of another way by load, whatever its batch size."""
    best: dict[str, float] = {}
    for entry in entries:
        if entry["way"] == way and entry["state"] == "done":
            rate = entry["found"]["rtfx"]
            best[entry["load"]] = max(rate, best.get(entry["load"], 0.0))
    return best


def markdown(result: dict[str, Any]) -> str:
    """The whole result as a page of tables."""
    entries: list[Entry] = result["cells"]
    done = [entry for entry in entries if entry["state"] == "done"]
    lines = ["# GPU bench", "", *(f"- {name}: {value}" for name, value in result["facts"]), ""]
    lines += [
        f"{len(done)} of {len(entries)} cells measured; {time.strftime('%Y-%m-%d %H:%M')}. RTFx: "
        "audio seconds per second. Busy: NVML's utilisation, on a CPU the machine's. Of roofline: "
        "the least time that the device's peak and bandwidth allow, over the time taken; – where "
        "they are not known. Slots: batches at once, with a batch size of 1 recordings.",
        "",
    ]
    lines += _section("Recommended", _RECOMMENDED, _recommended(result["recommended"]))
    for shape in dict.fromkeys(entry["shape"] for entry in done):
        mine = sorted(
            (entry for entry in done if entry["shape"] == shape),
            key=lambda entry: (entry["load"], entry["way"], entry["slots"], entry["batch_size"]),
        )
        alone = [row for entry in mine if entry["way"] == MODEL for row in _alone(entry)]
        lines += _section(f"{shape}: encoder and decoder alone", _ALONE, alone)
        heard = [_heard(entry) for entry in mine if entry["way"] != MODEL]
        lines += _section(f"{shape}: recordings, from file to text", _HEARD, heard)
    failed = [(entry["name"], entry["problem"]) for entry in entries if entry["state"] == "failed"]
    lines += _section("Failed", ("cell", "problem"), failed)
    left_out = [entry["name"] for entry in entries if entry["state"] == "left out"]
    if left_out:
        lines += ["## Not measured", "", f"No time was left for: {', '.join(left_out)}.", ""]
    return "\n".join(lines)


_RECOMMENDED = ("shape", "batch size", "slots", "load", "RTFx", "over plain", "over batched")
_ALONE = (
    *("windows", "encoder windows/s", "of roofline", "tokens", "tokens/s", "ms a step", "RTFx"),
    *("of roofline", "busy", "VRAM"),
)
_HEARD = (
    *("load", "way", "batch size", "slots", "RTFx", "of roofline", "busy", "CPU", "VRAM", "RSS"),
    *("recordings", "rounds"),
)


def _recommended(chosen: dict[str, Entry]) -> list[tuple[str, ...]]:
    rows = []
    for shape, found in chosen.items():
        for load, rate in found["rtfx"].items():
            ratios = (
                f"{rate / best[load]:.2f}x" if load in best else "–"
                for best in found["peers_rtfx"].values()
            )
            settings = str(found["batch_size"]), str(found["slots"])
            rows.append((shape, *settings, load, f"{rate:.1f}", *ratios))
    return rows


def _alone(entry: Entry) -> list[tuple[str, ...]]:
    found = entry["found"]
    return [
        (
            str(entry["batch_size"]),
            f"{found['windows_per_s']:.1f}",
            _percent(found.get("forward_of_roofline")),
            str(generated["tokens"]),
            f"{generated['tokens_per_s']:.0f}",
            f"{generated['ms_per_step']:.2f}",
            f"{generated['rtfx']:.1f}",
            _percent(generated.get("of_roofline")),
            _percent(found["device_busy_share"]),
            _gigabytes(found["peak_vram_bytes"]),
        )
        for generated in found["generate"]
    ]


def _heard(entry: Entry) -> tuple[str, ...]:
    found = entry["found"]
    return (
        entry["load"],
        entry["way"],
        str(entry["batch_size"]),
        str(entry["slots"]) if entry["way"] == OURS else "–",
        f"{found['rtfx']:.1f}",
        _percent(found.get("of_roofline")),
        _percent(found["device_busy_share"]),
        _percent(found["machine_cpu_share"]),
        _gigabytes(found["peak_vram_bytes"]),
        _gigabytes(found["peak_rss_bytes"]),
        f"{found['recordings']} of {found['recordings_of']}",
        str(found["rounds"]),
    )


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.0f} %"


def _gigabytes(count_bytes: int | None) -> str:
    return "–" if count_bytes is None else f"{count_bytes / 1e9:.2f} GB"


def _section(title: str, heading: Sequence[str], rows: Sequence[Sequence[str]]) -> Sequence[str]:
    """A heading and its table; nothing where there is no row."""
    if not rows:
        return []
    table = [heading, ("---",) * len(heading), *rows]
    cells = (
        " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in row) for row in table
    )
    return [f"## {title}", "", *(f"| {row} |" for row in cells), ""]
