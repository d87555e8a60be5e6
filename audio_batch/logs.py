"""Where talk goes: the console (stderr) and the log file, ours in full, other libraries' filtered.

Third-party chatter (warnings, progress bars, library logs) reaches the log file only. Console lines
without a terminal are plain and dated, for cron and redirected `.bat` runs:

    2026-11-12 10:15:23 - [Worker-1] - INFO - [1/100] Processing: Lecture 1969-05-15
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, TextIO

from audio_batch.errors import SetupError, UsageError
from audio_batch.text import for_terminal, redact, redacted

PLAIN_FORMAT = "%(asctime)s - [%(worker)s] - %(levelname)s - %(message)s"
DATE_FORMAT = "%Y-%m-%d %H:%M:%S"
OURS = "audio_batch"

_HEAD_BYTES = 65536
"""Of a file that may be no text."""

QUIET_ENVIRONMENT = {
    "TQDM_DISABLE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "PYANNOTE_METRICS_ENABLED": "false",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONWARNINGS": "ignore",
}
"""Set before any speech library is imported; what the user has set stays."""

NO_REPORTS = {"ORT_DISABLE_TELEMETRY": "1"}
"""Set whatever the user has set: ONNX Runtime, which hears where speech is, reports each process to
its makers otherwise, and leaves them what it cannot send in the user's cache folder."""

SAFE_ENVIRONMENT = {"PYTHONSAFEPATH": "1"}
"""For the processes that a run starts: without it Python would look for its own modules in the
current folder first, and a manifest may have brought a `pickle.py`."""


class _PlainFormatter(logging.Formatter):
    """One clean line a record; the worker that an event speaks of stands where a thread would.

    `traces` False leaves tracebacks to the log file: nobody can do anything about one at night.
    """

    def __init__(self, *, traces: bool = True) -> None:
        super().__init__(PLAIN_FORMAT, DATE_FORMAT)
        self._traces = traces

    def format(self, record: logging.LogRecord) -> str:
        if not hasattr(record, "worker"):
            record.worker = record.threadName
        head = for_terminal(redact(super().format(_without_traceback(record))))
        if self._traces:
            # Indented, so that no text of others in it can pass for a record of its own.
            trace = redact(_traceback(record)).splitlines()
            head += "".join(f"\n    {for_terminal(line)}" for line in trace)
        return head


def _without_traceback(record: logging.LogRecord) -> logging.LogRecord:
    copy = logging.makeLogRecord(record.__dict__)
    copy.exc_info = None
    copy.exc_text = None
    return copy


def _traceback(record: logging.LogRecord) -> str:
    """The traceback of a record, which another process may have sent as text; "" without one."""
    if record.exc_info and record.exc_info[0] is not None:
        return logging.Formatter().formatException(record.exc_info)
    return record.exc_text or ""


class _JsonFormatter(logging.Formatter):
    """A JSON object a line: time (UTC), level, logger, thread, message and the event's fields."""

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        body: dict[str, Any] = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "thread": getattr(record, "worker", record.threadName),
            "message": redact(record.getMessage()),
        }
        fields: dict[str, Any] = getattr(record, "fields", {})
        body.update(redacted(fields))
        if trace := _traceback(record):
            body["exception"] = redact(trace)
        # DEL is the one control character that JSON leaves as it is.
        text = json.dumps(body, ensure_ascii=True, default=lambda value: redact(str(value)))
        return text.replace("\x7f", "\\u007f")


class _Ours(logging.Filter):
    """Lets our own records through and nobody else's."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.name == OURS or record.name.startswith(f"{OURS}.")


def _is_no_detail(record: logging.LogRecord) -> bool:
    """Whether a record says more than one whose fields say it all: in JSON an event is one."""
    return not getattr(record, "detail", False)


class _LogFile(logging.FileHandler):
    """A log file whose disk may fill up: that is said once, and the run goes on."""

    _failed = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002
        if not self._failed:
            self._failed = True
            with contextlib.suppress(OSError, ValueError):
                print(f"The log file {self.baseFilename} cannot be written to.", file=sys.stderr)


class _Console(logging.StreamHandler[TextIO]):
    """The console's lines; a console that is gone is not worth a word."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Say nothing."""


