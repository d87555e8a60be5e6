"""The balancer under threads: caps, leases, cancellation, devices that go."""

from __future__ import annotations

import logging
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_gpus import FakeProbe, fake_gpu
from stub_nvml import environment, gpu

from audio_batch.errors import SetupError, UsageError
from audio_batch.gpu.balancer import Balancer, Lease
from audio_batch.gpu.devices import CPU, Device
from audio_batch.gpu.probe import Sampler
from audio_batch.gpu.snapshot import GpuSnapshot

GIB = 1024**3
SOON_S = 60.0  # a wait that ends this late has failed


def cuda(index: int) -> Device:
    snapshot = fake_gpu(index)
    return Device(
        f"cuda:{index}", "cuda", index, snapshot.uuid, snapshot.name, snapshot.compute_capability
    )


def caps(**by_number: int) -> dict[str, int]:
    return {f"cuda:{name[1:]}": cap for name, cap in by_number.items()}


@contextmanager
def sampled(*readings: list[GpuSnapshot], interval_s: float = 0.01) -> Iterator[Sampler]:
    with Sampler([lambda: FakeProbe(readings)], interval_s=interval_s) as sampler:
        yield sampler


def taken(balancer: Balancer, *excluded: str) -> Lease:
    """A slot, of which there must be one."""
    lease = balancer.try_lease(exclude=frozenset(excluded))
    assert lease is not None
    return lease


def test_sixteen_threads_never_exceed_a_cap_and_lose_nothing() -> None:
    devices = [cuda(0), cuda(1), cuda(2)]
    limits = caps(d0=3, d1=2, d2=1)
    readings = [[fake_gpu(n, utilization_pct=float(load)) for n in range(3)] for load in (9, 70)]
    lock = threading.Lock()
    running: set[tuple[str, int]] = set()
    seen: list[int] = []
    peaks = dict.fromkeys(limits, 0)
    problems: list[str] = []

    def work(number: int) -> None:
        dice = random.Random(number)
        while (lease := balancer.try_lease()) is None:
            pause.wait(dice.random() / 500)
        place = (lease.device.id, lease.slot)
        with lock:
            if place in running or not 0 <= lease.slot < limits[lease.device.id]:
                problems.append(f"{number} on {place}")
            running.add(place)
            first = len(seen) < sum(limits.values())
            here = sum(1 for device_id, _ in running if device_id == lease.device.id)
            peaks[lease.device.id] = max(peaks[lease.device.id], here)
            seen.append(number)
        if first:
            full.wait(SOON_S)
        pause.wait(dice.random() / 500)
        with lock:
            running.discard(place)
        lease.release()
        if dice.random() < 0.2:
            lease.release()

    pause, full = threading.Event(), threading.Barrier(sum(limits.values()))
    with sampled(*readings, interval_s=0.001) as sampler:
        balancer = Balancer(devices, limits, sampler)
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(work, range(500), timeout=2 * SOON_S))
    assert problems == []
    assert sorted(seen) == list(range(500))
    assert peaks == limits  # never more, and no slot left unused
    assert [load.active for load in balancer.loads()] == [0, 0, 0]


def test_devices_are_taken_out_one_by_one(caplog: pytest.LogCaptureFixture) -> None:
    balancer = Balancer([cuda(0), cuda(1)], caps(d0=2, d1=1))
    held = [taken(balancer), taken(balancer)]
    with caplog.at_level(logging.WARNING, logger="audio_batch.gpu"):
        balancer.take_out("cuda:0", "cuDNN died")
        balancer.take_out("cuda:0", "and died again")
        assert balancer.try_lease() is None  # cuda:0 has a free slot, and is out
        assert balancer.lease_on("cuda:0") is None
        balancer.take_out("cuda:1", "fell off the bus")
    with pytest.raises(SetupError) as caught:
        balancer.try_lease()
    assert "cuda:0 is out (cuDNN died); cuda:1 is out (fell off the bus)" in str(caught.value)
    assert [load.out_reason for load in balancer.loads()] == ["cuDNN died", "fell off the bus"]
    assert len(caplog.records) == 2
    for lease in held:
        lease.release()
    assert [load.active for load in balancer.loads()] == [0, 0]
    with pytest.raises(KeyError):
        balancer.take_out("cuda:9", "not ours")


def test_a_task_does_not_go_back_to_where_it_failed() -> None:
    balancer = Balancer([cuda(0), cuda(1)], caps(d0=2, d1=2))
    assert taken(balancer, "cuda:0").device.id == "cuda:1"
    assert balancer.try_lease(exclude=frozenset({"cuda:0", "cuda:1"})) is None


