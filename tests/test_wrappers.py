"""`examples/`: every wrapper run (shell, cron, systemd, Slurm, Windows) with each exit code."""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from program import Answer, environment
from shipped import (
    ASSETS,
    EXAMPLES,
    NULL,
    REASON,
    SPOKEN,
    copied,
    ended,
    executable,
    install,
    needs_posix,
    with_path,
)

from audio_batch.errors import ExitCode
from audio_batch.lifetime import WARNING_GRACE_S
from audio_batch.time_limits import parse_duration_s

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
    while not (log.exists() and "Processing" in log.read_text(encoding="utf-8")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGTERM)
    _, err = process.communicate(timeout=120)
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


# ---- Slurm

SBATCH = EXAMPLES / "slurm/night.sbatch"
needs_bash = pytest.mark.skipif(
    os.name != "posix" or shutil.which("bash") is None, reason="needs bash"
)


def slurm_tools(folder: Path, left: str = "UNLIMITED") -> Path:
    """What the script calls of Slurm, in its place."""
    executable(folder / "squeue", f'#!/bin/sh\n[ "$2" = --job=77 ] && echo "{left}"\n')
    executable(folder / "scontrol", '#!/bin/sh\necho "scontrol $*" >>"$STUB_LOG"\n')
    return folder


def slurm_job(folder: Path, tools: Path, **more: str) -> subprocess.Popen[str]:
    """The script as slurmd starts it: a copy of it, in the folder where sbatch was called."""
    script = folder / "slurm_script"
    script.write_bytes(SBATCH.read_bytes())
    return subprocess.Popen(
        ["bash", str(script), "manifest.json", "my out", "--exclude", "id=a b"],
        cwd=folder,
        env=with_path(tools, SLURM_JOB_ID="77", STUB_LOG=str(folder / "stub.log"), **more),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def test_the_slurm_job_asks_for_a_warning_in_time() -> None:
    directives = [
        line.removeprefix("#SBATCH --")
        for line in SBATCH.read_text(encoding="utf-8").splitlines()
        if line.startswith("#SBATCH ")
    ]
    assert "signal=B:USR1@120" in directives
    assert "requeue" in directives
    # Slurm may be a minute early; what runs gets its grace and the state is saved.
    assert WARNING_GRACE_S <= 120 - 60
    before, _, after = SBATCH.read_text(encoding="utf-8").partition("\nset -u\n")
    assert "\n#SBATCH" not in after, "sbatch stops reading at the first command"
    assert all(line.startswith("#") or not line for line in before.splitlines())


@needs_bash
@pytest.mark.parametrize(
    ("left", "seconds"),
    [
        ("UNLIMITED", None),
        ("INVALID", None),
        ("7:59:00", 28740 - 300),
        ("1-00:00:09", 86409 - 300),
        ("59:08", 3548 - 300),
        ("4:59", 60),
    ],
)
def test_the_slurm_job_ends_before_its_time(
    tmp_path: Path, children: list[subprocess.Popen[str]], left: str, seconds: int | None
) -> None:
    tools = slurm_tools(tmp_path / "bin", left)
    executable(tools / "audio-batch", '#!/bin/sh\nprintf "<%s>" "$@" >>"$STUB_LOG"\n')
    process = slurm_job(tmp_path, tools)
    children.append(process)
    assert process.communicate(timeout=120)[0] == ""
    assert process.returncode == 0
    limit = "" if seconds is None else f"<--max-runtime><{seconds}s>"
    called = (tmp_path / "stub.log").read_text(encoding="utf-8")
    assert called == f"<run><manifest.json><-o><my out><-y>{limit}<--exclude><id=a b>"
    if seconds:
        assert parse_duration_s(f"{seconds}s", "--max-runtime") == seconds


@needs_bash
@pytest.mark.parametrize(
    ("code", "restarts", "again"), [(130, "", True), (130, "10", False), (3, "", False)]
)
def test_the_slurm_job_goes_on_in_a_next_one(
    tmp_path: Path, children: list[subprocess.Popen[str]], code: int, restarts: str, again: bool
) -> None:
    tools = slurm_tools(tmp_path / "bin")
    executable(tools / "audio-batch", f"#!/bin/sh\nexit {code}\n")
    count = {"SLURM_RESTART_COUNT": restarts} if restarts else {}
    process = slurm_job(tmp_path, tools, SLURM_JOB_END_TIME=str(int(time.time()) + 900), **count)
    children.append(process)
    text, _ = process.communicate(timeout=120)
    assert process.returncode == code, text
    assert ("job 77 is queued again" in text) == again
    assert (tmp_path / "stub.log").exists() == again


def wait_for_file(folder: Path, pattern: str, process: subprocess.Popen[str]) -> None:
    while process.poll() is None and not list(folder.glob(pattern)):
        time.sleep(0.05)


@needs_bash
def test_the_slurm_job_hands_on_the_warning(
    tmp_path: Path, children: list[subprocess.Popen[str]]
) -> None:
    """The shell alone is told, as `B:` has it; the run is the real one."""
    folder = copied(tmp_path / "examples")
    tools = slurm_tools(tmp_path / "bin")
    install(tools)
    slow = {**NULL, "AUDIO_BATCH_MODEL": "null:1000", "AUDIO_BATCH_THREADS": "1"}
    process = slurm_job(folder, tools, **slow)
    children.append(process)
    wait_for_file(folder, "my out/*.txt", process)
    process.send_signal(signal.SIGUSR1)
    text, _ = process.communicate(timeout=120)
    assert process.returncode == 130, text
    assert "Stopping after SIGUSR1" in text
    assert 1 <= len(list((folder / "my out").glob("*.txt"))) < len(SPOKEN)
    assert (folder / "stub.log").read_text(encoding="utf-8") == "scontrol requeue 77\n"


@needs_bash
def test_a_slurm_job_that_somebody_cancels_is_not_queued_again(
    tmp_path: Path, children: list[subprocess.Popen[str]]
) -> None:
    tools = slurm_tools(tmp_path / "bin")
    executable(
        tools / "audio-batch",
        '#!/bin/sh\ntrap "sleep 0.3; echo saved; exit 130" TERM\n: >started\n'
        "while :; do sleep 0.05; done\n",
    )
    process = slurm_job(tmp_path, tools)
    children.append(process)
    wait_for_file(tmp_path, "started", process)
    process.send_signal(signal.SIGTERM)
    text, _ = process.communicate(timeout=120)
    assert (process.returncode, text) == (130, "saved\n"), "it waits for the state to be saved"
    assert not (tmp_path / "stub.log").exists()


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
