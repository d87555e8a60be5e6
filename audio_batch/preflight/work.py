"""The manifest's recordings, the names of their outputs, the folder and the space for them."""

from __future__ import annotations

import itertools
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

from audio_batch.assembly import DEFAULT_FORMATS
from audio_batch.asset import Asset
from audio_batch.assets import amount_of
from audio_batch.errors import LockedError
from audio_batch.formats import parse_formats
from audio_batch.manifest_sources import look_for_all
from audio_batch.preflight.check import Finding, error, ok, size, warning
from audio_batch.preflight.facts import Facts
from audio_batch.preflight.remote_recordings import Sample, looked_at
from audio_batch.remote import urls
from audio_batch.storage import TEMPORARY_PREFIX

SHOWN = 3
_AT_ONCE = 4096

BYTES_PER_HOUR = 4_000_000
"""Outputs of an hour of speech, generously: 2.5 words a second, about 150 bytes each as JSON with
a speaker, 30 in each other format, and the stages' kept results once more."""

BYTES_PER_ASSET = 100_000
"""Files of at least a block each, a journal row, the speakers' embeddings."""

_TIGHT_BYTES = 1_000_000_000


def inputs(facts: Facts) -> Iterator[Finding]:
    """Whether the recordings are there: each on this machine, some of those in each store."""
    assets = facts.request.assets
    if not assets:
        return
    sample = Sample()
    problems = list(_problems(assets, sample))
    local = len(assets) - sample.count
    if problems:
        judge = warning if facts.settings.allow_missing else error
        yield judge(
            f"{_counted(len(problems), 'recording')} of {local} cannot be used: "
            f"{first_of(problems, '; ')}.",
            "Mend the paths (see --root), or go on without them by --allow-missing.",
        )
    elif local:
        where = " on this machine" if sample.count else ""
        are_there = "is there" if local == 1 else "are there"
        yield ok(
            f"{'' if local == 1 else 'All '}{_counted(local, 'recording')}{where} {are_there}."
        )
    if sample.count:
        yield from looked_at(sample, facts.settings, others=local - len(problems))


def _problems(assets: Sequence[Asset], sample: Sample) -> Iterator[str]:
    """What is wrong with those on this machine; the others go to the sample."""
    every = iter(assets)
    while some := list(itertools.islice(every, _AT_ONCE)):
        sample.add(asset.uri for asset in some if urls.is_remote(asset.uri))
        places = [(str(asset.path),) for asset in some if asset.path is not None]
        yield from (found.problem for found in look_for_all(places) if found.problem)


def names(facts: Facts) -> Iterator[Finding]:
    """Whether assets would share an output's name; they are told apart by a hash of their id."""
    if facts.request.manifest is None:
        return
    assets = facts.request.manifest.assets
    renamed = facts.output_names.told_apart()
    if not renamed:
        yield ok(f"{_counted(len(assets), 'asset')} have different output names.")
        return
    yield warning(
        f"{_counted(len(renamed), 'asset')} would share an output name with another, and are told "
        f"apart by a hash: {first_of(renamed)}.",
        "Name them by what differs (--output-template), or give them other ids.",
    )


def output_folder(facts: Facts) -> Iterator[Finding]:
    """Whether the output folder can be written to (raises where a store's cannot), and is free."""
    if (place := facts.request.folder) is None:
        return
    if not place.is_local:
        place.place.open().probe()
        yield ok(f"{place.where} can be written to; the state is kept in {place.state}.")
    root = place.root
    remedy = "Choose another --output-dir, or mend its permissions."
    if not root.exists():
        parent = _existing(root)
        if parent.is_dir() and os.access(parent, os.W_OK):
            yield ok(f"{root} will be made in {parent}.")
        else:
            yield error(f"{root} cannot be made in {parent}.", remedy)
        return
    probe = root / f"{TEMPORARY_PREFIX}{os.getpid()}-{uuid.uuid4().hex[:8]}"
    try:
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as failure:
        yield error(f"{root} cannot be written to: {failure.strerror or failure}.", remedy)
        return
    if place.state.is_dir():
        try:
            with place.locked():
                pass
        except LockedError as locked:
            yield error(locked.message, locked.remedy)
            return
    yield ok(f"{root} can be written to, and no run holds it.")


def space(facts: Facts) -> Iterator[Finding]:
    """Whether the outputs will find space."""
    if facts.request.folder is None:
        return
    parent = _existing(facts.request.folder.root)
    free = shutil.disk_usage(parent).free
    text = f"{size(free)} free in {parent}"
    remedy = "Free some space, or choose another --output-dir."
    if free < facts.request.floor_bytes:
        yield error(f"{text}: too little to begin a run.", remedy)
        return
    # Without formats nothing is published.
    need = estimated_bytes(facts.request.assets) if formats_of(facts) else 0
    about = f"; the outputs take about {size(need)}" if need else ""
    if free < max(2 * need, _TIGHT_BYTES):
        yield warning(f"{text}{about}.", remedy)
    else:
        yield ok(f"{text}{about}.")


def estimated_bytes(assets: Sequence[Asset]) -> int:
    """Space for all outputs of these; recordings of unknown length are taken for average ones."""
    amount = amount_of(assets)
    hours = amount.known_s / 3600 * amount.count / amount.known if amount.known else 0.0
    return int(BYTES_PER_HOUR * hours + BYTES_PER_ASSET * amount.count)


def formats_of(facts: Facts) -> tuple[str, ...]:
    """What is written of an asset that does not say it itself."""
    asked = facts.settings.output_format
    return parse_formats(asked) if asked else DEFAULT_FORMATS


def _existing(path: Path) -> Path:
    """The nearest folder (or file) that is there."""
    return next(place for place in (path, *path.parents) if place.exists())


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def first_of(texts: Sequence[str], separator: str = ", ") -> str:
    """The first few, and how many more there are."""
    more = len(texts) - SHOWN
    shown = separator.join(texts[:SHOWN])
    return f"{shown} and {more} more" if more > 0 else shown
