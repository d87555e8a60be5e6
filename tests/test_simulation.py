"""Simulated runs: the makespans that the policies are held to, and `audio-batch simulate`."""

from __future__ import annotations

import json
import math
import random
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from program import Answer, write_manifest

from audio_batch.errors import UsageError
from audio_batch.schedule.described import parse_device
from audio_batch.schedule.simulation import (
    EARLIEST_FINISH,
    POLICY_NAMES,
    SimulatedDevice,
    SimulatedJob,
    Timeline,
    longest_first,
    simulate,
)
from audio_batch.schedule.speeds import DeviceSpeed, Speeds
from audio_batch.schedule.trials import tried


def devices(*per_audio_s: float, slots: int = 1) -> list[SimulatedDevice]:
    return [
        SimulatedDevice(f"g{number}", slots, DeviceSpeed(0.0, {1: s}))
        for number, s in enumerate(per_audio_s)
    ]


def jobs(*durations_s: float) -> list[SimulatedJob]:
    return [SimulatedJob(str(number), d) for number, d in enumerate(durations_s)]


def run(policy: str, work: list[SimulatedJob], on: list[SimulatedDevice]) -> Timeline:
    return simulate(longest_first(work) if policy == EARLIEST_FINISH else work, on, policy)


# -- the table ---------------------------------------------------------------------------------


@pytest.mark.parametrize("speeds", [(8, 24), (24, 8)])
@pytest.mark.parametrize(
    ("count", "slots", "earliest_finish_s", "others_s"),
    [(6, 1, 40, 48), (6, 3, 40, 72), (20, 1, 120, 120), (20, 2, 120, 144)],
)
def test_equal_files_on_a_fast_and_a_slow_gpu(
    speeds: tuple[float, float], count: int, slots: int, earliest_finish_s: float, others_s: float
) -> None:
    on = devices(*speeds, slots=slots)
    work = jobs(*[1.0] * count)
    assert run(EARLIEST_FINISH, work, on).makespan_s == pytest.approx(earliest_finish_s)
    for policy in ("least-loaded", "first-come"):
        assert run(policy, work, on).makespan_s == pytest.approx(others_s)


def test_log_normal_files_on_equal_gpus_come_close_to_the_bound() -> None:
    drawn = random.Random(0)
    work = jobs(*(600.0 * math.exp(drawn.gauss(0, 1)) for _ in range(500)))
    on = devices(*[1 / 60] * 8)
    assert run(EARLIEST_FINISH, work, on).ratio <= 1.005
    assert run("first-come", work, on).ratio > 1.02
    noisy = tried(EARLIEST_FINISH, longest_first(work), on, noise=0.2, repeats=5)
    assert noisy.ratio <= 1.03
    cold = tried(EARLIEST_FINISH, longest_first(work), on, noise=0.2, repeats=3, cold=True)
    assert cold.ratio <= 1.04


@pytest.mark.parametrize("place", [0, 100, 199])
def test_one_long_file_on_six_unequal_gpus(place: int) -> None:
    on = devices(8, 8, 8, 8, 24, 24)
    work = jobs(*[1.0] * place, 5.0, *[1.0] * (199 - place))
    ours = run(EARLIEST_FINISH, work, on)
    assert ours.makespan_s == pytest.approx(352)
    assert ours.bound_s == pytest.approx(349.7, abs=0.1)
    theirs = run("first-come", work, on).makespan_s
    assert theirs == pytest.approx(376 if place == 199 else 360)
    assert run("least-loaded", work, on).makespan_s == pytest.approx(theirs)


def test_cold_the_speeds_are_learnt_and_little_is_lost() -> None:
    work = longest_first(jobs(*[1.0] * 100))
    on = devices(8, 24)
    cold = simulate(work, on, speeds=Speeds()).makespan_s
    assert simulate(work, on).makespan_s <= cold <= 1.05 * 600


