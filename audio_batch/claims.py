"""Who may publish an asset that two devices are at work on: whoever claims it first.

A claim is a file below the state folder that only one can create. Those of a run are worth nothing
after it.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from audio_batch.storage import output_error

FOLDER = "claims"


def claim(state: Path, token: str) -> bool:
    """Take the right to publish; False where somebody has it already.

    Raises:
        AssetError: DISK_FULL or OUTPUT.
    """
    folder = state / FOLDER
    try:
        folder.mkdir(exist_ok=True)
        (folder / token).touch(exist_ok=False)
    except FileExistsError:
        return False
    except OSError as error:
        raise output_error(error, folder) from error
    return True


def sweep(state: Path) -> None:
    """Remove the claims of a run that has ended."""
    folder = state / FOLDER
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
