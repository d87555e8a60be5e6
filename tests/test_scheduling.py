"""`audio-batch schedule`: what is written for cron, systemd and the Task Scheduler, and is it read.

Programs in the schedulers' place keep what they are given; where the real ones are, they read it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from program import Answer, command, environment, write_manifest
from shipped import NULL, ended, executable, needs_posix, with_path

from audio_batch.errors import UsageError
from audio_batch.scheduling import cron, schtasks, systemd
from audio_batch.scheduling.entry import Entry, parse_days, parse_name, parse_time

AWKWARD = (
    *(
        "plain",
        "a b",
        "100%",
        "%h",
        "%PATH%",
        "$HOME",
        "${HOME}",
        "a&b",
        "x|y",
        "<z>",
        "(p)",
        "!v!",
    ),
    *(
        "it's",
        'id=a"b',
        'id=a"b & c',
        '"q"',
        "a;b",
        ";",
        "^",
        "a^b",
        "*",
        "~",
        "#x",
        "@y",
        "",
        "a=b",
    ),
)
"""Words that one reader or another takes for something else."""

pytestmark = needs_posix


def entry(folder: Path, *command: str, days: tuple[int, ...] = ()) -> Entry:
    return Entry("night", 22, 30, days, command, folder)


# ---- What is asked for


def test_times_days_and_names() -> None:
    assert parse_time("22:30") == (22, 30)
    assert parse_time("6:05") == (6, 5)
    assert parse_days("daily") == () == parse_days("mon-sun")
    assert parse_days("mon-fri") == (0, 1, 2, 3, 4)
    assert parse_days("Fri-Mon") == (0, 4, 5, 6)
    assert parse_days("sat,sun,sat") == (5, 6)
    for text in ("24:00", "22:60", "22", "22:3", "", "22:30:00", "-1:30"):
        with pytest.raises(UsageError, match="no time of day"):
            parse_time(text)
    for text in ("", "noday", "mon-", "mon--fri", "1-5"):
        with pytest.raises(UsageError, match="cannot be read"):
            parse_days(text)
    for text in ("", "a b", "../up", "a%", "-x", "x" * 41):
        with pytest.raises(UsageError, match="is not of letters"):
            parse_name(text)


def test_a_line_break_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="control character"):
        entry(tmp_path, "/bin/x", "a\n* * * * * evil")


# ---- cron

CRONTAB = """#!/bin/sh
case $1 in
    -l) [ -f "$STUB_TAB" ] || { echo "no crontab for you" >&2; exit 1; }; cat "$STUB_TAB" ;;
    -) cat >"$STUB_TAB"; echo "written" >>"$STUB_TAB.log" ;;
esac
"""
OTHERS = "# mine\nMAILTO=a@b.c\n\n5 4 * * * true \\% # not ours: night\n"


@pytest.fixture
def tab(tmp_path: Path) -> Path:
    executable(tmp_path / "bin" / "crontab", CRONTAB)
    return tmp_path / "tab"


def schedule(
    tmp_path: Path, *arguments: object, scheduler: str, folder: Path | None = None
) -> Answer:
    """The command with programs of ours in the schedulers' place, and a home of its own."""
    env = with_path(
        tmp_path / "bin",
        STUB_TAB=str(tmp_path / "tab"),
        STUB_LOG=str(tmp_path / "stub.log"),
        HOME=str(tmp_path / "home"),
        XDG_CONFIG_HOME=str(tmp_path / "home/.config"),
        XDG_DATA_HOME=str(tmp_path / "home/.local/share"),
    )
    (tmp_path / "home").mkdir(exist_ok=True)
    order, *rest = arguments
    words = ["audio-batch", "schedule", order, "--scheduler", scheduler, *rest]
    return ended(["python3", "-m", "audio_batch", *words[1:]], folder or tmp_path, env)


