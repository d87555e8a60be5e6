"""The runs that had nothing to do, in the journal: there may be one every minute."""

from __future__ import annotations

import json
import sqlite3
import time
from typing import Any


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
