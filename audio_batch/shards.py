"""One part of a manifest: several machines share the work without knowing of each other.

An asset's part depends on its id and on n alone: on no order, no machine, no version of Python and
no other asset. So n runs over one manifest are exactly a partition of it, and stay one when the
manifest grows.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from audio_batch.errors import UsageError
from audio_batch.text import for_terminal

FOLDER = "shards"
"""Within the state folder: a state of its own for every part."""

MOST = 100_000

_FORM = re.compile(r"([0-9]{1,9})/([0-9]{1,9})")
_TAG = re.compile(r"([0-9]+)-of-([0-9]+)")


@dataclass(frozen=True, slots=True)
class Shard:
    """The `index`-th of `count` parts, counted from 1."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read `2/4`.

        Raises:
            UsageError: it is not of that form, or there is no such part.
        """
        found = _FORM.fullmatch(text.strip())
        if found is None:
            raise UsageError(
                f"--shard '{for_terminal(text)}' is not of the form i/n.",
                remedy="For example: --shard 2/4, the second of four parts.",
            )
        index, count = int(found[1]), int(found[2])
        if not 1 <= count <= MOST:
            raise UsageError(f"--shard {index}/{count}: there can be 1 to {MOST:,} parts.")
        if not 1 <= index <= count:
            raise UsageError(
                f"--shard {index}/{count}: the parts are 1/{count} to {count}/{count}.",
                remedy="A Slurm array counts from 1 with --array=1-4." if index == 0 else "",
            )
        return cls(index, count)

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @property
    def tag(self) -> str:
        """Its name in names of files: 2-of-4."""
        return f"{self.index}-of-{self.count}"

    def takes(self, asset_id: str) -> bool:
        """Whether an asset is of this part: by the first 64 bits of the SHA-256 of its id."""
        digest = hashlib.sha256(asset_id.encode("utf-8", "surrogatepass")).digest()
        return int.from_bytes(digest[:8], "big") % self.count == self.index - 1


def states(state: Path) -> Iterator[tuple[Shard | None, Path]]:
    """The state folders of an output folder that hold a journal: its own, and its parts'.

    Args:
        state: the state folder of the whole.

    Yields:
        Whose it is (None: the whole's), and the folder. Parts come by their number and index; of
        those with one number no two hold the same asset.
    """
    parts = sorted(_parts(state / FOLDER), key=lambda part: (part[0].count, part[0].index))
    for shard, folder in [(None, state), *parts]:
        if (folder / "journal.sqlite3").is_file():
            yield shard, folder


def _parts(folder: Path) -> Iterator[tuple[Shard, Path]]:
    if folder.is_dir():
        for path in folder.iterdir():
            if found := _TAG.fullmatch(path.name):
                yield Shard(int(found[1]), int(found[2])), path
