"""The chain of sources, and the thread that samples them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_gpus import FakeProbe, fake_gpu
from stub_nvml import environment, gpu

from audio_batch.gpu.probe import FallbackProbe, NoProbe, Sampler
from audio_batch.gpu.snapshot import GpuSnapshot, Probe, ProbeAbsent, ProbeError

Drive = Callable[..., dict[str, Any]]
Smi = Callable[[str], Path]

SMI_ROW = "8.6, 0, GPU-abc, 00000000:01:00.0, 24576, 20000, 5, RTX 3090"


def sources(answer: dict[str, Any]) -> list[str]:
    return [reading["source"] for reading in answer["readings"]]


def absent() -> Probe:
    raise ProbeAbsent("not installed")


def without_smi(environ: dict[str, str], tmp_path: Path) -> dict[str, str]:
    return {**environ, "PATH": str(tmp_path)}


def until(condition: Callable[[], bool]) -> None:
    """Wait for another thread; a test that waits in vain fails after a minute."""
    deadline_s = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.005)


def test_nvml_that_fails_half_way_gives_place_to_nvidia_smi_without_a_warning(
    smi: Smi, stub_dir: Path, drive: Drive
) -> None:
    smi(f"echo '{SMI_ROW}'")
    answer = drive(environment(stub_dir, [gpu(0)], fail_after=2), "chain", 4)
    assert sources(answer) == ["nvml", "nvml", "nvidia-smi", "nvidia-smi"]
    assert [level for level, _ in answer["log"]] == ["INFO"]


def test_when_both_have_failed_one_warning_says_that_tasks_are_counted(
    smi: Smi, stub_dir: Path, drive: Drive, tmp_path: Path
) -> None:
    smi(f'[ -e "{tmp_path}/once" ] && exit 9\n: > "{tmp_path}/once"\necho "{SMI_ROW}"')
    answer = drive(environment(stub_dir, [gpu(0)], fail_after=1), "chain", 5)
    assert sources(answer) == ["nvml", "nvidia-smi", "none", "none", "none"]
    assert answer["readings"][-1]["gpus"] == []
    (warning,) = [text for level, text in answer["log"] if level == "WARNING"]
    assert "only tasks are counted" in warning
    assert "NVML: Unknown Error" in warning and "nvidia-smi: exit 9" in warning


def test_a_driver_that_does_not_start_is_one_warning(
    stub_dir: Path, drive: Drive, tmp_path: Path
) -> None:
    environ = environment(stub_dir, [gpu(0)], init_error=18)
    answer = drive(without_smi(environ, tmp_path), "chain", 3)
    assert sources(answer) == ["none"] * 3
    assert [level for level, _ in answer["log"]] == ["WARNING"]


def test_a_machine_without_any_driver_is_not_warned(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="audio_batch.gpu"):
        probe = FallbackProbe([absent, absent])
        assert probe.snapshots() == probe.snapshots() == ()
    assert [record.levelname for record in caplog.records] == ["INFO"]


def test_whatever_a_binding_raises_the_chain_goes_on() -> None:
    class Broken(FakeProbe):
        def snapshots(self) -> tuple[GpuSnapshot, ...]:
            raise AttributeError("a binding with a bug")

    broken = Broken([[]])
    probe = FallbackProbe([lambda: broken, lambda: FakeProbe([[fake_gpu(0)]])])
    assert [snapshot.index for snapshot in probe.snapshots()] == [0]
    assert broken.closed
    assert probe.name == "fake"


def test_the_sampler_has_a_reading_from_the_start_and_follows_the_source() -> None:
    probe = FakeProbe([[fake_gpu(0, utilization_pct=load)] for load in (10.0, 20.0, 30.0)])
    with Sampler([lambda: probe], interval_s=0.01) as sampler:
        assert sampler.source == "fake"
        assert sampler.latest()[0].utilization_pct is not None
        until(lambda: sampler.latest()[0].utilization_pct == 30.0)
    assert probe.closed


def test_one_thread_samples_and_none_is_left() -> None:
    def sampling() -> set[threading.Thread]:  # others come and go
        return {thread for thread in threading.enumerate() if thread.name == "gpu-sampler"}

    before = sampling()
    sampler = Sampler([lambda: FakeProbe([[fake_gpu(0)]])], interval_s=0.01).start()
    (thread,) = sampling() - before
    assert thread.daemon
    sampler.stop()
    sampler.stop()
    assert thread not in sampling()
    with pytest.raises(RuntimeError):
        sampler.start()


def test_readers_do_not_wait_for_a_slow_source() -> None:
    asked, answer = threading.Event(), threading.Event()

    class Slow(FakeProbe):
        calls = 0

        def snapshots(self) -> tuple[GpuSnapshot, ...]:
            self.calls += 1
            if self.calls > 1:
                asked.set()
                answer.wait(60)
            return super().snapshots()

    probe = Slow([[fake_gpu(0)], [fake_gpu(0), fake_gpu(1)]])
    with Sampler([lambda: probe], interval_s=0.01) as sampler:
        assert asked.wait(60)
        assert len(sampler.latest()) == 1  # while the second reading hangs
        answer.set()
        until(lambda: len(sampler.latest()) == 2)


def test_the_sampler_survives_every_source(caplog: pytest.LogCaptureFixture) -> None:
    first = FakeProbe([[fake_gpu(0)], ProbeError("fell over")])
    second = FakeProbe([[fake_gpu(1)], ProbeError("so did this")])
    with (
        caplog.at_level(logging.WARNING, logger="audio_batch.gpu"),
        Sampler([lambda: first, lambda: second], interval_s=0.01) as sampler,
    ):
        until(lambda: sampler.source == NoProbe.name)
        assert sampler.latest() == ()
    assert first.closed and second.closed
    (record,) = caplog.records
    assert "fell over; so did this" in record.getMessage()


def test_a_sampler_without_a_source_is_quiet() -> None:
    with Sampler([absent], interval_s=0.01) as sampler:
        assert (sampler.latest(), sampler.source) == ((), "none")


def test_a_fake_probe_repeats_its_last_reading_with_the_time_of_the_asking() -> None:
    probe = FakeProbe([ProbeError("not yet"), [fake_gpu(0)]])
    with pytest.raises(ProbeError):
        probe.snapshots()
    (first,), (second,) = probe.snapshots(), probe.snapshots()
    assert first.uuid == second.uuid and first.taken_at_s <= second.taken_at_s
    with pytest.raises(ValueError):
        FakeProbe([])
