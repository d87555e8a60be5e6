"""Finding forced aligners: the tables, folders, the hub, torch's cache, and their refusals."""

from __future__ import annotations

import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from program import environment

from audio_batch.engines import aligners
from audio_batch.errors import SetupError, UsageError

PARTS = ("config.json", "preprocessor_config.json", "vocab.json", "model.safetensors")


def folder(path: Path, *left_out: str) -> Path:
    path.mkdir(parents=True)
    for name in PARTS:
        if name not in left_out:
            (path / name).write_text(name)
    return path


def find(language: str, name: object = None, **place: Any) -> aligners.AlignerReference | None:
    options = {"model_dir": None, "offline": True, **place}
    model = None if name is None else str(name)
    return aligners.find_aligner(language, align_model=model, **options)


def test_demo_is_there_small_english_only_and_named_for_what_it_is() -> None:
    found = find("en", "demo")
    assert found is not None
    assert (found.kind, found.path, found.is_demo) == ("huggingface", aligners.demo_path(), True)
    assert find("de", "demo") is None
    assert find("", "demo") is None
    assert sum(path.stat().st_size for path in found.path.iterdir()) <= 4_000_000
    assert "digits" in aligners.DEMO_NOTICE
    again = find("en", found.path)
    assert again is not None
    assert (again.is_demo, again.identity) == (True, found.identity)


@pytest.mark.parametrize("language", ["", "la", "xx", "EN"])
def test_a_language_without_a_default_has_no_aligner(language: str) -> None:
    assert find(language) is None


def test_identity_is_of_the_content_and_not_of_the_place(tmp_path: Path) -> None:
    one, two = find("fr", folder(tmp_path / "a")), find("en", folder(tmp_path / "b"))
    assert one is not None
    assert two is not None
    assert (one.identity, one.is_demo) == (two.identity, False)
    (tmp_path / "b" / "vocab.json").write_text("other")
    changed = find("en", tmp_path / "b")
    assert changed is not None
    assert changed.identity != one.identity


@pytest.mark.parametrize("missing", PARTS)
def test_an_incomplete_folder_is_named_with_the_remedy(tmp_path: Path, missing: str) -> None:
    with pytest.raises(SetupError, match=rf"no {missing}.*Wav2Vec2ForCTC"):
        find("en", folder(tmp_path / "m", missing))


def test_weights_may_be_in_parts_or_in_the_old_form(tmp_path: Path) -> None:
    path = folder(tmp_path / "m", "model.safetensors")
    for name in ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"):
        (path / name).write_text(name)
    assert find("en", path) is not None
    old = folder(tmp_path / "old", "model.safetensors")
    (old / "pytorch_model.bin").write_text("weights")
    assert find("en", old) is not None


@pytest.mark.parametrize(
    "name", ["nothing", "../x", "a/b/c", "a b/c", "/nowhere", "WAV2VEC2_BASE", "x\\y/z", "a/b--c"]
)
def test_a_name_that_can_be_none_is_a_usage_error(name: str) -> None:
    with pytest.raises(UsageError, match=r"WAV2VEC2_ASR_BASE_960H|can be no repository"):
        find("en", name)


@pytest.mark.parametrize("language", ["en", "de", "ja", "nl"])
def test_offline_without_the_aligner_says_how_to_go_on(tmp_path: Path, language: str) -> None:
    with pytest.raises(SetupError, match=r"not on this machine in .*--no-align"):
        find(language, model_dir=tmp_path)


def test_a_bundle_is_found_where_torch_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TORCH_HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = tmp_path / "torch" / "hub" / "checkpoints" / aligners.BUNDLES["WAV2VEC2_ASR_BASE_960H"]
    path.parent.mkdir(parents=True)
    path.write_bytes(b"weights")
    for found in (find("en"), find("fr", "WAV2VEC2_ASR_BASE_960H")):
        assert found is not None
        assert (found.path, found.kind) == (path, "torchaudio")
        assert found.identity == "torchaudio:WAV2VEC2_ASR_BASE_960H"
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "other"))
    with pytest.raises(SetupError, match="not on this machine"):
        find("en")


