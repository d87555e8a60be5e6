"""The formats in which outputs were ever written, so that a text of ours is known as ours."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from audio_batch.journal_file import JournalFile

_EXPORTED = "exported_formats"
_REFUSED = "refused_exports"


@dataclass(frozen=True, slots=True)
class Written:
    """What may ever have been written.

    Attributes:
        formats: by name; those that assets have asked for themselves are not known.
        refused: files that an export has met, and left to others.
    """

    formats: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)

    def may_be(self, format_name: str, path: str) -> bool:
        """Whether a file of a format may be of a run or an export."""
        return format_name in self.formats and path not in self.refused


class Formats:
    """What runs were asked for, and what was exported; of one journal. Not thread-safe.

    Raises (every method):
        SetupError: the file is damaged, or cannot be written.
    """

    def __init__(self, file: JournalFile) -> None:
        self._file = file

    def written(self) -> Written:
        """All of it."""
        from audio_batch.assembly import DEFAULT_FORMATS
        from audio_batch.errors import UsageError
        from audio_batch.formats import parse_formats

        asked = "SELECT DISTINCT json_extract(request, '$.settings.output_format') FROM runs"
        found = self._listed(_EXPORTED)
        with self._file.translated():
            for (text,) in self._file.db.execute(asked):
                names = json.loads(text) if text else DEFAULT_FORMATS
                with contextlib.suppress(UsageError):  # a format of another version
                    found.update(parse_formats(names))
        return Written(found, self._listed(_REFUSED))

    def note_export(
        self,
        formats: Iterable[str],
        paths: Iterable[str],
        refused: Iterable[str],
        *,
        instead_of: Collection[str] = (),
    ) -> None:
        """Commit that outputs are, or were, written by other means than a run.

        Args:
            formats: in which.
            instead_of: those that were noted before the first was written.
            paths: what was written.
            refused: what was not, for its name was another's.
        """
        lists = {
            _EXPORTED: self._listed(_EXPORTED).difference(instead_of).union(formats),
            _REFUSED: self._listed(_REFUSED).difference(paths).union(refused),
        }
        values = [(key, "\n".join(sorted(names))) for key, names in lists.items() if names]
        with self._file.transaction():
            self._file.db.executemany("DELETE FROM meta WHERE key = ?", [(key,) for key in lists])
            self._file.db.executemany("INSERT INTO meta VALUES (?, ?)", values)

    def _listed(self, key: str) -> set[str]:
        with self._file.translated():
            rows = self._file.db.execute("SELECT value FROM meta WHERE key = ?", (key,))
            # Formats stood between spaces once; a path may have some.
            between = None if key == _EXPORTED else "\n"
            return {name for (text,) in rows for name in text.split(between)}
