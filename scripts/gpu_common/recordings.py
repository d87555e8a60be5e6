"""Recordings put together from the shipped examples, and their manifests."""

from __future__ import annotations

import json
import wave
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

RATE_HZ = 16_000
EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "audio"
_SPOKEN = ("dialogue.flac", "door_code.mp3", "phone_number.wav", "long_count.opus", "lottery.mp4")
_PAUSE_S = 0.7


def write_manifest(folder: Path, name: str, durations_s: Sequence[float]) -> Path:
    """A manifest with a recording of each duration; made unless it is there."""
    path = folder / f"{name}.json"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    speech = _speech()
    assets = []
    for number, duration_s in enumerate(durations_s):
        file = folder / f"{name}-{number:02d}.wav"
        # Each begins with another of the examples: a mix-up would be seen in the texts.
        turned = speech[number % len(speech) :] + speech[: number % len(speech)]
        _write(file, np.concatenate(turned), round(duration_s * RATE_HZ))
        assets.append({"id": file.stem, "path": file.name, "language": "en"})
    path.write_text(json.dumps({"assets": assets}, indent=1), encoding="utf-8")
    return path


def _speech() -> list[NDArray[np.int16]]:
    """The examples at 16 kHz, each with a pause behind it."""
    import av

    found = []
    for name in _SPOKEN:
        resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE_HZ)
        with av.open(str(EXAMPLES / name)) as container:
            frames = [*container.decode(audio=0), None]
            blocks = [out.to_ndarray().reshape(-1) for f in frames for out in resampler.resample(f)]
        found.append(np.concatenate([*blocks, np.zeros(round(_PAUSE_S * RATE_HZ), np.int16)]))
    return found


def _write(path: Path, samples: NDArray[np.int16], length: int) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE_HZ)
        file.writeframes(np.resize(samples, length).tobytes())
