"""`audio-batch schedule`: what is written for cron, systemd and the Task Scheduler, and is it read.

Programs in the schedulers' place keep what they are given; where the real ones are, they read it.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import pytest
from program import Answer, command, environment, write_manifest
from shipped import NULL, ended, executable, needs_posix, with_path

from audio_batch.cli import run_app
from audio_batch.cli import schedule as schedule_command
from audio_batch.errors import UsageError
from audio_batch.scheduling import cron, schtasks, slips, systemd
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


def entry(folder: Path, *command: str, days: tuple[int, ...] = (), programs: str = "") -> Entry:
    return Entry("night", 22, 30, days, command, folder, programs)


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
    tmp_path: Path, *arguments: object, scheduler: str = "", folder: Path | None = None
) -> Answer:
    """The command with programs of ours in the schedulers' place, and a home of its own.

    In this process: it starts many programs, and none of them is Python.
    """
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
    chosen = ("--scheduler", scheduler) if scheduler else ()
    words = [str(word) for word in ("schedule", order, *chosen, *rest)]
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
    with (
        mock.patch.dict(os.environ, env, clear=True),
        contextlib.chdir(folder or tmp_path),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        code = run_app(words)
    said = []
    for stream in (out, err):
        stream.seek(0)
        said.append(stream.read())
    return Answer(code, *said)


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
    asked = (tmp_path / "stub.log").read_text(encoding="utf-8").split()
    assert set(asked) == {"-l"}, "nothing is written"


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
    out, err = process.communicate(timeout=240)
    os.close(leader)
    assert process.returncode == 0, err
    assert "+ 0 1 * * * cd " in out
    assert "Go on? [y/N]" in err
    assert tab.exists() == written
    assert ("Nothing was written." in err) != written


def test_slips_are_found_when_it_is_written(tmp_path: Path, tab: Path) -> None:
    manifest = write_manifest(tmp_path / "in", 1)
    wrong = schedule(
        *(tmp_path, "install", "--at", "1:00", "-y", "--", "run", manifest, "--until", "25:00"),
        scheduler="cron",
    )
    assert (wrong.code, "is not a time of day" in wrong.err) == (2, True), wrong
    assert not tab.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("run", "m.json", "--no-such-flag"), "--no-such-flag"),
        (("run",), "Missing"),
        (("run", "m.json", "--until", "6"), "not a time of day"),
        (("run", "m.json", "--max-runtime", "long"), "--max-runtime"),
        (("run", "m.json", "--timeout", "2 hours"), "--timeout"),
        (("run", "m.json", "--stall-timeout", "x"), "--stall-timeout"),
        (("run", "m.json", "--split-long", "x"), "--split-long"),
        (("run", "m.json", "--shard", "5/4"), "the parts are 1/4 to 4/4"),
        (("run", "m.json", "--cache-size", "big"), "--cache-size"),
        (("run", "m.json", "--where", "audio"), "not of the form field=pattern"),
        (("run", "m.json", "-f", "doc"), "doc"),
        (("run", "m.json", "--config", "gone.toml"), "gone.toml"),
        (("manifest", "from-sql", "--tabel", "x", "-o", "m.jsonl"), "--tabel"),
        (("manifest", "from-sql", "--table", "x"), "Missing"),
        (("manifest", "from-sql", "-o", "m", "--query", "q", "--param", "x"), "--param"),
        (("manifest", "fromsql"), "not 'fromsql'"),
        (("manifest",), "comes "),
        (("results", "push", "out", "--evrything"), "--evrything"),
        (("results", "push", "out", "--shard", "0/4"), "the parts are"),
    ],
)
def test_slips_in_a_command_are_found(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(Exception, match=re.escape(message)):  # UsageError, or one of typer's own
        slips.look_for_slips(words)


def test_commands_without_slips_are_taken() -> None:
    limits = ("--until", "06:00", "--timeout", "4x", "--stall-timeout", "none", "--shard", "2/4")
    slips.look_for_slips(("run", "m.json", "-o", "out", "-y", *limits, "--where", "a=b"))
    slips.look_for_slips(("manifest", "from-sql", "--table", "x", "-o", "m.jsonl"))
    slips.look_for_slips(("results", "push", "s3://bucket/out", "--all"))
    assert slips.is_ours("manifest") and not slips.is_ours("night.sh")


def test_what_is_neither_a_command_nor_a_script_is_told(tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path, 1)
    for word, message in (("rnu", "neither a command of audio-batch"), (manifest, "cannot be run")):
        with pytest.raises(UsageError, match=message):
            schedule_command._command((str(word),), tmp_path)
    with pytest.raises(UsageError, match="--scheduler 'at' is not one of"):
        schedule_command._chosen("at")
    with pytest.raises(UsageError, match="There is no folder"):
        schedule_command.install(["gpus"], "1:00", folder=tmp_path / "gone")


def test_a_script_is_scheduled_by_its_path(tmp_path: Path, tab: Path) -> None:
    script = executable(tmp_path / "my night.sh", "#!/bin/sh\n")
    words = ("--at", "1:00", "-y", "--", "my night.sh", "--until", "06:00")
    answer = schedule(tmp_path, "install", *words, scheduler="cron")
    assert answer.code == 0, answer.err
    programs = Path(sys.executable).parent
    line = tab.read_text(encoding="utf-8")
    assert f"""&& env PATH={programs}:"$PATH" '{script}' --until 06:00 #""" in line
    # Its audio-batch is this one, with an environment as small as cron's.
    executable(script, "#!/bin/sh\ncommand -v audio-batch\n")
    small = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    told = ended(["/bin/sh", "-c", as_cron_reads_it(line)], Path("/"), small)
    if not (programs / "audio-batch").is_file():
        pytest.skip("audio-batch is not installed beside this interpreter")
    assert told.out == f"{programs}/audio-batch\n", told


