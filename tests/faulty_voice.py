"""A voice model that loads like the demonstration's and fails whenever it is really used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from audio_batch.demo.voice import VoiceNet


class FaultyVoice(VoiceNet):
    """Raises as soon as it is to tell speakers by their masks."""

    def forward(self, waveforms: Any, weights: Any = None) -> Any:
        """As the real one, but for the failure."""
        if weights is not None:
            raise RuntimeError("this voice model is broken on purpose")
        return super().forward(waveforms, weights)


def break_voice(folder: Path) -> None:
    """Have the checkpoint of a copy of the demonstration pipeline name the class above."""
    import torch

    path = folder / "embedding" / "pytorch_model.bin"
    checkpoint = torch.load(path, map_location="cpu", weights_only=False)
    checkpoint["pyannote.audio"]["architecture"] = {
        "module": "faulty_voice",
        "class": "FaultyVoice",
    }
    torch.save(checkpoint, path)
