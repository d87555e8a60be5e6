"""The demonstration aligner: a tiny Wav2Vec2ForCTC over letters, and its folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from letters import BLANK, VOCABULARY
from safetensors.torch import load_file, save_file
from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

PREPROCESSOR = {
    "do_normalize": False,
    "feature_extractor_type": "Wav2Vec2FeatureExtractor",
    "feature_size": 1,
    "padding_side": "right",
    "padding_value": 0.0,
    "processor_class": "Wav2Vec2Processor",
    "return_attention_mask": False,
    "sampling_rate": 16000,
}
TOKENIZER = {
    "bos_token": "<s>",
    "clean_up_tokenization_spaces": False,
    "do_lower_case": True,
    "eos_token": "</s>",
    "pad_token": "<pad>",
    "processor_class": "Wav2Vec2Processor",
    "replace_word_delimiter_char": " ",
    "tokenizer_class": "Wav2Vec2CTCTokenizer",
    "unk_token": "<unk>",
    "word_delimiter_token": "|",
}


def new_model(seed: int) -> Wav2Vec2ForCTC:
    """An untrained aligner: wav2vec 2.0's layers and its 20 ms frames, at a fraction of the width.

    The group norm of its first layer makes it indifferent to loudness, which matters because
    whisperX hands waveforms over as they are.
    """
    torch.manual_seed(seed)
    config = Wav2Vec2Config(
        vocab_size=len(VOCABULARY),
        hidden_size=144,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=432,
        conv_dim=(48, 64, 96, 96, 128, 128, 128),
        num_conv_pos_embeddings=25,
        num_conv_pos_embedding_groups=8,
        feat_extract_norm="group",
        hidden_dropout=0.0,
        activation_dropout=0.0,
        attention_dropout=0.0,
        feat_proj_dropout=0.0,
        final_dropout=0.0,
        layerdrop=0.0,
        apply_spec_augment=False,
        pad_token_id=BLANK,
        bos_token_id=1,
        eos_token_id=2,
    )
    return Wav2Vec2ForCTC(config)


def write_folder(model: Wav2Vec2ForCTC, out: Path, work: Path) -> None:
    """Put the model's files in ``out`` (README aside); the weights in half precision.

    `config.json` names float32: whoever loads the folder computes in that, on any device.
    """
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    model.save_pretrained(work, safe_serialization=True)
    weights = {
        name: value.half().contiguous()
        for name, value in load_file(work / "model.safetensors").items()
    }
    save_file(weights, work / "model.safetensors", metadata={"format": "pt"})
    vocabulary = {symbol: code for code, symbol in enumerate(VOCABULARY)}
    special = {k: v for k, v in TOKENIZER.items() if k in ("bos_token", "eos_token")}
    special |= {"pad_token": "<pad>", "unk_token": "<unk>"}
    for name, content in (
        ("preprocessor_config.json", PREPROCESSOR),
        ("vocab.json", vocabulary),
        ("tokenizer_config.json", TOKENIZER),
        ("special_tokens_map.json", special),
    ):
        (work / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    out.mkdir(parents=True, exist_ok=True)
    for path in work.iterdir():
        # A rename is atomic: who loads the folder meanwhile sees whole files.
        shutil.copyfile(path, out / (path.name + ".new"))
        (out / (path.name + ".new")).replace(out / path.name)
