"""Finding diarization models: folders, the hub and its refusals, tokens."""

from __future__ import annotations

import http.server
import importlib.util
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from program import environment

from audio_batch import diarization_models as found
from audio_batch.errors import SetupError, UsageError

PIPELINE = """
pipeline:
  name: pyannote.audio.pipelines.SpeakerDiarization
  params: {clustering: VBxClustering, segmentation: $model/segmentation,
           embedding: $model/embedding, plda: $model/plda}
"""
PARTS = {
    "config.yaml": PIPELINE.encode(),
    "segmentation/pytorch_model.bin": b"segmentation",
    "embedding/pytorch_model.bin": b"embedding",
    "plda/xvec_transform.npz": b"transform",
    "plda/plda.npz": b"plda",
}
COMPOSED = b"""
version: 3.1.0
pipeline:
  name: pyannote.audio.pipelines.SpeakerDiarization
  params: {clustering: AgglomerativeClustering, segmentation: owner/ears,
           embedding: owner/voices}
"""


def folder(path: Path, **changed: bytes | None) -> Path:
    """A pipeline folder; a part that is changed to None is left out."""
    for name, content in {**PARTS, **{k.replace("__", "/"): v for k, v in changed.items()}}.items():
        if content is not None:
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(content)
    return path


def find(name: object, **place: Any) -> found.DiarizationReference:
    options = {"model_dir": None, "offline": True, "token": None, **place}
    return found.find_diarization(str(name), **options)


def test_a_local_folder_is_found_with_its_parts(tmp_path: Path) -> None:
    reference = find(folder(tmp_path / "p"))
    base = (tmp_path / "p").resolve()
    assert (reference.path, reference.segmentation) == (base, base / "segmentation")
    assert (reference.embedding, reference.plda) == (base / "embedding", base / "plda")
    assert (reference.link_threshold, reference.is_demo) == (None, False)


def test_identity_is_of_the_content_and_not_of_place_or_thresholds(tmp_path: Path) -> None:
    one, two = folder(tmp_path / "a"), folder(tmp_path / "b")
    (two / "voices.json").write_text('{"embedding": "tiny", "link_threshold": 0.4}')
    assert find(one).identity == find(two).identity
    assert (find(two).embedding_name, find(two).link_threshold) == ("tiny", 0.4)
    (two / "plda" / "plda.npz").write_bytes(b"other")
    assert find(one).identity != find(two).identity


@pytest.mark.parametrize(
    "text",
    ["[]", "{", '{"link_threshold": 3}', '{"enrol_threshold": "x"}', '{"link_threshold": []}'],
)
def test_thresholds_that_are_none_are_refused(tmp_path: Path, text: str) -> None:
    (folder(tmp_path / "p") / "voices.json").write_text(text)
    with pytest.raises(SetupError, match=r"voices\.json is not understood"):
        find(tmp_path / "p")


