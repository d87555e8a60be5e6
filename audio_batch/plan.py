"""What is to be done about each asset, decided before the run from the journal and the disk."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from audio_batch.journal import JournalEntry
from audio_batch.manifest import Asset
from audio_batch.options import DecodingOptions, RunOptions
from audio_batch.outcome import State
from audio_batch.storage import PublishedFile


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

    `published_json` is the canonical output to render from; `fresh` says that earlier attempts
    no longer count (`--retry-failed`, `--overwrite`).
    """

    asset: Asset
    action: Action
    decoding: DecodingOptions
    formats: tuple[str, ...]
    output_name: str
    source: str
    fingerprint: str
    rendering: str
    published_json: str | None = None
    fresh: bool = False
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
            rendering=f"{options.render_fingerprint(formats)}:{name}",
            entry=entry,
        )
        planned.append(decide(draft, entry, options, root))
    return planned


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
    if (entry.source, entry.fingerprint) != (draft.source, draft.fingerprint):
        return draft
    if entry.state is State.DONE or (entry.outputs and entry.state is State.INTERRUPTED):
        return _of_done(draft, entry, root)
    if entry.deaths >= options.max_attempts and not options.retry_failed:
        return dataclasses.replace(draft, action=Action.QUARANTINE)
    if entry.state is State.FAILED or entry.state is State.QUARANTINED:
        if options.retry_failed:
            return dataclasses.replace(draft, fresh=True)
        return dataclasses.replace(draft, action=Action.LEAVE_FAILED)
    return draft


def _of_done(draft: Planned, entry: JournalEntry, root: Path) -> Planned:
    canonical = next((output for output in entry.outputs if output.format == "json"), None)
    if canonical is None or not intact(canonical, root):
        return draft
    wanted = entry.rendering == draft.rendering and entry.state is State.DONE
    if wanted and all(intact(output, root) for output in entry.outputs):
        return dataclasses.replace(draft, action=Action.KEEP)
    return dataclasses.replace(draft, action=Action.RENDER, published_json=canonical.path)


def intact(output: PublishedFile, root: Path) -> bool:
    """Whether a published file is still there with the size that the journal has."""
    try:
        return (root / output.path).stat().st_size == output.size_bytes
    except (OSError, ValueError):
        return False
