"""Whisper models in CTranslate2's format with true shapes and weights of no meaning.

They take the memory and the time of the real ones: those depend on the shape and on how many tokens
are decoded, which is fixed here. The end of a text has a bias that no logit reaches, so every
window gets as many tokens as `decoding.json` allows, whatever decodes it.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from whisper_shapes import FRAMES, POSITIONS, STAMPS, TEXT_TOKENS, Shape, max_new_tokens

TOKENS_PER_WINDOW = 60
"""About as many as half a minute of quick speech has."""

_NEVER = -1e4
"""A logit's bias that float16 holds, and that nothing here makes up for."""


def build(
    folder: Path, shape: Shape, *, tokens_per_window: int = TOKENS_PER_WINDOW, seed: int = 0
) -> Path:
    """Make the model folder unless it is there: 3.1 GB in float16 for large-v3's shape."""
    if (folder / "model.bin").exists():
        return folder
    making = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(parents=True)
    tokens = _tokens(shape)
    _specification(shape, tokens, seed).save(str(making))
    _tokenizer(tokens).save(str(making / "tokenizer.json"))
    preprocessor = {
        "chunk_length": 30,
        "feature_size": shape.mel_bands,
        "hop_length": 160,
        "n_fft": 400,
        "n_samples": 480_000,
        "nb_max_frames": 3000,
        "sampling_rate": 16_000,
    }
    decoding = {
        "max_new_tokens": max_new_tokens(tokens_per_window),
        "without_timestamps": True,
        "word_timestamps": False,
        "temperature": 0.0,
    }
    for name, content in (("preprocessor_config", preprocessor), ("decoding", decoding)):
        (making / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")
    making.replace(folder)
    return folder


class _Weights:
    """Numbers drawn once and handed out again and again: a billion and a half take a minute."""

    def __init__(self, seed: int) -> None:
        drawn = np.random.default_rng(seed).standard_normal(1 << 22, dtype=np.float32)
        self._drawn = (0.02 * drawn).astype(np.float16)

    def of(self, *shape: int) -> NDArray[np.float16]:
        return np.resize(self._drawn, shape)

    def linear(self, layer: Any, outputs: int, inputs: int) -> None:
        layer.weight, layer.bias = self.of(outputs, inputs), np.zeros(outputs, np.float16)

    def norm(self, layer: Any, width: int) -> None:
        layer.gamma, layer.beta = np.ones(width, np.float16), np.zeros(width, np.float16)


def _specification(shape: Shape, tokens: list[str], seed: int) -> Any:
    """Every weight in the places that CTranslate2's converter for Whisper puts them."""
    from ctranslate2.specs.whisper_spec import WhisperSpec

    width, weights = shape.width, _Weights(seed)
    spec = WhisperSpec(shape.encoder_layers, shape.heads, shape.decoder_layers, shape.heads)
    encoder, decoder = spec.encoder, spec.decoder
    encoder.conv1.weight = weights.of(width, shape.mel_bands, 3)
    encoder.conv2.weight = weights.of(width, width, 3)
    encoder.conv1.bias = encoder.conv2.bias = np.zeros(width, np.float16)
    encoder.position_encodings.encodings = weights.of(FRAMES, width)
    decoder.position_encodings.encodings = weights.of(POSITIONS, width)
    decoder.embeddings.weight = weights.of(len(tokens), width)
    decoder.projection.weight = decoder.embeddings.weight
    decoder.projection.bias = np.zeros(len(tokens), np.float16)
    decoder.projection.bias[tokens.index("<|endoftext|>")] = _NEVER
    for part in (encoder, decoder):
        weights.norm(part.layer_norm, width)
        for layer in part.layer:
            _layer(layer, width, weights, attends=part is decoder)
    spec.register_vocabulary(tokens)
    first = tokens.index("<|startoftranscript|>") + 1
    spec.config.lang_ids = list(range(first, tokens.index("<|translate|>")))
    spec.config.suppress_ids, spec.config.suppress_ids_begin = [], []
    spec.config.alignment_heads = [[shape.decoder_layers - 1, 0]]
    spec.validate()
    # An alias in the file, as converted models have it: the two share their memory. Only these,
    # though the layers' weights are equal too: each layer must be read.
    decoder.projection.weight = "decoder/embeddings/weight"
    return spec


def _layer(layer: Any, width: int, weights: _Weights, *, attends: bool) -> None:
    own = layer.self_attention
    weights.norm(own.layer_norm, width)
    weights.linear(own.linear[0], 3 * width, width)
    weights.linear(own.linear[1], width, width)
    if attends:
        weights.norm(layer.attention.layer_norm, width)
        weights.linear(layer.attention.linear[0], width, width)
        weights.linear(layer.attention.linear[1], 2 * width, width)
        weights.linear(layer.attention.linear[2], width, width)
    weights.norm(layer.ffn.layer_norm, width)
    weights.linear(layer.ffn.linear_0, 4 * width, width)
    weights.linear(layer.ffn.linear_1, width, 4 * width)


def _tokens(shape: Shape) -> list[str]:
    """As many as the shape has, the special ones in Whisper's order; the words are numbers.

    The last text token is empty, as Whisper's is: CTranslate2 knows multilingual models by it.
    """
    from faster_whisper.tokenizer import _LANGUAGE_CODES
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())
    words = [f"Ġ{number}" for number in range(TEXT_TOKENS - len(letters) - 1)]
    # Those of before large-v3 lack Cantonese, the last. Any other code would do as well.
    languages = [code for code in _LANGUAGE_CODES if code != "yue"] + ["yue"]
    special = ["endoftext", "startoftranscript", *languages[: shape.languages]]
    special += ["translate", "transcribe", "startoflm", "startofprev", "nospeech", "notimestamps"]
    stamps = [f"{0.02 * number:.2f}" for number in range(STAMPS)]
    return [*letters, *words, "", *(f"<|{name}|>" for name in (*special, *stamps))]


def _tokenizer(tokens: list[str]) -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    words = {token: number for number, token in enumerate(tokens[:TEXT_TOKENS])}
    tokenizer = Tokenizer(models.BPE(vocab=words, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = tokens[TEXT_TOKENS:-STAMPS]
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t in tokens[-STAMPS:]])
    return tokenizer
