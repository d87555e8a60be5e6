"""An engine that hears nothing: it ships for dry runs of scheduling, journal and publication.

The model's name carries its only setting, what an asset costs:

    null, null:0                nothing
    null:50                     50 ms an asset
    null:0.01x                  0.01 seconds a second of audio
    null:20+0.01x               both
    null:cuda:0=8000,cuda:1=24000,50
                                by device; what has no device is for those that are not named
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from audio_batch.engines.base import LoadRequest, Progress, Recognition, Recognizer
from audio_batch.errors import UsageError
from audio_batch.options import DecodingOptions
from audio_batch.transcript import Segment

_NUMBER = r"[0-9]{1,9}(?:\.[0-9]{1,9})?"
_COST = re.compile(
    rf"(?:(?P<device>cpu|cuda:[0-9]{{1,4}})=)?"
    rf"(?:(?P<ms>{_NUMBER})(?:\+(?P<per>{_NUMBER})x)?|(?P<only>{_NUMBER})x)"
)


@dataclass(frozen=True, slots=True)
class NullCost:
    """What an asset costs: seconds, and seconds per second of its audio."""

    fixed_s: float = 0.0
    per_audio_s: float = 0.0

    def of(self, duration_s: float) -> float:
        """Seconds for an asset of `duration_s`."""
        return self.fixed_s + self.per_audio_s * duration_s


@dataclass(frozen=True, slots=True)
class NullCosts:
    """What an asset costs on each device: by `Device.id`, and on those that are not named."""

    by_device: Mapping[str, NullCost] = field(default_factory=dict)
    elsewhere: NullCost = NullCost()

    @classmethod
    def parse(cls, name: str) -> NullCosts:
        """Read a model's name; see the module's docstring.

        Raises:
            UsageError: it cannot be understood, or says what a device costs twice.
        """
        _, _, text = name.partition(":")
        costs: dict[str | None, NullCost] = {}
        for part in text.split(",") if text else ():
            found = _COST.fullmatch(part.strip())
            if found is None or found["device"] in costs:
                raise UsageError(
                    f"{name!r} is no model of the null engine.",
                    remedy="Use null, null:50 (milliseconds an asset), null:0.01x (seconds a "
                    "second of audio), or these by device: null:cuda:0=8000,cuda:1=20+0.01x.",
                )
            per_audio_s = float(found["per"] or found["only"] or 0)
            costs[found["device"]] = NullCost(float(found["ms"] or 0) / 1000.0, per_audio_s)
        elsewhere = costs.pop(None, NullCost())
        return cls({device: cost for device, cost in costs.items() if device}, elsewhere)

    @property
    def are_free(self) -> bool:
        """Whether an asset costs nothing on any device."""
        return all(cost == NullCost() for cost in (*self.by_device.values(), self.elsewhere))

    def on(self, device: str) -> NullCost:
        """What an asset costs on a device."""
        return self.by_device.get(device, self.elsewhere)


class NullEngine:
    """See the module's docstring."""

    name = "null"

    def load(self, request: LoadRequest) -> Recognizer:
        """A recognizer that sleeps as long as the model's name says."""
        return NullRecognizer(NullCosts.parse(request.model.name).on(request.device.id))


class NullRecognizer:
    """Sleeps, then answers one segment that names the recording's length."""

    warnings: tuple[str, ...] = ()

    def __init__(self, cost: NullCost) -> None:
        self.cost = cost
        self.is_free = cost == NullCost()
        """It costs nothing: where nothing is published either, no recording is opened for it."""
        self.description: dict[str, Any] = {"compute_type": "none", "mode": "null"}

    def check(self, options: DecodingOptions) -> None:
        """See `Recognizer.check`: nothing is beyond it."""

    def transcribe(
        self, samples: NDArray[np.float32], options: DecodingOptions, progress: Progress
    ) -> Recognition:
        """See `Recognizer.transcribe`."""
        duration_s = len(samples) / 16_000
        if not self.is_free:
            time.sleep(self.cost.of(duration_s))
        progress(duration_s)
        text = f"{duration_s:.3f} seconds of audio"
        return Recognition(
            segments=(Segment(text=text, start_s=0.0, end_s=duration_s),),
            language=options.language,
            speech_s=duration_s,
        )
