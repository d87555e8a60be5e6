"""Google's emulator as a program: prints its port, serves until its standard input is closed."""

from __future__ import annotations

import sys
from pathlib import Path


def _serve() -> None:
    from gcp_storage_emulator.server import create_server

    server = create_server("127.0.0.1", 0, in_memory=True)
    server.start()
    sys.stdout.write(f"{server._api._httpd.server_port}\n")
    sys.stdout.flush()
    sys.stdin.buffer.read()
    server.stop()


if __name__ == "__main__":
    # The folder of this file holds modules with common names; none of them is meant here.
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".") != Path(__file__).parent]
    _serve()
