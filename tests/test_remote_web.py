"""Recordings on the web: what is fetched, what is refused, what is tried again. Real servers."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import Any

import pytest
from stores.faults import Rule
from stores.servers import Answer, Redirect, WebServer, endless

from audio_batch.errors import AssetError, ErrorKind
from audio_batch.remote.access import Access
from audio_batch.remote.downloads import UNKNOWN, Patience, download
from audio_batch.remote.stores import Seen
from audio_batch.remote.web import WebStore, is_public

OPEN = Access(allow_http=True, allow_private=True)
GUARDED = Access(allow_http=True)
HASTY = Patience(first_s=0.01)
REFUSALS = (ErrorKind.INPUT_FORBIDDEN, ErrorKind.NETWORK, ErrorKind.INPUT_UNREADABLE)
DATA = bytes(range(256)) * 20_000  # 5 MB


class Watcher:
    """Notes what a download tells."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.identity = ""
        self.rooms: list[tuple[int | None, int]] = []
        self.have = 0
        self._stop_at = stop_at

    def look(self) -> None: ...

    def room(self, total_bytes: int | None, have_bytes: int) -> None:
        self.rooms.append((total_bytes, have_bytes))

    def began(self, identity: str) -> None:
        self.identity = identity

    def moved(self, have_bytes: int, total_bytes: int | None) -> None:
        assert total_bytes in (None, self.rooms[-1][0])
        self.have = have_bytes
        if self._stop_at is not None and have_bytes >= self._stop_at:
            raise KeyboardInterrupt


def fetch(
    url: str, target: Path, access: Access = OPEN, watcher: Watcher | None = None, **more: Any
) -> Seen:
    settings: dict[str, Any] = {
        "planned": UNKNOWN,
        "part_of": "",
        "most_bytes": access.max_download_bytes,
        "patience": HASTY,
    }
    return download(
        WebStore(access), url, target, watcher=watcher or Watcher(), **{**settings, **more}
    )


@pytest.fixture
def call(web: WebServer) -> str:
    (web.folder / "call.wav").write_bytes(DATA)
    return f"{web.url}/call.wav"


def test_a_recording_is_fetched_by_one_request(web: WebServer, call: str, tmp_path: Path) -> None:
    seen = fetch(call, tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == DATA
    assert seen.identity == WebStore(OPEN).look(call).identity
    assert web.trouble.counts() == {"GET": 1, "HEAD": 1}


def test_the_web_is_asked_only_where_that_is_allowed(call: str, tmp_path: Path) -> None:
    with pytest.raises(AssetError, match="--allow-http") as caught:
        fetch(call, tmp_path / "part", Access(allow_private=True))
    assert caught.value.kind is ErrorKind.INPUT_FORBIDDEN


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.255.0.9", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1"),
        *("169.254.169.254", "100.64.0.1", "192.0.2.1", "198.18.0.1", "224.0.0.1", "240.0.0.1"),
        *("255.255.255.255", "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "ff02::1"),
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1"),
        *("2002:7f00:1::", "2001:0:4136:e378:8000:63bf:80ff:fffe", "2001:db8::1"),
    ],
)
def test_an_address_that_is_not_of_the_open_internet_is_told(address: str) -> None:
    assert not is_public(address)


def test_public_addresses_are_told() -> None:
    for address in ("93.184.215.14", "2606:2800:21f:cb07::1", "::ffff:8.8.8.8", "64:ff9b::808:808"):
        assert is_public(address), address


def _names_of(web: WebServer) -> list[str]:
    port = web.port
    return [
        f"http://127.0.0.1:{port}/call.wav",
        f"http://localhost:{port}/call.wav",  # a name that resolves to it
        f"http://127.1:{port}/call.wav",
        f"http://2130706433:{port}/call.wav",
        f"http://0x7f000001:{port}/call.wav",
        f"http://[::ffff:127.0.0.1]:{port}/call.wav",
        f"http://user:pw@127.0.0.1:{port}/call.wav",
    ]