def test_the_segmentation_that_whisperx_carries_is_found_without_importing_it(
    tmp_path: Path,
) -> None:
    config = PIPELINE.replace("$model/segmentation", "$whisperx/assets/pytorch_model.bin")
    reference = find(folder(tmp_path / "p", **{"config.yaml": config.encode()}))
    spec = importlib.util.find_spec("whisperx")
    assert spec is not None
    assert spec.origin is not None
    assert reference.segmentation == Path(spec.origin).parent / "assets" / "pytorch_model.bin"
    assert reference.segmentation.stat().st_size > 1_000_000
    code = (
        "import sys; from audio_batch.diarization_models import find_diarization;"
        "find_diarization(sys.argv[1], model_dir=None, offline=True, token=None);"
        "sys.exit('whisperx' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "p")]
    assert subprocess.run(command, env=environment(), check=False).returncode == 0


def test_parts_may_be_named_by_path(tmp_path: Path) -> None:
    other = tmp_path / "other" / "net.bin"
    other.parent.mkdir()
    other.write_bytes(b"net")
    config = PIPELINE.replace("$model/embedding", str(other).replace("\\", "/"))
    config = config.replace("$model/segmentation", "{checkpoint: $model, subfolder: segmentation}")
    reference = find(folder(tmp_path / "p", **{"config.yaml": config.encode()}))
    assert reference.embedding == other.resolve()
    assert reference.segmentation.name == "segmentation"


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"config.yaml": None}, r"has no config\.yaml"),
        ({"config.yaml": b"\xff\xfe\x00"}, "cannot be read"),
        ({"config.yaml": b"a: [b"}, "cannot be read"),
        ({"config.yaml": b"[" * 99999}, "cannot be read"),
        ({"config.yaml": PIPELINE.replace("$model/plda", "x" * 999).encode()}, "cannot be read"),
        ({"config.yaml": b""}, "describes no pipeline"),
        ({"config.yaml": b"pipeline: 7"}, "describes no pipeline"),
        ({"config.yaml": b"pipeline: {name: 7, params: []}"}, "describes no pipeline"),
        ({"config.yaml": b"pipeline: {name: os.system}"}, "no speaker diarization"),
        ({"config.yaml": PIPELINE.replace("$model/plda", "7").encode()}, "names no plda model"),
        ({"config.yaml": PIPELINE.replace("$model/plda", "/no").encode()}, "no plda model"),
        ({"plda__plda.npz": None}, r"there is no plda\.npz"),
        ({"embedding__pytorch_model.bin": None}, "has no embedding model"),
    ],
)
def test_an_unusable_folder_is_named_with_what_is_wrong(
    tmp_path: Path, changed: dict[str, bytes | None], text: str
) -> None:
    with pytest.raises(SetupError, match=text) as caught:
        find(folder(tmp_path / "p", **changed))
    assert caught.value.remedy
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "nothing",
        "../x",
        "a/b/c",
        "/nowhere/at/all",
        "a/b--c",
        "o/n@2",
        "~nobody/x",
        "y" * 999,
        "a\0/b",
    ],
)
def test_a_name_that_can_be_none_is_a_usage_error(name: str) -> None:
    with pytest.raises(UsageError, match=r"no such folder|can be no repository"):
        find(name)


def test_a_token_is_read_from_its_file_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_environment")
    assert found.read_token(None) == "hf_environment"
    file = tmp_path / "tökén"
    file.write_bytes(b"\xef\xbb\xbf  hf_file\r\n")
    assert found.read_token(file) == "hf_file"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"hf_one\nhf_two", "something else"),
        (b"\xff\xfehf", "something else"),
        (b"hf_\x1b[31m", "something else"),
        (b"x" * 9999, "something else"),
    ],
)
def test_a_token_file_that_holds_none_is_refused_without_showing_it(
    tmp_path: Path, content: bytes, text: str
) -> None:
    file = tmp_path / "token"
    file.write_bytes(content)
    with pytest.raises(UsageError, match=text) as caught:
        found.read_token(file)
    assert "hf_" not in str(caught.value)


def test_a_token_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(UsageError, match="cannot be read"):
            found.read_token(path)


def test_a_token_in_the_environment_that_can_be_none_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_two words")
    with pytest.raises(UsageError, match="can be no token") as caught:
        found.read_token(None)
    assert "words" not in str(caught.value)


