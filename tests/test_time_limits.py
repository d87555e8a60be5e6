"""Durations, times of day, the run's time limit, and the arithmetic of the watchdog."""

from __future__ import annotations

import math
import time
from datetime import datetime
from datetime import time as ClockTime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audio_batch.errors import UsageError
from audio_batch.time_limits import (
    Clocks,
    TimeLimit,
    elapsed_s,
    fits,
    next_occurrence_s,
    parse_clock,
    parse_duration_s,
)
from audio_batch.watchdog import Expectation, Ticker, Watch

try:
    NEW_YORK = ZoneInfo("America/New_York")
except ZoneInfoNotFoundError:
    pytest.skip("needs a time zone database (Windows: tzdata)", allow_module_level=True)
"""Its clocks: 2026-03-08 02:00 became 03:00, 2026-11-01 02:00 became 01:00."""


def moment(text: str, *, fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=NEW_YORK, fold=fold).timestamp()


# ---- durations and times of day


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("90s", 90),
        ("30m", 1800),
        ("6h", 21600),
        ("1h30m", 5400),
        ("1h30m15s", 5415),
        ("1.5h", 5400),
        (" 6H ", 21600),
        ("0.5", 0.5),
    ],
)
def test_a_duration_is_read(text: str, seconds: float) -> None:
    assert parse_duration_s(text, "--max-runtime") == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "h",
        "-5m",
        "+5m",
        "5 m",
        "30m1h",
        "6d",
        "nan",
        "inf",
        "1e3",
        "07:00",
        "9999999h",
        "٦h",
        "1.h",
        "1h30",  # half an hour, or half a minute?
    ],
)
def test_what_is_no_duration_names_the_flag_and_the_remedy(text: str) -> None:
    with pytest.raises(UsageError, match=r"--max-runtime .* is not a length of time.* 1h30m"):
        parse_duration_s(text, "--max-runtime")


@pytest.mark.parametrize("text", ["0", "0h", "0m0s", "0.0"])
def test_no_time_at_all_is_no_limit(text: str) -> None:
    with pytest.raises(UsageError, match=r"^--max-runtime .* must be more than 0\.$"):
        parse_duration_s(text, "--max-runtime")


@given(st.floats(0.001, 86400, allow_nan=False))
def test_any_number_of_seconds_is_read_as_itself(seconds: float) -> None:
    assert math.isclose(parse_duration_s(f"{seconds:.6f}s", "-"), seconds, abs_tol=1e-6)


@pytest.mark.parametrize(
    ("text", "clock"),
    [
        ("07:00", ClockTime(7)),
        ("7:00", ClockTime(7)),
        ("07:00:30", ClockTime(7, 0, 30)),
        ("00:00", ClockTime(0)),
        (" 23:59 ", ClockTime(23, 59)),
    ],
)
def test_a_time_of_day_is_read(text: str, clock: ClockTime) -> None:
    assert parse_clock(text, "--until") == clock


@pytest.mark.parametrize("text", ["", "7", "24:00", "7:60", "07:00:60", "7am", "07.00", "-1:00"])
def test_what_is_no_time_of_day_names_the_flag_and_the_remedy(text: str) -> None:
    with pytest.raises(UsageError, match=r"--until .* is not a time of day.* 07:00"):
        parse_clock(text, "--until")


# ---- the next 07:00


@pytest.mark.parametrize(
    ("now", "clock", "expected"),
    [
        ("2026-11-12 22:30", "07:00", "2026-11-13 07:00"),
        ("2026-11-12 06:59:59", "07:00", "2026-11-12 07:00"),
        ("2026-11-12 07:00:00", "07:00", "2026-11-13 07:00"),
        ("2026-12-31 23:00", "00:30", "2027-01-01 00:30"),
        # Spring: this night has no 02:30; an hour and a half after 01:00 the clock shows 03:30.
        ("2026-03-08 01:00", "02:30", "2026-03-08 03:30"),
        ("2026-03-08 03:10", "02:30", "2026-03-08 03:30"),
        ("2026-03-08 03:30", "02:30", "2026-03-09 02:30"),
        ("2026-03-07 22:00", "07:00", "2026-03-08 07:00"),
    ],
)
def test_the_next_time_of_day(now: str, clock: str, expected: str) -> None:
    found = next_occurrence_s(parse_clock(clock, "-"), moment(now), NEW_YORK)
    assert found == moment(expected)


