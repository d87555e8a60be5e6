"""`bench peers`: ours beside what a user would pick instead, in one run on one machine."""

from __future__ import annotations

import dataclasses
import os
import shlex
import shutil
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from audio_batch import __version__
from audio_batch.accuracy.references import Reference
from audio_batch.bench import ours, scoring
from audio_batch.bench.contestants import PEERS, Job, Peer, Recording, Settings
from audio_batch.bench.environments import CannotInstall, Environment, Environments
from audio_batch.bench.machine import look
from audio_batch.bench.measuring import Ran, Usage, run_commands
from audio_batch.bench.results import Contestant, PeersReport
from audio_batch.errors import UsageError

OURS = "audio-batch"
WER_MARGIN = 0.01
"""How much worse a peer's WER may be, absolutely, for its speed to count beside ours."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be measured. `loop_sample`: loops over a program get only so many files.

    `our_flags` are further flags of our own run.
    """

    manifest: Path
    recordings: tuple[Recording, ...]
    references: Mapping[str, Reference]
    settings: Settings
    peers: tuple[str, ...]
    repeats: int
    work: Path
    loop_sample: int | None = None
    our_flags: tuple[str, ...] = ()


@dataclass(slots=True)
class _Side:
    """One contestant on its way through the rounds."""

    peer: Peer | None
    recordings: tuple[Recording, ...]
    factor: float
    environment: Environment | None = None
    cannot: str | None = None
    command: str = ""
    usages: list[Usage] = field(default_factory=list)
    heard: dict[str, scoring.Heard] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.peer.name if self.peer else OURS


def chosen(names: Sequence[str] | None, *, loops: bool, diarize: bool) -> tuple[str, ...]:
    """The peers to be measured.

    Raises:
        UsageError: a name that is none, or a peer that cannot do what is asked for.
    """
    known = {peer.name: peer for peer in PEERS}
    fit = [p.name for p in PEERS if (loops or p.kind == "all") and (p.diarizes or not diarize)]
    if names is None:
        return tuple(fit)
    for name in names:
        if name not in known:
            raise UsageError(f"There is no peer {name!r}; known: {', '.join(known)}.")
        if diarize and not known[name].diarizes:
            raise UsageError(f"{name} does not tell speakers apart with a local model.")
    return tuple(name for name in known if name in names)


def check_names(recordings: Sequence[Recording]) -> None:
    """See that peers, which name outputs by the file's name alone, do not overwrite their own.

    Raises:
        UsageError: two recordings have the same file name.
    """
    stems = [recording.path.stem for recording in recordings]
    if twice := sorted({stem for stem in stems if stems.count(stem) > 1}):
        raise UsageError(
            f"Peers name outputs by the file's name alone, and more than one is called {twice[0]}.",
            remedy="Measure a manifest whose files have names of their own.",
        )


def measure(plan: Plan, environments: Environments, tell: Callable[[str], None]) -> PeersReport:
    """Let all take turns, each round in the other order, and compare them round by round."""
    check_names(plan.recordings)
    machine = look()
    sides = [_Side(None, plan.recordings, 1.0), *(_side(plan, name) for name in plan.peers)]
    for side in sides:
        _prepare(side, environments)
    for turn in range(plan.repeats):
        for side in sides if turn % 2 == 0 else sides[::-1]:
            if side.cannot is None:
                tell(f"Round {turn + 1} of {plan.repeats}: {side.name}")
                _turn(plan, side, turn)
    rows = [_row(plan, side, sides[0]) for side in sides]
    return PeersReport(
        made_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        program=f"audio-batch {__version__}",
        machine=machine,
        manifest=str(plan.manifest),
        assets=len(plan.recordings),
        audio_s=round(_audio_s(plan.recordings), 3),
        repeats=plan.repeats,
        settings=plan.settings.to_json(),
        contestants=tuple(rows),
        best_all=_best(rows, "all"),
        best_loop=_best(rows, "loop"),
        notes=_notes(sides),
    )


