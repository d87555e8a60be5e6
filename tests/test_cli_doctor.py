"""`audio-batch doctor`: exit codes, its two forms, and what it says of models and tokens."""

from __future__ import annotations

import http.server
import json
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from program import Answer, write_manifest

from audio_batch.diarization_models import DEFAULT_DIARIZATION_MODEL
from audio_batch.engines.aligners import HUB_DEFAULTS
from audio_batch.ladder import Rung
from audio_batch.remembered import Key, Remembered

Cli = Callable[..., Answer]

NL = HUB_DEFAULTS["nl"]
ACCEPTED = "hf_" + "AcCePtEd01234567" * 2 + "xy"
STRANGER = "hf_" + "StRaNgEr01234567" * 2 + "xy"
EXPIRED = "hf_" + "ExPiReD012345678" * 2 + "xy"


class _Hub(http.server.BaseHTTPRequestHandler):
    """A hub on loopback: one open model, one that is gated, one that fails, and none else."""

    seen: ClassVar[list[str]] = []
    open_files: ClassVar = [
        {"rfilename": "config.json", "size": 2},
        {"rfilename": "model.bin", "size": 1_600_000_000},
    ]

    def do_GET(self) -> None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        self.seen.append(token)
        path = self.path.partition("?")[0].removeprefix("/api/models/")
        if token == EXPIRED:
            said = {"X-Error-Message": "Invalid credentials in Authorization header"}
            self._send(401, {}, said)
        elif path == "owner/good":
            self._send(200, {"id": path, "siblings": self.open_files})
        elif path == NL:
            self._send(200, {"id": path, "siblings": []})
        elif path == "owner/huge":
            files = [{"rfilename": "model.bin", "size": 1 << 60}]
            self._send(200, {"id": path, "siblings": files})
        elif path == "owner/torch":
            self._send(200, {"id": path, "siblings": [{"rfilename": "pytorch_model.bin"}]})
        elif path == DEFAULT_DIARIZATION_MODEL:
            self._send(200, {"id": path, "gated": "auto", "siblings": []})
        elif path == f"{DEFAULT_DIARIZATION_MODEL}/auth-check":
            code = 200 if token == ACCEPTED else 403 if token == STRANGER else 401
            self._send(code, {}, {} if code == 200 else {"X-Error-Code": "GatedRepo"})
        elif path == "owner/down":
            self._send(503, {})
        else:
            self._send(404, {}, {"X-Error-Code": "RepoNotFound"})

    def _send(self, code: int, body: Any, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def ask(cli: Cli, hub: str, tmp_path: Path) -> Callable[..., tuple[int, dict[str, Any]]]:
    """Run `doctor --json` with an empty cache against the hub; the code, and checks by name."""

    def run(*arguments: object, **env: str) -> tuple[int, dict[str, Any]]:
        online = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": hub, "HF_HOME": str(tmp_path / "hf"), **env}
        answer = cli("doctor", "--json", "-d", "cpu", *arguments, env=online)
        for token in (ACCEPTED, STRANGER, EXPIRED):
            assert token not in answer.out + answer.err
        assert "Traceback" not in answer.err
        body = json.loads(answer.out)
        assert body["ok"] is (answer.code == 0)
        return answer.code, {check["name"]: check for check in body["checks"]}

    return run


def test_a_machine_is_looked_at_without_a_manifest(cli: Cli, tmp_path: Path) -> None:
    answer = cli("doctor", "--model", "demo", "--device", "cpu")
    assert answer.code == 0, answer.out
    assert "\x1b" not in answer.out and answer.err == ""
    assert "ok       python: Python 3." in answer.out
    assert "warning  model: This is the demonstration model" in answer.out
    assert answer.out.splitlines()[-1].startswith("0 errors, ")
    assert list(tmp_path.iterdir()) == []


def test_a_run_to_come_is_looked_at_as_a_whole_and_nothing_is_left_behind(
    cli: Cli, tmp_path: Path
) -> None:
    manifest = write_manifest(tmp_path, 3)
    before = sorted(tmp_path.rglob("*"))
    answer = cli("doctor", manifest, "-o", "out", "--model", "demo", "-d", "cpu", "--json")
    assert answer.code == 0, answer.out
    assert sorted(tmp_path.rglob("*")) == before
    body = json.loads(answer.out)
    assert body["schema_version"] == 1 and body["ok"] is True
    for check in body["checks"]:
        assert set(check) == {"name", "status", "message", "remedy"}
        assert check["status"] in ("ok", "warning", "error")
    names = [check["name"] for check in body["checks"]]
    assert names[-5:] == ["inputs", "names", "overwriting", "output-folder", "space"]


def test_missing_recordings_end_in_exit_5_and_are_told_with_the_rest(
    cli: Cli, tmp_path: Path
) -> None:
    manifest = write_manifest(tmp_path, 3)
    (tmp_path / "audio/tone-001.wav").unlink()
    answer = cli("doctor", manifest, "--model", "demo", "-d", "cpu", "--no-diarize")
    assert answer.code == 5
    assert "error    inputs: 1 recording of 3 cannot be used" in answer.out
    assert "ok       space:" in answer.out


def test_what_is_remembered_of_devices_is_shown_and_forgotten(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUDIO_BATCH_CACHE_DIR", str(tmp_path / "cache"))
    memory = Remembered.load()
    memory.remember(Key("cpu", "abc", "auto", False), Rung(4, 1, "int8"), model_name="large-v3")
    env = {"AUDIO_BATCH_CACHE_DIR": str(tmp_path / "cache")}
    line = ("doctor", "--model", "demo", "-d", "cpu", "--no-diarize")
    shown = cli(*line, env=env)
    assert shown.code == 0
    assert "ok       remembered: cpu with large-v3: 1 asset at a time, batches of 4" in shown.out
    assert "ok       isolation: thread (auto)" in shown.out
    answer = cli(*line, "--forget", "--json", env=env | {"AUDIO_BATCH_ISOLATION": "process"})
    checks = {check["name"]: check["message"] for check in json.loads(answer.out)["checks"]}
    assert checks["forget"].startswith("1 entry removed from ")
    assert checks["remembered"].startswith("Nothing: ")
    assert checks["isolation"].startswith("process: ")
    assert not memory.path.exists()
    memory.path.mkdir()  # it cannot be removed
    refused = cli(*line, "--forget", env=env)
    assert refused.code == 5 and "cannot be removed" in refused.err
    assert "Traceback" not in refused.err


@pytest.mark.parametrize("content", [b"\xff\xfe\x00garbage", b"[1, 2]"])
def test_a_manifest_that_is_none_is_exit_4(cli: Cli, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.json").write_bytes(content)
    answer = cli("doctor", "m.json", "--json")
    assert answer.code == 4
    assert "Traceback" not in answer.err and "m.json" in answer.err
    (check,) = json.loads(answer.out)["checks"]
    assert (check["name"], check["status"]) == ("manifest", "error")


def test_offline_a_model_that_is_not_here_is_an_error(cli: Cli, tmp_path: Path) -> None:
    answer = cli("doctor", "--offline", "--model", "tiny", "--model-dir", tmp_path, "-d", "cpu")
    assert answer.code == 5
    assert "error    model: The model 'tiny' is not on this machine" in answer.out
    assert "audio-batch models pull tiny" in answer.out


def test_a_name_that_can_be_no_model_is_an_error_too(cli: Cli) -> None:
    answer = cli("doctor", "--model", "no model", "-d", "cpu", "--diarize-model", "nor this")
    assert answer.code == 5
    assert "error    model: There is no model 'no model'" in answer.out
    assert "error    diarization: There is no diarization model 'nor this'" in answer.out


def test_what_the_hub_has_is_told_and_not_fetched(ask, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    code, found = ask("--model", "owner/good", "--diarize", HF_TOKEN=ACCEPTED)
    assert code == 0
    assert found["model"]["status"] == "ok" and "1.6 GB" in found["model"]["message"]
    assert found["token"]["message"] == "A Hugging Face token is set."
    assert found["diarization"]["status"] == "ok"
    assert ACCEPTED in _Hub.seen
    assert not list((tmp_path / "hf").rglob("*.bin"))


def test_a_repository_that_is_no_conversion_or_too_big_is_an_error(ask) -> None:  # type: ignore[no-untyped-def]
    code, found = ask("--model", "owner/torch", "--no-diarize")
    assert (code, found["model"]["status"]) == (5, "error")
    assert "no CTranslate2 conversion" in found["model"]["message"]
    code, found = ask("--model", "owner/huge", "--no-diarize")
    assert (code, found["model"]["status"]) == (5, "error")
    assert "--model-dir" in found["model"]["remedy"]


@pytest.mark.parametrize(
    ("token", "said", "forced"),
    [
        ("", "there is no token", False),
        ("", "there is no token", True),
        (STRANGER, "has not accepted", False),
        (EXPIRED, "does not accept", True),
    ],
    ids=["none", "none-forced", "stranger", "expired-forced"],
)
def test_a_gate_that_is_shut_names_the_page_to_visit(  # type: ignore[no-untyped-def]
    ask, tmp_path: Path, token: str, said: str, forced: bool
) -> None:
    arguments = ["--model", "demo", *(["--diarize"] if forced else [])]
    if token:  # with a line break, as editors leave it
        (tmp_path / "token").write_text(f"{token}\n")
        arguments += ["--hf-token-file", "token"]
    code, found = ask(*arguments)
    check = found["diarization"]
    assert (code, check["status"]) == ((5, "error") if forced else (0, "warning"))
    assert said in check["message"]
    assert ("without speakers" in check["message"]) is not forced
    assert "https://huggingface.co/" in check["remedy"]


def test_a_token_file_that_cannot_be_read_is_named(ask, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    code, found = ask("--model", "demo", "--hf-token-file", tmp_path / "none")
    assert (code, found["token"]["status"]) == (5, "error")
    assert "--hf-token-file" in found["token"]["message"]


def test_what_the_hub_does_not_have_is_an_error(ask) -> None:  # type: ignore[no-untyped-def]
    code, found = ask("--model", "owner/none", "--diarize-model", "owner/down", "--align-model", NL)
    assert code == 5
    for name, text in (("model", "owner/none"), ("diarization", "HTTP 503"), ("alignment", NL)):
        assert found[name]["status"] == ("ok" if name == "alignment" else "error")
        assert text in found[name]["message"]


def test_a_hub_that_does_not_answer_is_waited_for_once(ask, nobody_listens: int) -> None:  # type: ignore[no-untyped-def]
    with socket.socket() as deaf:  # takes connections, and says nothing
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(8)
        endpoint = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        code, found = ask("--model", "owner/good", HF_ENDPOINT=endpoint, HF_TOKEN=ACCEPTED)
        deaf.settimeout(0.1)
        deaf.accept()
        with pytest.raises(TimeoutError):  # the second model was not asked for
            deaf.accept()
    assert (code, found["model"]["status"], found["diarization"]["status"]) == (
        5,
        "error",
        "warning",
    )
    assert "did not answer" in found["model"]["message"]
    nobody = f"http://127.0.0.1:{nobody_listens}"
    code, found = ask("--model", "owner/good", HF_ENDPOINT=nobody)
    assert (code, found["model"]["status"]) == (5, "error")


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX pseudo-terminal")
def test_on_a_terminal_the_lines_have_colours(tmp_path: Path) -> None:
    import pty

    from program import command, environment

    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(tmp_path)
        line = command("doctor", "--model", "demo", "-d", "cpu", "--no-diarize")
        os.execvpe(line[0], line, environment(TERM="xterm"))
    shown = ""
    while True:
        try:
            shown += os.read(terminal, 65536).decode("utf-8", "replace")
        except OSError:  # the other end is closed: the program has ended
            break
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 0
    assert "\x1b[32mok" in shown and "python: Python 3." in shown


def test_nothing_heavy_is_imported(tmp_path: Path) -> None:
    import subprocess

    from program import environment

    script = (
        "import sys\nfrom audio_batch.cli import run_app\n"
        "code = run_app(['doctor', '--model', 'demo', '-d', 'cpu'])\n"
        "print([n for n in ('torch', 'pyannote', 'whisperx', 'transformers') if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "[]"
