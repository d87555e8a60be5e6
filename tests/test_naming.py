"""Names of outputs: safe anywhere, inside the folder, never the same, whatever the manifest."""

from __future__ import annotations

import random
import re
import unicodedata
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audio_batch.errors import UsageError
from audio_batch.manifest import Asset
from audio_batch.naming import OutputNamer, safe_component

HARD = [
    *(
        "a",
        "A",
        "a b",
        "a_b",
        "a.b",
        "a/b",
        "a\\b",
        "..",
        ".",
        "",
        " ",
        "-rf",
        ".hidden",
        "a.",
        "a ",
    ),
    *("CON", "con", "nul.txt", "COM1.tar.gz", "LPT¹", "CONIN$", "conout$.x", "NUL .x", "summary"),
    *("é", "e\u0301", "ﬁ", "fi", "ß", "ss", "İ", "ı", "I", "i", "\u212a", "k", "日本", "🎧" * 90),
    *("x" * 100, "x" * 101, "x" * 5000, "a\0b", "a\nb", "\u202egpj.exe", "\ud800", "\udcff"),
    *(
        "a:b",
        "C:\\x",
        "~",
        "$HOME",
        "%TEMP%",
        "a*?<>|\"'b",
        "a_b--c8687a08aa5d",
        "\u200b",
        "\ufeff",
    ),
]
TEXT = st.text(st.characters(exclude_categories=()), max_size=12) | st.sampled_from(HARD)


def asset(asset_id: str, **fields: Any) -> Asset:
    return Asset(
        id=asset_id,
        uri="x.mp3",
        path=None,
        name=fields.pop("name", "Lecture"),
        position=fields.pop("position", 0),
        metadata=fields,
    )


def names_of(template: str | None, assets: list[Asset]) -> dict[str, PurePosixPath]:
    names = OutputNamer(template).over(assets)
    return {one.id: PurePosixPath(names.at(n, one.id)) for n, one in enumerate(assets)}


def name(template: str | None, **fields: Any) -> str:
    return str(names_of(template, [asset("the-id", **fields)])["the-id"])


def as_windows_sees_it(path: PurePosixPath) -> str:
    """Without case and with composed accents, as NTFS, HFS+ and APFS compare."""
    folded = unicodedata.normalize("NFD", str(path)).upper().casefold()
    return unicodedata.normalize("NFC", folded)


def assert_valid_everywhere(path: PurePosixPath) -> None:
    assert path.parts
    assert not path.is_absolute()
    for windows in (PureWindowsPath(str(path)), PureWindowsPath(f"{path}.json")):
        assert not windows.drive
        assert not windows.root
    for part in path.parts:
        assert part not in (".", "..")
        assert part == unicodedata.normalize("NFC", part)
        assert len(part.encode("utf-8")) <= 100
        assert not re.search(
            r'[\x00-\x1f\x7f-\x9f<>:"/\\|?*\u200b-\u200f\u202a-\u202e\u2066-\u2069]', part
        )
        assert part[0] not in " .-"
        assert part[-1] not in " ."
        reserved = r"(?i)(CON|PRN|AUX|NUL|CLOCK\$|CONIN\$|CONOUT\$|(COM|LPT)[0-9¹²³]) *(\..*)?"
        assert not re.fullmatch(reserved, part)


# --- one component ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        *("a", "ABC_1.2-3", "0f8fad5b-d9cb-469f-a165-70867728950e", "dQw4w9WgXcQ", "x" * 100),
        "lecture-1-70fd0567644a",
    ],
)
def test_good_ids_are_their_own_names(text: str) -> None:
    assert safe_component(text) == text


