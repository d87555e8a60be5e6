"""What a manifest and a recording name: nothing is fetched, nothing else is opened, nothing breaks.

A listener on loopback counts connections; a file beside the recordings tells whether it was read.
"""

from __future__ import annotations

import json
import os
import socketserver
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from program import Answer, write_tone

from audio_batch import config
from audio_batch.errors import AssetError, ManifestError, UsageError
from audio_batch.formats import FORMATS
from audio_batch.manifest import load
from audio_batch.media import probe

Cli = Callable[..., Answer]


class _Listener(socketserver.BaseRequestHandler):
    connections: ClassVar[list[str]] = []

    def handle(self) -> None:
        self.connections.append(str(self.client_address))


@pytest.fixture
def listener() -> Iterator[int]:
    """The port of a server that hangs up on everybody, having counted them."""
    _Listener.connections.clear()
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Listener) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def manifest(folder: Path, *entries: dict[str, Any]) -> Path:
    path = folder / "manifest.json"
    path.write_text(json.dumps({"assets": entries}), encoding="utf-8")
    return path


def refused(path: Path, **options: Any) -> str:
    with pytest.raises(ManifestError) as caught:
        load(path, known_formats=frozenset(FORMATS), **options)
    return "\n".join(caught.value.problems)


# --- addresses -------------------------------------------------------------------------------

SCHEMES = ("ftp", "rtsp", "smb", "tcp", "hls+http", "crypto+file")
WEB, STORES = ("http", "HTTPS"), ("s3", "gs")


def test_an_address_is_refused_by_name_and_nobody_is_asked(
    cli: Cli, tmp_path: Path, listener: int
) -> None:
    named = (*SCHEMES, *WEB, *STORES)
    addresses = [f"{scheme}://127.0.0.1:{listener}/a.wav" for scheme in named]
    manifest(tmp_path, *({"uri": address} for address in addresses))
    answer = cli("run", "manifest.json", "--engine", "null", "--allow-missing", "--yes")
    assert answer.code == 4
    for scheme in SCHEMES:
        assert f"{scheme.lower()}:// is not supported" in answer.err
    for scheme in WEB:
        told = f"{scheme.lower()}://127.0.0.1:{listener}/a.wav is on the web; --allow-http"
        assert told in answer.err
    assert _Listener.connections == []


def test_a_file_uri_is_a_local_file_and_no_other_computers(tmp_path: Path) -> None:
    tone = write_tone(tmp_path / "a b.wav")
    here = manifest(tmp_path, {"uri": tone.as_uri()})
    assert load(here, known_formats=frozenset(FORMATS)).assets[0].path == tone
    if os.name != "nt":
        for host in ("127.0.0.1", "example.org"):
            text = refused(manifest(tmp_path, {"uri": f"file://{host}{tone}"}), allow_missing=True)
            assert "is on another computer" in text


# --- media that name other files -------------------------------------------------------------

COLONS = pytest.mark.skipif(os.name == "nt", reason="Windows has no such file names")
PROTOCOLS = ("concat:a.wav|b.wav", "http:x.wav", "data:audio,x", "subfile,,start,0,end,9,,:a.wav")


@COLONS
def test_what_looks_like_a_protocol_is_a_file_name(cli: Cli, tmp_path: Path, listener: int) -> None:
    write_tone(tmp_path / "a.wav")
    for name in PROTOCOLS:
        write_tone(tmp_path / name)
    missing = ("concat:a.wav", f"http:/127.0.0.1:{listener}/a.wav", "cache:a.wav", "async:a.wav")
    manifest(
        tmp_path,
        *({"id": f"there-{n}", "path": name} for n, name in enumerate(PROTOCOLS)),
        *({"id": f"missing-{n}", "path": name} for n, name in enumerate(missing)),
    )
    answer = cli("run", "manifest.json", "--engine", "null", "--allow-missing", "-y", "-o", "out")
    assert answer.code == 3
    counts = json.loads((tmp_path / "out/summary.json").read_text())
    assert (counts["done"], counts["failed"]) == (len(PROTOCOLS), len(missing))
    assert {failure["kind"] for failure in counts["failures"]} == {"input_missing"}
    assert _Listener.connections == []


LISTS = {
    "m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{name}\n#EXT-X-ENDLIST\n",
    "ffconcat": "ffconcat version 1.0\nfile '{name}'\n",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio {port} RTP/AVP 0\n",
    "mpd": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
    'mediaPresentationDuration="PT9S"><Period><AdaptationSet mimeType="audio/mp4">'
    '<Representation id="1" bandwidth="1"><BaseURL>{name}</BaseURL><SegmentList duration="9">'
    '<SegmentURL media="{name}"/></SegmentList></Representation></AdaptationSet></Period></MPD>',
    "pls": "[playlist]\nFile1={name}\nNumberOfEntries=1\n",
}


