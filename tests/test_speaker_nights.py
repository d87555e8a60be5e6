"""Whole nights with speakers, by the program itself on the demonstration models: kills, failures,
other wishes, models that cannot be had."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import threading
import time
import wave
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from program import PROJECT, Answer, command, environment
from shipped import EXAMPLES

from audio_batch.journal import Journal
from audio_batch.media import decode
from audio_batch.outcome import Stage, State

Cli = Callable[..., Answer]
DEMO = ("--model", "demo", "--diarize-model", "demo", "-y")


def recordings(folder: Path, *names: str, counted: bool = False) -> Path:
    """A manifest of example recordings, with or without their numbers of speakers."""
    entries = json.loads((EXAMPLES / "manifest.json").read_text(encoding="utf-8"))["assets"]
    assets = []
    for entry in entries:
        if entry["id"] in names:
            asset = {"id": entry["id"], "path": str(EXAMPLES / entry["path"]), "language": "en"}
            assets.append(asset | ({"num_speakers": entry["num_speakers"]} if counted else {}))
    path = folder / "manifest.json"
    path.write_text(json.dumps({"assets": assets}), encoding="utf-8")
    return path


def journal(out: Path) -> Journal:
    return Journal(out / ".audio-batch/journal.sqlite3", read_only=True)


def document(out: Path, name: str) -> dict[str, Any]:
    body: dict[str, Any] = json.loads((out / f"{name}.json").read_text(encoding="utf-8"))
    return body


def test_a_run_killed_while_it_diarizes_never_transcribes_again(
    cli: Cli, tmp_path: Path, children: list[subprocess.Popen[str]]
) -> None:
    manifest = recordings(tmp_path, "dialogue", "long-count")
    out = tmp_path / "out"
    night = ("run", manifest, *DEMO, "-o", "out")
    process = subprocess.Popen(
        command(*night),
        cwd=tmp_path,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    children.append(process)
    assert wait_until_diarizing(out, process)
    process.kill()
    process.communicate()
    assert cli(*night, timeout_s=600).code == 0
    counts = journal(out).stage_counts()
    assert counts == {"transcribe": 2, "diarize": 2}
    assert {entry.state for entry in journal(out).entries()} == {State.DONE}
    assert len(document(out, "dialogue")["speakers"]) >= 2
    # Another wish about speakers costs no transcription either.
    again = cli(*night, "--max-speakers", "1", timeout_s=600)
    assert again.code == 0, again.err
    assert journal(out).stage_counts() == {"transcribe": 2, "diarize": 4}
    assert len(document(out, "dialogue")["speakers"]) == 1


def wait_until_diarizing(out: Path, process: subprocess.Popen[str]) -> bool:
    """Until some asset's words are kept and its diarization is going on."""
    while process.poll() is None:
        try:
            book = journal(out)
            running = {e.asset_id for e in book.entries() if e.state is State.RUNNING}
            stages = book.stages()
            book.close()
        except Exception:  # not there yet, or being made
            running, stages = set(), {}
        for asset in running:
            if Stage.TRANSCRIBE in stages.get(asset, {}) and Stage.DIARIZE not in stages[asset]:
                time.sleep(0.2)
                return True
        time.sleep(0.02)
    return False


@pytest.mark.slow
def test_a_diarization_that_always_fails_leaves_every_transcript(cli: Cli, tmp_path: Path) -> None:
    manifest = recordings(tmp_path, "dialogue", "door-code", "phone-number")
    broken = tmp_path / "broken-pipeline"
    shutil.copytree(PROJECT / "audio_batch/demo/diarization", broken)
    # In a process of its own: this one need not load torch.
    tests = str(Path(__file__).parent)
    code = "import pathlib, sys, faulty_voice; faulty_voice.break_voice(pathlib.Path(sys.argv[1]))"
    env = environment(PYTHONPATH=tests)
    subprocess.run([sys.executable, "-c", code, str(broken)], check=True, env=env)
    night = ("run", manifest, "--model", "demo", "-y", "-o", "out", "-f", "txt,rttm")
    answer = cli(*night, "--diarize-model", broken, env={"PYTHONPATH": tests})
    assert answer.code == 3, answer.err
    assert "Traceback" not in answer.err
    out = tmp_path / "out"
    entries = list(journal(out).entries())
    assert [entry.state for entry in entries] == [State.INCOMPLETE] * 3
    assert all("broken on purpose" in (entry.error_text or "") for entry in entries)
    assert (out / "door-code.uem").read_text().startswith("door-code 1 0.000 ")
    assert (out / "door-code.txt").read_text() == "nine zero three six eight\n"
    assert document(out, "door-code")["missing"] == ["diarize"]
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["done"], summary["failed"], summary["incomplete"]) == (0, 3, 3)
    assert {failure["state"] for failure in summary["failures"]} == {"incomplete"}
    assert "door-code" in cli("status", "out", "--failed").out
    # With a pipeline that works, nothing but the diarization is done.
    answer = cli(*night, "--diarize-model", "demo")
    assert answer.code == 0, answer.err
    assert journal(out).stage_counts() == {"transcribe": 3, "diarize": 3}
    assert document(out, "dialogue")["missing"] == []


