"""One recording of a manifest."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from audio_batch.manifest_entry import ALIASES, OPTION_FIELDS

FIELDS = frozenset({"id", "name", "uri", "duration_s", *OPTION_FIELDS})
"""What is understood of an entry, by our names; `fields` of `manifest.load` maps these."""

_OUR_NAMES = {
    **{alias: ours for ours, aliases in ALIASES.items() for alias in aliases},
    **{name: name for name in (*FIELDS, "position")},
}


def is_own_field(name: str) -> bool:
    """Whether every asset has this field, be it empty, whatever the manifest says."""
    return name in _OUR_NAMES


@dataclass(frozen=True, slots=True)
class Asset:
    """One recording of a manifest and what is asked for it; None means "not said".

    `uri` is the manifest's own text. `path` is the local file that it means, absolute, or None
    where it lies in a store or on the web, and for an entry that was not wanted: nobody looked for
    its file. `position` counts from 0. A higher `priority` goes first. `metadata` holds every
    field of the entry that was not understood. `seen` is the recording's identity
    (`manifest_sources.identity`) when it was looked for, None where there was no file.
    """

    id: str
    uri: str
    path: Path | None
    name: str
    position: int
    language: str | None = None
    task: Literal["transcribe", "translate"] | None = None
    prompt: str | None = None
    hotwords: str | None = None
    min_speakers: int | None = None
    max_speakers: int | None = None
    num_speakers: int | None = None
    priority: int = 0
    formats: tuple[str, ...] | None = None
    duration_s: float | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    seen: str | None = field(default=None, compare=False)

    def field(self, name: str) -> Any:
        """The value of a field by the manifest's name for it, else by ours; None if there is none.

        The manifest's own unknown fields come first, then ours (and `position`), then other names
        of ours (`file_name` for `uri`).
        """
        if name in self.metadata:
            return self.metadata[name]
        ours = _OUR_NAMES.get(name)
        return None if ours is None else getattr(self, ours)


def wishes_of(asset: Asset) -> object:
    """All that an asset can ask for itself, to be told apart by."""
    return (
        *(asset.language, asset.task, asset.prompt, asset.hotwords, asset.formats),
        *(asset.num_speakers, asset.min_speakers, asset.max_speakers),
    )
