"""Choose the pipeline's thresholds, on speakers and takes kept for choosing.

    python scripts/demo_diarization/tune.py --data ../shared/data --out audio_batch/demo/diarization

is the last step of ``train.py``; alone it chooses anew for the embedding in the folder.
"""

from __future__ import annotations

import os

os.environ["PYANNOTE_METRICS_ENABLED"] = "false"  # before pyannote is imported: it reports usage

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from export import Choice, write_config, write_voices
from pipeline import Remembering, error_rate, hear, open_pipeline
from recordings import alter, background, load
from scenes import Scene, coded, dialogues, noisy, panels, singles
from scipy.cluster.hierarchy import fcluster, linkage
from sklearn.metrics import adjusted_rand_score
from trial import equal_error, pairs

THRESHOLDS = {  # cosine distances, Euclidean distances of unit vectors
    "average": tuple(round(0.25 + 0.05 * i, 2) for i in range(9)),
    "centroid": tuple(round(0.5 + 0.05 * i, 2) for i in range(9)),
}
SIZES = (3, 5)
ONSETS = (0.3, 0.4, 0.5)
GAPS = (0.0, 0.25)


def scenes_to_choose_on(data: Path, seed: int) -> tuple[list[list[Scene]], list[list[Scene]]]:
    """Groups of scenes for diarization, each as weighty; batches of scenes for linking."""
    speakers = load(data, "choose")
    digits = [s for s in speakers if s.kind == "fsdd"]
    readers = [s for s in speakers if s.kind == "libri"]
    talks = dialogues(digits, (2, 3) * 5, seed)
    groups = [
        talks,
        [noisy(talks[0], seed), coded(talks[3]), noisy(talks[5], seed + 1), coded(talks[6])],
        panels(readers, (2, 3, 4, 5, 3, 4), seed, label="panel"),
        panels(readers, (2, 3, 4), seed + 1, label="overlap", overlap=0.3),
        singles(readers[:6], 1, "alone"),
    ]
    rng = np.random.default_rng(seed)
    batches = []
    for i in range(3):
        few = readers[i::3]
        together = panels(few, (2, 3, 3, 4), seed + i, label=f"linked{i}", most_turns=9)
        batch = [*singles(few, 3, f"single{i}"), *together]
        batches.append([elsewhere(scene, rng) for scene in batch])
    return groups, batches


def elsewhere(scene: Scene, rng: np.random.Generator) -> Scene:
    """The same over another line, in another room, with other noise.

    There is one sentence of each speaker, so that without this all recordings of a voice would be
    of one session.
    """
    audio = alter(rng, scene.audio)
    level = float(np.sqrt((audio**2).mean())) * 10 ** (-rng.uniform(15, 40) / 20)
    audio = audio + background(rng, len(audio)) * np.float32(level)
    return replace(scene, audio=audio.astype(np.float32))


def cost(pipeline: Any, groups: list[list[Scene]]) -> float:
    """Mean DER over groups, the number of speakers given and not given."""
    found = []
    for group in groups:
        given = [hear(pipeline, s, num_speakers=len(s.speakers)) for s in group]
        found += [error_rate(given)["DER"], error_rate([hear(pipeline, s) for s in group])["DER"]]
    return float(np.mean(found))


def with_clustering(pipeline: Any, choice: Choice) -> Any:
    """The pipeline with these parameters."""
    return pipeline.instantiate(choice.params())


def choose(pipeline: Any, groups: list[list[Scene]]) -> Choice:
    """The segmentation's threshold and shortest gap first, then the clustering."""
    costs = {}
    for onset in ONSETS:
        for gap in GAPS:
            choice = Choice(onset=onset, min_gap_s=gap)
            costs[choice] = cost(with_clustering(pipeline, choice), groups)
            print(f"onset {onset} gap {gap}: DER {costs[choice]:.2f}", flush=True)
    best, least = min(costs, key=lambda c: costs[c]), float("inf")
    first = best
    for method, thresholds in THRESHOLDS.items():
        for size in SIZES:
            found = []
            for threshold in thresholds:
                choice = first.replace(method=method, threshold=threshold, min_cluster_size=size)
                found.append(cost(with_clustering(pipeline, choice), groups))
            # The middle of a valley, not its luckiest point.
            smooth = np.convolve(np.pad(found, 1, "edge"), [0.25, 0.5, 0.25], "valid")
            at = int(np.argmin(smooth))
            print(f"{method} {size}: {thresholds[at]} DER {found[at]:.2f}", flush=True)
            if smooth[at] < least:
                least = float(smooth[at])
                best = first.replace(method=method, threshold=thresholds[at], min_cluster_size=size)
    return best


def linked(vectors: np.ndarray, threshold: float) -> np.ndarray:
    """Cluster numbers: average linkage of cosines, joined from ``threshold`` on."""
    if len(vectors) < 2:
        return np.zeros(len(vectors), dtype=int)
    return fcluster(linkage(vectors, "average", "cosine"), 1 - threshold, "distance")


def heard_voices(pipeline: Any, scenes: Sequence[Scene]) -> tuple[np.ndarray, list[str]]:
    """The embeddings that the pipeline gives for each scene's speakers, and who they are."""
    vectors, names = [], []
    for scene in scenes:
        heard = hear(pipeline, scene)
        for label, name in heard.names().items():
            if label in heard.voices:
                vectors.append(heard.voices[label])
                names.append(name)
    return np.stack(vectors), names


def link_thresholds(pipeline: Any, batches: list[list[Scene]]) -> tuple[float, float]:
    """Cosine from which recordings' voices are one: for linking, and for enrolled voices."""
    grid = np.arange(0.2, 0.96, 0.02)
    rand = np.zeros(len(grid))
    scores, same = [], []
    for batch in batches:
        vectors, names = heard_voices(pipeline, batch)
        rand += [adjusted_rand_score(names, linked(vectors, t)) / len(batches) for t in grid]
        found = pairs(vectors, names)
        scores.append(found[0])
        same.append(found[1])
    plateau = grid[rand >= rand.max() - 0.02]
    every, alike = np.concatenate(scores), np.concatenate(same)
    rate, cosine = equal_error(every, alike)
    enrol = float(np.quantile(every[~alike], 0.95))  # a wrong name is worse than none
    print(
        f"linking: mean ARI {rand.max():.3f} for {plateau.min():.2f}-{plateau.max():.2f}; "
        f"pairs EER {100 * rate:.1f} % at {cosine:.2f}, "
        f"one in twenty of others at {enrol:.2f}",
        flush=True,
    )
    return round(float(plateau.mean()), 2), round(enrol, 2)


def tune(data: Path, out: Path, seed: int) -> None:
    """Write ``config.yaml`` and ``voices.json``."""
    began = time.monotonic()
    write_config(out, Choice())
    pipeline = open_pipeline(out, Remembering)
    groups, to_link = scenes_to_choose_on(data, seed)
    choice = choose(pipeline, groups)
    write_config(out, choice)
    link, enrol = link_thresholds(with_clustering(pipeline, choice), to_link)
    write_voices(out, link, enrol)
    print(f"chose {choice}, link {link}, enrol {enrol} in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    tune(args.data, args.out, args.seed)
