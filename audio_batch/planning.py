"""What a run is to do about each of its assets: what stands, what is taken over, what is to do."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence, Set
from functools import partial
from pathlib import PurePosixPath

from audio_batch import __version__
from audio_batch.errors import ExitCode
from audio_batch.formats import FORMATS
from audio_batch.naming import OutputNamer
from audio_batch.night import Night
from audio_batch.occupied import Claim, Occupied, summary_of_others
from audio_batch.outputs import Outputs, intact
from audio_batch.plan import Planned
from audio_batch.recovery import Recovery
from audio_batch.remote import buckets
from audio_batch.storage import name_taken
from audio_batch.todo import Planner, Todo, names_of_others


def todo_of(night: Night) -> Todo:
    """Look at every chosen asset, its outputs, and what the journal knows of it.

    Raises:
        SetupError: a store does not answer, a recording's bucket is not there, or a journal is
            damaged.
    """
    outputs = night.folder.place.open()
    written = night.journal.formats.written()
    has_run = night.journal.last_run() is not None  # before one is made up of what is taken over
    occupied = Occupied(
        outputs, written, night.manifest.assets.ids, overwrites=night.options.overwrite
    )
    recovery = Recovery(outputs, night.journal, partial(_begin_recovery, night), occupied.note)
    taken: set[str] = set()
    while True:
        todo = _planned(night, outputs, recovery, occupied, taken)
        if occupied.taken <= taken:
            break
        # Names that nobody could know of are another's: those who want them get others.
        taken |= occupied.taken
        occupied.strangers.clear()
    if len(todo):
        _require_buckets(night)
    todo.recovered = recovery.count
    todo.anything_there = occupied.anything_there
    todo.has_summary = outputs.size_bytes(night.folder.summary_path.name) is not None
    if not night.options.overwrite:
        summary = summary_of_others(night.folder, outputs, has_run=has_run)
        # A kill leaves texts without their JSON, which comes last; with the journal all knowledge
        # of it is lost, but for what the others' JSON say was made here.
        left = {FORMATS[name].suffix for name in recovery.formats - {"json"}}
        told = occupied.told(night.folder)
        todo.strangers = [
            *summary,
            *(path for path in told if PurePosixPath(path).suffix not in left),
        ]
    if recovery.count:
        night.interface.notice(
            "Taken over from published JSON, as the journal did not know of them: "
            f"{recovery.count} assets done."
        )
    return todo


def _require_buckets(night: Night) -> None:
    """See that the buckets of remote recordings are there.

    Raises:
        SetupError: one is not; with --allow-missing: none of those that hold all of the recordings.
    """
    gone = night.fetching.buckets.gone()
    if not gone:
        return
    if not night.settings.allow_missing or sum(gone.values()) >= len(night.assets):
        raise buckets.refusal(list(gone))
    night.interface.notice(buckets.told(list(gone)), warning=True)


def _planned(
    night: Night, outputs: Outputs, recovery: Recovery, occupied: Occupied, taken: set[str]
) -> Todo:
    # Over the whole manifest, so that a name never depends on which assets were selected; and
    # past the names of other manifests' assets that this folder holds.
    every = night.manifest.assets
    others = names_of_others(every, night.journal)
    reserved = map(str, night.folder.reserved())
    planner = Planner(
        options=night.options,
        wanted=night.lineup.wanted,
        journal=night.journal,
        output_names=OutputNamer(night.options.output_template).over(
            every, taken=itertools.chain(reserved, others, taken)
        ),
        naming=night.voices.naming,
        state=night.folder.state,
        stands=partial(intact, outputs),
        look=night.fetching.look,
        recover=None if night.options.overwrite else recovery.take_over,
        is_published=occupied.is_there,
        examine=partial(_examine, night, occupied),
        stood=occupied.stood,
    )
    return Todo.of(night.assets, planner)


def _examine(night: Night, occupied: Occupied, planned: Sequence[Planned]) -> Set[str]:
    occupied.look(_claims(planned))
    barred = occupied.still_barred(night.folder)
    if barred and not night.options.overwrite:
        with night.journal.grouped():
            for asset_id, path in barred.items():
                night.journal.retell(asset_id, str(name_taken(path)))
    return barred.keys()


def _claims(planned: Sequence[Planned]) -> Iterator[Claim]:
    for item in planned:
        if item.formats:  # else nothing is published
            yield Claim(item.asset.id, item.output_name, item.formats, item.entry)


def _begin_recovery(night: Night) -> int:
    """Begin and end a run that what is taken over belongs to."""
    run_id = night.journal.begin_run(version=__version__, request=night.request.to_json())
    night.journal.end_run(run_id, ExitCode.OK)
    return run_id