class _Hub(http.server.BaseHTTPRequestHandler):
    """A hub on loopback that answers as the real one does, with gates."""

    repositories: ClassVar[dict[str, dict[str, bytes]]] = {
        "owner/whole": PARTS,
        "owner/open": PARTS,
        "owner/torn": {k: v for k, v in PARTS.items() if "plda/" not in k},
        "owner/composed": {"config.yaml": COMPOSED},
        "owner/ears": {"pytorch_model.bin": b"ears", "config.yaml": b"{}"},
        "owner/voices": {"pytorch_model.bin": b"voices", "README.md": b"#"},
        "owner/fine": PARTS,
    }
    accepted: ClassVar[dict[str, set[str]]] = {
        "hf_all": {"owner/whole", "owner/composed", "owner/ears", "owner/fine"},
        "hf_some": {"owner/composed"},
        "hf_new": set(),
    }
    asked: ClassVar[list[str]] = []

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        self.asked.append(self.path)
        token = self.headers.get("Authorization", "").removeprefix("Bearer ") or None
        api = "/api/models/"
        repository = "/".join(self.path.removeprefix(api).strip("/").split("/")[:2])
        files = self.repositories.get(repository)
        if token is not None and token not in self.accepted:
            reason = {"X-Error-Message": "Invalid credentials in Authorization header"}
            self._send(401, b"{}", body, reason)
        elif files is None:
            self._send(404 if token else 401, b"{}", body, {"X-Error-Code": "RepoNotFound"})
        elif self.path.startswith(api):
            siblings = [{"rfilename": name} for name in files]
            text = {"id": repository, "sha": "a" * 40, "siblings": siblings}
            self._send(200, json.dumps(text).encode(), body, {})
        elif repository == "owner/fine" and token == "hf_all":
            reason = {"X-Error-Message": "Please enable access to public gated repositories"}
            self._send(403, b"{}", body, reason)
        elif repository not in {"owner/open", "owner/torn", "owner/voices"} and (
            token is None or repository not in self.accepted[token]
        ):
            self._send(403 if token else 401, b"{}", body, {"X-Error-Code": "GatedRepo"})
        else:
            name = self.path.split("?")[0].partition("/resolve/")[2].partition("/")[2]
            etag = {"ETag": f'"{abs(hash((repository, name)))}"', "X-Repo-Commit": "a" * 40}
            self._send(200, files[name], body, etag)

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


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


ASK = """
import json, sys
from pathlib import Path
from audio_batch import diarization_models as found
from audio_batch.errors import AudioBatchError
answers = {}
for label, call, name, place in json.load(sys.stdin):
    place["model_dir"] = Path(place["model_dir"])
    try:
        if call == "is_available":
            answers[label] = found.is_available(name, **place)
        else:
            reference = found.find_diarization(name, **place)
            answers[label] = [str(reference.path), str(reference.embedding), reference.identity]
    except AudioBatchError as error:
        answers[label] = f"{int(error.exit_code)} {error}"
json.dump(answers, sys.stdout)
"""


