"""The peers: how each is called with the same model, the same beams and all cores.

Each gets what its interface takes of the comparison's settings; what it does not take is listed
with its result (`not_told`). Defaults are its own, which its documentation recommends, but for:
the compute type and the number of threads (named for all), and a batch size where it batches.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from audio_batch.bench.environments import Environment

_LOOP = Path(__file__).with_name("faster_whisper_loop.py")


@dataclass(frozen=True, slots=True)
class Recording:
    """One file of the comparison."""

    id: str
    path: Path
    duration_s: float


@dataclass(frozen=True, slots=True)
class Settings:
    """What all sides are told. `vad_onset` and the three after it: None is each side's default.

    `diarization` is a local pyannote pipeline, None for words alone.
    """

    model: Path
    language: str | None
    device: str
    compute_type: str
    beam_size: int
    batch_size: int
    threads: int
    chunk_length_s: int | None = None
    vad_onset: float | None = None
    vad_min_silence_ms: int | None = None
    vad_pad_ms: int | None = None
    without_timestamps: bool | None = None
    diarization: Path | None = None

    @property
    def device_type(self) -> str:
        """`cpu` or `cuda`."""
        return self.device.partition(":")[0]

    @property
    def device_index(self) -> int:
        """CUDA's number of the device, 0 for the CPU."""
        return int(self.device.partition(":")[2] or 0)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            name: str(value) if isinstance(value, Path) else value
            for name, value in asdict(self).items()
        }


@dataclass(frozen=True, slots=True)
class Job:
    """What a peer is to do: its files, where its outputs go, and its own environment."""

    settings: Settings
    recordings: Sequence[Recording]
    output: Path
    environment: Environment


@dataclass(frozen=True, slots=True)
class Peer:
    """A program in one mode.

    `commands` makes its command lines, `at_once` of which run side by side; `name_of` tells the
    file name of a recording's JSON. A peer that `diarizes` can also be measured with speakers;
    others only without. `needs_ffmpeg`: it starts the program of that name.
    """

    name: str
    title: str
    package: str
    kind: Literal["all", "loop"]
    commands: Callable[[Job], list[list[str]]]
    by_id: bool = False
    at_once: int = 1
    diarizes: bool = False
    needs_ffmpeg: bool = False
    not_told: tuple[str, ...] = ()

    def cannot(self) -> str | None:
        """Why it cannot run on this machine, as far as that is known beforehand."""
        if self.needs_ffmpeg and shutil.which("ffmpeg") is None:
            return "it needs the program ffmpeg, which is not on PATH"
        return None

    def output_of(self, job: Job, recording: Recording) -> Path:
        """Where it writes a recording's JSON."""
        return job.output / f"{recording.id if self.by_id else recording.path.stem}.json"


def _whisperx(job: Job, files: Sequence[Path]) -> list[str]:
    told = job.settings
    command = [
        *(str(job.environment.python), "-m", "whisperx", *map(str, files)),
        *("--model", str(told.model), "--model_cache_only", "True"),
        *("--device", told.device_type, "--device_index", str(told.device_index)),
        *("--compute_type", told.compute_type, "--batch_size", str(told.batch_size)),
        *("--beam_size", str(told.beam_size), "--threads", str(told.threads)),
        *("--output_dir", str(job.output), "--output_format", "json", "--no_align"),
    ]
    if told.language:
        command += ["--language", told.language]
    if told.chunk_length_s is not None:
        command += ["--chunk_size", str(told.chunk_length_s)]
    if told.diarization is not None:
        command += ["--diarize", "--diarize_model", str(told.diarization)]
    return command


def _whisper_ctranslate2(job: Job, files: Sequence[Path]) -> list[str]:
    told = job.settings
    command = [
        *(str(job.environment.program("whisper-ctranslate2")), *map(str, files)),
        *("--model_directory", str(told.model), "--batched", "True"),
        *("--device", told.device_type, "--device_index", str(told.device_index)),
        *("--compute_type", told.compute_type, "--batch_size", str(told.batch_size)),
        *("--beam_size", str(told.beam_size), "--threads", str(told.threads)),
        *("--output_dir", str(job.output), "--output_format", "json"),
    ]
    if told.language:
        command += ["--language", told.language]
    if told.vad_onset is not None:
        command += ["--vad_threshold", str(told.vad_onset)]
    if told.vad_min_silence_ms is not None:
        command += ["--vad_min_silence_duration_ms", str(told.vad_min_silence_ms)]
    return command


