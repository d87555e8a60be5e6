"""Our own program as a measured command, and what it left behind."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from audio_batch.accuracy.hypotheses import Hypotheses, MissingTranscript, hypotheses
from audio_batch.bench.measuring import Ran, run_commands
from audio_batch.bench.results import AssetTimes, Differences, OurRun, StageTime
from audio_batch.errors import AudioBatchError, UsageError
from audio_batch.journal import Journal, JournalEntry
from audio_batch.outcome import State
from audio_batch.output_folder import OutputFolder
from audio_batch.transcript import Transcript

SAME_TIME_S = 0.020
"""Times that differ by no more are the same: a Whisper timestamp's own step."""


def environment(cache: Path) -> dict[str, str]:
    """This process's environment without our settings: what is measured is what is named.

    The cache, where speeds and batch sizes are learnt, is one of the bench's own.
    """
    kept = {key: value for key, value in os.environ.items() if not key.startswith("AUDIO_BATCH_")}
    return {**kept, "AUDIO_BATCH_CACHE_DIR": str(cache), "PYTHONUTF8": "1"}


def command(manifest: Path, output: Path, *flags: str) -> list[str]:
    """The command line of a run."""
    run = [sys.executable, "-m", "audio_batch", "run", str(manifest), "-o", str(output)]
    return [*run, "--yes", "--quiet", *flags]


def measure(manifest: Path, output: Path, flags: Sequence[str], *, cache: Path, log: Path) -> Ran:
    """Run our program once, in a process of its own, into a folder that is not there yet."""
    return run_commands([command(manifest, output, *flags)], log=log, environ=environment(cache))


def told(ran: Ran, output: Path) -> OurRun:
    """What a run's journal says of it; a run without one says nothing."""
    entries = _entries(output)
    done = [entry for entry in entries if entry.state is State.DONE]
    spans = [
        (entry.started_at, entry.finished_at)
        for entry in done
        if entry.started_at is not None and entry.finished_at is not None
    ]
    times = [end - start for start, end in spans]
    start_s = end_s = None
    if spans:
        start_s = round(min(start for start, _ in spans) - ran.began_at, 3)
        end_s = round(ran.began_at + ran.usage.wall_s - max(end for _, end in spans), 3)
    return OurRun(
        exit_code=ran.codes[0],
        done=len(done),
        usage=ran.usage,
        devices=tuple(sorted({entry.device for entry in done if entry.device})),
        start_s=start_s,
        end_s=end_s,
        assets=AssetTimes(
            round(sum(times), 3),
            round(sum(times) / len(times), 3),
            round(min(times), 3),
            round(max(times), 3),
        )
        if times
        else None,
        stages=stage_times(done),
    )


def stage_times(entries: Iterable[JournalEntry]) -> tuple[StageTime, ...]:
    """The stages of some assets, summed, in the order in which they are first met."""
    totals, audio_s = dict[str, float](), 0.0
    for entry in entries:
        audio_s += entry.duration_s or 0.0
        for name, seconds in entry.timings_s.items():
            totals[name] = totals.get(name, 0.0) + seconds
    whole = sum(totals.values())
    return tuple(
        StageTime(
            name=name,
            total_s=round(total, 3),
            share_pct=round(100 * total / whole, 1) if whole else 0.0,
            rtfx=round(audio_s / total, 1) if total else None,
        )
        for name, total in totals.items()
    )


def transcripts(output: Path) -> dict[str, Transcript]:
    """The transcripts of a run by asset id; {} where it wrote none."""
    try:
        found: Hypotheses = hypotheses(output)
    except AudioBatchError:
        return {}
    read = dict[str, Transcript]()
    for asset_id in found.paths:
        try:
            read[asset_id] = found.of(asset_id)
        except MissingTranscript:
            continue
    return read


def differences(
    to: str, theirs: Mapping[str, Transcript], ours: Mapping[str, Transcript]
) -> Differences:
    """In which assets `ours` are not what the cell `to` made of them."""
    texts, times, missing, largest_s = list[str](), list[str](), list[str](), 0.0
    for asset_id in sorted({*theirs, *ours}):
        one, other = theirs.get(asset_id), ours.get(asset_id)
        if one is None or other is None:
            missing.append(asset_id)
        elif one.text != other.text:
            texts.append(asset_id)
        else:
            apart_s = _apart_s(one, other)
            largest_s = max(largest_s, apart_s or 0.0)
            if apart_s is None or apart_s > SAME_TIME_S + 1e-6:
                times.append(asset_id)
    return Differences(to, tuple(texts), tuple(times), tuple(missing), round(largest_s, 3))


def _apart_s(one: Transcript, other: Transcript) -> float | None:
    """The most that times of the same words, else segments, are apart; None for other pieces."""
    pieces = [
        [word for segment in transcript.segments for word in (segment.words or (segment,))]
        for transcript in (one, other)
    ]
    if [piece.text for piece in pieces[0]] != [piece.text for piece in pieces[1]]:
        return None
    return max(
        (
            max(abs(a.start_s - b.start_s), abs(a.end_s - b.end_s))
            for a, b in zip(*pieces, strict=True)
        ),
        default=0.0,
    )


def _entries(output: Path) -> list[JournalEntry]:
    folder = OutputFolder(output)
    if not folder.journal_path.is_file():
        return []
    journal = Journal(folder.journal_path, read_only=True)
    try:
        return list(journal.entries())
    finally:
        journal.close()


def last_words(log: Path) -> str:
    """The last line that a command printed: why it failed, most often."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "it said nothing"
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


def refuse_used(folder: Path) -> None:
    """See that a work folder is new or empty.

    Raises:
        UsageError: something is in it.
    """
    if folder.exists() and any(folder.iterdir()):
        raise UsageError(
            f"The work folder {folder} is not empty.", remedy="Name a new one, or leave it out."
        )
