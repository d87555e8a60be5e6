"""What a person asked for, and the assets that it selects from the manifest."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from audio_batch.assets import Assets
from audio_batch.config import Settings
from audio_batch.databases.urls import RESULTS_VARIABLE, without_password
from audio_batch.errors import UsageError
from audio_batch.formats import FORMATS
from audio_batch.manifest import Manifest, load, parse_fields
from audio_batch.output_folder import OutputFolder
from audio_batch.remote.settings import access_of
from audio_batch.selection import Condition, matcher, parse_condition, select
from audio_batch.shards import Shard
from audio_batch.survey import declared_duration_s

DEFAULT_OUTPUT = "transcripts"


def output_folder(settings: Settings) -> OutputFolder:
    """Where the settings have outputs and state written.

    Raises:
        UsageError: see `OutputFolder.at`.
    """
    return OutputFolder.at(
        settings.output_dir or DEFAULT_OUTPUT,
        state_dir=settings.state_dir,
        shard=settings.shard,
        access=access_of(settings),
    )


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked for: enough for `retry` to ask for it again from another folder."""

    manifest: Path
    settings: Settings

    def to_json(self) -> dict[str, Any]:
        """Plain values for the journal: no secret is among them."""
        settings = self.settings.model_dump(mode="json", exclude_none=True)
        if self.settings.results_db is not None:
            settings["results_db"] = without_password(self.settings.results_db)
        return {"manifest": str(self.manifest), "settings": settings}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Request:
        """Read what `to_json` wrote; a database's password comes from the environment."""
        settings = Settings(**data["settings"])
        if settings.results_db is not None:
            named = os.environ.get(RESULTS_VARIABLE) or settings.results_db
            settings = settings.model_copy(update={"results_db": named})
        return cls(Path(data["manifest"]), settings)


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
        allow_http=bool(settings.allow_http),
        known_formats=frozenset(FORMATS),
        wanted=matcher(where, exclude) if where or exclude else None,
        is_mine=Shard.parse(settings.shard).takes if settings.shard is not None else None,
    )


def choose(manifest: Manifest, settings: Settings) -> Assets:
    """The assets that the settings select, in their order.

    Of a part of the manifest (`--shard`) those of that part, which may be none: what all parts
    choose together is what one run over the whole would.

    Args:
        manifest: as `read_manifest` has read it with the same conditions.

    Raises:
        UsageError: none is left.
    """
    assets = select(
        manifest.assets.selected(),
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
    assert isinstance(assets, Assets)
    return assets.mine()


def _conditions(settings: Settings) -> tuple[list[Condition], list[Condition]]:
    where = [parse_condition(text, "--where") for text in settings.where or ()]
    exclude = [parse_condition(text, "--exclude") for text in settings.exclude or ()]
    return where, exclude
