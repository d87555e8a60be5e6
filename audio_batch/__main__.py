"""The way in: `audio-batch` and `python -m audio_batch`."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line and answer its exit code; what a user caused shows no traceback."""
    from audio_batch.cli import run_app

    return run_app(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
