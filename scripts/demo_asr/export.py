"""Write the trained model as a faster-whisper folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import ctranslate2
import torch
from model import (
    ALIGNMENT,
    EOT,
    ID,
    MERGES,
    PAUSES,
    SOT,
    SPECIALS,
    STAMPS,
    TOKENS,
    DigitWhisper,
)
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, PreTrainedTokenizerFast

PREPROCESSOR = {
    "chunk_length": 30,
    "feature_extractor_type": "WhisperFeatureExtractor",
    "feature_size": 80,
    "hop_length": 160,
    "n_fft": 400,
    "n_samples": 480000,
    "nb_max_frames": 3000,
    "padding_side": "right",
    "padding_value": 0.0,
    "processor_class": "WhisperProcessor",
    "return_attention_mask": False,
    "sampling_rate": 16000,
}

# The model's own defaults, in the names of audio_batch.options.DecodingOptions.
DECODING = {
    "vad_onset": 0.25,
    "vad_min_silence_ms": 160,
    "vad_pad_ms": 400,
    "chunk_length_s": 8,
    "without_timestamps": False,
    "beam_size": 1,
    "temperature": 0.0,
    "condition_on_previous_text": False,
    "compression_ratio_threshold": None,
    "logprob_threshold": None,
    "no_speech_threshold": 0.6,
    "join_gap_s": 0.6,
}


def build_tokenizer() -> Tokenizer:
    """Byte-level BPE in which each word of the model is one token."""
    split = TOKENS.index(PAUSES[0])
    tokenizer = Tokenizer(
        models.BPE(vocab={token: i for i, token in enumerate(TOKENS[:split])}, merges=MERGES)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    added = [AddedToken(t, special=True, normalized=False) for t in (*PAUSES, *SPECIALS)]
    tokenizer.add_special_tokens(added)
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in TOKENS[-STAMPS:]])
    assert all(tokenizer.token_to_id(t) == i for t, i in ID.items())
    return tokenizer


def write_folder(model: DigitWhisper, out: Path, work: Path) -> None:
    """Convert ``model`` to CTranslate2 int8 and put its files in ``out`` (README aside)."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    hf_folder, made = work / "hf", work / "ct2"
    whisper = model.whisper.eval()
    # A configuration of its own: one derived from the model's is derived anew when it is read,
    # and then lacks the alignment heads.
    generation = GenerationConfig(
        bos_token_id=EOT, eos_token_id=EOT, pad_token_id=EOT, decoder_start_token_id=SOT
    )
    generation.alignment_heads = [list(pair) for pair in ALIGNMENT]
    generation.suppress_tokens = []
    generation.begin_suppress_tokens = [ID["Ġ"], EOT]
    generation.lang_to_id = {}
    whisper.generation_config = generation
    whisper.save_pretrained(hf_folder, safe_serialization=True)
    tokenizer = build_tokenizer()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>").save_pretrained(
        hf_folder
    )
    with torch.no_grad():
        converter = ctranslate2.converters.TransformersConverter(str(hf_folder))
        converter.convert(str(made), quantization="int8", force=True)
    tokenizer.save(str(made / "tokenizer.json"))
    for name, content in (("preprocessor_config.json", PREPROCESSOR), ("decoding.json", DECODING)):
        (made / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    out.mkdir(parents=True, exist_ok=True)
    for path in made.iterdir():
        # A rename is atomic: who loads the folder meanwhile sees whole files.
        shutil.copy(path, out / (path.name + ".new"))
        (out / (path.name + ".new")).replace(out / path.name)
