"""Where things lie: a local path, or a URL of a store that fsspec knows.

Pure text; nothing is opened here. UNC paths, drive letters and `file:` URLs are local.
"""

from __future__ import annotations

import re
from pathlib import Path

CLOUDS = frozenset({"gs", "gcs", "az", "abfs", "abfss"})
"""Google's and Azure's."""

OBJECT_STORES = frozenset({"s3", "s3a"}) | CLOUDS
WEB = frozenset({"http", "https"})
REMOTE = OBJECT_STORES | WEB

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")  # one letter would be a drive


def scheme(text: str) -> str:
    """The scheme of a URL in lower case; "" for a path."""
    found = _SCHEME.match(text)
    return found[1].lower() if found else ""


def is_remote(text: str) -> bool:
    """Whether it lies in an object store or on the web."""
    return scheme(text) in REMOTE


def absolute(text: str, folder: Path) -> str:
    """A location that means the same from any folder; relative paths begin in `folder`."""
    if scheme(text):
        return text
    path = Path(text).expanduser()
    # The current folder may be gone, which is nothing to a path that is absolute.
    return str(path if path.is_absolute() else (folder / path).absolute())
