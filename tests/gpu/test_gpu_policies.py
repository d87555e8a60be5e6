"""The pure decisions, by example and by property."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from audio_batch.gpu.policies import POLICIES, DeviceState, choose, first_come, score

loads = st.none() | st.floats(0, 100)


@st.composite
def device_states(draw: st.DrawFn) -> list[DeviceState]:
    states = []
    for number in range(draw(st.integers(0, 6))):
        maximum = draw(st.integers(1, 5))
        states.append(
            DeviceState(
                id=f"cuda:{number}",
                active=draw(st.integers(0, maximum)),
                maximum=maximum,
                utilization_pct=draw(loads),
            )
        )
    return states


def usable(state: DeviceState) -> bool:
    return state.active < state.maximum


def test_the_seeds_formula() -> None:
    assert score(3, 5, 45) == 3 / 5 * 50 + 45 / 100 * 50
    assert score(0, 5, 0) == 0
    assert score(5, 5, 100) == 100


def test_a_gpu_that_cannot_say_does_not_look_idle() -> None:
    assert score(2, 4, None) == score(2, 4, 50) == 50
    silent = DeviceState("cuda:0", 2, 4)
    busy = DeviceState("cuda:1", 1, 4, 60.0)
    assert choose([silent, busy]) == "cuda:1"


@given(st.integers(1, 50), st.data())
def test_a_score_stays_in_range_and_grows_with_either_load(
    maximum: int, data: st.DataObject
) -> None:
    active = data.draw(st.integers(0, maximum - 1))
    low, high = sorted(data.draw(st.tuples(st.floats(0, 100), st.floats(0, 100))))
    assert 0 <= score(active, maximum, low) <= score(active, maximum, high) <= 100
    for load in (None, low):
        assert score(active, maximum, load) < score(active + 1, maximum, load) <= 100


@given(st.integers(0, 5), st.floats(allow_nan=False))
def test_a_load_out_of_range_is_not_believed(active: int, load: float) -> None:
    assert 0 <= score(active, 5, load) <= 100


@given(device_states())
def test_every_policy_picks_a_usable_device_or_waits(states: list[DeviceState]) -> None:
    ids = {state.id for state in states if usable(state)}
    for policy in POLICIES.values():
        chosen = policy(states)
        assert chosen in ids if ids else chosen is None


@given(device_states())
def test_nothing_usable_is_less_loaded_than_the_choice(states: list[DeviceState]) -> None:
    def rank(state: DeviceState) -> tuple[float, int, int]:
        load = score(state.active, state.maximum, state.utilization_pct)
        return (load, state.active, states.index(state))

    ranked = sorted((state for state in states if usable(state)), key=rank)
    assert choose(states) == (ranked[0].id if ranked else None)


@given(device_states())
def test_full_devices_change_nothing(states: list[DeviceState]) -> None:
    without = [state for state in states if usable(state)]
    assert choose(states) == choose(without)
    assert first_come(states) == (without[0].id if without else None)


def test_ties_go_to_fewest_tasks_then_to_the_first() -> None:
    a, b = DeviceState("cuda:0", 1, 5, 20.0), DeviceState("cuda:1", 0, 5, 40.0)
    assert score(1, 5, 20.0) == score(0, 5, 40.0)
    assert choose([a, b]) == "cuda:1"
    assert choose([replace(b, id="x"), replace(b, id="y")]) == "x"


def test_a_full_device_waits_even_when_it_idles() -> None:
    assert choose([DeviceState("cuda:0", 2, 2, 0.0)]) is None
    assert (
        choose([DeviceState("cuda:0", 2, 2, 0.0), DeviceState("cuda:1", 4, 5, 100.0)]) == "cuda:1"
    )
