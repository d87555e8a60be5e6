"""From `--device` to devices."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest
from fake_gpus import fake_gpu
from stub_nvml import environment, gpu

from audio_batch.errors import ExitCode, SetupError, UsageError
from audio_batch.gpu.devices import CPU, resolve_devices
from audio_batch.gpu.snapshot import GpuSnapshot, normal_bus_id


def snapshots(*numbers: int) -> list[GpuSnapshot]:
    return [
        replace(
            fake_gpu(n, uuid=gpu(n).uuid, name=f"Model {n}"),
            pci_bus_id=normal_bus_id(gpu(n).bus_id),
        )
        for n in numbers
    ]


@pytest.fixture
def environ(stub_dir: Path) -> dict[str, str]:
    """A machine whose CUDA driver cannot be asked, whatever the machine of the tests has."""
    return environment(stub_dir, [])


@pytest.mark.parametrize(
    ("spec", "ids"),
    [
        ("auto", ["cuda:0", "cuda:1", "cuda:2"]),
        ("cuda", ["cuda:0", "cuda:1", "cuda:2"]),
        (" CUDA ", ["cuda:0", "cuda:1", "cuda:2"]),
        ("cuda:1", ["cuda:1"]),
        ("cuda:2,cuda:0", ["cuda:2", "cuda:0"]),
        ("0,1", ["cuda:0", "cuda:1"]),
        ("cuda:0, 2", ["cuda:0", "cuda:2"]),
        ("cpu", ["cpu"]),
    ],
)
def test_what_can_be_written(spec: str, ids: list[str], environ: dict[str, str]) -> None:
    devices = resolve_devices(spec, snapshots(0, 1, 2), environ=environ)
    assert [device.id for device in devices] == ids


def test_numbers_are_cudas_and_the_uuid_joins_them_with_nvml(environ: dict[str, str]) -> None:
    environ["CUDA_VISIBLE_DEVICES"] = "2,1"
    first, second = resolve_devices("auto", snapshots(0, 1, 2), environ=environ)
    assert (first.id, first.cuda_index, first.uuid) == ("cuda:0", 0, gpu(2).uuid)
    assert (second.id, second.name, second.kind) == ("cuda:1", "Model 1", "cuda")
    assert first.compute_capability == (8, 6)


def test_fastest_first_as_the_driver_counts(stub_dir: Path) -> None:
    environ = environment(stub_dir, [], cuda_order=[gpu(1), gpu(0)])
    (device,) = resolve_devices("cuda:0", snapshots(0, 1), environ=environ)
    assert (device.uuid, device.name) == (gpu(1).uuid, "Model 1")


def test_auto_without_a_gpu_is_the_cpu(environ: dict[str, str]) -> None:
    assert resolve_devices("auto", [], environ=environ) == (CPU,)
    environ["CUDA_VISIBLE_DEVICES"] = ""
    assert resolve_devices("auto", snapshots(0), environ=environ) == (CPU,)


@pytest.mark.parametrize(
    "spec",
    ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:0,", ",", "cpu,cuda:0", "cuda:0;1", "cuda:٣",
     "1.5", "cuda:99999", "auto,cuda:0", "x\x1b[31m\u202e", "y" * 5000],
)  # fmt: skip
def test_what_names_no_device_is_refused(spec: str, environ: dict[str, str]) -> None:
    with pytest.raises(UsageError) as caught:
        resolve_devices(spec, snapshots(0), environ=environ)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 300


def test_a_device_twice_is_refused(environ: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="names cuda:1 twice"):
        resolve_devices("cuda:1,01", snapshots(0, 1), environ=environ)


def test_a_gpu_that_is_not_there_is_named_with_those_that_are(environ: dict[str, str]) -> None:
    with pytest.raises(SetupError) as caught:
        resolve_devices("cuda:0,cuda:3", snapshots(0, 1), environ=environ)
    assert caught.value.exit_code == ExitCode.ENVIRONMENT
    assert str(caught.value) == (
        "There is no cuda:3 here. CUDA sees cuda:0 (Model 0), cuda:1 (Model 1)."
    )


def test_no_gpu_at_all_says_why(environ: dict[str, str], stub_dir: Path) -> None:
    with pytest.raises(SetupError, match="sees no GPU on this machine"):
        resolve_devices("cuda", [], environ=environ)
    with pytest.raises(SetupError, match="CUDA_VISIBLE_DEVICES is '-1'"):
        resolve_devices("cuda:0", snapshots(0), environ={**environ, "CUDA_VISIBLE_DEVICES": "-1"})
    with pytest.raises(SetupError, match="sees no GPU"):
        resolve_devices("auto", [], environ=environ, allow_cpu=False)
    broken = environment(stub_dir, [], cuda_order=[gpu(0)], cuda_error=802)
    with pytest.raises(SetupError, match=r"error 802 \(system not yet initialized\)"):
        resolve_devices("cuda:0", snapshots(0), environ=broken)


def test_the_cpu_where_a_gpu_is_needed_is_refused(environ: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="needs a GPU"):
        resolve_devices("cpu", snapshots(0), environ=environ, allow_cpu=False)


def test_auto_over_a_broken_driver_says_that_the_cpu_is_used(
    stub_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = environment(stub_dir, [], cuda_order=[gpu(0)], cuda_error=802)
    with caplog.at_level(logging.WARNING, logger="audio_batch.gpu"):
        assert resolve_devices("auto", snapshots(0), environ=broken) == (CPU,)
    (record,) = caplog.records
    assert "error 802" in record.getMessage()


def test_a_gpu_that_nobody_reports_is_used_with_a_warning(
    stub_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    environ = environment(stub_dir, [], cuda_order=[gpu(0), gpu(1)])
    with caplog.at_level(logging.WARNING, logger="audio_batch.gpu"):
        devices = resolve_devices("auto", snapshots(0), environ=environ)
    assert [device.id for device in devices] == ["cuda:0", "cuda:1"]
    (record,) = caplog.records
    assert "reports cuda:1:" in record.getMessage()