def _faster_whisper(job: Job, *, batched: bool) -> Path:
    """Write what the loop is to do; its path."""
    told = job.settings
    vad = {
        "threshold": told.vad_onset,
        "min_silence_duration_ms": told.vad_min_silence_ms,
        "speech_pad_ms": told.vad_pad_ms,
    }
    options: dict[str, Any] = {
        "language": told.language,
        "beam_size": told.beam_size,
        "vad_filter": True,
    }
    if named := {key: value for key, value in vad.items() if value is not None}:
        options["vad_parameters"] = named
    if batched:
        options |= {"batch_size": told.batch_size}
        if told.chunk_length_s is not None:
            options["chunk_length"] = told.chunk_length_s
        if told.without_timestamps is not None:
            options["without_timestamps"] = told.without_timestamps
    else:
        # Its documentation's advice for long recordings; without it one error repeats.
        options["condition_on_previous_text"] = False
    body = {
        "model": str(told.model),
        "device": told.device_type,
        "device_index": told.device_index,
        "compute_type": told.compute_type,
        "threads": told.threads,
        "batched": batched,
        "options": options,
        "files": [
            {"path": str(one.path), "output": str(job.output / f"{one.id}.json")}
            for one in job.recordings
        ],
    }
    path = job.output / "job.json.in"
    path.write_text(json.dumps(body), encoding="utf-8")
    return path


def _one_call(line: Callable[[Job, Sequence[Path]], list[str]]) -> Callable[[Job], list[list[str]]]:
    return lambda job: [line(job, [one.path for one in job.recordings])]


def _call_each(
    line: Callable[[Job, Sequence[Path]], list[str]],
) -> Callable[[Job], list[list[str]]]:
    return lambda job: [line(job, [one.path]) for one in job.recordings]


def _loop(*, batched: bool) -> Callable[[Job], list[list[str]]]:
    def commands(job: Job) -> list[list[str]]:
        return [
            [str(job.environment.python), str(_LOOP), str(_faster_whisper(job, batched=batched))]
        ]

    return commands


def _process_each(job: Job) -> list[list[str]]:
    python, path = str(job.environment.python), str(_faster_whisper(job, batched=True))
    return [[python, str(_LOOP), path, str(number)] for number in range(len(job.recordings))]


_WHISPERX_LACKS = ("vad_onset (its VAD is another)", "vad_min_silence_ms", "vad_pad_ms")
_WCT2_LACKS = ("chunk_length_s", "vad_pad_ms", "without_timestamps")

PEERS: tuple[Peer, ...] = (
    Peer(
        "faster-whisper-batched",
        "faster-whisper, a loop in one process, BatchedInferencePipeline",
        "faster-whisper",
        "all",
        _loop(batched=True),
        by_id=True,
    ),
    Peer(
        "faster-whisper",
        "faster-whisper, a loop in one process, without batches",
        "faster-whisper",
        "all",
        _loop(batched=False),
        by_id=True,
        not_told=("batch_size", "chunk_length_s"),
    ),
    Peer(
        "whisper-ctranslate2",
        "whisper-ctranslate2 --batched, all files in one call",
        "whisper-ctranslate2",
        "all",
        _one_call(_whisper_ctranslate2),
        not_told=_WCT2_LACKS,
    ),
    Peer(
        "whisperx",
        "whisperx, all files in one call",
        "whisperx",
        "all",
        _one_call(_whisperx),
        diarizes=True,
        needs_ffmpeg=True,
        not_told=(*_WHISPERX_LACKS, "without_timestamps"),
    ),
    Peer(
        "whisper-ctranslate2-loop",
        "whisper-ctranslate2 --batched, a call for each file",
        "whisper-ctranslate2",
        "loop",
        _call_each(_whisper_ctranslate2),
        not_told=_WCT2_LACKS,
    ),
    Peer(
        "whisperx-loop",
        "whisperx, a call for each file",
        "whisperx",
        "loop",
        _call_each(_whisperx),
        diarizes=True,
        needs_ffmpeg=True,
        not_told=(*_WHISPERX_LACKS, "without_timestamps"),
    ),
    Peer(
        "process-each",
        "a process for each file, two at a time (faster-whisper, batched)",
        "faster-whisper",
        "loop",
        _process_each,
        by_id=True,
        at_once=2,
    ),
)
"""In the order in which a round runs them (every second round the other way round)."""