class _Gate(BaseHTTPRequestHandler):
    """A hub whose every model is gated: 401 without a good token, 403 with one."""

    def do_GET(self) -> None:
        good = self.headers.get("Authorization") == "Bearer hf_good"
        self.send_response(403 if good else 401)
        if good or not self.headers.get("Authorization"):
            self.send_header("X-Error-Code", "GatedRepo")
        self.send_header("X-Error-Message", "Access is restricted.")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def gate() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Gate)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


@pytest.mark.parametrize(
    ("token", "offline", "text"),
    [
        (None, False, "HF_TOKEN"),
        ("hf_bad", False, "token"),
        ("hf_good", False, "huggingface.co/pyannote/speaker-diarization-community-1"),
        (None, True, "--offline"),
    ],
)
def test_a_model_that_cannot_be_had_ends_a_forced_run_and_warns_in_another(
    cli: Cli, tmp_path: Path, gate: str, token: str | None, offline: bool, text: str
) -> None:
    manifest = recordings(tmp_path, "door-code")
    hub = {"HF_ENDPOINT": gate, "HF_HUB_OFFLINE": "1" if offline else "0"}
    env = {**hub, "HF_HOME": str(tmp_path / "hub"), "HF_TOKEN": token or ""}
    night = ("run", manifest, "--model", "demo", "-y", "--no-progress")
    forced = cli(*night, "-o", "forced", "--diarize", env=env)
    assert forced.code == 5, forced.err
    assert text in forced.err
    assert len(errors(forced.err)) == 1
    assert not (tmp_path / "forced/door-code.json").exists()
    free = cli(*night, "-o", "free", env=env)
    assert free.code == 0, free.err
    assert (tmp_path / "free/door-code.txt").read_text() == "nine zero three six eight\n"
    (warning,) = [line for line in free.err.splitlines() if "not told apart" in line]
    assert "WARNING" in warning
    assert text in warning
    for answer in (forced, free):
        assert "Traceback" not in answer.err
        assert token is None or token not in answer.err


def errors(text: str) -> list[str]:
    """The lines that say why a run did not begin."""
    talk = re.compile(r" - (INFO|WARNING) - ")
    return [line for line in text.splitlines() if line.strip() and not talk.search(line)]


@pytest.mark.slow
def test_known_voices_are_named_and_linked(cli: Cli, tmp_path: Path) -> None:
    manifest = recordings(tmp_path, "dialogue", "door-code", counted=True)
    # What the first of the two says first.
    cut(EXAMPLES / "audio/dialogue.flac", tmp_path / "clips/bruno.wav", 0.0, 2.6)
    (tmp_path / "known.json").write_text('{"Bruno <b>": "clips/bruno.wav"}')
    night = ("run", manifest, *DEMO, "-o", "out", "-f", "vtt,txt,rttm")
    answer = cli(*night, "--speakers", "known.json", "--link-speakers")
    assert answer.code == 0, answer.err
    out = tmp_path / "out"
    bruno, other = document(out, "dialogue")["speakers"]
    assert (bruno["name"], other["name"]) == ("Bruno <b>", None)
    assert bruno["score"] > 0.8
    assert "<v Bruno &lt;b&gt;>four two seven one" in (out / "dialogue.vtt").read_text()
    voices = json.loads((out / "speakers.json").read_text())["voices"]
    assert bruno["voice"] != other["voice"]
    assert {bruno["voice"], other["voice"]} <= set(voices)
    # A person names a voice; the next run writes it everywhere and computes nothing.
    voices[other["voice"]]["name"] = "Alice"
    (out / "speakers.json").write_text(json.dumps({"schema_version": 1, "voices": voices}))
    assert cli(*night, "--speakers", "known.json", "--link-speakers").code == 0
    text = (out / "dialogue.txt").read_text()
    assert text.startswith("Bruno <b>: four two seven one\n\nAlice: four two seven nine")
    assert document(out, "dialogue")["speakers"][1]["name"] == "Alice"
    assert journal(out).stage_counts() == {"transcribe": 2, "diarize": 2}


def cut(source: Path, target: Path, start_s: float, end_s: float) -> None:
    """A part of a recording, as 16 kHz WAV."""
    samples = decode(source).samples[int(start_s * 16_000) : int(end_s * 16_000)]
    target.parent.mkdir()
    with wave.open(str(target), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes((samples * 32767).astype("<i2").tobytes())


@pytest.mark.parametrize("flag", ["--speaker-threshold", "--link-threshold"])
def test_a_threshold_for_nothing_is_refused(cli: Cli, tmp_path: Path, flag: str) -> None:
    manifest = recordings(tmp_path, "door-code")
    answer = cli("run", manifest, "--model", "demo", "-o", "out", flag, "0.7")
    assert answer.code == 2
    assert f"{flag} has no effect without --" in answer.err
