"""What is to be done about each asset, decided before the run from the journal and the disk."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType

from audio_batch.asset import Asset, wishes_of
from audio_batch.errors import ErrorKind
from audio_batch.formats import parse_formats
from audio_batch.journal import JournalEntry
from audio_batch.options import (
    TEMPERATURE_LADDER,
    DecodingOptions,
    RunOptions,
    SpeakerLimits,
    WantedStages,
    joint_fingerprint,
)
from audio_batch.outcome import Outcome, Stage, StageRecord, State
from audio_batch.parts import Part
from audio_batch.remote.downloads import UNKNOWN
from audio_batch.storage import PublishedFile

_NAMES_UNKNOWN = "?"
"""Stands in a rendering for names that could not be read."""

_WHISPER = DecodingOptions()
"""Whose thresholds are Whisper's own."""

_PASSING = frozenset(
    {
        ErrorKind.OUTPUT,
        ErrorKind.OUTPUT_EXISTS,
        ErrorKind.DISK_FULL,
        ErrorKind.OUT_OF_MEMORY,
        ErrorKind.DEVICE,
        ErrorKind.TIMEOUT,
        ErrorKind.INPUT_UNREADABLE,
        ErrorKind.INPUT_FORBIDDEN,
        ErrorKind.NETWORK,
    }
)
"""Failures of the night and its machine: a right that was missing, a network, a disk, memory, a
device, too little time. They say nothing about the recording, and mending them changes neither it
nor the options; so every next run tries again. What ends its process (WORKER_DIED) is not among
them."""

_COSTLY = (ErrorKind.DEVICE, ErrorKind.TIMEOUT, ErrorKind.OUT_OF_MEMORY)
"""Those of them that may cost the next run as much: they come after the rest."""

_DAMAGE = ("damaged", "truncated")
"""How `audio_batch.media` begins the notes of recordings that `--damaged fail` refuses."""


class Action(StrEnum):
    """What the run does with an asset."""

    PROCESS = "process"
    """Do the stages whose results are not there, and publish."""
    RENDER = "render"
    """All results are there; only their written forms are wanted anew."""
    KEEP = "keep"
    LEAVE_FAILED = "leave_failed"
    """It failed for good earlier, of itself, and neither it nor the options have changed since."""
    QUARANTINE = "quarantine"


@dataclass(frozen=True, slots=True)
class Planned:
    """An asset with everything that decides its result.

    `stages` names what each stage's result must be made of, `kept` holds the results that are.
    `published` is the canonical output to render from; `fresh` says that earlier attempts no
    longer count (`--retry-failed`, `--overwrite`, or the night was to blame). A `suspect` ran when
    the program crashed: it comes last and runs alone. A `redo` hears a suspect transcript's
    recording again, with options that are safer than those asked for, which the fingerprints name
    all the same. With a `part` it is that part alone; `parts` are those that were heard before.
    `replaces` are the formats whose names may be written over: something stood there when the run
    began, or an attempt whose end nobody has seen may have written it.
    """

    asset: Asset
    action: Action
    decoding: DecodingOptions
    limits: SpeakerLimits
    formats: tuple[str, ...]
    output_name: str
    source: str
    fingerprint: str
    rendering: str
    stages: Mapping[Stage, str]
    kept: Mapping[Stage, StageRecord] = field(default_factory=dict)
    published: PublishedFile | None = None
    fresh: bool = False
    suspect: bool = False
    redo: bool = False
    entry: JournalEntry | None = None
    part: Part | None = None
    parts: Mapping[Part, StageRecord] = field(default_factory=dict)
    replaces: tuple[str, ...] = ()

    @property
    def missing(self) -> tuple[Stage, ...]:
        """The stages that are still to be done, in order."""
        return tuple(stage for stage in Stage if stage in self.stages and stage not in self.kept)


