"""`examples/cron` and `examples/windows`: a night out of a database, with each way it can end."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import time
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import tree_sitter
import tree_sitter_powershell
from program import Answer, write_tone
from shipped import EXAMPLES, NULL, ended, executable, install, needs_posix, with_path

from audio_batch.errors import ExitCode

BATCH = (EXAMPLES / "windows/nightly.bat").read_bytes()
POWERSHELL = (EXAMPLES / "windows/nightly.ps1").read_bytes()

STUB = r"""#!/bin/sh
printf '<%s>' "$@" >>"$STUB_LOG"; echo >>"$STUB_LOG"
echo "said by $1"
case $1 in
    results) exit "${STUB_RESULTS:-0}" ;;
    manifest) for out in "$@"; do :; done
        [ -n "${STUB_EMPTY:-}" ] && : >"$out" || echo '{}' >"$out"
        exit "${STUB_EXPORT:-0}" ;;
    doctor) exit "${STUB_DOCTOR:-0}" ;;
    run)
        if [ -n "${STUB_WAITS:-}" ]; then
            trap 'echo "TERM comes" >>"$STUB_LOG"; exit 130' TERM
            echo waiting >>"$STUB_LOG"
            for n in $(seq 600); do sleep 0.1; done
        fi
        exit "${STUB_RUN:-0}" ;;
    status) echo "table of failures"; exit "${STUB_STATUS:-3}" ;;
