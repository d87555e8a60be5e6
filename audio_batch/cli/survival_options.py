"""The flags of a night that has to end well: isolation, watchdog, memory, time, manners."""

from __future__ import annotations

from typing import Annotated

from audio_batch.cli.option import opt

_SURVIVAL, _TIME = "Isolation and watchdog", "Time and manners"

Isolation = Annotated[
    str | None,
    opt(
        "thread, or process (a child process a device); auto: process on CUDA \\[auto].",
        "--isolation",
        panel=_SURVIVAL,
    ),
]
MaxRestarts = Annotated[
    int | None,
    opt(
        "Deaths in a row, with nothing done between, after which a device is given up \\[3].",
        "--max-restarts",
        panel=_SURVIVAL,
    ),
]
CpuFallback = Annotated[
    bool | None,
    opt(
        "Go on with the CPU when every GPU is lost \\[no].",
        "--cpu-fallback/--no-cpu-fallback",
        panel=_SURVIVAL,
    ),
]
FailOnDegraded = Annotated[
    bool | None,
    opt(
        "Exit 3 when a device was lost, even if every asset is done \\[no].",
        "--fail-on-degraded/--no-fail-on-degraded",
        panel=_SURVIVAL,
    ),
]
Timeout = Annotated[
    str | None,
    opt(
        "Longest time for one attempt: 90m, 2h, or 4x its duration; none \\[by measured speed].",
        "--timeout",
        panel=_SURVIVAL,
    ),
]
StallTimeout = Annotated[
    str | None,
    opt(
        "Longest time without any progress: 30m; none \\[20m].",
        "--stall-timeout",
        panel=_SURVIVAL,
    ),
]
MinFreeRam = Annotated[
    str | None,
    opt(
        "Memory to leave free, with what the next asset needs: 2GB; 0 never waits \\[1GB].",
        "--min-free-ram",
        panel=_SURVIVAL,
    ),
]
RedoSuspect = Annotated[
    bool | None,
    opt(
        "Do suspect transcripts again, once, window by window \\[no].",
        "--redo-suspect/--no-redo-suspect",
        panel=_SURVIVAL,
    ),
]
Until = Annotated[
    str | None,
    opt("Begin nothing that would not be done by then: 07:00.", "--until", panel=_TIME),
]
MaxRuntime = Annotated[
    str | None,
    opt("Begin nothing that would not be done so soon: 6h.", "--max-runtime", panel=_TIME),
]
Nice = Annotated[
    int | None,
    opt("Lower the priority: 1 to 19 (Windows: below normal, idle).", "--nice", panel=_TIME),
]
IoNice = Annotated[
    str | None,
    opt("Priority of disk access: idle, or low.", "--ionice", panel=_TIME),
]
