"""A start that fails leaves no folder, lock or journal behind that was not there before it."""

from __future__ import annotations

import os
from contextlib import ExitStack, suppress
from pathlib import Path

from audio_batch.errors import SetupError
from audio_batch.folder_lock import LOCK, is_free
from audio_batch.journal import Journal
from audio_batch.output_folder import OWNER, OutputFolder
from audio_batch.shards import FOLDER as SHARDS
from audio_batch.storage import STATE_FOLDER


class Traces:
    """What the start of a run in a folder that has no state makes there. One thread.

    `clear` is to be called with the folder's lock held, so that nothing is taken from another run,
    and `leave` after that, in the order of an `ExitStack`. Both do nothing where no error goes by,
    or once a run is journalled.
    """

    def __init__(self, folder: OutputFolder) -> None:
        self._folder = folder
        within = folder.root / STATE_FOLDER  # of it, too, a run with a --state-dir has the lock
        self._wholes = {folder.whole, within}
        self._part = f"{SHARDS}/{folder.shard.tag}" if folder.shard else ""
        places = {folder.root, *self._wholes, *(one / self._part for one in self._wholes)}
        above = {place for one in places for place in (one, *one.parents)}
        missing = (place for place in above if not os.path.lexists(place))
        self._made = sorted(missing, key=lambda place: len(place.parts), reverse=True)

    def clear(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        """Remove the files."""
        path = self._folder.journal_path
        if error is None or self._folder.state not in self._made or _has_run(path):
            return
        self._remove(path, path.with_name(f"{path.name}-journal"))
        for whole in self._wholes:
            self._remove_shared(whole)
            if self._part:
                self._remove(whole / self._part / LOCK)

    def leave(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        """Remove the folders, as far as nothing is in them."""
        if error is None:
            return
        for place in self._made:
            with suppress(OSError):
                place.rmdir()

    def _remove_shared(self, whole: Path) -> None:
        """Remove what all parts have in common, where no other is there and nobody holds it.

        The lock goes while it is held: who has opened it meanwhile sees that, and takes another.
        """
        if whole not in self._made:
            return
        with ExitStack() as held:
            if self._part and not is_free(held, whole):
                return
            parts = (f"{SHARDS}/{one.name}" for one in _inside(whole / SHARDS))
            journal = whole / self._folder.journal_path.name
            if all(part == self._part for part in parts) and not journal.exists():
                self._remove(whole / OWNER, whole / LOCK)

    def _remove(self, *paths: Path) -> None:
        """Remove files of folders that this start has made. On Windows a lock, which is open, stays
        until it is given back: there it goes by itself then.
        """
        for path in paths:
            if path.parent in self._made:
                with suppress(OSError):
                    path.unlink()


def _inside(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except FileNotFoundError:
        return []


def _has_run(path: Path) -> bool:
    """Whether a journal knows of a run; also where that cannot be told."""
    if not path.is_file():
        return False
    try:
        journal = Journal(path, read_only=True)
    except SetupError:
        return True
    try:
        return journal.last_run() is not None
    except SetupError:
        return True
    finally:
        journal.close()
