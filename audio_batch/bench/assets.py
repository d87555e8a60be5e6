"""The recordings of a manifest, for a bench: where they are, how long, and what is said in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from audio_batch.accuracy.references import Reference, References
from audio_batch.bench.contestants import Recording
from audio_batch.config import Settings
from audio_batch.errors import UsageError
from audio_batch.request import Request, choose, read_manifest
from audio_batch.survey import declared_duration_s


@dataclass(frozen=True, slots=True)
class Material:
    """What is measured, in the manifest's order; references of those that have one."""

    recordings: tuple[Recording, ...]
    references: Mapping[str, Reference]

    @property
    def audio_s(self) -> float:
        """Seconds of audio in all."""
        return sum(recording.duration_s for recording in self.recordings)


def read(manifest: Path, *, limit: int | None = None, references: bool = True) -> Material:
    """Read a manifest; lengths that it does not give are read from the files' headers.

    Raises:
        ManifestError: it has problems.
        UsageError: it has no recording, or one whose length nobody knows.
    """
    settings = Settings(limit=limit)
    assets = choose(read_manifest(Request(manifest, settings)), settings)
    recordings = []
    for asset in assets:
        seconds = asset.duration_s or declared_duration_s(asset)
        if asset.path is None or seconds is None:
            raise UsageError(
                f"{asset.uri} cannot be measured: its length is not known.",
                remedy="Leave it out of the manifest, or give its duration_s.",
            )
        recordings.append(Recording(asset.id, asset.path, seconds))
    if not recordings:
        raise UsageError(f"{manifest} has no recordings.")
    truth = References(assets, manifest.parent) if references else None
    found = {asset.id: truth.of(asset) for asset in assets} if truth else {}
    return Material(
        tuple(recordings), {name: one for name, one in found.items() if one is not None}
    )
