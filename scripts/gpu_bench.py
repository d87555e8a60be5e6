"""How fast Whisper is on a device: alone, in this program and in faster-whisper, at every setting.

    python scripts/gpu_bench.py [--out DIR] [--device cuda:0|cpu] [--minutes 60]
                                [--shapes large-v3,large-v3-turbo,small | --model FOLDER]
                                [--batch-sizes 1,2,…,128] [--slots 1,2,3,4] [--tokens 10,100]

Models have true shapes and random weights, and decode the greatest of --tokens in every window (a
sixth of them in clips of 5 s); with --model a real one is heard, which ends its texts by itself.
The encoder and the decoder alone get noise and all of --tokens. Recordings are made of the shipped
examples: short (5 s), long (10 min) and mixed.

Each measurement is a process of its own, so that one that dies costs itself alone. The most
telling ones come first; what there was no time for is listed. Results are in DIR/gpu_bench.json and
DIR/gpu_bench.md after each of them. The same command with the same DIR goes on where it was
stopped, and tries again what failed.
Exit 0 when all that was begun went well, 1 when something failed, 2 for options that cannot be,
5 where the machine lacks what is needed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent / "gpu_common"))
sys.path.append(str(Path(__file__).resolve().parent / "gpu_bench"))
from cells import LOADS, MODEL, OURS, Cell, durations_s, plan, tokens_of
from machine import PROJECT, Absent, Gpu, missing, versions
from whisper_shapes import SHAPES

sys.path.append(str(PROJECT))

_START_S = 240.0
"""For a process to import, load a large model and warm it up, on a slow disk."""
_GRACE_S = 30.0
"""After the time is up, for the measurement that is at work."""
_MOST_IN_FLIGHT = 256


def main() -> int:
    """Look at the machine, make what is needed, measure."""
    options = arguments()
    ends_s = time.monotonic() + 60 * options.minutes
    out = (options.out or Path(tempfile.mkdtemp(prefix="gpu-bench-"))).resolve()
    out.mkdir(parents=True, exist_ok=True)
    try:
        facts, gpu = look(options.device)
        settings = same_settings(out, options, facts)
    except Absent as error:
        print(f"Nothing was measured. {error}", file=sys.stderr)
        return 5
    except ValueError as error:
        print(f"Nothing was measured. {error}", file=sys.stderr)
        return 2
    return measure(options, settings, facts, gpu, out, ends_s)


def arguments() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="where everything is written [a new folder]")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--minutes", type=float, default=60, help="of all together [60]")
    parser.add_argument("--shapes", type=_list_of(SHAPES), default=None, help=", ".join(SHAPES))
    parser.add_argument(
        "--model", type=Path, help="a CTranslate2 folder; --shapes then says what it is like"
    )
    numbers = _list_of(range(1, 1025))
    parser.add_argument("--batch-sizes", type=numbers, default=[2**n for n in range(8)])
    parser.add_argument("--slots", type=numbers, default=[1, 2, 3, 4], help="batches at once")
    parser.add_argument("--loads", type=_list_of(LOADS), default=list(LOADS))
    parser.add_argument("--tokens", type=_list_of(range(1, 225)), default=[10, 100])
    parser.add_argument("--beam-size", type=int, default=1, help="[1: greedy]")
    parser.add_argument(
        "--compute-type", help="as CTranslate2 has it [float16; on a CPU int8_float32]"
    )
    parser.add_argument("--clips", type=int, help="how many short recordings [256; on a CPU 8]")
    parser.add_argument("--long-seconds", type=float, default=600)
    parser.add_argument("--cell-seconds", type=float, default=20, help="of each measurement")
    parser.add_argument("--peak-tflops", type=float, help="of the device, in the compute type")
    parser.add_argument("--bandwidth-gbs", type=float, help="of the device's memory, 1e9 bytes/s")
    options = parser.parse_args()
    on_cpu = options.device == "cpu"
    options.compute_type = options.compute_type or ("int8_float32" if on_cpu else "float16")
    options.clips = options.clips or (8 if on_cpu else 256)
    if (options.peak_tflops is None) != (options.bandwidth_gbs is None):
        parser.error("--peak-tflops and --bandwidth-gbs go together.")
    if options.model is not None:
        options.model = options.model.expanduser().resolve()
        if not (options.model / "model.bin").is_file():
            parser.error(f"{options.model} is no folder with a model.bin.")
        if options.shapes is not None and len(options.shapes) > 1:
            parser.error("A --model has one shape.")
        options.shapes = options.shapes or [options.model.name]
    options.shapes = options.shapes or ["large-v3", "large-v3-turbo", "small"]
    return options


def _list_of(known: Any) -> Any:
    """A parser of comma-separated names or numbers, each of which must be among the known ones."""

    def parse(text: str) -> list[Any]:
        kind = int if isinstance(known, range) else str
        try:
            found = [kind(part) for part in text.split(",")]
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers") from error
        for value in found:
            if value not in known:
                names = f"{known[0]} to {known[-1]}" if kind is int else ", ".join(known)
                raise argparse.ArgumentTypeError(f"{value!r} is none of {names}")
        return list(dict.fromkeys(found))

    return parse


def look(device: str) -> tuple[list[tuple[str, str]], Gpu | None]:
    """What there is: facts by name, and the GPU, None on a CPU.

    Raises:
        Absent: something that all measurements need.
        ValueError: no device is called so.
    """
    needed, _ = missing()
    if needed:
        raise Absent(
            f"This Python ({sys.executable}) has no {', '.join(needed)}. "
            f"Install the project there: {sys.executable} -m pip install {PROJECT}"
        )
    if device == "cpu":
        return [
            ("device", f"cpu ({platform.machine()}, {os.cpu_count()} cores)"),
            *versions(),
        ], None
    kind, _, number = device.partition(":")
    if kind != "cuda" or not (number or "0").isdecimal():
        raise ValueError(f"{device!r} is no device for this: say cuda:0 or cpu.")
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # as the program has it
    gpu = Gpu(int(number or 0), os.environ)
    return [("device", gpu.name), *gpu.facts(), *versions()], gpu


def same_settings(
    out: Path, options: argparse.Namespace, facts: list[tuple[str, str]]
) -> dict[str, Any]:
    """What decides a figure, kept in the folder: results of other settings are not mixed in.

    Raises:
        ValueError: the folder has results of others.
    """
    decides = ("tokens", "beam_size", "compute_type", "clips", "long_seconds", "cell_seconds")
    settings = {
        **{name: getattr(options, name) for name in decides},
        "device": dict(facts)["device"],
        "model": str(options.model or ""),
    }
    path = out / "settings.json"
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        differing = [name for name in settings if before.get(name) != settings[name]]
        if differing:
            raise ValueError(
                f"{out} has results of another {', '.join(differing)}. Name a new --out."
            )
    path.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    return settings


def measure(
    options: argparse.Namespace,
    settings: dict[str, Any],
    facts: list[tuple[str, str]],
    gpu: Gpu | None,
    out: Path,
    ends_s: float,
) -> int:
    """Measure cell after cell, and write the result after each; the exit code."""
    from report import markdown, recommend, with_roofline
    from roofline import Peak, peak_of

    settings = {
        **settings,
        "own_peak": options.peak_tflops is not None,
    }
    peak = None if gpu is None else peak_of(gpu.name)
    if options.peak_tflops is not None:
        peak = Peak(options.peak_tflops, options.bandwidth_gbs)
    weights = "random" if options.model is None else str(options.model)
    facts = [
        *facts,
        ("weights", f"{weights}; {options.compute_type}, {options.beam_size} beams"),
        (
            "tokens of recordings",
            f"{max(options.tokens)} a window" if options.model is None else "as heard",
        ),
        ("peak", f"{peak.tflops:g} TFLOPS, {peak.bandwidth_gbs:g} GB/s" if peak else "not known"),
    ]
    cells = plan(options.shapes, options.batch_sizes, options.slots, options.loads)
    entries = [entry(cell, out) for cell in cells]
    place = Place(options, out, ends_s)
    for number, cell in enumerate(cells):
        if entries[number]["state"] != "done" and time.monotonic() < ends_s:
            print(f"{number + 1}/{len(cells)} {cell.name} …", file=sys.stderr, flush=True)
            place.perform(cell)
            entries[number] = entry(cell, out)
            problem = entries[number].get("problem")
            if problem:
                print(f"{cell.name} failed: {problem}", file=sys.stderr, flush=True)
        elif number + 1 < len(cells):
            continue
        shown = [with_roofline(one, peak, settings) for one in entries]
        result = {
            "facts": facts,
            "settings": settings,
            "recommended": recommend(shown, gpu.total_bytes() if gpu else None),
            "cells": shown,
        }
        _write(out / "gpu_bench.json", json.dumps(result, indent=1) + "\n")
        _write(out / "gpu_bench.md", markdown(result))
    print((out / "gpu_bench.md").read_text(encoding="utf-8"))
    print(f"Written to {out / 'gpu_bench.json'} and gpu_bench.md.", file=sys.stderr)
    return 1 if any(one["state"] == "failed" for one in entries) else 0


def entry(cell: Cell, out: Path) -> dict[str, Any]:
    """What the folder knows of a cell."""
    about: dict[str, Any] = {"name": cell.name, **dataclasses.asdict(cell)}
    answer, problem = (out / "cells" / f"{cell.name}.{kind}" for kind in ("json", "problem"))
    if answer.exists():
        found = json.loads(answer.read_text(encoding="utf-8"))
        return {**about, "state": "done", "found": found}
    if problem.exists():
        return {**about, "state": "failed", "problem": problem.read_text(encoding="utf-8")}
    return {**about, "state": "left out"}


@dataclasses.dataclass(slots=True)
class Place:
    """Where cells are measured, and what all of them share."""

    options: argparse.Namespace
    out: Path
    ends_s: float

    def perform(self, cell: Cell) -> None:
        """Measure one in a process of its own; it leaves an answer or a problem in `out`."""
        folder = self.out / "cells"
        folder.mkdir(exist_ok=True)
        answer, problem, said = (
            folder / f"{cell.name}.{kind}" for kind in ("json", "problem", "said")
        )
        problem.unlink(missing_ok=True)
        request = folder / "request.json"
        request.write_text(json.dumps(self._request(cell)), encoding="utf-8")
        unfinished = folder / "unfinished.json"
        unfinished.unlink(missing_ok=True)
        script = Path(__file__).resolve().parent / "gpu_bench" / "measure.py"
        limit_s = _START_S + 10 * self.options.cell_seconds
        left_s = self.ends_s - time.monotonic() + _GRACE_S
        how = f"took more than {limit_s:.0f} s"
        with said.open("wb") as stream:
            try:
                code = subprocess.run(
                    [sys.executable, str(script), str(request), str(unfinished)],
                    stdin=subprocess.DEVNULL,
                    stdout=stream,
                    stderr=stream,
                    timeout=min(limit_s, left_s),
                    check=False,
                ).returncode
                how = f"ended with code {code}"
            except subprocess.TimeoutExpired:
                if left_s < limit_s:
                    return  # not its fault
        if unfinished.exists():
            unfinished.replace(answer)
            return
        words = said.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        problem.write_text(f"{how}: {words[-1] if words else 'no word'}", encoding="utf-8")

    def _request(self, cell: Cell) -> dict[str, Any]:
        options = self.options
        model = options.model
        if model is None:
            from random_whisper import build

            shape = SHAPES[cell.shape]
            model = build(
                self.out / "models" / cell.shape, shape, tokens_per_window=max(options.tokens)
            )
        request = {
            **dataclasses.asdict(cell),
            "model": str(model),
            "device": options.device,
            "compute_type": options.compute_type,
            "beam_size": options.beam_size,
            "tokens": options.tokens,
            "seconds": options.cell_seconds,
        }
        if cell.way != MODEL:
            lengths_s = durations_s(cell.load, options.clips, options.long_seconds)
            request["recordings"] = self._recordings(cell.load, lengths_s)
            request["in_flight"] = in_flight(cell, lengths_s)
            forced = options.model is None
            tokens = tokens_of(cell.load, max(options.tokens)) if forced else None
            request["tokens_per_window"] = tokens
        return request

    def _recordings(self, load: str, lengths_s: list[float]) -> list[tuple[str, float]]:
        from recordings import write_manifest

        path = write_manifest(self.out / "audio", load, lengths_s)
        assets = json.loads(path.read_text(encoding="utf-8"))["assets"]
        files = [str(path.parent / asset["path"]) for asset in assets]
        return list(zip(files, lengths_s, strict=True))


def in_flight(cell: Cell, lengths_s: list[float]) -> int:
    """How many recordings are heard at once: ours as many as fill two batches, the loops one."""
    if cell.way != OURS:
        return 1
    if cell.batch_size == 1:
        return cell.slots
    windows = sum(math.ceil(length / 30) for length in lengths_s) / len(lengths_s)
    filling = math.ceil(2 * cell.batch_size * cell.slots / windows)
    return max(cell.slots, min(filling, len(lengths_s), _MOST_IN_FLIGHT))


def _write(path: Path, text: str) -> None:
    """Whole or not at all: who stops the bench meanwhile finds what was there before."""
    new = path.with_name(f"{path.name}.new")
    new.write_text(text, encoding="utf-8")
    new.replace(path)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)  # the same command goes on
