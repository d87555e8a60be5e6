"""The first layer of pyannote's segmentation, computed once where windows overlap.

PyanNet begins with a filter bank at 1,600 outputs a second, and hears windows nine tenths of which
the window before held too. The filters see samples alone, so that neighbours can share what they
make of them; from the pooling on everything is normalised by window and is a window's own. A batch
of eight windows has 8.5 s of sound instead of 40: on one CPU core the layer takes 1.2 ms a window
instead of 5.8, of 19 for the whole network.

Windows are normalised before the filters. A window's gain and shift come out of a filter as that
gain, and as the shift times the filter's sum: they are applied to the shared outputs. These differ
from the model's own by as much as its own differ from what they would be in double precision (5e-6
of 3.5), and scores by about 1e-3: the next layer gives each filter a variance of 1, also those near
the Nyquist frequency that hear next to nothing.
"""

from __future__ import annotations

from typing import Any

SCORE_TOLERANCE = 0.01
"""Further than this from the model's own scores (0 to 1) is more than rounding: not shared then."""


def share_first_layer(model: Any) -> bool:
    """Have a PyanNet share its first layer among overlapping windows; whether it does from now on.

    Only a network that is made as this module expects is changed, and only if what it says of three
    windows of noise stays the same. Others are left alone. Batches that are not overlapping views
    of one CPU tensor go the model's own way.
    """
    import torch
    from pyannote.audio.models.blocks.sincnet import SincNet

    net: Any = getattr(model, "sincnet", None)
    if type(net) is not SincNet or model.training:
        return False
    rate_hz = int(net.sample_rate)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, 2 * rate_hz, generator=generator) * 0.1 + 0.05
    windows = noise.unfold(1, rate_hz, rate_hz // 2).permute(1, 0, 2)
    own = net.forward
    try:
        with torch.inference_mode():
            expected = model(windows)
            net.forward = _SharedFirstLayer(net, own)
            same = torch.allclose(model(windows), expected, rtol=0, atol=SCORE_TOLERANCE)
    except Exception:  # of whatever kind: the model's own way remains
        same = False
    if not same:
        net.forward = own
    return same


class _SharedFirstLayer:
    """`SincNet.forward`; any thread.

    Args:
        net: the module, whose layers are used.
        own: what it did before.
    """

    def __init__(self, net: Any, own: Any) -> None:
        self._net = net
        self._own = own

    def __call__(self, waveforms: Any) -> Any:
        """Features (windows, channels, frames) of waveforms (windows, 1, samples)."""
        import torch.nn.functional as F

        count, channels, samples = waveforms.shape
        step = waveforms.stride(0)
        if not (
            waveforms.device.type == "cpu"
            and count > 1
            and channels == 1
            and waveforms.stride(2) == 1
            and 0 < step < samples  # the rows lie in one another
            and step % self._net.stride == 0
        ):
            return self._own(waveforms)
        net = self._net
        out = F.leaky_relu(net.norm1d[0](self._pooled(waveforms, step)))
        for number in range(1, len(net.conv1d)):
            out = net.pool1d[number](net.conv1d[number](out))
            out = F.leaky_relu(net.norm1d[number](out))
        return out

    def _pooled(self, waveforms: Any, step: int) -> Any:
        """Magnitudes of the filters' outputs for the normalised windows, (windows, filters, n)."""
        import torch

        net = self._net
        count, _, samples = waveforms.shape
        length = (count - 1) * step + samples
        sound = waveforms.as_strided((1, 1, length), (length, length, 1))
        sound = sound - sound.mean()  # an offset would cost the filters' outputs their last digits
        mean, variance = _moments(sound[0, 0], samples, step)
        gain = net.wav_norm1d.weight * torch.rsqrt(variance + net.wav_norm1d.eps)
        filters = net.conv1d[0].get_filters()
        shift = (net.wav_norm1d.bias - mean * gain)[:, None] * filters.sum(dim=(1, 2))
        shared = net.conv1d[0](sound)[0]
        frames = (samples - filters.shape[-1]) // net.stride + 1
        pooled = []
        for number in range(count):  # one at a time, what is written is still in the cache
            first = number * step // net.stride
            own = torch.addcmul(
                shift[number, :, None], shared[:, first : first + frames], gain[number]
            )
            pooled.append(net.pool1d[0](own.abs_()))
        return torch.stack(pooled)


def _moments(sound: Any, samples: int, step: int) -> tuple[Any, Any]:
    """Mean and variance of each window of (n,) samples, by running sums in double precision."""
    import torch
    import torch.nn.functional as F

    wide = sound.double()
    sums = F.pad(torch.stack([wide, wide * wide]).cumsum(1), (1, 0))
    mean, square = (sums[:, samples::step] - sums[:, :-samples:step]) / samples
    return mean.float(), (square - mean * mean).clamp(min=0).float()
