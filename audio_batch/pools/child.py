"""The child process of one device: its models, its threads, and the pipe to the parent.

It lives as long as the run and ends with it, however the parent ends. It draws nothing, decides
nothing and commits nothing; a line of its log goes to the parent like everything else.
"""

from __future__ import annotations

import faulthandler
import logging
import logging.handlers
import os
import pickle
import sys
import threading
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from audio_batch.errors import AudioBatchError, ErrorKind
from audio_batch.lifetime import die_with_parent, ignore_stop_signals
from audio_batch.outcome import Outcome, State
from audio_batch.pools.messages import (
    Abandon,
    Begun,
    Bring,
    ChildSetup,
    Ended,
    FromChild,
    Leave,
    Loaded,
    Logged,
    Refused,
    Told,
)
from audio_batch.text import keep_secret, redact

_PARENT_GONE = 70
"""Exit code of a child that lost its parent (EX_SOFTWARE of sysexits.h); nobody is left to read."""


def serve(connection: Connection, setup: ChildSetup) -> None:
    """The child's main function; never returns.

    Ends by `os._exit`: native libraries abort when they are torn down in an orderly way
    (CTranslate2 on Windows: 0xC0000409), which would look like a crash.
    """
    ignore_stop_signals()
    die_with_parent(setup.parent_pid)
    _redirect(setup.stderr)
    faulthandler.enable(all_threads=True)
    for secret in setup.secrets:
        keep_secret(secret)
    line = _Line(connection)
    _log_to(line)
    try:
        _work(connection, line, setup)
        code = 0
    except (EOFError, OSError):
        code = _PARENT_GONE
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    sys.stderr.flush()
    os._exit(code)


def _work(connection: Connection, line: _Line, setup: ChildSetup) -> None:
    # Here, not above: the streams and the log are ours before anything heavy is imported.
    from audio_batch.assembly import usable_cores
    from audio_batch.cpu_gate import CpuGate
    from audio_batch.gates import Gates
    from audio_batch.loading import LoadedModels
    from audio_batch.pools.base import Finished
    from audio_batch.pools.courier import Courier, settled
    from audio_batch.pools.threads import ThreadPool
    from audio_batch.tell import Tell

    courier = None if setup.elsewhere is None else Courier(setup.elsewhere, line.send)

    def tell(record: Any) -> None:
        if courier is not None:
            courier.told(record)
        line.send(Told(record))

    device, place = setup.place.device.id, setup.place
    cpu = CpuGate(setup.elsewhere.cores if setup.elsewhere else usable_cores())
    try:
        recipe = setup.recipe
        if setup.elsewhere is not None:
            recipe, place = settled(recipe, place, setup.elsewhere)
        models = LoadedModels(recipe.options, recipe.lineup, lambda _: place, cpu)
        warnings = models.load(device, set(setup.needed))
        known = recipe.known_voices(lambda: models.diarizer(device))
    except AudioBatchError as error:
        line.send(Refused.of(error))
        return
    slots = place.slots
    gates = Gates(lambda _: slots)
    abandoned: set[int] = set()
    told = Tell(tell, tell, tell, lambda job: job.serial in abandoned)
    work = recipe.work(models, known, told, gates, cpu)
    line.send(Loaded(tuple(warnings)))
    pool = ThreadPool(work, slots + place.ahead, first=setup.first_worker)

    def finished(done: Finished) -> None:
        outcome = done.outcome if courier is None else courier.brought_back(done.job, done.outcome)
        line.send_outcome(Ended(done.job.key, outcome, done.worker))

    while not isinstance(message := connection.recv(), Leave):
        if isinstance(message, Abandon):
            abandoned.add(message.serial)
            continue
        if isinstance(message, Bring):
            if courier is not None:
                courier.take(message)
            continue
        pool.submit(
            message.job,
            started=lambda job, worker: line.send(Begun(job.key, worker)),
            finished=finished,
        )
    pool.close()


class _Line:
    """The sending end of the pipe; any thread."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def send(self, message: FromChild) -> None:
        """Send it, or end the process where nobody reads any more."""
        data = pickle.dumps(message)
        try:
            with self._lock:
                self._connection.send_bytes(data)
        except OSError:
            os._exit(_PARENT_GONE)

    def send_outcome(self, ended: Ended) -> None:
        """Send an outcome; with something unpicklable in it, from an engine, its asset fails."""
        try:
            self.send(ended)
        except (pickle.PicklingError, TypeError, AttributeError, RecursionError) as error:
            outcome = ended.outcome
            text = f"What became of it cannot be handed on: {redact(str(error))}."
            failed = Outcome(
                outcome.asset_id,
                State.FAILED,
                outcome.fingerprint,
                outcome.device,
                error_kind=ErrorKind.INTERNAL,
                error_text=text,
            )
            self.send(Ended(ended.key, failed, ended.worker))


def _redirect(path: Path) -> None:
    """Have everything that goes to stdout or stderr, native code's too, go to a file."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
    # A program without a console (pythonw) has no streams to replace.
    for number in (1, 2):
        os.dup2(descriptor, number)
    os.close(descriptor)
    sys.stdout = sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace")


class _ToParent(logging.handlers.QueueHandler):
    """Hands records on, with text in the place of what cannot be pickled."""

    def __init__(self, line: _Line) -> None:
        super().__init__(line)  # type: ignore[arg-type]

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """A copy with its message and its traceback as text, each where formatters look for it."""
        copy = logging.makeLogRecord(record.__dict__)
        copy.msg, copy.args = record.getMessage(), None
        if record.exc_info:
            copy.exc_text = logging.Formatter().formatException(record.exc_info)
        copy.exc_info = copy.stack_info = None
        return copy

    def enqueue(self, record: logging.LogRecord) -> None:
        """Send one record."""
        fields = dict(record.__dict__)
        fields.setdefault("worker", record.threadName)
        try:
            self.queue.send(Logged(fields))  # type: ignore[attr-defined]
        except (pickle.PicklingError, TypeError, AttributeError):
            self.handleError(record)


def _log_to(line: _Line) -> None:
    from audio_batch.logs import OURS, quieten

    quieten()
    root = logging.getLogger()
    root.handlers[:] = [_ToParent(line)]
    root.setLevel(logging.INFO)
    logging.getLogger(OURS).setLevel(logging.DEBUG)
    logging.captureWarnings(True)
