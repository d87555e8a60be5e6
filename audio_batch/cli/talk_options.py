"""The flags of what a run says while it works, and where."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from audio_batch.cli.option import opt

_TALK = "Progress and log"

Progress = Annotated[
    bool | None,
    opt("The live display on a terminal.", "--progress/--no-progress", panel=_TALK),
]
LogFile = Annotated[
    Path | None, opt("Also write the log here, in full.", "--log-file", panel=_TALK)
]
LogFormat = Annotated[
    str | None, opt("plain, or json (a line each) \\[plain].", "--log-format", panel=_TALK)
]
Verbose = Annotated[int, opt("Say more.", "--verbose", "-v", panel=_TALK, count=True)]
Quiet = Annotated[
    bool | None, opt("Only warnings and failures.", "--quiet/--no-quiet", "-q", panel=_TALK)
]