def plan(
    assets: Sequence[Asset],
    entries: Iterable[JournalEntry],
    options: RunOptions,
    *,
    wanted: WantedStages,
    stages: Mapping[str, Mapping[Stage, StageRecord]] = MappingProxyType({}),
    naming: str | None = "",
    output_names: Mapping[str, str],
    state: Path,
    stands: Callable[[PublishedFile], bool],
    source_identity: Callable[[Path | None], str],
) -> list[Planned]:
    """Decide for each asset, in the order given. Reads file sizes, writes nothing.

    Args:
        source_identity: of a recording that was not seen when the manifest was read.
        stages: what earlier runs have kept.
        naming: stands for the names that voices have been given; None where that cannot be told,
            and no transcript is written anew for their sake.
        state: where what is kept of stages lies.
        stands: whether an output is still there with the size that the journal has.
    """
    known = {entry.asset_id: entry for entry in entries}
    asked: dict[object, Asked] = {}
    planned = []
    for asset in assets:
        wishes = wishes_of(asset)
        if (like := asked.get(wishes)) is None:
            like = asked[wishes] = asked_by(asset, options, wanted)
        names, fingerprint = like.stages, like.fingerprint
        name = output_names[asset.id]
        entry = known.get(asset.id)
        source = asset.seen or source_identity(asset.path)
        unseen = source == UNKNOWN
        if unseen and entry is not None:
            source = entry.source  # a network that is down undoes nothing
        kept = _NOTHING_KEPT
        if (done := stages.get(asset.id)) and not options.overwrite:
            done = {stage: record for stage, record in done.items() if record.source == source}
            kept_turns = done.get(Stage.DIARIZE) if wanted.keep_speakers else None
            if kept_turns is not None and intact(kept_turns.file, state):
                names = {**names, Stage.DIARIZE: kept_turns.fingerprint}
                fingerprint = joint_fingerprint(names)
            kept = {
                stage: record
                for stage, record in done.items()
                if names.get(stage) == record.fingerprint and intact(record.file, state)
            }
        draft = Planned(
            asset=asset,
            action=Action.PROCESS,
            decoding=like.decoding,
            limits=like.limits,
            formats=like.formats,
            output_name=name,
            source=source,
            fingerprint=fingerprint,
            rendering=rendering_of(like, name, options, naming),
            stages=names,
            kept=kept,
            entry=entry,
        )
        item = draft if entry is None else decide(draft, entry, options, stands)
        planned.append(_as_it_is_now(item) if unseen else item)
    if known:
        # What may crash the program or break a device again costs the least at the end.
        planned.sort(key=danger)
    return planned


def _as_it_is_now(planned: Planned) -> Planned:
    """An asset whose store could not be asked: what is done from its recording alone is done from
    the one that lies there now, not from that of an earlier run, which the cache may still have."""
    if planned.action is not Action.PROCESS or planned.kept or not planned.missing:
        return planned
    return dataclasses.replace(planned, source=UNKNOWN)


_NOTHING_KEPT: Mapping[Stage, StageRecord] = {}


@dataclass(frozen=True, slots=True)
class Asked:
    """What all assets share that ask for the same: almost always all of a manifest."""

    decoding: DecodingOptions
    limits: SpeakerLimits
    formats: tuple[str, ...]
    stages: Mapping[Stage, str]
    fingerprint: str
    layout: str


def asked_by(asset: Asset, options: RunOptions, wanted: WantedStages) -> Asked:
    """What the run's options and an asset's wishes come to."""
    decoding = for_asset(options.decoding, asset)
    limits = limits_of(asset, options.limits)
    formats = parse_formats(asset.formats) if asset.formats else options.formats
    stages = options.stage_fingerprints(decoding, limits, wanted)
    return Asked(
        decoding=decoding,
        limits=limits,
        formats=formats,
        stages=stages,
        fingerprint=joint_fingerprint(stages),
        layout=options.render_fingerprint(formats),
    )


def rendering_of(like: Asked, name: str, options: RunOptions, naming: str | None) -> str:
    """Names everything that decides how an asset's words are written, and where; see `_parts`."""
    voices = _NAMES_UNKNOWN if naming is None else naming
    return f"{like.layout}:{name}|{options.admission}|{voices}"


def _same(planned: Planned) -> bool:
    """Whether the journal's row is of this very input and these options."""
    entry = planned.entry
    return entry is not None and (entry.source, entry.fingerprint) == (
        planned.source,
        planned.fingerprint,
    )


