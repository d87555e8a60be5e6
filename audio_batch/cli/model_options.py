"""The flags of the recognition model, shared by commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from audio_batch.cli.option import opt

MODEL, DECODING = "Model", "Decoding"

Model = Annotated[
    str | None,
    opt(
        "A Whisper name, a hub repository, a folder, or demo \\[large-v3-turbo].",
        "--model",
        "-m",
        panel=MODEL,
    ),
]
ModelDir = Annotated[
    Path | None,
    opt("Where fetched models are kept \\[the hub's cache].", "--model-dir", panel=MODEL),
]
Offline = Annotated[
    bool | None,
    opt(
        "Never ask the network for a model.",
        "--offline/--online",
        "--model-cache-only",
        panel=MODEL,
    ),
]
Engine = Annotated[
    str | None,
    opt(
        "faster-whisper, null (a dry run), or an installed plugin; ray or ray:ENGINE has a Ray "
        "cluster place its workers.",
        "--engine",
        panel=MODEL,
    ),
]
ComputeType = Annotated[
    str | None,
    opt("auto, float16, int8_float16, int8, float32, … \\[auto].", "--compute-type", panel=MODEL),
]
BatchSize = Annotated[
    int | None,
    opt(
        "Windows of 30 s side by side; 1 is sequential, with temperature fallback \\[by memory].",
        "--batch-size",
        panel=MODEL,
    ),
]
Preset = Annotated[
    str | None, opt("fast, balanced or quality: a bundle of settings.", "--preset", panel=MODEL)
]
Language = Annotated[
    str | None, opt("Code or name \\[auto: heard in each asset].", "--language", panel=DECODING)
]
