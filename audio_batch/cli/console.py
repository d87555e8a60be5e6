"""The session's interface on a console: reporter, question, closing table."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from audio_batch import failed_starts, logs, summary
from audio_batch.assembly import Fleet
from audio_batch.config import PATHS, Settings
from audio_batch.control import Asker
from audio_batch.databases import urls
from audio_batch.errors import AudioBatchError, ExitCode, LockedError
from audio_batch.interface import Interface
from audio_batch.locations import absolute
from audio_batch.models import DEMO, REPOSITORIES
from audio_batch.reporters import LiveReporter, LogReporter, Reporter, SteadyConsole
from audio_batch.request import Request, output_folder
from audio_batch.session import execute
from audio_batch.survey import Survey
from audio_batch.text import for_terminal, redact
from audio_batch.voices import names

ANSWER_WITHIN_S = 60.0
"""An unanswered question goes on by itself: the person may be asleep."""


def start(manifest: Path, settings: Settings, config: Path | None) -> int:
    """Run a session on this process's console and return its exit code."""
    settings = _absolute(settings)
    manifest = manifest.expanduser().absolute()
    _spare_inputs(manifest, settings, config)
    interface = ConsoleInterface(settings)
    if config is not None:
        interface.notice(f"Settings from {config}.")
    if settings.results_table is not None and settings.results_db is None:
        text = "--results-table does nothing without --results-db: no results go to a database."
        interface.notice(text, warning=True)
    began_at = time.time()
    try:
        return int(execute(Request(manifest, settings), interface))
    except AudioBatchError as error:
        if not isinstance(error, LockedError):  # the run that holds the folder is told of
            failed_starts.keep(output_folder(settings), began_at, error.exit_code, str(error))
        raise
    except KeyboardInterrupt:  # before the run listens to signals, or after
        interface.notice("Interrupted. Run the same command again to go on.", warning=True)
        return ExitCode.INTERRUPTED


def _spare_inputs(manifest: Path, settings: Settings, config: Path | None) -> None:
    """See that the log is none of the files that a run reads or keeps.

    Raises:
        UsageError: it is one of them.
    """
    if settings.log_file is None:
        return
    folder = output_folder(settings)
    own = (folder.summary_path, folder.root / names.FILE_NAME)
    needed = (manifest, config, settings.speakers, settings.hf_token_file, *own)
    logs.check_log_file(
        settings.log_file,
        needed=[path for path in needed if path is not None],
        state=folder.state,
    )


def _absolute(settings: Settings) -> Settings:
    """Paths that mean the same from any folder, for `retry`."""
    found = {name: getattr(settings, name) for name in PATHS}
    update: dict[str, object] = {
        name: path.expanduser().absolute() for name, path in found.items() if path is not None
    }
    if settings.output_dir is not None:
        update["output_dir"] = absolute(settings.output_dir, Path())
    if settings.results_db is not None:
        update["results_db"] = urls.absolute(settings.results_db, Path())
    known = settings.model in (None, DEMO, *REPOSITORIES)
    if settings.model and not known and Path(settings.model).expanduser().is_dir():
        update["model"] = str(Path(settings.model).expanduser().absolute())
    for name in ("align_model", "diarize_model"):
        value = getattr(settings, name)
        # pyannote's own names are never folders (see `diarization_models`).
        if value in (None, DEMO) or value.startswith("pyannote/"):
            continue
        if Path(value).expanduser().is_dir():
            update[name] = str(Path(value).expanduser().absolute())
    return settings.model_copy(update=update)


