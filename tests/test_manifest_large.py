"""Large manifests: read in pieces and by short ways, and yet as small ones are."""

from __future__ import annotations

import json
import os
import random
import sys
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from audio_batch.errors import AudioBatchError, ManifestError, SetupError
from audio_batch.formats import FORMATS
from audio_batch.manifest import Asset, Manifest, load
from audio_batch.manifest_quick import plain_object

KNOWN = frozenset(FORMATS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two files and a folder in it."""
    place = tmp_path_factory.mktemp("large")
    (place / "x.wav").write_bytes(b"x")
    (place / "y y.wav").write_bytes(b"yy")
    (place / "sub").mkdir()
    return place


def read(folder: Path, text: str | bytes, name: str = "m.jsonl", **options: Any) -> Manifest:
    path = folder / name
    data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    path.write_bytes(data)
    return load(path, known_formats=KNOWN, **options)


def told(load: Callable[[], Manifest]) -> object:
    """What came of a manifest: its assets with their identities, or its problems."""
    try:
        assets = list(load().assets)
    except ManifestError as error:
        return [error.message, *error.problems]
    return [(asset, asset.seen) for asset in assets]


def lines(*entries: Any) -> str:
    return "".join(json.dumps(entry) + "\n" for entry in entries)


def by_the_long_way(entry: dict[str, Any]) -> str:
    """The same entry in JSON, written so that no short way is taken: behind a blank."""
    line = " " + json.dumps(entry)
    assert plain_object(line.encode()) is None
    return line


URIS = [
    *("x.wav", "./x.wav", "y y.wav", "sub", "gone.wav", "", "x.wav\0", "sub/../x.wav", "C:x.wav"),
    *("file:///x.wav", "s3://bucket/a.wav", "s3://", "http://h/a.wav", "a\\x.wav", "é.wav"),
    *("/", "//x", "x.wav/", " x.wav", "x" * 32_768, 7, None, True, ["x.wav"]),
]
SECONDS = [0, 1, 2.5, -1, -0.0, 1e9, 1e9 + 1, 2**80, float("inf"), float("nan"), True, "1", None]
OTHERS = [1, "a", None, True, 2**70, 1.5, [1], {"a": 1}, float("inf"), "\ud800"]
ODD: dict[str, list[Any]] = {
    "id": [
        *("a", "b c", "a/b", "a..b", "../a", "/a", "C:", "a\n", "", "é", "a" * 1001),
        *(5, -1, 2**63, 2**63 - 1, 2.0, True, None),
    ],
    "uri": URIS,
    "path": URIS,
    "file_name": URIS,
    "folder_path": ["sub", "", None],
    "name": ["n", " ", "", "é", 5, None, "n" * 10_001],
    "duration": SECONDS,
    "duration_s": SECONDS,
    "language": ["en", "EN", "English", "xx", "", None, 5],
    "priority": [0, 1, -1_000_000, 1_000_001, -1_000_001, 2.0, 2.5, True, None],
    "num_speakers": [1, 0, None],
    "formats": ["srt", ["vtt"], "none", None],
    "shelf": OTHERS,
    "é": OTHERS,
}


@st.composite
def entries_of(draw: st.DrawFn) -> dict[str, Any]:
    """An ordinary entry of which little is odd: else its first fault would hide the others."""
    entry: dict[str, Any] = {"id": str(draw(st.integers(0, 20))), "uri": "x.wav", "name": "n"}
    if draw(st.booleans()):
        del entry[draw(st.sampled_from(["id", "name"]))]
    for key in draw(st.lists(st.sampled_from(sorted(ODD)), max_size=2, unique=True)):
        if key in ("path", "file_name"):
            entry.pop("uri", None)
        entry[key] = draw(st.sampled_from(ODD[key]))
    return entry


ENTRIES = entries_of()


@settings(max_examples=400, deadline=None)
@given(st.lists(ENTRIES, min_size=1, max_size=5))
@example([{"uri": "x.wav"}, {"uri": "x.wav"}])
@example([{"id": "a", "uri": "x.wav"}, {"id": "a", "uri": "y y.wav"}])
def test_the_short_way_and_the_long_way_lead_to_one_place(
    folder: Path, entries: list[dict[str, Any]]
) -> None:
    short = lines(*entries)
    long = "".join(by_the_long_way(entry) + "\n" for entry in entries)
    for options in ({}, {"allow_missing": True, "allow_http": True}):
        expected = told(lambda o=options: read(folder, long, **o))
        assert told(lambda o=options: read(folder, short, **o)) == expected
        assert told(lambda o=options: read(folder, short, held=0, **o)) == expected


@pytest.mark.parametrize("key", ODD)
def test_each_odd_value_by_itself(folder: Path, key: str) -> None:
    for value in ODD[key]:
        entry = {"id": "a", "uri": "x.wav", key: value}
        if key in ("path", "file_name"):
            del entry["uri"]
        for options in ({}, {"allow_missing": True, "allow_http": True}):
            expected = told(lambda o=options, e=entry: read(folder, by_the_long_way(e), **o))
            short = told(lambda o=options, e=entry: read(folder, lines(e), held=0, **o))
            assert short == expected
            document = json.dumps([entry])
            whole = told(lambda o=options, d=document: read(folder, d, "m.json", **o))
            pieces = told(lambda o=options, d=document: read(folder, d, "m.json", held=0, **o))
            assert pieces == whole


@settings(max_examples=200, deadline=None)
@given(st.lists(ENTRIES, min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_mapped_fields_by_both_ways(
    folder: Path, entries: list[dict[str, Any]], chance: random.Random
) -> None:
    theirs = ["shelf", "name", "id", "path", "duration"]
    fields = {ours: chance.choice(theirs) for ours in chance.sample(["id", "uri", "name"], 2)}
    long = "".join(by_the_long_way(entry) + "\n" for entry in entries)
    expected = told(lambda: read(folder, long, fields=fields))
    assert told(lambda: read(folder, lines(*entries), fields=fields, held=0)) == expected


@pytest.mark.parametrize(
    "fields",
    [
        {"uri": "duration"},
        {"name": "duration"},
        {"id": "duration", "name": "id"},
        {"name": "id", "uri": "path"},
        {"id": "path"},
    ],
    ids=str,
)
def test_a_name_that_means_two_things_means_both_by_both_ways(
    folder: Path, fields: dict[str, str]
) -> None:
    entry = {"id": "0", "duration": "1", "path": "x.wav"}
    expected = told(lambda: read(folder, by_the_long_way(entry), fields=fields))
    assert told(lambda: read(folder, lines(entry), fields=fields, held=0)) == expected


DOCUMENTS = st.lists(ENTRIES, max_size=4).flatmap(
    lambda entries: st.sampled_from(
        [
            entries,
            {"assets": entries},
            {"defaults": {"language": "de", "priority": 3}, "assets": entries},
            {"assets": entries, "more": [1, {"a": [2]}], "defaults": {"task": "x"}},
            {"assets": {}, "more": 1},
            {"more": entries},
        ]
    )
)


@settings(max_examples=300, deadline=None)
@given(DOCUMENTS, st.sampled_from([None, 1]))
def test_a_document_in_pieces_is_the_document(
    folder: Path, document: Any, indent: int | None
) -> None:
    text = json.dumps(document, indent=indent, ensure_ascii=False)
    whole = told(lambda: read(folder, text, "m.json"))
    assert told(lambda: read(folder, text, "m.json", held=0)) == whole
    assert told(lambda: read(folder, "\ufeff" + text, "m.json", held=0)) == whole


SOUND = json.dumps(
    {"assets": [{"id": "a", "uri": "x.wav", "t": [1, "é"]}, {"id": "b", "uri": "x.wav"}], "z": 1.5},
    indent=1,
    ensure_ascii=False,
)


@settings(max_examples=300, deadline=None)
@given(
    st.integers(0, len(SOUND) - 1), st.sampled_from(["", "]", "}", ",", '"', "x", "\udc80", "0"])
)
def test_a_broken_document_in_pieces_has_its_problem_at_the_same_place(
    folder: Path, at: int, instead: str
) -> None:
    text = SOUND[:at] + instead + SOUND[at + 1 :]
    data = text.encode("utf-8", "surrogateescape")
    whole = told(lambda: read(folder, data, "m.json"))
    assert told(lambda: read(folder, data, "m.json", held=0)) == whole


def test_keys_that_stand_twice_are_told_in_pieces_too(folder: Path) -> None:
    entry = '{"id": "a", "uri": "x.wav"}'
    for text in (
        f'{{"assets": [{entry}], "assets": [{entry}], "z": 1, "z": 2}}',
        f'{{"z": {{"a": 1, "a": 2}}, "assets": [{entry}]}}',
        '[{"id": "a", "uri": "x.wav", "uri": "x.wav"}]',
    ):
        whole = told(lambda t=text: read(folder, t, "m.json"))
        assert "stands more than once" in str(whole)
        assert told(lambda t=text: read(folder, t, "m.json", held=0)) == whole


@pytest.mark.parametrize("line", ['{"a": 1, "a": 2}', '{"a": NaN}', '{"a": 1e999}', '{"a": [1]}'])
def test_what_may_be_odd_is_not_plain(line: str) -> None:
    assert plain_object(line.encode()) is None
    assert plain_object(b'{"a": "b", "c": 1.5, "d": null}\n') is not None


def many(count: int, **more: Any) -> str:
    return lines(*({"id": f"a-{n}", "uri": "x.wav", **more} for n in range(count)))


def test_an_id_that_comes_again_far_below(folder: Path) -> None:
    text = many(9000) + "\n" + lines({"id": "a-17", "uri": "x.wav"}, {"id": "a-17", "uri": "gone"})
    found = told(lambda: read(folder, text, held=10))
    assert isinstance(found, list)
    assert found[1] == 'line 9002, /id: the id "a-17" is already that of line 18'
    assert found[2] == 'line 9003, /id: the id "a-17" is already that of line 18'
    assert found[3].startswith("line 9003, /uri: there is no file")


def test_assets_are_read_again_in_any_order(folder: Path) -> None:
    manifest = read(folder, many(9000), held=10)
    assert len(manifest.assets) == 9000
    assert [asset.id for asset in manifest.assets.pick([8999, 3, 4500])] == [
        "a-8999",
        "a-3",
        "a-4500",
    ]
    assert manifest.assets[-1].position == 8999
    assert [asset.position for asset in manifest.assets] == list(range(9000))


@pytest.mark.skipif(os.name == "nt", reason="there the manifest is copied")
def test_a_manifest_that_is_written_over_is_not_mistaken(folder: Path) -> None:
    manifest = read(folder, many(100), held=10)
    replacement = folder / "new"
    replacement.write_text(many(50))
    replacement.replace(folder / "m.jsonl")
    assert manifest.assets[99].id == "a-99"  # a new file of that name is another file
    manifest = read(folder, many(100), held=10)
    (folder / "m.jsonl").write_text(many(99))
    with pytest.raises(SetupError, match="was changed"):
        _ = manifest.assets[99]


@pytest.mark.skipif(os.name == "nt", reason="there the manifest is copied")
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"id": "a-7"', '"id": "b-7"'),
        ('{"id": "a-7"', '["id": "a-7"'),
    ],
)
def test_an_entry_that_became_another_is_no_entry_less(folder: Path, old: str, new: str) -> None:
    manifest = read(folder, many(100), held=10)
    path = folder / "m.jsonl"
    before = path.stat()
    assert old in many(100)
    path.write_text(many(100).replace(old, new))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert [asset.id for asset in manifest.assets.pick([6, 8])] == ["a-6", "a-8"]
    with pytest.raises(SetupError, match="was changed"):
        list(manifest.assets.pick([6, 7, 8]))


def test_assets_are_read_again_by_several_threads(folder: Path) -> None:
    entries = [
        {"id": f"a-{n}", "uri": "x.wav", f"key-{n % 5}": "t" * (1500 + n % 97)} for n in range(6000)
    ]
    manifest = read(folder, lines(*entries), held=10)
    slips: list[object] = []

    def ask(first: int) -> None:
        numbers = range(first, 6000, 50)  # so far from each other that the file is sought in
        for _ in range(60):
            try:
                found = [asset.id for asset in manifest.assets.pick(numbers)]
            except Exception as error:
                slips.append(error)
            else:
                if found != [f"a-{n}" for n in numbers]:
                    slips.append(len(found) - len(numbers))

    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=ask, args=(first,)) for first in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval_s)
    assert slips == []


def test_entries_far_from_each_other_are_not_held_with_all_between(folder: Path) -> None:
    entries = [{"id": f"a-{n}", "uri": "x.wav", "text": "t" * 3000} for n in range(6000)]
    manifest = read(folder, lines(*entries), held=10)
    some = manifest.assets.pick(range(0, 6000, 20))
    tracemalloc.start()
    try:
        assert len(list(some)) == 300
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 13_000_000  # of 18 MB; a run of 4 MiB is read and cut into its entries


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_other_encodings_are_read_again_too(folder: Path, encoding: str) -> None:
    text = many(60, title="Größe")
    manifest = read(folder, text.encode(encoding), held=10)
    assert [asset.metadata for asset in manifest.assets] == [{"title": "Größe"}] * 60


@pytest.mark.parametrize("end", ["\r", "\r\n", "\n\n"])
def test_whatever_ends_lines(folder: Path, end: str) -> None:
    text = many(30).replace("\n", end) + '{"uri": 5}'
    found = told(lambda: read(folder, text, held=10))
    assert isinstance(found, list)
    assert found[1].startswith(f"line {61 if end == chr(10) * 2 else 31}, /uri: must be text")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with a name here")
def test_a_pipe_is_read_once_and_its_assets_again(tmp_path: Path) -> None:
    (tmp_path / "x.wav").write_bytes(b"x")
    pipe = tmp_path / "pipe.jsonl"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_text(many(3000)))
    writer.start()
    manifest = load(pipe, known_formats=KNOWN, held=10)
    writer.join()
    assert manifest.assets[2999].id == "a-2999"


def test_a_document_in_one_line_is_told_from_json_lines(folder: Path) -> None:
    entries = [{"id": f"a-{n}", "uri": "x.wav", "text": "t" * 60} for n in range(15_000)]
    for text in (json.dumps(entries), json.dumps({"z": 1, "assets": entries})):
        assert len(text) > 1 << 20
        assert len(read(folder, text, "m.jsonl", held=10).assets) == 15_000
    long_entry = lines({"text": "t" * (1 << 20), "id": "a", "uri": "x.wav"}, {"uri": "x.wav"})
    assert len(read(folder, long_entry, "m.json", held=0).assets) == 2


def test_conditions_and_parts_say_whose_files_are_looked_for(folder: Path) -> None:
    text = lines(*({"id": f"a-{n}", "uri": f"gone-{n}.wav"} for n in range(40)))

    def wanted(asset: Asset) -> bool:
        return asset.position % 2 == 0

    def is_mine(asset_id: str) -> bool:
        return asset_id.endswith("3")

    for held in (1000, 0):
        manifest = read(folder, text, wanted=wanted, is_mine=is_mine, held=held)
        assert [asset.id for asset in manifest.assets.mine()] == ["a-3", "a-13", "a-23", "a-33"]
        assert [asset.position for asset in manifest.assets.selected()] == list(range(0, 40, 2))
        found = told(lambda h=held: read(folder, text, is_mine=is_mine, held=h))
        assert isinstance(found, list)
        assert len(found) == 1 + 4


def test_what_a_manifest_costs_does_not_hang_on_errors(folder: Path) -> None:
    with pytest.raises(AudioBatchError):
        read(folder, many(20) + "{", held=0)
