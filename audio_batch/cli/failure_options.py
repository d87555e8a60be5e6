"""The flags of what is done after a failure, and what is done once more."""

from __future__ import annotations

from typing import Annotated

from audio_batch.cli.option import opt

_FAILURES = "Failures and repeats"

Yes = Annotated[
    bool | None,
    opt("Go on after failures without asking.", "--yes/--no-yes", "-y", panel=_FAILURES),
]
FailFast = Annotated[
    bool | None,
    opt("Begin nothing new after a failure.", "--fail-fast/--no-fail-fast", panel=_FAILURES),
]
MaxAttempts = Annotated[
    int | None,
    opt("Attempts at an asset whose failure may pass \\[3].", "--max-attempts", panel=_FAILURES),
]
RetryDelay = Annotated[
    float | None,
    opt("Seconds before the second attempt, doubling \\[2].", "--retry-delay", panel=_FAILURES),
]
Overwrite = Annotated[
    bool | None,
    opt(
        "Do everything again, and write over files that no run has written.",
        "--overwrite/--no-overwrite",
        panel=_FAILURES,
    ),
]
RetryFailed = Annotated[
    bool | None,
    opt("Also what failed in earlier runs.", "--retry-failed/--no-retry-failed", panel=_FAILURES),
]
