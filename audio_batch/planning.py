"""What a run is to do about each of its assets: what stands, what is taken over, what is to do."""

from __future__ import annotations

import itertools
from functools import partial

from audio_batch import __version__
from audio_batch.errors import ExitCode
from audio_batch.naming import OutputNamer
from audio_batch.night import Night
from audio_batch.outputs import intact
from audio_batch.recovery import Recovery
from audio_batch.todo import Planner, Todo, names_of_others


def todo_of(night: Night) -> Todo:
    """Look at every chosen asset, its outputs, and what the journal knows of it."""
    # Over the whole manifest, so that a name never depends on which assets were selected; and
    # past the names of other manifests' assets that this folder holds.
    every = night.manifest.assets
    others = names_of_others(every, night.journal)
    taken = itertools.chain(map(str, night.folder.reserved()), others)
    names_of_outputs = OutputNamer(night.options.output_template).over(every, taken=taken)
    outputs = night.folder.place.open()
    recovery = Recovery(outputs, night.journal, partial(_begin_recovery, night))
    planner = Planner(
        options=night.options,
        wanted=night.lineup.wanted,
        journal=night.journal,
        output_names=names_of_outputs,
        naming=night.voices.naming,
        state=night.folder.state,
        stands=partial(intact, outputs),
        look=night.fetching.look,
        recover=None if night.options.overwrite else recovery.take_over,
        is_published=recovery.is_published,
    )
    todo = Todo.of(night.assets, planner)
    todo.recovered = recovery.count
    if recovery.count:
        night.interface.notice(
            "Taken over from published JSON, as the journal did not know of them: "
            f"{recovery.count} assets done."
        )
    return todo


def _begin_recovery(night: Night) -> int:
    """Begin and end a run that what is taken over belongs to."""
    run_id = night.journal.begin_run(version=__version__, request=night.request.to_json())
    night.journal.end_run(run_id, ExitCode.OK)
    return run_id
