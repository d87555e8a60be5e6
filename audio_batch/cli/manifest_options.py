"""The flags that say which assets of a manifest are meant, the same wherever one is read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from audio_batch.cli.option import opt


def _option(flag: str, help: str) -> Any:
    return opt(help, flag, panel="Which assets")


Root = Annotated[
    Path | None, _option("--root", "Where relative paths begin \\[the manifest's folder].")
]
Field = Annotated[
    list[str] | None, _option("--field", "Our field = the manifest's: uri=file_name. Repeatable.")
]
AllowMissing = Annotated[
    bool | None,
    _option("--allow-missing/--no-allow-missing", "A missing file fails its asset, not the run."),
]
Where = Annotated[
    list[str] | None,
    _option("--where", "Only assets with field=glob: asset_type=Audio. Repeatable."),
]
Exclude = Annotated[
    list[str] | None, _option("--exclude", "No assets with field=glob. Repeatable.")
]
OrderBy = Annotated[
    str | None,
    _option("--order", "manifest, reverse, longest, shortest or priority \\[manifest]."),
]
Skip = Annotated[int | None, _option("--skip", "Leave out the first N.")]
Limit = Annotated[int | None, _option("--limit", "Take no more than N.")]
