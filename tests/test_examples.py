"""`examples/`: the manifest transcribed for real, every wrapper run, every README line run.

Where a test is not about words, the null engine takes the demonstration model's place (it decodes
the recordings all the same), so that it needs seconds.
"""

from __future__ import annotations

import configparser
import json
import os
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from program import PROJECT, Answer, command, environment

from audio_batch import config
from audio_batch.errors import AssetError, ErrorKind, ExitCode
from audio_batch.media import probe

EXAMPLES = PROJECT / "examples"
MAKER = PROJECT / "scripts" / "make_examples.py"
ASSETS: list[dict[str, Any]] = json.loads((EXAMPLES / "manifest.json").read_text(encoding="utf-8"))[
    "assets"
]
SPOKEN = [asset for asset in ASSETS if asset["id"] != "broken"]
NULL = {"AUDIO_BATCH_ENGINE": "null", "AUDIO_BATCH_MODEL": "null"}
REASON = "broken.wav is not a recording in a format that this program reads."

needs_posix = pytest.mark.skipif(
    os.name != "posix" or shutil.which("sh") is None, reason="needs a POSIX shell"
)


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
    return path


def install(folder: Path) -> Path:
    """The program as a user has it on PATH, with this interpreter."""
    return executable(
        folder / "audio-batch", f'#!/bin/sh\nexec "{sys.executable}" -m audio_batch "$@"\n'
    )


def with_path(folder: Path, **more: str) -> dict[str, str]:
    return environment(PATH=f"{folder}{os.pathsep}{os.environ['PATH']}", **more)


def ended(arguments: Sequence[object], cwd: Path, env: dict[str, str]) -> Answer:
    done = subprocess.run(
        [str(argument) for argument in arguments],
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
        timeout=240,
        check=False,
    )
    return Answer(done.returncode, done.stdout, done.stderr)


def copied(folder: Path) -> Path:
    """The examples as they are shipped, without what somebody's runs left in them."""
    left_out = shutil.ignore_patterns("out", "assets.json", "run_batch.log")
    return Path(shutil.copytree(EXAMPLES, folder, ignore=left_out))


# ---- The recordings and their manifest


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Answer, Path]:
    """The manifest run once, as the README says; its answer and its outputs."""
    folder = copied(tmp_path_factory.mktemp("examples") / "examples")
    answer = ended(command("run", "manifest.json", "-o", "out"), folder, environment())
    return answer, folder / "out"


def test_all_is_done_but_the_broken_one_which_says_why(run: tuple[Answer, Path]) -> None:
    answer, out = run
    assert answer.code == ExitCode.SOME_FAILED, answer.err
    assert REASON in answer.err
    assert "demonstration model" in answer.err
    assert "Traceback" not in answer.err
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert (summary["done"], summary["failed"]) == (len(SPOKEN), 1)
    (failure,) = summary["failures"]
    assert (failure["id"], failure["kind"]) == ("broken", ErrorKind.NOT_MEDIA)
    assert REASON in failure["reason"]
    assert {path.stem for path in out.glob("*.txt")} == {asset["id"] for asset in SPOKEN}
    assert {path.stem for path in out.glob("*.srt")} == {asset["id"] for asset in SPOKEN}


@pytest.mark.parametrize("asset", SPOKEN, ids=[asset["id"] for asset in SPOKEN])
def test_the_words_are_those_that_are_said(run: tuple[Answer, Path], asset: dict[str, Any]) -> None:
    _, out = run
    document = json.loads((out / f"{asset['id']}.json").read_text(encoding="utf-8"))
    heard = " ".join(segment["text"] for segment in document["segments"])
    assert heard.split() == asset["text"].split()
    words = [word["text"] for segment in document["segments"] for word in segment["words"]]
    assert [word.strip() for word in words] == asset["text"].split()
    written = (out / f"{asset['id']}.txt").read_text(encoding="utf-8")
    assert written.split() == asset["text"].split()


