"""Voice models that load like the demonstration's and cannot hear a window once for all voices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from audio_batch.demo.voice import VoiceNet


class OneMask(VoiceNet):
    """Takes one mask a window, as models older than pyannote.audio 4 do."""

    def forward(self, waveforms: Any, weights: Any = None) -> Any:
        """As the real one; raises ValueError for masks of several voices."""
        if weights is not None and weights.dim() != 2:
            raise ValueError(f"expected (batch, frames), got {tuple(weights.shape)}")
        return super().forward(waveforms, weights)


class OtherPooling(VoiceNet):
    """Takes several masks, and makes something else of them."""

    def forward(self, waveforms: Any, weights: Any = None) -> Any:
        """As the real one for one mask, and backwards for several."""
        made = super().forward(waveforms, weights)
        return made.flip(-1) if weights is not None and weights.dim() == 3 else made


class HearsSilence(VoiceNet):
    """Makes of an empty mask what the sound around it is like."""

    def forward(self, waveforms: Any, weights: Any = None) -> Any:
        """As the real one, and the sound's mean magnitude where a mask has no frame."""
        made = super().forward(waveforms, weights)
        if weights is None:
            return made
        level = waveforms.abs().mean(dim=(1, 2)).reshape([-1] + [1] * (made.dim() - 1))
        empty = weights.sum(dim=-1, keepdim=True) == 0
        return made.where(~empty, level.expand_as(made))


def make_stubborn(folder: Path, name: str) -> None:
    """Have the checkpoint of a copy of the demonstration pipeline name one of the classes above."""
    import torch

    path = folder / "embedding" / "pytorch_model.bin"
    checkpoint = torch.load(path, map_location="cpu", weights_only=False)
    checkpoint["pyannote.audio"]["architecture"] = {"module": "stubborn_voice", "class": name}
    torch.save(checkpoint, path)
