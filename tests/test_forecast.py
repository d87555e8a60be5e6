"""What is said before a run: slots that fit, what limits them, settings, and the finish."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence

import pytest

from audio_batch.forecast import (
    LEVELS,
    DeviceForecast,
    Forecast,
    Host,
    Known,
    Work,
    foresee,
)
from audio_batch.gpu.devices import CPU, Device
from audio_batch.inventory import DeviceFacts
from audio_batch.ladder import Rung
from audio_batch.learnt import Learnt, SpeedKey
from audio_batch.models import ModelReference, demo_path, describe
from audio_batch.needs import (
    FEED_CORE_S,
    DeviceNeed,
    assumed_per_audio_s,
    device_need,
    size_by_name,
    size_of_files,
    slots_in_vram,
)
from audio_batch.remembered import Experience, Key
from audio_batch.schedule.simulation import SimulatedDevice, SimulatedJob, simulate
from audio_batch.schedule.speeds import DeviceSpeed

GB = 10**9
HOST = Host(cores=16, free_bytes=128 * GB)
TABLE_BYTES = {"tiny": 0.5, "base": 0.8, "small": 1.5, "medium": 2.5, "large": 5.0}


def gpu(number: int, *, free_gb: float | None = 20.0, core_hz: float | None = 1e13) -> DeviceFacts:
    device = Device(f"cuda:{number}", "cuda", number, f"GPU-{number}", "RTX 3090", (8, 6))
    free = None if free_gb is None else int(free_gb * GB)
    return DeviceFacts(device, 24 * GB, free, 0.0, None, core_hz)


def cpu(free_gb: float = 20.0) -> DeviceFacts:
    return DeviceFacts(CPU, 32 * GB, int(free_gb * GB), 0.0)


def work(
    durations_s: Sequence[float | None] = (600.0,) * 6, *, model: str = "large-v3", **more: object
) -> Work:
    size = size_by_name(model)
    asked = Work(size, "float16", None, ("transcribe",), tuple(durations_s))
    return dataclasses.replace(asked, **more)  # type: ignore[arg-type]


def learnt(
    device: str,
    per_audio_s: Mapping[int, float],
    *,
    fixed_s: float = 0.0,
    batch_size: int | None = None,
    slots: int = 1,
) -> Learnt:
    return Learnt.of(
        SpeedKey(device, "abc", "float16", batch_size, ("transcribe",), slots),
        DeviceSpeed(fixed_s, per_audio_s, 9),
        stage_per_audio_s={},
        device_name="RTX 3090",
        model_name="large-v3",
    )


def experience(slots: int) -> Experience:
    key = Key("GPU-0", "abc", "float16", False)
    return Experience(key, Rung(None, slots, "float16"), "large-v3", time.time(), "1", None, None)


def only(forecast: Forecast) -> DeviceForecast:
    (device,) = forecast.devices
    return device


# -- memory --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("tiny", "tiny"),
        ("base.en", "base"),
        ("Systran/faster-whisper-small", "small"),
        ("medium", "medium"),
        ("large-v3@0123456", "large"),
        ("large-v3-turbo", "medium"),
        ("distil-large-v3.5", "medium"),
        ("distil-small.en", "small"),
        ("owner/something-else", "large"),
    ],
)
def test_a_model_that_is_not_here_has_the_usual_size(name: str, row: str) -> None:
    found = size_by_name(name)
    assert found.device_bytes == TABLE_BYTES[row] * GB
    assert found.source == f"the usual size of {row}"


def test_a_model_that_is_here_has_the_size_of_its_file() -> None:
    demo = describe("demo", demo_path())
    assert size_of_files(demo).parameters == demo.size_bytes / 2
    large = ModelReference("x", demo.path, "abc", size_bytes=3_100_000_000)
    assert size_of_files(large).device_bytes == pytest.approx(3.7 * GB)


def test_the_slots_of_a_device_share_one_model() -> None:
    need = DeviceNeed(model_bytes=4 * GB, slot_bytes=1 * GB)
    # 1.15 * (4 + n) + 0.5 GB
    assert [slots_in_vram(gb * GB, need) for gb in (6.2, 6.3, 7.3, 7.4, 24)] == [0, 1, 1, 2, 16]
    apart = DeviceNeed(5 * GB, 5 * GB)
    assert slots_in_vram(24 * GB, apart) < slots_in_vram(24 * GB, need)


def test_smaller_numbers_and_batches_and_fewer_stages_take_less() -> None:
    size = size_by_name("large-v3")

    def taken(compute_type: str = "float16", batch: int = 16, *stages: str) -> float:
        need = device_need(size, compute_type=compute_type, batch_size=batch, stages=stages)
        return need.model_bytes + need.slot_bytes

    assert taken("int8_float16") < taken() < taken("float32")
    assert taken(batch=8) < taken() < taken("float16", 16, "diarize")


# -- slots and what limits them -------------------------------------------------------------------


def test_each_resource_may_be_the_one_that_is_short() -> None:
    def limited_by(free_gb: float, host: Host) -> str:
        return only(foresee(work(), [gpu(0, free_gb=free_gb)], {}, host)).limited_by

    assert limited_by(12, HOST) == "VRAM"
    assert limited_by(80, Host(cores=16, free_bytes=11 * GB)) == "RAM"
    assert limited_by(80, Host(cores=1, free_bytes=128 * GB)) == "CPU"


def test_what_ran_out_of_memory_once_is_not_tried_again() -> None:
    facts = [gpu(0, free_gb=80)]
    roomy = only(foresee(work(), facts, {}, HOST))
    assert roomy.fits["VRAM"] > 1 and not roomy.measured_memory
    assert roomy.slots == LEVELS["balanced"]
    burnt = only(foresee(work(), facts, {"cuda:0": Known(experience=experience(1))}, HOST))
    assert burnt.fits["VRAM"] == 1 and burnt.measured_memory
    assert burnt.slots == 1 and set(burnt.levels.values()) == {1}


def test_memory_that_nobody_reports_limits_nothing() -> None:
    device = only(foresee(work(), [gpu(0, free_gb=None)], {}, HOST))
    assert "VRAM" not in device.fits and device.slots == LEVELS["balanced"]


def test_more_is_dared_step_by_step_and_never_more_than_fits() -> None:
    forecast = foresee(work(), [gpu(0, free_gb=80), gpu(1, free_gb=13)], {}, HOST)
    assert forecast.devices[1].fits["VRAM"] == 1
    assert {level: forecast.max_per_gpu(level) for level in LEVELS} == {
        "conservative": "1,1",
        "balanced": "2,1",
        "aggressive": "4,1",
    }
    assert [forecast.threads(level) for level in LEVELS] == [2, 3, 5]


def test_what_was_asked_for_is_what_is_reckoned_with() -> None:
    device = only(foresee(work(), [gpu(0)], {}, HOST, caps={"cuda:0": 3}))
    assert device.slots == 3 and set(device.speed.per_audio_s) == {1, 2, 3}


def test_a_small_gpu_is_reckoned_with_the_smaller_type_that_auto_gives_it() -> None:
    asked = work(model="medium", compute_type="auto")
    small, large = (
        foresee(asked, [gpu(0, free_gb=free)], {}, HOST).devices[0].fits["VRAM"]
        for free in (9.9, 10.1)
    )
    assert small > large >= 1


# -- speeds and the finish ------------------------------------------------------------------------


def test_the_measurements_of_two_unequal_gpus_give_the_schedule_they_should() -> None:
    """Six files of ten minutes, 8 s and 24 s each: 40 s can be reached, first come needs 48."""
    speeds = {"cuda:0": {1: 8 / 600}, "cuda:1": {1: 24 / 600}}
    known = {id: Known(learnt(id, per_audio_s)) for id, per_audio_s in speeds.items()}
    forecast = foresee(work(), [gpu(0), gpu(1)], known, HOST, caps={"cuda:0": 1, "cuda:1": 1})
    assert forecast.basis == "learnt"
    assert forecast.audio_s == 3600
    assert forecast.finish_s == {
        "earliest-finish": pytest.approx(40),
        "least-loaded": pytest.approx(48),
        "first-come": pytest.approx(48),
    }
    assert forecast.bound_s == pytest.approx(36)


def test_what_is_read_ahead_counts_as_it_did_in_earlier_runs() -> None:
    """One slot and two read ahead, which fill its batches: so was the speed learnt."""
    known = {"cpu": Known(learnt("cpu", {2: 0.04, 3: 0.03}, slots=1))}
    device = only(foresee(work((100.0,) * 300), [cpu()], known, HOST, caps={"cpu": 1}))
    assert (device.slots, device.at_work) == (1, 3)
    assert device.rtfx == pytest.approx(100)
    forecast = foresee(work((100.0,) * 300), [cpu()], known, HOST, caps={"cpu": 1})
    assert forecast.finish_s["first-come"] == pytest.approx(300)


def test_an_unknown_gpu_is_compared_with_a_known_one_by_cores_and_clock() -> None:
    known = {"cuda:0": Known(learnt("GPU-0", {1: 0.02}))}
    facts = [gpu(0, core_hz=2e13), gpu(1, core_hz=5e12)]
    measured, compared = foresee(work(), facts, known, HOST).devices
    assert (measured.basis, compared.basis) == ("learnt", "compared")
    assert compared.speed.per_audio_s[1] == pytest.approx(4 * 0.02)


def test_without_any_measurement_it_is_called_a_guess() -> None:
    fast, slow = foresee(work(), [gpu(0, core_hz=2e13), gpu(1, core_hz=1e12)], {}, HOST).devices
    assert fast.basis == slow.basis == "assumed"
    assert slow.speed.per_audio_s[1] == pytest.approx(20 * fast.speed.per_audio_s[1])
    assert (fast.speed.jobs, slow.speed.jobs) == (0, 0)


def test_guesses_are_near_what_was_published() -> None:
    def rtfx(model: str, *stages: str, **more: float | None) -> float:
        size = size_by_name(model)
        hz = more.get("hz")
        seconds = assumed_per_audio_s(
            size, ("transcribe", *stages), on_cpu=hz is None, cores=2, peak_core_hz=hz
        )
        return 1 / seconds

    assert 1 < rtfx("large-v3") < 3
    assert 9 < rtfx("small") < 14
    assert 30 < rtfx("large-v2", hz=6144 * 1.77e9) < 60
    assert rtfx("tiny", hz=1e15) == pytest.approx(2 / FEED_CORE_S)


def test_the_host_cannot_be_outrun() -> None:
    known = {"cuda:0": Known(learnt("GPU-0", {1: 1e-6, 2: 1e-6}))}
    forecast = foresee(work((3600.0,) * 10), [gpu(0)], known, Host(2, 64 * GB))
    assert forecast.finish_s["earliest-finish"] == pytest.approx(10 * 21 / 2)
    assert forecast.bound_s == pytest.approx(10 * 21 / 2)


def test_unknown_lengths_are_counted_and_taken_for_the_median() -> None:
    known = {"cpu": Known(learnt("cpu", {1: 0.1}))}
    forecast = foresee(work((100.0, None, 300.0, 200.0)), [cpu()], known, HOST, caps={"cpu": 1})
    assert (forecast.unknown, forecast.audio_s) == (1, 800)
    assert forecast.finish_s["first-come"] == pytest.approx(80)
    nothing = foresee(work((None, None)), [cpu()], known, HOST)
    assert nothing.audio_s is None and nothing.bound_s is None
    assert set(nothing.finish_s.values()) == {None}


def test_the_users_order_is_kept() -> None:
    """The long one last, on one slow and one fast device: no schedule can mend that order."""
    speeds = {"cuda:0": {1: 0.01}, "cuda:1": {1: 0.01}}
    known = {id: Known(learnt(id, per_audio_s)) for id, per_audio_s in speeds.items()}
    lengths = (1000.0,) * 6 + (6000.0,)
    caps = {"cuda:0": 1, "cuda:1": 1}
    free = foresee(work(lengths), [gpu(0), gpu(1)], known, HOST, caps=caps)
    kept = foresee(work(lengths, longest_first=False), [gpu(0), gpu(1)], known, HOST, caps=caps)
    assert free.finish_s["earliest-finish"] == pytest.approx(60)
    assert kept.finish_s["earliest-finish"] == pytest.approx(90)


@pytest.mark.parametrize("long_s", [0.0, 60_000.0])
def test_a_manifest_too_long_to_simulate_is_told_from_a_shorter_one(long_s: float) -> None:
    """With contention (two at once are slower than one by one) and a long recording at the end."""
    speed = {1: 0.01, 2: 0.022}
    known = {f"cuda:{n}": Known(learnt(f"GPU-{n}", speed, fixed_s=1.0, slots=2)) for n in range(2)}
    caps = {"cuda:0": 2, "cuda:1": 2}
    lengths = [30.0 + (number * 7919) % 600 for number in range(9000)]
    lengths += [long_s] if long_s else []
    forecast = foresee(work(lengths), [gpu(0), gpu(1)], known, HOST, caps=caps)
    devices = [SimulatedDevice(id, 2, DeviceSpeed(1.0, speed)) for id in caps]
    jobs = [SimulatedJob(str(number), duration_s) for number, duration_s in enumerate(lengths)]
    whole = simulate(jobs, devices, "first-come")
    assert whole.ratio > 1.05
    assert forecast.finish_s["first-come"] == pytest.approx(whole.makespan_s, rel=0.01)
    assert forecast.bound_s == pytest.approx(whole.bound_s)