@pytest.mark.parametrize("kind", LISTS)
@pytest.mark.parametrize("suffix", ["wav", "own"])
def test_a_list_of_other_files_is_no_recording(
    tmp_path: Path, listener: int, kind: str, suffix: str
) -> None:
    inside = write_tone(tmp_path / "inside.wav")
    path = tmp_path / f"list.{kind if suffix == 'own' else suffix}"
    for name in (inside.name, str(inside), path.name, f"http://127.0.0.1:{listener}/a.wav"):
        path.write_text(LISTS[kind].format(name=name, port=listener), encoding="utf-8")
        with pytest.raises(AssetError) as caught:
            probe(path)
        assert caught.value.kind == "not_media"
    assert _Listener.connections == []


# --- bombs -----------------------------------------------------------------------------------

MEGA = 1_000_000
BOMBS = {
    "nested lists": '{"assets": [{"path": "a.wav", "x": ' + "[" * MEGA + "]" * MEGA + "}]}",
    "nested objects": '{"assets": [{"path": "a.wav", "x": ' + '{"a":' * MEGA + "1" + "}" * MEGA,
    "unended lists": "[" * MEGA,
    "a huge whole number": '{"assets": [{"path": "a.wav", "x": ' + "9" * MEGA + "}]}",
    "a huge number": '{"assets": [{"path": "a.wav", "duration_s": 1e999}]}',
    "a huge priority": '{"assets": [{"path": "a.wav", "priority": 1' + "0" * 900 + "}]}",
    "no number": '{"assets": [{"path": "a.wav", "duration_s": NaN}]}',
    "infinity": '{"assets": [{"path": "a.wav", "x": -Infinity}]}',
    "a key twice": '{"assets": [{"path": "a.wav", "path": "b.wav"}]}',
    "all keys twice": '{"assets": [{' + '"path": "a.wav",' * 100_000 + '"x": 1}]}',
    "a long path": json.dumps({"assets": [{"path": "p" * 10 * MEGA}]}),
    "a long name": json.dumps({"assets": [{"path": "a.wav", "name": "n" * 10 * MEGA}]}),
    "a long id": json.dumps({"assets": [{"path": "a.wav", "id": "i" * 10 * MEGA}]}),
    "a long prompt": json.dumps({"assets": [{"path": "a.wav", "prompt": "x" * 10 * MEGA}]}),
    "a long language": json.dumps({"assets": [{"path": "a.wav", "language": "e" * 10 * MEGA}]}),
    "a long scheme": json.dumps({"assets": [{"path": "a" * 10 * MEGA + "://x"}]}),
    "half a pair": '{"assets": [{"path": "a.wav", "name": "\\ud800"}]}',
    "a NUL": '{"assets": [{"path": "a\\u0000.wav"}]}',
    "another object": '{"assets": {"path": "a.wav"}}',
    "nothing": "",
    "bytes": "\x00\xff\x00",
}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_bomb_is_a_short_manifest_error(tmp_path: Path, kind: str) -> None:
    write_tone(tmp_path / "a.wav")
    path = tmp_path / "manifest.json"
    path.write_text(BOMBS[kind], encoding="latin-1")
    text = refused(path)
    assert len(text) < 2000
    assert len(text.splitlines()) < 10


@pytest.mark.slow
def test_a_hundred_megabytes_are_refused_in_a_few_sentences(cli: Cli, tmp_path: Path) -> None:
    write_tone(tmp_path / "a.wav")
    manifest(tmp_path, {"path": "a.wav", "name": "n" * 100 * MEGA})
    answer = cli("manifest", "check", "manifest.json", timeout_s=60)
    assert answer.code == 4
    assert "must not be longer than 10,000 characters" in answer.err
    assert len(answer.err) < 2000


TOML_BOMBS = {
    "nested": "x = " + "[" * 100_000,
    "a huge number": "limit = " + "9" * 100_000,
    "a key twice": "limit = 1\nlimit = 2",
    "no text": "\x00",
}


@pytest.mark.parametrize("kind", TOML_BOMBS)
def test_a_bomb_in_the_configuration_is_a_usage_error(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "audio-batch.toml"
    path.write_text(TOML_BOMBS[kind])
    with pytest.raises(UsageError, match="is not valid TOML") as caught:
        config.read(path)
    assert len(str(caught.value)) < 1000
