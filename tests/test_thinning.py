"""What a log tells of one by one, and what it counts."""

from __future__ import annotations

import logging
import time

import pytest

from audio_batch import events
from audio_batch.errors import ErrorKind
from audio_batch.outcome import Outcome, State
from audio_batch.reporters import LogReporter
from audio_batch.thinning import AT_FIRST, MOST_A_S, OneByOne


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_a_small_run_is_told_in_full_however_fast() -> None:
    told = OneByOne(Clock())
    keys = [f"a{n}" for n in range(AT_FIRST)]
    assert all(told.begins(key) for key in keys)
    assert all(told.moves(key) for key in keys)
    assert all(told.ends(key, plain=True) for key in keys)
    assert told.left_out(last=True) is None


def test_of_a_flood_a_share_is_told_and_the_rest_counted() -> None:
    clock = Clock()
    told = OneByOne(clock)
    shown = counted = 0
    for n in range(20_000):  # a thousand a second
        clock.now_s = n / 1000
        found = told.left_out()
        counted += found[0] if found else 0
        begun = told.begins(f"a{n}")
        assert told.moves(f"a{n}") == begun
        assert told.ends(f"a{n}", plain=True) == begun
        shown += begun
    rest = told.left_out(last=True)
    assert rest is not None and shown + counted + rest[0] == 20_000
    assert shown == pytest.approx(AT_FIRST + 20 * MOST_A_S, abs=2)


def test_what_went_wrong_is_told_though_its_beginning_was_not() -> None:
    told = OneByOne(Clock())
    while told.begins("many"):
        pass
    assert not told.begins("bad")
    assert told.ends("bad", plain=False)
    assert not told.ends("good", plain=True)
    assert told.left_out(last=True) == (1, 0.0)


def test_the_log_of_a_fast_run_names_every_failure(caplog: pytest.LogCaptureFixture) -> None:
    reporter, begun_s = LogReporter(), time.monotonic()
    with caplog.at_level(logging.INFO, logger="audio_batch.run"):
        for n in range(3000):
            name = f"asset-{n}"
            reporter.handle(
                events.AssetStarted(name, name, n + 1, 3000, 1, "cpu", "Worker-1", "status", None)
            )
            outcome = Outcome(name, State.DONE, "f", "cpu")
            if n % 100 == 99:
                outcome = Outcome(
                    name, State.FAILED, "f", "cpu", error_kind=ErrorKind.MODEL, error_text="no"
                )
            reporter.handle(events.AssetFinished(name, n + 1, 3000, "Worker-1", outcome, 0.1))
        reporter.close()
    lines = [record.getMessage() for record in caplog.records]
    assert sum("Failed: asset-" in line for line in lines) == 30
    done = sum("] Done: asset-" in line for line in lines)
    rest = sum(int(line.split()[0]) for line in lines if "more done in" in line)
    assert AT_FIRST - 3 <= done <= AT_FIRST + 1 + MOST_A_S * (time.monotonic() - begun_s)
    assert done + rest == 2970
    begun = {line.split()[-1] for line in lines if "Processing:" in line}
    ended = {line.split("Done: ")[-1] for line in lines if "] Done:" in line}
    assert ended <= begun