def test_cron_entries_come_change_and_go(tmp_path: Path, tab: Path) -> None:
    tab.write_text(OTHERS, encoding="utf-8")
    manifest = write_manifest(tmp_path / "in", 1)
    run = ("--", "run", manifest, "-o", "my out")
    dry = schedule(tmp_path, "install", "--at", "22:30", "--dry-run", *run, scheduler="cron")
    assert dry.code == 0, dry.err
    assert "+ 30 22 * * * cd " in dry.out
    assert tab.read_text(encoding="utf-8") == OTHERS
    nobody = schedule(tmp_path, "install", "--at", "22:30", *run, scheduler="cron")
    assert nobody.code == 2
    assert "+ 30 22 * * * cd " in nobody.out, "shown before it is asked for"
    assert "there is nobody to ask" in nobody.err
    assert tab.read_text(encoding="utf-8") == OTHERS

    first = schedule(tmp_path, "install", "--at", "22:30", "--yes", *run, scheduler="cron")
    assert first.code == 0, first.err
    lines = tab.read_text(encoding="utf-8").removeprefix(OTHERS).splitlines()
    assert len(lines) == 1
    assert re.fullmatch(
        rf"30 22 \* \* \* cd \S+ && \S+.* run {manifest} -o 'my out' # audio-batch schedule: night",
        lines[0],
    )
    again = schedule(tmp_path, "install", "--at", "22:30", "--yes", *run, scheduler="cron")
    assert "It is so already" in again.err
    log = tab.with_suffix(".log")
    assert log.read_text(encoding="utf-8") == "written\n", "not written a second time"

    moved = ("install", "--at", "1:05", "--days", "mon,sun", "-y")
    assert schedule(tmp_path, *moved, *run, scheduler="cron").code == 0
    lines = tab.read_text(encoding="utf-8").removeprefix(OTHERS).splitlines()
    assert [line[:12] for line in lines] == ["5 1 * * 1,0 "]
    other = schedule(tmp_path, *moved, "--name", "other", *run, scheduler="cron")
    assert other.code == 0
    listed = schedule(tmp_path, "show", scheduler="cron").out
    assert "night (cron):" in listed
    assert "other (cron):" in listed
    assert schedule(tmp_path, "remove", "-y", scheduler="cron").code == 0
    assert "schedule: other" in tab.read_text(encoding="utf-8")
    assert schedule(tmp_path, "remove", "-y", "--name", "other", scheduler="cron").code == 0
    assert tab.read_text(encoding="utf-8") == OTHERS
    nothing = schedule(tmp_path, "remove", "-y", scheduler="cron")
    assert (nothing.code, "Nothing to do" in nothing.err) == (0, True)


def test_a_crontab_that_cannot_be_read_is_left_alone(tmp_path: Path) -> None:
    executable(
        tmp_path / "bin" / "crontab",
        '#!/bin/sh\necho "$*" >>"$STUB_LOG"\necho denied >&2\nexit 1\n',
    )
    answer = schedule(tmp_path, "install", "--at", "1:00", "-y", "--", "gpus", scheduler="cron")
    assert answer.code == 5
    assert "The crontab cannot be read: denied" in answer.err
    assert (tmp_path / "stub.log").read_text(encoding="utf-8") == "-l\n"


def as_cron_reads_it(line: str) -> str:
    """What cron gives to the shell: `\\%` is a percent sign, and a bare one would end it."""
    order = line.split(" ", 5)[5]
    assert not re.search(r"(?<!\\)%", order)
    return order.replace(r"\%", "%")


def test_the_shell_gets_every_word_as_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "it's 100%"
    folder.mkdir()
    program = executable(tmp_path / "show words", '#!/bin/sh\npwd\nprintf "<%s>" "$@"\n')
    words = [word for word in AWKWARD if "\\" not in word]
    line = cron.line(entry(folder, str(program), *words))
    answer = ended(["sh", "-c", as_cron_reads_it(line)], tmp_path, environment())
    assert answer.out == f"{folder}\n" + "".join(f"<{word}>" for word in words)
    with pytest.raises(UsageError, match="backslash"):
        cron.line(entry(folder, "/bin/x", "a\\b"))
    with pytest.raises(UsageError, match="too long"):
        cron.line(entry(folder, "/bin/x", "x" * 990))


