"""A device's child on another machine: how its models are found there, and how files travel.

What a run knows of its models are folders of the machine that it was begun on. The same models are
looked for by name on the machine of the child, and must be the same in content.

Results of stages are kept by the parent, where every later attempt finds them, whichever machine
does it. The child keeps them in a scratch folder until they have gone there; what an attempt needs
of earlier ones is brought along with it. Outputs go the same way where the parent publishes them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

from audio_batch import models
from audio_batch.engines import DEFAULT_ENGINE
from audio_batch.errors import AssetError, AudioBatchError, DeviceError, ErrorKind
from audio_batch.events import AssetProgress, job_key
from audio_batch.lineup import AlignerSearch, Lineup
from audio_batch.loading import Place
from audio_batch.options import RunOptions
from audio_batch.outcome import Outcome, Published, StageRecord, State
from audio_batch.outputs import OutputPlace
from audio_batch.pipeline import Job
from audio_batch.pools.messages import Bring, Brought, Elsewhere, Shelf
from audio_batch.storage import PublishedFile, contained
from audio_batch.workplace import Recipe


def settled(recipe: Recipe, place: Place, elsewhere: Elsewhere) -> tuple[Recipe, Place]:
    """The recipe and the place as they are on this machine.

    Raises:
        DeviceError: a model is not here and cannot be fetched, or there is no such GPU.
    """
    if place.device.kind == "cuda":
        place = _gpu(place, elsewhere.node)
    lineup = _found_here(recipe.lineup, recipe.options, elsewhere)
    recipe = dataclasses.replace(recipe, lineup=lineup, state=_shelf(elsewhere, "state"))
    if not elsewhere.cache_named:
        from audio_batch.remote.settings import default_cache

        inputs = dataclasses.replace(recipe.inputs, cache_dir=default_cache())
        recipe = dataclasses.replace(recipe, inputs=inputs)
    if elsewhere.outputs_come_back:
        here = OutputPlace(str(_shelf(elsewhere, "outputs")))
        recipe = dataclasses.replace(recipe, place=here)
    return recipe, place


def _shelf(elsewhere: Elsewhere, shelf: Shelf) -> Path:
    folder = elsewhere.scratch / shelf
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _gpu(place: Place, node: str) -> Place:
    """The GPU that this process was given, which CUDA calls the first."""
    from audio_batch.inventory import look_at

    try:
        (facts,) = look_at("cuda:0")
    except AudioBatchError as error:
        raise DeviceError(f"{node}: {error}") from error
    found = dataclasses.replace(facts.device, id=place.device.id, node=place.device.node)
    return dataclasses.replace(place, device=found, free_bytes=facts.free_bytes)


def _found_here(lineup: Lineup, options: RunOptions, elsewhere: Elsewhere) -> Lineup:
    """The same models on this machine.

    Raises:
        DeviceError: one cannot be had, or is another one.
    """
    from audio_batch.hub import read_token

    folder = elsewhere.model_dir
    model_dir = folder if folder is not None and folder.is_dir() else None
    try:
        token = read_token(None)  # this machine's own
        if options.engine == DEFAULT_ENGINE:
            found = models.find(lineup.model.name, model_dir=model_dir, offline=elsewhere.offline)
            _require_same(found.name, found.identity, lineup.model.identity, elsewhere.node)
            lineup = dataclasses.replace(lineup, model=found)
        if lineup.diarizer is not None:
            from audio_batch.diarization_models import find_diarization

            voices = find_diarization(
                lineup.diarizer.name, model_dir=model_dir, offline=elsewhere.offline, token=token
            )
            _require_same(voices.name, voices.identity, lineup.diarizer.identity, elsewhere.node)
            lineup = dataclasses.replace(lineup, diarizer=voices)
    except DeviceError:
        raise
    except AudioBatchError as error:
        raise DeviceError(
            f"{elsewhere.node} lacks a model of this run: {error.message}",
            remedy="Name models by their names, or by a folder that every node sees.",
        ) from error
    if isinstance(lineup.aligner_of, AlignerSearch):
        search = dataclasses.replace(lineup.aligner_of, model_dir=model_dir, token=token)
        lineup = dataclasses.replace(lineup, aligner_of=search)
    return lineup


def _require_same(name: str, here: str, there: str, node: str) -> None:
    if here != there:
        raise DeviceError(
            f"{node} has another model under the name {name}: {here} instead of {there}.",
            remedy="Have every node hold the same files, or name a commit (NAME@COMMIT).",
        )


class Courier:
    """Files of the child's jobs, on their way; any thread."""

    def __init__(self, elsewhere: Elsewhere, send: Callable[[Brought], None]) -> None:
        self._elsewhere = elsewhere
        self._send = send
        self._lock = threading.Lock()
        self._sent: set[tuple[str, str]] = set()

    def take(self, message: Bring) -> None:
        """Lay down what the next jobs need. What cannot be is done again by them."""
        with contextlib.suppress(OSError, AudioBatchError):
            path = contained(_shelf(self._elsewhere, message.shelf), PurePosixPath(message.path))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(message.data)

    def told(self, record: AssetProgress | StageRecord | Published) -> None:
        """Send the files that a record speaks of. What cannot be read is missed by the parent."""
        with contextlib.suppress(OSError, AudioBatchError):
            if isinstance(record, StageRecord):
                key = job_key(record.asset_id, record.part)
                self._bring(key, "state", [record.file])
            elif isinstance(record, Published) and self._elsewhere.outputs_come_back:
                self._bring(job_key(record.asset_id, ""), "outputs", record.outputs)

    def brought_back(self, job: Job, outcome: Outcome) -> Outcome:
        """Send the files of a job that has ended, and keep none of them here.

        Returns:
            The outcome; a failed one where a file of it cannot be read any more.
        """
        files = [record.file for record in outcome.stages]
        come_back = self._elsewhere.outputs_come_back
        outputs = outcome.outputs if come_back else ()
        left = outcome.left if come_back else ()  # here, under no name that counts
        if left:
            outcome = dataclasses.replace(outcome, left=())
        try:
            self._bring(job.key, "state", files)
            self._bring(job.key, "outputs", outputs)
        except (OSError, AudioBatchError) as error:
            outcome = Outcome(
                outcome.asset_id,
                State.FAILED,
                outcome.fingerprint,
                outcome.device,
                error_kind=ErrorKind.OUTPUT,
                error_text=f"What was made on {self._elsewhere.node} was lost there: {error}",
                transient=True,
                part=outcome.part,
            )
        kept = (*job.kept.values(), *job.parts.values())
        self._clear("state", [*files, *(record.file for record in kept)])
        self._clear("outputs", [*outputs, *left, *([job.published] if job.published else [])])
        return outcome

    def _bring(self, key: str, shelf: Shelf, files: Iterable[PublishedFile]) -> None:
        for file in files:
            with self._lock:
                if (file.path, file.sha256) in self._sent:
                    continue
            path = contained(_shelf(self._elsewhere, shelf), PurePosixPath(file.path))
            self._send(Brought(key, shelf, file, path.read_bytes()))
            with self._lock:  # only now: what could not be read or sent is tried once more
                self._sent.add((file.path, file.sha256))

    def _clear(self, shelf: Shelf, files: Iterable[PublishedFile]) -> None:
        for file in files:
            with self._lock:
                self._sent.discard((file.path, file.sha256))
            with contextlib.suppress(OSError, AudioBatchError):
                contained(_shelf(self._elsewhere, shelf), PurePosixPath(file.path)).unlink()


def needed_by(job: Job) -> Iterable[tuple[Shelf, PublishedFile]]:
    """The files that an attempt reads instead of making them anew."""
    for record in (*job.kept.values(), *job.parts.values()):
        yield "state", record.file
    if job.published is not None:
        yield "outputs", job.published


def spoilt(outcome: Outcome, error: AssetError, left: tuple[PublishedFile, ...] = ()) -> Outcome:
    """What becomes of an outcome whose files the parent could not write.

    Args:
        left: the outputs that it has written.
    """
    return Outcome(
        outcome.asset_id,
        State.FAILED,
        outcome.fingerprint,
        outcome.device,
        duration_s=outcome.duration_s,
        error_kind=error.kind,
        error_text=str(error),
        transient=error.transient,
        timings_s=outcome.timings_s,
        part=outcome.part,
        reached=outcome.reached,
        # What was brought of stages lies here, whatever becomes of outputs in a store.
        stages=outcome.stages if error.away or error.kind is ErrorKind.OUTPUT_EXISTS else (),
        away=error.away,
        left=left,
    )
