"""NvmlProbe: the real pynvml over a stub library, in a process of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from stub_nvml import GIB, environment, gpu

Drive = Callable[..., dict[str, Any]]

UNEQUAL = [
    gpu(
        0,
        name="NVIDIA GeForce GTX 1660",
        total_bytes=6 * GIB,
        free_bytes=5 * GIB,
        capability=(7, 5),
        cores=1408,
    ),
    gpu(1, utilization_pct=45),
]
MIG = ("MIG-aaaaaaaa-0000-4000-8000-000000000001", "", "MIG-bbbbbbbb-0000-4000-8000-000000000002")


@pytest.mark.parametrize("count", [0, 1, 2, 3, 8])
def test_reports_any_number_of_gpus(count: int, stub_dir: Path, drive: Drive) -> None:
    gpus = [gpu(n, utilization_pct=10 * n) for n in range(count)]
    (reading,) = drive(environment(stub_dir, gpus), "nvml", 1)["readings"]
    assert [found["uuid"] for found in reading] == [g.uuid for g in gpus]
    assert [found["index"] for found in reading] == list(range(count))
    assert [found["utilization_pct"] for found in reading] == [10.0 * n for n in range(count)]


def test_reports_each_of_unequal_gpus_as_it_is(stub_dir: Path, drive: Drive) -> None:
    answer = drive(environment(stub_dir, UNEQUAL), "nvml", 2)
    assert answer["error"] is None
    first, second = answer["readings"][1]
    taken_at_s = first.pop("taken_at_s")
    assert first == {
        "uuid": UNEQUAL[0].uuid,
        "index": 0,
        "pci_bus_id": "00000000:01:00.0",
        "name": "NVIDIA GeForce GTX 1660",
        "total_bytes": 6 * GIB,
        "free_bytes": 5 * GIB,
        "utilization_pct": 0.0,
        "compute_capability": [7, 5],
        "peak_core_hz": 1408 * 2100 * 1e6,
    }
    assert second["compute_capability"] == [8, 6]
    assert taken_at_s >= answer["readings"][0][0]["taken_at_s"]


def test_a_metric_that_is_not_supported_is_none(stub_dir: Path, drive: Drive) -> None:
    gpus = [gpu(0, utilization_error=3), gpu(1, memory_error=3, utilization_pct=7)]
    ((first, second),) = drive(environment(stub_dir, gpus), "nvml", 1)["readings"]
    assert first["utilization_pct"] is None
    assert first["free_bytes"] == 20 * GIB
    assert (second["total_bytes"], second["free_bytes"]) == (None, None)
    assert second["utilization_pct"] == 7.0


@pytest.mark.parametrize("unsaid", [{"cores": -1}, {"clock_mhz": -1}, {"cores": 0}])
def test_how_fast_a_gpu_may_be_is_not_made_up(
    stub_dir: Path, drive: Drive, unsaid: dict[str, int]
) -> None:
    gpus = [gpu(0, **unsaid), gpu(1), gpu(2, mig=MIG)]
    (reading,) = drive(environment(stub_dir, gpus), "nvml", 1)["readings"]
    assert [found["peak_core_hz"] for found in reading] == [None, 10496 * 2100e6, None, None]


def test_who_computes_on_a_gpu_is_counted(stub_dir: Path, drive: Drive) -> None:
    gpus = [gpu(0, processes=3), gpu(1, processes=-1), gpu(2, lost_after=0), gpu(3)]
    answer = drive(environment(stub_dir, gpus), "processes")
    assert answer["counts"] == {gpus[0].uuid: 3, gpus[3].uuid: 0}
    answer = drive(environment(stub_dir, gpus, fail_after=0, fail_code=18), "processes")
    assert answer["error"] == "NVML: RM has detected an NVML/RM version mismatch."


def test_a_lost_gpu_drops_out_and_the_others_stay(stub_dir: Path, drive: Drive) -> None:
    gpus = [gpu(0), gpu(1, lost_after=1), gpu(2)]
    readings = drive(environment(stub_dir, gpus), "nvml", 2)["readings"]
    assert [[found["index"] for found in reading] for reading in readings] == [[0, 1, 2], [0, 2]]


def test_when_every_gpu_is_lost_the_source_has_failed(stub_dir: Path, drive: Drive) -> None:
    answer = drive(environment(stub_dir, [gpu(0, lost_after=1)]), "nvml", 2)
    assert len(answer["readings"]) == 1
    assert answer["error"] == "NVML: GPU 0: GPU is lost"


def test_a_library_that_fails_half_way_says_so(stub_dir: Path, drive: Drive) -> None:
    environ = environment(stub_dir, [gpu(0)], fail_after=2, fail_code=18)
    answer = drive(environ, "nvml", 5)
    assert len(answer["readings"]) == 2
    assert answer["error"] == "NVML: RM has detected an NVML/RM version mismatch."


def test_a_library_that_does_not_start_is_not_absent(stub_dir: Path, drive: Drive) -> None:
    answer = drive(environment(stub_dir, [gpu(0)], init_error=9), "nvml", 1)
    assert (answer["type"], answer["error"]) == ("ProbeError", "NVML: Driver Not Loaded")


def test_a_gpu_in_mig_mode_is_its_instances(stub_dir: Path, drive: Drive) -> None:
    gpus = [gpu(0, mig=MIG, utilization_pct=80), gpu(1, mig=()), gpu(2)]
    (reading,) = drive(environment(stub_dir, gpus), "nvml", 1)["readings"]
    assert [(found["uuid"], found["index"]) for found in reading] == [
        (MIG[0], 0),
        (MIG[2], 0),
        (gpus[2].uuid, 2),
    ]
    assert reading[0]["utilization_pct"] is None
    assert reading[0]["pci_bus_id"] == reading[1]["pci_bus_id"] == "00000000:01:00.0"


def test_names_lose_their_control_characters(stub_dir: Path, drive: Drive) -> None:
    gpus = [gpu(0, name="GPU \x1b[31mred\u202e"), gpu(1, name="\x01")]
    ((first, second),) = drive(environment(stub_dir, gpus), "nvml", 1)["readings"]
    assert first["name"] == "GPU [31mred"
    assert second["name"] == "NVIDIA GPU"


def test_every_error_code_is_taken_as_one_of_three(stub_dir: Path, drive: Drive) -> None:
    taken = drive(environment(stub_dir, [gpu(0)]), "codes")["taken"]
    by_answer: dict[str, set[str]] = {"metric": set(), "gpu": set(), "source": set()}
    for case, answer in taken.items():
        place, name = case.split()
        if place == "utilization_error":
            by_answer[answer].add(name.removeprefix("NVML_ERROR_"))
        else:  # a GPU without an identity is never a GPU
            assert answer in ("gpu", "source"), case
    assert by_answer["source"] == {
        "UNINITIALIZED",
        "DRIVER_NOT_LOADED",
        "LIBRARY_NOT_FOUND",
        "OPERATING_SYSTEM",
        "LIB_RM_VERSION_MISMATCH",
    }
    assert by_answer["gpu"] == {
        "NOT_FOUND",
        "INSUFFICIENT_POWER",
        "IRQ_ISSUE",
        "GPU_IS_LOST",
        "RESET_REQUIRED",
        "GPU_NOT_FOUND",
    }
    assert {"NOT_SUPPORTED", "NO_PERMISSION", "UNKNOWN"} <= by_answer["metric"]
