"""Whisper's dimensions, and how many tokens CTranslate2 decodes. Needs no library."""

from __future__ import annotations

from dataclasses import dataclass

PROMPT = ("<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>")
"""What the decoder of a multilingual model begins with."""

FRAMES = 1500
"""What the encoder makes of a window of 30 s."""

POSITIONS = 448
"""How many tokens the decoder has room for, the prompt included."""

TEXT_TOKENS, STAMPS = 50_257, 1501
_LANGUAGES_BEFORE_V3 = 99


@dataclass(frozen=True, slots=True)
class Shape:
    """Whisper's dimensions, as the published models' config.json have them.

    `width` is the attention's (d_model); the feed-forward layers are four times as wide.
    """

    width: int
    heads: int
    encoder_layers: int
    decoder_layers: int
    mel_bands: int = 80
    languages: int = _LANGUAGES_BEFORE_V3

    @property
    def vocabulary(self) -> int:
        """How many tokens: text, end, start, languages, six more special ones, time stamps."""
        return TEXT_TOKENS + 2 + self.languages + 6 + STAMPS


SHAPES = {
    "large-v3": Shape(1280, 20, 32, 32, mel_bands=128, languages=100),
    "large-v3-turbo": Shape(1280, 20, 32, 4, mel_bands=128, languages=100),
    "small": Shape(768, 12, 12, 12),
    "tiny-random": Shape(64, 2, 2, 2),
}
"""By name; tiny-random is nobody's: it is there to see that everything works."""


def max_length(tokens: int, prompt_tokens: int = len(PROMPT)) -> int:
    """CTranslate2's `max_length` by which it decodes `tokens` where the text does not end before.

    It decodes min(max_length / 2, max_length - prompt_tokens + 1) (`WhisperReplica::generate` in
    its src/models/whisper.cc, 4.8).

    Raises:
        ValueError: Whisper has not as many positions.
    """
    length = max(2 * tokens, tokens + prompt_tokens - 1)
    if tokens < 1 or length > POSITIONS:
        raise ValueError(f"Whisper decodes 1 to {POSITIONS // 2} tokens, not {tokens}.")
    return length


def max_new_tokens(tokens: int, prompt_tokens: int = len(PROMPT)) -> int:
    """faster-whisper's `max_new_tokens` for the same, which is max_length without the prompt."""
    return max_length(tokens, prompt_tokens) - prompt_tokens