def test_a_device_that_loads_takes_no_tasks() -> None:
    balancer = Balancer([cuda(0)], {"cuda:0": 1})
    balancer.hold("cuda:0")
    assert balancer.try_lease() is None and balancer.lease_on("cuda:0") is None
    assert balancer.loads()[0].held
    balancer.resume("cuda:0")
    assert not balancer.loads()[0].held
    assert balancer.lease_on("cuda:0") is not None


def test_what_is_shown_is_what_is_now() -> None:
    probe = Steered(fake_gpu(0, utilization_pct=10.0))
    with Sampler([lambda: probe], interval_s=0.01) as sampler:
        balancer = Balancer([cuda(0)], {"cuda:0": 2}, sampler)
        while balancer.loads()[0].utilization_pct != 10.0:
            threading.Event().wait(0.005)
        lease = taken(balancer)
        assert (balancer.loads()[0].active, balancer.loads()[0].maximum) == (1, 2)
        balancer.set_maximum("cuda:0", 4)
        assert balancer.loads()[0].maximum == 4
        lease.release()
        assert balancer.loads()[0].active == 0
        probe.show(sampler, fake_gpu(0, utilization_pct=70.0))
        while balancer.loads()[0].utilization_pct != 70.0:
            threading.Event().wait(0.005)


def test_the_lowest_free_slot_is_given_again() -> None:
    balancer = Balancer([cuda(0)], {"cuda:0": 3})
    first, second, third = (taken(balancer) for _ in range(3))
    assert [first.slot, second.slot, third.slot] == [0, 1, 2]
    second.release()
    first.release()
    assert [taken(balancer).slot, taken(balancer).slot] == [0, 1]
    second.release()  # long over: it takes nothing from the one who has the slot now
    assert [load.active for load in balancer.loads()] == [3]


def test_tasks_go_where_the_score_is_lowest() -> None:
    gpus = [fake_gpu(0, utilization_pct=90.0), fake_gpu(1, utilization_pct=0.0)]
    with sampled(gpus) as sampler:
        balancer = Balancer([cuda(0), cuda(1)], caps(d0=4, d1=4), sampler)
        assert [taken(balancer).device.id for _ in range(5)] == ["cuda:1"] * 4 + ["cuda:0"]
    with sampled(gpus) as sampler:
        balancer = Balancer([cuda(0), cuda(1)], caps(d0=2, d1=2), sampler, policy="first-come")
        assert [taken(balancer).device.id for _ in range(3)] == ["cuda:0", "cuda:0", "cuda:1"]


def test_who_must_not_wait_is_told_that_nothing_is_free() -> None:
    balancer = Balancer([cuda(0)], caps(n0=1))
    lease = balancer.try_lease()
    assert lease is not None
    assert balancer.try_lease() is None
    lease.release()
    assert balancer.try_lease() is not None


class Steered(FakeProbe):
    """A machine whose GPUs the test changes; `show` returns when the sampler has seen it."""

    def __init__(self, *gpus: GpuSnapshot) -> None:
        super().__init__([gpus])

    def show(self, sampler: Sampler, *gpus: GpuSnapshot) -> None:
        self._readings = [gpus]
        while [found.uuid for found in sampler.latest()] != [wanted.uuid for wanted in gpus]:
            threading.Event().wait(0.005)


def test_a_gpu_that_the_driver_loses_is_taken_out(caplog: pytest.LogCaptureFixture) -> None:
    probe = Steered(fake_gpu(0), fake_gpu(1, utilization_pct=90.0))
    with (
        caplog.at_level(logging.WARNING, logger="audio_batch.gpu"),
        Sampler([lambda: probe], interval_s=0.01) as sampler,
    ):
        balancer = Balancer([cuda(0), cuda(1)], caps(d0=5, d1=1), sampler)
        taken(balancer)
        probe.show(sampler, fake_gpu(1, utilization_pct=90.0))
        assert taken(balancer).device.id == "cuda:1"
    assert [load.out_reason for load in balancer.loads()] == [
        "the driver no longer reports it",
        None,
    ]
    (record,) = caplog.records
    assert "cuda:0" in record.getMessage()


def test_a_source_that_lists_boards_only_loses_no_mig_instance() -> None:
    instance = fake_gpu(0, uuid="MIG-1")
    device = replace(cuda(0), uuid="MIG-1")
    probe = Steered(instance)
    with Sampler([lambda: probe], interval_s=0.01) as sampler:
        balancer = Balancer([device], {"cuda:0": 2}, sampler)
        balancer.loads()
        probe.show(sampler, fake_gpu(0))
        assert taken(balancer).device.id == "cuda:0"


