"""Children on the nodes of a Ray cluster: the driver's side of `ray_actor`.

`ProcessPool` does not know where its children are; this is how they are begun there, what they say
is fetched, and what the end of an actor or of a node means.

* A child that ends by itself is judged on its node, as a local one is.
* An actor that ends takes its child with it. Somebody has killed it, or Ray has, for lack of memory
  on its node: then what ran there may be the cause.
* A node that goes takes everything with it, and nothing that ran there had any part in it.
"""

from __future__ import annotations

import dataclasses
import logging
import pickle
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from audio_batch import __version__
from audio_batch.errors import AssetError, DeviceError
from audio_batch.events import asset_of, job_key
from audio_batch.formats import FORMATS
from audio_batch.lineup import AlignerSearch
from audio_batch.outcome import Published, StageRecord, State
from audio_batch.outputs import Outputs
from audio_batch.pipeline import Job
from audio_batch.pools.courier import needed_by, spoilt
from audio_batch.pools.hosts import Ending
from audio_batch.pools.messages import (
    Bring,
    Brought,
    ChildSetup,
    Do,
    Elsewhere,
    Ended,
    FromChild,
    FromParent,
    Refused,
    Shelf,
    Told,
)
from audio_batch.pools.ray_actor import DeviceActor, Gone
from audio_batch.publishing import Publisher
from audio_batch.storage import PublishedFile, contained, publish

if TYPE_CHECKING:
    from audio_batch.ray_cluster import Cluster

_POLL_S = 10.0
"""So long an actor waits for news before it answers that there are none."""

_PATIENCE_S = 10.0
"""For an actor to end its child; after that it is ended itself."""

_PAUSE_S = 0.5

_log = logging.getLogger("audio_batch.run")


class Shelves:
    """The driver's own files: kept results of stages, and outputs where it publishes them."""

    def __init__(self, state: Path, outputs: Outputs | None) -> None:
        self._state = state
        self.outputs = outputs

    def read(self, shelf: Shelf, path: str) -> bytes | None:
        """A file that an attempt needs; None where it is for the worker to find, or is not there.

        Raises nothing: what cannot be read is made anew.
        """
        with suppress(OSError, AssetError):
            if shelf == "state":
                return contained(self._state, PurePosixPath(path)).read_bytes()
            if self.outputs is not None:
                return self.outputs.read(PurePosixPath(path))
        return None

    def keep(self, brought: Brought) -> None:
        """Keep a stage's result that a child has made.

        Raises:
            AssetError: it cannot be written.
        """
        path, name = PurePosixPath(brought.file.path), brought.file.format
        publish(self._state, path, brought.data, format_name=name)

    def write(self, brought: Brought, work: Work) -> None:
        """Publish what a child has made, and enter it in `work`.

        Before the first of an asset's outputs all of its names are looked at.

        Raises:
            AssetError: it cannot be written.
        """
        if self.outputs is None:
            return
        name, asset_id = brought.file.format, asset_of(brought.key)
        output_name = brought.file.path.removesuffix(FORMATS[name].suffix)
        publisher = Publisher(self.outputs, asset_id, output_name, work.replaces)
        if not work.written:
            for other in work.formats:
                publisher.see(other, brought.data if other == name else None)
        work.written[brought.file.path] = publisher.publish(name, brought.data)


@dataclass(slots=True)
class Work:
    """What is known of a job whose outputs are published here.

    `formats` and `replaces` are as the job has them, `written` is what was published, by path.
    """

    formats: Collection[str] = ()
    replaces: Collection[str] = ()
    written: dict[str, PublishedFile] = field(default_factory=dict)


class RayHost:
    """See `Host`. An actor is made for a device when it is first begun, and when it has died."""

    def __init__(
        self,
        cluster: Cluster,
        shelves: Shelves,
        *,
        model_dir: Path | None,
        offline: bool,
        cache_named: bool = False,
    ) -> None:
        self._cluster = cluster
        self._shelves = shelves
        self._model_dir = model_dir
        self._offline = offline
        self._cache_named = cache_named
        self._handles: dict[str, RayHandle] = {}
        self._number = 0

    def begin(self, device: str, setup: ChildSetup) -> RayHandle:
        """See `Host.begin`; returns at once, whenever Ray finds room for the actor."""
        ray = self._cluster.ray
        spot = self._cluster.spots[device]
        if not self._cluster.is_alive(spot.node_id):
            raise DeviceError(f"{spot.node} has left the cluster.")
        before = self._handles.get(device)
        # A device may be back on another node, under the same name.
        same = before is not None and before.actor_lives and before.node_id == spot.node_id
        actor = before.actor if before is not None and same else None
        if actor is None:
            actor = ray.remote(DeviceActor).options(**self._cluster.options_of(device)).remote()
        elsewhere = Elsewhere(
            node=spot.node,
            scratch=Path(),
            model_dir=self._model_dir,
            offline=self._offline,
            outputs_come_back=self._shelves.outputs is not None,
            cache_named=self._cache_named,
            cores=spot.cores,
        )
        setup = dataclasses.replace(
            setup, recipe=_without_secrets(setup.recipe), secrets=(), elsewhere=elsewhere
        )
        self._number += 1
        handle = RayHandle(
            self._cluster, actor, self._number, setup.stderr, self._shelves, spot.node_id
        )
        actor.begin.remote(self._number, __version__, pickle.dumps(setup))
        self._handles[device] = handle
        return handle

    def close(self) -> None:
        """See `Host.close`: the actors go, with what they left on their nodes."""
        ray = self._cluster.ray
        handles = [handle for handle in self._handles.values() if handle.actor_lives]
        with suppress(Exception):
            ray.wait(
                [handle.actor.close.remote() for handle in handles],
                num_returns=len(handles),
                timeout=_PATIENCE_S / 2,
            )
        for handle in handles:
            with suppress(Exception):
                ray.kill(handle.actor, no_restart=True)