def ask(endpoint: str, base: Path, *questions: tuple[str, str, str, dict[str, Any]]) -> Any:
    """Answers from a process of its own, since the hub's address is read when it is imported."""
    filled = [
        (label, call, name, {"model_dir": str(base / "m"), "offline": False, "token": None, **more})
        for label, call, name, more in questions
    ]
    env = environment(HF_HUB_OFFLINE="0", HF_ENDPOINT=endpoint, HF_HOME=str(base / "home"))
    done = subprocess.run(
        [sys.executable, "-c", ASK],
        input=json.dumps(filled),
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={key: value for key, value in env.items() if key != "HF_TOKEN"},
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "hf_" not in done.stdout + done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def answers(hub: str, nobody_listens: int, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the hub's refusals become, and what it gives."""
    base = tmp_path_factory.mktemp("hub")
    some, every, new, bad = ({"token": f"hf_{name}"} for name in ("some", "all", "new", "bad"))
    offline = {"offline": True}
    (base / "file").write_text("no folder")
    first = ask(
        hub,
        base,
        ("no token", "find", "owner/whole", {}),
        ("bad token", "find", "owner/whole", bad),
        ("not accepted", "find", "owner/whole", new),
        ("fine-grained", "find", "owner/fine", every),
        ("unknown", "find", "owner/none", every),
        ("unknown or private", "find", "owner/none", {}),
        ("offline", "find", "owner/whole", offline),
        ("part gated", "find", "owner/composed", some),
        ("part gated, offline", "find", "owner/composed", offline),
        ("torn", "find", "owner/torn", {}),
        ("may be fetched", "is_available", "owner/whole", every),
        ("may not be fetched", "is_available", "owner/whole", {}),
        ("may not be asked", "is_available", "owner/whole", {**every, **offline}),
        ("no place", "find", "owner/open", {"model_dir": str(base / "file" / "m")}),
        ("here", "find", "owner/whole", every),
        ("open", "find", "owner/open", {}),
        ("composed", "find", "owner/composed", every),
    )
    Path(first["open"][1], "pytorch_model.bin").unlink()  # as if the download had been killed
    mended = ask(hub, base, ("mended", "find", "owner/open", {}))
    _Hub.asked.clear()
    again = ask(
        f"http://127.0.0.1:{nobody_listens}",
        base,
        ("again", "find", "owner/whole", {}),
        ("again, offline", "find", "owner/whole", offline),
        ("composed again", "find", "owner/composed", offline),
        ("available", "is_available", "owner/whole", offline),
        ("no network", "find", "owner/other", every),
    )
    return {**first, **mended, **again, "base": base, "asked again": list(_Hub.asked)}


@pytest.mark.parametrize(
    ("case", "sentence", "remedy"),
    [
        ("no token", "no token", "https://huggingface.co/owner/whole"),
        ("bad token", "does not accept the token", "settings/tokens"),
        ("not accepted", "has not accepted its terms", "https://huggingface.co/owner/whole"),
        ("fine-grained", "HTTP 403", "settings/tokens"),
        ("unknown", "no repository 'owner/none'", "Check the name"),
        ("unknown or private", "without a token", "--hf-token-file"),
        ("offline", "--offline", "--diarize-model demo"),
        ("part gated", "'owner/ears', a part of", "https://huggingface.co/owner/ears"),
        ("part gated, offline", "'owner/ears', a part of", "--diarize-model demo"),
        ("torn", "without its plda/xvec_transform.npz", "pyannote.audio 4"),
        ("no place", "cannot be stored in", "--model-dir"),
        ("no network", "hub did not answer", "Check the network"),
    ],
)
def test_each_refusal_is_exit_5_with_the_remedy(
    answers: Any, case: str, sentence: str, remedy: str
) -> None:
    assert answers[case].startswith("5 ")
    assert sentence in answers[case]
    assert remedy in answers[case]


def test_a_model_is_fetched_once_and_then_found_without_the_hub(answers: Any) -> None:
    assert Path(answers["here"][0], "plda", "plda.npz").read_bytes() == b"plda"
    assert answers["again"] == answers["again, offline"] == answers["here"]
    assert answers["open"][2] == answers["here"][2]
    assert answers["asked again"] == []


def test_a_download_that_was_cut_short_is_completed(answers: Any) -> None:
    assert answers["mended"] == answers["open"]


def test_repositories_that_a_pipeline_names_are_fetched_too(answers: Any) -> None:
    embedding = Path(answers["composed"][1])
    assert (embedding / "pytorch_model.bin").read_bytes() == b"voices"
    assert not (embedding / "README.md").exists()
    assert answers["composed again"] == answers["composed"]


def test_availability_is_told_without_the_network(answers: Any) -> None:
    assert answers["available"][0] is True
    assert answers["may be fetched"][0] is True
    for case in ("may not be fetched", "may not be asked"):
        assert answers[case][0] is False
    assert "https://huggingface.co/owner/whole" in answers["may not be fetched"][1]
    assert "offline" in answers["may not be asked"][1]


def test_a_local_folder_is_available_or_says_why_not(tmp_path: Path) -> None:
    place: dict[str, Any] = {"model_dir": None, "offline": False, "token": "hf_x"}
    assert found.is_available(str(folder(tmp_path / "p")), **place)[0]
    (tmp_path / "p" / "plda" / "plda.npz").unlink()
    yes, why = found.is_available(str(tmp_path / "p"), **place)
    assert (yes, "plda.npz" in why) == (False, True)
