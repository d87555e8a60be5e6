"""The tiny Whisper, its tokens, its start and its training losses.

The architecture is ``transformers``' own Whisper; only the start differs from the usual: weights
are set so that attention begins as "look so many frames before or after the place that the last
time stamp names".  Sinusoidal positions make that a plain rotation, and it spares the hours that
a decoder otherwise takes to find where in the recording it is.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from data import WORDS
from torch import Tensor, nn
from transformers import WhisperConfig, WhisperForConditionalGeneration

WIDTH, HEADS, ENCODER_LAYERS, DECODER_LAYERS = 128, 4, 4, 3
ALIGNMENT = ((1, 0), (1, 1))  # (decoder layer, head) of the supervised cross-attention
MOST_TOKENS, POSITIONS, STAMPS = 448, 1500, 1501
PAUSES = tuple(f"<|pause {i * 0.02:.2f}|>" for i in range(STAMPS))
SPECIALS = (
    "<|endoftext|>",
    "<|startoftranscript|>",
    "<|translate|>",
    "<|transcribe|>",
    "<|startoflm|>",
    "<|startofprev|>",
    "<|nospeech|>",
    "<|notimestamps|>",
)


def byte_alphabet() -> list[str]:
    """The 256 characters that stand for bytes in byte-level BPE, as GPT-2 orders them."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    extra = [b for b in range(256) if b not in plain]
    table = {b: chr(b) for b in plain} | {b: chr(256 + i) for i, b in enumerate(extra)}
    return [table[b] for b in range(256)]


def build_tokens() -> tuple[list[str], list[tuple[str, str]]]:
    """All tokens in the order of their ids, and the merges that make a word one token.

    The pause tokens come before the end-of-text token: ids from that on are left out of text and
    of the alignment by every user of Whisper, and the pauses have to take part in the alignment.
    A pause token names the time at which its word ends, so that the decoder knows where it is
    even when time stamps are left out, as they are for the alignment.
    """
    tokens = byte_alphabet()
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        made = "Ġ"
        for letter in word:
            if (made, letter) not in merges:
                merges.append((made, letter))
                tokens.append(made + letter)
            made += letter
    tokens += [*PAUSES, *SPECIALS]
    tokens += [f"<|{i * 0.02:.2f}|>" for i in range(STAMPS)]
    return tokens, merges


TOKENS, MERGES = build_tokens()
ID = {token: i for i, token in enumerate(TOKENS)}
WORD_IDS = [ID["Ġ" + word] for word in WORDS]
PAUSE0, EOT, SOT = ID[PAUSES[0]], ID["<|endoftext|>"], ID["<|startoftranscript|>"]
NO_SPEECH, NO_STAMPS, PREVIOUS = ID["<|nospeech|>"], ID["<|notimestamps|>"], ID["<|startofprev|>"]
STAMP0 = NO_STAMPS + 1


def whisper_config() -> WhisperConfig:
    """Configuration of the model (no dropout: the data never repeat)."""
    return WhisperConfig(
        vocab_size=len(TOKENS),
        d_model=WIDTH,
        encoder_layers=ENCODER_LAYERS,
        decoder_layers=DECODER_LAYERS,
        encoder_attention_heads=HEADS,
        decoder_attention_heads=HEADS,
        encoder_ffn_dim=4 * WIDTH,
        decoder_ffn_dim=4 * WIDTH,
        max_source_positions=POSITIONS,
        max_target_positions=MOST_TOKENS,
        num_mel_bins=80,
        pad_token_id=EOT,
        bos_token_id=EOT,
        eos_token_id=EOT,
        decoder_start_token_id=SOT,
        dropout=0.0,
    )