@pytest.mark.parametrize(
    ("text", "mapped"),
    [
        ("a b", "a_b--c8687a08aa5d"),
        ("a/b", "a_b--c14cddc033f6"),
        ("CON", "CON--a3dbc4b644a9"),
        ("Lécture 1", "Lecture_1--"),
        ("日本", "asset--cf2abf0c5be3"),
        ("..", "asset--"),
        ("-rf", "rf--686c39acd632"),
        ("a_b--c8687a08aa5d", "a_b_c8687a08aa5d--"),
    ],
)
def test_other_ids_are_mapped_for_ever_alike(text: str, mapped: str) -> None:
    assert safe_component(text).startswith(mapped)


@settings(max_examples=500)
@given(st.lists(TEXT, unique=True, min_size=2, max_size=6))
def test_components_are_safe_and_unique(texts: list[str]) -> None:
    mapped = [safe_component(text) for text in texts]
    assert len(set(mapped)) == len(texts)
    for component in mapped:
        assert re.fullmatch(r"[A-Za-z0-9._-]{1,100}", component)
        assert_valid_everywhere(PurePosixPath(component))
        assert safe_component(component) == component or "--" in component


def test_the_hard_ones_are_unique() -> None:
    assert len({safe_component(text) for text in HARD}) == len(set(HARD))


# --- templates -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "fields", "expected"),
    [
        (None, {}, "the-id"),
        ("{id}", {}, "the-id"),
        (
            "{folder_path}/{name}",
            {"folder_path": "Ram Dass/1970s", "name": "Lecture 1969-05-15"},
            "Ram Dass/1970s/Lecture 1969-05-15",
        ),
        ("{folder_path}\\{name}", {"folder_path": "Ram Dass\\1970s"}, "Ram Dass/1970s/Lecture"),
        ("{folder_path}/{name}", {}, "Lecture"),
        ("{folder_path}/{name}", {"folder_path": None}, "Lecture"),
        ("{folder_path}/{name}", {"folder_path": "../../etc//./x"}, "etc/x/Lecture"),
        ("{folder_path}/{name}", {"folder_path": "/etc"}, "etc/Lecture"),
        ("{folder_path}/{name}", {"folder_path": "C:\\x"}, "C_/x/Lecture"),
        ("{folder_path}/{name}", {"folder_path": "a.json/b"}, "a_json/b/Lecture"),
        ("{name}", {"name": "AC/DC: live?"}, "AC_DC_ live_"),
        ("{name}", {"name": "Größe 日本 🎧"}, "Größe 日本 🎧"),
        ("{name}", {"name": "e\u0301\u202egpj"}, "égpj"),
        ("{name}", {"name": " a \t b. "}, "a b"),
        ("{name}", {"name": "..."}, "the-id"),
        ("{name}", {"name": "nul.x"}, "nul_.x"),
        ("{year}/{live}-{name}", {"year": 1969, "live": True}, "1969/true-Lecture"),
        ("tapes {box}/{name}", {"box": ""}, "Lecture"),
        ("tapes {box}/{name}", {"box": 7}, "tapes 7/Lecture"),
        ("{title}", {"title": ["x"]}, "the-id"),
        ("{language}", {}, "the-id"),
        ("{{{name}}}", {}, "{Lecture}"),
        ("{name}--{id}", {}, "Lecture--the-id"),
        ("{Folder Path}/{name}", {"Folder Path": "x"}, "x/Lecture"),
        ("{file_name}", {}, "x.mp3"),
        ("{folder_path}/{name}", {"folder_path": "d/" * 600}, "the-id"),
        ("./{name}", {}, "Lecture"),
        ("{name}", {"name": "summary"}, "summary--19fe5033f99b"),
        ("x/{name}", {"name": "summary"}, "x/summary"),
        ("{name}", {"name": "Summary.x"}, "Summary.x"),
    ],
)
def test_template(template: str | None, fields: dict[str, Any], expected: str) -> None:
    fields.setdefault("title", None)
    fields.setdefault("folder_path", None)
    assert name(template, **fields) == expected