# -- the simulation itself ----------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    speeds=st.lists(st.tuples(st.floats(0.01, 100), st.integers(1, 4)), min_size=1, max_size=4),
    durations_s=st.lists(st.floats(0, 10_000), max_size=25),
    fixed_s=st.floats(0, 5),
    policy=st.sampled_from(POLICY_NAMES),
    ahead=st.integers(0, 2),
    copies=st.booleans(),
    cold=st.booleans(),
)
def test_every_job_is_done_within_the_slots_and_none_beats_the_bound(
    speeds: list[tuple[float, int]],
    durations_s: list[float],
    fixed_s: float,
    policy: str,
    ahead: int,
    copies: bool,
    cold: bool,
) -> None:
    on = [
        SimulatedDevice(f"g{number}", slots, DeviceSpeed(fixed_s, {1: s}), ahead)
        for number, (s, slots) in enumerate(speeds)
    ]
    work = longest_first(jobs(*durations_s))
    learner = Speeds() if cold else None
    timeline = simulate(work, on, policy, copies=copies, speeds=learner)
    useful = [span for span in timeline.spans if span.useful]
    assert sorted(span.job for span in useful) == sorted(job.id for job in work)
    assert timeline.makespan_s >= timeline.bound_s * (1 - 1e-6)
    assert timeline.makespan_s == max((span.ended_s for span in useful), default=0.0)
    for device in on:
        mine = [span for span in timeline.spans if span.device == device.id]
        for moment in mine:
            at_once = sum(s.begun_s <= moment.begun_s < s.ended_s for s in mine)
            assert at_once <= device.slots
        assert 0.0 <= timeline.busy(device.id) <= 1.0 + 1e-6