def test_what_cron_is_given_runs(tmp_path: Path, tab: Path) -> None:
    """With an environment as small as cron's."""
    write_manifest(tmp_path / "in", 2)
    run = ("--", "run", "manifest.json", "-o", "my out%", "-y", "-f", "txt")
    installed = schedule(
        tmp_path, "install", "--at", "22:30", "-y", *run, scheduler="cron", folder=tmp_path / "in"
    )
    assert installed.code == 0, installed.err
    (line,) = tab.read_text(encoding="utf-8").splitlines()
    small = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "LANG": "C", **NULL}
    answer = ended(["/bin/sh", "-c", as_cron_reads_it(line)], Path("/"), small)
    assert answer.code == 0, answer.err
    assert len(list((tmp_path / "in/my out%").glob("*.txt"))) == 2


@pytest.fixture
def no_crontab() -> Iterator[None]:
    """The real crontab, where nobody uses it."""
    if shutil.which("crontab") is None:
        pytest.skip("needs crontab: how it takes what is written is not tested without")
    if subprocess.run(["crontab", "-l"], capture_output=True, check=False).returncode == 0:
        pytest.skip("somebody has a crontab here, which a test does not touch")
    yield
    subprocess.run(["crontab", "-r"], capture_output=True, check=False)


@pytest.mark.usefixtures("no_crontab")
def test_the_real_crontab_takes_it(tmp_path: Path, cli: Callable[..., Answer]) -> None:
    manifest = write_manifest(tmp_path / "in", 1)
    words = ("--scheduler", "cron", "--at", "22:30", "--days", "sun", "-y", "--", "run", manifest)
    assert cli("schedule", "install", *words, "-o", "100% 'out'").code == 0
    assert "It is so already" in cli("schedule", "install", *words, "-o", "100% 'out'").err
    assert "30 22 * * 0 cd" in cli("schedule", "show", "--scheduler", "cron").out
    assert cli("schedule", "remove", "--scheduler", "cron", "-y").code == 0
    assert cli("schedule", "show", "--scheduler", "cron").out == ""


# ---- systemd


@pytest.fixture
def systemctl(tmp_path: Path) -> Path:
    executable(tmp_path / "bin" / "systemctl", '#!/bin/sh\necho "$*" >>"$STUB_LOG"\n')
    return tmp_path / "home/.config/systemd/user"


def test_systemd_entries_come_change_and_go(tmp_path: Path, systemctl: Path) -> None:
    manifest = write_manifest(tmp_path / "in", 1)
    run = ("--", "run", manifest, "-o", "my out")
    log = tmp_path / "stub.log"
    dry = schedule(tmp_path, "install", "--at", "22:30", "--dry-run", *run, scheduler="systemd")
    assert "OnCalendar=*-*-* 22:30:00" in dry.out, dry.err
    assert not systemctl.exists()
    first = schedule(tmp_path, "install", "--at", "22:30", "-y", *run, scheduler="systemd")
    assert first.code == 0, first.err
    assert {path.name for path in systemctl.iterdir()} == {
        "audio-batch-night.service",
        "audio-batch-night.timer",
    }
    assert log.read_text(encoding="utf-8").splitlines() == [
        "--user daemon-reload",
        "--user enable audio-batch-night.timer",
        "--user restart audio-batch-night.timer",
    ]
    again = schedule(tmp_path, "install", "--at", "22:30", "-y", *run, scheduler="systemd")
    assert "It is so already" in again.err
    later = ("install", "--at", "23:00", "--days", "fri", "-y")
    assert schedule(tmp_path, *later, *run, scheduler="systemd").code == 0
    timer = (systemctl / "audio-batch-night.timer").read_text(encoding="utf-8")
    assert "OnCalendar=Fri *-*-* 23:00:00" in timer
    listed = schedule(tmp_path, "show", scheduler="systemd").out
    assert "night (systemd):" in listed
    assert "run " in listed
    log.unlink()
    assert schedule(tmp_path, "remove", "-y", scheduler="systemd").code == 0
    assert list(systemctl.iterdir()) == []
    assert log.read_text(encoding="utf-8").splitlines() == [
        "--user disable --now audio-batch-night.timer",
        "--user daemon-reload",
    ]


