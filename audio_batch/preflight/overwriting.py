"""Whether outputs would be written over what is not theirs: what is read, and files of nobody's."""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath

from audio_batch.asset import Asset
from audio_batch.assets import Assets
from audio_batch.errors import UsageError
from audio_batch.formats import FORMATS
from audio_batch.manifest_sources import SourceError, local_text
from audio_batch.occupied import Claim, Occupied, summary_of_others
from audio_batch.preflight.check import Finding, error, ok
from audio_batch.preflight.facts import Facts
from audio_batch.preflight.work import first_of, formats_of

_MOST = 10_000
"""Names with something under them that are looked at where no run has done it."""


def overwriting(facts: Facts) -> Iterator[Finding]:
    """Whether an output would be written over a file that is read, or that no run has written."""
    manifest, folder = facts.request.manifest, facts.request.folder
    if manifest is None or folder is None:
        return
    hit = _hit(facts)
    strangers = _strangers(facts)
    if hit:
        yield error(
            f"Outputs would be written over what is read: {first_of(hit)}.",
            "Choose another --output-dir or --output-template.",
        )
    elif strangers:
        what = "1 file" if len(strangers) == 1 else f"{len(strangers)} files"
        yield error(
            f"Outputs would be written over {what} in {folder.where} that no run is known to have "
            f"written: {first_of(strangers)}.",
            "Choose another --output-dir or --output-template, or move away what is there; "
            "--overwrite writes over it, and does everything again.",
        )
    else:
        yield ok("No output would be written over what is read, or over a file of others.")


def _hit(facts: Facts) -> list[str]:
    """The outputs that are files which are read, by their paths."""
    manifest, folder = facts.request.manifest, facts.request.folder
    assert manifest is not None and folder is not None
    assets = facts.request.assets
    # No output leaves the output folder (`storage.contained`): most runs read nothing from there.
    inside = list(_inside(folder.root, _read_once(facts, manifest.path)))
    if not _surely_elsewhere(folder.root, assets):
        inside += _inside(folder.root, (asset.path for asset in assets if asset.path))
    if folder.is_local and _anything_there(facts):
        inside += _inside(folder.root, _references(manifest.assets, manifest.path.parent))
    if not inside:
        return []
    kept, formats = {_key(path) for path in inside}, formats_of(facts)
    names_of = facts.output_names
    outputs = (
        folder.root / name
        for asset in assets
        for name in _files(asset, PurePosixPath(names_of.at(asset.position, asset.id)), formats)
    )
    every = itertools.chain(outputs, [folder.summary_path])
    return [str(path) for path in every if _key(path) in kept]


def _read_once(facts: Facts, manifest: Path) -> Iterator[Path]:
    """The files that a run reads beside the recordings."""
    yield manifest
    if facts.settings.hf_token_file is not None:
        yield facts.settings.hf_token_file
    if facts.settings.speakers is not None:
        from audio_batch.voices import enrolment

        yield facts.settings.speakers
        with suppress(UsageError):  # the run says so
            clips = enrolment.read(facts.settings.speakers).clips
            yield from itertools.chain.from_iterable(clips.values())


def _anything_there(facts: Facts) -> bool:
    """Whether anything stands under a name that is to be written."""
    request, names_of = facts.request, facts.output_names
    if request.anything_there is not None or request.folder is None:
        return bool(request.anything_there)
    outputs = request.folder.place.open()
    return not outputs.is_empty() and any(
        outputs.has_any(names_of.at(asset.position, asset.id)) for asset in request.assets
    )


def _references(assets: Iterable[Asset], folder: Path) -> Iterator[Path]:
    """The files that entries name as the truth, as far as an output could have their name."""
    from audio_batch.accuracy.references import files_of

    suffixes = {known.suffix for known in FORMATS.values()}
    for asset in assets:
        for text in files_of(asset):
            if os.path.splitext(text)[1].lower() in suffixes:  # noqa: PTH122 - of any text
                with suppress(SourceError, ValueError, OSError):
                    yield folder / local_text(text)


def _strangers(facts: Facts) -> Sequence[str]:
    """Files of nobody's under names that are to be written, below the output folder."""
    request = facts.request
    if request.strangers is not None:
        return request.strangers
    folder, manifest = request.folder, request.manifest
    assert folder is not None and manifest is not None
    # To look into a store's JSON costs a request each: the run does it, where it has to.
    if not folder.is_local or facts.settings.overwrite:
        return ()
    outputs = folder.place.open()
    if outputs.is_empty():
        return ()
    from audio_batch.journal import Journal
    from audio_batch.journal_formats import Written

    journal = None
    if folder.journal_path.is_file():
        journal = Journal(folder.journal_path, read_only=True)
    try:
        written = journal.formats.written() if journal else Written()
        occupied = Occupied(outputs, written, lambda: (one.id for one in manifest.assets))
        names, formats = facts.output_names, formats_of(facts)
        there = (
            (asset, name)
            for asset in request.assets
            if occupied.is_there(name := names.at(asset.position, asset.id))
        )
        some = list(itertools.islice(there, _MOST))
        rows = journal.lookup.entries(asset.id for asset, _ in some) if journal else ()
        entries = {entry.asset_id: entry for entry in rows}
        occupied.look(
            Claim(asset.id, name, _formats_of_asset(asset, formats), entries.get(asset.id))
            for asset, name in some
        )
        has_run = journal is not None and journal.last_run() is not None
    finally:
        if journal is not None:
            journal.close()
    return [*summary_of_others(folder, outputs, has_run=has_run), *occupied.told(folder)]


def _formats_of_asset(asset: Asset, formats: Sequence[str]) -> Sequence[str]:
    return tuple(dict.fromkeys(("json", *(asset.formats or formats))))


def _files(asset: Asset, name: PurePosixPath, formats: Sequence[str]) -> Iterator[PurePosixPath]:
    for format_name in _formats_of_asset(asset, formats):
        yield name.with_name(f"{name.name}{FORMATS[format_name].suffix}")


def _surely_elsewhere(root: Path, assets: Sequence[Asset]) -> bool:
    """Whether no recording lies in `root` or below it, told without a look at each."""
    if not isinstance(assets, Assets) or (folders := assets.entries.folders) is None:
        return False
    real_root = _real(root)
    return not any(_real(Path(folder)).is_relative_to(real_root) for folder in folders)


def _inside(root: Path, paths: Iterable[Path]) -> Iterator[Path]:
    """Those of the paths whose folder is `root` or below it."""
    real_root = _real(root)
    known: dict[str, bool] = {}
    for path in paths:
        folder = os.path.dirname(path)  # noqa: PTH120 - 100,000 of them
        if folder not in known:
            known[folder] = _real(Path(folder)).is_relative_to(real_root)
        if known[folder]:
            yield path


def _key(path: Path) -> str:
    """Equal for paths that name one directory entry: a link that is replaced is lost itself."""
    return os.path.normcase(_real(path.parent) / path.name)


@functools.lru_cache(maxsize=4096)
def _real(folder: Path) -> Path:
    return folder.resolve()
