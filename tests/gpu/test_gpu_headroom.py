"""Which GPU has the memory for one asset more."""

from __future__ import annotations

from audio_batch.gpu.balancer import DeviceLoad
from audio_batch.gpu.devices import CPU, Device
from audio_batch.gpu.headroom import Headroom

GB = 10**9


def load(number: int, free: int | None, *, held: bool = False) -> DeviceLoad:
    device = Device(f"cuda:{number}", "cuda", number, f"GPU-{number}", "T", None)
    return DeviceLoad(device, 0, 2, None, free, 16 * GB, None, held)


def test_a_device_of_which_nothing_is_known_is_open() -> None:
    assert Headroom().open([load(0, None), load(1, 1)], idle=False) == {"cuda:0", "cuda:1"}


def test_what_assets_were_seen_to_take_must_be_free_and_some_more() -> None:
    headroom = Headroom()
    headroom.note(load(0, 10 * GB), at_work=0)
    headroom.note(load(0, 6 * GB), at_work=2)  # two gigabytes each
    assert headroom.fits(load(0, int(2.8 * GB)))
    assert not headroom.fits(load(0, int(2.7 * GB)))
    headroom.note(load(0, 9 * GB), at_work=2)  # the most counts
    assert not headroom.fits(load(0, int(2.7 * GB)))


def test_when_nothing_runs_anywhere_the_roomiest_is_open_all_the_same() -> None:
    headroom = Headroom()
    for number in (0, 1):
        headroom.note(load(number, 10 * GB), at_work=0)
        headroom.note(load(number, 4 * GB), at_work=1)
    full = [load(0, 1 * GB), load(1, 2 * GB)]
    assert headroom.open(full, idle=False) == frozenset()
    assert headroom.open(full, idle=True) == {"cuda:1"}


def test_loading_and_the_cpu_teach_nothing() -> None:
    headroom = Headroom()
    headroom.note(load(0, 10 * GB, held=True), at_work=0)
    headroom.note(load(0, 4 * GB), at_work=1)
    assert headroom.fits(load(0, 1))
    cpu = DeviceLoad(CPU, 0, 1, None, 10 * GB, 16 * GB, None)
    headroom.note(cpu, at_work=0)
    headroom.note(DeviceLoad(CPU, 1, 1, None, 1, 16 * GB, None), at_work=1)
    assert headroom.fits(cpu)
