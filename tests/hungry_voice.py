"""A voice model that loads like the demonstration's and has memory for one window at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from audio_batch.demo.voice import VoiceNet

MOST = 1


class HungryVoice(VoiceNet):
    """Fails as PyTorch does when an allocation on the CPU fails."""

    def forward(self, waveforms: Any, weights: Any = None) -> Any:
        """As the real one, for `MOST` of them at most."""
        if len(waveforms) > MOST:
            raise RuntimeError(
                "[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate "
                "memory: you tried to allocate 99999999999 bytes. Error code 12"
            )
        return super().forward(waveforms, weights)


def make_hungry(folder: Path) -> None:
    """Have the checkpoint of a copy of the demonstration pipeline name the class above."""
    import torch

    path = folder / "embedding" / "pytorch_model.bin"
    checkpoint = torch.load(path, map_location="cpu", weights_only=False)
    checkpoint["pyannote.audio"]["architecture"] = {
        "module": "hungry_voice",
        "class": "HungryVoice",
    }
    torch.save(checkpoint, path)
