"""The journal's rows as records, and back.

A folder of 100,000 assets is read whole when a run begins: values that most rows share are shared.
"""

from __future__ import annotations

import dataclasses
import json
import sqlite3
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from audio_batch.errors import ErrorKind
from audio_batch.outcome import Stage, StageRecord, State
from audio_batch.storage import PublishedFile


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """One asset's row.

    `suspicions` say why its words may not be all that was said, `redone` how often it was done
    again because of them: what stands came of the last time. `outputs` without a JSON are what an
    attempt left that failed, or what was sound of what is to be made again.
    """

    asset_id: str
    name: str
    state: State
    source: str
    fingerprint: str
    rendering: str
    attempts: int
    deaths: int
    device: str | None
    error_kind: ErrorKind | None
    error_text: str | None
    started_at: float | None
    finished_at: float | None
    duration_s: float | None
    speech_s: float | None
    language: str | None
    notes: tuple[str, ...]
    outputs: tuple[PublishedFile, ...]
    timings_s: dict[str, float]
    missing: tuple[str, ...]
    suspicions: tuple[str, ...]
    redone: int
    run_id: int

    @property
    def published(self) -> tuple[PublishedFile, ...]:
        """Its outputs, where there is a JSON that vouches for them."""
        return self.outputs if any(file.format == "json" for file in self.outputs) else ()


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run's row; `exit_code` is None for a run that is at work or was killed.

    `request` also says how many assets were `selected`, and how many of them were to do (`todo`),
    where the run came to know.
    """

    run_id: int
    started_at: float
    finished_at: float | None
    exit_code: int | None
    version: str
    request: dict[str, Any]

    @property
    def selected(self) -> int | None:
        """How many assets the run was of."""
        return self.request.get("selected")

    @property
    def todo(self) -> int | None:
        """How many of them were to be done when it began."""
        return self.request.get("todo")


def storable(text: str | None) -> str | None:
    """SQLite holds UTF-8: what a file name has beyond it (lone surrogates) is shown escaped."""
    if text is None or text.isascii():
        return text
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def outputs_json(outputs: Iterable[PublishedFile]) -> str:
    """Published files as the column `outputs` holds them."""
    return json.dumps(
        [
            {
                "format": output.format,
                "path": output.path,
                "size_bytes": output.size_bytes,
                "sha256": output.sha256,
            }
            for output in outputs
        ]
    )


def with_left(column: str, left: Iterable[PublishedFile]) -> str:
    """The column `outputs`, with what an attempt that failed has written by now."""
    files = {file.path: file for file in (*_outputs(column), *left)}
    return outputs_json(files.values())


_SINCE = {"missing": (2, "'[]'"), "suspicions": (3, "'[]'"), "redone": (3, "0")}
"""Columns that came later: with which schema, and what stands for them in an older journal."""


def entry_columns(version: int) -> str:
    """What to select for `entry_of` from a journal of this schema: a reader leaves it as it is."""
    names = (field.name for field in dataclasses.fields(JournalEntry))
    return ", ".join(
        f"{_SINCE[name][1]} AS {name}" if version < _SINCE.get(name, (0, ""))[0] else name
        for name in names
    )


_COLUMNS = [field.name for field in dataclasses.fields(JournalEntry)]

INSERT_ENTRY = (
    f"INSERT OR IGNORE INTO assets ({', '.join(_COLUMNS)})"
    f" VALUES ({', '.join(f':{name}' for name in _COLUMNS)})"
)
"""Takes the `values_of` an entry; an asset that has a row keeps it."""


def values_of(entry: JournalEntry) -> dict[str, Any]:
    """An entry as its row holds it, by column: what `entry_of` reads."""
    values = {name: getattr(entry, name) for name in _COLUMNS}
    lists = {name: json.dumps(list(values[name])) for name in ("notes", "missing", "suspicions")}
    return {
        **values,
        **lists,
        "name": storable(entry.name),
        "state": entry.state.value,
        "error_kind": None if entry.error_kind is None else entry.error_kind.value,
        "error_text": storable(entry.error_text),
        "timings_s": json.dumps(entry.timings_s),
        "outputs": outputs_json(entry.outputs),
    }


def entry_of(row: sqlite3.Row) -> JournalEntry:
    """A row of `entry_columns`.

    Raises:
        ValueError, TypeError, KeyError: it is not ours.
    """
    timings = row["timings_s"]
    error_kind, device, language = row["error_kind"], row["device"], row["language"]
    return JournalEntry(
        asset_id=row["asset_id"],
        name=row["name"],
        state=State(row["state"]),
        source=row["source"],
        fingerprint=sys.intern(row["fingerprint"]),
        rendering=row["rendering"],
        attempts=row["attempts"],
        deaths=row["deaths"],
        device=device and sys.intern(device),
        error_kind=ErrorKind(error_kind) if error_kind else None,
        error_text=row["error_text"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        duration_s=row["duration_s"],
        speech_s=row["speech_s"],
        language=language and sys.intern(language),
        notes=_texts(row["notes"]),
        outputs=_outputs(row["outputs"]),
        timings_s={} if timings == "{}" else _timings(timings),
        missing=_texts(row["missing"]),
        suspicions=_texts(row["suspicions"]),
        redone=row["redone"],
        run_id=row["run_id"],
    )


def _texts(column: str) -> tuple[str, ...]:
    return () if column == "[]" else tuple(json.loads(column))


def _outputs(column: str) -> tuple[PublishedFile, ...]:
    if column == "[]":
        return ()
    return tuple(
        PublishedFile(
            sys.intern(output["format"]), output["path"], output["size_bytes"], output["sha256"]
        )
        for output in json.loads(column)
    )


def _timings(column: str) -> dict[str, float]:
    return {sys.intern(stage): seconds for stage, seconds in dict(json.loads(column)).items()}


def run_of(row: sqlite3.Row) -> RunRecord:
    """A row of `runs`."""
    return RunRecord(**{**dict(row), "request": json.loads(row["request"])})


def stage_of(row: sqlite3.Row) -> StageRecord:
    """A row of `stages`."""
    stage = Stage(row["stage"])
    return StageRecord(
        asset_id=row["asset_id"],
        stage=stage,
        source=row["source"],
        fingerprint=sys.intern(row["fingerprint"]),
        file=PublishedFile(stage.value, row["path"], row["size_bytes"], row["sha256"]),
        device=sys.intern(row["device"]),
        seconds=row["seconds"],
        finished_at=row["finished_at"],
    )
