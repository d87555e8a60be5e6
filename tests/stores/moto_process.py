"""moto's S3 and STS as a process of its own; it ends when whoever started it has ended.

A program: prints its port when it listens, and serves until its standard input is closed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path
from typing import Any

REGION = "eu-central-1"
SECRETS = {
    "AWS_ACCESS_KEY_ID": "AKIDTESTTESTTESTTEST",
    "AWS_SECRET_ACCESS_KEY": "canary-secret-of-the-tests-0123456789ab",
    "AWS_DEFAULT_REGION": REGION,
}


class MotoServer:
    """The process, from the side of whoever starts it; a context manager."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "MOTO_IAM_LOAD_MANAGED_POLICIES": "false"},
        )
        assert self._process.stdout is not None
        told = self._process.stdout.readline()
        if not told:
            raise RuntimeError(f"moto has ended before it listened: exit {self._process.wait()}")
        self.port = int(told)

    @property
    def url(self) -> str:
        """`http://127.0.0.1:PORT`."""
        return f"http://127.0.0.1:{self.port}"

    def reset(self) -> None:
        """Forget every bucket."""
        request = urllib.request.Request(f"{self.url}/moto-api/reset", method="POST")
        with urllib.request.urlopen(request, timeout=240) as answer:
            answer.read()

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()

    def __enter__(self) -> MotoServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _serve() -> None:
    from moto.moto_server.werkzeug_app import (
        DomainDispatcherApplication,
        MotoRequestHandler,
        create_backend_app,
    )
    from werkzeug.serving import make_server

    class Quiet(MotoRequestHandler):
        def log(self, *_: Any) -> None:
            """Nothing is logged."""

    app: Any = DomainDispatcherApplication(create_backend_app)
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdout.write(f"{server.server_port}\n")
    sys.stdout.flush()
    sys.stdin.buffer.read()


if __name__ == "__main__":
    # The folder of this file holds modules with common names; none of them is meant here.
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".") != Path(__file__).parent]
    _serve()
