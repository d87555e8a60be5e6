"""Trials of what a run survives on a real GPU, one after the other, and a table of how they went.

    python scripts/gpu_trials.py [--work DIR] [--device cuda:0|cpu] [--model NAME-OR-FOLDER]
                                 [--random-weights] [--minutes 25] [--only 2a,6]

Everything is a real `audio-batch run` over recordings made of the shipped examples. The table goes
to stdout and, after each trial, to DIR/gpu_trials.md; DIR/runs holds what each run wrote and said.
Exit 0 when no trial failed, 1 when one did, 5 where the machine lacks what is needed.

With `--device cpu` the trials that need a GPU's memory are skipped, and stand-ins take the place of
CUDA's faults. `--random-weights` makes a model of large-v3's shape (3.1 GB on disk) for the trials
of memory and speed. Whatever else uses the GPU meanwhile is seen as memory not given back.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent / "gpu_common"))
sys.path.append(str(Path(__file__).resolve().parent / "gpu_trials"))
from machine import PROJECT, Absent, Gpu, missing, versions

sys.path.append(str(PROJECT))


def main() -> int:
    """Look at the machine, make what is needed, do the trials."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, help="where everything is written [a new folder]")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--model", default="demo", help="as for `audio-batch run`")
    parser.add_argument("--random-weights", action="store_true")
    parser.add_argument("--minutes", type=float, default=25, help="nothing is begun after that")
    parser.add_argument("--only", help="names' beginnings: 2a,6")
    arguments = parser.parse_args()
    ends_s = time.monotonic() + 60 * arguments.minutes
    work = (arguments.work or Path(tempfile.mkdtemp(prefix="gpu-trials-"))).resolve()
    work.mkdir(parents=True, exist_ok=True)
    try:
        facts, gpu = look(arguments.device)
    except Absent as error:
        (work / "gpu_trials.md").write_text(f"No trial was done. {error}\n", encoding="utf-8")
        print(f"No trial was done. {error}", file=sys.stderr)
        return 5
    return perform(arguments, facts, gpu, work, ends_s)


def look(device: str) -> tuple[list[tuple[str, str]], Gpu | None]:
    """What there is: facts by name, and the GPU, None on a CPU.

    Raises:
        Absent: something that all trials need.
    """
    needed, spared = missing()
    if needed:
        raise Absent(
            f"This Python ({sys.executable}) has no {', '.join(needed)}. "
            f"Install the project there: pip install {PROJECT}"
        )
    facts = versions()
    if spared:
        facts.append(("not installed", f"{', '.join(spared)}: trials go on without"))
    if device == "cpu":
        return [("device", "cpu: no trial of a GPU's memory"), *facts], None
    kind, _, number = device.partition(":")
    if kind != "cuda" or not (number or "0").isdecimal():
        raise Absent(f"{device!r} is no device for this: say cuda:0 or cpu.")
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # as the program has it
    gpu = Gpu(int(number or 0), os.environ)
    return [*gpu.facts(), *facts], gpu


def perform(
    arguments: argparse.Namespace,
    facts: list[tuple[str, str]],
    gpu: Gpu | None,
    work: Path,
    ends_s: float,
) -> int:
    """Do the trials, and write the table after each; the exit code."""
    from random_whisper import build
    from recordings import write_manifest
    from running import Bench, Skipped, Wrong
    from trials import TRIALS
    from whisper_shapes import SHAPES

    begun_s = time.monotonic()
    audio = work / ("audio-cpu" if gpu is None else "audio-cuda")
    folder = Path(arguments.model).expanduser()
    model = str(folder.resolve()) if folder.is_dir() else arguments.model
    heavy = model
    if arguments.random_weights:
        heavy = str(build(work / "random-large-v3", SHAPES["large-v3"]))
        facts.append(("model of memory and speed", "large-v3's shape, random weights, float16"))
    bench = Bench(
        work=work,
        device="cpu" if gpu is None else f"cuda:{gpu.number}",
        gpu=gpu,
        model=model,
        heavy=heavy,
        ends_s=ends_s,
        short=write_manifest(audio, "short", [20.0] * 6 if gpu is None else [300.0] * 12),
        long=write_manifest(audio, "long", [120.0] if gpu is None else [4200.0]),
        pair=write_manifest(audio, "pair", [60.0] * 2 if gpu is None else [2100.0] * 2),
    )
    facts += [("model", arguments.model), ("made in", f"{time.monotonic() - begun_s:.0f} s")]
    wanted = arguments.only.split(",") if arguments.only else [""]
    rows: list[tuple[str, ...]] = []
    for trial in TRIALS:
        if not trial.name.startswith(tuple(wanted)):
            continue
        trial_begun_s = time.monotonic()
        print(f"{trial.name} …", file=sys.stderr, flush=True)
        try:
            bench.left_s(1.0)
            seen, ok = trial.work(bench), "yes"
        except Skipped as reason:
            seen, ok = f"skipped: {reason}", "–"
        except Wrong as what:
            seen, ok = str(what), "NO"
        except Exception as error:
            seen, ok = f"the trial itself failed: {type(error).__name__}: {error}", "NO"
        took_s = time.monotonic() - trial_begun_s
        print(f"{trial.name}: {ok} ({took_s:.0f} s): {seen}", file=sys.stderr, flush=True)
        rows.append((trial.name, trial.done, trial.expected, f"{seen} ({took_s:.0f} s)", ok))
        (work / "gpu_trials.md").write_text(report(facts, rows), encoding="utf-8")
    print(report(facts, rows))
    print(f"Written to {work / 'gpu_trials.md'}.", file=sys.stderr)
    return 1 if any(row[-1] == "NO" for row in rows) else 0


def report(facts: list[tuple[str, str]], rows: list[tuple[str, ...]]) -> str:
    """The machine and the table, in Markdown."""
    heading = ("trial", "what was done", "outcome expected", "outcome seen", "ok")
    counts = {word: sum(row[-1] == word for row in rows) for word in ("yes", "NO", "–")}
    lines = [
        "# GPU trials",
        "",
        *(f"- {name}: {value}" for name, value in facts),
        f"- {counts['yes']} as expected, {counts['NO']} not, {counts['–']} skipped; "
        f"{time.strftime('%Y-%m-%d %H:%M')}",
        "",
        *("| " + " | ".join(row) + " |" for row in (heading, ("---",) * len(heading))),
    ]
    for row in rows:
        lines.append("| " + " | ".join(" ".join(x.replace("|", "\\|").split()) for x in row) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
