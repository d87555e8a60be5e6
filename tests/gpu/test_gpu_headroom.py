"""Which GPU has the memory for one asset more."""

from __future__ import annotations

import pytest

from audio_batch.gpu.balancer import DeviceLoad
from audio_batch.gpu.devices import CPU, Device
from audio_batch.gpu.headroom import SPARE_BYTES, has_room

GPU = Device("cuda:0", "cuda", 0, "GPU-0", "T", None)


@pytest.mark.parametrize(
    ("device", "free_bytes", "at_work", "room"),
    [
        (GPU, SPARE_BYTES, 1, True),
        (GPU, SPARE_BYTES - 1, 1, False),
        (GPU, 0, 0, True),  # it may be our own that is not free
        (GPU, None, 3, True),
        (CPU, 0, 3, True),  # the host's memory has its own floor
    ],
)
def test_nothing_is_added_where_next_to_nothing_is_left(
    device: Device, free_bytes: int | None, at_work: int, room: bool
) -> None:
    load = DeviceLoad(device, at_work, 4, None, free_bytes, 16 * 10**9, None)
    assert has_room(load, at_work) == room
