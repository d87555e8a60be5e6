"""Manifests: JSON or JSON Lines in, `Asset`s out, every problem reported at once.

An entry is a recording: an id and a path, under the names of `manifest_entry.ALIASES` or under
those that the caller maps. What is not understood travels in `Asset.metadata`, untouched.

    manifest_file, manifest_stream   the text, in pieces
    manifest_quick                   what is plainly right about an entry
    manifest_columns                 the same of thousands at a time
    manifest_checking                all that may be wrong about one
    manifest_reading                 the pass over all of them, their files
    manifest_index                   what is kept of each
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from audio_batch import manifest_text
from audio_batch.asset import FIELDS, Asset, is_own_field
from audio_batch.assets import Assets
from audio_batch.errors import UsageError
from audio_batch.garbage import uncollected
from audio_batch.manifest_file import HELD_BYTES, ManifestFile, source_of
from audio_batch.manifest_reading import Reading, Wanted
from audio_batch.manifest_text import shown
from audio_batch.text import for_terminal

__all__ = ["FIELDS", "Asset", "Manifest", "is_own_field", "load", "parse_fields"]

HELD = 5000
"""Up to so many assets are held; more are read again from the manifest as they are needed."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest without problems: all its entries in order, wanted or not."""

    path: Path
    assets: Assets
    defaults: dict[str, Any]


def load(
    path: Path,
    *,
    root: Path | None = None,
    fields: Mapping[str, str] | None = None,
    allow_missing: bool = False,
    allow_http: bool = False,
    known_formats: frozenset[str],
    wanted: Callable[[Asset], bool] | None = None,
    is_mine: Callable[[str], bool] | None = None,
    held: int = HELD,
) -> Manifest:
    """Read a manifest and check all of it.

    Args:
        path: a JSON document or JSON Lines; see `manifest_file.source_of`.
        root: where relative paths begin, instead of the manifest's folder.
        fields: our name of a field (of `FIELDS`) to the manifest's name for it.
        allow_missing: do not mind files that are not there; the asset will fail by itself.
        allow_http: recordings may lie at `http:` and `https:` URLs.
        known_formats: names of the output formats that an entry may ask for.
        wanted: which assets the run is about: only their files have to be there and local. All
            else is checked of every entry.
        is_mine: which ids this part of the manifest holds; the same is true of the others' files.
        held: up to so many assets are held in memory.

    Raises:
        ManifestError: with every problem there is, each with its line or JSON pointer.
        UsageError: `fields` maps what is no field of ours, or `root` is no folder.
    """
    mapping = dict(fields or {})
    if unknown := sorted(mapping.keys() - FIELDS):
        raise UsageError(
            f"There is no field {shown(unknown[0])} to map.",
            remedy=f"Known: {', '.join(sorted(FIELDS))}.",
        )
    if root is not None and not root.is_dir():
        raise UsageError(f"The root {for_terminal(str(root))} is no folder.")
    file = ManifestFile(path)
    try:
        with uncollected():
            reading = Reading(
                file,
                source_of(file, held_bytes=HELD_BYTES if held else 0),
                str((root or path.parent).absolute()),
                mapping,
                known_formats,
                wanted=Wanted(wanted, is_mine),
                allow_http=allow_http,
                held=held,
            )
            reading.read(allow_missing=allow_missing)
            if problems := reading.checker.problems():
                raise manifest_text.refused(path, problems)
    except BaseException:
        file.close()
        raise
    if reading.assets is not None:
        file.close()
    return Manifest(path, Assets(reading), reading.checker.defaults)


def parse_fields(texts: Sequence[str]) -> dict[str, str]:
    """Read what stands after `--field`: our name of a field, `=`, the manifest's.

    Raises:
        UsageError: a text is not of this form, or maps a field twice.
    """
    mapping: dict[str, str] = {}
    for text in texts:
        ours, equals, theirs = text.partition("=")
        if not (equals and ours and theirs) or ours in mapping:
            reason = "maps a field that is mapped already" if ours in mapping else "cannot be read"
            raise UsageError(
                f"--field '{for_terminal(text)}' {reason}.",
                remedy="Write it as ours=theirs, for example uri=file_name.",
            )
        mapping[ours] = theirs
    return mapping
