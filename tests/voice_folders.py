"""Output folders of finished runs with voices in them, made without a model."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from audio_batch.formats import FORMATS, FormatOptions, render
from audio_batch.journal import Journal
from audio_batch.outcome import Outcome, State
from audio_batch.output_folder import OutputFolder
from audio_batch.seal import seal
from audio_batch.storage import PublishedFile, publish
from audio_batch.transcript import Segment, Speaker, Transcript, Turn, Word

SPACE = "demo-1"
THRESHOLD = 0.6


def voice(person: int, take: int, *, noise: float = 0.4, size: int = 32) -> tuple[float, ...]:
    """A person's voice as it was in one take; people are unlike each other."""
    base = np.random.default_rng(person).normal(size=size)
    base /= np.linalg.norm(base)
    grain = np.random.default_rng((person, take)).normal(size=size) / np.sqrt(size)
    vector = base + noise * grain
    return tuple(round(float(v), 6) for v in vector / np.linalg.norm(vector))


def transcript(
    asset_id: str, people: Sequence[int], *, talk_s: float = 10, space: str = SPACE
) -> Transcript:
    """A recording in which people say "hello there" one after the other."""
    take = int.from_bytes(hashlib.sha256(asset_id.encode()).digest()[:4], "big")
    labels = [f"SPEAKER_{n:02d}" for n in range(len(people))]
    segments = tuple(
        Segment(
            text="hello there",
            start_s=n * talk_s,
            end_s=n * talk_s + 1,
            words=(
                Word("hello", n * talk_s, n * talk_s + 0.5, 0.9, label),
                Word("there", n * talk_s + 0.5, n * talk_s + 1, 0.9, label),
            ),
            speaker=label,
        )
        for n, label in enumerate(labels)
    )
    turns = tuple(Turn(label, n * talk_s, (n + 1) * talk_s) for n, label in enumerate(labels))
    return Transcript(
        asset_id=asset_id,
        source=f"file:///{asset_id}.wav",
        name=asset_id,
        language="en",
        duration_s=len(people) * talk_s,
        segments=segments,
        speakers=tuple(
            Speaker(label, talk_s, voice(person, take))
            for label, person in zip(labels, people, strict=True)
        ),
        turns=turns,
        exclusive_turns=turns,
        provenance={
            "fingerprint": "f",
            "diarization": {"embedding_identity": space, "link_threshold": THRESHOLD},
        },
    )


def add_run(
    root: Path,
    transcripts: Sequence[Transcript],
    *,
    formats: Sequence[str] = ("srt", "txt", "json"),
    settings: Mapping[str, Any] | None = None,
) -> OutputFolder:
    """Publish and journal transcripts as a run does."""
    folder = OutputFolder(root)
    folder.create()
    journal = Journal(folder.journal_path)
    request = {"manifest": "m.json", "settings": dict(settings or {})}
    run_id = journal.begin_run(version="0", request=request)
    layout = FormatOptions(max_line_width=(settings or {}).get("max_line_width"))
    for one in transcripts:
        journal.start(
            one.asset_id,
            name=one.name,
            source="1:1",
            fingerprint="f",
            rendering="r",
            device="cpu",
            run_id=run_id,
        )
        outputs: list[PublishedFile] = []
        for name in formats:
            data = render(name, one, layout)
            if name == "json":
                data = seal(one, outputs, source="1:1", rendering="r")
            path = PurePosixPath(f"{one.asset_id}{FORMATS[name].suffix}")
            outputs.append(publish(root, path, data, format_name=name))
        journal.finish(Outcome(one.asset_id, State.DONE, "f", "cpu", outputs=tuple(outputs)))
    journal.end_run(run_id, 0)
    journal.close()
    return folder


def speakers(root: Path, asset_id: str) -> list[Speaker]:
    """Who speaks, as the published JSON has it, without the vectors."""
    document = json.loads((root / f"{asset_id}.json").read_text(encoding="utf-8"))
    return [
        dataclasses.replace(speaker, embedding=None)
        for speaker in Transcript.from_json(document).speakers
    ]


def voices(root: Path, asset_id: str) -> list[str | None]:
    """The voice ids of a recording's speakers."""
    return [speaker.voice for speaker in speakers(root, asset_id)]


def journalled(root: Path) -> dict[str, tuple[PublishedFile, ...]]:
    """The outputs of every asset, as the journal has them."""
    journal = Journal(OutputFolder(root).journal_path, read_only=True)
    found = {entry.asset_id: entry.outputs for entry in journal.entries()}
    journal.close()
    return found


def unlike_the_journal(root: Path) -> list[str]:
    """Outputs that are not the files that the journal vouches for."""
    return [
        output.path
        for outputs in journalled(root).values()
        for output in outputs
        if hashlib.sha256((root / output.path).read_bytes()).hexdigest() != output.sha256
        or (root / output.path).stat().st_size != output.size_bytes
    ]


def content(root: Path) -> dict[str, bytes]:
    """Every file of the folder but the program's own state."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and ".audio-batch" not in path.parts
    }
