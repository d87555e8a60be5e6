"""What test modules share: recordings made on the spot, and the program's command line."""

from __future__ import annotations

import json
import math
import os
import struct
import sys
import tempfile
import wave
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("AUDIO_BATCH_SHARED", PROJECT.parent / "shared"))


def write_tone(
    path: Path, duration_s: float = 1.0, *, rate_hz: int = 8000, hz: float = 440
) -> Path:
    """A mono 16-bit WAV of a quiet tone."""
    count = int(duration_s * rate_hz)
    values = (int(6000 * math.sin(2 * math.pi * hz * n / rate_hz)) for n in range(count))
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes(b"".join(struct.pack("<h", value) for value in values))
    return path


def write_manifest(folder: Path, count: int, *, duration_s: float = 0.5) -> Path:
    """`count` tones and a manifest that names them tone-000, tone-001, …"""
    assets = []
    for number in range(count):
        name = f"tone-{number:03d}"
        write_tone(folder / "audio" / f"{name}.wav", duration_s + number / 1000)
        assets.append({"id": name, "path": f"audio/{name}.wav", "shelf": number % 3})
    path = folder / "manifest.json"
    path.write_text(json.dumps({"assets": assets}), encoding="utf-8")
    return path


@dataclass(frozen=True)
class Answer:
    """What a finished command said."""

    code: int
    out: str
    err: str


_CACHE = tempfile.TemporaryDirectory(prefix="audio-batch-tests-")


def environment(**more: str) -> dict[str, str]:
    """This process's environment without settings or caches of ours, and without any network."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("AUDIO_BATCH_")}
    ours = {"AUDIO_BATCH_CACHE_DIR": _CACHE.name, "HF_HUB_OFFLINE": "1", "PYTHONUTF8": "1"}
    return {**kept, **ours, **more}


def command(*arguments: object) -> list[str]:
    """The program's command line, with this interpreter."""
    return [sys.executable, "-m", "audio_batch", *(str(argument) for argument in arguments)]


def text_outputs(
    folder: Path, suffixes: Sequence[str] = (".txt", ".srt", ".vtt")
) -> dict[str, bytes]:
    """Every text output below a folder, by relative path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.suffix in suffixes and ".audio-batch" not in path.parts
    }
