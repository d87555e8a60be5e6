"""What writing an entry comes to: files and programs, to be shown before they are written and run.

Programs get lists of arguments; no shell takes part.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from audio_batch.errors import SetupError
from audio_batch.scheduling.entry import Entry
from audio_batch.text import for_terminal

_WITHIN_S = 60


@dataclass(frozen=True, slots=True)
class WriteFile:
    """Write a file, and its folder where there is none."""

    path: Path
    data: bytes

    def shown(self) -> str:
        """For a person, before it is done."""
        return f"file {self.path}:\n{_indented(self.data.decode('utf-8', 'replace'))}"

    def perform(self) -> None:
        """Do it.

        Raises:
            SetupError: it cannot be written.
        """
        from audio_batch.storage import write_atomic

        write_atomic(self.path, self.data)


@dataclass(frozen=True, slots=True)
class RemoveFile:
    """Remove a file, if it is there."""

    path: Path

    def shown(self) -> str:
        """For a person, before it is done."""
        return f"remove file {self.path}"

    def perform(self) -> None:
        """Do it.

        Raises:
            SetupError: it cannot be removed.
        """
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            raise SetupError(
                f"{self.path} cannot be removed: {error.strerror or error}.",
                remedy="Remove it by hand.",
            ) from error


@dataclass(frozen=True, slots=True)
class Run:
    """Run a program. `told` says what it is given, where its arguments do not."""

    arguments: tuple[str, ...]
    given: bytes | None = None
    told: str = ""

    def shown(self) -> str:
        """For a person, before it is done."""
        text = f"run {subprocess.list2cmdline(self.arguments)}"
        return f"{text}, with this change:\n{_indented(self.told)}" if self.told else text

    def perform(self) -> None:
        """Do it.

        Raises:
            SetupError: there is no such program, or it fails.
        """
        done = call(self.arguments, given=self.given)
        if done.code != 0:
            said = for_terminal((done.err or done.out).strip()).rstrip(".") or "it says nothing"
            raise SetupError(
                f"{subprocess.list2cmdline(self.arguments)} failed with exit code {done.code}: "
                f"{said}.",
                remedy="Nothing after it was done; mend it and give the same command again.",
            )


Step = WriteFile | RemoveFile | Run


class Scheduler(Protocol):
    """A system's way to run something every night. Writes nothing itself: it says what to do."""

    name: str

    def available(self) -> bool:
        """Whether it is there and answers."""
        ...

    def install(self, entry: Entry) -> list[Step]:
        """What makes the entry as it should be, whatever was there; nothing where it is so."""
        ...

    def remove(self, name: str) -> list[Step]:
        """What takes an entry away; nothing where there is none."""
        ...

    def listed(self) -> dict[str, str]:
        """The entries by name, each as text for a person."""
        ...


@dataclass(frozen=True, slots=True)
class Called:
    """What a program said; bytes that are no UTF-8 come back as they were (`surrogateescape`)."""

    code: int
    out: str
    err: str


def call(arguments: Sequence[str], *, given: bytes | None = None) -> Called:
    """Run a program to its end, in the plain language of the system's messages.

    Raises:
        SetupError: there is no such program, or it does not come to an end.
    """
    try:
        done = subprocess.run(
            [*arguments],
            input=given,
            stdin=subprocess.DEVNULL if given is None else None,
            capture_output=True,
            env={**os.environ, "LC_ALL": "C"},
            timeout=_WITHIN_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise SetupError(f"{arguments[0]} has not ended after {_WITHIN_S} s.") from error
    except OSError as error:
        raise SetupError(
            f"{arguments[0]} cannot be run: {error.strerror or error}.",
            remedy="Choose another with --scheduler.",
        ) from error
    out, err = (stream.decode("utf-8", "surrogateescape") for stream in (done.stdout, done.stderr))
    return Called(done.returncode, out, err)


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())
