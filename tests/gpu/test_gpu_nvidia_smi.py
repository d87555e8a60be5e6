"""NvidiaSmiProbe over scripts that answer, hang, fail and talk nonsense."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stub_nvml import environment, gpu

from audio_batch.gpu.nvidia_smi import NvidiaSmiProbe, parse_rows
from audio_batch.gpu.snapshot import ProbeAbsent, ProbeError

Smi = Callable[[str], Path]

MIB = 1024 * 1024
A = "GPU-11111111-1111-4222-8333-000000000000"
B = "GPU-22222222-1111-4222-8333-000000000000"
ROW_A = f"8.6, 0, {A}, 00000000:01:00.0, 24576, 20000, 45, NVIDIA GeForce RTX 3090"
ROW_B = f"7.5, 1, {B}, 00000000:3B:00.0, 6144, 6000, [N/A], NVIDIA GeForce GTX 1660"


def say(text: str) -> str:
    return f"cat <<'END'\n{text}\nEND"


def test_reads_what_the_command_prints(smi: Smi) -> None:
    smi(say(f"{ROW_A}\n{ROW_B}"))
    first, second = NvidiaSmiProbe(timeout_s=60).snapshots()
    assert (first.uuid, first.index, first.pci_bus_id) == (A, 0, "00000000:01:00.0")
    assert (first.total_bytes, first.free_bytes) == (24576 * MIB, 20000 * MIB)
    assert (first.utilization_pct, first.compute_capability) == (45.0, (8, 6))
    assert (second.pci_bus_id, second.utilization_pct) == ("00000000:3b:00.0", None)
    assert second.name == "NVIDIA GeForce GTX 1660"


def test_asks_by_an_argument_list(smi: Smi, tmp_path: Path) -> None:
    smi(f'printf "%s\\n" "$@" > "{tmp_path}/arguments"\n{say(ROW_A)}')
    NvidiaSmiProbe(timeout_s=60).snapshots()
    query, form = (tmp_path / "arguments").read_text().splitlines()
    assert query.startswith("--query-gpu=") and "uuid" in query
    assert form == "--format=csv,noheader,nounits"


def test_an_old_driver_is_asked_again_without_the_field_it_refuses(
    smi: Smi, tmp_path: Path
) -> None:
    smi(
        f'echo run >> "{tmp_path}/runs"\n'
        'case "$*" in *compute_cap*)\n'
        "  echo 'Field \"compute_cap\" is not a valid field to query.'; exit 2;;\n"
        f"esac\n{say(ROW_A.partition(', ')[2])}"
    )
    probe = NvidiaSmiProbe(timeout_s=60)
    for _ in range(2):
        (found,) = probe.snapshots()
        assert (found.uuid, found.compute_capability) == (A, None)
    assert (tmp_path / "runs").read_text().count("run") == 3  # refused once, not at each reading


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("echo 'No devices were found'; exit 6", "exit 6, 'No devices were found'"),
        ("echo oops >&2; exit 255", "exit 255, 'oops'"),
        ("kill -9 $$", "exit -9, no output"),
        ("exit 0", "names no GPU, no output"),
        ("echo 'hello, world'", "names no GPU, 'hello, world'"),
        (r"printf '\033]0;title\007\377\376,,,,,,,\n'", "names no GPU, ']0;title"),
        ("head -c 300000 /dev/zero", "names no GPU, no output"),
    ],
)
def test_what_is_no_answer_is_a_probe_error(smi: Smi, body: str, reason: str) -> None:
    smi(body)
    with pytest.raises(ProbeError) as caught:
        NvidiaSmiProbe(timeout_s=60).snapshots()
    assert reason in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_command_that_hangs_is_given_up(smi: Smi) -> None:
    smi("exec sleep 60")
    with pytest.raises(ProbeError, match=r"no answer in 0\.2 s"):
        NvidiaSmiProbe(timeout_s=0.2).snapshots()


def test_a_command_that_vanishes_or_cannot_run_is_a_probe_error(smi: Smi) -> None:
    script = smi(say(ROW_A))
    probe = NvidiaSmiProbe(timeout_s=60)
    script.unlink()
    with pytest.raises(ProbeError, match="No such file"):
        probe.snapshots()


def test_no_command_is_absence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("SystemRoot", raising=False)
    monkeypatch.delenv("ProgramFiles", raising=False)
    with pytest.raises(ProbeAbsent):
        NvidiaSmiProbe()


def test_a_lost_gpu_and_a_repeated_one_drop_out() -> None:
    lost = "[GPU is lost], 1, [GPU is lost], [GPU is lost], [N/A], [N/A], [N/A], [GPU is lost]"
    found = parse_rows(
        f"{ROW_A}\n{lost}\n{ROW_A}\n\n{ROW_B}\r\n", with_capability=True, taken_at_s=1.0
    )
    assert [snapshot.uuid for snapshot in found] == [A, B]


def test_figures_that_are_not_to_be_had_are_none() -> None:
    row = f"[N/A], 0, {A}, 0000:01:00.0, [Not Supported], [Unknown Error], ERR!, "
    (found,) = parse_rows(row, with_capability=True, taken_at_s=1.0)
    assert found.pci_bus_id == "00000000:01:00.0"
    assert (found.total_bytes, found.free_bytes, found.utilization_pct) == (None, None, None)
    assert (found.compute_capability, found.name) == (None, "NVIDIA GPU")


def test_a_comma_in_the_name_spoils_nothing() -> None:
    (found,) = parse_rows(f"{ROW_A}, Ti", with_capability=True, taken_at_s=1.0)
    assert (found.name, found.utilization_pct) == ("NVIDIA GeForce RTX 3090, Ti", 45.0)


@given(st.text() | st.lists(st.text(max_size=12), min_size=7, max_size=9).map(", ".join))
def test_no_text_upsets_the_parser(text: str) -> None:
    for with_capability in (True, False):
        for found in parse_rows(text, with_capability=with_capability, taken_at_s=0.0):
            assert found.uuid.startswith("GPU-")


def test_nvml_and_nvidia_smi_say_the_same_of_one_machine(
    smi: Smi, stub_dir: Path, drive: Callable[..., dict[str, Any]]
) -> None:
    gpus = [gpu(0, utilization_pct=45), gpu(1, name="Tesla T4", capability=(7, 5))]
    smi(
        say(
            "\n".join(
                f"{g.capability[0]}.{g.capability[1]}, {n}, {g.uuid}, {g.bus_id}, "
                f"{g.total_bytes // MIB}, {g.free_bytes // MIB}, {g.utilization_pct}, {g.name}"
                for n, g in enumerate(gpus)
            )
        )
    )
    by_nvml = drive(environment(stub_dir, gpus), "chain", 1)["readings"][0]
    by_smi = drive(environment(stub_dir, gpus, init_error=9), "chain", 1)["readings"][0]
    assert (by_nvml["source"], by_smi["source"]) == ("nvml", "nvidia-smi")
    for found in by_nvml["gpus"] + by_smi["gpus"]:
        del found["taken_at_s"]
    for found in by_nvml["gpus"]:
        assert found.pop("peak_core_hz") > 0
    for found in by_smi["gpus"]:  # it does not say how many cores there are
        assert found.pop("peak_core_hz") is None
    assert by_nvml["gpus"] == by_smi["gpus"]