def test_a_private_address_is_refused_however_it_is_written(web: WebServer, tmp_path: Path) -> None:
    for url in _names_of(web):
        with pytest.raises(AssetError) as caught:
            fetch(url, tmp_path / "part", GUARDED)
        # Some of these are addresses for one resolver and no names at all for another.
        assert caught.value.kind in REFUSALS, url
        with pytest.raises((AssetError, OSError, ValueError)):
            WebStore(GUARDED).look(url)
    with pytest.raises(AssetError, match="not a public address") as caught:
        fetch(f"http://localhost:{web.port}/call.wav", tmp_path / "part", GUARDED)
    assert "--allow-private-addresses" in caught.value.remedy
    assert not caught.value.transient
    assert web.trouble.counts() == {}  # nobody has even been asked


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("file:///etc/passwd", "from http to file"),
        ("ftp://127.0.0.1/x", "from http to ftp"),
        ("gopher://127.0.0.1:70/x", "from http to gopher"),
        ("/round.wav", "more than 5 times"),
    ],
)
def test_a_redirect_goes_to_the_web_and_ends(
    web: WebServer, tmp_path: Path, target: str, said: str
) -> None:
    web.redirects["/round.wav"] = Redirect(target, 301)
    with pytest.raises(AssetError, match=said) as caught:
        fetch(f"{web.url}/round.wav", tmp_path / "part")
    assert caught.value.kind is ErrorKind.INPUT_FORBIDDEN
    assert not caught.value.transient
    assert web.trouble.counts()["GET"] <= 6