def _as_it_was(planned: Planned) -> Planned:
    """Where the recording could not be looked at, take it for that of the journal's row."""
    if planned.source != UNKNOWN or planned.entry is None:
        return planned
    return dataclasses.replace(planned, source=planned.entry.source)


def danger(planned: Planned) -> int:
    """How much an asset may cost the others: 0 for most, more the later it should come."""
    entry = planned.entry
    if entry is None or entry.state is State.DONE or not _same(_as_it_was(planned)):
        return 0
    return 2 * entry.deaths + (entry.error_kind in _COSTLY or _often_killed(entry))


def for_asset(decoding: DecodingOptions, asset: Asset) -> DecodingOptions:
    """The run's decoding options with what the asset asks for itself."""
    wishes = {
        "language": asset.language,
        "task": asset.task,
        "initial_prompt": asset.prompt,
        "hotwords": asset.hotwords,
    }
    named = {key: value for key, value in wishes.items() if value is not None}
    return dataclasses.replace(decoding, **named) if named else decoding  # type: ignore[arg-type]


def limits_of(asset: Asset, limits: SpeakerLimits) -> SpeakerLimits:
    """The number of speakers that the asset itself gives, else the run's."""
    own = (asset.num_speakers, asset.min_speakers, asset.max_speakers)
    if asset.num_speakers is not None:
        return SpeakerLimits(num_speakers=asset.num_speakers)
    return SpeakerLimits(*own) if any(value is not None for value in own) else limits


def decide(
    draft: Planned,
    entry: JournalEntry | None,
    options: RunOptions,
    stands: Callable[[PublishedFile], bool],
) -> Planned:
    """Choose one asset's action from its journal row. Pure but for a look at its outputs."""
    if entry is None:
        return draft
    if options.overwrite:
        return dataclasses.replace(draft, fresh=True)
    if not _same(draft):
        return draft
    if entry.redone and Stage.TRANSCRIBE in draft.kept:
        # The words that are kept came of a redo, and are told by what they were heard with.
        draft = dataclasses.replace(draft, decoding=safer(draft.decoding))
    if entry.state is State.DONE:
        return _again_if_suspect(_of_done(draft, entry, options, stands), entry, options)
    if entry.state is State.INCOMPLETE:
        # The missing stage only; what failed tonight may have been the night's fault.
        return dataclasses.replace(draft, fresh=True)
    if entry.state is State.INTERRUPTED and entry.outputs:
        kept = _of_done(draft, entry, options, stands)
        if kept.action is Action.RENDER:
            # What crashed the program is not tried again while there is a transcript.
            return _again_if_suspect(kept, entry, options) if entry.deaths == 0 else kept
    if entry.state in (State.FAILED, State.QUARANTINED):
        refused = entry.error_kind in (ErrorKind.MEDIA_LIMIT, ErrorKind.MEDIA_DAMAGED)
        passing = entry.state is State.FAILED and entry.error_kind in _PASSING
        if options.retry_failed or passing or (refused and not _admitted_alike(entry, draft)):
            again = dataclasses.replace(draft, fresh=True)
            return _of_done(again, entry, options, stands) if entry.outputs else again
        return dataclasses.replace(draft, action=Action.LEAVE_FAILED)
    if entry.deaths >= options.max_attempts and not options.retry_failed:
        return dataclasses.replace(draft, action=Action.QUARANTINE)
    return dataclasses.replace(draft, suspect=entry.deaths > 0 or _often_killed(entry))


def _often_killed(entry: JournalEntry) -> bool:
    """Whether the program was killed more than once while it was at this asset.

    The kernel kills for lack of memory without a trace, and so does a power cut: nobody is set
    aside for it, but what may end the night comes last, and alone. An attempt that has told why it
    ended was not killed.
    """
    untold = entry.error_kind is None
    return entry.state is State.INTERRUPTED and untold and entry.attempts > 1


def _admitted_alike(entry: JournalEntry, draft: Planned) -> bool:
    """Whether the options that refuse recordings are those that the row was made with."""
    return _parts(entry.rendering)[1] == _parts(draft.rendering)[1]