def _side(plan: Plan, name: str) -> _Side:
    peer = next(peer for peer in PEERS if peer.name == name)
    recordings = plan.recordings
    if peer.kind == "loop" and plan.loop_sample:
        recordings = recordings[: plan.loop_sample]
    # By files, not by seconds: what a loop pays for each is mostly its start.
    return _Side(peer, recordings, len(plan.recordings) / len(recordings))


def _prepare(side: _Side, environments: Environments) -> None:
    if side.peer is None:
        return
    side.cannot = side.peer.cannot()
    if side.cannot is None:
        try:
            side.environment = environments.of(side.peer.package)
        except CannotInstall as problem:
            side.cannot = str(problem)


def _turn(plan: Plan, side: _Side, turn: int) -> None:
    """One contestant's run of one round."""
    output = plan.work / side.name / f"round-{turn + 1}"
    log = plan.work / side.name / f"round-{turn + 1}.log"
    output.mkdir(parents=True)
    if side.peer is None:
        ran = _run_ours(plan, side, output, log)
        side.heard = {
            asset_id: scoring.of_transcript(transcript)
            for asset_id, transcript in ours.transcripts(output).items()
        }
    else:
        assert side.environment is not None
        ran = _run_peer(plan, side, side.peer, output, log)
        if any(ran.codes):
            side.cannot = f"exit code {max(ran.codes, key=abs)}: {ours.last_words(log)}"
        elif not side.heard:
            side.cannot = f"it wrote no transcript: {ours.last_words(log)}"
    side.usages.append(ran.usage)
    if turn:
        shutil.rmtree(output, ignore_errors=True)


def _run_ours(plan: Plan, side: _Side, output: Path, log: Path) -> Ran:
    flags = our_flags(plan)
    line = ours.command(plan.manifest, output, *flags)
    side.command = shlex.join(["audio-batch", *line[3:]])
    output.rmdir()  # a run makes its own
    ran = ours.measure(plan.manifest, output, flags, cache=plan.work / OURS / "cache", log=log)
    if any(ran.codes):
        raise UsageError(
            f"Our own run ended with exit code {ran.codes[0]}: {ours.last_words(log)}",
            remedy="Mend that first: there is nothing to compare with.",
        )
    return ran


def our_flags(plan: Plan) -> tuple[str, ...]:
    """Our run's flags: the words (and speakers) that the peers make too, and nothing more."""
    told = plan.settings
    flags = [
        *("--model", str(told.model), "--offline", "--device", told.device),
        *("--compute-type", told.compute_type, "--batch-size", str(told.batch_size)),
        *("--beam-size", str(told.beam_size), "--limit", str(len(plan.recordings))),
        *("--output-format", "json", "--no-align", "--no-word-timestamps"),
    ]
    if told.language:
        flags += ["--language", told.language]
    for flag, value in (
        ("--chunk-length", told.chunk_length_s),
        ("--vad-onset", told.vad_onset),
        ("--vad-min-silence-ms", told.vad_min_silence_ms),
        ("--vad-pad-ms", told.vad_pad_ms),
    ):
        if value is not None:
            flags += [flag, str(value)]
    if told.diarization is None:
        flags.append("--no-diarize")
    else:
        flags += ["--diarize", "--diarize-model", str(told.diarization)]
    return (*flags, *plan.our_flags)


def _run_peer(plan: Plan, side: _Side, peer: Peer, output: Path, log: Path) -> Ran:
    assert side.environment is not None
    job = Job(plan.settings, side.recordings, output, side.environment)
    commands = peer.commands(job)
    side.command = _shown(commands[0], side.recordings)
    environ = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "PYANNOTE_METRICS_ENABLED": "false",
        "PYTHONUTF8": "1",
    }
    ran = run_commands(commands, log=log, at_once=peer.at_once, environ=environ)
    found = {one.id: scoring.read(peer.output_of(job, one)) for one in side.recordings}
    side.heard = {name: heard for name, heard in found.items() if heard is not None}
    return ran