def test_readings_that_stop_altogether_take_no_gpu_out() -> None:
    probe = Steered(fake_gpu(0, utilization_pct=50.0))
    with Sampler([lambda: probe], interval_s=0.01) as sampler:
        balancer = Balancer([cuda(0)], {"cuda:0": 1}, sampler)
        balancer.loads()
        probe.show(sampler)
        assert taken(balancer).device.id == "cuda:0"
        assert balancer.status_line() == "GPU Balancer Status: GPU 0: 1/1 tasks, n/a util"


def test_a_reading_that_has_grown_old_says_nothing_of_now() -> None:
    class Stuck(FakeProbe):
        def snapshots(self) -> tuple[GpuSnapshot, ...]:
            return (replace(fake_gpu(0, utilization_pct=50.0), taken_at_s=time.monotonic() - 60),)

    with Sampler([lambda: Stuck([[]])], interval_s=3600) as sampler:
        balancer = Balancer([cuda(0)], {"cuda:0": 1}, sampler)
        (load,) = balancer.loads()
        assert (load.utilization_pct, load.free_bytes) == (None, None)
        assert load.total_bytes == 24 * GIB
        assert taken(balancer).device.id == "cuda:0"


def test_the_status_line_is_the_one_the_users_know() -> None:
    gpus = [fake_gpu(0, utilization_pct=45.0), fake_gpu(1, utilization_pct=32.0)]
    with sampled(gpus) as sampler:
        balancer = Balancer([cuda(0), cuda(1)], caps(d0=5, d1=5), sampler)
        for _ in range(5):
            taken(balancer)
        assert balancer.status_line() == (
            "GPU Balancer Status: GPU 0: 2/5 tasks, 45% util | GPU 1: 3/5 tasks, 32% util"
        )
        balancer.take_out("cuda:1", "broken")
        assert balancer.status_line().endswith("| GPU 1: 3/5 tasks, taken out")


def test_the_status_line_of_a_cpu() -> None:
    balancer = Balancer([CPU], {"cpu": 2})
    taken(balancer)
    pattern = r"GPU Balancer Status: CPU: 1/2 tasks, (n/a|\d{1,3}%) util"
    assert re.fullmatch(pattern, balancer.status_line())
    (load,) = balancer.loads()
    assert load.total_bytes is not None and 0 < (load.free_bytes or 0) <= load.total_bytes


def test_what_a_balancer_cannot_be_made_of() -> None:
    with pytest.raises(UsageError, match="least-loaded or first-come"):
        Balancer([cuda(0)], {"cuda:0": 1}, policy="magic")
    for devices, limits in (([], {}), ([cuda(0)], {}), ([cuda(0)], {"cuda:0": 0})):
        with pytest.raises(ValueError):
            Balancer(devices, limits)


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_the_whole_path_over_the_real_binding(
    count: int, stub_dir: Path, drive: Callable[..., dict[str, Any]]
) -> None:
    gpus = [gpu(n, utilization_pct=10 * n) for n in range(count)]
    answer = drive(environment(stub_dir, gpus), "balance", 5 * count)
    assert [uuid for _, uuid, _ in answer["devices"]] == [g.uuid for g in gpus]
    assert answer["leases"][0] == "cuda:0"
    assert sorted(answer["leases"]) == sorted([f"cuda:{n}" for n in range(count)] * 5)
    assert answer["lines"][-1] == "GPU Balancer Status: " + " | ".join(
        f"GPU {n}: 5/5 tasks, {10 * n}% util" for n in range(count)
    )
    assert answer["threads"] == ["MainThread"]
    assert answer["log"] == []
    assert answer["heavy"] == []


def test_the_whole_path_where_cuda_counts_otherwise(
    stub_dir: Path, drive: Callable[..., dict[str, Any]]
) -> None:
    gpus = [gpu(0, utilization_pct=80), gpu(1, utilization_pct=0)]
    environ = {**environment(stub_dir, gpus), "CUDA_VISIBLE_DEVICES": "1,0"}
    answer = drive(environ, "balance", 1)
    assert answer["lines"] == [
        "GPU Balancer Status: GPU 0: 1/5 tasks, 0% util | GPU 1: 0/5 tasks, 80% util"
    ]


def test_the_whole_path_without_utilisation(
    stub_dir: Path, drive: Callable[..., dict[str, Any]]
) -> None:
    gpus = [gpu(0, utilization_error=3), gpu(1, utilization_error=3)]
    answer = drive(environment(stub_dir, gpus), "balance", 4)
    assert answer["leases"] == ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]
    assert "n/a util" in answer["lines"][0]