def test_a_unit_of_somebody_else_is_left_alone(tmp_path: Path, systemctl: Path) -> None:
    systemctl.mkdir(parents=True)
    (systemctl / "audio-batch-night.timer").write_text("[Timer]\n", encoding="utf-8")
    for order in (("install", "--at", "1:00", "-y", "--", "gpus"), ("remove", "-y")):
        answer = schedule(tmp_path, *order, scheduler="systemd")
        assert "was not made by this command" in answer.err or "Nothing to do" in answer.err
    assert (systemctl / "audio-batch-night.timer").read_text(encoding="utf-8") == "[Timer]\n"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_takes_what_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "it's 100% mine"
    folder.mkdir()
    program = executable(tmp_path / "show words", "#!/bin/sh\n")
    one = entry(folder, str(program), *AWKWARD, "back\\slash", "end\\", days=(0, 6))
    units = tmp_path / "units"
    units.mkdir()
    (units / "audio-batch-night.service").write_text(systemd.service(one), encoding="utf-8")
    (units / "audio-batch-night.timer").write_text(systemd.timer(one), encoding="utf-8")
    (tmp_path / "run").mkdir(mode=0o700)
    env = environment(XDG_RUNTIME_DIR=str(tmp_path / "run"))
    answer = ended(["systemd-analyze", "--user", "verify", *sorted(units.iterdir())], tmp_path, env)
    if "Failed to initialize manager" in answer.err:
        pytest.skip(f"systemd-analyze cannot verify here: {answer.err.strip()}")
    assert answer.code == 0, answer.err
    assert not [line for line in answer.err.splitlines() if "audio-batch" in line]
    (when,) = re.findall(r"^OnCalendar=(.*)$", systemd.timer(one), flags=re.M)
    calendar = ended(["systemd-analyze", "calendar", when], tmp_path, env)
    assert "Normalized form: Mon,Sun *-*-* 22:30:00" in calendar.out, calendar.err


def test_what_means_something_to_systemd_is_written_twice(tmp_path: Path) -> None:
    text = systemd.service(
        entry(tmp_path / "100%", "/opt/a $b%/x", "%h", "$HOME", 'a"b', "c\\d", "")
    )
    assert f"\nWorkingDirectory={tmp_path}/100%%\n" in text
    # The program's own path knows no variables.
    assert '\nExecStart="/opt/a $b%%/x" "%%h" "$$HOME" "a\\"b" "c\\\\d" ""\n' in text


# ---- The Task Scheduler


def test_windows_entries_come_and_go(tmp_path: Path) -> None:
    """With a program in place of schtasks, on whatever system this is."""
    executable(tmp_path / "bin" / "schtasks", '#!/bin/sh\nprintf "<%s>" "$@" >>"$STUB_LOG"\n')
    manifest = write_manifest(tmp_path / "in", 1)
    home = tmp_path / "home/.local/share/audio-batch/schedule"
    words = ("install", "--at", "6:05", "--days", "mon,fri", "-y", "--", "run", manifest, "-q")
    answer = schedule(tmp_path, *words, scheduler="schtasks")
    assert answer.code == 0, answer.err
    log = tmp_path / "stub.log"
    assert log.read_text(encoding="utf-8") == (
        "</Create></F></TN><audio-batch\\night></SC><WEEKLY></D><MON,FRI></ST><06:05>"
        f'</TR><"{home}/night.cmd">'
    )
    lines = (home / "night.cmd").read_bytes().decode("ascii").split("\r\n")
    assert any(line.endswith(f' run {manifest} -q >>"{home}/night.log" 2>&1') for line in lines)
    assert "night (schtasks):" in schedule(tmp_path, "show", scheduler="schtasks").out
    log.unlink()
    assert schedule(tmp_path, "remove", "-y", scheduler="schtasks").code == 0
    assert log.read_text(encoding="utf-8").endswith("</Delete></F></TN><audio-batch\\night>")
    assert not (home / "night.cmd").exists()
    with pytest.raises(UsageError, match="cannot be given to a command file"):
        schtasks.command_file(entry(tmp_path, "C:\\a.bat", 'x"y'), tmp_path / "log")


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
def test_cmd_gives_every_word_as_it_was(wine: dict[str, str], tmp_path: Path) -> None:
    """Wine's cmd, and its reading of a command line. Not tested: Windows; what is not ASCII."""
    folder = tmp_path / "100% mine"
    folder.mkdir()
    source = tmp_path / "words.c"
    source.write_text(
        "#include <stdio.h>\nint main(int n, char **words)\n"
        '{ for (int i = 1; i < n; i++) printf("<%s>", words[i]); return 0; }\n',
        encoding="ascii",
    )
    subprocess.run(["gcc", "-o", tmp_path / "show words.exe", source], check=True)

    def windows(path: Path) -> str:
        return f"Z:{path}".replace("/", "\\")

    words = (*AWKWARD, "c:\\d e\\", "t\\", '\\"', 'x\\\\"y')
    data = schtasks.command_file(
        entry(Path("@folder@"), windows(tmp_path / "show words.exe"), *words),
        Path("@log@"),
    )
    data = data.replace(b"@folder@", windows(folder).replace("%", "%%").encode())
    data = data.replace(b"@log@", windows(tmp_path / "log.txt").encode())
    (tmp_path / "night.cmd").write_bytes(data)
    answer = ended(["wine", "cmd", "/c", "night.cmd"], tmp_path, wine)
    assert (tmp_path / "log.txt").is_file(), answer
    assert (tmp_path / "log.txt").read_text() == "".join(f"<{word}>" for word in words)


