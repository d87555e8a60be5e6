"""The pipeline folder opened, a memory for its slow steps, and what its results are worth."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from pyannote.audio import Pipeline
from pyannote.audio.core.pipeline import expand_subfolders
from pyannote.audio.pipelines import SpeakerDiarization
from pyannote.core import Annotation, Segment, Timeline
from pyannote.metrics.diarization import DiarizationErrorRate
from recordings import RATE, Audio
from scenes import Scene
from teacher import unit

warnings.filterwarnings("ignore")
COLLAR_S = 0.25  # forgiven on either side of a reference boundary


class Remembering(SpeakerDiarization):  # type: ignore[misc]
    """The pipeline, which computes segmentations and embeddings of a scene only once."""

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        self.memory: dict[tuple[Any, ...], Any] = {}

    def get_segmentations(self, file: Any, hook: Any = None) -> Any:
        """See the base class."""
        key = ("segmentation", file["uri"])
        if key not in self.memory:
            self.memory[key] = super().get_segmentations(file, hook=hook)
        return self.memory[key]

    def get_embeddings(
        self, file: Any, segments: Any, exclude_overlap: bool = False, hook: Any = None
    ) -> Any:
        """See the base class."""
        key = ("embeddings", file["uri"], round(self.segmentation.threshold, 3), exclude_overlap)
        if key not in self.memory:
            self.memory[key] = super().get_embeddings(file, segments, exclude_overlap, hook)
        return self.memory[key].copy()


def open_pipeline(folder: Path, kind: type[SpeakerDiarization] = SpeakerDiarization) -> Any:
    """The pipeline of a folder."""
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    expand_subfolders(config, folder)
    if kind is not SpeakerDiarization:
        config["pipeline"]["name"] = f"{kind.__module__}.{kind.__name__}"
    return Pipeline.from_pretrained(config)


@dataclass
class Heard:
    """What the pipeline makes of a scene."""

    scene: Scene
    turns: Annotation
    voices: dict[str, NDArray[np.float32]] = field(default_factory=dict)  # of length 1

    def names(self) -> dict[str, str]:
        """Who each of the pipeline's speakers is, by the time they share; none for no one."""
        made = {}
        for label in self.turns.labels():
            shared: dict[str, float] = {}
            for start, end, name in self.scene.reference:
                crop = self.turns.label_timeline(label).crop(Segment(start, end))
                shared[name] = shared.get(name, 0.0) + crop.duration()
            best = max(shared, key=lambda n: shared[n])
            if shared[best] > 0:
                made[label] = best
        return made


def hear(pipeline: Any, scene: Scene, **limits: int) -> Heard:
    """Run the pipeline on a scene."""
    file = {"waveform": torch.from_numpy(scene.audio)[None], "sample_rate": RATE, "uri": scene.name}
    output = pipeline(file, **limits)
    turns = output.speaker_diarization
    # pyannote gives zeros, or none at all, for speakers who never speak alone for a second.
    found = zip(turns.labels(), output.speaker_embeddings, strict=True)
    voices = {label: unit(v) for label, v in found if np.isfinite(v).all() and v.any()}
    return Heard(scene, turns, voices)


def error_rate(heard: list[Heard], collar_s: float = COLLAR_S) -> dict[str, float]:
    """DER over recordings in percent, with its parts (pyannote.metrics, overlaps counted)."""
    # pyannote.metrics' collar is the whole width around a boundary.
    metric = DiarizationErrorRate(collar=2 * collar_s, skip_overlap=False)
    for one in heard:
        reference = Annotation(uri=one.scene.name)
        for i, (start, end, name) in enumerate(one.scene.reference):
            reference[Segment(start, end), i] = name
        metric(reference, one.turns, uem=Timeline([Segment(0, len(one.scene.audio) / RATE)]))
    total = metric["total"]
    parts = {key: 100 * metric[key] / total for key in ("missed detection", "false alarm")}
    return {"DER": 100 * abs(metric), **parts, "confusion": 100 * metric["confusion"] / total}


def trivial(pipeline: Any) -> Callable[[], None]:
    """Put a mean log-Mel spectrum in the place of the embedding; the result puts it back."""
    net = pipeline._embedding.model_

    def forward(waveforms: Audio, weights: torch.Tensor) -> torch.Tensor:
        mel = torch.log(net.mel_power(waveforms[:, 0]) + 1e-6)
        at = torch.nn.functional.interpolate(weights[:, None], size=mel.shape[-1])
        mean = (mel * at).sum(2) / (at.sum(2) + 1e-6)
        return mean - mean.mean(1, keepdim=True)  # the level says nothing

    own = net.forward
    net.forward = forward
    return lambda: setattr(net, "forward", own)
