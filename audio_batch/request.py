"""What a person asked for, and the assets that it selects from the manifest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from audio_batch.config import Settings
from audio_batch.errors import UsageError
from audio_batch.formats import FORMATS
from audio_batch.manifest import Asset, Manifest, load, parse_fields
from audio_batch.selection import Condition, matcher, parse_condition, select
from audio_batch.storage import OutputFolder
from audio_batch.survey import declared_duration_s

DEFAULT_OUTPUT = "transcripts"


def output_folder(settings: Settings) -> OutputFolder:
    """Where the settings have outputs and state written.

    Raises:
        UsageError: see `OutputFolder.at`.
    """
    return OutputFolder.at(
        settings.output_dir or DEFAULT_OUTPUT, state_dir=settings.state_dir, shard=settings.shard
    )


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked for: enough for `retry` to ask for it again from another folder."""

    manifest: Path
    settings: Settings

    def to_json(self) -> dict[str, Any]:
        """Plain values for the journal; no secret is among the settings."""
        return {
            "manifest": str(self.manifest),
            "settings": self.settings.model_dump(mode="json", exclude_none=True),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Request:
        """Read what `to_json` wrote."""
        return cls(Path(data["manifest"]), Settings(**data["settings"]))


def read_manifest(request: Request) -> Manifest:
    """Load the manifest.

    Raises:
        ManifestError: all its problems at once.
        UsageError: a condition that cannot be read.
    """
    settings = request.settings
    where, exclude = _conditions(settings)
    return load(
        request.manifest,
        root=settings.root,
        fields=parse_fields(settings.field or ()),
        allow_missing=bool(settings.allow_missing),
        known_formats=frozenset(FORMATS),
        wanted=matcher(where, exclude) if where or exclude else None,
    )


def choose(manifest: Manifest, settings: Settings) -> list[Asset]:
    """The assets that the settings select, in their order.

    Raises:
        UsageError: none is left.
    """
    where, exclude = _conditions(settings)
    assets = select(
        manifest.assets,
        where=where,
        exclude=exclude,
        order=settings.order or "manifest",
        skip=settings.skip or 0,
        limit=settings.limit,
        durations=declared_duration_s,
    )
    if not assets:
        raise UsageError(
            f"Of {len(manifest.assets)} assets none is left by --where, --exclude, --skip and "
            "--limit.",
            remedy="Loosen them; `audio-batch manifest check` without them counts the assets.",
        )
    return assets


def _conditions(settings: Settings) -> tuple[list[Condition], list[Condition]]:
    where = [parse_condition(text, "--where") for text in settings.where or ()]
    exclude = [parse_condition(text, "--exclude") for text in settings.exclude or ()]
    return where, exclude