# ---- The command


@pytest.mark.parametrize(("typed", "written"), [("y\n", True), ("n\n", False), ("\x04", False)])
def test_a_person_is_asked(tmp_path: Path, tab: Path, typed: str, written: bool) -> None:
    """On a terminal; the last one is the end of the input."""
    leader, follower = os.openpty()
    env = with_path(tmp_path / "bin", STUB_TAB=str(tab))
    words = ["schedule", "install", "--scheduler", "cron", "--at", "1:00", "--", "gpus"]
    process = subprocess.Popen(
        command(*words),
        cwd=tmp_path,
        env=env,
        stdin=follower,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(follower)
    os.write(leader, typed.encode())
    out, err = process.communicate(timeout=60)
    os.close(leader)
    assert process.returncode == 0, err
    assert "+ 0 1 * * * cd " in out
    assert "Go on? [y/N]" in err
    assert tab.exists() == written
    assert ("Nothing was written." in err) != written


def test_slips_are_found_when_it_is_written(tmp_path: Path, tab: Path) -> None:
    manifest = write_manifest(tmp_path / "in", 1)
    for words, message in (
        (("run", manifest, "--no-such-flag"), "--no-such-flag"),
        (("run",), "Missing argument"),
        (("rnu", manifest), "neither a command of audio-batch nor a script"),
        ((manifest,), "cannot be run"),
    ):
        answer = schedule(tmp_path, "install", "--at", "1:00", "-y", "--", *words, scheduler="cron")
        assert answer.code == 2, answer
        assert message in answer.err
    unknown = schedule(tmp_path, "install", "--at", "1:00", "--", "gpus", scheduler="at")
    assert "--scheduler 'at' is not one of" in unknown.err
    gone = schedule(
        *(tmp_path, "install", "--at", "1:00", "--folder", "gone", "--", "gpus"), scheduler="cron"
    )
    assert "There is no folder" in gone.err
    assert not tab.exists()


def test_a_script_is_scheduled_by_its_path(tmp_path: Path, tab: Path) -> None:
    script = executable(tmp_path / "my night.sh", "#!/bin/sh\n")
    words = ("--at", "1:00", "-y", "--", "my night.sh", "--until", "06:00")
    answer = schedule(tmp_path, "install", *words, scheduler="cron")
    assert answer.code == 0, answer.err
    assert f"&& '{script}' --until 06:00 #" in tab.read_text(encoding="utf-8")


def test_settings_of_the_moment_are_named(
    tmp_path: Path, tab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(os.environ, "AUDIO_BATCH_RESULTS_DB", "postgresql://u:hunter2@db/x")
    words = ("--at", "1:00", "-y", "--", "gpus")
    env_kept = {**with_path(tmp_path / "bin", STUB_TAB=str(tab)), **os.environ}
    env_kept["PATH"] = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    answer = ended(
        ["python3", "-m", "audio_batch", "schedule", "install", "--scheduler", "cron", *words],
        tmp_path,
        env_kept,
    )
    assert answer.code == 0, answer.err
    assert "AUDIO_BATCH_RESULTS_DB" in answer.err
    assert "hunter2" not in answer.out + answer.err + tab.read_text(encoding="utf-8")
