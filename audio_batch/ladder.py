"""The ladder of a device that runs out of memory: what to do with less of, and in which order.

1. Smaller batches: the recognizer's own doing, inside `transcribe`. What comes here has failed
   with one window at a time.
2. Fewer assets side by side: half as many slots, down to one.
3. A smaller compute type.
4. Nothing is left: the asset fails.

Pure. Within a run the ladder also leads below what the user asked for, and each step is said; the
next run begins with what was asked again (`begin_with`).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

_SMALLER = {
    "float32": ("float16", "bfloat16", "int8_float16", "int8_bfloat16", "int8"),
    "default": ("int8_float16", "int8_bfloat16", "int8"),
    "float16": ("int8_float16", "int8_bfloat16", "int8"),
    "bfloat16": ("int8_bfloat16", "int8_float16", "int8"),
    "int16": ("int8",),
    "int8_float32": ("int8_float16", "int8_bfloat16"),
}
"""What takes less memory than each type, what differs least from it first.

"default" is what the model is stored in, float16 for the hub's. int8 stands for itself and the
model's float type: beside float16 it is int8_float16, else int8_float32 (CTranslate2,
`resolve_compute_type`), so nothing is smaller and there is no way on from it.
"""


@dataclass(frozen=True, slots=True)
class Rung:
    """With how much a device works.

    Attributes:
        batch_size: windows of 30 s that batches begin with; None: as many as memory should hold.
        slots: assets side by side.
        compute_type: CTranslate2's name for it.
    """

    batch_size: int | None
    slots: int
    compute_type: str


def next_rung(rung: Rung, *, supported: Collection[str]) -> Rung | None:
    """The next thing to try after a device ran out of memory; None where nothing is left.

    The batch size stays: with fewer slots or smaller weights there may be room for it again, and
    the recognizer halves it where there is not.

    Args:
        rung: what was at work, its compute type as the model was loaded (not "auto").
        supported: the compute types that the device has (CTranslate2 knows them).
    """
    if rung.slots > 1:
        return replace(rung, slots=rung.slots // 2)
    smaller = _SMALLER.get(rung.compute_type, ())
    found = next((name for name in smaller if name in supported), None)
    return None if found is None else replace(rung, compute_type=found)


def begin_with(
    remembered: Rung | None,
    *,
    batch_size: int | None,
    slots: int,
    slots_asked: bool,
    compute_type: str,
) -> Rung:
    """What a run begins with on a device: what was remembered, as far as the user says nothing.

    Args:
        remembered: what worked here after running out of memory, if anything is known.
        batch_size: the one that was asked for (by --batch-size, a preset or the model's own
            defaults), else None.
        slots: assets side by side, as asked for or by default; `slots_asked` says which. A default
            is only ever lowered.
        compute_type: as asked for; "auto" leaves it to what is remembered.
    """
    if remembered is None:
        return Rung(batch_size, slots, compute_type)
    return Rung(
        batch_size=remembered.batch_size if batch_size is None else batch_size,
        slots=slots if slots_asked else min(slots, remembered.slots),
        compute_type=remembered.compute_type if compute_type == "auto" else compute_type,
    )


def describe(device: str, before: Rung, after: Rung) -> str:
    """A sentence for the log: `cuda:0 ran out of memory: 1 instead of 2 assets at a time.`

    `before` and `after` differ.
    """
    changes = []
    if after.slots != before.slots:
        changes.append(f"{after.slots} instead of {before.slots} assets at a time")
    if after.compute_type != before.compute_type:
        changes.append(f"{after.compute_type} instead of {before.compute_type}")
    if after.batch_size != before.batch_size:
        was = "as many as should fit" if before.batch_size is None else before.batch_size
        changes.append(f"batches of {after.batch_size} instead of {was}")
    return f"{device} ran out of memory: {', '.join(changes)}."
