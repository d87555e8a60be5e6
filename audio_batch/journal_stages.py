"""The journal's tables of kept results: what each stage of an asset came to, the newest only, and
what was heard of its parts before."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from audio_batch.journal_rows import stage_of
from audio_batch.outcome import Stage, StageRecord
from audio_batch.storage import PublishedFile

SINCE_VERSION = 2
PARTS_SINCE_VERSION = 4
"""Of the schema; an older journal has no such tables."""


def keep(db: sqlite3.Connection, record: StageRecord) -> None:
    """Write that a stage, or a part of one, is done; within the caller's transaction."""
    if record.part:
        _keep_part(db, record)
        return
    if record.stage is Stage.TRANSCRIBE:
        # These are the words of all parts.
        db.execute("DELETE FROM parts WHERE asset_id = ?", (record.asset_id,))
        # An alignment of what was heard earlier is of no use to these words.
        db.execute(
            "UPDATE stages SET fingerprint = '' WHERE asset_id = :asset AND stage = :align"
            # Not the same record once more, whatever clocks said then and say now.
            " AND NOT EXISTS (SELECT 1 FROM stages WHERE asset_id = :asset"
            " AND stage = :transcribe AND finished_at = :finished)",
            {
                "asset": record.asset_id,
                "align": Stage.ALIGN.value,
                "transcribe": Stage.TRANSCRIBE.value,
                "finished": record.finished_at,
            },
        )
    # The same record may come twice: when the stage ends, and with the asset's outcome.
    db.execute(
        "INSERT INTO stages VALUES (:asset, :stage, :source, :fingerprint, :path, :size,"
        " :sha256, :device, :seconds, :finished, 1)"
        " ON CONFLICT (asset_id, stage) DO UPDATE SET"
        " times = times + (finished_at <> :finished), source = :source,"
        " fingerprint = :fingerprint, path = :path, size_bytes = :size, sha256 = :sha256,"
        " device = :device, seconds = :seconds, finished_at = :finished",
        {
            "asset": record.asset_id,
            "stage": record.stage.value,
            "source": record.source,
            "fingerprint": record.fingerprint,
            "path": record.file.path,
            "size": record.file.size_bytes,
            "sha256": record.file.sha256,
            "device": record.device,
            "seconds": record.seconds,
            "finished": record.finished_at,
        },
    )


def _keep_part(db: sqlite3.Connection, record: StageRecord) -> None:
    db.execute(
        "INSERT OR REPLACE INTO parts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            record.asset_id,
            record.part,
            record.source,
            record.fingerprint,
            record.file.path,
            record.file.size_bytes,
            record.file.sha256,
            record.device,
            record.seconds,
            record.finished_at,
        ),
    )


def parts(db: sqlite3.Connection) -> dict[str, list[StageRecord]]:
    """The words of parts that are there, by asset."""
    found: dict[str, list[StageRecord]] = {}
    for row in db.execute("SELECT * FROM parts"):
        record = StageRecord(
            asset_id=row["asset_id"],
            stage=Stage.TRANSCRIBE,
            source=row["source"],
            fingerprint=row["fingerprint"],
            file=PublishedFile(
                Stage.TRANSCRIBE.value, row["path"], row["size_bytes"], row["sha256"]
            ),
            device=row["device"],
            seconds=row["seconds"],
            finished_at=row["finished_at"],
            part=row["part"],
        )
        found.setdefault(record.asset_id, []).append(record)
    return found


def take_back(db: sqlite3.Connection, damaged: Iterable[tuple[str, Stage]]) -> None:
    """Write that nothing is to be taken from these results any more."""
    db.executemany(
        "UPDATE stages SET source = '', fingerprint = '' WHERE asset_id = ? AND stage = ?",
        [(asset_id, stage.value) for asset_id, stage in damaged],
    )


def kept(db: sqlite3.Connection) -> dict[str, dict[Stage, StageRecord]]:
    """The newest result of every stage, by asset and stage."""
    found: dict[str, dict[Stage, StageRecord]] = {}
    for row in db.execute("SELECT * FROM stages"):
        record = stage_of(row)
        found.setdefault(record.asset_id, {})[record.stage] = record
    return found


def counts(db: sqlite3.Connection) -> dict[str, int]:
    """How often each stage was ever done, over all assets and runs."""
    rows = db.execute("SELECT stage, sum(times) AS n FROM stages GROUP BY stage")
    return {row["stage"]: int(row["n"]) for row in rows}
