"""The formats in which outputs were ever written, so that a text of ours is known as ours."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable

from audio_batch.journal_file import JournalFile

_EXPORTED = "exported_formats"


class Formats:
    """What runs were asked for, and what was exported; of one journal. Not thread-safe.

    Raises (every method):
        SetupError: the file is damaged, or cannot be written.
    """

    def __init__(self, file: JournalFile) -> None:
        self._file = file

    def written(self) -> set[str]:
        """All of them, by name; the formats that assets have asked for themselves are not known."""
        from audio_batch.assembly import DEFAULT_FORMATS
        from audio_batch.errors import UsageError
        from audio_batch.formats import parse_formats

        asked = "SELECT DISTINCT json_extract(request, '$.settings.output_format') FROM runs"
        found = self._exported()
        with self._file.translated():
            for (text,) in self._file.db.execute(asked):
                names = json.loads(text) if text else DEFAULT_FORMATS
                with contextlib.suppress(UsageError):  # a format of another version
                    found.update(parse_formats(names))
        return found

    def note_export(self, formats: Iterable[str]) -> None:
        """Commit that outputs were written in these by other means than a run."""
        text = " ".join(sorted(self._exported().union(formats)))
        with self._file.transaction():
            self._file.db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (_EXPORTED, text))

    def _exported(self) -> set[str]:
        with self._file.translated():
            rows = self._file.db.execute("SELECT value FROM meta WHERE key = ?", (_EXPORTED,))
            return {name for (text,) in rows for name in text.split()}
