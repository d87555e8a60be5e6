"""What runs: no shell, no pickle that nobody named, no module of the current folder."""

from __future__ import annotations

import ast
import http.server
import os
import pickle
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from packaging.requirements import Requirement
from packaging.version import Version
from program import PROJECT, Answer, environment, write_manifest

import audio_batch
from audio_batch import diarization_models, hub, models
from audio_batch.errors import SetupError, UsageError

Cli = Callable[..., Answer]
PACKAGE = Path(audio_batch.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))


# --- the package's own code ------------------------------------------------------------------

FORBIDDEN = {
    *(
        "eval",
        "exec",
        "os.system",
        "os.popen",
        "subprocess.getoutput",
        "subprocess.getstatusoutput",
    ),
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "yaml.load", "torch.load"),
    *("yaml.full_load", "yaml.unsafe_load", "torch.hub.load", "tempfile.mktemp", "numpy.load"),
    *("xml.etree.ElementTree.parse", "os.startfile", "np.load"),
}
UNPICKLERS = {"marshal", "shelve", "dill", "cloudpickle", "joblib"}
STARTERS = {"run", "Popen", "call", "check_call", "check_output"}


def _name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_name(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def _faults(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            # By its own name: so that the calls below are found. Writing a pickle is harmless.
            hidden = isinstance(node, ast.ImportFrom) or any(a.asname for a in node.names)
            names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
            if names & ({*UNPICKLERS, "pickle"} if hidden else UNPICKLERS):
                yield f"{node.lineno}: imports {names}"
        if not isinstance(node, ast.Call):
            continue
        name = _name(node.func)
        if name in FORBIDDEN or name.startswith(("os.spawn", "os.exec")):
            yield f"{node.lineno}: {name}"
        for keyword in node.keywords:
            value = getattr(keyword.value, "value", True)
            if keyword.arg in ("shell", "trust_remote_code", "allow_pickle") and value:
                yield f"{node.lineno}: {keyword.arg}"
            if keyword.arg == "weights_only" and not value:
                yield f"{node.lineno}: weights_only=False"
        if name in {f"subprocess.{starter}" for starter in STARTERS}:
            line = node.args[0] if node.args else None
            if isinstance(line, ast.Constant | ast.JoinedStr | ast.BinOp | ast.Call):
                yield f"{node.lineno}: a command line that is no list of arguments"
            if name == "subprocess.run" and "timeout" not in {k.arg for k in node.keywords}:
                yield f"{node.lineno}: a command that may take for ever"


BETWEEN_OUR_OWN = {
    # The driver and its actors, over the cluster that the person named: Ray itself pickles there.
    ("pools/ray_actor.py", "pickle.loads"),
    ("pools/ray_pool.py", "pickle.loads"),
}


def test_the_package_starts_no_shell_and_reads_no_pickle() -> None:
    found = [
        f"{path.relative_to(PACKAGE)}:{fault}"
        for path in SOURCES
        for fault in _faults(ast.parse(path.read_text(encoding="utf-8")))
        if (path.relative_to(PACKAGE).as_posix(), fault.partition(": ")[2]) not in BETWEEN_OUR_OWN
    ]
    assert found == []


@pytest.mark.parametrize(
    "code",
    [
        "subprocess.run(['ls'], shell=True, timeout=1)",
        "subprocess.run(f'ls {name}', timeout=1)",
        "subprocess.run(['ls'])",
        "os.system('ls')",
        "from pickle import loads",
        "import pickle as harmless",
        "pickle.load(file)",
        "yaml.load(text)",
        "torch.load(path, weights_only=False)",
        "model.from_pretrained(name, trust_remote_code=True)",
    ],
)
def test_the_walk_would_find(code: str) -> None:
    assert list(_faults(ast.parse(code)))


def test_the_torch_that_is_asked_for_does_not_run_pickles_by_default() -> None:
    import tomllib

    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    torch = next(r for r in map(Requirement, project["dependencies"]) if r.name == "torch")
    assert not torch.specifier.contains(Version("2.5.1"))
    assert not torch.specifier.contains(Version("2.5.99"))


@pytest.mark.parametrize("first", ["signal", "pickle"])
def test_a_process_of_ours_takes_no_module_from_the_current_folder(
    tmp_path: Path, first: str
) -> None:
    program = tmp_path / "bin" / "program.py"
    program.parent.mkdir()
    program.write_text(
        "import multiprocessing\n"
        "from audio_batch.logs import quieten\n"
        "if __name__ == '__main__':\n"
        "    quieten()\n"
        "    child = multiprocessing.get_context('spawn').Process(target=len, args=((),))\n"
        "    child.start(); child.join(200)\n"
    )
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / f"{first}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    subprocess.run(
        [sys.executable, program], cwd=folder, env=environment(), timeout=240, check=True
    )
    assert not (tmp_path / "ran").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="there the system keeps what is reported")
