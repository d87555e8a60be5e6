"""Whether a GPU has the memory for one asset more.

The driver tells what is free, not whose the rest is: CTranslate2 and PyTorch keep what assets gave
back, and use it again. So what an asset takes cannot be told from what is free, and the only firm
rule is that nothing is added where next to nothing is left. Running out of memory has a ladder, and
what worked then is remembered (`ladder`, `remembered`).
"""

from __future__ import annotations

from audio_batch.gpu.balancer import DeviceLoad

SPARE_BYTES = 500_000_000


def has_room(load: DeviceLoad, at_work: int) -> bool:
    """Whether another asset may begin on a device with so many of ours at work.

    One alone always may: what is not free then may be our own, kept from earlier ones.
    """
    if at_work == 0 or load.device.kind != "cuda" or load.free_bytes is None:
        return True
    return load.free_bytes >= SPARE_BYTES
