"""What is to be done about each asset, decided before the run from the journal and the disk."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from audio_batch.errors import ErrorKind
from audio_batch.journal import JournalEntry
from audio_batch.manifest import Asset
from audio_batch.options import DecodingOptions, RunOptions
from audio_batch.outcome import State
from audio_batch.storage import PublishedFile

_DAMAGE = ("damaged", "truncated")
"""How `audio_batch.media` begins the notes of recordings that `--damaged fail` refuses."""


class Action(StrEnum):
    """What the run does with an asset."""

    TRANSCRIBE = "transcribe"
    RENDER = "render"
    """The words are there; only their written forms are wanted anew."""
    KEEP = "keep"
    LEAVE_FAILED = "leave_failed"
    """It failed for good earlier, and neither it nor the options have changed since."""
    QUARANTINE = "quarantine"


@dataclass(frozen=True, slots=True)
class Planned:
    """An asset with everything that decides its result.

    `published` is the canonical output to render from; `fresh` says that earlier attempts no
    longer count (`--retry-failed`, `--overwrite`). A `suspect` ran when the program crashed: it
    comes last and runs alone.
    """

    asset: Asset
    action: Action
    decoding: DecodingOptions
    formats: tuple[str, ...]
    output_name: str
    source: str
    fingerprint: str
    rendering: str
    published: PublishedFile | None = None
    fresh: bool = False
    suspect: bool = False
    entry: JournalEntry | None = None


def plan(
    assets: Sequence[Asset],
    entries: Iterable[JournalEntry],
    options: RunOptions,
    *,
    model_identity: str,
    output_names: Mapping[str, str],
    root: Path,
    source_identity: Callable[[Path | None], str],
) -> list[Planned]:
    """Decide for each asset, in the order given. Reads file sizes, writes nothing."""
    known = {entry.asset_id: entry for entry in entries}
    planned = []
    for asset in assets:
        decoding = for_asset(options.decoding, asset)
        formats = ("json", *(f for f in asset.formats or options.formats if f != "json"))
        name = output_names[asset.id]
        entry = known.get(asset.id)
        draft = Planned(
            asset=asset,
            action=Action.TRANSCRIBE,
            decoding=decoding,
            formats=formats,
            output_name=name,
            source=source_identity(asset.path),
            fingerprint=options.recognition_fingerprint(decoding, model_identity),
            rendering=f"{options.render_fingerprint(formats)}:{name}|{options.admission}",
            entry=entry,
        )
        planned.append(decide(draft, entry, options, root))
    # What may crash the program or break a device again costs the least at the end.
    return sorted(planned, key=lambda item: _danger(item.entry) if _same(item) else 0)


def _same(planned: Planned) -> bool:
    """Whether the journal's row is of this very input and these options."""
    entry = planned.entry
    return entry is not None and (entry.source, entry.fingerprint) == (
        planned.source,
        planned.fingerprint,
    )


def _danger(entry: JournalEntry | None) -> int:
    if entry is None or entry.state is State.DONE:
        return 0
    return 2 * entry.deaths + (entry.error_kind is ErrorKind.DEVICE)


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


def decide(draft: Planned, entry: JournalEntry | None, options: RunOptions, root: Path) -> Planned:
    """Choose one asset's action from its journal row. Pure but for the sizes of its outputs."""
    if entry is None:
        return draft
    if options.overwrite:
        return dataclasses.replace(draft, fresh=True)
    if not _same(draft):
        return draft
    if entry.state is State.DONE:
        return _of_done(draft, entry, options, root)
    if entry.state is State.INTERRUPTED and entry.outputs:
        kept = _of_done(draft, entry, options, root)
        if kept.action is Action.RENDER:
            return kept
    if entry.state in (State.FAILED, State.QUARANTINED):
        refused = entry.error_kind in (ErrorKind.MEDIA_LIMIT, ErrorKind.MEDIA_DAMAGED)
        if options.retry_failed or (refused and not _admitted_alike(entry, draft)):
            again = dataclasses.replace(draft, fresh=True)
            return _of_done(again, entry, options, root) if entry.outputs else again
        return dataclasses.replace(draft, action=Action.LEAVE_FAILED)
    if entry.deaths >= options.max_attempts and not options.retry_failed:
        return dataclasses.replace(draft, action=Action.QUARANTINE)
    return dataclasses.replace(draft, suspect=entry.deaths > 0)


def _admitted_alike(entry: JournalEntry, draft: Planned) -> bool:
    """Whether the options that refuse recordings are those that the row was made with."""
    return entry.rendering.partition("|")[2] == draft.rendering.partition("|")[2]


def _of_done(draft: Planned, entry: JournalEntry, options: RunOptions, root: Path) -> Planned:
    canonical = next((output for output in entry.outputs if output.format == "json"), None)
    if canonical is None or not intact(canonical, root):
        return draft
    if options.damaged == "fail" and any(note.startswith(_DAMAGE) for note in entry.notes):
        return draft
    written = entry.rendering.partition("|")[0] == draft.rendering.partition("|")[0]
    if (
        written
        and entry.state is State.DONE
        and all(intact(output, root) for output in entry.outputs)
    ):
        return dataclasses.replace(draft, action=Action.KEEP)
    return dataclasses.replace(draft, action=Action.RENDER, published=canonical)


def intact(output: PublishedFile, root: Path) -> bool:
    """Whether a published file is still there with the size that the journal has."""
    try:
        return (root / output.path).stat().st_size == output.size_bytes
    except (OSError, ValueError):
        return False