def test_the_library_that_hears_speech_reports_nothing(tmp_path: Path) -> None:
    """ONNX Runtime keeps what it has to report, and its own id of the machine, in the cache."""
    program = (
        "from audio_batch.logs import quieten; quieten()\n"
        "import numpy; from audio_batch.engines import silero\n"
        "print(len(list(silero.probabilities(numpy.zeros(16_000, numpy.float32)))))\n"
    )
    cache = {"XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path), "ORT_DISABLE_TELEMETRY": "0"}
    heard = subprocess.run(
        [sys.executable, "-c", program],
        env={**environment(), **cache},
        capture_output=True,
        timeout=240,
        check=True,
    )
    assert int(heard.stdout) == 32
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


# --- pickles ---------------------------------------------------------------------------------


class _Bomb:
    """A pickle that leaves a mark where it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.mark),))


def pipeline(folder: Path, mark: Path, *, embedding: str = "$model/embedding") -> Path:
    """A copy of the demonstration pipeline whose checkpoints run code."""
    shutil.copytree(diarization_models.demo_path(), folder)
    config = (folder / "config.yaml").read_text()
    changed = re.sub(r"\$model/embedding", embedding, config)
    assert changed.count(embedding) == 1
    (folder / "config.yaml").write_text(changed)
    for part in folder.rglob("pytorch_model.bin"):
        part.write_bytes(pickle.dumps(_Bomb(mark)))
    return folder


@pytest.fixture
def night(tmp_path: Path) -> Path:
    write_manifest(tmp_path, 1)
    return tmp_path


RUN = ("run", "manifest.json", "--engine", "null", "-y", "-o", "out")
DEFAULT = diarization_models.DEFAULT_DIARIZATION_MODEL


def test_a_folder_called_like_the_default_model_is_not_it(
    night: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline(night / DEFAULT, night / "ran")
    monkeypatch.chdir(night)
    with pytest.raises(SetupError, match="is not on this machine"):
        diarization_models.find_diarization(
            DEFAULT, model_dir=night / "none", offline=True, token=None
        )


def test_nor_is_it_where_a_person_names_that_model(cli: Cli, night: Path) -> None:
    pipeline(night / DEFAULT, night / "ran")
    env = {"HF_HOME": str(night / "home")}
    answer = cli(*RUN, "--diarize", "--diarize-model", DEFAULT, env=env)
    assert not (night / "ran").exists()
    assert answer.code == 5
    assert "is not on this machine" in answer.err


def test_a_part_is_not_looked_for_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = pipeline(tmp_path / "mine", tmp_path / "ran", embedding="owner/voices")
    (tmp_path / "here/owner/voices").mkdir(parents=True)
    (tmp_path / "here/owner/voices/pytorch_model.bin").write_bytes(b"")
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(SetupError, match="'owner/voices', a part of"):
        diarization_models.find_diarization(
            str(mine), model_dir=tmp_path / "none", offline=True, token=None
        )


@pytest.mark.parametrize(
    "setting",
    [
        'diarize-model = "./voices"',
        'diarize-model = "someone/voices"',
        'model-dir = "models"',
        'log-file = "../.profile"',
    ],
)
def test_a_found_configuration_can_have_no_code_run(cli: Cli, night: Path, setting: str) -> None:
    pipeline(night / "voices", night / "ran")
    (night / "audio-batch.toml").write_text(setting + "\n")
    answer = cli(*RUN)
    assert answer.code == 2
    assert "--config audio-batch.toml" in answer.err
    assert not (night / "ran").exists()


@pytest.mark.parametrize(
    "setting",
    [
        'results-db = "postgresql://example.org/${HF_TOKEN}"',
        's3-endpoint = "http://example.org"',
        'ray-address = "ray://example.org:10001"',
        "allow-http = true",
        "allow-private-addresses = true",
        'aws-profile = "production"',
        'output-dir = "s3://example/out"',
    ],
)
def test_a_found_configuration_reaches_no_other_machine(
    cli: Cli, night: Path, setting: str
) -> None:
    (night / "audio-batch.toml").write_text(setting + "\n")
    answer = cli(*RUN)
    assert answer.code == 2
    assert setting.partition(" ")[0] in answer.err
    assert "--config audio-batch.toml" in answer.err


def test_a_configuration_that_is_found_is_told(cli: Cli, night: Path) -> None:
    settings = 'diarize-model = "demo"\nlog-file = "logs/x.log"\noutput-dir = "/nowhere"\n'
    (night / "audio-batch.toml").write_text(settings)
    answer = cli(*RUN, "--no-diarize")
    assert answer.code == 0, answer.err
    assert "Settings from audio-batch.toml." in answer.err
    assert (night / "logs/x.log").is_file()


@pytest.mark.slow
def test_what_a_person_names_is_loaded_and_a_bomb_is_theirs(cli: Cli, night: Path) -> None:
    """Why the rest of this matters: pyannote loads what it is given, code and all."""
    pipeline(night / "voices", night / "ran")
    cli(*RUN, "--diarize", "--diarize-model", "./voices")
    assert (night / "ran").exists()


# --- revisions -------------------------------------------------------------------------------


class _Hub(http.server.BaseHTTPRequestHandler):
    asked: ClassVar[list[str]] = []

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(404)
        self.send_header("X-Error-Code", "RevisionNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_models_that_come_with_the_program_are_fetched_at_one_commit() -> None:
    named = {*models.REPOSITORIES.values(), DEFAULT}
    assert named == set(hub.PINNED)
    assert all(re.fullmatch("[0-9a-f]{40}", commit) for commit in hub.PINNED.values())
    assert len(set(hub.PINNED.values())) == len(hub.PINNED)


COMMIT = "0123456789abcdef" * 2 + "01234567"


@pytest.mark.parametrize(
    ("name", "use", "repository", "commit"),
    [
        ("tiny", "recognition", "Systran/faster-whisper-tiny", None),
        (f"tiny@{COMMIT}", "recognition", "Systran/faster-whisper-tiny", COMMIT),
        (DEFAULT, "diarization", DEFAULT, None),
        (f"owner/name@{COMMIT}", "diarization", "owner/name", COMMIT),
        (f"owner/name@{COMMIT}", "alignment", "owner/name", COMMIT),
    ],
)
def test_the_hub_is_asked_for_that_commit(
    cli: Cli, tmp_path: Path, name: str, use: str, repository: str, commit: str | None
) -> None:
    _Hub.asked.clear()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}"
        online = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "home")}
        answer = cli("models", "pull", name, "--for", use, env=online)
        server.shutdown()
    assert answer.code == 5
    assert "owner/name@commit" in answer.err
    wanted = commit or hub.PINNED[repository]
    assert _Hub.asked
    assert all(path.startswith(f"/api/models/{repository}/") for path in _Hub.asked)
    assert all(wanted in path for path in _Hub.asked)


@pytest.mark.parametrize(
    "name", ["tiny@main", "owner/name@v1", "o/n@" + "g" * 40, "a\x1b/b", "a/b c"]
)
def test_what_can_be_moved_or_is_no_name_is_no_revision(name: str) -> None:
    with pytest.raises(UsageError):
        models.find(name, offline=True)


# --- scripts ---------------------------------------------------------------------------------


@pytest.mark.skipif(os.name == "nt", reason="a shell script")
def test_the_nightly_script_takes_a_path_for_a_path(tmp_path: Path) -> None:
    wild = tmp_path / "a b; touch ran; $(touch ran) `touch ran` 'q' \"d\" *"
    wild.mkdir()
    program = tmp_path / "bin" / "audio-batch"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\nfor one; do printf "%s\\n" "$one"; done\nexit 3\n')
    program.chmod(0o755)
    script = shutil.copy(PROJECT / "examples/night.sh", wild / "night.sh")
    manifest, output = str(wild / "m;$(touch ran).json"), str(wild / "-out")
    done = subprocess.run(
        ["sh", str(script), manifest, output, "--where", "$(id) *"],
        cwd=tmp_path,
        env={**environment(), "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )  # fmt: skip
    assert done.returncode == 3
    assert not list(tmp_path.rglob("ran"))
    lines = Path(output, "night.log").read_text().splitlines()
    asked = ["run", manifest, "-o", output, "-y", "--where"]
    assert lines == [*asked, "$(id) *"]
    assert output in done.stderr.splitlines()


def test_the_batch_file_quotes_every_path() -> None:
    text = (PROJECT / "examples/run_batch.bat").read_text(encoding="utf-8")
    for line in text.splitlines():
        if line.lstrip().lower().startswith("rem"):
            continue
        bare = re.sub(r'"[^"]*"', "", line)
        names = set(re.findall(r"%~?\w+%?|%\*", bare))
        assert names <= {"%THREADS%", "%MAX_PER_GPU%", "%CODE%", "%DATE%", "%TIME%", "%*"}, line
    assert "DisableDelayedExpansion" in text