def _look(
    attention: nn.Module,
    shifts: tuple[int, ...],
    query_gain: float,
    basis: Tensor | None = None,
    copy: float = 0.0,
) -> None:
    """Start ``attention`` so that head h looks ``shifts[h]`` places after the queried place."""
    half, depth = WIDTH // 2, WIDTH // HEADS
    speeds = torch.exp(-math.log(10_000) / (half - 1) * torch.arange(half))
    turn = torch.eye(WIDTH) if basis is None else basis
    query, key = torch.zeros(WIDTH, WIDTH), torch.zeros(WIDTH, WIDTH)
    value, out = torch.zeros(WIDTH, WIDTH), torch.zeros(WIDTH, WIDTH)
    for head, shift in enumerate(shifts):
        # Every second or third of the 64 speeds, from 1 radian a place to one turn in 10 s.
        used = [int(i * 27 / (depth // 2)) for i in range(depth // 2)]
        for i, speed_index in enumerate(used):
            row, angle = head * depth + 2 * i, float(speeds[speed_index]) * shift
            sine, cosine = turn[speed_index], turn[half + speed_index]
            query[row], query[row + 1] = query_gain * sine, query_gain * cosine
            key[row] = query_gain * (math.cos(angle) * sine - math.sin(angle) * cosine)
            key[row + 1] = query_gain * (math.cos(angle) * cosine + math.sin(angle) * sine)
        for i in range(depth // 2):
            speed_index = 3 * i + head % 3
            row = head * depth + 2 * i
            value[row, speed_index], value[row + 1, half + speed_index] = 1.0, 1.0
            out[speed_index, row], out[half + speed_index, row + 1] = copy, copy
    with torch.no_grad():
        attention.q_proj.weight.normal_(0, 0.03).add_(query)
        attention.k_proj.weight.normal_(0, 0.03).add_(key)
        attention.v_proj.weight.normal_(0, 0.06)
        attention.out_proj.weight.normal_(0, 0.06)
        if copy:
            attention.v_proj.weight.add_(value)
            attention.out_proj.weight.add_(out)


class DigitWhisper(nn.Module):
    """The Whisper and the heads that only training uses."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.whisper = WhisperForConditionalGeneration(whisper_config())
        self.encoder = self.whisper.model.encoder
        self.decoder = self.whisper.model.decoder
        self.frame_head = nn.Linear(WIDTH, len(WORDS) + 1)
        self.ordinal_head = nn.Linear(WIDTH, 48)
        self.edge_head = nn.Linear(WIDTH, 2)  # a word begins, a word ends within two frames
        self._start()

    def _start(self) -> None:
        table = self.encoder.embed_positions.weight.detach()
        with torch.no_grad():  # sound has to count beside the positions, which are of size 0.7
            for conv, gain in ((self.encoder.conv1, 2.0), (self.encoder.conv2, 3.5)):
                conv.reset_parameters()
                conv.weight.mul_(gain)
        for part in (self.encoder.layers, self.decoder.layers):
            for layer in part:
                nn.init.normal_(layer.fc1.weight, 0, 0.08)
                nn.init.normal_(layer.fc2.weight, 0, 0.04)
        for i, layer in enumerate(self.encoder.layers):
            reach = (3, 6, 10, 16)[i]
            _look(layer.self_attn, (-2 * reach, -reach, reach, 2 * reach), 1.3)
        basis = torch.linalg.qr(torch.randn(WIDTH, WIDTH))[0]
        with torch.no_grad():
            half = WIDTH // 2
            stress = torch.linspace(1.6, 0.6, half).repeat(2)
            embed = self.decoder.embed_tokens.weight
            embed.normal_(0, 0.08)
            embed[STAMP0 : STAMP0 + POSITIONS] = 0.25 * stress * table
            last = POSITIONS * torch.exp(-math.log(10_000) / (half - 1) * torch.arange(half))
            embed[STAMP0 + POSITIONS] = 0.25 * stress * torch.cat([last.sin(), last.cos()])
            mark = 0.1 * torch.randn(WIDTH)  # what tells a pause from a time stamp
            embed[PAUSE0 : PAUSE0 + STAMPS] = embed[STAMP0 : STAMP0 + STAMPS] + mark
            self.decoder.embed_positions.weight.copy_(0.15 * table[:MOST_TOKENS] @ basis)
        for layer in self.decoder.layers:
            _look(layer.self_attn, (0, -1, -2, -3), 1.6, basis)
        for i, layer in enumerate(self.decoder.layers):
            _look(
                layer.encoder_attn,
                ((0, 5, 10, 18), (3, 6, -4, 14), (2, 8, -6, 25))[i],
                1.0,
                copy=0.5,
            )

    def encode(self, mel: Tensor, offset: int = 0) -> Tensor:
        """(B, T, width) of (B, 80, 2 T), the window's first frame standing at ``offset``."""
        x = F.gelu(self.encoder.conv1(mel))
        x = F.gelu(self.encoder.conv2(x)).transpose(1, 2)
        x = x + self.encoder.embed_positions.weight[offset : offset + x.shape[1]]
        for layer in self.encoder.layers:
            y = layer.self_attn_layer_norm(x)
            x = x + _attend(layer.self_attn, y, y)[0]
            x = x + layer.fc2(F.gelu(layer.fc1(layer.final_layer_norm(x))))
        return self.encoder.layer_norm(x)

    def decode(self, tokens: Tensor, encoded: Tensor, start: int = 0) -> tuple[Tensor, Tensor]:
        """Hidden states (B, L, width), cross-attention (B, 2, L, T) of the alignment heads."""
        x = self.decoder.embed_tokens(tokens)
        x = x + self.decoder.embed_positions.weight[start : start + tokens.shape[1]]
        weights = []
        for i, layer in enumerate(self.decoder.layers):
            y = layer.self_attn_layer_norm(x)
            x = x + _attend(layer.self_attn, y, y, causal=True)[0]
            heads = [h for at, h in ALIGNMENT if at == i]
            added, seen = _attend(
                layer.encoder_attn, layer.encoder_attn_layer_norm(x), encoded, heads=heads
            )
            x = x + added
            if seen is not None:
                weights.append(seen)
            x = x + layer.fc2(F.gelu(layer.fc1(layer.final_layer_norm(x))))
        return self.decoder.layer_norm(x), torch.cat(weights, 1)

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of all tokens; the projection is tied to the embedding."""
        return hidden @ self.decoder.embed_tokens.weight.T


def _attend(
    attention: nn.Module,
    x: Tensor,
    source: Tensor,
    causal: bool = False,
    heads: list[int] | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Multi-head attention with the weights of a ``WhisperAttention``; weights of ``heads``."""
    batch, length, _ = x.shape
    query, key, value = (
        t.view(batch, -1, HEADS, WIDTH // HEADS).transpose(1, 2)
        for t in (attention.q_proj(x), attention.k_proj(source), attention.v_proj(source))
    )
    made = F.scaled_dot_product_attention(query, key, value, is_causal=causal)
    seen = None
    if heads:
        scores = query[:, heads] @ key[:, heads].transpose(2, 3) / math.sqrt(WIDTH // HEADS)
        seen = scores.softmax(-1)
    return attention.out_proj(made.transpose(1, 2).reshape(batch, length, WIDTH)), seen