def test_a_bundle_that_cannot_be_fetched_leaves_nothing_behind(
    tmp_path: Path, nobody_listens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    for key in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(key, f"http://127.0.0.1:{nobody_listens}")
    for key in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(key, raising=False)
    with pytest.raises(SetupError, match=r"could not be fetched.*Check the network"):
        find("en", model_dir=tmp_path / "models", offline=False, say=said.append)
    assert said == [
        "Fetching the aligner 'WAV2VEC2_ASR_BASE_960H'; this can take minutes, but only once."
    ]
    assert list((tmp_path / "models").iterdir()) == []


class _Server(http.server.BaseHTTPRequestHandler):
    """A hub on loopback with one aligner in each form, and a server of plain files."""

    repositories: ClassVar = {
        "owner/new": [*PARTS, "pytorch_model.bin"],
        "owner/old": [*PARTS[:3], "pytorch_model.bin"],
        "owner/other": [*PARTS[:2], "model.safetensors"],
    }
    asked: ClassVar[list[str]] = []

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        self.asked.append(self.path)
        parts = self.path.strip("/").split("/")
        name = "/".join(parts[2:4] if parts[0] == "api" else parts[:2])
        if "gated" in self.path:
            self._send(403, b"{}", body, {"X-Error-Code": "GatedRepo"})
        elif parts[0] == "api" and name in self.repositories:
            siblings = [{"rfilename": file} for file in self.repositories[name]]
            text = {"id": name, "sha": "c" * 40, "siblings": siblings}
            self._send(200, json.dumps(text).encode(), body, {})
        elif name in self.repositories and parts[-1] in self.repositories[name]:
            etag = {"ETag": f'"{parts[-1]}"', "X-Repo-Commit": "c" * 40}
            self._send(200, parts[-1].encode(), body, etag)
        elif parts[-1] == "short.pth":
            self._send(200, b"half", body, {}, declared=8)
        elif parts[-1] == "whole.pth":
            self._send(200, b"weights", body, {})
        else:
            self._send(404, b"{}", body, {"X-Error-Code": "RepoNotFound"})

    def _send(
        self, code: int, data: bytes, body: bool, headers: dict[str, str], declared: int = 0
    ) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(declared or len(data)))
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Server)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{made.server_address[1]}"
    made.shutdown()
    made.server_close()


def test_a_file_is_fetched_whole_or_not_at_all(server: str, tmp_path: Path) -> None:
    aligners.download(f"{server}/whole.pth", tmp_path / "a" / "whole.pth", what="aligner")
    assert (tmp_path / "a" / "whole.pth").read_bytes() == b"weights"
    with pytest.raises(SetupError, match="4 of 8 bytes"):
        aligners.download(f"{server}/short.pth", tmp_path / "short.pth", what="aligner")
    with pytest.raises(SetupError, match="HTTP 404"):
        aligners.download(f"{server}/none.pth", tmp_path / "none.pth", what="aligner")
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError, match="cannot be stored"):
        aligners.download(f"{server}/whole.pth", tmp_path / "file" / "x.pth", what="aligner")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "file"]


ASK = """
import json, sys
from pathlib import Path
from audio_batch.engines.aligners import find_aligner
from audio_batch.errors import AudioBatchError
answers = []
for language, name in json.loads(sys.argv[2]):
    try:
        found = find_aligner(
            language, align_model=name, model_dir=Path(sys.argv[1]), offline=False, token=None
        )
        files = sorted(path.name for path in found.path.iterdir())
        answers.append([found.identity, str(found.path), files])
    except AudioBatchError as error:
        answers.append([type(error).__name__, str(error)])
heavy = [n for n in ("torch", "torchaudio", "transformers", "whisperx") if n in sys.modules]
print(json.dumps([answers, heavy]))
"""


def ask(endpoint: str, base: Path, *questions: tuple[str, str | None]) -> list[Any]:
    """Answers of a process of its own, since the hub's address is read when it is imported."""
    env = environment(HF_HUB_OFFLINE="0", HF_ENDPOINT=endpoint, HF_HOME=str(base / "home"))
    done = subprocess.run(
        [sys.executable, "-c", ASK, str(base / "models"), json.dumps(questions)],
        env={key: value for key, value in env.items() if key != "HF_TOKEN"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=600,
        check=True,
    )
    answers, heavy = json.loads(done.stdout)
    assert heavy == []
    return list(answers)


def test_what_the_hub_gives_and_what_it_refuses(
    server: str, nobody_listens: int, tmp_path: Path
) -> None:
    _Server.asked.clear()
    answers = ask(
        server,
        tmp_path,
        ("en", "owner/new"),
        ("de", "owner/old"),
        ("en", "owner/other"),
        ("en", "owner/gated"),
        ("ja", None),
        ("fr", "owner/new"),
        ("en", "owner/old"),
    )
    assert answers[0][0] == f"owner/new@{'c' * 16}"
    assert answers[0][2] == sorted(PARTS)  # not the same weights once more
    assert answers[1][2] == sorted([*PARTS[:3], "pytorch_model.bin"])
    for answer, text in zip(
        answers[2:5], ["without its vocab.json", "Accept its terms", "no repository"], strict=True
    ):
        assert answer[0] == "SetupError"
        assert text in answer[1]
    assert answers[5:] == answers[:2]
    assert sum("/api/models/owner/new/" in path for path in _Server.asked) == 1
    silent = ask(f"http://127.0.0.1:{nobody_listens}", tmp_path, ("en", "owner/unheard"))
    assert silent[0][0] == "SetupError"
    assert "did not answer" in silent[0][1]
    assert "--no-align" in silent[0][1]