esac
"""

# ---- cron


def cron_folder(tmp_path: Path, **more: str) -> tuple[Path, dict[str, str]]:
    folder = tmp_path / "with a blank"
    shutil.copytree(EXAMPLES / "cron", folder, dirs_exist_ok=True)
    executable(tmp_path / "bin/audio-batch", STUB)
    executable(
        tmp_path / "bin/mail", '#!/bin/sh\n{ printf "<%s>" "$@"; echo; cat; } >"$STUB_LOG.mail"\n'
    )
    return folder, with_path(tmp_path / "bin", STUB_LOG=str(tmp_path / "stub.log"), **more)


def nightly(tmp_path: Path, *flags: str, **more: str) -> tuple[Answer, list[str]]:
    folder, env = cron_folder(tmp_path, **more)
    log = tmp_path / "stub.log"
    log.unlink(missing_ok=True)
    answer = ended(["sh", folder / "nightly.sh", *flags], tmp_path, env)
    return answer, log.read_text(encoding="utf-8").splitlines() if log.exists() else []


@needs_posix
@pytest.mark.parametrize(
    ("code", "message"),
    [
        (0, ""),
        (130, ""),
        (1, "failed with exit code 1"),
        (2, "a flag or a setting is wrong"),
        (3, "some recordings failed"),
        (4, "is not valid"),
        (5, "a sign-in or space is missing"),
        (11, "another run is at work"),
        (134, "failed with exit code 134"),
    ],
)
def test_nightly_sh_acts_on_each_exit_code(tmp_path: Path, code: int, message: str) -> None:
    answer, called = nightly(tmp_path, "--where", "id=a b", STUB_RUN=str(code))
    assert answer.code == code
    assert answer.out == ""
    assert message in answer.err
    assert bool(answer.err) == bool(message), "nothing is said when nobody has to do anything"
    folder = tmp_path / "with a blank"
    assert called[:3] == [
        f"<manifest><from-sql><--query-file><{folder}/nightly.sql><--map>"
        f"<id=uuid,uri=s3_key,name=title><--prefix><s3://my-bucket/><--skip-invalid>"
        f"<-o><{folder}/night-new.jsonl>",
        f"<doctor><{folder}/night.jsonl><-o><{folder}/transcripts><--allow-missing>"
        "<--where><id=a b>",
        f"<run><{folder}/night.jsonl><-o><{folder}/transcripts><-y><--until><06:00>"
        f"<--timeout><2h><--allow-missing><--quiet><--log-file><{folder}/nightly.log>"
        "<--where><id=a b>",
    ]
    if code == 3:
        assert "table of failures" in answer.err
        assert called[3:] == [f"<status><{folder}/transcripts><--new-failures>"]


@needs_posix
def test_nightly_sh_does_not_tell_old_failures_again(tmp_path: Path) -> None:
    answer, called = nightly(tmp_path, STUB_RUN="3", STUB_STATUS="0")
    assert (answer.code, answer.err, len(called)) == (3, "", 4)
    log = (tmp_path / "with a blank/nightly.log").read_text(encoding="utf-8")
    assert "No new failures" in log


@needs_posix
@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        ({}, 3, "rows of the database cannot be used\nAll others went their way."),
        ({"STUB_EMPTY": "1"}, 3, "rows of the database cannot be used"),
        ({"STUB_RUN": "130"}, 130, "rows of the database cannot be used"),
        ({"STUB_RUN": "3"}, 3, "some recordings failed\nsaid by status\ntable of failures"),
        ({"STUB_DOCTOR": "5"}, 5, "nothing was begun"),
    ],
)
def test_nightly_sh_goes_on_without_bad_rows_and_tells_them(
    tmp_path: Path, more: dict[str, str], code: int, message: str
) -> None:
    answer, _ = nightly(tmp_path, STUB_EXPORT="3", **more)
    assert answer.code == code
    assert message in answer.err
    assert answer.err.count("Rows of the database that make no entry:\nsaid by manifest\n") == 1
    answer, _ = nightly(tmp_path)
    assert (answer.code, answer.err) == (0, ""), "they are told as long as they are there"


@needs_posix
def test_nightly_sh_stops_where_a_step_fails(tmp_path: Path) -> None:
    answer, called = nightly(tmp_path / "a", STUB_EXPORT="5")
    assert (answer.code, len(called)) == (5, 1)
    assert "the database gave no manifest" in answer.err
    assert "said by manifest" in answer.err
    log = tmp_path / "a/with a blank/nightly.log"
    assert "said by manifest" in log.read_text(encoding="utf-8")
    answer, called = nightly(tmp_path / "b", STUB_DOCTOR="5")
    assert (answer.code, len(called)) == (5, 2)
    assert "nothing was begun" in answer.err
    answer, called = nightly(tmp_path / "c", STUB_EMPTY="1")
    assert (answer.code, answer.err, len(called)) == (0, "", 1)


@needs_posix
@pytest.mark.parametrize("code", ["0", "2", "5"])
def test_nightly_sh_tells_the_database_before_it_asks(tmp_path: Path, code: str) -> None:
    more = {"AUDIO_BATCH_RESULTS_DB": "sqlite:///x.db", "STUB_RESULTS": code, "STUB_EMPTY": "1"}
    answer, called = nightly(tmp_path, **more)
    assert (answer.code, answer.err) == (0, "")
    assert called[:2] == [
        "<results><create>",
        f"<results><push><{tmp_path}/with a blank/transcripts>",
    ]
    assert [line.partition("><")[0] for line in called[2:]] == ["<manifest"]


@needs_posix
def test_nightly_sh_goes_on_with_what_is_unfinished_when_nothing_is_new(tmp_path: Path) -> None:
    nightly(tmp_path, STUB_RUN="130")
    answer, called = nightly(tmp_path, STUB_EMPTY="1", STUB_RUN="3")
    folder = tmp_path / "with a blank"
    assert answer.code == 3
    assert called[2].startswith(f"<run><{folder}/night.jsonl><-o>")
    assert (folder / "night.jsonl").read_text(encoding="utf-8") == "{}\n", "the last night's"
    answer, called = nightly(tmp_path, STUB_EMPTY="1", STUB_RUN="3")
    assert (answer.code, len(called)) == (0, 1), "that night's run has come to its end"


@needs_posix
@pytest.mark.parametrize("place", ["with a blank/venv/bin", "home/.local/bin"])
def test_nightly_sh_finds_the_program_with_crons_path(tmp_path: Path, place: str) -> None:
    folder, _ = cron_folder(tmp_path)
    executable(tmp_path / place / "audio-batch", STUB)
    small = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path / "home"), "STUB_EMPTY": "1"}
    log = str(tmp_path / "stub.log")
    answer = ended(["sh", folder / "nightly.sh"], Path("/"), {**small, "STUB_LOG": log})
    assert (answer.code, answer.err) == (0, "")
    nowhere = {**small, "HOME": "/none"}
    shutil.rmtree(folder / "venv", ignore_errors=True)
    answer = ended(["sh", folder / "nightly.sh"], Path("/"), nowhere)
    assert answer.code == 127
    assert "there is no audio-batch on PATH=" in answer.err


@needs_posix
def test_a_stop_of_nightly_sh_alone_reaches_the_run(
    tmp_path: Path, children: list[subprocess.Popen[str]]
) -> None:
    folder, env = cron_folder(tmp_path, STUB_WAITS="1")
    process = subprocess.Popen(
        ["sh", str(folder / "nightly.sh")], env=env, stderr=subprocess.PIPE, text=True
    )
    children.append(process)
    log = tmp_path / "stub.log"
    while not (log.exists() and "waiting" in log.read_text(encoding="utf-8")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (130, "")
    assert log.read_text(encoding="utf-8").endswith("TERM comes\n")
    assert (folder / "nightly.unfinished").exists()


@needs_posix
def test_nightly_sh_mails(tmp_path: Path) -> None:
    answer, _ = nightly(tmp_path, STUB_RUN="3", MAILTO="me@example.org")
    assert (answer.code, answer.err) == (3, "")
    mail = (tmp_path / "stub.log.mail").read_text(encoding="utf-8")
    assert mail.startswith("<-s><audio-batch: some recordings failed><me@example.org>\n")
    assert "table of failures" in mail


@needs_posix
@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_nights_of_nightly_sh_with_the_real_program(tmp_path: Path, whole: bool) -> None:
    """SQLite, null engine, the query as it is shipped, a table of results that is not there yet.

    The second night takes what is new. What the database has lost since, it is told before the
    third night asks it: there is nothing to do then, but for what has failed and is left.
    """
    folder = Path(shutil.copytree(EXAMPLES / "cron", tmp_path / "night of mine"))
    install(tmp_path / "bin")
    database = tmp_path / "media.db"
    url = f"sqlite:///{database}"
    (folder / "nightly.env").write_text(
        f"AUDIO_BATCH_DATABASE_URL='{url}'\nAUDIO_BATCH_RESULTS_DB=$AUDIO_BATCH_DATABASE_URL\n",
        encoding="utf-8",
    )
    for name in ("one", "two", "three"):
        write_tone(tmp_path / "store" / f"{name}.wav", 0.2)
    with sqlite3.connect(database) as db:
        db.execute("CREATE TABLE assets (uuid TEXT, s3_key TEXT, title TEXT)")
        db.executemany(
            "INSERT INTO assets VALUES (?, ?, ?)",
            [
                *(("a-1", "one.wav", "One"), ("a-2", "two.wav", "Two")),
                *(("a-3", "gone.wav", "Gone"), ("a-4", "", "No key")),
            ],
        )
    far = (datetime.now() + timedelta(hours=12)).strftime("%H:%M")
    env = with_path(tmp_path / "bin", PREFIX=f"{tmp_path}/store/", UNTIL=far, **NULL)

    def night() -> Answer:
        return ended(["sh", folder / "nightly.sh", "-f", "txt"], tmp_path, env)

    first = night()
    assert first.code == 3, first
    assert "some recordings failed" in first.err
    assert "a-3" in first.err
    assert 'row 4 (id "a-4")' in first.err
    assert "1 failed" in first.err
    texts = folder / "transcripts"
    assert {path.stem for path in texts.glob("*.txt")} == {"a-1", "a-2"}

    if whole:
        with sqlite3.connect(database) as db:
            db.execute("DELETE FROM assets WHERE uuid = 'a-3'")
            db.execute("UPDATE assets SET s3_key = 'three.wav' WHERE uuid = 'a-4'")
        second = night()
        assert (second.code, second.err) == (0, ""), second
        entries = (folder / "night.jsonl").read_text(encoding="utf-8").splitlines()
        assert [json.loads(line)["id"] for line in entries] == ["a-4"]
        assert (texts / "a-4.txt").is_file()

    # As a night whose end the database was not told: the journal owes it one result.
    with sqlite3.connect(texts / ".audio-batch/journal.sqlite3") as journal:
        journal.execute("INSERT INTO outbox (asset_id) VALUES ('a-2')")
    with sqlite3.connect(database) as db:
        db.execute("DELETE FROM audio_batch_results WHERE asset_id = 'a-2'")
        if not whole:
            db.execute("DELETE FROM assets WHERE uuid = 'a-4'")
    third = night()
    log = (folder / "nightly.log").read_text(encoding="utf-8")
    if whole:
        assert (third.code, third.err) == (0, "")
        assert "Nothing is new." in log
    else:  # what has failed is offered again, and left: nobody is told twice
        assert (third.code, third.err) == (3, ""), third
        entries = (folder / "night.jsonl").read_text(encoding="utf-8").splitlines()
        assert [json.loads(line)["id"] for line in entries] == ["a-3"]
        assert "No new failures" in log


# ---- Windows


def batch_lines() -> list[str]:
    lines = BATCH.decode("ascii").split("\r\n")
    return [line for line in lines if not re.match(r"rem\b", line, flags=re.I)]


def test_the_batch_file_is_in_order() -> None:
    """Line ends, labels and the codes it tells apart. How cmd reads it is not tested here."""
    assert BATCH.endswith(b"\r\n")
    assert BATCH.count(b"\n") == BATCH.count(b"\r\n") == BATCH.count(b"\r")
    lines = batch_lines()
    labels = [line[1:] for line in lines if line.startswith(":")]
    targets = {found[1] for line in lines if (found := re.search(r"\bgoto (\w+)$", line))}
    assert len(labels) == len(set(labels))
    assert set(labels) == targets
    handled = [int(code) for code in re.findall(r'if "%CODE%"=="(-?\d+)" goto', "\n".join(lines))]
    assert handled == [code for code in ExitCode if code is not ExitCode.INTERNAL]
    assert [line for line in lines if line][-1] == "endlocal & exit /b %CODE%"
    for line in lines:
        assert line.count('"') % 2 == 0, line
    settings = dict(re.findall(r'^set "([A-Z_]+)=(.*)"$', "\n".join(lines), flags=re.M))
    used = set(re.findall(r"%([A-Z_]+)%", "\n".join(lines)))
    assert used - {"PATH", "DATE", "TIME", "ERRORLEVEL", "NOTIFY"} == settings.keys() - {
        "PATH",
        "PYTHONUTF8",
    }


@pytest.mark.parametrize("few", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_nightly_bat_acts_on_each_exit_code(
    wine: dict[str, str], tmp_path: Path, few: bool
) -> None:
    """With batch files in audio-batch's and the mailer's place. Not tested: Windows.

    `call` becomes `cmd /c`: Wine 8 loses the exit code of what is called.
    """
    folder = tmp_path / "with a blank"
    scripts = folder / "venv/Scripts"
    scripts.mkdir(parents=True)
    changed = BATCH.replace(b"call audio-batch ", b"cmd /c audio-batch.bat ")
    (folder / "nightly.bat").write_bytes(changed)
    stub = (
        "@echo off",
        "echo [%*]>>stub.log",
        "echo said by %1",
        'if "%1"=="results" exit /b 5',
        'if "%1"=="manifest" goto export',
        'if "%1"=="doctor" exit /b %STUB_DOCTOR%',
        'if "%1"=="run" exit /b %STUB_RUN%',
        'if "%1"=="status" echo table of failures',
        'if "%1"=="status" exit /b %STUB_STATUS%',
        "exit /b 0",
        ":export",
        "echo {}>night-new.jsonl",
        'if "%STUB_EXPORT%"=="empty" copy /y NUL night-new.jsonl >NUL',
        'if "%STUB_EXPORT%"=="empty" exit /b 0',
        "exit /b %STUB_EXPORT%",
        "",
    )
    (scripts / "audio-batch.bat").write_bytes("\r\n".join(stub).encode())
    (folder / "my mail.bat").write_bytes(b"@echo off\r\necho MAIL [%*]\r\n")

    expected: dict[tuple[str, int, int], tuple[int, str]] = {
        ("0", 0, 0): (0, ""),
        ("3", 0, 0): (3, "Rows of the database that make no entry:"),
        ("empty", 0, 5): (0, ""),  # the run before has come to its end
        ("0", 0, 130): (130, ""),
        ("empty", 0, 3): (3, "table of failures"),  # it goes on
        ("0", 5, 3): (5, "The run would fail; nothing was begun."),
        ("0", 0, 1): (1, "failed with exit code 1."),
        ("0", 0, 2): (2, "A flag or a setting is wrong"),
        ("0", 0, 3): (3, "table of failures"),
        ("0", 0, 4): (4, "is not valid"),
        ("0", 0, 5): (5, "a sign-in or space is missing"),
        ("0", 0, 11): (11, "Another run is at work"),
        ("0", 0, -1073741819): (-1073741819, "failed with exit code -1073741819."),
        ("5", 0, 0): (5, "The database gave no manifest"),
    }
    if few:
        expected = dict(list(expected.items())[:6])
    driver = ["@echo off", 'set "NOTIFY=%~dp0my mail.bat"', "set AUDIO_BATCH_RESULTS_DB=x"]
    driver += ["set STUB_STATUS=3"]
    for export, doctor, run in expected:
        driver += [f"set STUB_EXPORT={export}", f"set STUB_DOCTOR={doctor}", f"set STUB_RUN={run}"]
        driver += ['cmd /c nightly.bat --where "id=a b*"', "echo ={%ERRORLEVEL%}="]
    driver += ["set STUB_EXPORT=0", "set STUB_DOCTOR=0"]
    driver += ["set STUB_RUN=3", "set STUB_STATUS=0"]
    driver += ["cmd /c nightly.bat", "echo ={%ERRORLEVEL%}="]
    driver += ["rmdir /s /q venv", "cmd /c nightly.bat", "echo ={%ERRORLEVEL%}=", ""]
    (folder / "driver.bat").write_bytes("\r\n".join(driver).encode())
    answer = ended(["wine", "cmd", "/c", "driver.bat"], folder, wine)
    *told, rest = re.split(r"=\{(-?\d+)\}=", answer.out)
    assert not rest.strip()
    wanted = [*expected.values(), (3, ""), (5, "audio-batch cannot be started")]
    assert [int(code) for code in told[1::2]] == [code for code, _ in wanted]
    for (code, message), said in zip(wanted, told[::2], strict=True):
        assert message in said
        mailed = re.search(r'MAIL \[(-?\d+) ".+with a blank\\nightly-report\.txt"\]', said)
        assert (mailed is not None) == bool(message), said
        assert mailed is None or int(mailed[1]) == code
    called = (folder / "stub.log").read_text(encoding="utf-8", errors="replace").splitlines()
    where = r'"[^"]+with a blank\\'
    assert called[1].startswith("[results create")
    assert re.match(rf'\[results push {where}transcripts" *\]', called[2])
    assert re.match(rf'\[manifest from-sql --query-file {where}nightly\.sql" --map ', called[3])
    assert re.match(
        rf'\[doctor {where}night\.jsonl" -o {where}transcripts" --allow-missing --where "id=a b\*"',
        called[4],
    )
    assert re.match(
        rf'\[run {where}night\.jsonl" -o {where}transcripts" -y --until 06:00 --timeout 2h'
        rf' --allow-missing --quiet --log-file {where}nightly\.log" --where "id=a b\*"',
        called[5],
    )


def test_nightly_bat_refuses_a_folder_that_cmd_changes(
    wine: dict[str, str], tmp_path: Path
) -> None:
    """Wine loses the percent sign at once, where Windows does so at `call`."""
    driver = ["@echo off"]
    for name in ("50% off", "a^b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "nightly.bat").write_bytes(BATCH)
        doubled = name.replace("%", "%%")
        driver += [f'cd "{doubled}"', "cmd /c nightly.bat", "echo ={%ERRORLEVEL%}=", "cd .."]
    (tmp_path / "driver.bat").write_bytes("\r\n".join([*driver, ""]).encode())
    answer = ended(["wine", "cmd", "/c", "driver.bat"], tmp_path, wine)
    said = [line for line in answer.out.splitlines() if line]
    assert said[1::2] == ["={2}="] * 2, answer
    assert all("a percent sign or a caret" in line for line in said[::2])
    assert "a caret" in (tmp_path / "a^b/nightly-report.txt").read_text("ascii")


def test_the_powershell_script_by_its_text() -> None:
    """What can be seen without PowerShell: not its grammar, and not what it does."""
    assert POWERSHELL.count(b"\n") == POWERSHELL.count(b"\r\n") == POWERSHELL.count(b"\r")
    text = POWERSHELL.decode("ascii")  # Windows PowerShell 5.1 reads what has no mark as ANSI
    code = re.sub(r"<#.*?#>", "", text, flags=re.S)
    code = "\n".join(re.sub(r"(^|\s)#.*", "", line) for line in code.splitlines())
    bare = re.sub(r"'[^']*'|\"[^\"]*\"", "''", code)
    for opening, closing in ("()", "{}", "[]"):
        assert bare.count(opening) == bare.count(closing)
    # Not in 5.1: && and ||, ?:, ??, ?. and -Parallel.
    assert not re.search(r"&&|\|\||\?\?|\?\.| \? |-Parallel", bare)
    handled = [int(found) for found in re.findall(r"^    (\d+) \{", bare, flags=re.M)]
    assert handled == [code for code in ExitCode if code is not ExitCode.INTERNAL]
    assert "    default {" in bare
    given = set(re.findall(r"^    \[string(?:\[\])?\] \$(\w+)", code, flags=re.M))
    own = {"code", "run", "text", "talk", "secrets", "LASTEXITCODE", "PSScriptRoot", "_", "env"}
    own |= {
        "fresh",
        "look",
        "rows",
        "unfinished",
        "ErrorActionPreference",
        "Code",
        "Subject",
        "Arguments",
        "Text",
        "script",
    }
    assert set(re.findall(r"\$(\w+)", code)) <= given | own, "a name that nothing sets"
    assert given <= set(re.findall(r"\$(\w+)", code.partition("\n)\n")[2])), "a parameter unused"


def test_the_powershell_script_by_a_grammar() -> None:
    """Its syntax; how PowerShell runs it is the next test's, where there is one."""
    parser = tree_sitter.Parser(tree_sitter.Language(tree_sitter_powershell.language()))
    assert not parser.parse(POWERSHELL).root_node.has_error
    assert parser.parse(POWERSHELL.replace(b"}", b"", 1)).root_node.has_error


