"""The least time that a device needs for Whisper's arithmetic and its memory traffic.

The roofline model (Williams, Waterman and Patterson 2009): each part of the work takes at least
max(operations / peak, bytes / bandwidth). Counted is what the architecture of Radford et al. (2022)
cannot do without, from the shapes alone: matrix products at two operations a multiply-add, each
weight read once a pass, each key and value once a step. Convolutions' reading, softmax, norms, the
features, the prompt and the way between host and device are left out, so the bound holds and
nothing reaches it.
"""

from __future__ import annotations

from dataclasses import dataclass

from whisper_shapes import FRAMES, Shape

WINDOW_S = 30.0
_KERNEL = 3
_MEL_FRAMES = 2 * FRAMES


@dataclass(frozen=True, slots=True)
class Peak:
    """What a device can do at best: dense float16 products with float32 sums, and its memory."""

    tflops: float
    bandwidth_gbs: float


PEAKS = {
    "H200": Peak(989, 4800),
    "H100 80GB HBM3": Peak(989, 3350),
    "H100 PCIe": Peak(756, 2000),
    "A100-SXM4-80GB": Peak(312, 2039),
    "A100 80GB PCIe": Peak(312, 1935),
    "A100-SXM4-40GB": Peak(312, 1555),
    "A100-PCIE-40GB": Peak(312, 1555),
    "RTX 4090": Peak(165, 1008),
    "RTX 3090": Peak(71, 936),
    "L4": Peak(121, 300),
    "T4": Peak(65, 320),
}
"""NVIDIA's data sheets, without sparsity, by NVML's name; variants (Ti, D, NVL, Laptop) differ.

CTranslate2 sums Whisper's products in float32 (`UseTrueFp16GemmInScope(false)` in its
src/models/whisper.cc), which GeForce cards do at half the speed of float16 sums.
"""

_BYTES = {"float32": (4, 4), "float16": (2, 2), "bfloat16": (2, 2), "int8_float16": (1, 2)}
_BYTES |= {"int8_bfloat16": (1, 2), "int8_float32": (1, 4), "int16": (2, 4)}


def peak_of(name: str) -> Peak | None:
    """The data sheet's figures for a device that NVML calls so; None where it is not known."""
    for brand in ("NVIDIA ", "GeForce ", "Tesla "):
        name = name.removeprefix(brand)
    return PEAKS.get(name)


@dataclass(frozen=True, slots=True)
class Bound:
    """The least seconds that a batch of windows takes."""

    encoder_s: float
    decoder_s: float

    @property
    def total_s(self) -> float:
        """Both, one after the other, as a batch goes."""
        return self.encoder_s + self.decoder_s

    def rtfx(self, batch_size: int) -> float:
        """Audio seconds per second, for a batch of windows that are full."""
        return WINDOW_S * batch_size / self.total_s


def bound(
    shape: Shape,
    peak: Peak,
    batch_size: int,
    tokens: int,
    *,
    beam_size: int = 1,
    compute_type: str = "float16",
) -> Bound:
    """The least time for `batch_size` windows of 30 s with `tokens` decoded in each.

    Encoder: max(flops · B / peak, weights / bandwidth). Decoder: the projection of the encoder's
    output to keys and values, once a window; then at each step t the weights once, each window's
    cross-attention keys and values once (its beams share them: `replicate_state` in CTranslate2's
    src/layers/transformer.cc), and 2·t·d·L own keys and values a beam. `peak` is to be that of
    the compute type.
    """
    flops_s, bytes_s = peak.tflops * 1e12, peak.bandwidth_gbs * 1e9
    weight_bytes, state_bytes = _BYTES.get(compute_type, (2, 2))
    encoder_s = max(
        encoder_flops(shape) * batch_size / flops_s,
        encoder_weights(shape) * weight_bytes / bytes_s,
    )
    decoder_s = cross_projection_flops(shape) * batch_size / flops_s
    sequences = batch_size * beam_size
    weights = step_weights(shape)
    fixed_bytes = weights * weight_bytes + batch_size * cross_values(shape) * state_bytes
    for step in range(1, tokens + 1):
        own_bytes = sequences * own_values(shape, step) * state_bytes
        # Each weight, key and value that is read is one multiply-add of its sequence.
        products = weights + cross_values(shape) + own_values(shape, step)
        decoder_s += max((fixed_bytes + own_bytes) / bytes_s, 2 * sequences * products / flops_s)
    return Bound(encoder_s, decoder_s)


def encoder_flops(shape: Shape) -> float:
    """Of a window: two convolutions (the second halves the frames), then per layer the four
    projections and the feed-forward's two (12 d² weights a frame), scores and their sums (2·T²·d).
    """
    width = shape.width
    convolutions = _KERNEL * width * (_MEL_FRAMES * shape.mel_bands + FRAMES * width)
    layer = FRAMES * 12 * width**2 + 2 * FRAMES**2 * width
    return 2.0 * (convolutions + shape.encoder_layers * layer)


def encoder_weights(shape: Shape) -> int:
    """How many, biases and norms aside."""
    convolutions = _KERNEL * shape.width * (shape.mel_bands + shape.width)
    return convolutions + shape.encoder_layers * 12 * shape.width**2


def cross_projection_flops(shape: Shape) -> float:
    """Of a window: keys and values of the encoder's output, for each layer of the decoder."""
    return 2.0 * FRAMES * 2 * shape.width**2 * shape.decoder_layers


def step_weights(shape: Shape) -> int:
    """How many a decoding step reads: per layer self-attention 4 d², cross-attention's query and
    output 2 d², feed-forward 8 d²; and the output projection.
    """
    return shape.decoder_layers * 14 * shape.width**2 + shape.vocabulary * shape.width


def cross_values(shape: Shape) -> int:
    """How many cross-attention keys and values a window has."""
    return 2 * FRAMES * shape.width * shape.decoder_layers


def own_values(shape: Shape, step: int) -> int:
    """How many self-attention keys and values a sequence has at its n-th step."""
    return 2 * step * shape.width * shape.decoder_layers
