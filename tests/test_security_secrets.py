"""Canaries: secrets that a run is given stand in nothing that it writes, says or shows.

Each run is one that fails, since it is failures that quote: a hub that refuses the token, a path
that holds a secret, a crash.
"""

from __future__ import annotations

import http.server
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import faulty_engine
import pytest
from program import command, environment, write_tone

from audio_batch.logs import configure
from audio_batch.text import keep_secret, redact, redacted

CANARIES = {
    # None has the looks of a token: what gives them away is where they come from.
    "HF_TOKEN": "canary0hub0qwhbvfzt",
    "HUGGING_FACE_HUB_TOKEN": "canary1hub1pplmnrst",
    "AWS_SECRET_ACCESS_KEY": "canary2aws/2+kjhgfd=",
    "AWS_SESSION_TOKEN": "canary3aws3zxcvbnmll",
    "SOME_SERVICE_API_KEY": "canary4any4tyuiopgh",
}
IN_FILE = "canary5file5qazwsxedc"
ALL = (*CANARIES.values(), IN_FILE)


class _Hub(http.server.BaseHTTPRequestHandler):
    """Refuses every token, and is so unkind as to repeat it in its answer."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.send_response(401)
        said = self.headers.get("Authorization", "nothing")
        self.send_header("X-Error-Message", f"Invalid credentials: {said}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def hub() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def start(folder: Path, *arguments: object, **more: str) -> subprocess.Popen[bytes]:
    """The program with all canaries in its environment; what it says goes to files."""
    kept = {k: v for k, v in environment().items() if k not in CANARIES}
    env = {**kept, **CANARIES, "HF_HOME": str(folder / "home"), **more}
    with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as err:
        return subprocess.Popen(
            command(*arguments), cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=out,
            stderr=err,
        )  # fmt: skip


def assert_nothing_leaked(folder: Path, *, but: str = "token") -> None:
    found = [
        (path.relative_to(folder).as_posix(), secret)
        for path in folder.rglob("*")
        if path.is_file() and path.name != but
        for data in [path.read_bytes()]
        for secret in ALL
        if secret.encode() in data
    ]
    assert found == []


def manifest(folder: Path, *paths: str) -> None:
    entries = [{"id": f"a{number}", "path": path} for number, path in enumerate(paths)]
    (folder / "m.json").write_text(json.dumps({"assets": entries}), encoding="utf-8")


NIGHT = ("run", "m.json", "-o", "out", "-y", "-v", "--log-file", "logs/night.log")


@pytest.mark.parametrize(("where", "form"), [("environment", "json"), ("file", "plain")])
def test_a_token_that_is_refused_is_not_told(
    tmp_path: Path, hub: str, where: str, form: str
) -> None:
    write_tone(tmp_path / "a.wav")
    manifest(tmp_path, "a.wav")
    (tmp_path / "token").write_text(IN_FILE)
    flags = ["--engine", "null", "--diarize", "--log-format", form]
    if where == "file":
        flags += ["--hf-token-file", "token"]
    online = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": hub}
    assert start(tmp_path, *NIGHT, *flags, **online).wait(240) == 5
    assert "does not accept the token" in (tmp_path / "logs/night.log").read_text()
    assert_nothing_leaked(tmp_path)


@pytest.mark.parametrize("form", ["json", pytest.param("plain", marks=pytest.mark.slow)])
def test_a_failure_that_quotes_a_secret_is_masked_wherever_it_is_written(
    tmp_path: Path, form: str
) -> None:
    secret = CANARIES["AWS_SESSION_TOKEN"]
    write_tone(tmp_path / "a.wav")
    manifest(tmp_path, "a.wav", f"{secret}/b.wav", f"{CANARIES['AWS_SECRET_ACCESS_KEY']}/b.wav")
    flags = ("--engine", "null", "--allow-missing", "--log-format", form)
    assert start(tmp_path, *NIGHT, *flags).wait(240) == 3
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert [failure["kind"] for failure in summary["failures"]] == ["input_missing"] * 2
    assert all("***/b.wav does not exist" in one["reason"] for one in summary["failures"])
    assert_nothing_leaked(tmp_path, but="m.json")


@pytest.mark.skipif(os.name == "nt", reason="an abort is told otherwise there")
def test_what_a_dying_process_told_is_kept_without_secrets(tmp_path: Path) -> None:
    for number in range(3):
        write_tone(tmp_path / f"{number}.wav", 0.5 + number / 1000)
    manifest(tmp_path, "0.wav", "1.wav", "2.wav")
    (tmp_path / "token").write_text(IN_FILE)
    flags = ("--engine", "faulty", "--isolation", "process", "--hf-token-file", "token")
    more = {
        **faulty_engine.install(tmp_path / "plugin"),
        "FAULTY_ENGINE": '{"tell_and_abort": [1], "quote_a_secret": [2]}',
    }
    assert start(tmp_path, *NIGHT, *flags, "--max-attempts", "2", **more).wait(240) == 3
    kept = [path.read_text() for path in (tmp_path / "out/.audio-batch/workers").iterdir()]
    assert any("cannot use ***" in text for text in kept)
    assert_nothing_leaked(tmp_path)


def _titles(process: int) -> str:
    """The command lines of a process and all below it, as anybody on this machine sees them."""
    texts = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if os.getsid(int(folder.name)) == process:
                texts.append((folder / "cmdline").read_bytes().decode("utf-8", "replace"))
        except (OSError, ProcessLookupError):
            continue
    return "\n".join(texts)


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs Linux's /proc")
def test_a_crash_and_the_titles_of_processes_tell_nothing(tmp_path: Path) -> None:
    for number in range(3):
        write_tone(tmp_path / f"{number}.wav", 1 + number)
    manifest(tmp_path, "0.wav", "1.wav", "2.wav")
    (tmp_path / "token").write_text(IN_FILE)
    # A session of its own, by which all of its processes are known.
    code = "import os, sys; os.setsid(); os.execv(sys.argv[1], sys.argv[1:])"
    flags = ("--engine", "null", "--model", "null:600000", "--hf-token-file", "token")
    line = [sys.executable, "-c", code, *command(*NIGHT, *flags)]
    with (tmp_path / "stdout").open("wb") as out, (tmp_path / "stderr").open("wb") as err:
        env = {**environment(), **CANARIES, "HF_HOME": str(tmp_path / "home")}
        run = subprocess.Popen(line, cwd=tmp_path, env=env, stdout=out, stderr=err)
    titles, deadline_s = "", time.monotonic() + 240
    while b"Processing" not in (tmp_path / "stderr").read_bytes():
        titles += _titles(run.pid)
        assert time.monotonic() < deadline_s
        assert run.poll() is None
        time.sleep(0.05)
    titles += _titles(run.pid)
    run.send_signal(signal.SIGSEGV)
    assert run.wait(240) == -signal.SIGSEGV
    assert "audio_batch" in titles
    assert not [secret for secret in ALL if secret in titles]
    assert list((tmp_path / "out/.audio-batch").glob("crash*"))
    assert_nothing_leaked(tmp_path)


def test_there_is_no_flag_for_a_token(tmp_path: Path) -> None:
    run = start(tmp_path, "run", "m.json", "--hf-token", IN_FILE)
    assert run.wait(240) == 2
    assert_nothing_leaked(tmp_path)


# --- the last guard --------------------------------------------------------------------------


def test_a_secret_variable_is_masked_in_every_writing(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = 'a/b+c="\u00e9x'
    monkeypatch.setenv("THEIR_SECRET", secret)
    monkeypatch.setenv("PIN_PASSWORD", "short")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "ordinary")
    for text in (secret, json.dumps({"a": secret}), "https://h/?q=a%2Fb%2Bc%3D%22%C3%A9x&z"):
        assert "b+c" not in redact(text)
        assert "b%2Bc" not in redact(text)
    assert redact("a short and ordinary text") == "a short and ordinary text"


def test_what_was_kept_is_masked_in_all_that_is_nested() -> None:
    keep_secret("kept0secret0value")
    value = {"a": ["x kept0secret0value", {"kept0secret0value": 1.5}], "b": None}
    assert redacted(value) == {"a": ["x ***", {"***": 1.5}], "b": None}


@pytest.fixture
def log(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A log file in the form that the test names; afterwards logging is as it was."""
    path, root = tmp_path / "x.log", logging.getLogger()
    before = list(root.handlers)
    configure(console_level=None, log_file=path, log_format=request.param)
    yield path
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()
    for handler in before:
        root.addHandler(handler)
    logging.captureWarnings(False)


@pytest.mark.parametrize("log", ["plain"], indirect=True)
def test_a_traceback_in_the_log_is_masked_and_forges_no_line(log: Path) -> None:
    keep_secret("kept1secret1value")
    try:
        raise ValueError("kept1secret1value\n2026-01-01 00:00:00 - [Main] - INFO - all is well")
    except ValueError:
        logging.getLogger("audio_batch.x").exception("failed \x1b]0;x\x07")
    text = log.read_text()
    assert len([line for line in text.splitlines() if line[:1].isdigit()]) == 1
    assert "kept1secret1value" not in text
    assert "\x1b" not in text
    assert "ValueError: ***" in text


@pytest.mark.parametrize("log", ["json"], indirect=True)
def test_the_fields_of_a_json_line_are_masked_however_deep(log: Path) -> None:
    keep_secret("kept2secret2value")
    fields = {"failures": [{"reason": "no kept2secret2value"}], "path": Path("kept2secret2value")}
    logging.getLogger("audio_batch.x").info("done \x7f\x9b", extra={"fields": fields})
    line = json.loads(log.read_text())
    assert (line["failures"], line["path"]) == ([{"reason": "no ***"}], "***")
    assert log.read_text().isascii()
    assert "\x7f" not in log.read_text()
