"""Real runs on simulated unequal GPUs beside their simulation: makespans, and their ratio.

    python scripts/bench_schedule.py [--scale 0.25] [--runs 1] [--json]

The program, its processes, its journal and its driver query are real; the GPUs are stub libraries
(so: Linux, and a C compiler), and the null engine takes there what a case says. Target: real within
5 % of simulated, without the start: from the first asset's begin to the last one's end, by the
journal. `cold`: the run knows no speed, and so does the simulation. `known`: the same once more.
`ratio` is over the simulation of devices that do nothing but their work; `ratio_with_overhead` over
one where each file costs what fetching, decoding, publishing and journalling it was seen to cost
(`overhead_s`): where two slots are free at one moment, that decides who is first.
Run it on an idle machine; `--scale` is seconds a second, longer runs have less overhead.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1] / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "gpu")]

import stub_nvml  # noqa: E402
from program import command, environment, write_tone  # noqa: E402

from audio_batch.journal import Journal, JournalEntry  # noqa: E402
from audio_batch.schedule.simulation import (  # noqa: E402
    EARLIEST_FINISH,
    SimulatedDevice,
    SimulatedJob,
    longest_first,
    simulate,
)
from audio_batch.schedule.speeds import DeviceSpeed, Speeds  # noqa: E402


@dataclass(frozen=True, slots=True)
class Trial:
    """GPUs by their seconds a second of audio, and lengths of recordings in seconds."""

    title: str
    gpus: tuple[float, ...]
    durations_s: tuple[float, ...]


TRIALS = (
    Trial("6 equal files, 8 s + 24 s", (8, 24), (1.0,) * 6),
    Trial("20 equal files, 8 s + 24 s", (8, 24), (1.0,) * 20),
    Trial("40 files, 4 x 8 s + 2 x 24 s", (8, 8, 8, 8, 24, 24), (*(1.0,) * 39, 5.0)),
)
KNOWN = ("cold", "known")


def main() -> None:
    """Print a line a trial."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", type=float, default=0.25)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory(prefix="bench-schedule-") as folder:
        stub = Path(folder, "stub")
        stub.mkdir()
        stub_nvml.build(stub)
        for number, trial in enumerate(TRIALS):
            for policy in (EARLIEST_FINISH, "first-come"):
                place = Path(folder, f"{number}-{policy}")
                for line in measured(trial, policy, stub, place, options.scale, options.runs):
                    found.append(line)
                    if not options.json:
                        print(
                            "  ".join(f"{key} {value}" for key, value in line.items()), flush=True
                        )
    if options.json:
        json.dump(found, sys.stdout, indent=2)


def measured(
    trial: Trial, policy: str, stub: Path, folder: Path, scale: float, runs: int
) -> list[dict[str, object]]:
    """Run a trial cold and known, `runs` times each, and simulate it."""
    assets = []
    for number, duration_s in enumerate(trial.durations_s):
        write_tone(folder / f"audio/{number}.wav", duration_s)
        path = f"audio/{number}.wav"
        assets.append({"id": str(number), "path": path, "duration_s": duration_s})
    (folder / "manifest.json").write_text(json.dumps({"assets": assets}))
    devices = [
        SimulatedDevice(f"cuda:{index}", 1, DeviceSpeed(0.0, {1: scale * s}, jobs=9))
        for index, s in enumerate(trial.gpus)
    ]
    jobs = [SimulatedJob(str(n), duration_s) for n, duration_s in enumerate(trial.durations_s)]
    planned = longest_first(jobs) if policy == EARLIEST_FINISH else jobs
    real: dict[str, list[float]] = {known: [] for known in KNOWN}
    shares: dict[str, Counter[str | None]] = {}
    overheads_s: list[float] = []
    for attempt in range(runs):
        for known in KNOWN:
            entries = run(trial, policy, stub, folder, scale, cache=folder / f"cache-{attempt}")
            begun_s = min(entry.started_at or 0.0 for entry in entries)
            real[known].append(max(entry.finished_at or 0.0 for entry in entries) - begun_s)
            shares[known] = Counter(entry.device for entry in entries)
            overheads_s += overheads(entries, devices)
    overhead_s = max(0.0, statistics.median(overheads_s))
    burdened = [
        SimulatedDevice(d.id, 1, DeviceSpeed(overhead_s, {1: scale * s}, jobs=9))
        for d, s in zip(devices, trial.gpus, strict=True)
    ]
    lines: list[dict[str, object]] = []
    for known in KNOWN:
        timeline, slower = (
            simulate(planned, on, policy, speeds=Speeds() if known == "cold" else None)
            for on in (devices, burdened)
        )
        wall_s = statistics.median(real[known])
        lines.append(
            {
                "case": trial.title,
                "policy": policy,
                "speeds": known,
                "real_s": round(wall_s, 2),
                "simulated_s": round(timeline.makespan_s, 2),
                "ratio": round(wall_s / timeline.makespan_s, 3),
                "overhead_s": round(overhead_s, 3),
                "ratio_with_overhead": round(wall_s / slower.makespan_s, 3),
                "real_jobs": [shares[known][device.id] for device in devices],
                "simulated_jobs": [timeline.jobs(device.id) for device in devices],
            }
        )
    return lines


def run(
    trial: Trial, policy: str, stub: Path, folder: Path, scale: float, *, cache: Path
) -> list[JournalEntry]:
    """Do it; what the journal says of every asset."""
    gpus = [stub_nvml.gpu(number) for number in range(len(trial.gpus))]
    given = stub_nvml.environment(stub, gpus)
    costs = ",".join(f"cuda:{index}={scale * s:.6f}x" for index, s in enumerate(trial.gpus))
    subprocess.run(
        command(
            *("run", "manifest.json", "-o", "out", "--overwrite", "--engine", "null"),
            *("--model", f"null:{costs}", "--policy", policy, "--max-per-gpu", "1", "-q"),
        ),
        cwd=folder,
        env=environment(
            **{key: given[key] for key in given if "STUB" in key or key == "LD_LIBRARY_PATH"},
            AUDIO_BATCH_CACHE_DIR=str(cache),
        ),
        check=True,
    )
    journal = Journal(folder / "out/.audio-batch/journal.sqlite3", read_only=True)
    entries = list(journal.entries())
    journal.close()
    return entries


def overheads(entries: Sequence[JournalEntry], devices: Sequence[SimulatedDevice]) -> list[float]:
    """Seconds of every asset but those of its device's work, one after the other on a device.

    What is read ahead begins long before its device takes it: an asset's time counts from the end
    of the one before it there.
    """
    found = []
    for device in devices:
        before_s = 0.0
        mine = [entry for entry in entries if entry.device == device.id]
        for entry in sorted(mine, key=lambda entry: entry.finished_at or 0.0):
            ended_s = entry.finished_at or 0.0
            work_s = device.speed.cost_s(1, entry.duration_s or 0.0)
            found.append(ended_s - max(before_s, entry.started_at or 0.0) - work_s)
            before_s = ended_s
    return found


if __name__ == "__main__":
    main()