def test_a_night_with_a_change_of_clocks_has_an_hour_more_or_less() -> None:
    """From 22:00 to 07:00 it is nine hours, eight in spring and ten in autumn."""
    for evening, hours in (("2026-11-12", 9), ("2026-03-07", 8), ("2026-10-31", 10)):
        begun_s = moment(f"{evening} 22:00")
        assert next_occurrence_s(ClockTime(7), begun_s, NEW_YORK) - begun_s == hours * 3600


def test_in_autumn_a_time_that_comes_twice_is_met_twice() -> None:
    clock = ClockTime(1, 30)
    first = next_occurrence_s(clock, moment("2026-11-01 00:30"), NEW_YORK)
    assert first == moment("2026-11-01 01:30")
    second = next_occurrence_s(clock, first, NEW_YORK)
    assert second == moment("2026-11-01 01:30", fold=1) == first + 3600
    assert next_occurrence_s(clock, second, NEW_YORK) == moment("2026-11-02 01:30")


@given(
    st.floats(moment("2026-01-01"), moment("2027-01-01")),
    st.times(max_value=ClockTime(23, 59, 59)).map(lambda t: t.replace(microsecond=0)),
)
def test_the_next_time_of_day_is_ahead_and_within_a_day_and_an_hour(
    now_s: float, clock: ClockTime
) -> None:
    found = next_occurrence_s(clock, now_s, NEW_YORK)
    assert now_s < found <= now_s + 26 * 3600
    shown = datetime.fromtimestamp(found, NEW_YORK).time()
    assert shown == clock or clock.hour == 2


def test_this_machines_own_zone_is_the_default() -> None:
    now_s = time.time()
    found = next_occurrence_s(ClockTime(12), now_s)
    assert now_s < found <= now_s + 26 * 3600
    assert datetime.fromtimestamp(found).hour in (12, 13)


# ---- the limit of a run


def limit(until: str | None, max_runtime: str | None, begun: str = "2026-11-12 22:30") -> TimeLimit:
    made = TimeLimit.of_flags(until, max_runtime, Clocks(moment(begun), 1000.0))
    return TimeLimit(made.until, made.max_runtime_s, made.begun, NEW_YORK)


def later(made: TimeLimit, elapsed: float, *, set_by: float = 0.0) -> Clocks:
    """So many seconds after the beginning, with the wall clock set by so many."""
    return Clocks(made.begun.wall_s + elapsed + set_by, made.begun.elapsed_s + elapsed)


def test_without_flags_there_is_no_limit() -> None:
    made = limit(None, None)
    assert made.left_s(later(made, 1e6)) is None
    assert made.ends_at() is None


def test_the_earlier_of_two_limits_counts() -> None:
    made = limit("07:00", "6h")
    assert made.left_s(later(made, 0)) == 6 * 3600
    assert made.ends_at(later(made, 3600)) == "Friday 04:30"
    assert made.ends_at(later(made, 2 * 3600)) == "04:30"
    made = limit("07:00", "10h")
    assert made.left_s(later(made, 3600)) == 7.5 * 3600
    assert made.left_s(later(made, 9 * 3600)) == -1800
    assert made.ends_at(later(made, 3600)) == "Friday 07:00"


def test_a_limit_of_another_day_says_which() -> None:
    begun = later(limit("22:30", None), 0)  # the minute that the clock shows is tomorrow's
    assert limit("22:30", None).ends_at(begun) == "Friday 22:30"
    assert limit(None, "144h").ends_at(begun) == "Wednesday 22:30"
    assert limit(None, "168h").ends_at(begun) == "2026-11-19 22:30"


