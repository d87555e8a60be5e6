"""Measure the demonstration diarization on speakers and takes that it never learnt from.

    python scripts/demo_diarization/evaluate.py --model audio_batch/demo/diarization \\
        --data ../shared/data

prints a table; ``--json`` keeps it.  Everything runs on one processor core.
"""

from __future__ import annotations

import os

os.environ["PYANNOTE_METRICS_ENABLED"] = "false"  # before pyannote is imported: it reports usage

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from pipeline import Remembering, error_rate, hear, open_pipeline, trivial
from recordings import RATE, load
from scenes import Scene, coded, dialogues, from_rttm, noisy, panels, singles
from sklearn.metrics import adjusted_rand_score
from trial import pairs
from tune import heard_voices, linked

TRIVIAL_THRESHOLDS = (0.003, 0.01, 0.02, 0.04, 0.07, 0.1, 0.15, 0.25)


@dataclass(frozen=True)
class Row:
    """A measured figure, and the bar it is held against."""

    what: str
    value: float
    unit: str
    bar: float | None = None
    least: bool = False  # the bar is the least value, not the most
    note: str = ""

    @property
    def met(self) -> bool:
        """Whether the bar, if there is one, is met."""
        if self.bar is None:
            return True
        return self.value >= self.bar if self.least else self.value <= self.bar


def sets(data: Path, seed: int) -> list[tuple[str, list[Scene], float | None, float | None]]:
    """What is measured: name, scenes, bars for the number of speakers given and not given."""
    digits = [s for s in load(data, "measure") if s.kind == "fsdd"]
    two = dialogues(digits, (2,) * 12, seed)
    three = dialogues(digits, (3,) * 12, seed + 1)
    some = [*two[:3], *three[:3]]
    return [
        ("digits, two voices", two, 10.0, 20.0),
        ("digits, three voices", three, 10.0, 20.0),
        ("digits as MP3, 32 kbit/s", [coded(s) for s in some], 10.0, 20.0),
        ("digits in noise, 18 dB", [noisy(s, i) for i, s in enumerate(some)], 10.0, 20.0),
        ("panel_a", from_rttm(data / "long", "panel_a"), 15.0, 15.0),
        ("panel_overlap_b", from_rttm(data / "long", "panel_overlap_b"), 15.0, 15.0),
        ("overlap2, two readers", from_rttm(data / "overlap2"), None, None),
        ("AMI meetings", from_rttm(data / "ami"), None, None),
    ]


def errors(pipeline: Any, scenes: Sequence[Scene], given: bool) -> dict[str, float]:
    """Error rates, with the number of speakers given or not."""
    limits = [{"num_speakers": len(s.speakers)} if given else {} for s in scenes]
    return error_rate([hear(pipeline, s, **k) for s, k in zip(scenes, limits, strict=True)])


def measure_sets(folder: Path, data: Path, seed: int) -> list[Row]:
    """DER of each set with our embedding, and with the trivial one in its place."""
    pipeline = open_pipeline(folder, Remembering)
    own = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))["params"]
    rows = []
    for what, scenes, bar_given, bar_free in sets(data, seed):
        for given, bar in ((True, bar_given), (False, bar_free)):
            found = errors(pipeline, scenes, given)
            note = ", ".join(f"{k} {v:.1f}" for k, v in found.items() if k != "DER")
            how = "number given" if given else "not given"
            rows.append(Row(f"{what}, {how}", found["DER"], "% DER", bar, note=note))
        embedded = [k for k in pipeline.memory if k[0] == "embeddings"]
        for key in embedded:
            del pipeline.memory[key]
        put_back = trivial(pipeline)
        value = errors(pipeline, scenes, given=True)["DER"]
        rows.append(Row(f"{what}, number given", value, "% DER", note="trivial embedding"))
        free = []
        for threshold in TRIVIAL_THRESHOLDS:
            clustering = {**own["clustering"], "threshold": threshold}
            pipeline.instantiate({**own, "clustering": clustering})
            free.append(errors(pipeline, scenes, given=False)["DER"])
        put_back()
        pipeline.instantiate(own)
        pipeline.memory.clear()
        note = "trivial embedding, threshold best for this set"
        rows.append(Row(f"{what}, not given", min(free), "% DER", note=note))
        for row in rows[-4:]:
            print(line(row), flush=True)
    return rows


