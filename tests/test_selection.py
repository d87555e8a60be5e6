"""Which assets a run takes: filters, order, skip and limit."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audio_batch.errors import UsageError
from audio_batch.manifest import Asset
from audio_batch.selection import Condition, Order, parse_condition, select


def asset(position: int = 0, **fields: Any) -> Asset:
    own = {
        name: fields.pop(name) for name in ("priority", "duration_s", "language") if name in fields
    }
    return Asset(
        id=f"i{position}",
        uri=f"{position}.mp3",
        path=None,
        name=f"Lecture {position}",
        position=position,
        metadata=fields,
        **own,
    )


def chosen(assets: list[Asset], *where: str, exclude: tuple[str, ...] = (), **more: Any) -> str:
    """The chosen ones' positions."""
    found = select(
        assets,
        where=[parse_condition(text, "--where") for text in where],
        exclude=[parse_condition(text, "--exclude") for text in exclude],
        **more,
    )
    return "".join(str(a.position) for a in found)


def matches(condition: str, **fields: Any) -> bool:
    return parse_condition(condition, "--where").matches(asset(**fields))


@pytest.mark.parametrize(
    ("condition", "fields", "expected"),
    [
        ("asset_type=Audio", {"asset_type": "Audio"}, True),
        ("asset_type=audio", {"asset_type": "Audio"}, False),
        ("asset_type=A*", {"asset_type": "Audio"}, True),
        ("asset_type=[!V]*", {"asset_type": "Audio"}, True),
        ("asset_type=*", {}, False),
        ("asset_type=*", {"asset_type": None}, False),
        ("asset_type=", {}, True),
        ("asset_type=", {"asset_type": ""}, True),
        ("asset_type=", {"asset_type": []}, True),
        ("asset_type=", {"asset_type": "Audio"}, False),
        ("asset_type=", {"asset_type": 0}, False),
        ("tags=talk", {"tags": ["music", ["talk"]]}, True),
        ("tags=talks", {"tags": ["music", "talk"]}, False),
        ("year=19[67]?", {"year": 1969}, True),
        ("live=true", {"live": True}, True),
        ("gain=1.5", {"gain": 1.5}, True),
        ("meta.place.town=Taos", {"meta": {"place": {"town": "Taos"}}}, True),
        ("meta.town=Taos", {"meta": [{"town": "Ojai"}, {"town": "Taos"}]}, True),
        ("meta.town=Taos", {"meta": "Taos"}, False),
        ("a.b=1", {"a.b": 1, "a": {"b": 2}}, True),
        ("equation=a=b", {"equation": "a=b"}, True),
        ("name=Lecture 0", {}, True),
        ("file_name=*.mp3", {}, True),
        ("language=en", {"language": "en"}, True),
        ("title=Lécture*", {"title": "Le\u0301cture 1"}, True),
        ("path=*", {"path": {"not": "text"}}, False),
    ],
)
def test_condition(condition: str, fields: dict[str, Any], expected: bool) -> None:
    assert matches(condition, **fields) is expected


@pytest.mark.parametrize(
    ("pattern", "folder", "expected"),
    [
        ("Resources/To Be Sorted", "Resources/To Be Sorted", True),
        ("Resources/To Be Sorted", "Resources/To Be Sorted/new/tapes", True),
        ("Resources/To Be Sorted/", "Resources\\To Be Sorted\\new", True),
        ("Resources/To Be Sorted", "Resources/To Be Sorted Later", False),
        ("Resources/To Be Sorted", "Old/Resources/To Be Sorted", False),
        ("*/Drafts", "Ram Dass/1970s/Drafts/2", True),
        ("Ram Dass/197?s", "Ram Dass/1980s", False),
        ("", "", True),
        ("", "Ram Dass", False),
    ],
)
def test_a_folder_stands_for_what_is_below_it(pattern: str, folder: str, expected: bool) -> None:
    assert matches(f"folder_path={pattern}", folder_path=folder) is expected


@pytest.mark.parametrize("text", ["asset_type", "", "=Audio", " =Audio"])
def test_a_condition_that_cannot_be_read(text: str) -> None:
    with pytest.raises(UsageError, match="--where"):
        parse_condition(text, "--where")


def test_one_of_the_same_field_all_of_different_ones_none_of_exclude() -> None:
    kinds = ["Audio", "Video", "Text"]
    assets = [asset(n, kind=kinds[n % 3], year=1970 + n) for n in range(9)]
    assert chosen(assets, "kind=Audio", "kind=Video") == "013467"
    assert chosen(assets, "kind=Audio", "kind=Video", "year=197[0-3]") == "013"
    assert chosen(assets, "kind=Audio", exclude=("year=1970", "year=1976")) == "3"
    assert chosen(assets, exclude=("kind=*",)) == ""


def test_orders() -> None:
    lengths = [30.0, None, 10.0, 30.0, None, 20.0]
    assets = [
        asset(n, priority=n % 3, **({} if s is None else {"duration_s": s}))
        for n, s in enumerate(lengths)
    ]
    assert chosen(assets) == chosen(assets, order="manifest") == "012345"
    assert chosen(assets, order="reverse") == "543210"
    assert chosen(assets, order="priority") == "251403"
    assert chosen(assets, order="longest") == "035214"
    assert chosen(assets, order="shortest") == "250314"
    assert chosen(assets, order="longest", skip=1, limit=2) == "35"


def test_only_what_is_unknown_and_filtered_is_probed() -> None:
    assets = [asset(0, duration_s=5.0), asset(1, keep=1), asset(2), asset(3, keep=1)]
    asked: list[int] = []

    def probe(one: Asset) -> float | None:
        asked.append(one.position)
        return {1: 9.0}.get(one.position)

    assert chosen(assets, order="longest", durations=probe, exclude=("name=Lecture 2",)) == "103"
    assert sorted(asked) == [1, 3]
    asked.clear()
    assert chosen(assets, "keep=1", order="reverse", durations=probe) == "31"
    assert asked == []


@pytest.mark.parametrize("wrong", [{"skip": -1}, {"limit": -1}, {"order": "random"}])
def test_figures_that_cannot_be_meant(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        select([asset()], **wrong)


@given(
    st.lists(st.tuples(st.integers(-2, 2), st.none() | st.floats(0, 9), st.sampled_from("xyz"))),
    st.sampled_from(Order),
    st.integers(0, 5),
    st.none() | st.integers(0, 20),
    st.sampled_from(["", "x", "[xy]", "*"]),
)
def test_a_selection_is_a_stable_subset(
    rows: list[tuple[int, float | None, str]], order: Order, skip: int, limit: int | None, glob: str
) -> None:
    assets = [
        asset(n, priority=priority, duration_s=seconds, kind=kind)
        for n, (priority, seconds, kind) in enumerate(rows)
    ]
    everything = select(assets, order=order)
    assert sorted(a.position for a in everything) == list(range(len(assets)))
    filtered = select(assets, order=order, where=[Condition("kind", glob)])
    assert filtered == [a for a in everything if Condition("kind", glob).matches(a)]
    part = select(assets, order=order, where=[Condition("kind", glob)], skip=skip, limit=limit)
    assert part == filtered[skip:][:limit]
