"""The flags of devices and workers, shared by commands."""

from __future__ import annotations

from typing import Annotated

from audio_batch.cli.option import opt

DEVICES = "Devices and workers"

Device = Annotated[
    str | None,
    opt("auto, cpu, cuda:N or cuda:N,cuda:M \\[auto].", "--device", "-d", panel=DEVICES),
]
DeviceIndex = Annotated[str | None, opt("CUDA numbers: 0,1.", "--device-index", panel=DEVICES)]
Threads = Annotated[
    int | None, opt("Most assets at a time \\[all slots].", "--threads", "-t", panel=DEVICES)
]
MaxPerGpu = Annotated[
    str | None,
    opt(
        "Assets at a time on a device: 2, or 2,1, or 0:2,1:1 \\[2].",
        "--max-per-gpu",
        panel=DEVICES,
    ),
]
CpuThreads = Annotated[
    int | None,
    opt("CPU threads of one batch \\[by the cores].", "--cpu-threads", panel=DEVICES),
]
Policy = Annotated[
    str | None,
    opt(
        "earliest-finish, least-loaded or first-come \\[earliest-finish].",
        "--policy",
        panel=DEVICES,
    ),
]
Prefetch = Annotated[
    int | None,
    opt(
        "Assets read ahead on a device besides \\[as fill its batches, at least 1].",
        "--prefetch",
        panel=DEVICES,
    ),
]
SplitLong = Annotated[
    str | None,
    opt(
        "Cut recordings longer than this (30m, 2h) at silences, for several devices \\[none].",
        "--split-long",
        panel=DEVICES,
    ),
]
BackupCopies = Annotated[
    bool | None,
    opt(
        "At the end, do what runs late once more on a free, faster device \\[yes].",
        "--backup-copies/--no-backup-copies",
        panel=DEVICES,
    ),
]
Experimental = Annotated[
    bool | None,
    opt(
        "Balance over all GPUs, whatever --device says (the default does).",
        "--experimental/--no-experimental",
        panel=DEVICES,
    ),
]
