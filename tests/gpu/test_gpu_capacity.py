"""`--max-per-gpu`, and the caps without it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audio_batch.errors import UsageError
from audio_batch.gpu.capacity import cpu_slots, default_max_per_gpu, parse_max_per_gpu
from audio_batch.gpu.devices import CPU, Device

GIB = 1024**3


def cuda(index: int) -> Device:
    return Device(f"cuda:{index}", "cuda", index, f"GPU-{index}", "GPU", (8, 6))


TWO = (cuda(0), cuda(1))


@pytest.mark.parametrize(
    ("text", "devices", "caps"),
    [
        ("5", TWO, {"cuda:0": 5, "cuda:1": 5}),
        ("2,1", TWO, {"cuda:0": 2, "cuda:1": 1}),
        ("2,1", TWO[::-1], {"cuda:1": 2, "cuda:0": 1}),
        ("0:2,1:1", TWO, {"cuda:0": 2, "cuda:1": 1}),
        ("1:1, 0:2", TWO, {"cuda:0": 2, "cuda:1": 1}),
        ("cuda:1:4,CUDA:0:2", TWO, {"cuda:0": 2, "cuda:1": 4}),
        ("3:7", (cuda(3),), {"cuda:3": 7}),
        ("3", (CPU,), {"cpu": 3}),
        ("cpu:3", (CPU,), {"cpu": 3}),
    ],
)
def test_what_can_be_written(text: str, devices: tuple[Device, ...], caps: dict[str, int]) -> None:
    assert parse_max_per_gpu(text, devices) == caps


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "cannot be read"),
        ("0", "cannot be read"),
        ("-1", "cannot be read"),
        ("1.5", "cannot be read"),
        ("many", "cannot be read"),
        ("1000", "cannot be read"),
        ("٣", "cannot be read"),
        ("2,", "cannot be read"),
        ("cuda:2", "cannot be read"),
        ("0:0,1:1", "cannot be read"),
        ("2,1,1", "gives 3 numbers for 2 devices (cuda:0, cuda:1)"),
        ("0:2", "says nothing of cuda:1"),
        ("0:2,5:1", "names cuda:5"),
        ("cpu:2,0:1", "names cpu"),
        ("0:2,0:1", "names cuda:0 twice"),
        ("0:2,cuda:0:1", "names cuda:0 twice"),
        ("0:2,1", "names some devices and not others"),
        ("\x1b[31m" + "9" * 5000, "cannot be read"),
    ],
)
def test_what_cannot_is_named(text: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_max_per_gpu(text, TWO)
    assert says in str(caught.value)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 300


@given(st.text(alphabet="0123456789:,cudap ", max_size=20) | st.text(max_size=20))
def test_every_text_is_caps_for_all_or_an_error(text: str) -> None:
    try:
        caps = parse_max_per_gpu(text, TWO)
    except UsageError:
        return
    assert list(caps) == ["cuda:0", "cuda:1"]
    assert min(caps.values()) >= 1


@pytest.mark.parametrize(
    ("cores", "free_bytes", "need_bytes", "slots"),
    [
        (2, 8 * GIB, GIB, 1),
        (16, 64 * GIB, GIB, 4),
        (16, 2 * GIB, GIB, 2),
        (16, 0, GIB, 1),
        (1, 8 * GIB, 0, 1),
        (64, 8 * GIB, 0, 16),
    ],
)
def test_the_cpu_takes_by_cores_and_memory(
    cores: int, free_bytes: int, need_bytes: int, slots: int
) -> None:
    assert cpu_slots(cores, free_bytes, need_bytes) == slots


def test_the_caps_of_a_run_that_names_none() -> None:
    host = {"cores": 16, "free_bytes": 64 * GIB, "need_bytes": GIB}
    assert default_max_per_gpu(TWO, **host) == {"cuda:0": 2, "cuda:1": 2}
    assert default_max_per_gpu((CPU,), **host) == {"cpu": 4}
