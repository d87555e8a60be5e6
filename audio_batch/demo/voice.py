"""The network of the demonstration speaker embedding; its checkpoint names this class.

Imports torch and pyannote.audio: only workers import this module, by way of
``pyannote.audio.Model.from_pretrained``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pyannote.audio import Model
from torch import nn
from torchaudio.functional import melscale_fbanks

_WINDOW = 400  # samples of a frame's window at 16 kHz (25 ms)
_HOP = 160  # samples between frames (10 ms)
_FFT = 512
_FLOOR = 1e-4  # share of the mean power below which a band counts as quiet
_EPSILON = 1e-5


def log_mel(power: torch.Tensor) -> torch.Tensor:
    """Network input of Mel powers (batch, bands, frames): gain-free, with a soft floor.

    Powers are divided by the chunk's mean power, so that its gain does not matter, and the floor
    of 40 dB below it keeps low noise and bands that a telephone line cuts from mattering.
    """
    mean = power.mean(dim=(1, 2), keepdim=True)
    return torch.log(power / (mean + 1e-10) + _FLOOR) + 5.0


class _Block(nn.Module):
    """A residual layer over time: a dilated convolution, then a mixing of channels."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(width, width, 3, padding=dilation, dilation=dilation, bias=False),
            nn.BatchNorm1d(width),
            nn.ReLU(inplace=True),
            nn.Conv1d(width, width, 1, bias=False),
            nn.BatchNorm1d(width),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(x + self.layers(x))


class _Pool(nn.Module):
    """Attentive statistics over the frames that a mask keeps.

    Okabe, Koshinaka, Shinoda: Attentive Statistics Pooling for Deep Speaker Embedding (2018).
    """

    def __init__(self, width: int, bottleneck: int) -> None:
        super().__init__()
        self.attention = nn.Sequential(
            nn.Conv1d(width, bottleneck, 1), nn.Tanh(), nn.Conv1d(bottleneck, width, 1)
        )

    def moments(self, frames: torch.Tensor) -> torch.Tensor:
        """Attention, attention times feature and times its square: (batch, 3, width, frames)."""
        scores = torch.exp(self.attention(frames).clamp(-10.0, 10.0))
        first = scores * frames
        return torch.stack([scores, first, first * frames], dim=1)

    def forward(self, moments: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Means and deviations (batch, speakers, 2 width) for weights (batch, speakers, frames)."""
        total, first, second = (moments @ weights.transpose(1, 2)[:, None]).unbind(dim=1)
        mean = first / (total + 1e-6)
        variance = second / (total + 1e-6) - mean**2
        pooled = torch.cat([mean, torch.sqrt(variance.clamp(min=_EPSILON))], dim=1)
        return pooled.transpose(1, 2)


class VoiceNet(Model):  # type: ignore[misc]
    """A small speaker embedding for ``pyannote.audio``: two-dimensional stem, dilated layers over
    time, attentive pooling of the frames that belong to a speaker.

    Waveforms are (batch, 1, samples) at 16 kHz, weights (batch, frames) or (batch, speakers,
    frames) in 0..1 at any frame rate; embeddings are (batch, [speakers,] dimension) of length 1.
    Raises ``ValueError`` for less than 25 ms of audio.
    """

    def __init__(
        self,
        sample_rate: int = 16000,
        num_channels: int = 1,
        bands: int = 64,
        width: int = 192,
        dilations: tuple[int, ...] = (1, 2, 3, 4),
        dimension: int = 128,
        task: None = None,
    ) -> None:
        super().__init__(sample_rate=sample_rate, num_channels=num_channels, task=task)
        self.save_hyperparameters(
            "sample_rate", "num_channels", "bands", "width", "dilations", "dimension"
        )
        filters = melscale_fbanks(_FFT // 2 + 1, 40.0, 7600.0, bands, sample_rate, mel_scale="htk")
        self.register_buffer("filters", filters.T.contiguous(), persistent=False)
        self.register_buffer("hann", torch.hann_window(_WINDOW), persistent=False)
        self.stem = nn.Sequential(
            nn.Conv2d(1, 16, 3, stride=(2, 1), padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(inplace=True),
            nn.Conv2d(16, 24, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(24),
            nn.ReLU(inplace=True),
        )
        self.narrow = nn.Sequential(
            nn.Conv1d(24 * (bands // 4), width, 1, bias=False),
            nn.BatchNorm1d(width),
            nn.ReLU(inplace=True),
        )
        self.blocks = nn.ModuleList(_Block(width, d) for d in dilations)
        wide = 2 * width
        self.widen = nn.Sequential(
            nn.Conv1d(width * len(dilations), wide, 1, bias=False),
            nn.BatchNorm1d(wide),
            nn.ReLU(inplace=True),
        )
        self.pool = _Pool(wide, 64)
        self.out = nn.Sequential(nn.BatchNorm1d(2 * wide), nn.Linear(2 * wide, dimension))

    @property
    def dimension(self) -> int:
        """Length of an embedding."""
        return int(self.hparams.dimension)

    def mel_power(self, waveforms: torch.Tensor) -> torch.Tensor:
        """Mel powers (batch, bands, frames) of (batch, samples), a frame each 10 ms."""
        if waveforms.shape[-1] < _WINDOW:
            raise ValueError(f"an embedding needs at least {_WINDOW} samples")
        spectrum = torch.stft(
            waveforms, _FFT, _HOP, _WINDOW, window=self.hann, pad_mode="constant",
            return_complex=True,
        )  # fmt: skip
        return torch.matmul(self.filters, spectrum.real**2 + spectrum.imag**2)

    def moments(self, power: torch.Tensor) -> torch.Tensor:
        """What pooling needs of each 20 ms: (batch, 3, 2 width, frames)."""
        x = self.stem(log_mel(power)[:, None])
        x = self.narrow(x.flatten(1, 2))
        kept = []
        for block in self.blocks:
            x = block(x)
            kept.append(x)
        return self.pool.moments(self.widen(torch.cat(kept, dim=1)))

    def embed(self, moments: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Embeddings (batch, speakers, dimension) of the frames that each speaker's weights keep.

        Speakers without any frame get some finite embedding, which means nothing.
        """
        if weights.shape[-1] != moments.shape[-1]:
            weights = F.interpolate(weights, size=moments.shape[-1], mode="nearest")
        pooled = self.pool(moments, weights)
        return F.normalize(self.out(pooled.flatten(0, 1)).unflatten(0, weights.shape[:2]), dim=2)

    def forward(self, waveforms: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
        """Embeddings of waveforms; see the class for the shapes."""
        if weights is None:
            weights = waveforms.new_ones(len(waveforms), 1)
        if weights.dim() == 3:
            return self.embed(self.moments(self.mel_power(waveforms[:, 0])), weights)
        # The pipeline hands in a chunk once for each of its speakers: the network hears it once.
        changed = (waveforms[1:] != waveforms[:-1]).flatten(1).any(dim=1)
        first = F.pad(changed, (1, 0), value=True)
        chunk = first.long().cumsum(0) - 1
        place = torch.arange(len(chunk), device=chunk.device)
        speaker = place - place[first][chunk]
        grouped = weights.new_zeros(int(chunk[-1]) + 1, int(speaker.max()) + 1, weights.shape[1])
        grouped[chunk, speaker] = weights
        made = self.embed(self.moments(self.mel_power(waveforms[first][:, 0])), grouped)
        return made[chunk, speaker]