def _parts(rendering: str) -> tuple[str, str, str]:
    """A rendering's layout and name, what it admits, and what voices are called in it."""
    layout, _, rest = rendering.partition("|")
    admission, _, naming = rest.partition("|")
    return layout, admission, naming


def _of_done(
    draft: Planned,
    entry: JournalEntry,
    options: RunOptions,
    stands: Callable[[PublishedFile], bool],
) -> Planned:
    if not draft.formats:  # nothing was to be published
        stands_all = entry.state is State.DONE and entry.rendering == draft.rendering
        return dataclasses.replace(draft, action=Action.KEEP) if stands_all else draft
    canonical = next((output for output in entry.outputs if output.format == "json"), None)
    if canonical is None or entry.missing or not stands(canonical):
        return draft
    if options.damaged == "fail" and any(note.startswith(_DAMAGE) for note in entry.notes):
        return draft
    (layout, _, naming), (wanted, _, names) = _parts(entry.rendering), _parts(draft.rendering)
    if (
        layout == wanted
        and names in (naming, _NAMES_UNKNOWN)
        and entry.state is State.DONE
        and all(stands(output) for output in entry.outputs)
    ):
        return dataclasses.replace(draft, action=Action.KEEP)
    return dataclasses.replace(draft, action=Action.RENDER, published=canonical)


def _again_if_suspect(kept: Planned, entry: JournalEntry, options: RunOptions) -> Planned:
    """A redo of what stands, where that is asked for and was not done before."""
    if kept.action is Action.PROCESS or not options.redo_suspect:
        return kept
    if not entry.suspicions or entry.redone or safer(kept.decoding) == kept.decoding:
        return kept
    return dataclasses.replace(redo_of(kept), fresh=True)


def due_for_redo(planned: Planned, outcome: Outcome, options: RunOptions) -> bool:
    """Whether a finished attempt is to be followed by a redo (`redo_of`) in the same run."""
    redone = _same(planned) and not options.overwrite and planned.entry and planned.entry.redone
    return (
        options.redo_suspect
        and outcome.state is State.DONE
        and bool(outcome.suspicions)
        and not redone
        and safer(planned.decoding) != planned.decoding
    )


def redo_of(planned: Planned) -> Planned:
    """The same asset, its words to be heard again by safer decoding; who spoke when is kept.

    What the redo hears takes the place of what stands, even should it be suspect as well: window
    by window, with fallback, is the better bet. There is no third time.
    """
    return dataclasses.replace(
        planned,
        action=Action.PROCESS,
        decoding=safer(planned.decoding),
        kept={stage: record for stage, record in planned.kept.items() if stage is Stage.DIARIZE},
        published=None,
        parts={},
        redo=True,
    )


def safer(decoding: DecodingOptions) -> DecodingOptions:
    """Whisper's own decoding: window by window, each again at a higher temperature where it fails.

    A window that failed is told by Whisper's thresholds, and spoils none after it. What is said of
    beams, word times, languages and VAD stays as it was asked for.
    """
    return dataclasses.replace(
        decoding,
        sequential=True,
        temperature=TEMPERATURE_LADDER,
        compression_ratio_threshold=_WHISPER.compression_ratio_threshold,
        logprob_threshold=_WHISPER.logprob_threshold,
        no_speech_threshold=_WHISPER.no_speech_threshold,
        condition_on_previous_text=False,
    )


def stands_all_the_same(outcome: Outcome) -> Outcome:
    """A redo that failed for good, as its asset goes on: done, by the transcript that it had."""
    return dataclasses.replace(
        outcome,
        state=State.DONE,
        outputs=(),
        notes=(f"still suspect, it could not be done again: {outcome.error_text}",),
        error_kind=None,
        error_text=None,
        rendered_only=True,
        stages=(),
        left=(),
    )


def intact(output: PublishedFile, root: Path) -> bool:
    """Whether a published file is still there with the size that the journal has."""
    try:
        # Texts and not `Path`s, which cost more than the look.
        return os.stat(os.path.join(root, output.path)).st_size == output.size_bytes  # noqa: PTH116, PTH118
    except (OSError, ValueError):
        return False
