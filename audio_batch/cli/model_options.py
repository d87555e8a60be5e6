"""The flags of the recognition model, shared by commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from audio_batch.cli.option import opt

_MODEL = "Model"

Model = Annotated[
    str | None,
    opt(
        "A Whisper name, a hub repository, a folder, or demo \\[large-v3-turbo].",
        "--model",
        "-m",
        panel=_MODEL,
    ),
]
ModelDir = Annotated[
    Path | None,
    opt("Where fetched models are kept \\[the hub's cache].", "--model-dir", panel=_MODEL),
]
Offline = Annotated[
    bool | None,
    opt(
        "Never ask the network for a model.",
        "--offline/--online",
        "--model-cache-only",
        panel=_MODEL,
    ),
]
Engine = Annotated[
    str | None,
    opt(
        "faster-whisper, null (a dry run), or an installed plugin; ray or ray:ENGINE has a Ray "
        "cluster place its workers.",
        "--engine",
        panel=_MODEL,
    ),
]
ComputeType = Annotated[
    str | None,
    opt("auto, float16, int8_float16, int8, float32, … \\[auto].", "--compute-type", panel=_MODEL),
]
BatchSize = Annotated[
    int | None,
    opt(
        "Windows of 30 s side by side; 1 is sequential, with temperature fallback \\[by memory].",
        "--batch-size",
        panel=_MODEL,
    ),
]
Preset = Annotated[
    str | None, opt("fast, balanced or quality: a bundle of settings.", "--preset", panel=_MODEL)
]
