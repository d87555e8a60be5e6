"""A start that fails leaves no folder, lock or journal behind that was not there before it."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from audio_batch.errors import SetupError
from audio_batch.folder_lock import LOCK
from audio_batch.journal import Journal
from audio_batch.output_folder import OWNER, OutputFolder
from audio_batch.storage import STATE_FOLDER


class Traces:
    """What the start of a run in a folder that has no state makes there. One thread.

    `clear` is to be called with the folder's lock held, so that nothing is taken from another run,
    and `leave` after that, in the order of an `ExitStack`. Both do nothing where no error goes by,
    or once a run is journalled.
    """

    def __init__(self, folder: OutputFolder) -> None:
        self._folder = folder
        places = {folder.root, folder.whole, folder.state, folder.root / STATE_FOLDER}
        above = {place for one in places for place in (one, *one.parents)}
        missing = (place for place in above if not os.path.lexists(place))
        self._made = sorted(missing, key=lambda place: len(place.parts), reverse=True)
        self._is_ours = False

    def clear(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        """Remove the files."""
        path = self._folder.journal_path
        if error is None or self._folder.state not in self._made or _has_run(path):
            return
        self._is_ours = True
        self._remove(path, path.with_name(f"{path.name}-journal"), self._folder.whole / OWNER)
        if os.name != "nt":  # there nothing that is open can be removed
            self._remove_locks()

    def leave(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        """Remove the folders, as far as nothing is in them."""
        if error is None:
            return
        if os.name == "nt" and self._is_ours:
            self._remove_locks()
        for place in self._made:
            with suppress(OSError):
                place.rmdir()

    def _remove_locks(self) -> None:
        folder = self._folder
        self._remove(folder.state / LOCK, folder.whole / LOCK, folder.root / STATE_FOLDER / LOCK)

    def _remove(self, *paths: Path) -> None:
        """Remove files of folders that this start has made."""
        for path in paths:
            if path.parent in self._made:
                with suppress(OSError):
                    path.unlink()


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
