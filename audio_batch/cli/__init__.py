"""The command line: one file a command, flags → settings, nothing else. No heavy import here."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from audio_batch import turns
from audio_batch.errors import AudioBatchError, ExitCode, ManifestError
from audio_batch.text import for_terminal, redact

SHOWN_PROBLEMS = 50

_GONE = "The current folder no longer exists; change to another."


class _Output:
    """stdout, which remembers why it could not be written: no error says of itself whose it is."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.failure: OSError | None = None

    def write(self, text: str) -> int:
        """See `TextIO.write`."""
        with self._remembering():
            return self._stream.write(text)

    def flush(self) -> None:
        """See `TextIO.flush`."""
        with self._remembering():
            self._stream.flush()

    @contextlib.contextmanager
    def _remembering(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.failure = error
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def run_app(arguments: Sequence[str]) -> int:
    """Run a command line and return its exit code. Every error becomes a sentence on stderr."""
    from audio_batch.logs import utf8_streams

    _open_closed_streams()
    utf8_streams()
    output = _Output(sys.stdout)
    with contextlib.redirect_stdout(output):
        code = _run_app(arguments, output)
        with contextlib.suppress(OSError):
            output.flush()
    if output.failure is None:
        return code
    _give_up_output()
    if _is_closed_pipe(output.failure):  # `status | head` has seen enough
        return code
    _say(f"The output cannot be written: {output.failure.strerror or output.failure}.")
    return code or ExitCode.ENVIRONMENT


def _is_closed_pipe(error: OSError) -> bool:
    """Whether nobody reads any more; on Windows that is EINVAL."""
    on_windows = os.name == "nt" and error.errno == errno.EINVAL
    return isinstance(error, BrokenPipeError) or on_windows


def _run_app(arguments: Sequence[str], output: _Output) -> int:
    try:
        turns.take(arguments)
        from audio_batch.cli.tree import command_line  # late: who comes second needs none of it

        answer = command_line(arguments)(list(arguments), standalone_mode=False)
    except AudioBatchError as error:
        _explain(error)
        if _folder_is_gone():
            _say(_GONE)
        return error.exit_code
    except KeyboardInterrupt:
        _say("Interrupted. Run the same command again to go on.")
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        return ExitCode.OK
    except FileNotFoundError as error:
        if not _folder_is_gone():
            return _unexpected(error)
        _say(_GONE)
        return ExitCode.ENVIRONMENT
    except Exception as error:
        if error is output.failure:
            return ExitCode.OK  # `run_app` sees to it
        return _unexpected(error)
    finally:
        turns.end()
    return answer if isinstance(answer, int) else ExitCode.OK


def _open_closed_streams() -> None:
    """Give stdin, stdout and stderr a place where one is closed (`>&-`, a service of Windows).

    Their numbers are taken as well: the next file opened would get one of them, and with it what
    a native library prints.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = Path(os.devnull).open(mode, encoding="utf-8")  # noqa: SIM115
            setattr(sys, name, stream)


def _folder_is_gone() -> bool:
    try:
        os.getcwd()  # noqa: PTH109
    except FileNotFoundError:
        return True
    return False


def _give_up_output() -> None:
    """Keep the interpreter from failing at its end over output that nobody takes any more."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _unexpected(error: Exception) -> int:
    # Click's own errors (a bad flag) know how to show themselves and what code they mean.
    show, code = getattr(error, "show", None), getattr(error, "exit_code", None)
    if callable(show) and isinstance(code, int):
        show()
        return code
    logging.getLogger("audio_batch").debug("internal error", exc_info=error)
    _say(
        f"Internal error: {type(error).__name__}: {error}. Please report it; "
        "with --log-file the log holds the traceback."
    )
    return ExitCode.INTERNAL


def _explain(error: AudioBatchError) -> None:
    """Say an error on stderr, and in the log file where there is one."""
    problems = error.problems if isinstance(error, ManifestError) else ()
    lines = [str(error), *(f"  {problem}" for problem in problems[:SHOWN_PROBLEMS])]
    if len(problems) > SHOWN_PROBLEMS:
        lines.append(f"  and {len(problems) - SHOWN_PROBLEMS} more")
    from audio_batch.logs import record_error

    for line in lines:
        if not record_error(redact(line)):
            _say(line)


def _say(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        print(for_terminal(redact(text)), file=sys.stderr)