def test_a_clock_that_is_set_moves_until_but_not_max_runtime() -> None:
    both = limit(None, "6h")
    assert both.left_s(later(both, 3600, set_by=7200)) == 5 * 3600
    made = limit("07:00", None)
    # Set forward by two hours at 23:30: it is 01:30, and 07:00 is that much nearer.
    assert made.left_s(later(made, 3600, set_by=7200)) == 5.5 * 3600
    assert made.left_s(later(made, 3600, set_by=-7200)) == 9.5 * 3600


def test_a_machine_that_believed_it_was_1970_still_stops_at_the_next_seven() -> None:
    made = limit("07:00", None, begun="1970-01-02 05:00")
    years_s = moment("2026-11-12 22:30") - made.begun.wall_s
    # After ten minutes the network sets the clock.
    assert made.left_s(later(made, 600, set_by=years_s)) == 8.5 * 3600 - 600
    assert made.left_s(later(made, 9 * 3600, set_by=years_s)) == -1800


def test_fine_tuning_of_the_clock_is_no_new_beginning() -> None:
    """A run that began a second after 07:00 is not over when its clock is put back by two."""
    made = limit("07:00", None, begun="2026-11-12 07:00:01")
    left = made.left_s(later(made, 600, set_by=-2))
    assert left is not None
    assert 23 * 3600 < left < 24 * 3600


def test_the_clocks_are_real() -> None:
    begun = Clocks.read()
    made = TimeLimit.of_flags(None, "1h", begun)
    time.sleep(0.02)
    left = made.left_s()
    assert left is not None
    assert 3000 < left < 3600 - 0.02 + 0.001
    assert elapsed_s() >= begun.elapsed_s + 0.02


@pytest.mark.parametrize(
    ("estimate_s", "left_s", "fit"),
    [
        (None, None, True),
        (1e9, None, True),
        (None, 1.0, True),
        (None, 0.0, False),
        (10.0, 10.0, True),
        (10.1, 10.0, False),
        (0.0, -1.0, False),
    ],
)
def test_nothing_begins_that_would_not_be_done(
    estimate_s: float | None, left_s: float | None, fit: bool
) -> None:
    assert fits(estimate_s, left_s) is fit


# ---- what a device is expected to need


def test_nothing_is_expected_before_the_first_result() -> None:
    learnt = Expectation()
    assert learnt.expected_s("cuda:0", 60) is None
    learnt.observe("cuda:0", 600, 60)
    assert learnt.expected_s("cuda:1", 600) is None
    assert learnt.expected_s("cuda:0", None) is None
    assert learnt.expected_s("cuda:0", 600) == pytest.approx(60)
    assert learnt.expected_s("cuda:0", 3600) == pytest.approx(360)


def test_the_last_nine_count_and_one_slow_one_does_not() -> None:
    learnt = Expectation()
    for _ in range(20):
        learnt.observe("cpu", 600, 6000)
    for _ in range(8):
        learnt.observe("cpu", 600, 300)
    learnt.observe("cpu", 600, 90_000)
    assert learnt.expected_s("cpu", 600) == pytest.approx(300)


def test_short_clips_do_not_make_an_hour_look_like_a_day() -> None:
    """A window of 30 s in 3 s, whatever lies in it: an hour takes six minutes."""
    learnt = Expectation()
    for duration_s in (1, 2, 3, 2, 1, 4, 5, 2, 1):
        learnt.observe("cuda:0", duration_s, 3)
    assert learnt.expected_s("cuda:0", 3600) == pytest.approx(360)
    assert learnt.expected_s("cuda:0", 2) == pytest.approx(3)


def test_a_fixed_overhead_is_told_from_the_speed() -> None:
    learnt = Expectation()
    for duration_s in (60, 60, 60, 60, 3600, 3600):
        learnt.observe("cuda:0", duration_s, 5 + 0.01 * duration_s)
    assert learnt.expected_s("cuda:0", 7200) == pytest.approx(77, rel=0.15)
    assert learnt.expected_s("cuda:0", 60) == pytest.approx(5.6, rel=0.15)