def _shown(command: Sequence[str], recordings: Sequence[Recording]) -> str:
    """A command line for people: one file's name for many."""
    files = {str(recording.path) for recording in recordings}
    kept = [part for part in command if part not in files]
    place = next((n for n, part in enumerate(command) if part in files), None)
    if place is not None:
        kept.insert(place, "FILE…")
    return shlex.join(kept).replace("'FILE…'", "FILE…")


def _score(plan: Plan, side: _Side, recordings: Sequence[Recording]) -> scoring.Score:
    pairs = [(plan.references.get(one.id), side.heard.get(one.id)) for one in recordings]
    return scoring.score(pairs, with_speakers=plan.settings.diarization is not None)


def _row(plan: Plan, side: _Side, us: _Side) -> Contestant:
    peer, versions = side.peer, dict(side.environment.versions if side.environment else {})
    row = Contestant(
        name=side.name,
        title=peer.title if peer else "audio-batch run",
        kind=peer.kind if peer else "ours",
        versions=versions,
        command=side.command,
        files=len(side.recordings),
        cannot=side.cannot,
        scaled=len(side.recordings) < len(plan.recordings),
        runs=tuple(side.usages),
        not_told=_not_told(plan.settings, peer),
    )
    if side.cannot is not None or not side.usages:
        return row
    pairs = list(zip(side.usages, us.usages, strict=True))
    middle = [one.middle_cpu_pct for one in side.usages if one.middle_cpu_pct is not None]
    wall_s = statistics.median(one.wall_s for one in side.usages) * side.factor
    # Over the same files: a loop may have been given some only.
    score, our_score = (_score(plan, one, side.recordings) for one in (side, us))
    comparable = None
    if score.wer is not None and our_score.wer is not None:
        comparable = score.wer <= our_score.wer + WER_MARGIN
    return dataclasses.replace(
        row,
        wall_s=round(wall_s, 3),
        rtfx=round(_audio_s(plan.recordings) / wall_s, 2),
        cpu_s=round(statistics.median(one.cpu_s for one in side.usages) * side.factor, 3),
        middle_cpu_pct=round(statistics.median(middle), 1) if middle else None,
        peak_rss_bytes=max(one.peak_rss_bytes for one in side.usages),
        ratio=round(statistics.median(a.wall_s * side.factor / b.wall_s for a, b in pairs), 3),
        cpu_ratio=round(statistics.median(a.cpu_s * side.factor / b.cpu_s for a, b in pairs), 3),
        transcripts=len(side.heard),
        wer=score.wer,
        cpwer=score.cpwer,
        comparable=comparable,
    )


def _not_told(settings: Settings, peer: Peer | None) -> tuple[str, ...]:
    """Of what a peer does not take, what this comparison does name."""
    if peer is None:
        return ()
    named = settings.to_json()
    return tuple(lack for lack in peer.not_told if named.get(lack.split(" ")[0]) is not None)


def _best(rows: Sequence[Contestant], kind: str) -> str | None:
    """The fastest of a kind whose words are as good as ours; without references, of all."""
    fit = [
        row
        for row in rows
        if row.kind == kind
        and row.wall_s is not None
        and row.comparable is not False
        and row.transcripts == row.files
    ]
    return min(fit, key=lambda row: row.wall_s or 0.0).name if fit else None


def _notes(sides: Sequence[_Side]) -> tuple[str, ...]:
    scaled = [side.name for side in sides if side.factor != 1.0]
    if not scaled:
        return ()
    return (
        f"Measured on the first files only, wall and processor time scaled by the number of files: "
        f"{', '.join(scaled)}.",
    )


def _audio_s(recordings: Sequence[Recording]) -> float:
    return sum(recording.duration_s for recording in recordings)
