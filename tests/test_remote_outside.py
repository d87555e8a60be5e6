"""The way from the open internet into a private network: refused at redirects, refused after a
name has been turned. In a process for which one server of this machine has a public address."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from program import environment
from stores.servers import Redirect, WebServer

ADDRESS = "93.184.215.14"
CALL = b"RIFF" + bytes(5000)

SCRIPT = """
import json, sys, tempfile
from pathlib import Path
from audio_batch.remote.access import Access
from audio_batch.remote import stores
from audio_batch.remote.failures import trouble

said = []
store = stores.store("http://", Access(allow_http=True, allow_private=sys.argv[1] == "yes"))
for url in sys.argv[2:]:
    try:
        with store.reading(url) as body:
            said.append(sum(len(chunk) for chunk in body.chunks(lambda: None)))
    except Exception as error:
        found = trouble(error)
        said.append([found.kind, found.reason, found.passing])
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def outside_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("gcc")
    if compiler is None or os.name == "nt":
        pytest.skip("the public address is made by a C library of the test: there is no gcc")
    library = tmp_path_factory.mktemp("outside") / "outside.so"
    source = Path(__file__).with_name("stores") / "outside.c"
    command = [compiler, "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"]
    subprocess.run(command, check=True)
    return library


def _said(library: Path, server: WebServer, *arguments: str) -> list[object]:
    more = {"LD_PRELOAD": str(library), "AB_OUTSIDE_ADDRESS": ADDRESS}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments],
        env=environment(**more, AB_OUTSIDE_PORT=str(server.port)),
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    found: list[object] = json.loads(done.stdout)
    return found


def test_no_way_leads_from_outside_to_what_is_private(
    outside_library: Path, web: WebServer, tmp_path: Path
) -> None:
    (web.folder / "call.wav").write_bytes(CALL)
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside/call.wav").write_bytes(CALL)
    with WebServer(tmp_path / "inside") as inside:
        web.redirects["/by-address"] = Redirect(f"{inside.url}/call.wav")
        web.redirects["/by-name"] = Redirect(f"http://localhost:{inside.port}/call.wav")
        web.redirects["/by-two"] = Redirect("http://outside.test/by-name", 307)
        urls = [
            "http://outside.test/call.wav",
            f"http://{ADDRESS}/call.wav",
            "http://outside.test/by-address",
            "http://outside.test/by-name",
            "http://outside.test/by-two",
        ]
        said = _said(outside_library, web, "no", *urls)
        assert said[:2] == [len(CALL), len(CALL)]
        for answer in said[2:]:
            assert isinstance(answer, list)
            assert answer[0] == "input_forbidden"
            assert "is not a public address" in answer[1]
            assert answer[2] is False
        assert inside.trouble.counts() == {}
        allowed = _said(outside_library, web, "yes", *urls)
        assert allowed == [len(CALL)] * len(urls)
        assert inside.trouble.counts() == {"GET": 3}


def test_a_name_that_turns_to_a_private_address_is_refused(
    outside_library: Path, web: WebServer
) -> None:
    (web.folder / "call.wav").write_bytes(CALL)
    # Another port is another connection, for which the name is asked again.
    urls = ["http://turning.test/call.wav", f"http://turning.test:{web.port}/call.wav"]
    first, second = _said(outside_library, web, "no", *urls)
    if first != len(CALL):  # asked twice already, once for each family of addresses
        pytest.fail(f"the name did not lead outside at first: {first}")
    assert isinstance(second, list)
    assert second[0] == "input_forbidden"
    assert len(web.trouble.seen) == 1
