"""Stores that go away in the middle of a run and come back, or do not; the program as a process."""

from __future__ import annotations

import errno
import json
import queue
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from program import Answer, command, environment, write_tone
from stores.clouds import Cloud
from stores.faults import Rule
from stores.identity_center import Home, IdentityCenter
from stores.s3 import S3
from stores.servers import S3Proxy, WebServer
from stores.test_aws import stub_aws
from test_terminal import on_terminal

from audio_batch.asking import asking
from audio_batch.asset import Asset
from audio_batch.errors import AssetError, Away
from audio_batch.fetching import Fetching
from audio_batch.journal import Journal
from audio_batch.remote.access import Access
from audio_batch.remote.downloads import UNKNOWN, Patience
from audio_batch.remote.failures import trouble
from audio_batch.remote.inputs import InputPlace, PlacedInputs

Cli = Callable[..., Answer]
NULL = ("--engine", "null", "--downloads", 0)
WEB = ("--allow-http", "--allow-private-addresses")

_KEYS = """
import json, pathlib, sys
from datetime import UTC, datetime, timedelta
home, over = pathlib.Path(sys.argv[1]), sys.argv[2]
if list(home.parent.glob(over)) and not (home / "again").exists():
    sys.exit("nobody is signed in")
ends = datetime.now(UTC) + timedelta(seconds=120)
print(json.dumps({"Version": 1, "AccessKeyId": "AKIDNIGHT", "SecretAccessKey": "canary-secret",
    "SessionToken": "canary-session", "Expiration": f"{ends:%Y-%m-%dT%H:%M:%SZ}"}))
"""


@pytest.fixture
def home(tmp_path: Path, s3: S3) -> Home:
    """Where the profile `night` is; see `signed_in_until`."""
    return Home(tmp_path / "home", {"AWS_ENDPOINT_URL_STS": s3.endpoint})


def signed_in_until(home: Home, over: str) -> tuple[str, ...]:
    """Keys that are asked for at every request, and had until a file is there; and the flags.

    After that nobody is signed in, until there is a file `again` in the home.
    """
    program = home.folder / "keys.py"
    words = " ".join(f'"{word}"' for word in (sys.executable, program, home.folder, over))
    home.config(f"[profile night]\ncredential_process = {words}\nregion = eu-central-1\n")
    program.write_text(_KEYS, encoding="utf-8")
    home.more |= {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}
    return ("--aws-profile", "night")


def manifest_of(folder: Path, uris: Sequence[str]) -> Path:
    path = folder / "m.json"
    entries = [{"id": f"a{number}", "uri": uri} for number, uri in enumerate(uris)]
    path.write_text(json.dumps(entries), encoding="utf-8")
    return path


def tones(folder: Path, count: int) -> list[str]:
    return [str(write_tone(folder / f"t{number}.wav", 0.3)) for number in range(count)]


def in_s3(s3: S3, folder: Path, count: int) -> list[str]:
    return [s3.put(f"in/{n}.wav", Path(path)) for n, path in enumerate(tones(folder, count))]


