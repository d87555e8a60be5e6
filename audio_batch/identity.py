"""What files are, wherever they lie: names of contents, for fingerprints."""

from __future__ import annotations

import hashlib
from pathlib import Path


def content_hash(*files: Path) -> str:
    """SHA-256 over the files' contents, shortened; of tens of megabytes it takes a blink."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]