@pytest.mark.parametrize(
    "template",
    [
        *(
            "",
            " ",
            "name",
            "{",
            "}",
            "{name",
            "name}",
            "{}",
            "{0}",
            "{name}/",
            "/{name}",
            "\\{name}",
        ),
        *("../{name}", "{folder}/../{name}", "C:/{name}", "c:{name}", "{name}/..", "{name}/."),
        *(
            "{id.__class__}",
            "{id[0]}",
            "{metadata[x]}",
            "{id!r}",
            "{id!x}",
            "{id:>9}",
            "{id:{name}}",
        ),
        *("{name.__class__.__mro__}", "{nosuch}", "{path.__init__.__globals__}"),
    ],
)
def test_templates_that_are_refused(template: str) -> None:
    with pytest.raises(UsageError):
        name(template)


def test_a_long_name_is_cut_and_stays_its_own() -> None:
    assets = [asset(str(n), name="é" * 200 + str(n)) for n in range(2)]
    names = names_of("{name}", assets)
    assert len(set(names.values())) == 2
    assert all(90 < len(n.name.encode()) <= 100 for n in names.values())


def test_all_that_clash_are_told_apart_by_their_ids() -> None:
    assets = [asset("1"), asset("2", name="LECTURE"), asset("3", name="Lecture 3"), asset("4")]
    names = {i: str(n) for i, n in names_of("{name}", assets).items()}
    assert names["3"] == "Lecture 3"
    assert names["1"] == "Lecture--6b86b273ff34"
    assert names["2"] == "LECTURE--d4735e3a265e"
    assert len({n.casefold() for n in names.values()}) == 4


def test_a_name_that_looks_like_anothers_told_apart() -> None:
    first = "Lecture--6b86b273ff34"
    longest = "Lecture--6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b"
    assets = [
        *(asset("1"), asset("2"), asset("3", name=first), asset("4", name=longest)),
        asset("5", name=first.upper()),
    ]
    names = names_of("{name}", assets)
    assert len({as_windows_sees_it(n) for n in names.values()}) == len(assets)


TEMPLATES = [None, "{name}", "{folder_path}/{name}", "{a} {b}/{id}", "{a}/{b}/{name} {a}", "x{a}y"]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(TEXT, TEXT, TEXT, TEXT), min_size=1, max_size=8, unique_by=lambda r: r[0]),
    st.sampled_from(TEMPLATES),
    st.randoms(),
)
def test_names_are_unique_contained_and_stable(
    rows: list[tuple[str, str, str, str]], template: str | None, shuffled: random.Random
) -> None:
    assets = [
        asset(i, position=n, name=text, folder_path=f"{a}/{b}", a=a, b=b)
        for n, (i, text, a, b) in enumerate(rows)
    ]
    names = names_of(template, assets)
    assert list(names) == [a.id for a in assets]
    seen = {as_windows_sees_it(path) for path in names.values()}
    assert len(seen) == len(assets)
    assert "SUMMARY".casefold() not in seen
    folders = {as_windows_sees_it(p) for path in names.values() for p in path.parents}
    for path in names.values():
        assert_valid_everywhere(path)
        for suffix in (".json", ".srt", ".vtt"):
            assert as_windows_sees_it(path) + suffix not in folders
    shuffled.shuffle(assets)
    assert names_of(template, assets) == names


@settings(max_examples=25, deadline=None)
@given(st.lists(TEXT, min_size=2, max_size=6, unique=True))
def test_real_files(tmp_path_factory: pytest.TempPathFactory, ids: list[str]) -> None:
    root: Path = tmp_path_factory.mktemp("out")
    names = names_of("{a}/{name}", [asset(i, name=i, a=i) for i in ids])
    for asset_id, relative in names.items():
        target = root / f"{relative}.json"
        target.parent.mkdir(parents=True, exist_ok=True)
        assert root in target.resolve().parents
        with target.open("x", encoding="utf-8", errors="surrogatepass") as file:
            file.write(asset_id)
