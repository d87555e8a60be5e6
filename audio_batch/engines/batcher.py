"""Batches of pieces that belong to different assets: filled, done, and handed back in order.

Every asset's thread opens a `Stream`, submits its pieces and takes their answers in the same order.
Lanes (threads of the batcher's own) gather pieces of all streams and do them together:

    stream.submit -> waiting pieces -> lane: gather -> work(key, pieces) -> stream.take

Nothing here knows what a piece is. Pieces of equal `key` may share a batch. Streams take turns, one
piece each, so neither a long asset nor a crowd of short ones keeps the others waiting.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from audio_batch.errors import DeviceError

Piece = TypeVar("Piece")
Answer = TypeVar("Answer")

BEAT_S = 30.0
"""How often a waiting asset tells that it is alive, as long as batches are being done."""

PATIENCE = 0.25
"""Of the time that the last batch took: how long an unfilled one waits for who prepares pieces."""
PATIENCE_AT_FIRST_S = PATIENCE_AT_MOST_S = 0.5

_log = logging.getLogger("audio_batch.transcription")


class Batcher(Generic[Piece, Answer]):
    """See the module's docstring. Every method may be called from any thread.

    Args:
        work: does pieces of one key together, in a lane; an answer for each, in order.
        size: pieces a batch holds now; asked before every batch.
        lower: told that a batch of so many pieces failed so; whether `size` has become smaller and
            the batch is worth another try.
        error_of: what the streams are to raise for what `work` raised, anew at each call.
        lacks_memory: whether memory ran out: beside another batch that is nobody's fault.
        for_all: of a DeviceError, whether the device will answer nobody any more.
        lanes: batches that are done at the same time.
        name: what the lanes' threads are called.
        beat_s: see `BEAT_S`.
        patience_s: as `PATIENCE`, for the first batch.
    """

    def __init__(
        self,
        work: Callable[[Hashable, Sequence[Piece]], Sequence[Answer]],
        *,
        size: Callable[[], int],
        lower: Callable[[int, Exception], bool],
        error_of: Callable[[Exception], Exception],
        lacks_memory: Callable[[Exception], bool] = lambda _error: False,
        for_all: Callable[[Exception], bool] = lambda _error: True,
        lanes: int = 1,
        name: str = "batches",
        beat_s: float = BEAT_S,
        patience_s: float = PATIENCE_AT_FIRST_S,
    ) -> None:
        self._work, self._size = work, size
        self._lower, self._error_of = lower, error_of
        self._lacks_memory, self._for_all = lacks_memory, for_all
        self._at_work: dict[int, int] = {}
        """By lane: the pieces of the batch that it is doing."""
        self._alone: int | None = None
        """The lane that goes on by itself, since its last batch had no room beside another."""
        self._lanes, self._name = lanes, name
        self.beat_s = beat_s
        self.completed = 0
        """Batches that were done without an error."""
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._streams: list[Stream[Piece, Answer]] = []
        self._turns: deque[Stream[Piece, Answer]] = deque()
        self._patience_s = patience_s
        self._begun = self._closed = False

    @contextmanager
    def stream(self) -> Iterator[Stream[Piece, Answer]]:
        """An asset's pieces, as long as it has any; what is left of them then is dropped."""
        stream: Stream[Piece, Answer] = Stream(self)
        with self._lock:
            if not self._begun:
                self._begin()
            self._streams.append(stream)
        try:
            yield stream
        finally:
            with self._lock:
                self._streams.remove(stream)
                self._drop(stream)
                self._changed.notify_all()

    def _begin(self) -> None:
        """Begin the lanes; where the system has no threads for all of them, fewer do."""
        for number in range(self._lanes):
            name = f"{self._name}-{number}"
            try:
                threading.Thread(target=self._lane, name=name, daemon=True).start()
            except RuntimeError:
                if not self._begun:
                    raise
                _log.warning("There are threads for %d of %d batches.", number, self._lanes)
                return
            self._begun = True

    def room(self) -> int:
        """Pieces that a stream may have submitted before it takes one: two batches among all.

        Two at the least: one that is done, one that is ready meanwhile.
        """
        with self._lock:
            return max(2, -(-2 * self._size() // max(1, len(self._streams))))

    def close(self) -> None:
        """End the lanes when they have done what they are at. Nobody may wait for an answer."""
        with self._lock:
            self._closed = True
            self._changed.notify_all()

    # -- the streams' side ------------------------------------------------------------------------

    def _submit(
        self, stream: Stream[Piece, Answer], entry: _Entry[Piece, Answer], *, last: bool
    ) -> None:
        with self._lock:
            stream.preparing = not last  # not before: a lane would begin without its last piece
            if stream.error is None:
                if not stream.waiting:
                    self._turns.append(stream)
                stream.waiting.append(entry)
            self._changed.notify_all()

    def _drop(self, stream: Stream[Piece, Answer]) -> None:
        if stream.waiting:
            stream.waiting.clear()
            self._turns.remove(stream)

    # -- the lanes' side --------------------------------------------------------------------------

    def _lane(self) -> None:
        me = threading.get_ident()
        while (batch := self._next(me)) is not None:
            alone = self._alone == me
            try:
                self._do(batch, me)
            finally:
                with self._lock:
                    del self._at_work[me]
                    if alone:
                        self._alone = None
                    self._changed.notify_all()
            del batch  # nor is it held while there is nothing to do

    def _next(self, me: int) -> list[_Entry[Piece, Answer]] | None:
        """Wait for a batch that is full, or that nobody will add to soon; None: closed."""
        until_s: float | None = None
        with self._lock:
            while not self._closed:
                found = self._ready()
                others = self._alone not in (None, me) or (self._alone == me and self._at_work)
                if found == 0 or others:
                    if found == 0 and self._alone == me:
                        self._alone = None  # what it was for has been given up
                        self._changed.notify_all()
                    until_s = None
                    self._changed.wait()
                    continue
                now_s = time.monotonic()
                if until_s is None:
                    until_s = now_s + self._patience_s
                coming = any(stream.preparing for stream in self._streams)
                if found >= self._size() or not coming or now_s >= until_s:
                    batch = self._gather()
                    self._at_work[me] = len(batch)
                    return batch
                self._changed.wait(until_s - now_s)
        return None

    def _ready(self) -> int:
        """How many pieces may be in a batch with the one whose turn it is."""
        if not self._turns:
            return 0
        key = self._turns[0].waiting[0].key
        return sum(1 for stream in self._turns for entry in stream.waiting if entry.key == key)

    def _gather(self) -> list[_Entry[Piece, Answer]]:
        """Take a batch, one piece of each stream in turn; who got some stands behind who got none.

        A stream's pieces are taken in their order, so one of another key ends its part.
        """
        size, key = self._size(), self._turns[0].waiting[0].key
        batch: list[_Entry[Piece, Answer]] = []
        served: dict[int, Stream[Piece, Answer]] = {}
        more = True
        while more and len(batch) < size:
            more = False
            for stream in self._turns:
                if len(batch) < size and stream.waiting and stream.waiting[0].key == key:
                    batch.append(stream.waiting.popleft())
                    served[id(stream)] = stream
                    more = True
        behind = [stream for stream in served.values() if stream.waiting]
        before = [stream for stream in self._turns if id(stream) not in served]
        self._turns = deque([*before, *behind])
        return batch

    def _do(self, batch: list[_Entry[Piece, Answer]], me: int) -> None:
        """Do a batch. One that fails is done again smaller, or each stream's part of it alone."""
        begun_s = time.monotonic()
        error = self._attempt(batch)
        if error is None:
            took_s = time.monotonic() - begun_s
            self._patience_s = min(PATIENCE_AT_MOST_S, PATIENCE * took_s)
            return
        if self._lacks_memory(error) and self._stand_back(len(batch), me, error):
            self._put_back(batch)
            return
        if self._lower(len(batch), error):
            self._put_back(batch)
            return
        parts: dict[int, list[_Entry[Piece, Answer]]] = {}
        for entry in batch:
            parts.setdefault(id(entry.stream), []).append(entry)
        if isinstance(self._error_of(error), DeviceError) and self._for_all(error):
            # Whatever else is waiting would only ask a device again that has failed.
            with self._lock:
                self._fail([s for s in self._streams if s.outstanding], error)
        elif len(parts) == 1:
            with self._lock:
                self._fail([batch[0].stream], error)
        else:
            for part in parts.values():
                if part[0].stream.error is None:
                    self._do(part, me)

    def _stand_back(self, count: int, me: int, error: Exception) -> bool:
        """Whether another batch was in the way: then this lane tries again with none beside it."""
        with self._lock:
            beside = [size for lane, size in self._at_work.items() if lane != me]
            if not beside:
                return False
            if self._alone is None:
                self._alone = me
        # The largest of them is what there was too much of.
        self._lower(max(count, *beside), error)
        return True

    def _attempt(self, batch: list[_Entry[Piece, Answer]]) -> Exception | None:
        """Do a batch; the error, which holds nothing any more of what the batch allocated."""
        try:
            answers = self._work(batch[0].key, [entry.piece for entry in batch])
        except Exception as error:
            _log.debug("a batch of %d failed", len(batch), exc_info=error)
            error.__cause__ = error.__context__ = None
            return error.with_traceback(None)
        with self._lock:
            self.completed += 1
            for entry, answer in zip(batch, answers, strict=True):
                entry.stream.answers[entry.number] = answer
                entry.stream.answered.notify_all()
        return None

    def _put_back(self, batch: list[_Entry[Piece, Answer]]) -> None:
        """Have the pieces done next, in the order in which they were submitted."""
        with self._lock:
            for entry in reversed(batch):
                stream = entry.stream
                if stream.error is not None or stream not in self._streams:
                    continue
                if stream.waiting:
                    self._turns.remove(stream)
                stream.waiting.appendleft(entry)
                self._turns.appendleft(stream)
            self._changed.notify_all()

    def _fail(self, streams: Sequence[Stream[Piece, Answer]], error: Exception) -> None:
        for stream in streams:
            self._drop(stream)
            stream.error = self._error_of(error)
            stream.answered.notify_all()


@dataclass(slots=True, eq=False)
class Stream(Generic[Piece, Answer]):
    """One asset's pieces in order; used by the asset's thread alone."""

    _batcher: Batcher[Piece, Answer]
    waiting: deque[_Entry[Piece, Answer]] = field(default_factory=deque)
    answers: dict[int, Answer] = field(default_factory=dict)
    error: Exception | None = None
    preparing: bool = True
    """Whether more pieces may come soon: unfilled batches wait a little for them."""
    answered: threading.Condition = field(init=False)
    _submitted: int = 0
    _taken: int = 0

    def __post_init__(self) -> None:
        self.answered = threading.Condition(self._batcher._lock)

    @property
    def outstanding(self) -> int:
        """Pieces submitted whose answers have not been taken."""
        return self._submitted - self._taken

    def submit(self, key: Hashable, piece: Piece, *, last: bool = False) -> None:
        """Have a piece done; `last`: no other will follow."""
        entry = _Entry(self, self._submitted, key, piece)
        self._submitted += 1
        self._batcher._submit(self, entry, last=last)

    def take(self, alive: Callable[[], None]) -> Answer:
        """The next answer in the order of submission; waits for it.

        `alive` is called from time to time while others' batches are done meanwhile, and may raise
        to give up.

        Raises:
            Exception: what `error_of` made of the failure of this stream's pieces.
        """
        batcher = self._batcher
        was_preparing, self.preparing = self.preparing, False
        seen, number = batcher.completed, self._taken
        with batcher._lock:
            batcher._changed.notify_all()
        while True:
            with batcher._lock:
                if number not in self.answers and self.error is None:
                    self.answered.wait(batcher.beat_s)
                if number in self.answers:
                    self._taken += 1
                    self.preparing = was_preparing
                    return self.answers.pop(number)
                if self.error is not None:
                    raise self.error
                moved, seen = batcher.completed != seen, batcher.completed
            if moved:
                alive()


@dataclass(frozen=True, slots=True)
class _Entry(Generic[Piece, Answer]):
    """A piece, whose it is and its number there."""

    stream: Stream[Piece, Answer]
    number: int
    key: Hashable
    piece: Piece