@pytest.mark.parametrize("asset", SPOKEN, ids=[asset["id"] for asset in SPOKEN])
def test_a_transcript_carries_its_entry(run: tuple[Answer, Path], asset: dict[str, Any]) -> None:
    _, out = run
    document = json.loads((out / f"{asset['id']}.json").read_text(encoding="utf-8"))
    for name in ("asset_type", "folder_path", "text"):
        assert document["metadata"][name] == asset[name]
    assert document["media"]["state"] == "complete"
    assert document["language"] == "en"


def test_the_recordings_are_what_the_readme_says() -> None:
    table = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    rows = {
        name: (what, seconds)
        for name, what, seconds in re.findall(
            r"^\| `(\w+\.\w+)` \| (.+?) \| ?(\d*) \|$", table, flags=re.M
        )
    }
    files = {path.name for path in (EXAMPLES / "audio").iterdir()}
    assert set(rows) == files == {asset["path"].removeprefix("audio/") for asset in ASSETS}
    for name, codec in {
        "phone_number.wav": "pcm_s16le",
        "dialogue.flac": "flac",
        "door_code.mp3": "mp3",
        "lottery.mp4": "aac",
        "long_count.opus": "opus",
    }.items():
        info = probe(EXAMPLES / "audio" / name)
        what, seconds = rows[name]
        assert info.codec == codec
        assert f"{info.sample_rate_hz / 1000:g} kHz" in what
        assert info.channels == (2 if "stereo" in what else 1)
        assert info.has_video == ("video" in what)
        assert info.duration_s is not None
        assert round(info.duration_s) == int(seconds)
    with pytest.raises(AssetError, match=r"not a recording"):
        probe(EXAMPLES / "audio" / "broken.wav")
    size_bytes = sum(path.stat().st_size for path in (EXAMPLES / "audio").iterdir())
    assert size_bytes < 600_000


def test_the_manifest_is_made_from_the_script_that_makes_the_recordings() -> None:
    maker = runpy.run_path(str(MAKER))
    assert (EXAMPLES / "manifest.json").read_text(encoding="utf-8") == maker["manifest"]()


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="needs the program espeak-ng")
def test_the_script_makes_the_same_recordings_again(tmp_path: Path) -> None:
    """Durations and texts, not bytes: another espeak-ng speaks a little differently."""
    answer = ended([sys.executable, MAKER, tmp_path / "again"], tmp_path, environment())
    assert answer.code == 0, answer.err
    again = tmp_path / "again"
    assert (again / "manifest.json").read_bytes() == (EXAMPLES / "manifest.json").read_bytes()
    assert {path.name for path in (again / "audio").iterdir()} == {
        path.name for path in (EXAMPLES / "audio").iterdir()
    }
    for asset in SPOKEN:
        new, old = probe(again / asset["path"]), probe(EXAMPLES / asset["path"])
        assert (new.codec, new.sample_rate_hz) == (old.codec, old.sample_rate_hz)
        assert new.duration_s == pytest.approx(old.duration_s, rel=0.1)
    assert (again / "audio/broken.wav").read_bytes() == (EXAMPLES / "audio/broken.wav").read_bytes()


# ---- Settings and README


def test_every_setting_of_the_configuration_file_is_one_also_those_commented_out(
    tmp_path: Path,
) -> None:
    text = (EXAMPLES / "audio-batch.toml").read_text(encoding="utf-8")
    settings = config.read(EXAMPLES / "audio-batch.toml")
    assert settings == {"model": "demo", "output_format": ["txt", "srt"], "yes": True}
    commented = re.findall(r"^# ([a-z-]+ = .+)$", text, flags=re.M)
    assert len(commented) == 5
    for line in commented:
        alone = tmp_path / "one.toml"
        alone.write_text(line, encoding="utf-8")
        assert len(config.read(alone)) == 1


