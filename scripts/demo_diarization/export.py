"""Write the pipeline folder that ``pyannote.audio.Pipeline.from_pretrained`` reads."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from pyannote.audio.core.task import Problem, Resolution, Specifications
from scipy.linalg import eigh
from teacher import unit

from audio_batch.demo.voice import VoiceNet

NAME = "audio-batch-demo-voice-1"


@dataclass(frozen=True)
class Choice:
    """The pipeline's parameters."""

    method: str = "average"
    threshold: float = 0.4
    min_cluster_size: int = 3
    onset: float = 0.5
    min_gap_s: float = 0.0

    def params(self) -> dict[str, dict[str, Any]]:
        """As ``config.yaml`` and ``Pipeline.instantiate`` want them."""
        return {
            "segmentation": {"threshold": self.onset, "min_duration_off": self.min_gap_s},
            "clustering": {
                "method": self.method,
                "min_cluster_size": self.min_cluster_size,
                "threshold": self.threshold,
            },
        }

    def replace(self, **changes: Any) -> Choice:
        """The same with changes."""
        return dataclasses.replace(self, **changes)


def _write(path: Path, text: str) -> None:
    """Atomically: who loads the folder meanwhile sees a whole file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(text, encoding="utf-8", newline="\n")
    fresh.replace(path)


def write_config(out: Path, choice: Choice) -> None:
    """``config.yaml``."""
    config = {
        "dependencies": {"pyannote.audio": "4.0.0"},
        "pipeline": {
            "name": "pyannote.audio.pipelines.SpeakerDiarization",
            "params": {
                "segmentation": "$model/segmentation",
                "segmentation_step": 0.1,
                "segmentation_batch_size": 8,
                "embedding": "$model/embedding",
                "embedding_batch_size": 24,
                "embedding_exclude_overlap": True,
                "plda": "$model/plda",
                "clustering": "AgglomerativeClustering",
            },
        },
        "params": choice.params(),
    }
    _write(out / "config.yaml", yaml.safe_dump(config, sort_keys=False))


def write_voices(out: Path, link: float, enrol: float) -> None:
    """``voices.json``: the embedding's name and the cosines from which two voices are one."""
    digest = hashlib.sha256((out / "embedding" / "pytorch_model.bin").read_bytes()).hexdigest()
    voices = {
        "embedding": f"{NAME}-{digest[:8]}",
        "link_threshold": link,
        "enrol_threshold": enrol,
    }
    _write(out / "voices.json", json.dumps(voices, indent=2) + "\n")


def _write_checkpoint(
    model: Any, weights: dict[str, torch.Tensor], specifications: Any, folder: Path
) -> None:
    """A checkpoint as pyannote's trainer writes it, without what going on learning would need."""
    checkpoint = {
        "state_dict": weights,
        "hyper_parameters": dict(model.hparams),
        "pytorch-lightning_version": version("lightning"),
        "epoch": 0,
        "global_step": 0,
        "pyannote.audio": {
            "versions": {"pyannote.audio": "4.0.0"},  # the least that reads it
            "architecture": {"module": type(model).__module__, "class": type(model).__name__},
            "specifications": specifications,
        },
    }
    folder.mkdir(parents=True, exist_ok=True)
    fresh = folder / "pytorch_model.new"
    torch.save(checkpoint, fresh)
    fresh.replace(folder / "pytorch_model.bin")


def write_embedding(net: VoiceNet, out: Path) -> None:
    """The embedding in half precision; loading copies it into single precision."""
    weights = {k: v.half() if v.dtype.is_floating_point else v for k, v in net.state_dict().items()}
    specifications = Specifications(
        problem=Problem.REPRESENTATION, resolution=Resolution.CHUNK, duration=5.0
    )
    _write_checkpoint(net, weights, specifications, out / "embedding")


def write_segmentation(model: Any, out: Path) -> None:
    """The segmentation, its large matrices in half precision (filters are small and stay)."""
    weights = {k: v.half() if v.numel() > 1000 else v for k, v in model.state_dict().items()}
    _write_checkpoint(model, weights, model.specifications, out / "segmentation")


def write_plda(voices: NDArray[np.float32], numbers: NDArray[np.int64], out: Path) -> None:
    """PLDA arrays estimated from embeddings (n, dimension) of numbered voices.

    The layout is that of ``pyannote.audio.utils.vbx.vbx_setup``: centring, LDA, centring, and the
    transform that makes the covariance within voices one and that between voices diagonal.
    """
    dimension = voices.shape[1]
    kept = dimension // 2
    mean1 = voices.mean(0)
    x = np.sqrt(dimension) * unit(voices - mean1)
    within, between = _covariances(x, numbers)
    lda = eigh(between, within)[1][:, ::-1][:, :kept]
    mean2 = (x @ lda).mean(0)
    y = np.sqrt(kept) * unit(x @ lda - mean2)
    within, between = _covariances(y, numbers)
    psi, transform = eigh(between, within)
    path = out / "plda"
    path.mkdir(parents=True, exist_ok=True)
    arrays = {"mean1": mean1, "mean2": mean2, "lda": lda}
    np.savez(path / "xvec_transform.npz", **{k: v.astype(np.float32) for k, v in arrays.items()})
    psi = np.maximum(psi[::-1], 1e-4)
    np.savez(path / "plda.npz", mu=y.mean(0), tr=transform.T[::-1], psi=psi)


def _covariances(
    x: NDArray[np.float32], numbers: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Within and between voices, the first with a little added so that it can be inverted."""
    means = np.stack([x[numbers == n].mean(0) for n in np.unique(numbers)])
    spread = x - means[np.unique(numbers, return_inverse=True)[1]]
    within = spread.T @ spread / len(x)
    within = within + 1e-3 * np.trace(within) / len(within) * np.eye(len(within))
    return np.asarray(within, dtype=float), np.cov(means.T).astype(float)
