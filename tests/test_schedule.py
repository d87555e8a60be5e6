"""What begins next, and where; what jobs are expected to cost. Numbers only."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audio_batch.schedule.bound import lower_bound_s
from audio_batch.schedule.earliest_finish import (
    DeviceNow,
    Running,
    Start,
    Waiting,
    backup_copy,
    next_start,
)
from audio_batch.schedule.speeds import DeviceSpeed, Speeds, by_active


def known(**per_audio_s: float) -> Speeds:
    """Devices of which it is known what one job takes alone."""
    return Speeds({name: DeviceSpeed(0.0, {1: s}, jobs=9) for name, s in per_audio_s.items()})


def running(id: str, device: str, begun_s: float, duration_s: float, expected_s: float) -> Running:
    return Running(id, device, begun_s, duration_s, expected_s)


def jobs(*durations_s: float) -> list[Waiting]:
    return [Waiting(str(number), duration_s) for number, duration_s in enumerate(durations_s)]


# -- the next start ------------------------------------------------------------------------------


def test_the_first_job_goes_to_the_fastest_free_device() -> None:
    devices = [DeviceNow("slow", 1), DeviceNow("fast", 1)]
    cost = known(slow=3, fast=1).cost_s
    assert next_start(0, jobs(10, 5), devices, cost) == Start("0", "fast")


def test_a_slow_device_stays_idle_rather_than_take_the_last_long_job() -> None:
    devices = [DeviceNow("slow", 1), DeviceNow("fast", 1, (running("x", "fast", 0, 10, 10),))]
    cost = known(slow=3, fast=1).cost_s
    assert next_start(9, jobs(10), devices, cost) is None
    # Of enough jobs one is for the slow device: the first that would be done there no later.
    assert next_start(9, jobs(10, 10, 10, 10), devices, cost) == Start("2", "slow")


def test_ties_go_to_the_faster_device_and_then_to_the_first() -> None:
    busy = running("x", "fast", 0, 16, 16)
    devices = [DeviceNow("slow", 1), DeviceNow("fast", 1, (busy,))]
    assert next_start(0, jobs(8), devices, known(slow=3, fast=1).cost_s) is None
    equal = [DeviceNow("a", 1), DeviceNow("b", 1)]
    assert next_start(0, jobs(8), equal, known(a=1, b=1).cost_s) == Start("0", "a")


def test_a_job_that_is_overdue_is_expected_to_take_a_tenth_of_its_time_more() -> None:
    devices = [DeviceNow("slow", 1), DeviceNow("fast", 1, (running("x", "fast", 0, 10, 10),))]
    cost = known(slow=3, fast=1).cost_s
    # At 150 it has 15 to go: 15 + 10 on the fast device, 30 on the slow one. At 250: 35.
    assert next_start(150, jobs(10), devices, cost) is None
    assert next_start(250, jobs(10), devices, cost) == Start("0", "slow")


def test_more_at_work_on_a_device_count_with_their_own_speed() -> None:
    cost = Speeds({"a": DeviceSpeed(0, {1: 1.0, 2: 4.0}, 9), "b": DeviceSpeed(0, {1: 3.0}, 9)})
    devices = [DeviceNow("a", 2, (running("x", "a", 0, 100, 100),)), DeviceNow("b", 1)]
    assert next_start(0, jobs(10), devices, cost.cost_s) == Start("0", "b")


def test_excluded_devices_are_never_planned() -> None:
    devices = [DeviceNow("fast", 1), DeviceNow("slow", 1)]
    cost = known(fast=1, slow=100).cost_s
    waiting = [Waiting("0", 10, frozenset({"fast", "slow"})), Waiting("1", 10, frozenset({"fast"}))]
    assert next_start(0, waiting, devices, cost) == Start("1", "slow")


def test_a_closed_device_takes_nothing_and_one_that_opens_soon_is_waited_for() -> None:
    cost = known(fast=1, slow=3).cost_s
    slow = DeviceNow("slow", 1)
    closed = DeviceNow("fast", 1, open=False)
    assert next_start(0, jobs(10), [closed, slow], cost) == Start("0", "slow")
    loading = DeviceNow("fast", 1, open=False, opens_at_s=5.0)
    assert next_start(0, jobs(10), [loading, slow], cost) is None
    late = DeviceNow("fast", 1, open=False, opens_at_s=25.0)
    assert next_start(0, jobs(10), [late, slow], cost) == Start("0", "slow")


def test_jobs_are_read_ahead_where_the_plan_has_them_and_there_is_room() -> None:
    busy = running("x", "fast", 0, 10, 10)
    cost = known(fast=1, slow=30).cost_s
    devices = [DeviceNow("fast", 1, (busy,), ahead_room=1), DeviceNow("slow", 1)]
    assert next_start(0, jobs(10, 10), devices, cost) == Start("0", "fast", ahead=True)
    behind = Running("0", "fast", 0, 10, 10, ahead=True)
    full = [DeviceNow("fast", 1, (busy, behind)), DeviceNow("slow", 1)]
    assert next_start(0, jobs(10), full, cost) is None


def test_what_is_read_ahead_has_the_next_free_slot() -> None:
    behind = Running("x", "a", 0, 10, 10, ahead=True)
    devices = [DeviceNow("a", 1, (behind,)), DeviceNow("b", 1)]
    assert next_start(0, jobs(10), devices, known(a=1, b=9).cost_s) is None
    assert next_start(0, jobs(10), devices, known(a=1, b=1).cost_s) == Start("0", "b")


def test_without_any_speed_jobs_go_in_their_order_to_the_device_with_the_fewest() -> None:
    devices = [DeviceNow("a", 2, (running("x", "a", 0, 5, 5),)), DeviceNow("b", 1)]
    assert next_start(0, jobs(1, 9), devices, Speeds().cost_s) == Start("0", "b")
    waiting = [Waiting("0", 1, frozenset({"b"}))]
    assert next_start(0, waiting, devices, Speeds().cost_s) == Start("0", "a")


def test_nothing_is_bound_to_a_device_that_may_be_slower_than_it_is_believed_to_be() -> None:
    busy = {name: running(f"x{name}", name, 0, 10, 10) for name in "ab"}
    both = [DeviceNow(name, 1, (busy[name],), ahead_room=1) for name in "ab"]
    assert next_start(1, jobs(10), both, Speeds().cost_s) is None
    assert next_start(1, jobs(10), both[:1], Speeds().cost_s) == Start("0", "a", ahead=True)
    cost = known(a=1, b=1).cost_s
    assert next_start(9, jobs(10, 10, 10), both, cost) == Start("0", "a", ahead=True)
    assert next_start(10, jobs(10, 10, 10), both, cost) is None  # both are late
    blind = Running("y", "a", 0, 10, None)  # nothing was known when it began
    doubtful = [DeviceNow("a", 1, (blind,), ahead_room=1), both[1]]
    start = next_start(9, jobs(10, 10, 10, 10), doubtful, cost)
    assert start == Start("1", "b", ahead=True)
    # Nor is the last job that the plan has for a device: another may be free before it.
    assert next_start(9, jobs(10, 10), both, cost) is None
    assert next_start(10, jobs(10), both[:1], cost) == Start("0", "a", ahead=True)


@pytest.mark.parametrize("slots", [1, 4])
def test_the_plan_looks_at_few_of_many_waiting_jobs(slots: int) -> None:
    seen = 0

    def waiting() -> Iterator[Waiting]:
        nonlocal seen
        for number in range(100_000):
            seen += 1
            yield Waiting(str(number), 600.0)

    busy = tuple(running(f"x{n}", "fast", 0, 600, 600) for n in range(slots))
    full = DeviceNow("fast", slots, busy)
    cost = known(fast=1, slow=3, snail=1e6).cost_s
    assert next_start(0, waiting(), [full], cost) is None
    assert seen == 0  # no slot is free: nothing is looked at
    start = next_start(0, waiting(), [full, DeviceNow("slow", 1)], cost)
    assert start is not None and start.device == "slow"
    assert seen <= 3 * slots + 1
    seen = 0
    assert next_start(0, waiting(), [full, DeviceNow("snail", 1)], cost) is None
    assert seen <= 1000


# -- copies --------------------------------------------------------------------------------------


def test_a_copy_goes_to_a_faster_device_that_is_done_well_before() -> None:
    slow = running("x", "slow", 0, 10, 30)
    devices = [DeviceNow("slow", 1, (slow,)), DeviceNow("fast", 1)]
    cost = known(slow=3, fast=1).cost_s
    assert backup_copy(0, [slow], devices, cost, ()) == Start("x", "fast")
    assert backup_copy(0, [slow], devices, cost, {"x"}) is None
    assert backup_copy(17, [slow], devices, cost, ()) == Start("x", "fast")  # 13 left, 10 there
    assert backup_copy(18, [slow], devices, cost, ()) is None  # 12 left: 10 is not less than 9.6


def test_no_copy_on_an_equal_device_until_the_original_is_far_beyond_its_estimate() -> None:
    original = running("x", "a", 0, 10, 10)
    devices = [DeviceNow("a", 1, (original,)), DeviceNow("b", 1)]
    cost = known(a=1, b=1).cost_s
    assert backup_copy(0, [original], devices, cost, ()) is None
    assert backup_copy(29, [original], devices, cost, ()) is None
    assert backup_copy(31, [original], devices, cost, ()) == Start("x", "b")
    spared = Running("x", "a", 0, 10, 10, excluded=frozenset({"b"}))
    assert backup_copy(31, [spared], devices, cost, ()) is None


def test_company_that_came_later_makes_no_job_overdue() -> None:
    """Three jobs share a device: the first was expected to be alone, and takes three times that."""
    three = tuple(
        running(str(n), "a", 0, 10, expected_s) for n, expected_s in enumerate((10, 20, 30))
    )
    devices = [DeviceNow("a", 3, three), DeviceNow("b", 1)]
    assert backup_copy(31, three, devices, known(a=1, b=3).cost_s, ()) is None


# -- costs ---------------------------------------------------------------------------------------


def test_nothing_known_costs_nobody_knows() -> None:
    assert Speeds().cost_s("a", 1, 60.0) is None
    assert Speeds().learnt("a") is None


def test_a_speed_is_the_median_of_the_last_nine_jobs() -> None:
    speeds = Speeds()
    for _ in range(20):
        speeds.observe("a", 1, 100.0, 50.0)
    for wall_s in (10.0, 10.0, 10.0, 10.0, 900.0):
        speeds.observe("a", 1, 100.0, wall_s)
    assert speeds.cost_s("a", 1, 100.0) == pytest.approx(50.0)
    speeds.observe("a", 1, 100.0, 10.0)
    assert speeds.cost_s("a", 1, 100.0) == pytest.approx(10.0)


def test_numbers_at_work_that_were_not_seen_are_reckoned_with_caution() -> None:
    assert by_active({1: 2.0}, 3) == 6.0  # sharing gains nothing
    assert by_active({4: 2.0}, 1) == 2.0  # alone is no faster
    assert by_active({1: 2.0, 4: 3.0}, 5) == pytest.approx(3.75)
    assert by_active({2: 2.0, 4: 9.0}, 3) == pytest.approx(3.0)  # the lower of two as near


def test_what_every_job_costs_is_told_from_what_its_length_costs() -> None:
    drawn = random.Random(4)
    speeds = Speeds()
    for _ in range(40):
        duration_s = drawn.uniform(5, 600)
        wall_s = (3.0 + 0.02 * duration_s) * drawn.lognormvariate(0, 0.1)
        speeds.observe("a", 1, duration_s, wall_s)
    learnt = speeds.learnt("a")
    assert learnt is not None
    assert learnt.fixed_s == pytest.approx(3.0, rel=0.25)
    assert learnt.per_audio_s[1] == pytest.approx(0.02, rel=0.25)
    alike = Speeds()
    for _ in range(40):
        alike.observe("a", 1, drawn.uniform(599, 601), 15.0)
    assert alike.learnt("a").fixed_s == 0.0  # type: ignore[union-attr]


def test_outliers_do_not_move_what_every_job_costs() -> None:
    speeds = Speeds()
    for number in range(32):
        duration_s = 10.0 + 20.0 * number
        stuck_s = 500.0 if number % 6 == 0 else 0.0
        speeds.observe("a", 1, duration_s, 3.0 + 0.02 * duration_s + stuck_s)
    assert speeds.learnt("a").fixed_s == pytest.approx(3.0, rel=0.2)  # type: ignore[union-attr]


def test_priors_count_in_their_ratios_and_give_way_to_the_first_job() -> None:
    speeds = Speeds(priors={"a": 1.0, "b": 3.0})
    assert speeds.cost_s("b", 1, 10.0) == pytest.approx(3 * (speeds.cost_s("a", 1, 10.0) or 0))
    speeds.observe("a", 1, 100.0, 5.0)
    assert speeds.cost_s("a", 1, 100.0) == pytest.approx(5.0)
    assert speeds.cost_s("b", 1, 100.0) == pytest.approx(15.0)
    assert speeds.learnt("b") is None
    speeds.observe("b", 1, 100.0, 7.0)
    assert speeds.cost_s("b", 1, 100.0) == pytest.approx(7.0)


def test_a_device_nobody_knows_is_taken_for_an_average_one() -> None:
    assert known(a=1, b=2, c=9).cost_s("d", 1, 10.0) == pytest.approx(20.0)


def test_earlier_runs_are_believed_until_five_jobs_say_otherwise() -> None:
    speeds = known(a=1.0)
    for _ in range(3):
        speeds.observe("a", 1, 100.0, 300.0)
    assert speeds.cost_s("a", 1, 100.0) == pytest.approx(100.0)
    for _ in range(2):
        speeds.observe("a", 1, 100.0, 300.0)
    assert speeds.cost_s("a", 1, 100.0) == pytest.approx(300.0)
    learnt = speeds.learnt("a")
    assert learnt is not None and learnt.jobs == 14
    for wall_s in (100.0, 100.0, 100.0, 100.0, 200.0, 200.0, 200.0, 200.0, 200.0):
        speeds.observe("a", 1, 100.0, wall_s)
    assert speeds.cost_s("a", 1, 100.0) == pytest.approx(200.0)  # nine jobs, and nothing else


def test_lengths_of_nothing_and_unknown_ones_are_borne() -> None:
    speeds = Speeds()
    speeds.observe("a", 1, 0.0, 5.0)
    speeds.observe("a", 1, None, 5.0)
    assert speeds.cost_s("a", 1, 60.0) is None
    speeds.observe("a", 1, 1e-9, 0.0)
    speeds.observe("a", 1, 100.0, 10.0)
    speeds.observe("a", 1, 100.0, 10.0)
    assert speeds.cost_s("a", 1, 0.0) is not None
    assert speeds.cost_s("a", 1, None) == pytest.approx(10.0)  # as long as usual
    learnt = speeds.learnt("a")
    assert learnt is not None and all(speed > 0 for speed in learnt.per_audio_s.values())


# -- properties ----------------------------------------------------------------------------------

_SPEED = st.floats(0.01, 100)
_DURATION = st.floats(0, 10_000)


@settings(max_examples=60, deadline=None)
@given(
    speeds=st.lists(st.tuples(_SPEED, st.integers(1, 3)), min_size=1, max_size=4),
    durations_s=st.lists(_DURATION, max_size=30),
    excluded=st.lists(st.sets(st.integers(0, 3)), max_size=30),
    walls=st.randoms(use_true_random=False),
    knows=st.booleans(),
)
def test_whatever_happens_slots_are_kept_and_every_job_is_done_where_it_may_be(
    speeds: list[tuple[float, int]],
    durations_s: list[float],
    excluded: list[set[int]],
    walls: random.Random,
    knows: bool,
) -> None:
    names = [f"d{number}" for number in range(len(speeds))]
    slots = {name: count for name, (_, count) in zip(names, speeds, strict=True)}
    truth = {name: speed for name, (speed, _) in zip(names, speeds, strict=True)}
    learner = known(**truth) if knows else Speeds()
    forbidden = {
        str(n): frozenset(f"d{d}" for d in ids) & set(names) for n, ids in enumerate(excluded)
    }
    left = {
        str(n): Waiting(str(n), d, forbidden.get(str(n), frozenset()))
        for n, d in enumerate(durations_s)
    }
    impossible = {id for id, job in left.items() if job.excluded >= set(names)}
    at_work: list[tuple[float, Running]] = []
    now_s, done = 0.0, set()
    while True:
        devices = [
            DeviceNow(name, slots[name], tuple(r for _, r in at_work if r.device == name))
            for name in names
        ]
        start = next_start(now_s, list(left.values()), devices, learner.cost_s)
        if start is not None:
            job = left.pop(start.id)
            assert start.device not in job.excluded
            assert sum(r.device == start.device for _, r in at_work) < slots[start.device]
            active = 1 + sum(r.device == start.device for _, r in at_work)
            expected_s = learner.cost_s(start.device, active, job.duration_s)
            wall_s = truth[start.device] * (job.duration_s or 0.0) * walls.uniform(0.2, 5)
            at_work.append(
                (now_s + wall_s, Running(job.id, start.device, now_s, job.duration_s, expected_s))
            )
            continue
        if not at_work:
            break
        at_work.sort(key=lambda item: item[0])
        now_s, ended = at_work.pop(0)
        learner.observe(ended.device, 1, ended.duration_s, now_s - ended.begun_s)
        done.add(ended.id)
    assert set(left) == impossible
    assert done == {str(n) for n in range(len(durations_s))} - impossible


def test_the_bound_is_the_best_of_its_three_parts() -> None:
    fast, slow = DeviceSpeed(0, {1: 8.0}), DeviceSpeed(0, {1: 24.0})
    two = [(fast, 1), (slow, 1)]
    assert lower_bound_s([1.0] * 6, two) == pytest.approx(36)  # all the work
    assert lower_bound_s([10.0, 0.1], two) == pytest.approx(80)  # the longest on the fastest
    three = [(fast, 1), (fast, 1), (slow, 5)]
    assert lower_bound_s([10, 10, 9.0], three) == pytest.approx(29 / (2 / 8 + 1 / 24))
    assert lower_bound_s([], []) == 0.0


def test_the_bound_counts_shared_slots_once_and_what_every_job_costs() -> None:
    shared = DeviceSpeed(0, {1: 8.0, 2: 13.5})
    assert lower_bound_s([1.0] * 6, [(shared, 2)]) == pytest.approx(40.5)
    fixed = DeviceSpeed(2.0, {1: 0.1})
    assert lower_bound_s([10.0] * 6, [(fixed, 1)]) == pytest.approx(18)
