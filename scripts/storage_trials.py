"""Nights over a real S3 service and a web server, with faults and kills; what must hold is checked.

    python scripts/storage_trials.py [--assets 500] [--kills 5] [--seed 0]

Starts what it needs on this machine, on loopback: moto's S3 and STS as a process, a proxy before it
that answers with errors, resets connections, cuts and slows bodies and lets keys expire, and a
server of files. `pip install 'audio-batch[test]'` brings all of it. Two trials:

- A manifest of tones in S3, with outputs to S3, is run undisturbed; then with faults, killed a few
  times and run again to its end; then once more; then without its journal. The outputs must be
  those of a local run, the journal must agree with the store, nothing may be left or done twice.
  Requests per asset are printed by kind, as they cost.
- The examples are run from plain paths, from S3 to S3, and from the web: the words must be equal.

Exit code 1 where something does not hold; the folder is kept then.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(PROJECT / "tests")]

from stores import trials  # noqa: E402
from stores.moto_process import MotoServer  # noqa: E402
from stores.s3 import S3  # noqa: E402
from stores.servers import WebServer  # noqa: E402


def main() -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description="Nights over S3 and the web, with faults.")
    parser.add_argument("--assets", type=int, default=500)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", default="demo", help="of the second trial")
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="storage-trials-"))
    reports = {}
    with MotoServer() as moto:
        s3 = S3.begin(moto)
        try:
            reports[f"{asked.assets} assets in S3, {asked.kills} kills"] = trials.befallen(
                s3, folder / "befallen", assets=asked.assets, kills=asked.kills, seed=asked.seed
            )
            s3.trouble.clear()
            with WebServer(folder) as web:
                reports["the examples from paths, S3 and the web"] = trials.same_everywhere(
                    s3,
                    web,
                    folder / "same",
                    PROJECT / "examples" / "manifest.json",
                    ("--model", asked.model, *trials.FORMATS),
                    code=3,
                )
        finally:
            s3.close()
    for title, report in reports.items():
        print(f"{title}\n{report.tell()}\n")
    if any(report.wrong for report in reports.values()):
        print(f"what was written is in {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