@needs_posix
def test_the_powershell_script_runs(tmp_path: Path) -> None:
    """Where there is a PowerShell."""
    if shutil.which("pwsh") is None:
        pytest.skip("needs pwsh: how PowerShell runs the script is not tested without")
    folder = Path(shutil.copytree(EXAMPLES / "windows", tmp_path / "with a blank"))
    executable(tmp_path / "bin/audio-batch", STUB)
    log = tmp_path / "stub.log"
    for code, message in ((0, ""), (130, ""), (3, "table of failures"), (5, "is missing")):
        env = with_path(tmp_path / "bin", STUB_LOG=str(log), STUB_RUN=str(code))
        answer = ended(["pwsh", "-NoProfile", "-File", folder / "nightly.ps1"], tmp_path, env)
        assert (answer.code, message in answer.out) == (code, True), answer


def test_every_flag_of_the_wrappers_is_one() -> None:
    """What they give to each command, looked up in that command."""
    import typer.main

    from audio_batch.cli.tree import command_line

    commands = typer.main.get_command(command_line()).commands  # type: ignore[attr-defined]
    flags = {
        "run": {option for one in commands["run"].params for option in one.opts},
        "doctor": {option for one in commands["doctor"].params for option in one.opts},
        "status": {option for one in commands["status"].params for option in one.opts},
        "manifest": {
            option
            for one in commands["manifest"].commands["from-sql"].params
            for option in one.opts
        },
    }
    shell = (EXAMPLES / "cron/nightly.sh").read_text(encoding="utf-8").replace("\\\n", " ")
    power = re.sub(r",\r\n\s*", ", ", POWERSHELL.decode("ascii"))
    found: dict[str, set[str]] = {name: set() for name in flags}
    for line in [*shell.splitlines(), *batch_lines()]:
        if call := re.search(r"audio-batch (run|doctor|status|manifest) (.*)", line):
            words = call[2].split(">>")[0].split("2>")[0]
            found[call[1]] |= set(re.findall(r"(?:^| )(--?[a-z][a-z-]*)", words))
    for call in re.finditer(r"@\('(run|doctor|manifest)', (.*?)\)", power, flags=re.S):
        found[call[1]] |= set(re.findall(r"'(--?[a-z][a-z-]*)'", call[2]))
    assert {"--until", "--timeout", "--log-file", "-o", "-y"} <= found["run"]
    assert flags["run"] <= flags["doctor"], "both are given what the wrapper is given"
    assert {"--query-file", "--map", "--prefix"} <= found["manifest"]
    for name, used in found.items():
        assert used <= flags[name], (name, used - flags[name])
