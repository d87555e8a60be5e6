"""What a run learns of its devices, and what it tells of them."""

from __future__ import annotations

import dataclasses
import threading
import time
from pathlib import Path

import pytest
from test_runner import House, done, planned
from test_status import filled, shown, summed_up

from audio_batch.dispatch import Pace
from audio_batch.outcome import DeviceShare, Outcome, RunResult, Stage, StageRecord
from audio_batch.pipeline import Job
from audio_batch.plan import Planned
from audio_batch.storage import PublishedFile

STAGES = {Stage.TRANSCRIBE: "f", Stage.DIARIZE: "g"}
KEPT = PublishedFile("transcribe", "stages/x", 1, "0")


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path / "journal.sqlite3")


def heard(asset_id: str) -> StageRecord:
    return StageRecord(asset_id, Stage.TRANSCRIBE, "1:1", "f", KEPT, "cpu", 0.1)


def of_two_stages(house: House, todo: list[Planned]) -> Pace:
    """Do assets whose words are kept while their speakers are still to come."""
    pace = Pace()

    def work(job: Job) -> Outcome:
        house.tell.stage_done(heard(job.asset.id))
        time.sleep(0.01)
        return dataclasses.replace(done(job), timings_s={"transcribe": 0.25, "diarize": 0.5})

    result = house.run(len(todo), work, todo=todo, pace=pace)
    assert result.done == len(todo)
    return pace


def test_what_is_done_in_two_stages_teaches_how_fast_its_device_is(house: House) -> None:
    pace = of_two_stages(house, [dataclasses.replace(one, stages=STAGES) for one in planned(3)])
    learnt = pace.speeds.learnt("cpu")
    assert learnt is not None and learnt.jobs == 3
    assert pace.stages == {"cpu": {"transcribe": (0.75, 3.0), "diarize": (1.5, 3.0)}}
    # And what an attempt is to be given: --timeout, --until, copies of what runs late.
    assert house.runner is not None
    assert house.runner._endings.expectation.expected_s("cpu", 1.0) is not None


def test_an_asset_whose_words_were_there_before_teaches_nothing(house: House) -> None:
    kept = {Stage.TRANSCRIBE: heard("a0")}
    pace = of_two_stages(
        house, [dataclasses.replace(one, stages=STAGES, kept=kept) for one in planned(1)]
    )
    assert pace.speeds.learnt("cpu") is None and not pace.stages
    assert house.runner is not None
    assert house.runner._endings.expectation.expected_s("cpu", 1.0) is None


def test_a_device_is_busy_once_however_many_assets_are_at_work_there(house: House) -> None:
    together = threading.Barrier(2)

    def work(job: Job) -> Outcome:
        together.wait(30)
        time.sleep(0.3)
        return done(job)

    result = house.run(2, work)
    share = result.shares["cpu"]
    assert (share.assets, share.audio_s) == (2, 2.0)
    assert 0.3 <= share.busy_s <= result.wall_s


def test_the_figures_of_a_device_are_told(tmp_path: Path) -> None:
    shares = {"cuda:0": DeviceShare(5, 80.0, 20.0), "cuda:1": DeviceShare(1, 0.0, 0.0)}
    one = summed_up(
        filled(tmp_path / "out", "sound"), 1, result=RunResult(wall_s=40, shares=shares)
    )
    assert one.to_json()["devices"] == {
        "cuda:0": {"assets": 5, "audio_s": 80.0, "busy_s": 20.0, "busy_share": 0.5, "rtfx": 4.0},
        "cuda:1": {"assets": 1, "audio_s": 0.0, "busy_s": 0.0, "busy_share": None, "rtfx": None},
    }
    table = shown(one)
    assert "5 assets, 1:20 of audio, 50 % busy, RTFx 4.0" in table
    assert "1 assets, 0:00 of audio " in table
