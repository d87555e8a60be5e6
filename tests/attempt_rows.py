"""How many attempts a journal has ever seen."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path


def count_attempts(journal: Path) -> int:
    """The rows of its attempts. It is opened for writing, to roll back what a kill left in it."""
    with closing(sqlite3.connect(f"{journal.absolute().as_uri()}?mode=rw", uri=True)) as db:
        return int(db.execute("SELECT count(*) FROM attempts").fetchone()[0])