def test_a_script_gets_the_path_of_whoever_installs_it(tmp_path: Path) -> None:
    one = entry(tmp_path, "/x/night.sh", programs="/opt/100% mine/bin")
    path = "/opt/100%% mine/bin:/usr/local/bin:/usr/bin:/bin"
    assert f'\nEnvironment="PATH={path}"\nExecStart=/x/night.sh\n' in systemd.service(one)
    windows = entry(Path("C:\\x"), "C:\\x\\night.bat", programs="C:\\100% mine\\Scripts")
    lines = schtasks.command_file(windows, Path("C:\\log")).decode().split("\r\n")
    assert 'set "PATH=C:\\100%% mine\\Scripts;%PATH%"' in lines
    bare = schtasks.command_file(entry(tmp_path, "C:\\x.exe"), Path("C:\\log")).decode()
    assert "PATH=" not in bare + systemd.service(entry(tmp_path, "/x"))


def test_a_name_is_in_one_scheduler(tmp_path: Path, tab: Path, systemctl: Path) -> None:
    """systemd would be the first that there is."""
    words = ("install", "--at", "1:00", "-y")
    assert schedule(tmp_path, *words, "--", "gpus", scheduler="cron").code == 0
    moved = schedule(tmp_path, "install", "--at", "2:00", "-y", "--", "gpus")
    assert "by cron." in moved.err, moved
    assert tab.read_text(encoding="utf-8").startswith("0 2 * * * ")
    assert not systemctl.exists()
    second = schedule(tmp_path, *words, "--", "gpus", scheduler="systemd")
    assert second.code == 2
    assert "'night' is there already, by cron." in second.err
    assert "schedule remove --name night --scheduler cron" in " ".join(second.err.split())
    assert not systemctl.exists()
    # One that was written into both before goes from both.
    systemctl.mkdir(parents=True)
    for kind, text in (("timer", systemd.timer), ("service", systemd.service)):
        path = systemctl / f"audio-batch-night.{kind}"
        path.write_text(text(entry(tmp_path, "/x")), encoding="utf-8")
    both = schedule(tmp_path, *words, "--", "gpus")
    assert (both.code, "by systemd and cron." in both.err) == (2, True), both
    assert schedule(tmp_path, "remove", "-y").code == 0
    assert tab.read_text(encoding="utf-8") == ""
    assert list(systemctl.iterdir()) == []


SECRETS = (
    ("run", "m.json", "--results-db", "postgresql://night:hunter2@db/x"),
    ("run", "m.json", "--results-db=postgresql://db/x?password=hunter2"),
    ("night.sh", "--token", "hf_" + "a" * 34),
    ("run", "https://u:hunter2@host/m.json"),
)


@pytest.mark.parametrize("words", SECRETS)
def test_a_secret_is_not_scheduled(words: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="looks like a password") as told:
        schedule_command._refuse_secrets(words)
    assert "hunter2" not in str(told.value)


def test_what_is_no_secret_is_scheduled() -> None:
    for url in ("postgresql://night@db/x", "postgresql://n:${PGPASSWORD}@db/x", "s3://b/a@b"):
        schedule_command._refuse_secrets(("run", "m.json", "--results-db", url))


def test_a_secret_is_neither_written_nor_shown(tmp_path: Path, tab: Path) -> None:
    words = ("install", "--at", "1:00", "-y", "--", *SECRETS[0])
    answer = schedule(tmp_path, *words, scheduler="cron")
    assert (answer.code, "looks like a password" in answer.err) == (2, True), answer
    assert not tab.exists()
    old = f"0 1 * * * cd / && /x {' '.join(SECRETS[0])} # audio-batch schedule: night\n"
    tab.write_text(old, encoding="utf-8")
    shown = schedule(tmp_path, "show", scheduler="cron")
    removed = schedule(tmp_path, "remove", "-y", scheduler="cron")
    assert "night (cron):" in shown.out and "schedule: night" in removed.out
    assert "hunter2" not in answer.out + answer.err + shown.out + removed.out


def test_settings_of_the_moment_are_named(
    tmp_path: Path, tab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(os.environ, "AUDIO_BATCH_RESULTS_DB", "postgresql://u:hunter2@db/x")
    monkeypatch.setitem(os.environ, "AWS_PROFILE", "studio")
    words = ("--at", "1:00", "-y", "--", "gpus")
    env_kept = {**with_path(tmp_path / "bin", STUB_TAB=str(tab)), **os.environ}
    env_kept["PATH"] = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    answer = ended(
        [sys.executable, "-m", "audio_batch", "schedule", "install", "--scheduler", "cron", *words],
        tmp_path,
        env_kept,
    )
    assert answer.code == 0, answer.err
    assert "AUDIO_BATCH_RESULTS_DB" in answer.err and "AWS_PROFILE" in answer.err
    assert "hunter2" not in answer.out + answer.err + tab.read_text(encoding="utf-8")
