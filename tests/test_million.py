"""What a million assets need: what is told of many at once is what is told of each by itself."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from program import Answer
from stores.servers import WebServer

from audio_batch.fetching import Fetching
from audio_batch.formats import FORMATS
from audio_batch.journal import Journal
from audio_batch.manifest import Asset, Manifest, load
from audio_batch.manifest_columns import Columns, columns_of
from audio_batch.manifest_entry import models
from audio_batch.manifest_quick import Quick
from audio_batch.naming import OutputNamer
from audio_batch.options import DecodingOptions, RunOptions, WantedStages
from audio_batch.outcome import Stage, StageRecord
from audio_batch.plan import Planned
from audio_batch.remote.access import Access
from audio_batch.remote.inputs import InputPlace
from audio_batch.storage import PublishedFile
from audio_batch.todo import Planner, Todo

KNOWN = frozenset(FORMATS)
NULL = ("--engine", "null", "--model", "null:0", "--device", "cpu")


def columns(*entries: Any, end: str = "\n", ascii_only: bool = True) -> Columns | None:
    quick = Quick("/root", {}, models(KNOWN)[0].model_fields.keys(), allow_http=True)
    texts = [json.dumps(one, ensure_ascii=ascii_only) + end for one in entries]
    return columns_of(quick, [text.encode() for text in texts], are_lines=True)


def test_a_block_of_ordinary_entries_comes_out_as_columns() -> None:
    told = columns(
        {"id": "a", "uri": "x.wav", "duration": 2, "language": "German", "priority": 3},
        {"uri": "/b/é.wav", "id": "b", "shelf": 'a "good" one', "name": "Ü"},
        {"id": "c", "uri": "c/d.wav", "language": None, "shelf": 1.5},
        end="\r\n",
    )
    assert told is not None
    assert told.ids == ["a", "b", "c"]
    assert told.places == ["/root/x.wav", "/b/é.wav", "/root/c/d.wav"]
    assert told.languages == ["de", None, None]
    assert told.priorities == [3, None, None]
    assert told.durations_s is not None
    assert told.durations_s[0] == 2
    assert all(map(math.isnan, told.durations_s[1:]))
    urls = columns({"id": 7, "uri": "s3://b/é.wav"}, {"id": 8, "uri": "s3://b/2"}, ascii_only=False)
    assert urls is not None
    assert urls.ids == ["7", "8"]
    assert urls.places is None
    assert columns({"uri": "x.wav"}) is not None


@pytest.mark.parametrize(
    "odd",
    [
        {"uri": "x.wav", "id": "../a"},
        {"uri": "x.wav", "id": True},
        {"uri": "s3://bucket/among-files.wav", "id": "a"},
        {"uri": "", "id": "a"},
        {"id": "a"},
        {"uri": "x.wav", "tags": ["a"]},
        {"uri": "x.wav", "duration": None},
        {"uri": "x.wav", "priority": 1.0},
        {"uri": "x.wav", "shelf": float("inf")},
        {"uri": "x.wav", "shelf": "\ud800"},
        {"uri": "a\\b.wav"},
        {"uri": "x.wav", "path": "y.wav"},
        {"uri": "x.wav", "prompt": "Names"},
        {"uri": "x.wav", "language": "no language"},
    ],
    ids=str,
)
def test_one_odd_entry_sends_its_block_another_way(odd: dict[str, Any]) -> None:
    plain = [{"id": f"p{n}", "uri": "x.wav"} for n in range(3)]
    assert columns(*plain) is not None
    assert columns(*plain[:2], odd, plain[2]) is None


@pytest.mark.parametrize(
    "lines",
    [
        b'{"id": "a", "uri": "x"},{"id": "b", "uri": "x"}\n{"id": "c", "uri": "x"}\n',
        b'{"id": "a",\n"uri": "x"}\n{"id": "c", "uri": "x"},{"id": "d", "uri": "x"}\n',
        b'{"id": "a",\r"uri": "x"}\n{"id": "c", "uri": "x"}\n',
        b'{"id": "a", "uri": "}\n{"}\n{"id": "b", "uri": "x"},{"id": "c", "uri": "x"}\n',
        b'{"id": "a", "id": "b", "uri": "x"}\n{"id": "c", "uri": "x"}\n',
        b'{"id": "a", "uri": "x"}\r{"id": "b", "uri": "x"}\n{"id": "c", "uri": "x"}\n',
        b'{"id": "a", "uri": "x"}\n[]\n',
        b'{"id": "a", "uri": "\xff"}\n{"id": "b", "uri": "x"}\n',
        b'{"id": "a", "uri": "x", "n": NaN}\n{"id": "b", "uri": "x"}\n',
    ],
)
def test_lines_that_are_no_objects_are_not_taken_for_any(lines: bytes) -> None:
    quick = Quick("/root", {}, models(KNOWN)[0].model_fields.keys(), allow_http=True)
    assert columns_of(quick, lines.splitlines(keepends=True)[:9], are_lines=True) is None
    by_feeds = [line + b"\n" for line in lines.split(b"\n")[:-1]]
    assert columns_of(quick, by_feeds, are_lines=True) is None


def entries_of(count: int) -> list[dict[str, Any]]:
    """Most of them ordinary; some blocks of them hold something odd."""
    entries: list[dict[str, Any]] = []
    for n in range(count):
        entry: dict[str, Any] = {"id": f"a-{n}", "uri": "x.wav" if n % 3 else "é.flac"}
        if n % 2:
            entry["duration"] = n
        if n % 11 == 0:
            entry |= {"language": "de", "title": 'Ein "Tag"'}
        if n > count // 2 and n % 997 == 0:
            entry |= {"tags": ["a"], "prompt": f"Names: {n}"}
        entries.append(entry)
    return entries


def index_of(manifest: Manifest) -> dict[str, Any]:
    index = manifest.assets.entries
    names = [field.name for field in dataclasses.fields(index) if not field.name.startswith("_")]
    found = {name: getattr(index, name) for name in names}
    # Which asset stands for its wishes is all the same, and so is how they are numbered.
    wishers = [(one.language, one.prompt) for one in found.pop("wishers")]
    found["wishes"] = [wishers[wish] for wish in found["wishes"]]
    lengths = found["durations_s"]
    found["durations_s"] = [None if math.isnan(length) else length for length in lengths]
    return {name: list(v) if hasattr(v, "__iter__") else v for name, v in found.items()}


@pytest.mark.parametrize("kind", ["lines", "document"])
def test_a_large_manifest_is_known_as_a_small_one_is(tmp_path: Path, kind: str) -> None:
    (tmp_path / "x.wav").write_bytes(b"12345")
    (tmp_path / "é.flac").write_bytes(b"1234567")
    entries = entries_of(12_000)
    path = tmp_path / "m.json"
    if kind == "lines":
        path.write_text("\n".join(map(json.dumps, entries)))
    else:
        path.write_text(json.dumps({"assets": entries, "defaults": {"priority": 2}}, indent=1))
    few = load(path, known_formats=KNOWN, held=20_000)
    many = load(path, known_formats=KNOWN, held=0)
    assert many.assets == few.assets
    ours, theirs = index_of(many), index_of(few)
    if kind == "document":  # one that is held is not read again from its offsets
        del ours["offsets"], theirs["offsets"]
    assert ours == theirs
    # A part looks for its own files only.
    (tmp_path / "é.flac").unlink()

    def mine(asset_id: str) -> bool:
        return int(asset_id[2:]) % 3 > 0

    part = load(path, known_formats=KNOWN, held=0, is_mine=mine)
    assert len(part.assets.mine()) == 8000
    assert set(part.assets.entries.sizes) == {5, -1}


def planner_of(manifest: Manifest, journal: Journal, state: Path, **more: Any) -> Planner:
    options = RunOptions(
        model="m", engine="null", decoding=DecodingOptions(), formats=("json", "txt")
    )
    return Planner(
        options=options,
        wanted=WantedStages("id"),
        journal=journal,
        output_names=OutputNamer().over(manifest.assets),
        naming="",
        state=state,
        stands=lambda _: True,
        **more,
    )


def test_what_nothing_is_known_of_is_not_planned_before_its_turn(tmp_path: Path) -> None:
    (tmp_path / "x.wav").write_bytes(b"12345")
    path = tmp_path / "m.jsonl"
    ids = [f"a-{n}" for n in range(60)]
    path.write_text("".join(json.dumps({"id": one, "uri": "x.wav"}) + "\n" for one in ids))
    manifest = load(path, known_formats=KNOWN, held=0)
    journal = Journal(tmp_path / "journal.sqlite3")
    run = journal.begin_run(version="0", request={})
    rows = {"name": "n", "source": "s", "fingerprint": "f", "rendering": "r", "device": "cpu"}
    journal.start("a-7", **rows, run_id=run)
    # Nothing but what was kept of it may be there of an asset.
    file = PublishedFile("transcribe", "kept", 3, "0")
    journal.finish_stage(StageRecord("a-8", Stage.TRANSCRIBE, "s", "f", file, "cpu", 1.0, 1.0))
    planned: list[str] = []
    offered: list[str] = []

    def look(assets: Sequence[Asset]) -> Sequence[Asset]:
        planned.extend(asset.id for asset in assets)
        return assets

    def recover(some: Sequence[Planned]) -> int:
        offered.extend(item.asset.id for item in some)
        return 0

    planner = planner_of(
        manifest,
        journal,
        tmp_path,
        recover=recover,
        is_published=lambda name: name in ("a-3", "a-7"),
    )
    new, others = planner.untouched().split(manifest.assets, range(60), {})
    assert list(others) == [3, 7, 8]
    assert list(new.places) == [n for n in range(60) if n not in others]
    assert set(new.likely_s) == {5 / 64_000}
    todo = Todo.of(manifest.assets, planner)
    assert sorted(offered) == ["a-3", "a-8"]
    assert len(todo) == todo.to_hear == todo.unknown == 60
    assert todo.needed() == {Stage.TRANSCRIBE}
    # Where nobody can say what is published, all may be.
    offered.clear()
    Todo.of(manifest.assets, dataclasses.replace(planner, is_published=None))
    assert len(offered) == 59
    # What is taken is planned as it ever was.
    seeing = dataclasses.replace(planner, look=look)
    some = Todo.of(manifest.assets, seeing).take(5)
    assert [item.asset.id for item in some] == planned[-5:] == ids[:5]
    journal.close()


def test_a_remote_recording_is_looked_at_once(web: WebServer, tmp_path: Path) -> None:
    assets = []
    for n in (3, 0, 70_000):
        (web.folder / f"{n}.wav").write_bytes(bytes(10))
        one = Asset(id=f"a{n}", uri=f"{web.url}/{n}.wav", path=None, name="x", position=n)
        assets.append(one)
    access = Access(allow_http=True, allow_private=True)
    fetching = Fetching(InputPlace(tmp_path / "cache", 10**6, access))
    first = fetching.look(assets)
    asked = dict(web.trouble.counts())
    again = fetching.look(assets[::-1])
    assert [one.seen for one in again] == [one.seen for one in first[::-1]]
    assert all(one.seen for one in first)
    assert dict(web.trouble.counts()) == asked
    # Another asset in the same place of another manifest is another.
    fetching.look([dataclasses.replace(assets[0], id="other")])
    assert dict(web.trouble.counts()) != asked
    fetching.close()


def test_what_nobody_hears_is_not_fetched(
    web: WebServer, tmp_path: Path, cli: Callable[..., Answer]
) -> None:
    manifest = tmp_path / "m.jsonl"
    lines = []
    for n in range(40):
        (web.folder / f"{n}.wav").write_bytes(bytes(1000))
        lines.append(json.dumps({"id": f"a{n}", "uri": f"{web.url}/{n}.wav"}))
    manifest.write_text("\n".join(lines))
    flags = ("--output-format", "none", "--allow-http", "--allow-private-addresses")
    done = cli("run", manifest, *NULL, *flags, "-o", tmp_path / "out")
    assert done.code == 0
    assert "GET" not in web.trouble.counts()
