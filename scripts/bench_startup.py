"""How long the program takes to answer what needs no model: medians of whole processes.

    python scripts/bench_startup.py [--runs 15]

Run it on an idle machine, with the program installed. Target: `--help` in less than 0.5 s.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "--version": [sys.executable, "-m", "audio_batch", "--version"],
    "--help": [sys.executable, "-m", "audio_batch", "--help"],
    "run --help": [sys.executable, "-m", "audio_batch", "run", "--help"],
}


def main() -> None:
    """Print a table of medians, in seconds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15)
    runs = parser.parse_args().runs
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(runs + 1):
        for name, command in COMMANDS.items():
            begun = time.perf_counter()
            subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
            times[name].append(time.perf_counter() - begun)
    for name, values in times.items():
        counted = values[1:]  # the first fills the disk cache
        print(f"{name:16} median {statistics.median(counted):.3f} s  max {max(counted):.3f} s")


if __name__ == "__main__":
    main()