def test_the_same_seed_gives_the_same_run_and_another_one_another() -> None:
    work, on = jobs(*[1.0] * 30), devices(8, 24)
    first, again, other = (simulate(work, on, noise=0.3, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first.makespan_s != other.makespan_s


def test_a_copy_overtakes_an_original_that_runs_late() -> None:
    """Nothing is known: the long job goes to the snail, the fast device is free long before."""
    on = devices(1, 50)
    work = jobs(*[1.0] * 6)
    without = simulate(work, on, speeds=Speeds())
    timeline = simulate(work, on, speeds=Speeds(), copies=True)
    assert without.makespan_s == pytest.approx(50)
    assert timeline.makespan_s < 10
    late = [span for span in timeline.spans if not span.useful]
    assert [span.device for span in late] == ["g1"]
    assert len([span for span in timeline.spans if span.useful]) == 6


def test_measured_speeds_of_slots_are_used_as_they_are() -> None:
    gpu = SimulatedDevice("g", 2, DeviceSpeed(0.0, {1: 8.0, 2: 13.5}))
    assert simulate(jobs(*[1.0] * 6), [gpu]).makespan_s == pytest.approx(40.5)


# -- descriptions of devices ----------------------------------------------------------------------


def test_a_device_is_described_by_what_it_does_in_all_or_by_seconds_a_file() -> None:
    shared = parse_device("fast=2@40x")
    assert (shared.id, shared.slots) == ("fast", 2)
    assert shared.speed.cost_s(1, 400) == pytest.approx(10)
    assert shared.speed.cost_s(2, 400) == pytest.approx(20)
    gaining = parse_device("fast=2@40x/50x")
    assert gaining.speed.cost_s(2, 400) == pytest.approx(16)
    files = parse_device("old=1@8s/14s")
    assert [files.speed.cost_s(active, 1e6) for active in (1, 2)] == [8, 14]


@pytest.mark.parametrize(
    "text", ["fast", "fast=1", "fast=0@8s", "fast=1@8", "fast=1@8s/2x", "fast=1@0x", "=1@8s", ""]
)
def test_what_describes_no_device_is_said(text: str) -> None:
    with pytest.raises(UsageError, match="device"):
        parse_device(text)


# -- the command ----------------------------------------------------------------------------------


def test_a_manifest_is_tried_on_described_devices(
    cli: Callable[..., Answer], tmp_path: Path
) -> None:
    write_manifest(tmp_path, 6, duration_s=1.0)  # lengths are in the headers only
    answer = cli("simulate", "manifest.json", "--device", "a=1@1x", "--device", "b=1@24s", "--json")
    assert answer.code == 0, answer.err
    body = json.loads(answer.out)
    assert (body["assets"], body["unknown_lengths"]) == (6, 0)
    assert body["audio_s"] == pytest.approx(6.015)
    found = {policy["policy"]: policy for policy in body["policies"]}
    assert set(found) == set(POLICY_NAMES)
    assert found["earliest-finish"]["makespan_s"] == pytest.approx(6.015)
    assert found["earliest-finish"]["devices"]["b"]["assets"] == 0
    assert found["first-come"]["makespan_s"] == pytest.approx(24)
    table = cli("simulate", "manifest.json", "--device", "a=1@1x", "--noise", "0.2")
    assert table.code == 0 and "p95" in table.out and "earliest-finish" in table.out


def test_a_past_run_is_replayed_on_its_own_devices_and_on_others(
    cli: Callable[..., Answer], tmp_path: Path
) -> None:
    write_manifest(tmp_path, 8, duration_s=0.3)
    model = ("--engine", "null")
    done = cli("run", "manifest.json", *model, "-d", "cpu", "-o", "out", "--max-per-gpu", "2")
    assert done.code == 0, done.err
    as_if_two_at_a_time(tmp_path / "out", 10.0)
    body = json.loads(cli("simulate", "out", "--policy", "first-come", "--json").out)
    assert body["assets"] == 8
    (device,) = body["devices"]
    assert device["name"] == "cpu" and device["slots"] == 2
    (policy,) = body["policies"]
    assert body["took_s"] == pytest.approx(40.0)
    assert policy["makespan_s"] == pytest.approx(40.0, rel=0.05)
    other = json.loads(cli("simulate", "out", "--device", "x=1@2s", "--json").out)
    assert other["took_s"] is None
    assert all(policy["makespan_s"] == pytest.approx(16) for policy in other["policies"])


def as_if_two_at_a_time(out: Path, each_s: float) -> None:
    """Have the journal say that each took so long, whatever the machine was busy with."""
    with closing(sqlite3.connect(out / ".audio-batch/journal.sqlite3")) as db, db:
        ids = [row[0] for row in db.execute("SELECT asset_id FROM assets ORDER BY asset_id")]
        for number, asset_id in enumerate(ids):
            begun_s = 1e9 + number // 2 * each_s
            db.execute(
                "UPDATE assets SET started_at = ?, finished_at = ? WHERE asset_id = ?",
                (begun_s, begun_s + each_s, asset_id),
            )


def test_the_targets_are_shown(cli: Callable[..., Answer]) -> None:
    answer = cli("simulate", "--targets", "--repeats", "1", "--json")
    assert answer.code == 0, answer.err
    cases = {case["case"]: case for case in json.loads(answer.out)["cases"]}
    ours = {title: case["policies"]["earliest-finish"] for title, case in cases.items()}
    assert ours["6 equal files, 8 s + 24 s"]["makespan_s_max"] == 40
    assert ours["20 equal files, 8 s + 24 s"]["makespan_s_max"] == 120
    assert ours["500 log-normal files, 8 equal GPUs"]["ratio_max"] <= 1.03
    assert ours["200 files, one of 5x, 4 x 8 s + 2 x 24 s"]["makespan_s_max"] <= 356
    assert cases["6 equal files, 8 s + 24 s"]["measured"].startswith("49")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "manifest"),
        (("manifest.json",), "--device"),
        (("manifest.json", "--device", "fast"), "name=slots@speed"),
        (("manifest.json", "--device", "a=1@1x", "--policy", "best"), "earliest-finish"),
        (("manifest.json", "--targets"), "--targets"),
        (("audio",), "holds no journal"),
    ],
)
def test_what_cannot_be_simulated_is_said(
    cli: Callable[..., Answer], tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    write_manifest(tmp_path, 1)
    answer = cli("simulate", *arguments)
    assert answer.code == 2
    assert said in answer.err
    assert "Traceback" not in answer.err
