"""Taking over what the outputs tell and the journal does not: it was lost, or another run's.

A journal is local to one machine and one run. When it is lost, or another shard, machine or run has
done the work, the canonical JSON in the output folder says all that a row needs (`seal`). A row is
made from one that is whole, is the asset's, and was made of the same recording with the same
options. What stands beside it is judged as for any other row: the plan looks whether it is there.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath
from typing import Any

from audio_batch.errors import AssetError, SetupError
from audio_batch.formats import FORMATS
from audio_batch.journal import Journal, JournalEntry
from audio_batch.outcome import State
from audio_batch.outputs import Outputs
from audio_batch.plan import Planned
from audio_batch.seal import Sealed, opened
from audio_batch.storage import PublishedFile


class Recovery:
    """Makes rows from published JSON; in the thread that holds the journal.

    Args:
        begin: begins, and ends, the run that the rows are of; called once, at the first of them.
        read: is given the output name and the bytes of each JSON that is not taken over.

    Attributes:
        count: how many rows were made.
        formats: what was published with their JSON.
    """

    def __init__(
        self,
        outputs: Outputs,
        journal: Journal,
        begin: Callable[[], int],
        read: Callable[[str, bytes], None] | None = None,
    ) -> None:
        self._outputs = outputs
        self._read = read
        self._journal = journal
        self._begin = begin
        self._run_id: int | None = None
        self._worthwhile: bool | None = None
        self.count = 0
        self.formats: set[str] = set()

    def take_over(self, planned: Sequence[Planned]) -> int:
        """Make rows for those of these assets whose transcripts are there; say for how many.

        Args:
            planned: assets of which the journal has no row.

        Raises:
            SetupError: the store does not answer: to go on would do all of it again.
        """
        candidates = [item for item in planned if self.is_published(item.output_name)]
        found = [entry for entry in self._entries(candidates) if entry is not None]
        if not found:
            return 0
        with self._journal.grouped():
            if self._run_id is None:
                self._run_id = self._begin()
            self._journal.adopt(found, self._run_id)
        self.count += len(found)
        self.formats.update(file.format for entry in found for file in entry.outputs)
        return len(found)

    def is_published(self, output_name: str) -> bool:
        """Whether there may be a transcript of this name.

        Raises:
            SetupError: the store does not answer.
        """
        if self._worthwhile is None:
            self._worthwhile = not self._outputs.is_empty()
        return self._worthwhile and bool(self._outputs.size_bytes(_canonical(output_name)))

    def _entries(self, candidates: Sequence[Planned]) -> Iterator[JournalEntry | None]:
        if self._outputs.at_once == 1:
            yield from map(self._entry, candidates)
            return
        with ThreadPoolExecutor(self._outputs.at_once, "Recovery") as threads:
            yield from threads.map(self._entry, candidates)

    def _entry(self, item: Planned) -> JournalEntry | None:
        path = _canonical(item.output_name)
        try:
            data = self._outputs.read(PurePosixPath(path))
        except OSError:
            return None
        except AssetError as error:
            raise SetupError(error.message, remedy=error.remedy) from error
        sealed = opened(data)
        if sealed is None or not _is_of(sealed, item):
            if self._read is not None:
                self._read(item.output_name, data)
            return None
        canonical = PublishedFile("json", path, len(data), hashlib.sha256(data).hexdigest())
        return _row(item, sealed, (*sealed.outputs, canonical))


def _canonical(output_name: str) -> str:
    return f"{output_name}{FORMATS['json'].suffix}"


def _is_of(sealed: Sealed, item: Planned) -> bool:
    """Whether it is what the plan would have made, in whatever formats."""
    transcript = sealed.transcript
    return (
        transcript.asset_id == item.asset.id
        and not transcript.missing
        and sealed.source == item.source
        and sealed.fingerprint == item.fingerprint
        and all(
            output.format != "json"
            and output.format in FORMATS
            and output.path == f"{item.output_name}{FORMATS[output.format].suffix}"
            for output in sealed.outputs
        )
    )


def _row(item: Planned, sealed: Sealed, outputs: tuple[PublishedFile, ...]) -> JournalEntry:
    transcript, about = sealed.transcript, sealed.transcript.provenance
    return JournalEntry(
        asset_id=item.asset.id,
        name=item.asset.name,
        state=State.DONE,
        source=sealed.source,
        fingerprint=sealed.fingerprint,
        rendering=sealed.rendering,
        attempts=1,
        deaths=0,
        device=about.get("device") if isinstance(about.get("device"), str) else None,
        error_kind=None,
        error_text=None,
        started_at=None,
        finished_at=time.time(),
        duration_s=_number(transcript.duration_s),
        speech_s=_number(about.get("speech_s")),
        language=transcript.language if isinstance(transcript.language, str) else None,
        notes=_texts(transcript.media.get("notes")),
        outputs=outputs,
        timings_s={
            str(stage): float(seconds)
            for stage, seconds in dict(about.get("timings_s") or {}).items()
            if _number(seconds) is not None
        },
        missing=(),
        suspicions=_texts(transcript.suspicions),
        redone=int(about.get("redone") is True),
        run_id=0,
    )


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _texts(values: Any) -> tuple[str, ...]:
    listed = values if isinstance(values, list | tuple) else ()
    return tuple(value for value in listed if isinstance(value, str))