def measure_linking(folder: Path, data: Path, seed: int) -> list[Row]:
    """Voices of many recordings linked by the thresholds of ``voices.json``."""
    pipeline = open_pipeline(folder)
    voices = json.loads((folder / "voices.json").read_text(encoding="utf-8"))
    people = load(data, "measure")
    readers = [s for s in people if s.kind == "libri"]
    digits = [s for s in people if s.kind == "fsdd"]
    alone = singles(readers, 5, "alone")
    for speaker in readers:  # what follows is heard in the panels only
        speaker.clips = speaker.clips[5:]
    together = panels(
        readers, (2, 3, 4) * 4, seed, label="panel", piece_s=(2.5, 8.0), most_turns=16
    )
    talks = dialogues(digits, (2, 3) * 10, seed + 2)
    rows = []
    sets_ = (("test-other", [*alone, *together], 0.9), ("panels alone", together, None),
             ("digit dialogues", talks, None))  # fmt: skip
    for what, scenes, bar in sets_:
        vectors, names = heard_voices(pipeline, scenes)
        rand = adjusted_rand_score(names, linked(vectors, voices["link_threshold"]))
        note = f"{len(scenes)} recordings, {len(vectors)} voices of {len(set(names))} people"
        rows.append(Row(f"linking, {what}", rand, "ARI", bar, least=True, note=note))
        scores, same = pairs(vectors, names)
        taken = scores >= voices["enrol_threshold"]
        wrong = f"{100 * (taken & ~same).sum() / (~same).sum():.2f} % of others taken"
        missed = 100 * float((~taken & same).sum() / same.sum())
        rows.append(Row(f"enrolled voice missed, {what}", missed, "%", note=wrong))
    for row in rows:
        print(line(row), flush=True)
    return rows


def measure_speed(folder: Path, data: Path) -> list[Row]:
    """Audio seconds per second, of panel_a, on one core."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    pipeline = open_pipeline(folder)
    scene = from_rttm(data / "long", "panel_a")[0]
    hear(pipeline, Scene("warm-up", scene.audio[: 20 * RATE], scene.reference))
    wall, busy = time.perf_counter(), time.process_time()
    hear(pipeline, scene)
    seconds = len(scene.audio) / RATE
    wall, busy = time.perf_counter() - wall, time.process_time() - busy
    rows = [
        Row("speed, panel_a (310 s), by processor time", seconds / busy, "x", 10.0, least=True),
        Row("speed, panel_a (310 s), by the clock", seconds / wall, "x", note="with other work"),
    ]
    for row in rows:
        print(line(row), flush=True)
    return rows


def line(row: Row) -> str:
    """A row as text."""
    sign = ">=" if row.least else "<="
    bar = "" if row.bar is None else f"{sign} {row.bar:g}"
    state = "" if row.bar is None else ("ok" if row.met else "missed")
    return f"{row.what:<44}{row.value:8.2f} {row.unit:<6}{bar:<8}{state:<7}{row.note}"


def main() -> int:
    """Measure all; 1 if a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", type=Path, required=True, help="the pipeline's folder")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--only", choices=("sets", "linking", "speed"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    if args.only in (None, "sets"):
        rows += measure_sets(args.model, args.data, args.seed)
    if args.only in (None, "linking"):
        rows += measure_linking(args.model, args.data, args.seed)
    if args.only in (None, "speed"):
        rows += measure_speed(args.model, args.data)
    if args.json:
        figures = [asdict(row) | {"met": row.met} for row in rows]
        args.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return 0 if all(row.met for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