def summary_of(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    return found


def attempts(state: Path) -> set[int]:
    with closing(Journal(state / "journal.sqlite3", read_only=True)) as journal:
        return {entry.attempts for entry in journal.entries()}


class Night:
    """A run as a process; its words are read while it goes on."""

    def __init__(self, folder: Path, *arguments: object, env: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            command(*arguments),
            cwd=folder,
            env=environment(**env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        self.said = ""
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said += line

    def until(self, words: str) -> None:
        """Wait for it to say something."""
        until_s = time.monotonic() + 120
        while words not in self.said:
            if self.process.poll() is not None:
                self._thread.join()  # its last words may not have been read yet
                assert words in self.said, self.said
            assert time.monotonic() < until_s, self.said
            time.sleep(0.02)

    def end(self) -> int:
        """Wait for its end."""
        code = self.process.wait(180)
        self._thread.join()
        return code


@pytest.fixture
def nights() -> Iterator[list[Night]]:
    begun: list[Night] = []
    yield begun
    for night in begun:
        if night.process.poll() is None:
            night.process.kill()
        night.process.communicate()


def test_a_sign_in_that_does_not_come_back_fails_nothing(
    cli: Cli, tmp_path: Path, s3: S3, home: Home
) -> None:
    local, remote = tones(tmp_path / "local", 3), in_s3(s3, tmp_path / "s3", 3)
    manifest = manifest_of(tmp_path, [*local, *remote])
    night = ("run", manifest, *NULL, "-o", "out", "--order", "manifest", "--threads", 1)
    flags = ("--s3-endpoint", s3.endpoint, *signed_in_until(home, "out/a0.json"))
    flags = (*flags, "--results-db", f"sqlite:///{tmp_path}/results.db")
    answer = cli(*night, *flags, "--outage-wait", "1s", env=home.environment)
    assert answer.code == 5, answer.err
    one = summary_of(tmp_path / "out")
    assert (one["done"], one["failed"], one["not_done"]) == (3, 0, 3)
    assert (one["ended_by"], one["failures"]) == ("store_away", [])
    assert [(s["store"], s["assets"]) for s in one["stores_away"]] == [("s3://", 3)]
    said = " ".join(answer.err.split())
    assert said.count("lets nobody in") == 1
    assert "3 assets wait for it" in said and "`aws sso login --profile night`" in said
    with closing(sqlite3.connect(tmp_path / "results.db")) as database:
        states = {row[0] for row in database.execute("SELECT state FROM audio_batch_results")}
    assert states == {"done", "interrupted"}
    (home.folder / "again").touch()
    again = cli(*night, *flags, env=home.environment)
    assert again.code == 0, again.err
    assert summary_of(tmp_path / "out")["done_before"] == 3
    assert attempts(tmp_path / "out/.audio-batch") == {1}


def test_what_lies_in_the_cache_is_done_while_its_store_is_away(
    cli: Cli, tmp_path: Path, s3: S3, home: Home
) -> None:
    """As far as this run has seen that it is still what lies in the store."""
    (local,) = tones(tmp_path / "local", 1)
    remote = in_s3(s3, tmp_path / "s3", 6)
    cache = ("--cache-dir", tmp_path / "cache", "--s3-endpoint", s3.endpoint)
    earlier = cli("run", manifest_of(tmp_path, remote[2:]), *NULL, *cache, "-o", "earlier")
    assert earlier.code == 0, earlier.err
    s3.put("in/5.wav", write_tone(tmp_path / "other.wav", 0.5))
    manifest = manifest_of(tmp_path, [local, *remote])
    flags = (*signed_in_until(home, "out/a0.json"), "--order", "manifest", "-t", 1)
    more = ("--prefetch", 0, "--outage-wait", "1s")
    answer = cli("run", manifest, *NULL, *cache, "-o", "out", *flags, *more, env=home.environment)
    assert answer.code == 5, answer.err
    said = answer.err
    assert (
        said.index("lets nobody in") < said.index("] Done: 2") < said.index("Nothing else is left")
    )
    names = {path.stem for path in (tmp_path / "out").glob("a*.json")}
    assert names == {"a0", "a3", "a4", "a5"}, "neither what was never fetched nor what is another"
    one = summary_of(tmp_path / "out")
    assert [(s["store"], s["assets"]) for s in one["stores_away"]] == [("s3://", 3)]


@pytest.mark.slow
@pytest.mark.parametrize("isolation", ["thread", "process"])
def test_somebody_signs_in_again_and_the_run_goes_on(
    nights: list[Night], tmp_path: Path, s3: S3, home: Home, isolation: str
) -> None:
    local, remote = tones(tmp_path / "local", 3), in_s3(s3, tmp_path / "s3", 4)
    manifest = manifest_of(tmp_path, [*local, *remote])
    night = ("run", manifest, *NULL, "-o", "out", "--order", "manifest")
    flags = ("--s3-endpoint", s3.endpoint, *signed_in_until(home, "out/a0.json"))
    more = ("--isolation", isolation, "--downloads", 2, "--threads", 1)
    nights.append(run := Night(tmp_path, *night, *flags, *more, env=home.environment))
    run.until("Nothing else is left to do")
    (home.folder / "again").touch()
    assert run.end() == 0, run.said
    one = summary_of(tmp_path / "out")
    assert (one["done"], one["failed"], one["stores_away"]) == (7, 0, [])
    assert run.said.count("s3:// is back") == 1
    assert attempts(tmp_path / "out/.audio-batch") == {1}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX pseudo-terminal")
def test_a_person_at_the_terminal_is_asked_once(
    tmp_path: Path, s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = manifest_of(tmp_path, [*tones(tmp_path / "l", 12), *in_s3(s3, tmp_path / "s3", 3)])
    with IdentityCenter() as center:
        home = Home(tmp_path / "home", {"AWS_ENDPOINT_URL_SSO": center.url})
        home.sso()
        home.token("access-1", ends_in_s=7200)
        center.good, center.lasting_s = {"access-1"}, 120
        log = tmp_path / "asked"
        path = stub_aws(
            tmp_path / "bin",
            "import json, sys, pathlib\n"
            f"with open({str(log)!r}, 'a') as file: file.write(' '.join(sys.argv[1:]) + ';')\n"
            f"token = pathlib.Path({str(home.token_file())!r})\n"
            "body = json.loads(token.read_text()) | {'accessToken': 'access-2'}\n"
            "token.write_text(json.dumps(body))\n"
            "print('Attempting to open a browser')\n",
        )
        env = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "PATH": path}
        for name, value in {**env, **home.environment}.items():
            monkeypatch.setenv(name, value)

        def end_it() -> None:
            while not (tmp_path / "out/a0.json").exists():
                time.sleep(0.005)
            center.good = {"access-2"}

        threading.Thread(target=end_it, daemon=True).start()
        flags = ("--s3-endpoint", s3.endpoint, "--aws-profile", "night", "--aws-login")
        night = ("run", manifest, *NULL, "-o", "out", "--order", "manifest", "-t", 1, "--yes")
        begun_s = time.monotonic()
        code, shown = on_terminal(tmp_path, *night, *flags, answers={})
    assert code == 0, shown
    assert log.read_text() == "sso login --profile night;"
    assert "Attempting to open a browser" in shown
    assert "s3:// is back" in shown
    assert time.monotonic() - begun_s < 60
    assert attempts(tmp_path / "out/.audio-batch") == {1}


@pytest.mark.slow
def test_keys_in_a_file_that_somebody_writes_anew(
    nights: list[Night], tmp_path: Path, s3: S3, home: Home
) -> None:
    """The store refuses them; the file is read again, in the processes of devices too."""
    manifest = manifest_of(tmp_path, in_s3(s3, tmp_path / "s3", 4))
    home.config("[profile night]\nregion = eu-central-1\n")
    keys = home.folder / ".aws/credentials"
    secret = "aws_secret_access_key = canary-secret-0123456789abcdefghijkl\n"
    keys.write_text(f"[night]\naws_access_key_id = AKIDOLD\n{secret}")
    env = {**home.environment, "AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}
    s3.inject(s3.trouble.faults.__class__(expire_after=7))  # STS, four looks, two recordings
    flags = ("--s3-endpoint", s3.endpoint, "--aws-profile", "night", "--isolation", "process")
    run = Night(tmp_path, "run", manifest, *NULL, "-o", "out", "-t", 1, *flags, env=env)
    nights.append(run)
    run.until("lets nobody in")
    keys.write_text(f"[night]\naws_access_key_id = AKIDNEW\n{secret}")
    assert run.end() == 0, run.said
    assert summary_of(tmp_path / "out")["done"] == 4
    assert attempts(tmp_path / "out/.audio-batch") == {1}
    assert {seen.key for seen in s3.trouble.seen if seen.status == 200} == {"AKIDOLD", "AKIDNEW"}


@pytest.mark.slow
@pytest.mark.parametrize("where", ["thread", "process", "ray workers", "ray driver"])
def test_outputs_wait_for_their_store_and_nothing_is_heard_twice(
    nights: list[Night], tmp_path: Path, s3: S3, home: Home, where: str
) -> None:
    how: tuple[object, ...] = ("--engine", "null", "--isolation", where)
    if where.startswith("ray"):
        pytest.importorskip("ray", reason="Ray is not installed (audio-batch[ray])")
        how = ("--engine", "ray:null", "--ray-results", where.partition(" ")[2])
    manifest = manifest_of(tmp_path, tones(tmp_path / "local", 5))
    flags = (*signed_in_until(home, "over"), "--s3-endpoint", s3.endpoint)
    state = tmp_path / "state"
    night = ("run", manifest, *how, "-o", s3.url("out"), "--state-dir", state, "-f", "txt")
    # Two have their text and their JSON; no other is published before nobody is signed in.
    s3.rule(Rule("hang", kind="PUT", path="*/out/a*", after=4))
    nights.append(run := Night(tmp_path, *night, *flags, "-t", 1, env=home.environment))
    run.until("[1/5] Done")
    (tmp_path / "over").touch()
    s3.trouble.rules.clear()
    run.until("Nothing else is left to do")
    (home.folder / "again").touch()
    assert run.end() == 0, run.said
    assert {key for key in s3.keys("out/") if key.endswith(".txt")} == {
        f"out/a{n}.txt" for n in range(5)
    }
    assert attempts(state) == {1}
    with closing(Journal(state / "journal.sqlite3", read_only=True)) as journal:
        assert journal.stage_counts()["transcribe"] == 5


@pytest.mark.slow
def test_a_host_that_is_gone_for_a_while_holds_no_other(
    nights: list[Night], tmp_path: Path
) -> None:
    gone, well = WebServer(tmp_path / "web"), WebServer(tmp_path / "web")
    names = [Path(path).name for path in tones(tmp_path / "web", 5)]
    uris = [f"{server.url}/{name}" for name in names for server in (gone, well)]
    manifest = manifest_of(tmp_path, [*uris, *tones(tmp_path / "local", 3)])
    with well:
        gone.start()
        gone.rule(Rule("reset", kind="GET"))  # until it is stopped nothing can be fetched
        night = ("run", manifest, *NULL, "-o", "out", *WEB, "--max-attempts", 4)
        nights.append(run := Night(tmp_path, *night, env={}))
        run.until("to do")
        gone.stop()
        run.until("Nothing else is left to do: 5 assets wait for " + gone.url)
        assert run.said.count("] Done: ") == 8
        with WebServer(tmp_path / "web", gone.port):
            assert run.end() == 0, run.said
    one = summary_of(tmp_path / "out")
    assert (one["done"], one["failed"]) == (13, 0)


@pytest.mark.slow
def test_a_host_that_is_dead_is_told_from_a_network_by_what_came_ahead(
    cli: Cli, tmp_path: Path, web: WebServer
) -> None:
    """All that lies elsewhere is in the cache before anything fails."""
    uris = [f"{web.url}/{Path(path).name}" for path in tones(web.folder, 20)]
    with socket.socket() as dead:
        dead.bind(("127.0.0.1", 0))
        uris.insert(3, f"http://127.0.0.1:{dead.getsockname()[1]}/x.wav")
        night = ("run", manifest_of(tmp_path, uris), "--engine", "null", "-o", "out", *WEB)
        answer = cli(*night, "--max-attempts", 1, "-t", 1, "--outage-wait", "60s")
    assert answer.code == 3, answer.err
    one = summary_of(tmp_path / "out")
    assert (one["done"], one["failed"], one["stores_away"]) == (20, 1, [])


@contextmanager
def swallowing(port: int) -> Iterator[None]:
    """A port where connections are neither made nor refused: its queue is full."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(0)
        for _ in range(4):
            one = stack.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port))
        yield


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a full queue refuses")
def test_a_host_that_swallows_everything_takes_no_device_while_it_is_held(
    nights: list[Night], tmp_path: Path
) -> None:
    names = [Path(path).name for path in tones(tmp_path / "web", 5)]
    gone = WebServer(tmp_path / "web")
    manifest = manifest_of(tmp_path, [f"{gone.url}/{name}" for name in names])
    gone.start()
    gone.rule(Rule("reset", kind="GET"))
    night = ("run", manifest, *NULL, "-o", "out", *WEB, "--max-attempts", 9, "-t", 3)
    nights.append(run := Night(tmp_path, *night, env={}))
    run.until("to do")
    gone.stop()
    with swallowing(gone.port):
        run.until("Nothing else is left to do")
        begun = run.said.count("] Processing: ")
        time.sleep(50)  # it is asked after 15 s, and half a minute later
        assert run.said.count("] Processing: ") == begun
    with WebServer(tmp_path / "web", gone.port):
        assert run.end() == 0, run.said
    assert run.said.count("] Processing: ") == begun + 5
    assert "5 assets" in run.said and summary_of(tmp_path / "out")["done"] == 5


@pytest.mark.slow
def test_an_s3_service_that_never_answers_again(
    cli: Cli, nights: list[Night], tmp_path: Path, s3: S3
) -> None:
    proxy = S3Proxy(s3.moto.port)
    proxy.start()
    manifest = manifest_of(tmp_path, [*tones(tmp_path / "a", 2), *in_s3(s3, tmp_path / "b", 6)])
    proxy.rule(Rule("hang", kind="GET"))
    night = ("run", manifest, *NULL, "-o", "out", "--s3-endpoint", proxy.url)
    env = {"AWS_ENDPOINT_URL_STS": proxy.url}
    nights.append(run := Night(tmp_path, *night, "--outage-wait", "5s", "-t", 3, env=env))
    run.until("] Processing: 0")
    proxy.stop()
    assert run.end() == 5, run.said
    one = summary_of(tmp_path / "out")
    assert (one["done"], one["failed"], one["not_done"]) == (2, 0, 6)
    assert [(s["store"], s["assets"]) for s in one["stores_away"]] == [("s3://recordings", 6)]
    with S3Proxy(s3.moto.port, proxy.port):
        again = cli(*night, env=env)
    assert again.code == 0, again.err


@pytest.fixture(params=["azure", "google"])
def cloud(request: pytest.FixtureRequest) -> Cloud:
    found: Cloud = request.getfixturevalue(request.param)
    return found


@pytest.mark.slow
def test_azure_or_google_is_gone_for_a_while(
    nights: list[Night], tmp_path: Path, cloud: Cloud
) -> None:
    there = [cloud.put(f"in/{n}.wav", Path(p)) for n, p in enumerate(tones(tmp_path / "b", 5))]
    manifest = manifest_of(tmp_path, [*tones(tmp_path / "a", 2), *there])
    cloud.proxy.rule(Rule("hang", kind="GET"))
    night = ("run", manifest, *NULL, "-o", "out", "-t", 3)
    nights.append(run := Night(tmp_path, *night, env=cloud.environment))
    try:
        run.until("] Processing: 0")
        cloud.go()
        run.until(f"Nothing else is left to do: 5 assets wait for {cloud.scheme}://recordings")
    finally:
        cloud.come_back()
    assert run.end() == 0, run.said
    one = summary_of(tmp_path / "out")
    assert (one["done"], one["failed"], one["stores_away"]) == (7, 0, [])
    assert attempts(tmp_path / "out/.audio-batch") == {1}, run.said


@pytest.mark.slow
def test_azure_or_google_is_gone_while_it_is_written_to(
    nights: list[Night], tmp_path: Path, cloud: Cloud
) -> None:
    manifest, state = manifest_of(tmp_path, tones(tmp_path / "a", 6)), tmp_path / "state"
    night = ("run", manifest, *NULL, "-o", cloud.url("out"), "--state-dir", state, "-f", "txt")
    cloud.proxy.rule(Rule("hang", kind="PUT", path="*a[2-5]*"))
    cloud.proxy.rule(Rule("hang", kind="PUT", path="*upload*", after=6))
    nights.append(run := Night(tmp_path, *night, "-t", 2, env=cloud.environment))
    try:
        run.until("[2/6] Done")
        time.sleep(1)
        cloud.go()
        run.until("Nothing else is left to do: ")
    finally:
        cloud.come_back()
    assert run.end() == 0, run.said
    assert [key for key in cloud.keys("out/") if key.endswith(".txt")] == [
        f"out/a{n}.txt" for n in range(6)
    ]
    with closing(Journal(state / "journal.sqlite3", read_only=True)) as journal:
        assert journal.stage_counts()["transcribe"] == 6
    assert attempts(state) == {1}


def test_a_name_that_is_a_slip_fails_what_needs_it_and_keeps_nobody_waiting(
    cli: Cli, tmp_path: Path, web: WebServer
) -> None:
    """`-.invalid` is refused before any resolver is asked, so this needs none."""
    name = socket.gethostname()
    try:
        here = socket.gethostbyname(name)
    except OSError:
        here = ""
    if name == "localhost" or not here.startswith("127."):
        pytest.skip("needs a name of this machine, beside localhost, that leads to 127.0.0.1")
    well = f"http://{name}:{web.port}"
    names = [Path(path).name for path in tones(web.folder, 4)]
    uris = [uri for name in names for uri in (f"http://-.invalid/{name}", f"{well}/{name}")]
    manifest = manifest_of(tmp_path, [*uris, *tones(tmp_path / "local", 2)])
    night = ("run", manifest, *NULL, "-o", "out", *WEB, "--order", "manifest", "-t", 1)
    answer = cli(*night, "--prefetch", 0, "--retry-delay", 0.1)
    assert answer.code == 3, answer.err
    one = summary_of(tmp_path / "out")
    assert (one["done"], one["failed"], one["not_done"], one["stores_away"]) == (6, 4, 0, [])
    assert "its host has no address" in json.dumps(one["failures"])
    assert "Nothing else is left to do" not in answer.err


def test_a_store_that_is_held_is_neither_looked_at_nor_fetched_from_ahead(
    tmp_path: Path, web: WebServer
) -> None:
    access = Access(allow_http=True, allow_private=True)
    fetching = Fetching(InputPlace(tmp_path / "cache", access=access, downloads=2))
    with WebServer(web.folder) as other:
        uris = [f"{server.url}/t{n}.wav" for n in range(3) for server in (web, other)]
        tones(web.folder, 3)
        assets = [
            Asset(id=str(n), uri=uri, path=None, name="", position=n) for n, uri in enumerate(uris)
        ]
        fetching.spares = lambda uri: uri.startswith(web.url)
        looked = fetching.look(assets)
        assert [asset.seen is None for asset in looked] == [True, False] * 3
        fetching.offer(looked)
        until_s = time.monotonic() + 60
        while other.trouble.counts()["GET"] < 3 and time.monotonic() < until_s:
            time.sleep(0.02)
        assert other.trouble.counts() == {"HEAD": 3, "GET": 3}
        assert web.trouble.counts() == {}
        fetching.close()


def fetched(inputs: PlacedInputs, uri: str) -> AssetError:
    with pytest.raises(AssetError) as caught:
        inputs.fetch(uri, UNKNOWN, lambda _share: None, lambda: None)
    return caught.value


def test_only_silence_and_a_missing_sign_in_are_the_stores_own(
    tmp_path: Path, s3: S3, web: WebServer, nobody_listens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    access = Access(allow_http=True, allow_private=True, s3_endpoint=s3.endpoint)
    place = InputPlace(tmp_path / "cache", access=access)
    inputs = PlacedInputs(place, Patience(tries=1))
    s3.put("a.wav", b"x")
    (web.folder / "a.wav").write_bytes(b"x")
    for rule in (Rule("error", status=503), Rule("reset"), Rule("error", status=403)):
        for server in (s3.proxy, web):
            server.trouble.rules[:] = [rule]
        assert fetched(inputs, s3.url("a.wav")).away is None
        assert fetched(inputs, f"{web.url}/a.wav").away is None
    web.trouble.rules[:] = [Rule("error", status=511)]
    portal = fetched(inputs, f"{web.url}/a.wav").away
    assert portal is not None and not portal.signed_out
    assert "Sign in to the proxy or the network" in portal.remedy
    s3.trouble.rules[:] = [Rule("expired")]
    expired = fetched(inputs, s3.url("a.wav")).away
    assert expired is not None and (expired.store, expired.signed_out) == ("s3://recordings", True)
    closed = f"127.0.0.1:{nobody_listens}"
    silent = fetched(inputs, f"http://ann:secret@{closed}/a.wav?sig=x").away
    assert silent is not None and not silent.signed_out
    assert (silent.store, "secret" in silent.reason) == (f"http://{closed}", False)
    nobody = PlacedInputs(
        InputPlace(tmp_path / "cache", access=Access(s3_endpoint=f"http://{closed}")),
        Patience(tries=1),
    )
    found = fetched(nobody, s3.url("a.wav")).away
    assert found is not None and not found.signed_out
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    signed_out = PlacedInputs(
        InputPlace(tmp_path / "cache", access=Access(s3_endpoint=f"{s3.endpoint}/")),
        Patience(tries=1),
    )
    found = fetched(signed_out, s3.url("a.wav")).away
    assert found is not None and found.signed_out


def test_a_store_is_asked_whether_it_answers_and_any_answer_will_do(
    tmp_path: Path, web: WebServer
) -> None:
    ask = asking(Access(allow_http=True, allow_private=True))
    closed = WebServer(tmp_path)  # it listens, and then does not
    closed._server.server_close()
    told: queue.Queue[Away | None] = queue.Queue()
    (web.folder / "a.wav").write_bytes(b"x")
    web.rule(Rule("error", status=503, path="/c.wav"))
    for name in ("a", "not there", "c"):
        ask(f"{web.url}/{name}.wav", told.put)
        assert told.get(timeout=60) is None
    ask(f"{closed.url}/a.wav", told.put)
    away = told.get(timeout=60)
    assert away is not None and (away.store, away.signed_out) == (closed.url, False)


def test_a_recording_tells_whether_its_store_has_answered(tmp_path: Path, web: WebServer) -> None:
    access = Access(allow_http=True, allow_private=True)
    inputs = PlacedInputs(InputPlace(tmp_path / "cache", access=access), Patience(tries=1))
    tones(web.folder, 1)
    there, gone = (
        Asset(id=name, uri=f"{web.url}/{name}.wav", path=None, name="", position=0)
        for name in ("t0", "gone")
    )
    for asked in (True, False):  # the second time it lies in the cache
        with inputs.recording(there, UNKNOWN) as recording:
            assert not recording.reached
            recording.path(lambda _share: None, lambda: None)
            assert recording.reached == asked
    with inputs.recording(gone, UNKNOWN) as recording:
        with pytest.raises(AssetError):
            recording.path(lambda _share: None, lambda: None)
        assert recording.reached
    inputs.close()


def test_a_name_that_nobody_knows_is_told_from_a_resolver_that_is_gone() -> None:
    unknown = trouble(socket.gaierror(socket.EAI_NONAME, "Name or service not known"))
    gone = trouble(socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"))
    assert (unknown.away, gone.away) == ("nameless", "silent")
    for found in (unknown, gone):
        away = found.away_from("https://typo/a.wav")
        assert away is not None and away.nameless == (found is unknown)
        again = trouble(found.error("https://typo/a.wav"))
        assert (again.away, again.reason) == (found.away, found.error("https://typo/a.wav").message)


def test_a_host_that_swallows_what_is_sent_to_it_is_not_tried_for_long() -> None:
    late = aiohttp.ConnectionTimeoutError("Connection timeout to host")
    refused = ConnectionRefusedError(errno.ECONNREFUSED, "refused")
    assert trouble(late).away == trouble(refused).away == "silent"
    assert trouble(late).most_tries == 1
    assert trouble(refused).most_tries > 5