def quieten() -> None:
    """Switch off other libraries' progress bars and telemetry; before they are imported."""
    for key, value in QUIET_ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    os.environ.update(NO_REPORTS)
    os.environ.update(SAFE_ENVIRONMENT)


def configure(
    *,
    console_level: int | None,
    log_file: Path | None,
    log_format: Literal["plain", "json"],
) -> None:
    """Set up logging for a run; call once, before a speech library is imported.

    Args:
        console_level: least level on stderr; None when a live display draws there instead.

    Raises:
        SetupError: the log file cannot be opened.
    """
    quieten()
    root = logging.getLogger()
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()
    root.setLevel(logging.INFO)
    logging.getLogger(OURS).setLevel(logging.DEBUG)
    warnings.simplefilter("ignore")
    logging.captureWarnings(True)

    def formatter(*, traces: bool) -> logging.Formatter:
        return _JsonFormatter() if log_format == "json" else _PlainFormatter(traces=traces)

    def added(handler: logging.Handler, *, traces: bool) -> None:
        handler.setFormatter(formatter(traces=traces))
        if log_format == "json":
            handler.addFilter(_is_no_detail)
        root.addHandler(handler)

    root.addHandler(logging.NullHandler())
    if console_level is not None:
        console = _Console(sys.stderr)
        console.setLevel(console_level)
        console.addFilter(_Ours())
        added(console, traces=False)
    if log_file is not None:
        try:
            log_file.parent.mkdir(parents=True, exist_ok=True)
            file = _LogFile(log_file, encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise SetupError(
                f"The log file {log_file} cannot be written: {error.strerror or error}.",
                remedy="Choose another --log-file.",
            ) from error
        added(file, traces=True)
        warnings.simplefilter("default")


def check_log_file(log_file: Path, *, needed: Iterable[Path], state: Path) -> None:
    """See that a log appended to a file spoils nothing; before `configure` opens it.

    Args:
        needed: files that a run reads or writes, under whatever names: none may be the log.
        state: the state folder of the run's output folder, in which everything is ours.

    Raises:
        UsageError: it would spoil something.
    """
    spoilt = None
    if any(_same_file(log_file, path) for path in needed):
        spoilt = "is a file that the run needs"
    elif log_file.resolve().is_relative_to(state.resolve()):
        spoilt = f"lies in {state}, which holds the state of the run"
    elif _is_binary(log_file):
        spoilt = "is there and is no text: a recording, perhaps"
    if spoilt is not None:
        raise UsageError(
            f"The log file {log_file} {spoilt}; a log would spoil it.",
            remedy="Choose another --log-file.",
        )


def _same_file(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except (OSError, ValueError):  # one of them is not there yet
        return one.resolve() == other.resolve()


def _is_binary(path: Path) -> bool:
    """Whether a file holds NUL bytes near its beginning: recordings do, no log does."""
    try:
        if not path.is_file():  # a pipe would wait for ever
            return False
        with path.open("rb") as file:
            return b"\0" in file.read(_HEAD_BYTES)
    except (OSError, ValueError):  # what cannot be read here is told where it is opened
        return False


def record_error(text: str) -> bool:
    """Write the error that ends the program into the log file, if there is one.

    Returns:
        Whether the console got it too, as it does in JSON; else a plain sentence is due there.
    """
    record = logging.LogRecord("audio_batch.run", logging.ERROR, "", 0, "%s", (text,), None)
    record.worker = "Main"
    said = False
    for handler in logging.getLogger().handlers:
        in_json = isinstance(handler, _Console) and isinstance(handler.formatter, _JsonFormatter)
        if in_json or isinstance(handler, _LogFile):
            handler.handle(record)
        said = said or in_json
    return said


def utf8_streams() -> None:
    """Make stdout and stderr able to carry any text (Windows consoles, LANG=C in cron)."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
