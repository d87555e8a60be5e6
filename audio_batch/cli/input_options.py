"""The flags of recordings as files: which stream, how long, what if damaged."""

from __future__ import annotations

from typing import Annotated

from audio_batch.cli.option import opt

_INPUT = "Recordings"

AudioStream = Annotated[
    int | None,
    opt("Which audio stream, from 0 \\[the default one].", "--audio-stream", panel=_INPUT),
]
MaxDuration = Annotated[
    float | None, opt("Longest recording in seconds \\[86400].", "--max-duration", panel=_INPUT)
]
Damaged = Annotated[
    str | None,
    opt(
        "flag: transcribe what can be decoded and say so; fail: refuse it \\[flag].",
        "--damaged",
        panel=_INPUT,
    ),
]
