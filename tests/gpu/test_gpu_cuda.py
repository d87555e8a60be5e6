"""CUDA's order against NVML's: the environment's rules, and the driver's own word."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from fake_gpus import fake_gpu
from hypothesis import given
from hypothesis import strategies as st
from stub_nvml import environment, gpu

from audio_batch.gpu.cuda import cuda_view, pin_device_order, visible_by_environment
from audio_batch.gpu.snapshot import GpuSnapshot, normal_bus_id

WHOLE = [
    fake_gpu(0, uuid="GPU-aaaa1111"),
    fake_gpu(1, uuid="GPU-aaaa2222"),
    fake_gpu(2, uuid="GPU-bbbb3333"),
]
CUT = [
    fake_gpu(0, uuid="GPU-aaaa1111"),
    fake_gpu(1, uuid="MIG-cccc0001"),
    fake_gpu(1, uuid="MIG-cccc0002"),
    fake_gpu(2, uuid="MIG-dddd0001"),
]


def seen(wanted: str | None, snapshots: list[GpuSnapshot]) -> list[str]:
    environ = {} if wanted is None else {"CUDA_VISIBLE_DEVICES": wanted}
    return [snapshot.uuid[-4:] for snapshot in visible_by_environment(snapshots, environ)]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (None, ["1111", "2222", "3333"]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("2,0", ["3333", "1111"]),
        (" 1 , 2 ", ["2222", "3333"]),
        ("0,-1,1", ["1111"]),
        ("0,7,1", ["1111"]),
        ("1gpu,2ampere", ["2222", "3333"]),
        ("0,1,0", []),
        ("٢", []),
        ("99999999999999999999", []),
        ("GPU-bbbb,GPU-aaaa2", ["3333", "2222"]),
        ("GPU-aaaa", []),
        ("GPU-bbbb,GPU-aaaa,GPU-aaaa1", ["3333"]),
        ("GPU-bbbb,GPU-bbbb3333", []),
        ("GPU-bbbb,1", ["3333"]),
        ("1,GPU-bbbb", ["2222"]),
        ("gpu-bbbb", []),
        ("MIG-cccc0001", []),
    ],
)
def test_the_rules_of_cuda_visible_devices(wanted: str | None, expected: list[str]) -> None:
    assert seen(wanted, WHOLE) == expected


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (None, ["0001"]),  # one instance, and no whole GPU beside it
        ("0", ["1111"]),
        ("1", ["0001"]),
        ("2,1", ["0001"]),
        ("MIG-cccc0002", ["0002"]),
        ("MIG-cccc0002,MIG-cccc0001", ["0002"]),
        ("MIG-cccc", []),
        ("MIG-dddd,GPU-aaaa1111", ["0001"]),
    ],
)
def test_the_rules_where_gpus_are_cut_into_instances(
    wanted: str | None, expected: list[str]
) -> None:
    assert seen(wanted, CUT) == expected


def test_numbers_follow_the_pci_bus_not_the_order_of_the_list() -> None:
    shuffled = [WHOLE[2], WHOLE[0], WHOLE[1]]
    assert seen(None, shuffled) == ["1111", "2222", "3333"]
    far = replace(WHOLE[0], pci_bus_id=normal_bus_id("0001:00:00.0"))
    assert seen("2", [far, WHOLE[1], WHOLE[2]]) == ["1111"]


@given(st.text() | st.lists(st.sampled_from(["0", "1", "GPU-", "MIG-", "-1", ""])).map(",".join))
def test_no_value_upsets_the_rules(wanted: str) -> None:
    found = seen(wanted, WHOLE)
    assert len(found) == len(set(found)) <= len(WHOLE)


def test_the_users_order_is_kept_and_else_pinned() -> None:
    environ: dict[str, str] = {}
    pin_device_order(environ)
    assert environ == {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    environ = {"CUDA_DEVICE_ORDER": "FASTEST_FIRST"}
    pin_device_order(environ)
    assert environ == {"CUDA_DEVICE_ORDER": "FASTEST_FIRST"}


def snapshots(*numbers: int) -> list[GpuSnapshot]:
    return [
        replace(fake_gpu(n, uuid=gpu(n).uuid), pci_bus_id=normal_bus_id(gpu(n).bus_id))
        for n in numbers
    ]


def test_the_drivers_order_is_the_order(stub_dir: Path) -> None:
    environ = environment(stub_dir, [], cuda_order=[gpu(2), gpu(0)])
    environ["CUDA_VISIBLE_DEVICES"] = "1"  # the stub driver's word counts, not our reading of it
    view = cuda_view(snapshots(0, 1, 2), environ)
    assert [found.uuid for found in view.gpus] == [gpu(2).uuid, gpu(0).uuid]
    assert view.gpus[0].compute_capability == (8, 6)
    assert view.problem == ""


def test_a_mig_instance_of_the_driver_keeps_its_own_uuid(stub_dir: Path) -> None:
    instance = replace(gpu(1), uuid="MIG-0000abcd-1111-4222-8333-00000000abcd")
    listed = [replace(snapshots(1)[0], uuid=instance.uuid), *snapshots(0)]
    view = cuda_view(listed, environment(stub_dir, [], cuda_order=[instance]))
    assert [found.uuid for found in view.gpus] == [instance.uuid]


def test_a_uuid_that_differs_is_found_by_its_bus_address(stub_dir: Path) -> None:
    unnamed = replace(gpu(1), uuid="GPU-00000000-0000-0000-0000-000000000000")
    view = cuda_view(snapshots(0, 1), environment(stub_dir, [], cuda_order=[unnamed]))
    assert [found.uuid for found in view.gpus] == [gpu(1).uuid]


def test_a_gpu_that_only_the_driver_knows_is_there(stub_dir: Path) -> None:
    view = cuda_view([], environment(stub_dir, [], cuda_order=[gpu(0, name="Orin\x1b[0m")]))
    assert [(found.uuid, found.name) for found in view.gpus] == [(gpu(0).uuid, "Orin[0m")]


def test_a_driver_that_sees_nothing_is_believed(stub_dir: Path) -> None:
    view = cuda_view(snapshots(0), environment(stub_dir, [], cuda_order=[], cuda_error=100))
    assert (view.gpus, view.problem) == ((), "")


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        (802, "the CUDA driver answers error 802 (system not yet initialized)"),
        (-1, "the CUDA driver ends its process (exit -6)"),
    ],
)
def test_a_driver_that_refuses_is_a_problem(stub_dir: Path, code: int, problem: str) -> None:
    view = cuda_view(snapshots(0), environment(stub_dir, [], cuda_order=[], cuda_error=code))
    assert (view.gpus, view.problem) == ((), problem)


def test_a_stub_driver_leaves_it_to_the_environment(stub_dir: Path) -> None:
    environ = {**environment(stub_dir, []), "CUDA_VISIBLE_DEVICES": "1,0"}
    view = cuda_view(snapshots(0, 1), environ)
    assert [found.uuid for found in view.gpus] == [gpu(1).uuid, gpu(0).uuid]