@needs_posix
def test_every_command_of_the_readme_runs_and_exits_as_it_says(tmp_path: Path) -> None:
    folder = copied(tmp_path / "examples")
    install(tmp_path / "bin")
    readme = (folder / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```$", readme, flags=re.M | re.S)
    lines = [line for block in blocks for line in block.splitlines()]
    assert len(lines) == 7
    for number, line in enumerate(lines):
        answer = ended(["sh", "-c", line], folder, with_path(tmp_path / "bin", **NULL))
        said = re.search(r"# exit code (\d+)", line)
        expected = int(said[1]) if said else ExitCode.SOME_FAILED if number == 0 else ExitCode.OK
        assert answer.code == expected, (line, answer.err)
        if number == 1:
            assert "Nothing to do" in answer.err
    assert {path.stem for path in (folder / "out").glob("*.vtt")} == {a["id"] for a in SPOKEN}
    tried = re.findall(r"try `(\./[^`]+)`", readme)
    assert tried == ["./night.sh"]
    assert ended(tried, folder, with_path(tmp_path / "bin", **NULL)).code == 3


def test_the_readme_tells_every_exit_code() -> None:
    readme = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    told = re.findall(r"^\| (\d+) \|", readme, flags=re.M)
    assert [int(code) for code in told] == [code.value for code in ExitCode]


# ---- night.sh


@needs_posix
@pytest.mark.parametrize(
    ("code", "message"),
    [
        (0, ""),
        (1, "failed with exit code 1"),
        (2, "flag or a setting is wrong"),
        (3, "Some recordings failed"),
        (4, "is not valid"),
        (5, "is missing"),
        (11, "Another run is at work"),
        (130, "The run was stopped"),
        (134, "failed with exit code 134"),
    ],
)
def test_night_sh_acts_on_each_exit_code(tmp_path: Path, code: int, message: str) -> None:
    """With a program in audio-batch's place that exits as it is told."""
    folder = copied(tmp_path / "with a blank")
    executable(
        tmp_path / "bin" / "audio-batch",
        '#!/bin/sh\nprintf "<%s>" "$@" >>"$STUB_LOG"\n'
        '[ "$1" != run ] || { echo talk of the run >&2; exit "$STUB_CODE"; }\n'
        "echo table of failures\n",
    )
    stub_log = tmp_path / "stub.log"
    answer = ended(
        ["sh", folder / "night.sh", "my list.json", "my out", "--where", "id=a b", "--skip", "1"],
        folder,
        with_path(tmp_path / "bin", STUB_LOG=str(stub_log), STUB_CODE=str(code)),
    )
    assert answer.code == code
    assert answer.out == ""
    assert message in answer.err
    called = stub_log.read_text(encoding="utf-8")
    assert called.startswith("<run><my list.json><-o><my out><-y><--where><id=a b><--skip><1>"), (
        called
    )
    assert (folder / "my out/night.log").read_text(encoding="utf-8") == "talk of the run\n"
    if code == 0:
        assert answer.err == ""
    elif code == 3:
        assert called.endswith("<status><my out><--failed>")
        assert "table of failures" in answer.err
    else:
        assert ("talk of the run" in answer.err) == (code not in (11, 130))


@needs_posix
def test_night_sh_says_when_there_is_no_audio_batch(tmp_path: Path) -> None:
    folder = copied(tmp_path / "examples")
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("sh", "dirname", "mkdir", "tail"):
        (tools / name).symlink_to(str(shutil.which(name)))
    answer = ended(["sh", folder / "night.sh"], folder, environment(PATH=str(tools)))
    assert answer.code == 127
    assert "There is no audio-batch on this PATH" in answer.err


@needs_posix
def test_night_sh_with_the_real_program(tmp_path: Path) -> None:
    folder = copied(tmp_path / "examples")
    install(tmp_path / "bin")
    answer = ended(
        ["sh", folder / "night.sh", "examples/manifest.json", "out", "--where", "asset_type=Audio"],
        tmp_path,
        with_path(tmp_path / "bin", COLUMNS="200", **NULL),
    )
    assert answer.code == 3, answer.err
    assert "not a recording" in answer.err
    assert "phone-number" not in answer.err
    assert REASON in (tmp_path / "out/night.log").read_text(encoding="utf-8")
    assert {path.stem for path in (tmp_path / "out").glob("*.txt")} == {
        asset["id"] for asset in SPOKEN if asset["asset_type"] == "Audio"
    }


@needs_posix
def test_a_stopped_night_sh_waits_for_the_state_to_be_saved(
    tmp_path: Path, children: list[subprocess.Popen[str]]
) -> None:
    """As Ctrl-C, `timeout` and systemd stop it: the whole process group at once."""
    folder = copied(tmp_path / "examples")
    install(tmp_path / "bin")
    slow = {**NULL, "AUDIO_BATCH_MODEL": "null:1500"}
    process = subprocess.Popen(
        ["sh", str(folder / "night.sh"), "manifest.json", "out", "--threads", "1"],
        cwd=folder,
        env=with_path(tmp_path / "bin", **slow),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    children.append(process)
    log = folder / "out/night.log"
    for _ in range(600):
        if log.exists() and "Processing" in log.read_text(encoding="utf-8"):
            break
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "The run was stopped" in err
    assert len(list((folder / "out").glob("*.txt"))) < len(SPOKEN)
    later = ended(["sh", "night.sh"], folder, with_path(tmp_path / "bin", **NULL))
    assert later.code == 3
    assert {path.stem for path in (folder / "out").glob("*.txt")} == {a["id"] for a in SPOKEN}


# ---- cron


def cron_line() -> tuple[list[str], str]:
    lines = (EXAMPLES / "crontab").read_text(encoding="utf-8").splitlines()
    assert not any("\t" in line for line in lines)
    settings = re.compile(r"[A-Z_]+=\S+")
    jobs = [
        line for line in lines if line and not line.startswith("#") and not settings.fullmatch(line)
    ]
    (job,) = jobs
    *fields, order = job.split(" ", 5)
    return fields, order


def test_the_crontab_line_is_one(cli: Callable[..., Answer]) -> None:
    fields, order = cron_line()
    for field, highest in zip(fields, (59, 23, 31, 12, 7), strict=True):
        assert field == "*" or 0 <= int(field) <= highest
    assert not re.search(r"(?<!\\)%", order), "cron takes a bare % for a line break"
    assert (EXAMPLES / "crontab").read_text(encoding="utf-8").endswith("\n"), "cron asks for it"
    help_text = cli("run", "--help", env={"COLUMNS": "250"}).out
    words = shlex.split(order)
    (start,) = (n for n, word in enumerate(words) if word.endswith("/audio-batch"))
    for flag in (word for word in words[start:] if word.startswith("-")):
        assert re.search(rf"[ ,]{flag}[ ,]", help_text), flag


@needs_posix
@pytest.mark.skipif(shutil.which("timeout") is None, reason="needs the program timeout")
def test_the_crontab_line_runs(tmp_path: Path) -> None:
    home = tmp_path / "home of mine"
    copied(home / "recordings")
    install(home / ".local/bin")
    _, order = cron_line()
    # Cron's own environment is as small as this.
    small = {"HOME": str(home), "PATH": "/usr/bin:/bin", "LANG": "C", **NULL}
    answer = ended(["/bin/sh", "-c", order], tmp_path, small)
    assert answer.code == 3, answer.err
    assert answer.out == ""
    assert REASON in answer.err, "which cron mails"
    assert "Processing" not in answer.err
    log = (home / "recordings/transcripts.log").read_text(encoding="utf-8")
    assert "Processing: The code of the door" in log
    assert (home / "recordings/transcripts/door-code.txt").is_file()
    (home / "recordings/audio/broken.wav").write_bytes(
        (home / "recordings/audio/phone_number.wav").read_bytes()
    )
    mended = ended(["/bin/sh", "-c", order], tmp_path, small)
    assert (mended.code, mended.out, mended.err) == (0, "", ""), "no mail when all is done"


# ---- systemd


def unit(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, delimiters=("=",), strict=True)
    parser.optionxform = str  # type: ignore[method-assign, assignment]
    parser.read(EXAMPLES / "systemd" / name, encoding="utf-8")
    return parser


def test_the_units_say_what_they_should() -> None:
    """As text; `systemd-analyze` (below) knows which keys there are and what they may hold."""
    service, timer = unit("audio-batch.service"), unit("audio-batch.timer")
    assert service["Service"]["Type"] == "oneshot"
    accepted = {int(code) for code in service["Service"]["SuccessExitStatus"].split()}
    assert accepted == {ExitCode.LOCKED, ExitCode.INTERRUPTED}
    assert timer["Timer"]["OnCalendar"]
    assert timer["Install"]["WantedBy"] == "timers.target"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    units = Path(shutil.copytree(EXAMPLES / "systemd", tmp_path / "units"))
    runtime = tmp_path / "runtime"
    runtime.mkdir(mode=0o700)
    answer = ended(
        ["systemd-analyze", "--user", "verify", *sorted(units.iterdir())],
        tmp_path,
        environment(XDG_RUNTIME_DIR=str(runtime)),
    )
    if "Failed to initialize manager" in answer.err:
        pytest.skip(f"systemd-analyze cannot verify here: {answer.err.strip()}")
    assert answer.code == 0, answer.err
    # Keys that it does not know it only remarks on.
    assert not [line for line in answer.err.splitlines() if "audio-batch" in line]


@needs_posix
def test_the_service_runs(tmp_path: Path) -> None:
    """What systemd would start, without systemd: the command in its folder with its PATH."""
    home = tmp_path / "home"
    install(home / ".local/bin")
    service = unit("audio-batch.service")["Service"]
    folder = copied(Path(service["WorkingDirectory"].replace("%h", str(home))))
    key, _, value = service["Environment"].partition("=")
    answer = ended(
        shlex.split(service["ExecStart"]),
        folder,
        {**environment(**NULL), key: value.replace("%h", str(home))},
    )
    assert answer.code == 3, answer.err
    assert (folder / "transcripts/door-code.txt").is_file()


# ---- Windows

BATCH = (EXAMPLES / "run_batch.bat").read_bytes()


def batch_lines() -> list[str]:
    lines = BATCH.decode("ascii").split("\r\n")
    return [line for line in lines if not re.match(r"rem\b", line, flags=re.I)]


def test_the_batch_file_is_in_order() -> None:
    """Line ends, labels and the codes it tells apart. How cmd reads it is not tested here."""
    assert BATCH.endswith(b"\r\n")
    assert BATCH.count(b"\n") == BATCH.count(b"\r\n") == BATCH.count(b"\r")
    lines = batch_lines()
    labels = [line[1:] for line in lines if line.startswith(":")]
    targets = [found[1] for line in lines if (found := re.search(r"\bgoto (\w+)$", line))]
    assert len(labels) == len(set(labels))
    assert set(labels) == set(targets)
    handled = [int(code) for code in re.findall(r'if "%CODE%"=="(-?\d+)" goto', "\n".join(lines))]
    assert handled == [code for code in ExitCode if code is not ExitCode.INTERNAL]
    after_handled = lines[max(n for n, line in enumerate(lines) if '=="130"' in line) + 1]
    assert after_handled == "goto internal"
    for label in labels[:-1]:
        body = lines[lines.index(f":{label}") + 1 :]
        assert body[0].startswith("echo "), "every branch says something"
    assert [line for line in lines if line][-1] == "endlocal & exit /b %CODE%"
    for line in lines:
        assert line.count('"') % 2 == 0, line
        assert not re.search(r"(?<!\")%~dp0|%(RECORDINGS|MANIFEST|OUTPUT|LOG)%(?!\")", line) or (
            line.startswith(("set ", "echo "))
        ), f"a path with blanks would break: {line}"


def test_both_steps_of_the_batch_file_run(cli: Callable[..., Answer], tmp_path: Path) -> None:
    """Its two commands, with its variables put in, given to the real program."""
    folder = copied(tmp_path / "with a blank")
    text = "\n".join(batch_lines())
    values = dict(re.findall(r'^set "([A-Z_]+)=(.*)"$', text, flags=re.M))

    def filled(line: str) -> list[str]:
        line = re.sub(r"%([A-Z_]+)%", lambda found: values[found[1]], line)
        line = line.replace("%~dp0", f"{folder.as_posix()}/").replace(" %*", " --order longest")
        return shlex.split(line.partition(" >>")[0])

    calls = [line for line in batch_lines() if line.startswith("call audio-batch ")]
    version, create, run, status = (filled(line)[2:] for line in calls)
    assert cli(*version).code == 0
    assert cli(*create).code == 0
    made = json.loads((folder / "assets.json").read_text(encoding="utf-8"))
    assert len(made["assets"]) == len(ASSETS), "also the broken one"
    answer = cli(*run, env=NULL)
    assert answer.code == 3, answer.err
    assert REASON in answer.err
    assert cli(*create).code == 0, "and the next night"
    listed = cli(*status, env={"COLUMNS": "200"})
    assert listed.code == 0
    assert "not a recording" in listed.out


@pytest.fixture(scope="module")
def wine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """An environment with a Wine of its own; no Windows, but another's reading of batch files."""
    if shutil.which("wine") is None:
        pytest.skip("needs Wine: how cmd reads the batch file is not tested without")
    prefix = tmp_path_factory.mktemp("wine")
    env = environment(WINEPREFIX=str(prefix), WINEDEBUG="-all", WINEDLLOVERRIDES="mscoree=;mshtml=")
    if ended(["wine", "cmd", "/c", "ver"], prefix, env).code != 0:
        pytest.skip("Wine does not start here")
    yield env
    ended(["wineserver", "-k"], prefix, env)


def test_the_batch_file_acts_on_each_exit_code(wine: dict[str, str], tmp_path: Path) -> None:
    """With a batch file in audio-batch's place that exits as it is told.

    `call` becomes `cmd /c`: Wine 8 loses the exit code of what is called. Not tested: Windows.
    """
    folder = tmp_path / "with a blank"
    folder.mkdir()
    changed = BATCH.replace(b"call audio-batch ", b"cmd /c audio-batch.bat ")
    (folder / "run_batch.bat").write_bytes(changed)
    scripts = folder / "venv/Scripts"
    scripts.mkdir(parents=True)
    stub = (
        "@echo off",
        "echo [%*]",
        'if "%1"=="manifest" exit /b %STUB_CREATE%',
        'if "%1"=="run" exit /b %STUB_RUN%',
        "exit /b 0",
        "",
    )
    (scripts / "audio-batch.bat").write_bytes("\r\n".join(stub).encode())

    expected = {
        (0, 0): "Every recording is done",
        (0, 1): "failed with exit code 1.",
        (0, 2): "flag or a setting is wrong",
        (0, 3): "Some recordings failed",
        (0, 4): "is not valid",
        (0, 5): "is missing",
        (0, 11): "Another run is at work",
        (0, 130): "The run was stopped",
        (0, -1073741819): "failed with exit code -1073741819.",
        (2, 0): "made no manifest",
    }
    driver = ["@echo off"]
    for create, run in expected:
        driver += [f"set STUB_CREATE={create}", f"set STUB_RUN={run}"]
        driver += ['cmd /c run_batch.bat --where "id=a b*" --retry-failed', "echo ={%ERRORLEVEL%}="]
    driver += ["rmdir /s /q venv", "cmd /c run_batch.bat", "echo ={%ERRORLEVEL%}=", ""]
    (folder / "driver.bat").write_bytes("\r\n".join(driver).encode())
    answer = ended(["wine", "cmd", "/c", "driver.bat"], folder, wine)
    *told, rest = re.split(r"=\{(-?\d+)\}=", answer.out)
    assert not rest.strip()
    expected[(5, 0)] = "cannot be started"  # the last: nothing of that name on PATH
    assert [int(code) for code in told[1::2]] == [create or run for create, run in expected]
    for message, said in zip(expected.values(), told[::2], strict=True):
        assert message in said
    log = (folder / "run_batch.log").read_text(encoding="utf-8", errors="replace")
    called = next(line for line in log.splitlines() if line.startswith("[run "))
    assert re.match(r'\[run ".+with a blank\\assets\.json" -o ".+\\out" -y -t 4 ', called)
    assert '--where "id=a b*" --retry-failed' in called
