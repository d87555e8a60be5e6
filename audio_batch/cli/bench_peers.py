"""`audio-batch bench peers MANIFEST --model DIR`: ours beside what a user would pick instead."""

from __future__ import annotations

import json
import shlex
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from audio_batch.cli.option import manifest_argument

if TYPE_CHECKING:
    from audio_batch.bench.contestants import Settings
    from audio_batch.bench.results import PeersReport

_EQUAL, _PEERS = "The same for all sides", "Peers"


def peers(
    manifest: Annotated[Path, manifest_argument("The recordings, with `text` for the WER.")],
    model: Annotated[
        str,
        typer.Option(
            "--model", "-m", help="A CTranslate2 folder, or demo.", rich_help_panel=_EQUAL
        ),
    ],
    language: Annotated[
        str | None, typer.Option(help="Code; none: heard in each.", rich_help_panel=_EQUAL)
    ] = "en",
    device: Annotated[
        str, typer.Option("-d", "--device", help="cpu or cuda:N.", rich_help_panel=_EQUAL)
    ] = "cpu",
    compute_type: Annotated[
        str | None,
        typer.Option(help="\\[int8 on the CPU, float16 on a GPU]", rich_help_panel=_EQUAL),
    ] = None,
    beam_size: Annotated[int, typer.Option(min=1, help="Beams.", rich_help_panel=_EQUAL)] = 5,
    batch_size: Annotated[
        int, typer.Option(min=2, help="Windows side by side.", rich_help_panel=_EQUAL)
    ] = 16,
    chunk_length: Annotated[
        int | None,
        typer.Option(
            min=1, max=30, help="Longest window in s \\[the model's].", rich_help_panel=_EQUAL
        ),
    ] = None,
    diarize: Annotated[
        bool, typer.Option("--diarize", help="With speakers: beside whisperx --diarize.")
    ] = False,
    diarize_model: Annotated[
        str, typer.Option(help="A local pyannote pipeline, or demo.", rich_help_panel=_EQUAL)
    ] = "demo",
    peer: Annotated[
        list[str] | None, typer.Option(help="Only these \\[all].", rich_help_panel=_PEERS)
    ] = None,
    loops: Annotated[
        bool, typer.Option(help="Also those started for each file.", rich_help_panel=_PEERS)
    ] = True,
    loop_sample: Annotated[
        int | None,
        typer.Option(min=1, help="Give loops so many files and scale.", rich_help_panel=_PEERS),
    ] = None,
    venv_dir: Annotated[
        Path | None,
        typer.Option(help="Where peers are installed, kept \\[the cache].", rich_help_panel=_PEERS),
    ] = None,
    reuse_environment: Annotated[
        bool,
        typer.Option(
            "--reuse-environment",
            help="Peers that are installed beside us need no environment.",
            rich_help_panel=_PEERS,
        ),
    ] = False,
    flags: Annotated[
        str, typer.Option(help="Further flags of our own run.", rich_help_panel=_PEERS)
    ] = "",
    repeats: Annotated[int, typer.Option(min=1, help="Rounds; figures are medians.")] = 3,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The result, a JSON file.")] = Path(
        "bench-peers.json"
    ),
    work_dir: Annotated[
        Path | None, typer.Option(help="Keep outputs and logs here \\[a temporary folder].")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The result as JSON on stdout.")] = False,
) -> int:
    """Measure ours beside its peers: the same files, model, beams and cores, turn by turn.

    Each peer runs in its best documented mode, offline, in an environment of its own that is
    installed when it is first needed. Word errors are measured where the manifest has a text, so
    that nobody is fast by being wrong.
    """
    from audio_batch.bench import assets, ours
    from audio_batch.bench import peers as contest
    from audio_batch.bench.environments import Environments
    from audio_batch.bench.results import save
    from audio_batch.kept_file import cache_folder

    settings = _settings(
        model, language, device, compute_type, beam_size, batch_size, chunk_length,
        diarize_model if diarize else None,
    )  # fmt: skip
    names = contest.chosen(peer, loops=loops, diarize=diarize)
    manifest = manifest.expanduser().absolute()
    material = assets.read(manifest, limit=limit)
    if work_dir is not None:
        ours.refuse_used(work_dir)
    home = (venv_dir or cache_folder() / "peers").expanduser().absolute()
    with tempfile.TemporaryDirectory(prefix="audio-batch-bench-") as temporary:
        plan = contest.Plan(
            manifest=manifest,
            recordings=material.recordings,
            references=material.references,
            settings=settings,
            peers=names,
            repeats=repeats,
            work=(work_dir or Path(temporary)).expanduser().absolute(),
            loop_sample=loop_sample,
            our_flags=tuple(shlex.split(flags)),
        )
        report = contest.measure(plan, Environments(home, reuse=reuse_environment, tell=_say), _say)
    save(output.expanduser(), report)
    _show(report, as_json=as_json)
    _say(f"Written to {output}")
    return 0


def _settings(
    model: str,
    language: str | None,
    device: str,
    compute_type: str | None,
    beam_size: int,
    batch_size: int,
    chunk_length: int | None,
    diarize_model: str | None,
) -> Settings:
    """What all are told: the flags, else what the model's folder asks for, else nothing."""
    from audio_batch.assembly import usable_cores
    from audio_batch.bench.contestants import Settings
    from audio_batch.models import DEMO, demo_path

    folder = demo_path() if model == DEMO else Path(model).expanduser().absolute()
    asked = _asked_by(folder)
    pipeline = None
    if diarize_model is not None:
        demo = demo_path().parent / "diarization"
        pipeline = demo if diarize_model == DEMO else Path(diarize_model).expanduser().absolute()
    return Settings(
        model=folder,
        language=language or None,
        device=device,
        compute_type=compute_type or ("int8" if device == "cpu" else "float16"),
        beam_size=beam_size,
        batch_size=batch_size,
        threads=usable_cores(),
        chunk_length_s=chunk_length or asked.get("chunk_length_s"),
        vad_onset=asked.get("vad_onset"),
        vad_min_silence_ms=asked.get("vad_min_silence_ms"),
        vad_pad_ms=asked.get("vad_pad_ms"),
        without_timestamps=asked.get("without_timestamps"),
        diarization=pipeline,
    )


def _asked_by(folder: Path) -> dict[str, Any]:
    """A model folder's own `decoding.json`: peers are told too how the model hears best.

    Raises:
        UsageError: there is no such model.
    """
    from audio_batch.errors import UsageError

    if not (folder / "model.bin").is_file():
        raise UsageError(
            f"{folder} is no CTranslate2 model: it has no model.bin.",
            remedy="Name a converted model's folder, or demo.",
        )
    path = folder / "decoding.json"
    try:
        asked = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise UsageError(f"{path} cannot be read: {error}.") from error
    return asked if isinstance(asked, dict) else {}


def _show(report: PeersReport, *, as_json: bool) -> None:
    from dataclasses import asdict

    from audio_batch.bench.tables import show_peers
    from audio_batch.reporters import SteadyConsole

    if as_json:
        sys.stdout.write(json.dumps(asdict(report), indent=2) + "\n")
    else:
        show_peers(SteadyConsole(), report)


def _say(text: str) -> None:
    from audio_batch.text import for_terminal

    typer.echo(for_terminal(text), err=True)
