"""Make every malformed and unusual recording that a release is tried with; say what comes of it.

    python scripts/make_malformed.py FOLDER [--long]

The folder must be new or empty. It gets the recordings, `manifest.json` with all of them, and
`expected.json`: for each asset's id the failure's kind, or else the state and a part of the notes.
Then try a build with it:

    audio-batch run FOLDER/manifest.json --allow-missing --max-duration 300 --engine null -o OUT

The table itself is `tests/malformed.py`. All is made with PyAV and by hand; no ffmpeg, no sox.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1] / "tests"


def make(folder: Path, *, long: bool = False) -> dict[str, dict[str, Any]]:
    """Fill the folder; answers what `expected.json` holds."""
    sys.path.insert(0, str(TESTS))
    from malformed import CASES, LONG, POSIX

    audio = folder / "audio"
    audio.mkdir(parents=True)
    entries, expected = [], {}
    for name, case in {**CASES, **(LONG if long else {})}.items():
        if case.posix_only and not POSIX:
            continue
        asset_id = re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")
        path = case.path(audio, asset_id)
        case.make(path)
        # A name that is no UTF-8 can only be written as a URI.
        uri = path.absolute().as_uri() if case.file_name else f"audio/{path.name}"
        entries.append({"id": asset_id, "name": name, "path": uri})
        expected[asset_id] = (
            {"kind": case.kind.value}
            if case.kind
            else {"state": case.state, "seconds": case.seconds, "note": case.note}
        )
    for file, content in (("manifest.json", entries), ("expected.json", expected)):
        (folder / file).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return expected


def main() -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description="Make malformed recordings to try a build with.")
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--long", action="store_true", help="also 12 h of audio, which take a while"
    )
    arguments = parser.parse_args()
    if arguments.folder.exists() and any(arguments.folder.iterdir()):
        parser.error(f"{arguments.folder} is not empty")
    expected = make(arguments.folder, long=arguments.long)
    for asset_id, outcome in expected.items():
        what = outcome.get("kind") or f"done, {outcome['state']}"
        note = f' "… {outcome["note"]} …"' if outcome.get("note") else ""
        print(f"{asset_id:45} {what}{note}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
