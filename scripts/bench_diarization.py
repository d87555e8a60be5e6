"""How much faster our diarization is than pyannote's own pipeline, on the same files and models.

    python scripts/bench_diarization.py FILE... [--model demo] [--repeats 3] [--threads N]
        [--side-by-side N] [--json FILE]

"pyannote" is what `whisperx --diarize` calls: the pipeline as `Pipeline.from_pretrained` makes it,
with its configuration's batch sizes and PyTorch's own number of threads, one file after the other.
"ours" is `load_diarizer` with as many slots, and files at a time, as `--side-by-side` says. Both
alternate within one process, after a short warm-up; medians of wall and processor time are told,
and how the turns differ. Other work on the machine slows both, but not evenly: processor time is
the steadier of the two.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from audio_batch.diarization_models import find_diarization
from audio_batch.engines.pyannote import load_diarizer
from audio_batch.engines.pyannote_pipeline import as_file, import_pyannote
from audio_batch.gpu.devices import CPU, Device
from audio_batch.media import decode
from audio_batch.options import SpeakerLimits

Turns = list[tuple[str, float, float]]
Sound = NDArray[np.float32]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a table, and write the JSON; 1 where the turns differ by over 20 ms."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda:0 and so on")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, help="of each of our slots; all cores shared")
    parser.add_argument("--side-by-side", type=int, default=1, help="our files at a time")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    sounds = [decode(path).samples for path in options.files]
    runs = {"pyannote": theirs(options), "ours": ours(options)}
    for run in runs.values():
        run([sounds[0][: 16_000 * 12]])
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    turns: dict[str, list[Turns]] = {}
    for number in range(options.repeats):
        for name in sorted(runs, reverse=number % 2 == 1):
            wall_s, cpu_s = time.perf_counter(), time.process_time()
            turns[name] = runs[name](sounds)
            taken[name].append((time.perf_counter() - wall_s, time.process_time() - cpu_s))
    result = summary(taken, turns, sum(map(len, sounds)) / 16_000)
    result["load_average"] = os.getloadavg() if hasattr(os, "getloadavg") else None
    print(table(result))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return int(not all(apart is not None and apart <= 0.02 for apart in result["apart_s"]))


def theirs(options: argparse.Namespace) -> Callable[[list[Sound]], list[Turns]]:
    """pyannote's own pipeline, file by file."""
    torch = import_pyannote()
    from pyannote.audio import Pipeline

    reference = find_diarization(options.model, model_dir=None, offline=True, token=None)
    pipeline: Any = Pipeline.from_pretrained(str(reference.path))
    pipeline.to(torch.device(options.device))
    threads = torch.get_num_threads()

    def run(sounds: list[Sound]) -> list[Turns]:
        torch.set_num_threads(threads)  # ours has set its own
        return [
            [
                # The last window is padded: what is heard past the end is no turn.
                (label, span.start, min(span.end, len(sound) / 16_000))
                for span, _, label in pipeline.apply(as_file(sound)).speaker_diarization.itertracks(
                    yield_label=True
                )
            ]
            for sound in sounds
        ]

    return run


def ours(options: argparse.Namespace) -> Callable[[list[Sound]], list[Turns]]:
    """Our diarizer, `--side-by-side` files at a time."""
    device = CPU
    if options.device != "cpu":
        index = int(options.device.partition(":")[2] or 0)
        device = Device(f"cuda:{index}", "cuda", index, None, "GPU", None)
    slots = options.side_by_side
    reference = find_diarization(options.model, model_dir=None, offline=True, token=None)
    diarizer = load_diarizer(
        reference, device, slots=slots, cpu_threads=options.threads, free_bytes=None
    )

    def diarize(sound: Sound) -> Turns:
        found = diarizer.diarize(sound, SpeakerLimits(), lambda _step, _share: None)
        return [(turn.speaker, turn.start_s, turn.end_s) for turn in found.turns]

    def run(sounds: list[Sound]) -> list[Turns]:
        with ThreadPoolExecutor(slots) as pool:
            longest_first = sorted(range(len(sounds)), key=lambda i: -len(sounds[i]))
            made = dict(
                zip(
                    longest_first,
                    pool.map(lambda i: diarize(sounds[i]), longest_first),
                    strict=True,
                )
            )
        return [made[i] for i in range(len(sounds))]

    return run


def summary(
    taken: dict[str, list[tuple[float, float]]], turns: dict[str, list[Turns]], audio_s: float
) -> dict[str, Any]:
    """Medians, ratios (pyannote's time by ours), and how far each file's turns lie apart."""
    median = {
        name: [statistics.median(column) for column in zip(*times, strict=True)]
        for name, times in taken.items()
    }
    return {
        "audio_s": round(audio_s, 1),
        "wall_s": {name: round(wall, 2) for name, (wall, _) in median.items()},
        "cpu_s": {name: round(cpu, 2) for name, (_, cpu) in median.items()},
        "rtfx": {name: round(audio_s / wall, 1) for name, (wall, _) in median.items()},
        "wall_ratio": round(median["pyannote"][0] / median["ours"][0], 2),
        "cpu_ratio": round(median["pyannote"][1] / median["ours"][1], 2),
        "apart_s": [apart_s(*pair) for pair in zip(*turns.values(), strict=True)],
        "repeats": taken,
    }


def apart_s(one: Turns, other: Turns) -> float | None:
    """The largest distance of two edges; None where there are other turns or speakers.

    Labels are compared by the order in which they are first heard.
    """
    if len(one) != len(other):
        return None
    both = []
    for found in (one, other):
        found = sorted(found, key=lambda turn: (turn[1], turn[2]))
        names = list(dict.fromkeys(who for who, _, _ in found))
        both.append([(names.index(who), begin, end) for who, begin, end in found])
    if [turn[0] for turn in both[0]] != [turn[0] for turn in both[1]]:
        return None
    times = np.array([[turn[1:] for turn in found] for found in both])
    return round(float(np.abs(times[0] - times[1]).max(initial=0)), 4)


def table(result: dict[str, Any]) -> str:
    """The figures as text."""
    lines = [f"{result['audio_s']:.0f} s of audio; load average {result['load_average']}"]
    for name in ("pyannote", "ours"):
        lines.append(
            f"{name:9} wall {result['wall_s'][name]:8.2f} s"
            f"   processor {result['cpu_s'][name]:8.2f} s"
            f"   {result['rtfx'][name]:6.1f} x real time"
        )
    lines.append(
        f"ratio     wall {result['wall_ratio']:8.2f}     processor {result['cpu_ratio']:8.2f}"
    )
    lines.append(f"largest distance of two edges by file, s: {result['apart_s']}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
