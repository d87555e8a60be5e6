"""Manifests: what is understood, what is refused, and that the schema says the same."""

from __future__ import annotations

import contextlib
import json
import os
import posixpath
import re
import threading
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from audio_batch.errors import ExitCode, ManifestError, UsageError
from audio_batch.languages import LANGUAGES, code_of
from audio_batch.manifest import Asset, Manifest, load, parse_fields
from audio_batch.manifest_entry import json_schema
from audio_batch.manifest_sources import SourceError, derived_id, local_text

FORMATS = frozenset({"json", "txt", "srt", "vtt"})
ONE = {"id": "a", "path": "x.wav"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with x.wav, 1970s/x.wav and 1970s/y.wav; the manifest lies in it too."""
    (tmp_path / "1970s").mkdir()
    for name in ("x.wav", "1970s/x.wav", "1970s/y.wav"):
        (tmp_path / name).touch()
    return tmp_path


def loaded(folder: Path, content: Any, name: str = "m.json", **options: Any) -> Manifest:
    path = folder / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        text = content if isinstance(content, str) else json.dumps(content)
        path.write_text(text, encoding="utf-8", newline="")
    return load(path, known_formats=FORMATS, **options)


def one(folder: Path, entry: dict[str, Any], **options: Any) -> Asset:
    (asset,) = loaded(folder, [entry], **options).assets
    return asset


def problems(folder: Path, content: Any, name: str = "m.json", **options: Any) -> list[str]:
    with pytest.raises(ManifestError) as caught:
        loaded(folder, content, name, **options)
    assert caught.value.exit_code is ExitCode.MANIFEST
    assert caught.value.problems
    return [problem.replace(str(folder), "DIR") for problem in caught.value.problems]


def lines(*entries: Any) -> str:
    return "".join(f"{json.dumps(entry)}\n" for entry in entries)


# --- forms -----------------------------------------------------------------------------------


def test_the_seeds_own_form(folder: Path) -> None:
    entry = {
        "id": "0f8fad5b-d9cb-469f-a165-70867728950e",
        "name": "Here and Now",
        "file_name": "y.wav",
        "asset_type": "Audio",
        "folder_path": "1970s",
        "tags": ["talk", {"deep": [None, 1.5]}],
    }
    exported = {"count": 1, "exported_at": "2026-01-01", "filter": {"x": []}, "assets": [entry]}
    (asset,) = loaded(folder, exported).assets
    assert asset == Asset(
        id=str(entry["id"]),
        uri="y.wav",
        path=folder / "1970s" / "y.wav",
        name="Here and Now",
        position=0,
        metadata={k: entry[k] for k in ("asset_type", "folder_path", "tags")},
    )


def test_list_document_and_lines_are_one(folder: Path) -> None:
    entries = [ONE, {"id": "b", "path": "1970s/y.wav", "language": "German"}]
    as_list = loaded(folder, entries).assets
    assert [a.position for a in as_list] == [0, 1]
    assert as_list[1].language == "de"
    assert loaded(folder, {"assets": entries}).assets == as_list
    for name in ("m.jsonl", "m.json"):
        assert loaded(folder, lines(*entries), name).assets == as_list
        crlf = lines(*entries).replace("\n", "\r\n\r\n")
        assert loaded(folder, crlf, name).assets == as_list
        assert loaded(folder, lines(*entries).rstrip(), name).assets == as_list


@pytest.mark.parametrize("name", ["m.json", "m.jsonl"])
def test_a_single_line(folder: Path, name: str) -> None:
    assert loaded(folder, lines(ONE), name).assets[0].id == "a"
    assert loaded(folder, lines([ONE]), name).assets[0].id == "a"
    assert loaded(folder, lines({"assets": [ONE]}), name).assets[0].id == "a"


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]
)
def test_encodings(folder: Path, encoding: str) -> None:
    entries = [{**ONE, "name": "Größe 日本 🎧"}, {"id": "b", "path": "x.wav"}]
    for text in (json.dumps(entries, ensure_ascii=False), lines(*entries)):
        manifest = loaded(folder, text.encode(encoding))
        assert [a.id for a in manifest.assets] == ["a", "b"]
        assert manifest.assets[0].name == "Größe 日本 🎧"


def test_joined_files_with_byte_order_marks(folder: Path) -> None:
    parts = [lines(entry).encode("utf-8-sig") for entry in (ONE, {"id": "b", "path": "x.wav"})]
    assert len(loaded(folder, b"".join(parts)).assets) == 2


def test_it_is_read_once_so_that_a_pipe_will_do(folder: Path) -> None:
    if not hasattr(os, "mkfifo"):
        pytest.skip("no named pipes here")
    pipe = folder / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_text(lines(ONE, {**ONE, "id": "b"})))
    writer.start()
    assert len(load(pipe, known_formats=FORMATS).assets) == 2
    writer.join()


# --- fields ----------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["uri", "path", "audio_filepath", "file_name", "url"])
def test_names_of_the_path(folder: Path, key: str) -> None:
    asset = one(folder, {"id": "a", key: "x.wav", "other": 1})
    assert asset.path == folder / "x.wav"
    assert asset.metadata == {"other": 1}
    assert asset.field(key) == asset.field("uri") == "x.wav"


def test_null_is_not_said_and_unused_names_travel(folder: Path) -> None:
    entry = {"id": "a", "uri": None, "file_name": "x.wav", "url": "http://e.org", "language": None}
    asset = one(folder, entry)
    assert asset.path == folder / "x.wav"
    assert asset.language is None
    assert asset.metadata == {"url": "http://e.org"}


def test_options_of_an_asset(folder: Path) -> None:
    asset = one(
        folder,
        {
            **ONE,
            "language": "pt-BR",
            "task": "translate",
            "initial_prompt": "Namasté",
            "hotwords": "Maharaj-ji",
            "min_speakers": 1,
            "max_speakers": 3.0,
            "priority": -2,
            "output_formats": "vtt, srt,vtt",
            "duration": 12,
            "Language": "untouched",
        },
    )
    assert (asset.language, asset.task, asset.prompt) == ("pt", "translate", "Namasté")
    assert (asset.hotwords, asset.priority, asset.duration_s) == ("Maharaj-ji", -2, 12.0)
    assert (asset.min_speakers, asset.max_speakers, asset.num_speakers) == (1, 3, None)
    assert asset.formats == ("vtt", "srt")
    assert asset.metadata == {"Language": "untouched"}
    assert one(folder, {**ONE, "formats": ["all"]}).formats == ("json", "srt", "txt", "vtt")


def test_defaults_are_for_all_that_do_not_say_otherwise(folder: Path) -> None:
    defaults = {"language": "en", "prompt": "P", "priority": 5, "num_speakers": 2}
    entries = [ONE, {**ONE, "id": "b", "language": "fr", "priority": 0, "max_speakers": 4}]
    manifest = loaded(folder, {"assets": entries, "defaults": defaults})
    first, second = manifest.assets
    assert manifest.defaults == defaults
    assert (first.language, first.prompt, first.priority, first.num_speakers) == ("en", "P", 5, 2)
    assert (second.language, second.prompt, second.priority) == ("fr", "P", 0)
    assert (second.max_speakers, second.num_speakers) == (4, None)


def test_mapped_fields(folder: Path) -> None:
    fields = parse_fields(["uri=sound", "language=lang", "id=path"])
    entry = {"path": "one", "sound": "x.wav", "lang": "English", "language": "tlh", "uri": 5}
    asset = one(folder, entry, fields=fields)
    assert (asset.id, asset.path, asset.language) == ("one", folder / "x.wav", "en")
    assert asset.metadata == {"language": "tlh", "uri": 5}
    assert problems(folder, [{"sound": "x.wav", "lang": "tlh"}], fields=fields)[0].startswith(
        "line 1, /0/lang: "
    )


@pytest.mark.parametrize("texts", [["uri"], ["uri="], ["=x"], ["uri=a", "uri=b"]])
def test_fields_that_cannot_be_read(texts: list[str]) -> None:
    with pytest.raises(UsageError):
        parse_fields(texts)


def test_a_field_that_there_is_not_is_a_usage_error(folder: Path) -> None:
    with pytest.raises(UsageError, match="speed"):
        loaded(folder, [ONE], fields={"speed": "x"})


def test_names_and_derived_ids(folder: Path) -> None:
    nemo = lines({"audio_filepath": "x.wav", "text": "hi"}, {"audio_filepath": "1970s/x.wav"})
    first, second = loaded(folder, nemo).assets
    assert first.name == second.name == "x"
    assert first.id != second.id
    assert first.id == loaded(folder, lines({"audio_filepath": "./x.wav"})).assets[0].id
    assert first.metadata == {"text": "hi"}
    assert one(folder, {"id": 17, "path": "x.wav", "name": " "}).name == "x"
    assert one(folder, {"id": 17, "path": "x.wav"}).id == "17"


def test_derived_ids_are_stable() -> None:
    assert derived_id("a/Lécture 1.mp3") == "Lecture-1-70fd0567644a"
    assert derived_id("a\\Le\u0301cture 1.mp3") == derived_id("a/b/../Lécture 1.mp3")


@given(st.lists(st.text("aA é./\U0001f3a7日", min_size=1), min_size=2, max_size=2))
def test_derived_ids_are_one_to_one(paths: list[str]) -> None:
    same_path = len({posixpath.normpath(unicodedata.normalize("NFC", path)) for path in paths}) == 1
    assert (derived_id(paths[0]) == derived_id(paths[1])) == same_path
    assert all(re.fullmatch(r"[A-Za-z0-9-]{1,73}", derived_id(path)) for path in paths)


# --- files -----------------------------------------------------------------------------------


def test_root(folder: Path) -> None:
    assert one(folder, {"path": "y.wav"}, root=folder / "1970s").path == folder / "1970s" / "y.wav"
    with pytest.raises(UsageError, match="no folder"):
        one(folder, ONE, root=folder / "nowhere")


def test_absolute_paths_and_file_uris(folder: Path) -> None:
    spaced = folder / "a b%ü.wav"
    spaced.touch()
    for text in (str(spaced), spaced.as_uri(), spaced.as_uri().replace("file://", "file:", 1)):
        assert one(folder, {"path": text}).path == spaced
    assert one(folder, {"path": spaced.as_uri()}).name == "a b%ü"


@pytest.mark.parametrize(
    ("uri", "windows", "posix"),
    [
        ("file:///C:/a%20b.wav", "C:/a b.wav", "/C:/a b.wav"),
        ("file://C:/a.wav", "C:/a.wav", "/C:/a.wav"),
        ("file:///srv/a#1.wav", "/srv/a#1.wav", "/srv/a#1.wav"),
        ("FILE://localhost/srv/a.wav", "/srv/a.wav", "/srv/a.wav"),
        ("file://nas/share/a.wav", "//nas/share/a.wav", None),
        ("C:\\a.wav", "C:\\a.wav", "C:\\a.wav"),
        ("Lecture: one.wav", "Lecture: one.wav", "Lecture: one.wav"),
        ("file:///a%00.wav", None, None),
        ("file://", None, None),
        ("https://example.org/a.wav", None, None),
        ("s3://bucket/a.wav", None, None),
    ],
)
def test_local_text(uri: str, windows: str | None, posix: str | None) -> None:
    for expected, is_windows in ((windows, True), (posix, False)):
        if expected is None:
            with pytest.raises(SourceError):
                local_text(uri, windows=is_windows)
        else:
            assert local_text(uri, windows=is_windows) == expected


def test_a_file_name_is_sought_in_its_folder_first(folder: Path) -> None:
    in_folder = {"file_name": "x.wav", "folder_path": "/1970s/"}
    assert one(folder, in_folder).path == folder / "1970s" / "x.wav"
    elsewhere = {"file_name": "1970s/y.wav", "folder_path": "1970s"}
    assert one(folder, elsewhere).path == folder / "1970s" / "y.wav"
    assert one(folder, {"path": "x.wav", "folder_path": "1970s"}).path == folder / "x.wav"
    both = loaded(folder, [in_folder, {"file_name": "x.wav", "folder_path": ""}])
    assert len({a.id for a in both.assets}) == 2


def test_slashes_of_windows(folder: Path) -> None:
    path = one(folder, {"path": "1970s\\y.wav"}).path
    assert path is not None
    assert path.is_file()


def test_missing_files(folder: Path) -> None:
    with contextlib.suppress(OSError):  # Windows wants a privilege for it
        (folder / "loop.wav").symlink_to("loop.wav")
    entries = [
        {"path": "gone.wav"},
        {"path": "1970s"},
        {"path": "x.wav/below"},
        {"path": "loop.wav"},
        {"path": "n" * 5000},
        {"path": " "},
    ]
    found = problems(folder, entries)
    assert len(found) == len(entries)
    assert found[0] == f"line 1, /0/path: there is no file {Path('DIR/gone.wav')}"
    assert found[1].endswith("is a folder")
    manifest = loaded(folder, entries, allow_missing=True)
    assert manifest.assets[0].path == folder / "gone.wav"


def test_only_wanted_assets_need_their_files(folder: Path) -> None:
    entries = [ONE, {"id": "b", "path": "gone.wav"}, {"id": "c", "path": "ftp://host/x"}]
    manifest = loaded(folder, entries, wanted=lambda asset: asset.id == "a")
    assert [a.path for a in manifest.assets] == [folder / "x.wav", None, None]
    assert len(problems(folder, entries)) == 2
    # What else is wrong counts, wanted or not.
    assert problems(folder, [*entries, {"id": "c", "path": "x"}], wanted=lambda a: a.id == "a")


# --- problems --------------------------------------------------------------------------------


def test_all_problems_at_once_with_pointer_and_line(folder: Path) -> None:
    text = """{
  "assets": [
    {"id": "a", "path": "x.wav"},
    {"id": "a", "path": "gone.wav", "language": "tlh", "priority": "high", "extra": NaN},
    {"id": "../up", "path": ["x.wav"]},
    {"id": "d"},
    7,
    {"id": "e", "id": "f", "path": "http://user:pw@example.org/x.mp3"},
    {"id": "g", "path": "x.wav", "min_speakers": 3, "max_speakers": 2, "a/b~": 1e999}
  ],
  "defaults": {"langage": "en", "formats": ["doc"]},
  "filter": {"x": "\\ud800"}
}"""
    found = problems(folder, text)
    places = [problem.split(": ")[0] for problem in found]
    assert places == [
        "line 12, /filter/x",
        "line 11, /defaults/formats",
        "line 11, /defaults/langage",
        "line 4, /assets/1/extra",
        "line 4, /assets/1/language",
        "line 4, /assets/1/priority",
        "line 4, /assets/1/id",
        "line 4, /assets/1/path",
        "line 5, /assets/2/id",
        "line 5, /assets/2/path",
        "line 6, /assets/3",
        "line 7, /assets/4",
        "line 8, /assets/5/id",
        "line 8, /assets/5/path",
        "line 9, /assets/6/a~1b~0",
        "line 9, /assets/6",
    ]
    assert '"a" is already that of line 3, /assets/0' in found[6]
    assert "min_speakers 3 is above max_speakers 2" in found[15]


def test_all_problems_of_json_lines(folder: Path) -> None:
    content = (
        lines(ONE).encode()
        + b'\n{"id": "b", "path": "x.wav"\n'
        + b'{"id": "\xe9", "path": "x.wav"}\n'
        + lines([ONE], {**ONE, "task": "sing"}).encode()
    )
    assert problems(folder, content) == [
        "line 3, column 28: not JSON: expecting ',' delimiter",
        "line 4, column 9: the byte 0xE9 is no valid UTF-8",
        'line 5: an entry must be an object, not [{"id": "a", "path": "x.wav"}]',
        "line 6, /task: must be 'transcribe' or 'translate', not \"sing\"",
        'line 6, /id: the id "a" is already that of line 1',
    ]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "the file is empty"),
        (b" \r\n\n", "the file is empty"),
        (b"\xef\xbb\xbf", "the file is empty"),
        (b"{}", "line 1: the entry names no recording"),
        (b"[]", "names no recordings"),
        (b'{"assets": []}', "line 1, /assets: the manifest names no recordings"),
        (b'{\n "assets": {}}', "line 2, /assets: the list of recordings must be a list"),
        (b'{\n"items": []}', "/assets: the list of recordings is missing"),
        (b'{"assets": [], "assets": []}', "/assets: the key stands more than once"),
        (b"null", "must be a list"),
        (b"hello", "line 1, column 1: not JSON: expecting value"),
        (b'[{"id": "a",\n "path": }]', "line 2, column 10: not JSON: expecting value"),
        (b'[{"id": "a"}] more', "line 1, column 15: not JSON: extra data"),
        (b'[{"id": "\xff"}]', "line 1, column 10: the byte 0xFF is no valid UTF-8"),
        ('["é"]'.encode("utf-16")[:-1], "no valid UTF-16"),
        (b"RIFF\x24\x00\x00\x00WAVEfmt \x10\x00", "not JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'[{"path": "x.wav", "k": ' + b"[" * 150 + b"]" * 150 + b"}]", "more than 100 levels"),
        (b'[{"path": "x.wav", "k": ' + b"9" * 5000 + b"}]", "5,000 digits is too long"),
        (b'[{"path": "x\\u0000.wav"}]', "/0/path: "),
        (b'[{"path": "x.wav", "defaults": 1, "language": true}]', "/0/language: must be text"),
        (b'{"assets": [{"path": "x.wav"}], "defaults": 1}', "/defaults: must be an object, not 1"),
        (
            b'{"assets": [{"path": "x.wav"}],"defaults": {"min_speakers":2,"max_speakers":1}}',
            "/defaults: min_speakers 2 is above max_speakers 1",
        ),
        (b'{"assets": [{"path": "x.wav"}], "defaults": {"priority": NaN}}', "/defaults/priority"),
        (b'[{"path": "x.wav", "num_speakers": 1, "min_speakers": 2}]', "below min_speakers 2"),
        (b'[{"path": "x.wav", "num_speakers": 3, "max_speakers": 2}]', "above max_speakers 2"),
        (b'[{"path": "x.wav"}, {"path": "./x.wav"}]', "the same recording is already at line 1"),
        (b'[{"path": "http://example.org/x.wav"}]', "http://example.org/x.wav is on the web"),
        (b'[{"path": "ftp://example.org/x.wav"}]', "ftp:// is not supported"),
    ],
)
def test_one_problem(folder: Path, content: bytes, expected: str) -> None:
    found = problems(folder, content)
    assert len(found) == 1, found
    assert expected in found[0]


@pytest.mark.parametrize("name", ["gone.json", "1970s", "nul\0.json"])
def test_a_manifest_that_cannot_be_read(folder: Path, name: str) -> None:
    with pytest.raises(ManifestError, match="cannot be read"):
        load(folder / name, known_formats=FORMATS)


def test_problems_are_safe_to_print(folder: Path) -> None:
    evil = "\x1b[2J\u202e\ud83d\n[red]"
    text = json.dumps([{**ONE, evil: {evil: float("nan")}, "language": evil, "path": evil}])
    for problem in problems(folder, text):
        assert problem.isprintable(), problem


def test_bad_entries_hide_no_other(folder: Path) -> None:
    entries = [{**ONE, "id": f"i{n}", "priority": "x" if n % 2 else n} for n in range(200)]
    assert len(problems(folder, entries)) == 100


@settings(max_examples=200, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
        max_leaves=10,
    )
)
def test_any_json_is_loaded_or_refused(
    tmp_path_factory: pytest.TempPathFactory, value: Any
) -> None:
    folder = tmp_path_factory.getbasetemp()
    (folder / "x.wav").touch()
    for content in (value, [value], {"assets": [value], "defaults": value}, {**ONE, "v": value}):
        try:
            manifest = loaded(folder, content, "any.json")
        except ManifestError as error:
            assert error.problems
        else:
            assert json.dumps(manifest.assets[0].metadata, allow_nan=False)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_loaded_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    with pytest.raises(ManifestError):
        loaded(tmp_path_factory.getbasetemp(), content, "any.jsonl")


# --- the schema ------------------------------------------------------------------------------

FIELD_CASES: dict[str, list[Any]] = {
    "id": [
        *("a", "a b", "a/b", "é", "CON", "a..b", "..a", "a.", "x" * 1000, 0, 7, 7.0, 2**63 - 1),
        *(
            "",
            "..",
            "../a",
            "a/..",
            "a/../b",
            "a\\..\\b",
            "/a",
            "\\a",
            "C:x",
            "c:\\x",
            "a\n",
            "\x7f",
        ),
        *("a\0", "x" * 1001, -1, 7.5, 2**63, True, ["a"], {}, None),
    ],
    "path": ["x.wav", "", "x\0", 5, True, [], None],
    "url": ["x.wav", "", 5, None],
    "name": ["n", "", 5, None],
    "language": [
        *("en", "EN", "English", "haitian creole", "zh-Hant", "en_US", "jv", "yue", "Nynorsk"),
        *("", "auto", "xx", "en-", "Englis", "en\n", "\u212aorean", 5, None),
    ],
    "task": ["transcribe", "translate", "Translate", "", 1, None],
    "prompt": ["", "p", 1, None],
    "initial_prompt": ["p", ["p"]],
    "hotwords": ["a, b", ["a"]],
    "min_speakers": [1, 1000, 2.0, 0, -1, 1001, 1.5, "2", True, None],
    "num_speakers": [10**400],
    "priority": [0, -5, 3.0, 10**6, 10**6 + 1, 0.5, "1", False, None],
    "formats": [
        *(["srt"], ["srt", "srt"], ["all"], "srt", "srt, vtt", "all", " json"),
        *([], "", "srt,", "SRT", ["doc"], [1], {"srt": 1}, "srt,\n", 5, None),
    ],
    "output_format": ["srt", "nope"],
    "duration_s": [0, 1, 2.5, 1e9, 1e10, -1, "3", True, None],
    "duration": ["0:30"],
    "anything": ["else", None, {"deep": [1]}],
}


@pytest.fixture(scope="module")
def valid() -> Callable[[Any], bool]:
    schema = json_schema(FORMATS)
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema).is_valid


@pytest.mark.parametrize(
    ("field", "value"),
    [(field, value) for field, values in FIELD_CASES.items() for value in values],
)
def test_schema_and_loader_agree_on_an_entry(
    folder: Path, valid: Callable[[Any], bool], field: str, value: Any
) -> None:
    entry = {"id": "a", "uri": "x.wav", field: value}
    expected = valid([entry])
    assert accepted(folder, [entry]) == expected == accepted(folder, lines(entry), "m.jsonl")
    assert valid({"assets": [entry]}) == expected == accepted(folder, {"assets": [entry]})
    if field in ("language", "task", "prompt", "min_speakers", "priority", "formats", "anything"):
        document = {"assets": [ONE], "defaults": {field: value}}
        assert valid(document) == accepted(folder, document)


@pytest.mark.parametrize(
    "document",
    [
        *([], {}, [ONE], {"assets": []}, {"assets": [ONE]}, {"assets": ONE}, {"assets": None}, 5),
        *({"assets": [ONE], "defaults": None}, {"assets": [ONE], "defaults": []}, [None], [[]]),
        *({"assets": [ONE], "defaults": {}}, {"assets": [ONE], "count": "x"}, [{"id": "a"}]),
        *([{"uri": None}], [{"uri": None, "url": "x.wav"}], [{"uri": 5, "url": "x.wav"}]),
    ],
)
def test_schema_and_loader_agree_on_a_document(
    folder: Path, valid: Callable[[Any], bool], document: Any
) -> None:
    assert valid(document) == accepted(folder, json.dumps(document, indent=1))


def accepted(folder: Path, content: Any, name: str = "m.json") -> bool:
    try:
        loaded(folder, content, name)
    except ManifestError:
        return False
    return True


# --- languages -------------------------------------------------------------------------------


def test_the_languages_are_those_of_the_library() -> None:
    tokenizer = pytest.importorskip("faster_whisper.tokenizer")
    assert set(LANGUAGES) == set(tokenizer._LANGUAGE_CODES)


def test_language_names() -> None:
    assert all(code_of(name) == code for code, name in LANGUAGES.items())
    assert all(code_of(code.upper()) == code for code in LANGUAGES)
    assert code_of("Mandarin") == "zh"
    assert code_of("elvish") is None