@given(st.lists(st.tuples(st.floats(0, 1e5), st.floats(0, 1e5)), min_size=1, max_size=30))
def test_what_is_expected_is_sane_and_grows_with_the_length(
    seen: list[tuple[float, float]],
) -> None:
    learnt = Expectation()
    for duration_s, wall_s in seen:
        learnt.observe("x", duration_s, wall_s)
    short, long = learnt.expected_s("x", 10), learnt.expected_s("x", 10_000)
    assert short is not None
    assert long is not None
    assert 0 <= short <= long < math.inf


# ---- the watchdog


def test_the_budget_by_default() -> None:
    watch = Watch.of_flags(None, None)
    assert watch.stall_s == 20 * 60
    assert watch.budget_s(3600, 600, on_cuda=True) == 4800
    assert watch.budget_s(10, 5, on_cuda=True) == 600
    assert watch.budget_s(3600, None, on_cuda=True) == 1800 + 4 * 3600
    assert watch.budget_s(3600, None, on_cuda=False) == 1800 + 60 * 3600
    assert watch.budget_s(None, None, on_cuda=True) == watch.budget_s(3600, None, on_cuda=True)


@pytest.mark.parametrize(
    ("flag", "duration_s", "budget_s"),
    [
        ("90m", 3600, 5400),
        ("2h", None, 7200),
        ("4x", 3600, 14400),
        ("1.5 X", 3600, 5400),
        ("4x", 2, 60),
        ("4x", None, 14400),
        ("none", 3600, None),
        ("None", None, None),
    ],
)
def test_the_budget_by_flag(flag: str, duration_s: float | None, budget_s: float | None) -> None:
    watch = Watch.of_flags(flag, None)
    assert watch.budget_s(duration_s, 1.0, on_cuda=False) == budget_s


@pytest.mark.parametrize("flag", ["x", "0x", "4y", "", "0", "-1h", "x4"])
def test_what_is_no_timeout_is_refused(flag: str) -> None:
    with pytest.raises(UsageError, match="--timeout"):
        Watch.of_flags(flag, None)


def test_what_is_no_stall_timeout_is_refused() -> None:
    with pytest.raises(UsageError, match="--stall-timeout"):
        Watch.of_flags(None, "4x")


def test_an_attempt_is_over_its_time_or_stands_still() -> None:
    watch = Watch.of_flags("10m", "1m")
    assert watch.verdict(0, 59, 60, 600) is None
    assert watch.verdict(0, 0, 60, 600) is None
    assert watch.verdict(0, 0, 61, 600) == "stalled"
    assert watch.verdict(0, 600, 601, 600) == "timeout"
    assert watch.verdict(0, 599, 601, None) is None
    assert Watch.of_flags("none", "none").verdict(0, 0, 1e9, None) is None


def test_sleep_does_not_count_against_an_attempt() -> None:
    watch, ticker = Watch.of_flags("10m", "1m"), Ticker()
    now_s = 1000.0
    begun_s = last_s = ticker.awake_s(now_s)
    for _ in range(60):
        now_s += 0.5
        assert watch.verdict(begun_s, last_s, ticker.awake_s(now_s), 600) is None
    now_s += 8 * 3600
    assert ticker.tick(now_s) == 8 * 3600
    assert watch.verdict(begun_s, last_s, ticker.awake_s(now_s), 600) is None
    for _ in range(58):
        now_s += 0.5
        assert watch.verdict(begun_s, last_s, ticker.awake_s(now_s), 600) is None
    now_s += 2
    assert watch.verdict(begun_s, last_s, ticker.awake_s(now_s), 600) == "stalled"


def test_a_loop_that_is_late_by_seconds_did_not_sleep() -> None:
    ticker = Ticker()
    assert ticker.tick(5.0) == 0
    assert ticker.tick(25.0) == 0
    assert ticker.awake_s(26.0) == 26.0
    assert ticker.slept_s == 0