class ConsoleInterface(Interface):
    """Draws on stderr: a live display on a terminal, dated lines elsewhere."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._console: Console = SteadyConsole(stderr=True)
        self._live: LiveReporter | None = None
        self._on_terminal = (
            self._console.is_terminal
            and settings.progress is not False
            and settings.log_format != "json"
        )
        level = logging.DEBUG if settings.verbose else logging.INFO
        if settings.quiet:
            level = logging.WARNING
        logs.configure(
            console_level=None if self._on_terminal else level,
            log_file=settings.log_file,
            log_format=settings.log_format or "plain",
        )

    def reporter(self, fleet: Fleet, survey: Survey) -> Reporter:
        """See `Interface.reporter`."""
        if not self._on_terminal:
            return LogReporter()
        survey.start()
        self._live = LiveReporter(
            self._console,
            fleet.balancer.loads,
            survey.total_s,
            quiet=bool(self._settings.quiet),
            verbose=bool(self._settings.verbose),
        )
        return self._live

    def notice(self, text: str, *, warning: bool = False) -> None:
        """See `Interface.notice`."""
        level = logging.WARNING if warning else logging.INFO
        logging.getLogger("audio_batch.run").log(level, "%s", text, extra={"worker": "Main"})
        if self._on_terminal and (warning or not self._settings.quiet):
            style = "yellow" if warning else None
            shown = for_terminal(redact(text))
            self._console.print(shown, style=style, markup=False, highlight=False)

    def asker(self) -> Asker | None:
        """See `Interface.asker`: only with a person at a terminal, and without --yes."""
        if self._settings.yes or not self._on_terminal or not sys.stdin.isatty():
            return None
        return Question(self._console, self._live)

    def step_aside(self) -> Callable[[], None]:
        """See `Interface.step_aside`."""
        live = self._live
        if live is None:
            return lambda: None
        live.pause()
        return live.resume

    def show(self, result: summary.Summary) -> None:
        """See `Interface.show`."""
        fields = {"event": "RunFinished", **result.to_json()}
        logging.getLogger("audio_batch.run").info(
            "%s", summary.line(result), extra={"worker": "Main", "fields": fields}
        )
        table = self._settings.log_format != "json"
        if table and (not self._settings.quiet or result.exit_code):
            summary.show(result, self._console)


class Question:
    """Asks on the terminal without waiting there: one thread reads whatever is typed.

    A thread that waits for a line cannot be ended, on any system; so there is one for the whole
    run, a daemon that holds nobody up, and what is typed without a question is thrown away. A
    terminal that is gone, or that belongs to another job, is not asked.
    """

    def __init__(self, console: Console, live: LiveReporter | None) -> None:
        self._console = console
        self._live = live
        self._silent = False
        self._answer: Callable[[bool], None] | None = None
        self._thread = threading.Thread(target=self._read, daemon=True, name="question")

    def ask(self, answer: Callable[[bool], None]) -> float | None:
        """See `Asker.ask`."""
        if self._silent or not _in_foreground():
            return None
        try:
            if self._live is not None:
                self._live.pause()
            self._console.print(
                "Go on with the others? \\[Y]es, \\[a]lways, \\[n]o"
                f" (yes in {ANSWER_WITHIN_S:.0f} s; --yes never asks): ",
                end="",
                highlight=False,
            )
        except (OSError, ValueError):
            self._silent = True
            return None
        self._answer = answer
        if self._thread.ident is None:
            self._thread.start()
        return ANSWER_WITHIN_S

    def close(self) -> None:
        """See `Asker.close`."""
        self._answer = None
        with contextlib.suppress(OSError, ValueError):
            if self._live is not None:
                self._live.resume()

    def _read(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            for line in sys.stdin:
                said = line.strip().lower()
                self._silent = self._silent or said.startswith("a")
                self._say(not said.startswith("n"))
        self._silent = True  # the end of the input is nobody's voice any more
        self._say(go_on=True)

    def _say(self, go_on: bool) -> None:
        answer, self._answer = self._answer, None
        if answer is not None:
            answer(go_on)


def _in_foreground() -> bool:
    """Whether a read from the terminal is ours; a background job that tries is stopped for it."""
    if sys.platform == "win32":
        return True
    try:
        return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except (OSError, ValueError):
        return False
