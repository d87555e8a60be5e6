"""The results as records, as JSON, and back. `docs/performance.md` tells what the fields mean.

The version is raised when a reader of the old form would misread the new; fields may be added.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import TypeAdapter, ValidationError

from audio_batch.bench.machine import Machine
from audio_batch.bench.measuring import DeviceUsage, Usage
from audio_batch.errors import UsageError
from audio_batch.storage import write_atomic

SCHEMA_VERSION = 1
RUN_FILE = "bench-run.json"

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class StageTime:
    """A stage over all assets: seconds of its threads, its share of all stages, and RTFx.

    Stages of different assets run side by side, so that the seconds may add up to more than the
    wall time. `rtfx` is audio seconds per second of the stage.
    """

    name: str
    total_s: float
    share_pct: float
    rtfx: float | None


@dataclass(frozen=True, slots=True)
class AssetTimes:
    """Seconds from an asset's beginning to its end, over the assets that were done."""

    total_s: float
    mean_s: float
    min_s: float
    max_s: float


@dataclass(frozen=True, slots=True)
class OurRun:
    """One run of ours: `start_s` until the first asset begins, `end_s` after the last has ended."""

    exit_code: int
    done: int
    usage: Usage
    devices: tuple[str, ...] = ()
    start_s: float | None = None
    end_s: float | None = None
    assets: AssetTimes | None = None
    stages: tuple[StageTime, ...] = ()


@dataclass(frozen=True, slots=True)
class Differences:
    """Assets whose results are not those of the cell `to`.

    `texts` are those whose words differ, `times` those with the same words of which some begin or
    end more than 20 ms apart, `missing` those without a transcript on one side.
    """

    to: str
    texts: tuple[str, ...]
    times: tuple[str, ...]
    missing: tuple[str, ...]
    largest_time_difference_s: float


@dataclass(frozen=True, slots=True)
class Cell:
    """One setting of the grid; the figures are medians over its runs."""

    name: str
    settings: dict[str, str]
    runs: tuple[OurRun, ...]
    wall_s: float
    rtfx: float | None
    cpu_s: float
    cpu_pct: float
    middle_cpu_pct: float | None
    peak_rss_bytes: int
    peak_vram_bytes: int | None
    start_s: float | None
    devices: tuple[DeviceUsage, ...]
    assets: AssetTimes | None
    stages: tuple[StageTime, ...]
    differs: Differences | None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class RunReport:
    """What `bench run` found. `devices` are the products that did the work, one entry a device."""

    made_at: str
    program: str
    machine: Machine
    devices: tuple[str, ...]
    manifest: str
    assets: int
    audio_s: float
    repeats: int
    arguments: tuple[str, ...]
    cells: tuple[Cell, ...]
    schema_version: int = SCHEMA_VERSION
    kind: Literal["bench-run"] = "bench-run"


@dataclass(frozen=True, slots=True)
class Contestant:
    """One program in one mode; the figures are medians over its runs.

    `cannot` says why there are no figures. `files` is how many it was given; with `scaled` the
    times are those of `files`, times all files over those, and memory is as it was. `ratio` is the
    median over the rounds of its wall time by ours in the same round, `cpu_ratio` likewise.
    `transcripts` is how many it wrote; `wer` and `cpwer` are of the last round, over the files it
    was given. `not_told` are settings of the comparison that its interface does not take.
    `comparable` says whether its WER is no worse than ours by more than the margin.
    """

    name: str
    title: str
    kind: Literal["ours", "all", "loop"]
    versions: dict[str, str]
    command: str
    files: int
    cannot: str | None = None
    scaled: bool = False
    runs: tuple[Usage, ...] = ()
    wall_s: float | None = None
    rtfx: float | None = None
    cpu_s: float | None = None
    middle_cpu_pct: float | None = None
    peak_rss_bytes: int | None = None
    ratio: float | None = None
    cpu_ratio: float | None = None
    transcripts: int = 0
    wer: float | None = None
    cpwer: float | None = None
    comparable: bool | None = None
    not_told: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PeersReport:
    """What `bench peers` found.

    `best_all` names the fastest peer given all files in one call among those whose WER is
    comparable, `best_loop` the fastest among those that are started for every file.
    """

    made_at: str
    program: str
    machine: Machine
    manifest: str
    assets: int
    audio_s: float
    repeats: int
    settings: dict[str, Any]
    contestants: tuple[Contestant, ...]
    best_all: str | None = None
    best_loop: str | None = None
    notes: tuple[str, ...] = field(default=())
    schema_version: int = SCHEMA_VERSION
    kind: Literal["bench-peers"] = "bench-peers"


def schema(report: type[Any]) -> dict[str, Any]:
    """The JSON Schema of a report, as its file is written."""
    return TypeAdapter(report).json_schema(mode="serialization")


def save(path: Path, report: RunReport | PeersReport) -> None:
    """Write a report.

    Raises:
        SetupError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, (json.dumps(asdict(report), indent=2) + "\n").encode("utf-8"))


def load(path: Path, report: type[_T]) -> _T:
    """Read what `save` wrote.

    Raises:
        UsageError: the file is no such report, or of a newer version.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(data, dict) and data.get("schema_version") != SCHEMA_VERSION:
            raise UsageError(
                f"{path} is of schema version {data.get('schema_version')!r}, this program reads "
                f"{SCHEMA_VERSION}.",
                remedy="Measure again, or compare with the version that made it.",
            )
        return TypeAdapter(report).validate_python(data, strict=False)
    except (OSError, ValueError, ValidationError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"{path} is no result of this bench: {reason}.") from error
