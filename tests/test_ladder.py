"""The ladder of a device that runs out of memory: every way down, and what a run begins with."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some

from audio_batch.engines.cuda import COMPUTE_TYPES
from audio_batch.ladder import Rung, begin_with, describe, next_rung

# What CTranslate2 4.8 says of GPUs by their compute capability, and of a CPU.
AMPERE = {"float32", "float16", "bfloat16", "int8", "int8_float32", "int8_float16", "int8_bfloat16"}
TURING = AMPERE - {"bfloat16", "int8_bfloat16"}
PASCAL = {"float32", "int8", "int8_float32"}
CPU = {"float32", "int8", "int8_float32"}


def way_down(rung: Rung, supported: set[str]) -> list[tuple[int, str]]:
    found = []
    following: Rung | None = rung
    while following is not None:
        found.append((following.slots, following.compute_type))
        following = next_rung(following, supported=supported)
    return found


@pytest.mark.parametrize(
    ("begin", "supported", "expected"),
    [
        (
            Rung(16, 5, "float16"),
            AMPERE,
            [(5, "float16"), (2, "float16"), (1, "float16"), (1, "int8_float16")],
        ),
        (
            Rung(None, 2, "float32"),
            TURING,
            [(2, "float32"), (1, "float32"), (1, "float16"), (1, "int8_float16")],
        ),
        (Rung(8, 1, "bfloat16"), AMPERE, [(1, "bfloat16"), (1, "int8_bfloat16")]),
        (Rung(8, 1, "float32"), PASCAL, [(1, "float32"), (1, "int8")]),
        (Rung(8, 1, "int8_float32"), AMPERE, [(1, "int8_float32"), (1, "int8_float16")]),
        (Rung(8, 1, "int8_float32"), PASCAL, [(1, "int8_float32")]),
        (Rung(8, 2, "float32"), CPU, [(2, "float32"), (1, "float32"), (1, "int8")]),
        (Rung(8, 1, "default"), AMPERE, [(1, "default"), (1, "int8_float16")]),
        (Rung(1, 1, "int8_float16"), AMPERE, [(1, "int8_float16")]),
    ],
)
def test_the_way_down_is_fewer_slots_then_smaller_types(
    begin: Rung, supported: set[str], expected: list[tuple[int, str]]
) -> None:
    assert way_down(begin, supported) == expected


@given(
    some.builds(
        Rung,
        some.none() | some.integers(1, 1024),
        some.integers(1, 999),
        some.sampled_from(COMPUTE_TYPES),
    ),
    some.sets(some.sampled_from(COMPUTE_TYPES)),
)
def test_every_way_down_ends_and_only_leads_down(begin: Rung, supported: set[str]) -> None:
    before, steps = begin, 0
    while (after := next_rung(before, supported=supported)) is not None:
        steps += 1
        assert steps <= 15
        assert after.batch_size == begin.batch_size
        if before.slots > 1:
            assert 1 <= after.slots < before.slots and after.compute_type == before.compute_type
        else:
            assert after.slots == 1
            assert after.compute_type in supported and after.compute_type != before.compute_type
        assert describe("cuda:0", before, after).startswith("cuda:0 ran out of memory: ")
        before = after


def test_without_memories_a_run_begins_as_asked() -> None:
    assert begin_with(
        None, batch_size=None, slots=2, slots_asked=False, compute_type="auto"
    ) == Rung(None, 2, "auto")


def test_what_is_remembered_counts_where_the_user_says_nothing() -> None:
    known = Rung(8, 1, "int8_float16")
    nothing_asked = {"batch_size": None, "slots": 2, "slots_asked": False, "compute_type": "auto"}
    assert begin_with(known, **nothing_asked) == known  # type: ignore[arg-type]
    for asked, expected in (
        ({"batch_size": 32}, Rung(32, 1, "int8_float16")),
        ({"slots": 4, "slots_asked": True}, Rung(8, 4, "int8_float16")),
        ({"compute_type": "float16"}, Rung(8, 1, "float16")),
    ):
        assert begin_with(known, **{**nothing_asked, **asked}) == expected  # type: ignore[arg-type]


def test_more_slots_than_the_default_are_never_remembered_into_a_run() -> None:
    known = Rung(None, 4, "float16")
    begun = begin_with(known, batch_size=None, slots=2, slots_asked=False, compute_type="auto")
    assert begun == Rung(None, 2, "float16")


def test_a_step_is_told_in_a_sentence() -> None:
    two, one = Rung(8, 2, "float16"), Rung(8, 1, "float16")
    assert (
        describe("cuda:0", two, one) == "cuda:0 ran out of memory: 1 instead of 2 assets at a time."
    )
    assert describe("cpu", one, Rung(4, 1, "int8")) == (
        "cpu ran out of memory: int8 instead of float16, batches of 4 instead of 8."
    )
    assert "batches of 4 instead of as many as should fit" in describe(
        "cuda:1", Rung(None, 1, "float16"), Rung(4, 1, "float16")
    )