class RayHandle:
    """See `Handle`. `actor_lives` is whether the actor may be asked for another child there."""

    def __init__(
        self,
        cluster: Cluster,
        actor: Any,
        number: int,
        stderr: Path,
        shelves: Shelves,
        node_id: str,
    ) -> None:
        self.actor = actor
        self.actor_lives = True
        self._cluster = cluster
        self._ray = cluster.ray
        self._number = number
        self._stderr = stderr
        self._shelves = shelves
        self.node_id = node_id
        self._received: deque[bytes] = deque()
        self._known = 0
        self._sent = 0
        self._spoilt: dict[str, AssetError] = {}
        self._work: defaultdict[str, Work] = defaultdict(Work)
        self._ending: Ending | None = None
        self._gone = threading.Event()

    def send(self, message: FromParent) -> None:
        """See `Handle.send`."""
        messages = [message]
        if isinstance(message, Do):
            job = message.job
            self._work[job.key] = Work(job.formats, job.replaces)
            messages = [*self._luggage(job), self._for_a_child(job)]
        data = [pickle.dumps(one) for one in messages]
        try:
            taken = self._asked(lambda: self.actor.send.remote(self._number, self._sent, data))
        except self._ray.exceptions.RayError as error:
            raise OSError(str(error)) from error
        if not taken:
            raise OSError("its process has ended")
        self._sent += len(data)

    def _asked(self, call: Callable[[], Any]) -> Any:
        """The actor's answer. While Ray cannot reach it, it is asked again."""
        while True:
            try:
                return self._ray.get(call())
            except self._ray.exceptions.ActorUnavailableError:
                time.sleep(_PAUSE_S)

    def _for_a_child(self, job: Job) -> Do:
        """The job, as a child does it whose outputs come back: its names are not the real ones."""
        comes_back = self._shelves.outputs is not None
        return Do(dataclasses.replace(job, replaces=job.formats) if comes_back else job)

    def _luggage(self, job: Job) -> list[FromParent]:
        files = (
            (shelf, file, self._shelves.read(shelf, file.path)) for shelf, file in needed_by(job)
        )
        return [Bring(shelf, file.path, data) for shelf, file, data in files if data is not None]

    def receive(self) -> FromChild:
        """See `Handle.receive`; files that were brought are stored before what speaks of them."""
        while True:
            message = self._stored(self._next())
            if message is not None:
                return message

    def _next(self) -> FromChild:
        while not self._received:
            if self._gone.is_set():
                raise EOFError
            try:
                news = self._asked(
                    lambda: self.actor.news.remote(self._number, self._known, _POLL_S)
                )
            except (self._ray.exceptions.RayError, ConnectionError) as error:
                self.actor_lives = False
                self._end(self._cluster.verdict(error, self.node_id))
                raise EOFError from error
            self._known += len(news)
            self._received.extend(news)
        message = pickle.loads(self._received.popleft())  # of our own child
        if isinstance(message, Gone):
            with suppress(OSError):
                self._stderr.write_bytes(message.stderr)
            self._end(message.ending)
            raise EOFError
        said: FromChild = message
        return said

    def _stored(self, message: FromChild) -> FromChild | None:
        """The message, as it is after what was brought before it has been written or has not."""
        match message:
            case Brought():
                try:
                    self._store(message)
                except AssetError as failure:
                    self._spoilt[message.key] = failure
                return None
            case Told(StageRecord() | Published() as record) if _key_of(record) in self._spoilt:
                return None
            case Ended(key, outcome, worker):
                left = tuple(self._work.pop(key, Work()).written.values())
                if key in self._spoilt:
                    return Ended(key, spoilt(outcome, self._spoilt.pop(key), left), worker)
                if left and outcome.state is State.FAILED:
                    return Ended(key, dataclasses.replace(outcome, left=left), worker)
            case Refused("SetupError"):
                # What one node lacks, another may have.
                return dataclasses.replace(message, kind="DeviceError")
        return message

    def _store(self, brought: Brought) -> None:
        if brought.shelf == "state":
            self._shelves.keep(brought)
        elif brought.key not in self._spoilt:  # else its JSON would vouch for what is not there
            self._shelves.write(brought, self._work[brought.key])

    def _end(self, ending: Ending) -> None:
        self._ending = self._ending or ending
        self._gone.set()

    def kill(self) -> None:
        """See `Handle.kill`. An actor that does not answer is ended with its child."""
        if self._gone.is_set() or not self.actor_lives:
            return
        try:
            self._ray.get(self.actor.end.remote(self._number), timeout=_PATIENCE_S / 2)
        except Exception:  # Ray's client has errors of its own
            self.actor_lives = False
            with suppress(Exception):
                self._ray.kill(self.actor, no_restart=True)

    def wait(self, timeout_s: float) -> bool:
        """See `Handle.wait`."""
        return self._gone.wait(timeout_s)

    def ending(self) -> Ending:
        """See `Handle.ending`."""
        return self._ending or Ending("it does not answer")


def _key_of(record: StageRecord | Published) -> str:
    """The key of the job that tells it."""
    return job_key(record.asset_id, record.part if isinstance(record, StageRecord) else "")


def _without_secrets(recipe: Any) -> Any:
    """Each node has credentials of its own."""
    search = recipe.lineup.aligner_of
    if not isinstance(search, AlignerSearch):
        return recipe
    search = dataclasses.replace(search, token=None)
    lineup = dataclasses.replace(recipe.lineup, aligner_of=search)
    return dataclasses.replace(recipe, lineup=lineup)
