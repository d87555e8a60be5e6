"""The last runs in the journal, and those that had nothing to do: of these one every minute."""

from __future__ import annotations

import json
import sqlite3
import time
from typing import Any

from audio_batch import journal_rows
from audio_batch.journal_rows import RunRecord


def last(db: sqlite3.Connection, *, idle: bool) -> RunRecord | None:
    """See `Journal.last_run`."""
    newest = "ORDER BY run_id DESC LIMIT 1"
    row = None
    if not idle:
        # Of a run of an earlier version nobody knows how much it had to do: it counts.
        busy = "json_extract(request, '$.todo') IS NOT 0"
        row = db.execute(f"SELECT * FROM runs WHERE {busy} {newest}").fetchone()
    row = row or db.execute(f"SELECT * FROM runs {newest}").fetchone()
    return journal_rows.run_of(row) if row else None


def record_idle(
    db: sqlite3.Connection,
    version: str,
    request: dict[str, Any],
    started_at: float,
    exit_code: int,
) -> None:
    """Write down a run that has ended; of such runs of one request on end the last one stands.

    Within the caller's transaction.

    Args:
        started_at: seconds since the epoch.
    """
    text = json.dumps(request, ensure_ascii=True)
    now = time.time()
    alike = db.execute(
        "UPDATE runs SET started_at = ?, finished_at = ?, exit_code = ? WHERE request = ?"
        " AND version = ? AND exit_code IS NOT NULL AND run_id = (SELECT max(run_id) FROM runs)",
        (started_at, now, exit_code, text, version),
    )
    if not alike.rowcount:
        db.execute(
            "INSERT INTO runs (started_at, finished_at, exit_code, version, request)"
            " VALUES (?, ?, ?, ?, ?)",
            (started_at, now, exit_code, version, text),
        )
