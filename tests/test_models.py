"""Finding models: names, folders, the cache, and what is said where there is none."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from audio_batch import models
from audio_batch.errors import SetupError, UsageError


def folder(path: Path, **files: str) -> Path:
    path.mkdir(parents=True)
    for name, text in {"model.bin": "weights", "config.json": "{}", "tokenizer.json": "{}"}.items():
        (path / name).write_text(text)
    for name, text in files.items():
        (path / name.replace("_json", ".json")).write_text(text)
    return path


def test_the_table_of_names_is_the_librarys() -> None:
    from faster_whisper.utils import _MODELS

    assert models.REPOSITORIES == _MODELS


def test_the_demo_model_is_there_small_and_named_for_what_it_is() -> None:
    found = models.find("demo")
    assert found.is_demo
    size = sum(path.stat().st_size for path in found.path.rglob("*") if path.is_file())
    assert size <= 6_000_000
    assert "digits" in models.DEMO_NOTICE
    assert models.find(str(found.path)).is_demo


def test_identity_is_of_the_content_and_not_of_the_place(tmp_path: Path) -> None:
    one, two = folder(tmp_path / "a"), folder(tmp_path / "b")
    assert models.describe("a", one).identity == models.describe("b", two).identity
    (two / "model.bin").write_text("weightz")
    assert models.describe("a", one).identity != models.describe("b", two).identity


def test_a_folder_carries_its_own_decoding_defaults(tmp_path: Path) -> None:
    path = folder(tmp_path / "m", decoding_json='{"beam_size": 2, "temperature": 0.0}')
    assert models.find(str(path)).defaults == {"beam_size": 2, "temperature": (0.0,)}


def test_defaults_that_are_not_known_are_refused(tmp_path: Path) -> None:
    path = folder(tmp_path / "m", decoding_json='{"beams": 2}')
    with pytest.raises(SetupError, match="beams"):
        models.find(str(path))


def test_a_default_of_a_wrong_type_is_refused(tmp_path: Path) -> None:
    path = folder(tmp_path / "m", decoding_json='{"beam_size": "five"}')
    with pytest.raises(SetupError, match=r"beam_size.*Mend it"):
        models.find(str(path))


def test_a_known_name_is_never_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder(tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SetupError, match="not on this machine"):
        models.find("tiny", model_dir=tmp_path / "none", offline=True)
    assert models.find("./tiny").path == (tmp_path / "tiny").resolve()


@pytest.mark.parametrize(
    ("name", "can"),
    [
        ("large-v3", True),
        ("large-v3-turbo", False),
        ("small.en", False),
        ("distil-large-v3", False),
    ],
)
def test_what_was_not_trained_to_translate_is_known_by_name(name: str, can: bool) -> None:
    assert models.ModelReference(name, Path(), "id").can_translate is can


@pytest.mark.parametrize("missing", ["model.bin", "config.json", "tokenizer.json"])
def test_an_incomplete_folder_is_named_with_the_remedy(tmp_path: Path, missing: str) -> None:
    path = folder(tmp_path / "m")
    (path / missing).unlink()
    with pytest.raises(SetupError, match=rf"no {missing}.*conversion"):
        models.find(str(path))


@pytest.mark.parametrize(
    "name", ["huge", "../x", "a/b/c", "a b/c", "/nowhere/at/all", "x\\y/z", "a/b--c"]
)
def test_a_name_that_can_be_none_is_a_usage_error(name: str) -> None:
    with pytest.raises(UsageError, match=r"large-v3-turbo|can be no repository"):
        models.find(name, offline=True)


def test_offline_without_the_model_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="models pull tiny --model-dir"):
        models.find("tiny", model_dir=tmp_path, offline=True)


def test_a_model_in_the_cache_needs_no_network(tmp_path: Path) -> None:
    cached = tmp_path / "models--Systran--faster-whisper-tiny"
    folder(cached / "snapshots" / "abc")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("abc")
    found = models.find("tiny", model_dir=tmp_path, offline=True)
    assert found.path == (cached / "snapshots" / "abc").resolve()


class _Hub(http.server.BaseHTTPRequestHandler):
    """A hub on loopback that knows one model and answers everything else with a refusal."""

    files: ClassVar = {"config.json": b"{}", "model.bin": b"weights", "tokenizer.json": b"{}"}

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        if "gated" in self.path:
            self._send(403, b"{}", body, {"X-Error-Code": "GatedRepo"})
        elif "/api/models/owner/good" in self.path:
            siblings = [{"rfilename": name} for name in self.files]
            text = {"id": "owner/good", "sha": "a" * 40, "siblings": siblings}
            self._send(200, json.dumps(text).encode(), body, {})
        elif "/owner/good/resolve/" in self.path and self.path.split("/")[-1] in self.files:
            data = self.files[self.path.split("/")[-1]]
            etag = {"ETag": f'"{self.path.split("/")[-1]}"', "X-Repo-Commit": "a" * 40}
            self._send(200, data, body, etag)
        else:
            self._send(404, b"{}", body, {"X-Error-Code": "RepoNotFound"})

    def _send(self, code: int, data: bytes, body: bool, headers: dict[str, str]) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def hub() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_a_model_is_fetched_from_the_hub_once(cli, hub: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    online = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": hub}
    pulled = cli("models", "pull", "owner/good", "--model-dir", tmp_path / "m", env=online)
    assert pulled.code == 0, pulled.err
    assert (Path(pulled.out.strip()) / "model.bin").read_bytes() == b"weights"
    again = cli("models", "path", "owner/good", "--model-dir", tmp_path / "m")
    assert (again.code, again.out) == (0, pulled.out)


@pytest.mark.parametrize(
    ("name", "endpoint", "text"),
    [
        ("owner/gated", None, "Accept its terms"),
        ("owner/none", None, "Check the name"),
        ("owner/good", "http://127.0.0.1:{closed}", "hub did not answer"),
    ],
)
def test_what_the_hub_refuses_is_exit_5_with_the_remedy(  # type: ignore[no-untyped-def]
    cli,
    hub: str,
    nobody_listens: int,
    tmp_path: Path,
    name: str,
    endpoint: str | None,
    text: str,
) -> None:
    where = hub if endpoint is None else endpoint.format(closed=nobody_listens)
    online = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": where}
    answer = cli("models", "pull", name, "--model-dir", tmp_path / "m", env=online)
    assert answer.code == 5
    assert text in answer.err
    assert "Traceback" not in answer.err