def test_redirects_are_followed(web: WebServer, call: str, tmp_path: Path) -> None:
    for number in range(4):
        web.redirects[f"/{number}"] = Redirect(f"/{number + 1}", (301, 302, 303, 307)[number])
    web.redirects["/4"] = Redirect(call, 308)
    fetch(f"{web.url}/0", tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == DATA


def test_a_password_is_for_its_own_server_alone(web: WebServer, tmp_path: Path) -> None:
    (web.folder / "mine.wav").write_bytes(DATA)
    web.private["/mine.wav"] = "Basic YW5uOnNlY3JldA=="
    fetch(f"http://ann:secret@127.0.0.1:{web.port}/mine.wav", tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == DATA
    web.redirects["/there"] = Redirect(f"http://localhost:{web.port}/mine.wav")
    with pytest.raises(AssetError, match="access is denied"):
        fetch(f"http://ann:secret@127.0.0.1:{web.port}/there", tmp_path / "other")


@pytest.mark.parametrize(
    ("status", "kind", "requests"),
    [
        (403, ErrorKind.INPUT_FORBIDDEN, 1),
        (401, ErrorKind.INPUT_FORBIDDEN, 1),
        (404, ErrorKind.INPUT_MISSING, 1),
        (410, ErrorKind.INPUT_MISSING, 1),
        (400, ErrorKind.INPUT_UNREADABLE, 1),
        (500, ErrorKind.NETWORK, 5),
        (429, ErrorKind.NETWORK, 5),
    ],
)
def test_what_will_not_pass_fails_at_once_the_rest_is_tried_five_times(
    web: WebServer, call: str, tmp_path: Path, status: int, kind: ErrorKind, requests: int
) -> None:
    web.rule(Rule("error", status=status))
    with pytest.raises(AssetError) as caught:
        fetch(call, tmp_path / "part")
    assert caught.value.kind is kind
    assert caught.value.transient is (requests > 1)
    assert web.trouble.counts() == {"GET": requests}


def test_what_the_server_asks_to_wait_is_waited(web: WebServer, call: str, tmp_path: Path) -> None:
    web.rule(Rule("error", status=429, times=1, retry_after_s=1))
    begun_s = time.monotonic()
    fetch(call, tmp_path / "part")
    assert time.monotonic() - begun_s >= 1


def test_a_body_that_breaks_off_is_gone_on_with(web: WebServer, call: str, tmp_path: Path) -> None:
    web.rule(Rule("truncated", times=2))
    fetch(call, tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == DATA
    ranges = [seen.range for seen in web.trouble.seen]
    assert ranges[0] == ""
    assert len(ranges) == 3
    # What came in the last moment may be lost with the connection.
    assert all(0 < int(asked[6:-1]) <= len(DATA) * 3 / 4 for asked in ranges[1:])


@pytest.mark.parametrize("lacking", ["ranges", "tags"])
def test_without_ranges_or_tags_all_of_it_is_read_again(
    web: WebServer, call: str, tmp_path: Path, lacking: str
) -> None:
    web.ranges = lacking != "ranges"
    web.etags = web.dates = lacking != "tags"
    web.rule(Rule("truncated", times=2))
    fetch(call, tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == DATA
    assert [seen.status for seen in web.trouble.seen] == [200, 200, 200]


@pytest.mark.parametrize("fault", ["reset", "lost"])
def test_connections_that_break_are_made_again(
    web: WebServer, call: str, tmp_path: Path, fault: Any
) -> None:
    web.rule(Rule(fault, times=3))
    fetch(call, tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == DATA


def test_one_that_changed_between_two_tries_is_read_anew(
    web: WebServer, call: str, tmp_path: Path
) -> None:
    target = tmp_path / "part"
    watcher = Watcher(stop_at=len(DATA) // 2)
    with pytest.raises(KeyboardInterrupt):
        fetch(call, target, watcher=watcher)
    assert len(DATA) // 2 <= target.stat().st_size < len(DATA)
    other = DATA[::-1] + b"more"
    (web.folder / "call.wav").write_bytes(other)
    fetch(call, target, part_of=watcher.identity)
    assert target.read_bytes() == other


def test_a_part_of_the_same_is_gone_on_with_to_its_last_byte(
    web: WebServer, call: str, tmp_path: Path
) -> None:
    target = tmp_path / "part"
    identity = WebStore(OPEN).look(call).identity
    for have in (1, len(DATA) - 1, len(DATA), len(DATA) + 7):
        target.write_bytes((DATA + b"x" * 7)[:have])
        web.trouble.clear()
        fetch(call, target, part_of=identity)
        assert target.read_bytes() == DATA
        (request,) = web.trouble.seen
        assert request.range == f"bytes={min(have, len(DATA) - 1)}-"


def test_one_that_is_not_what_was_planned_for_is_told(
    web: WebServer, call: str, tmp_path: Path
) -> None:
    with pytest.raises(AssetError) as caught:
        fetch(call, tmp_path / "part", planned="1:other")
    assert caught.value.kind is ErrorKind.INPUT_CHANGED
    assert caught.value.transient
    assert web.trouble.counts() == {"GET": 1}


def test_more_than_is_allowed_is_not_read(web: WebServer, call: str, tmp_path: Path) -> None:
    little = Access(allow_http=True, allow_private=True, max_download_bytes=1_000_000)
    with pytest.raises(AssetError, match="larger than 1 MB") as caught:
        fetch(call, tmp_path / "part", little)
    assert caught.value.kind is ErrorKind.MEDIA_LIMIT
    assert "--max-download" in caught.value.remedy
    web.answers["/for-ever.wav"] = Answer(200, [], endless())
    with pytest.raises(AssetError) as caught:
        fetch(f"{web.url}/for-ever.wav", tmp_path / "part", little)
    assert caught.value.kind is ErrorKind.MEDIA_LIMIT
    assert (tmp_path / "part").stat().st_size <= 1_000_000


def test_a_checksum_that_does_not_fit_is_no_recording(web: WebServer, tmp_path: Path) -> None:
    headers = [("Content-MD5", "1B2M2Y8AsgTpgAmY7PhCfg=="), ("ETag", '"x"')]  # of nothing
    web.answers["/bad.wav"] = Answer(200, headers, DATA)
    with pytest.raises(AssetError, match="not what the store says") as caught:
        fetch(f"{web.url}/bad.wav", tmp_path / "part")
    assert caught.value.kind is ErrorKind.NETWORK
    assert web.trouble.counts() == {"GET": 5}
    assert (tmp_path / "part").stat().st_size == 0


def test_a_server_that_is_not_there(
    tmp_path: Path, nobody_listens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(AssetError) as caught:
        fetch(f"http://127.0.0.1:{nobody_listens}/x.wav", tmp_path / "part")
    assert caught.value.kind is ErrorKind.NETWORK
    assert caught.value.transient

    def nobody(host: object, *_: object, **__: object) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, f"nobody knows {host!r}")

    monkeypatch.setattr(socket, "getaddrinfo", nobody)  # no name server of this machine's network
    with pytest.raises(AssetError) as caught:
        fetch("http://no-such-host.invalid/x.wav", tmp_path / "part")
    assert caught.value.kind is ErrorKind.NETWORK


def test_a_look_does_without_head(web: WebServer, call: str) -> None:
    told = WebStore(OPEN).look(call)
    web.rule(Rule("error", kind="HEAD", status=403))
    assert WebStore(OPEN).look(call) == told
    assert [seen.range for seen in web.trouble.seen if seen.kind == "GET"] == ["bytes=0-0"]
    web.ranges = False  # then the body begins to come, and is not waited for
    assert WebStore(OPEN).look(call) == told


def test_a_url_reaches_the_server_as_it_stands(web: WebServer, tmp_path: Path) -> None:
    (web.folder / "a b+é.wav").write_bytes(b"abc")
    for path in ("/a%20b+%C3%A9.wav", "/a b+é.wav", "/a%20b%2B%c3%a9.wav?sig=a%2Fb%3D#frag"):
        fetch(web.url + path, tmp_path / "part")
    assert [seen.path for seen in web.trouble.seen] == [
        "/a%20b+%C3%A9.wav",
        "/a%20b+%C3%A9.wav",
        "/a%20b%2B%c3%a9.wav",
    ]
