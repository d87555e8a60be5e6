"""The program's own pace: many assets, an engine that costs nothing, and nothing published.

What is left is manifest, plan, schedule, hand-over and journal, every start and every outcome of
which is durable. Three processes in turn: the run, the same command once more when all is done
(what a resume costs), and `status`.
"""

from __future__ import annotations

import shutil
import sqlite3
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from audio_batch.bench import ours
from audio_batch.bench.measuring import run_commands
from audio_batch.journal_file import read_only_uri
from audio_batch.output_folder import OutputFolder

FLAGS = ("--engine", "null", "--model", "null:0", "--device", "cpu", "--output-format", "none")


@dataclass(frozen=True, slots=True)
class ManyCost:
    """A run over `assets` of which nothing is published. Times in seconds, sizes in bytes.

    `first_task_s` is from the process's start to the first asset's, `assets_per_s` counts from
    there to the end of the last one, `overall_per_s` the whole process. `cpu_ms_per_asset` is
    processor time of all threads, the start included. `resume_s` is the same command once more,
    with nothing left to do, `status_s` is `audio-batch status`. None where the run left no journal.
    """

    assets: int
    exit_code: int
    done: int
    wall_s: float
    first_task_s: float | None
    assets_per_s: float | None
    overall_per_s: float
    cpu_ms_per_asset: float
    peak_rss_bytes: int
    journal_bytes: int
    resume_s: float | None
    resume_peak_rss_bytes: int | None
    status_s: float | None
    status_peak_rss_bytes: int | None


def measure(manifest: Path, count: int, log: Path) -> ManyCost:
    """Run, resume and ask for the status of a manifest of `count` assets; `out` beside it is new.

    What the processes say goes to `log`.
    """
    output, cache = manifest.parent / "out", manifest.parent / "cache"
    ran = ours.measure(manifest, output, FLAGS, cache=cache, log=log)
    usage, exit_code = ran.usage, ran.codes[0]
    done, began_at, ended_at, size = _journalled(output)
    first_task_s = rate = resume_s = status_s = resume_rss = status_rss = None
    if began_at is not None and ended_at is not None:
        first_task_s = round(began_at - ran.began_at, 3)
        rate = round(done / max(ended_at - began_at, 1e-3), 1)
    if not exit_code and size:
        again = ours.measure(manifest, output, FLAGS, cache=cache, log=log)
        exit_code = again.codes[0]
        resume_s, resume_rss = again.usage.wall_s, again.usage.peak_rss_bytes
        status = [sys.executable, "-m", "audio_batch", "status", str(output)]
        asked = run_commands([status], log=log, environ=ours.environment(cache))
        exit_code = exit_code or asked.codes[0]
        status_s, status_rss = asked.usage.wall_s, asked.usage.peak_rss_bytes
    shutil.rmtree(output, ignore_errors=True)
    return ManyCost(
        assets=count,
        exit_code=exit_code,
        done=done,
        wall_s=usage.wall_s,
        first_task_s=first_task_s,
        assets_per_s=rate,
        overall_per_s=round(count / usage.wall_s, 1),
        cpu_ms_per_asset=round(1000 * usage.cpu_s / count, 3),
        peak_rss_bytes=usage.peak_rss_bytes,
        journal_bytes=size,
        resume_s=resume_s,
        resume_peak_rss_bytes=resume_rss,
        status_s=status_s,
        status_peak_rss_bytes=status_rss,
    )


def _journalled(output: Path) -> tuple[int, float | None, float | None, int]:
    """How many are done, when the first began and the last ended, and the journal's size."""
    path = OutputFolder(output).journal_path
    if not path.is_file():
        return 0, None, None, 0
    # Of a million rows only these numbers are wanted.
    with closing(sqlite3.connect(read_only_uri(path.resolve()), uri=True)) as db:
        done, began_at, ended_at = db.execute(
            "SELECT count(*), min(started_at), max(finished_at) FROM assets WHERE state = 'done'"
        ).fetchone()
    return done, began_at, ended_at, path.stat().st_size
