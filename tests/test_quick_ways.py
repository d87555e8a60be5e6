"""What is told quickly, for almost every entry of a manifest, is what the thorough way tells."""

from __future__ import annotations

import random
import re
from pathlib import PureWindowsPath

import pathvalidate
from hypothesis import given
from hypothesis import strategies as st

from audio_batch import manifest_entry, manifest_text, naming
from audio_batch.manifest import Asset
from audio_batch.manifest_sources import stem
from audio_batch.naming import OutputNamer

WORDS = ("con", "CON", "Nul", "aux", "com1", "LPT9", "clock", "conin", "summary", "a.b", "..")


def made_up(count: int = 4000) -> list[str]:
    """Names made of what file systems stumble over and of what they do not."""
    chance = random.Random(5)
    pieces = (*WORDS, *"abXZ019._- /")
    return ["".join(chance.choices(pieces, k=chance.randint(1, 6))) for _ in range(count)]


def test_ordinary_names_are_valid_everywhere() -> None:
    ordinary = [text for text in made_up() if naming._ORDINARY.fullmatch(text)]
    assert len(ordinary) > 500
    for text in ordinary:
        kept = pathvalidate.sanitize_filename(
            text, "_", platform="universal", additional_reserved_names=naming._RESERVED_TOO
        )
        assert kept == text


def test_ordinary_ids_are_ids() -> None:
    ordinary = [text for text in made_up() if manifest_entry.ORDINARY_ID.fullmatch(text)]
    assert len(ordinary) > 500
    for text in ordinary:
        assert not re.search(manifest_entry._ESCAPES, text)
        assert re.fullmatch(f"{manifest_entry._ID_CHARACTERS}+", text)


@given(st.text(alphabet="ab.:/\\ é", max_size=12))
def test_a_files_name_without_its_suffix(text: str) -> None:
    assert stem(text) == (PureWindowsPath(text).stem or text)


LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(alphabet=["a", "é", "\ud800"], max_size=3)
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(alphabet=["a", "é", "\ud800"], max_size=3), inner, max_size=3)
    ),
)


@given(VALUES)
def test_what_is_surely_sound_has_no_faults(value: object) -> None:
    if manifest_text.is_surely_sound(value):
        assert not list(manifest_text.faults(value))


def test_almost_every_entry_is_surely_sound() -> None:
    assert manifest_text.is_surely_sound({"id": "a", "path": "a.wav", "duration_s": 1.5, "n": None})
    repeated = manifest_text.parsed('{"id": "a", "id": "b"}')
    assert not manifest_text.is_surely_sound(repeated)
    assert not manifest_text.is_surely_sound({"id": manifest_text.parsed("NaN")})


def test_which_names_are_told_apart() -> None:
    ids = ("a", "A", "b", "summary", "c/d")
    assets = [Asset(id_, "x.wav", None, "x", n) for n, id_ in enumerate(ids)]
    namer = OutputNamer()
    names = namer.over(assets)
    assert names.told_apart() == [names.at(0, "a"), names.at(1, "A")]
    assert names.at(0, "a").startswith("a--")
    beside = namer.over(assets, taken=["b"])
    assert beside.told_apart() == [beside.at(0, "a"), beside.at(1, "A"), beside.at(2, "b")]
    assert names.at(2, "b") == "b"
