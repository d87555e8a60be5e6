"""What is free for the cache, on its disk and among what it holds."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

SPARE_BYTES = 256_000_000
"""What is left free on the disk, for others and for the index; on a small disk a twentieth."""

PART = ".part"
"""What the name of a file that grows ends in, and no key does."""


def spare_bytes(folder: Path) -> int:
    """What of the disk is not for the cache."""
    twentieth: int = shutil.disk_usage(folder).total // 20
    return min(SPARE_BYTES, twentieth)


def lacking_bytes(index: sqlite3.Connection, folder: Path, key: str, size_bytes: int) -> int:
    """What the disk lacks for a file of this size, beside what others have reserved on it."""
    try:
        free = shutil.disk_usage(folder).free - spare_bytes(folder)
    except OSError:
        return 0
    others = index.execute(
        "SELECT key, size_bytes FROM entry WHERE owner IS NOT NULL AND key <> ?", (key,)
    ).fetchall()
    coming: int = sum(max(0, size - size_of(folder / f"{other}{PART}")) for other, size in others)
    return size_bytes - size_of(folder / f"{key}{PART}") + coming - int(free)


def is_held(index: sqlite3.Connection, but: str) -> bool:
    """Whether anybody uses or fetches something whose room will be free one day."""
    found = index.execute(
        "SELECT EXISTS (SELECT 1 FROM pin) OR EXISTS (SELECT 1 FROM entry "
        "WHERE owner IS NOT NULL AND size_bytes > 0 AND key <> ?)",
        (but,),
    ).fetchone()
    return bool(found[0])


def removable(
    index: sqlite3.Connection, but: str = "", *, spare_ahead: bool = False
) -> list[tuple[str, int]]:
    """Keys and sizes of what nobody uses, the first to go first."""
    spared = "AND ahead IS NULL" if spare_ahead else ""
    return index.execute(
        "SELECT key, size_bytes FROM entry WHERE key <> ? AND owner IS NULL AND size_bytes > 0 "
        f"AND key NOT IN (SELECT key FROM pin) {spared} "
        "ORDER BY ahead IS NOT NULL, CASE WHEN ahead IS NULL THEN used_at ELSE -used_at END",
        (but,),
    ).fetchall()


def size_of(path: Path) -> int:
    """The size of a file, 0 where there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return 0
